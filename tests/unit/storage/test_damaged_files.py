"""Every reader of a file that a user may hold: damaged copies give a result or one line that names the file.

The same targets and edits are fuzzed for longer by `python -m benchmarks.fuzz`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz.coverage import LineCoverage, constants_of
from benchmarks.fuzz.mutators import Mutator
from benchmarks.fuzz.targets import PLANTED, TARGETS, planted_reader
from benchmarks.fuzz.trial import Form, Target, Trial, UnclearError, functions
from petl_bench.errors import DataError

SLOW = ("record", "config")
settings.register_profile("damage", derandomize=True, deadline=None, database=None, max_examples=60)


Trials = Callable[[Target], Trial]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """A target with its files, written when it is first asked for."""

    @functools.cache
    def prepared(target: Target) -> Trial:
        return Trial(target, tmp_path_factory.mktemp(target.name))

    return prepared


@pytest.mark.parametrize("target", [*TARGETS, PLANTED], ids=lambda target: target.name)
def test_undamaged_files_are_read(target: Target, trial: Trials) -> None:
    for form in trial(target).forms:
        form.read(trial(target).folder)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files_give_a_result_or_one_line(target: Target, trial: Trials) -> None:
    constants = constants_of(functions(*target.readers()))
    tried = trial(target)

    @settings(settings.get_profile("damage"), max_examples=20 if target.name in SLOW else 60)
    @given(rng=st.randoms(use_true_random=False), place=st.integers(0, len(tried.forms) - 1))
    def damage(rng: Random, place: int) -> None:
        form = tried.forms[place]
        mutator = Mutator(rng, constants, form.words)
        tried.run(bytes([place]) + mutator.damaged(tried.valid[form.file], form.kind))

    damage()


@pytest.mark.parametrize("kind", Mutator(Random()).kinds)
def test_some_damaged_files_are_read(kind: str, trial: Trials) -> None:
    """Else the edits would try the parser only."""
    target, form = next((target, form) for target in TARGETS for form in trial(target).forms if form.kind == kind)
    content = trial(target).valid[form.file]
    damaged = {Mutator(Random(seed)).damaged(content, kind) for seed in range(100)}
    assert len(damaged) > 80
    assert sum(is_read(trial(target), form, other) for other in damaged) > 1


def is_read(tried: Trial, form: Form, content: bytes) -> bool:
    path = tried.folder / form.file
    path.write_bytes(content)
    try:
        form.read(tried.folder)
    except tried.target.refusal:
        return False
    finally:
        path.write_bytes(tried.valid[form.file])
    return True


def test_what_counts_as_broken(tmp_path: Path) -> None:
    def read(folder: Path) -> None:
        content = (folder / "file.txt").read_bytes()
        if content == b"crash":
            raise KeyError("x")
        if content == b"nameless":
            raise DataError("something is wrong")
        if content == b"long":
            raise DataError("file.txt: " + "x" * 2000)
        if content == b"refused":
            raise DataError("file.txt: no")

    def prepare(folder: Path) -> list[Form]:
        (folder / "file.txt").write_bytes(b"valid")
        return [Form("file.txt", "lines", read)]

    tried = Trial(Target("own", prepare, lambda: (read,)), tmp_path)
    for data, error in ((b"crash", KeyError), (b"nameless", UnclearError), (b"long", UnclearError)):
        with pytest.raises(error):
            tried.run(b"\0" + data)
    tried.run(b"\0refused")
    tried.run(b"\0valid")
    tried.run(b"")
    assert (tmp_path / "file.txt").read_bytes() == b"valid"


def test_the_planted_fault_breaks_its_target(trial: Trials) -> None:
    with pytest.raises(KeyError):
        trial(PLANTED).run(b"\0video,caption,start,end\nx,-a,9,3\n")
    trial(PLANTED).run(b"\0video,caption,start,end\nx,a,9,3\n")


def test_lines_that_are_reached(trial: Trials) -> None:
    coverage = LineCoverage([planted_reader])
    with coverage:
        trial(PLANTED).run(b"\0video,caption\nx,a\n")
    assert len(coverage.lines) == 7
    assert 0 < len(coverage.reached) < 7
    assert {"start", "end", "-", "fps"} <= set(constants_of([planted_reader]))


def test_lines_after_an_input_that_nests_too_deeply() -> None:
    def nested(depth: int) -> int:
        return nested(depth - 1) if depth else 0

    def after() -> int:
        return 1

    coverage = LineCoverage([nested, after])  # pyright: ignore[reportArgumentType]
    with coverage, pytest.raises(RecursionError):
        nested(100_000)
    with coverage:
        after()
    assert coverage.reached == coverage.lines
