"""Records that say the same twice, and records that contradict each other."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from petl_bench.report.collect import Collection, Rejected, Run, comparability_key, metrics, second_figures
from petl_bench.report.groups import grouped
from petl_bench.report.kept import Kept
from petl_bench.runs.record import FILE_NAME, TEST_NAME, ranks_beside, read_result, schema_sha256
from petl_bench.storage.files import FileError

#: what runs of one configuration have in common, by name in the record's `model`
_OF_CONFIGURATION = ("method", "backbone", "trainable_params", "total_params")


def settled(found: Collection, cache: Path | None = None) -> Collection:
    """Keeps one of several equal runs, and none of those that contradict each other.

    Of equal runs a training stays rather than a later test of it, and one whose ranks are there rather than a record
    that travelled alone. What stays has the second figures of all that say the same, and those of a later test of its
    adapter, which lies beside it as `test.json`.

    Args:
        found: whose records were verified: a forged one must not take an honest one with it.
        cache: folder of the report's cache, which tells tests that have not changed; None: nothing is kept.
    """
    tests = Kept(cache, "tests", schema_sha256())
    runs, rejected = _of_one_kind(found.runs)
    kept: list[Run] = []
    for (_, config, seed), group in grouped(runs, _identity).items():
        records = [run.record for run in group]
        if differ := _differences(records):
            reason = f"{len(group)} runs of configuration {config[:8]} with seed {seed} have different"
            rejected += [Rejected(run.path, f"{reason} {', '.join(differ)}") for run in group]
            continue
        first, *others = sorted(group, key=_preference)
        whole, left_out = _with_tests(functools.reduce(_joined, records, first.record), [first, *others], tests)
        kept.append(first._replace(record=whole))
        rejected += left_out
        rejected += [Rejected(run.path, f"says the same as {first.path.as_posix()}, which is shown") for run in others]
    tests.save()
    return Collection(sorted(kept, key=lambda run: run.path), sorted([*found.rejected, *rejected]))


def _of_one_kind(runs: list[Run]) -> tuple[list[Run], list[Rejected]]:
    """The runs whose configuration is of one method on one backbone, and the others."""
    kept: list[Run] = []
    rejected: list[Rejected] = []
    for config, group in grouped(runs, lambda run: run.record["id"]["config_hash"]).items():
        models = [run.record["model"] for run in group]
        differ = [name for name in _OF_CONFIGURATION if len({model[name] for model in models}) > 1]
        if differ:
            reason = f"{len(group)} runs of configuration {config[:8]} have different {', '.join(differ)}"
            rejected += [Rejected(run.path, reason) for run in group]
        else:
            kept += group
    return kept, rejected


def _identity(run: Run) -> tuple[Any, str, int]:
    identity = run.record["id"]
    return comparability_key(run.record), identity["config_hash"], identity["seed"]


def _preference(run: Run) -> tuple[bool, bool, Any]:
    return run.record["kind"] != "fit", not ranks_beside(run.path).is_file(), run.path


def _differences(records: Sequence[dict[str, Any]]) -> list[str]:
    """What records of one identity do not agree on: metrics, or titles of second figures that several have."""
    if not _same(map(metrics, records)):
        return ["metrics"]
    titles = {title for record in records for title in second_figures(record)}
    said = {title: [found[title] for found in map(second_figures, records) if title in found] for title in titles}
    return sorted(title for title, values in said.items() if not _same(values))


def _same(values: Iterable[Any]) -> bool:
    return len({json.dumps(value, sort_keys=True) for value in values}) <= 1


def _joined(record: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A record with the second figures of another one, too."""
    own = second_figures(record)
    found = second_figures(other) | own
    if found.keys() == own.keys():
        return record
    return record | {"eval": record["eval"] | {"second_figures": [found[title] for title in sorted(found)]}}


def _with_tests(record: dict[str, Any], runs: Sequence[Run], tests: Kept) -> tuple[dict[str, Any], list[Rejected]]:
    """A record with the second figures of later tests, which lie beside its runs; and the tests that do not fit it."""
    left_out: list[Rejected] = []
    for path in (run.path.with_name(TEST_NAME) for run in runs if run.path.name == FILE_NAME):
        test = _test(path, tests)
        if test is None:
            continue
        if reason := _objection(test, record):
            left_out.append(Rejected(path, f"its second figures are left out: {reason}"))
        else:
            record = _joined(record, test)
    return record, left_out


def _test(path: Path, tests: Kept) -> dict[str, Any] | None:
    """The record of a test that has second figures; it is no part of a report but for these."""
    if not path.is_file():
        return None
    try:
        test = read_result(path, tests)
    except FileError:
        return None
    return test if second_figures(test) else None


def _objection(test: dict[str, Any], record: dict[str, Any]) -> str | None:
    """Why the second figures of a test have no place beside the figures of a run; None if they have one."""
    if test["status"] != "complete":
        return f"status is {test['status']!r}, not 'complete'"
    adapter = record["integrity"]["adapter_sha256"]
    if adapter is None or test["integrity"]["adapter_sha256"] != adapter:
        return f"they are not of the adapter of {FILE_NAME}"
    if test["env"]["dirty"] and not record["env"]["dirty"]:
        return "measured with uncommitted changes, unlike the run"
    if comparability_key(test) != comparability_key(record):
        return f"data or settings are not those of {FILE_NAME}"
    differ = _differences([record, test])
    return f"{', '.join(differ)} differ from those of {FILE_NAME}" if differ else None
