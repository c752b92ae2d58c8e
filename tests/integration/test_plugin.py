"""README's "Add a method", in a file of its own, runs through `fit` and the battery; nothing else is touched."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract import battery
from tests.integration.fixture_run import only_record, run
from tests.shared import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

CONFIG = """
seed_everything: 0
trainer: trainer/fixture.yaml
data: data/fixture.yaml
model:
  class_path: scratch_gain.Gain
  init_args:
    backbone: backbone/clip_tiny.yaml
    task: task/retrieval.yaml
    optimizer:
      class_path: petl_bench.optimizers.AdamWCosine
      init_args:
        lr: 0.01
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (example,) = re.findall(r"^## Add a method\n.*?^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "scratch_gain.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "msrvtt_gain.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    yield path
    sys.modules.pop("scratch_gain", None)


def test_a_scratch_method_runs(config: Path, dataset: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert run("fit", str(config), dataset, runs) == 2, "class paths from outside need --plugins"
    assert run("fit", str(config), dataset, runs, "--plugins=scratch_gain") == 0
    _, record = only_record(runs)
    assert record["model"]["method"] == "Gain"
    assert record["model"]["trainable_params"] == 4 * 96 + 4 * 64


def test_a_scratch_method_passes_the_battery(config: Path, tmp_path: Path) -> None:
    build = battery.builder(config)
    battery.check_identity_at_init(build)
    battery.check_gradients(build)
    battery.check_reload(build, tmp_path)
    battery.check_refusals(build, battery.builder(config, init_seed=1))
    battery.check_padding(build)
    battery.check_memory_savers(build)
