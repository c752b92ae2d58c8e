"""Figures for the Hub: `model-index` in the card's metadata, and `.eval_results/` for a benchmark that the Hub knows.

`.eval_results/*.yaml` is read for datasets of the Hub that are registered as benchmarks, by the id of one of their
tasks (https://huggingface.co/docs/hub/eval-results). Which dataset that is, only the user knows. `model-index` takes
any name of a dataset.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import yaml

from petl_bench.errors import UsageError
from petl_bench.hub.names import require_repository
from petl_bench.metrics.table import kind_of
from petl_bench.report.cells import one_line, state
from petl_bench.report.model import Row, Table
from petl_bench.storage.untrusted import shown

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

EVALUATION_NAME = ".eval_results/petl_bench.yaml"
_TASK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_DECIMALS = 4


class Benchmark(NamedTuple):
    """A benchmark of the Hub: `owner/dataset:task`."""

    dataset: str
    task: str


def benchmark_named(text: str) -> Benchmark:
    """The benchmark that is meant.

    Raises:
        UsageError: that is no name of one.
    """
    dataset, colon, task = text.partition(":")
    if not colon or not _TASK.fullmatch(task) or "/" not in dataset:
        raise UsageError(
            f"--benchmark {shown(text)}: give owner/dataset:task, as the dataset's eval.yaml names the task"
        )
    require_repository(dataset)
    return Benchmark(dataset, task)


def counts_for_the_hub(table: Table, row: Row) -> bool:
    """Whether figures are of the whole of a protocol: those of generated or missing clips stand in our table alone."""
    return not table.fixture and not row.partial


def task_of(row: Row) -> str:
    """What is measured, in the words of the Hub's tags."""
    record = row.runs[0].record
    preprocess = record["protocol"]["preprocess"]
    of_images = preprocess.get("frames") == 1 and preprocess.get("frame_rate") is None
    if kind_of(record["eval"]) == "ranks":
        return "image-text-retrieval" if of_images else "video-text-retrieval"
    return "visual-question-answering" if of_images else "video-question-answering"


def card_results(table: Table, row: Row) -> list[EvalResult]:
    """The figures of a run for `model-index`; none of what is no result of a benchmark."""
    from huggingface_hub import EvalResult

    if not counts_for_the_hub(table, row):
        return []
    return [
        EvalResult(
            task_type=task_of(row),
            dataset_type=one_line(table.dataset),
            dataset_name=one_line(f"{table.dataset}, {table.protocol}"),
            dataset_config=one_line(table.protocol),
            dataset_split="test",
            metric_type=re.sub(r"[^a-z0-9]+", "_", column.title.lower()).strip("_"),
            metric_name=one_line(column.title),
            metric_value=round(value.mean, _DECIMALS),
        )
        for column in table.quality
        if (value := row.values.get(column.title)) is not None
    ]


def evaluation_file(table: Table, row: Row, benchmark: Benchmark, record_url: str) -> str:
    """The main figure of a run in `.eval_results/`.

    Args:
        table: with the run alone.
        row: the run.
        benchmark: that it counts for.
        record_url: where the record can be read.

    Raises:
        UsageError: the figures are not those of a whole protocol.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    value = row.values.get(table.main)
    if value is None or not counts_for_the_hub(table, row):
        raise UsageError(
            f"--benchmark {benchmark.dataset}: figures of generated data, or of a part of it, count for none"
        )
    entry = EvalResultEntry(
        dataset_id=benchmark.dataset,
        task_id=benchmark.task,
        value=round(value.mean, _DECIMALS),
        source_url=record_url,
        source_name="record of petl_bench",
        notes=one_line(f"{table.main}, protocol {table.protocol}, {state(row)}"),
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
