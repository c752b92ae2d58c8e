"""Whether the figures of a record are those that its ranks give."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from petl_bench.report.collect import Collection, Rejected, Run, metrics
from petl_bench.report.configurations import ERRORS, IN_RSUM, RECALL_AT
from petl_bench.report.kept import Kept
from petl_bench.report.queries import Queries, read_queries
from petl_bench.runs.record import leaves, ranks_beside
from petl_bench.storage.files import FileError


def verified(found: Collection, cache: Path | None) -> Collection:
    """The runs whose figures follow from their ranks, and all that are rejected.

    A run whose ranks are not there stays: a record may travel alone.

    Args:
        found: by `collect`.
        cache: folder of the report's cache, which remembers those that do; None: nothing is kept.
    """
    kept = Kept(cache, "verified", "1")
    runs: list[Run] = []
    rejected = list(found.rejected)
    for run in found.runs:
        said = json.dumps([run.record["integrity"]["ranks_sha256"], metrics(run.record)], sort_keys=True)
        key = hashlib.sha256(said.encode()).hexdigest()
        if ranks_beside(run.path).is_file() and kept.get(key) is not True:
            if reason := _objection(run):
                rejected.append(Rejected(run.path, reason))
                continue
            kept[key] = True
        runs.append(run)
    kept.save()
    return Collection(runs, sorted(rejected))


def _objection(run: Run) -> str | None:
    ranks = ranks_beside(run.path).name
    try:
        queries = read_queries(run)
    except FileError as error:
        return f"{ranks}: {error.reason}"
    level = "per_group" if "per_group" in run.record["eval"] else "per_type"
    said = {name: value for name, value in leaves(metrics(run.record)) if isinstance(value, int | float)}
    found = figures_of(queries, level) | _mean_of_types(run.record["eval"].get("per_type"))
    if unfounded := next((name for name in said if _follows(name, level) and name not in found), None):
        return f"{unfounded} is {said[unfounded]:g}, of which {ranks} says nothing"
    for name, value in found.items():
        if name in said and not math.isclose(said[name], value, rel_tol=1e-6, abs_tol=1e-6):
            return f"{name} is {said[name]:g}, but {ranks} gives {value:g}: one of them is forged"
    return None


def figures_of(queries: Mapping[str, Queries], level: str = "per_type") -> dict[str, float]:
    """Figures of a record's `eval`, by dotted name.

    Args:
        queries: by direction.
        level: what the record calls the types that questions say: `per_group` where those are of groups.
    """
    found: dict[str, float] = {}
    for way, answered in queries.items():
        if answered.errors is not None:
            found |= dict(zip(ERRORS, answered.errors.mean(axis=0).tolist(), strict=True))
            continue
        if answered.ranks is None:
            found |= _accuracies(answered, level)
            continue
        found |= {f"{way}.R{k}": 100 * float(np.mean(answered.ranks <= k)) for k in RECALL_AT}
        found |= {f"{way}.MdR": float(np.median(answered.ranks)), f"{way}.MnR": float(np.mean(answered.ranks))}
    if {"t2v", "v2t"} <= queries.keys():
        found["rsum"] = sum(found[f"{way}.R{k}"] for way in ("t2v", "v2t") for k in IN_RSUM)
    return found


def _mean_of_types(types: Mapping[str, float] | None) -> dict[str, float]:
    return {"mean_of_types": float(np.mean([*types.values()]))} if types else {}


def _follows(name: str, level: str) -> bool:
    """Whether a name in the record is that of a figure which ranks must give."""
    return name.startswith(f"{level}.") or re.fullmatch(r"(t2v|v2t|v2t_captions)\.(R\d+|MdR|MnR)", name) is not None


def _accuracies(answered: Queries, level: str) -> dict[str, float]:
    assert answered.scores is not None, "queries have ranks or scores"
    found = {"accuracy": 100 * float(answered.scores.mean())}
    if answered.types is not None:
        types = np.array(answered.types)
        found |= {f"{level}.{name}": 100 * float(answered.scores[types == name].mean()) for name in np.unique(types)}
    return found
