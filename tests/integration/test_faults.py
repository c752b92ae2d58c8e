"""Some of the trials of `make faults`, on every change."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from benchmarks.faults import frames, lost_processes, storage, surroundings
from benchmarks.faults.trials import HELD, Bench, Trial

QUICK = (
    "folder removed during the run",
    "number of processes changed",
    "two at once",
    "record half-written",
    "loss not finite in rank 1 of 2",
    "rank 1 of 2: kill",
    "features that are all the same",
    "V1c variable rate in Matroska",
    "V2a mirrored",
)
MODULES = (storage, lost_processes, surroundings, frames)
TRIALS = [trial for trial in chain.from_iterable(module.trials() for module in MODULES) if trial.name in QUICK]


def test_all_are_there() -> None:
    assert len(TRIALS) == len(QUICK)


@pytest.fixture(scope="module")
def bench(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"), dataset)


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_it_holds(trial: Trial, bench: Bench) -> None:
    assert trial.run(bench) == HELD
