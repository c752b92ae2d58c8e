"""Records that say the same twice, and records that contradict each other."""

from __future__ import annotations

import json
from typing import Any

from petl_bench.report.collect import Collection, Rejected, Run, comparability_key, metrics
from petl_bench.report.groups import grouped
from petl_bench.report.queries import ranks_beside

#: what runs of one configuration have in common, by name in the record's `model`
_OF_CONFIGURATION = ("method", "backbone", "trainable_params", "total_params")


def settled(found: Collection) -> Collection:
    """Keeps one of several equal runs, and none of those that contradict each other.

    Of equal runs a training stays rather than a later test of it, and one whose ranks are there rather than a record
    that travelled alone.

    Args:
        found: whose records were verified: a forged one must not take an honest one with it.
    """
    runs, rejected = _of_one_kind(found.runs)
    kept: list[Run] = []
    for (_, config, seed), group in grouped(runs, _identity).items():
        if len({json.dumps(metrics(run.record), sort_keys=True) for run in group}) > 1:
            reason = f"{len(group)} runs of configuration {config[:8]} with seed {seed} have different metrics"
            rejected += [Rejected(run.path, reason) for run in group]
            continue
        first, *others = sorted(group, key=_preference)
        kept.append(first)
        rejected += [Rejected(run.path, f"says the same as {first.path.as_posix()}, which is shown") for run in others]
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
