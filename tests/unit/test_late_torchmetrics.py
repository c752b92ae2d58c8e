"""Lightning comes without all metrics of torchmetrics; whoever asks for one has them all."""

from __future__ import annotations

import subprocess
import sys

LATE = """
import sys, threading
import petl_bench
import pytorch_lightning
from pytorch_lightning import LightningModule
heavy = {"torchmetrics.functional", "torchmetrics.classification", "scipy", "transformers"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)

import torchmetrics
from torchmetrics import Metric, MetricCollection
from torchmetrics.aggregation import MeanMetric
assert (Metric, MetricCollection) == (torchmetrics.metric.Metric, torchmetrics.collections.MetricCollection)
assert torchmetrics.__version__ and issubclass(MeanMetric, Metric)
assert "torchmetrics.classification" not in sys.modules

found = []
threads = [threading.Thread(target=lambda: found.append(torchmetrics.Accuracy)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert found == [torchmetrics.classification.Accuracy] * 4
assert torchmetrics.MeanMetric is MeanMetric and torchmetrics.Metric is Metric
assert not hasattr(torchmetrics, "NoSuchMetric")
assert "__getattr__" not in vars(torchmetrics)
assert type(torchmetrics.__spec__.loader).__name__ == "SourceFileLoader" == type(torchmetrics.__loader__).__name__
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("petl_bench")]
"""

PARTS = """
import sys
import petl_bench
from torchmetrics.functional import pairwise_cosine_similarity
from torchmetrics.classification import BinaryAccuracy
import torchmetrics.text
assert issubclass(BinaryAccuracy, torchmetrics.Metric)
assert torchmetrics.functional.pairwise_cosine_similarity is pairwise_cosine_similarity
assert torchmetrics.Accuracy is torchmetrics.classification.Accuracy
"""

BROKEN = """
import sys
import petl_bench
sys.modules["torchmetrics.functional"] = None
import torchmetrics
for _ in range(2):
    try:
        torchmetrics.Accuracy
    except ImportError as error:
        assert "functional" in str(error), error
    else:
        raise AssertionError("it was imported")
"""

THERE = """
import sys, types
sys.modules["torchmetrics"] = types.ModuleType("torchmetrics")
before = list(sys.meta_path)
import petl_bench
assert sys.meta_path == before
"""


def test_metrics_are_imported_when_one_is_asked_for() -> None:
    run(LATE)


def test_parts_can_be_imported_before_the_whole() -> None:
    run(PARTS)


def test_an_import_that_fails_is_told_each_time() -> None:
    run(BROKEN)


def test_what_is_there_stays() -> None:
    run(THERE)


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
