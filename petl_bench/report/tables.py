"""Comparable runs, one table each: seeds aggregated, rows ordered.

Only runs with the same comparability key share a table.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable

from petl_bench.report.cells import MISSING
from petl_bench.report.collect import Key, Run, comparability_key
from petl_bench.report.columns import MACHINE_SOURCES, MODEL_SOURCES, Source, quality_sources, second_sources
from petl_bench.report.groups import grouped
from petl_bench.report.marks import all_hardware, cuts_of, hardware_of, is_partial, marks_of, training_of
from petl_bench.report.model import Column, Row, Table, Value
from petl_bench.report.notes import Dataset, datasets_of, notes_of
from petl_bench.report.reproducing import command_of

FIXTURE_STAMP = "FIXTURE - not benchmark results"

PINNED_METHODS = {"full": 0, "fullfinetuning": 0, "zeroshot": 1, "linear": 2, "linearprobe": 2}
"""Reference methods and their order at the top; names are compared without case, `-`, `_` and spaces."""


def build_tables(runs: Iterable[Run]) -> list[Table]:
    """Groups runs by comparability key; sorted by origin (measured first), dataset and protocol."""
    groups = grouped(runs, lambda run: comparability_key(run.record))
    keys = sorted(groups, key=_table_order)
    datasets = datasets_of(keys)
    return [_table(key, groups[key], datasets[dict(key)["protocol.dataset"]]) for key in keys]


def summarise(values: Iterable[float | None]) -> Value | None:
    """The values that are known, aggregated; None if none is."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    return Value(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def full_finetuning(table: Table) -> Row | None:
    """The row that others are held against: of full fine-tuning the preferred one, where the table has any."""
    return preferred([row for row in table.rows if pin_of(row.method) == 0])


def preferred(rows: Iterable[Row]) -> Row | None:
    """Which of several settings of a method stands for it; None if no test was whole.

    That with most seeds, then the packaged recipe, then the first by configuration: never by its figures, which are of
    the test.
    """
    return min(
        (row for row in rows if not row.partial),
        key=lambda row: (-len(row.runs), not _is_packaged(row), row.config_hash),
        default=None,
    )


def _is_packaged(row: Row) -> bool:
    """Whether it was trained by a packaged configuration that was named, whole."""
    records = [run.record for run in row.runs]
    return all((training_of(record) or {}).get("recipe") and not cuts_of(record) for record in records)


def _table(key: Key, runs: list[Run], others: Dataset) -> Table:
    quality = quality_sources(runs)
    sources = [*quality, *second_sources(runs), *MODEL_SOURCES, *MACHINE_SOURCES]
    main = quality[0].column
    fields = dict(key)
    fixture = fields["origin"] == "fixture"
    dataset, protocol = fields["protocol.dataset"], fields["protocol.id"]
    return Table(
        id=_id(key),
        title=f"{FIXTURE_STAMP}: {dataset}, {protocol}" if fixture else f"{dataset}, {protocol}",
        dataset=dataset,
        protocol=protocol,
        fixture=fixture,
        notes=notes_of(key, runs, others),
        columns=[source.column for source in sources],
        rows=sorted(_rows(runs, sources), key=lambda row: _row_order(row, main)),
        key=key,
        main=main.title,
    )


def _id(key: Key) -> str:
    """A name for files and links: what it is about, and the beginning of a digest of the whole key."""
    fields = dict(key)
    about = f"{fields['protocol.dataset']}-{fields['protocol.id']}"
    readable = re.sub("[^a-z0-9]+", "-", about.lower()).strip("-")[:60]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return f"{readable}-{digest[:12]}".strip("-")


def _rows(runs: list[Run], sources: list[Source]) -> list[Row]:
    groups = grouped(runs, lambda run: run.record["id"]["config_hash"])
    most = max(len(group) for group in groups.values())
    hardware = all_hardware(runs)
    names = _names(groups)
    return [_row(names[config], group, sources, most, hardware) for config, group in groups.items()]


def _names(groups: dict[str, list[Run]]) -> dict[str, str]:
    """By configuration: the method, and the beginning of the hash where two would be called the same."""
    methods = {config: group[0].record["model"]["method"] for config, group in groups.items()}
    called = {config: (methods[config], group[0].record["model"]["backbone"]) for config, group in groups.items()}
    times = Counter(called.values())
    digits = next(number for number in range(8, 65) if len({config[:number] for config in groups}) == len(groups))
    return {
        config: f"{name} ({config[:digits]})" if times[called[config]] > 1 else name for config, name in methods.items()
    }


def _row(name: str, runs: list[Run], sources: list[Source], most: int, hardware: list[str]) -> Row:
    runs = sorted(runs, key=lambda run: (run.record["id"]["seed"], run.path))
    records = [run.record for run in runs]
    # A mean over different machines is the cost of none of them.
    machines = hardware_of(records)
    hidden = MACHINE_SOURCES if len(machines) > 1 else []
    commits = sorted({record["env"]["commit"][:8] for record in records if record["env"]["commit"]})
    model = records[0]["model"]
    return Row(
        name=name,
        method=model["method"],
        backbone=model["backbone"],
        config_hash=records[0]["id"]["config_hash"],
        runs=runs,
        values={
            source.column.title: None if source in hidden else summarise(map(source.read, records))
            for source in sources
        },
        marks=marks_of(records, most, hardware),
        commit=", ".join(commits) or MISSING,
        command=command_of(runs),
        hardware=machines,
        partial=any(map(is_partial, records)),
    )


def _row_order(row: Row, main: Column) -> tuple[int, float, str, str]:
    """References first, then the best."""
    value = row.values[main.title]
    up = -1 if main.higher_is_better else 1
    return pin_of(row.method), up * value.mean if value else 0.0, row.method, row.config_hash


def pin_of(method: str) -> int:
    """Place of a reference method before others; the same for all others."""
    plain = "".join(character for character in method.lower() if character.isalnum())
    return PINNED_METHODS.get(plain, len(PINNED_METHODS))


def _table_order(key: Key) -> tuple[bool, str]:
    fields = dict(key)
    return fields.pop("origin") == "fixture", json.dumps(list(fields.items()))
