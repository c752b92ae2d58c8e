"""Many runs with one command: what failed stops no other, what is missing is all that is run again."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from benchmarks.children import end_with
from benchmarks.faults.sweeping import figures_of
from petl_bench.commands import sweep
from petl_bench.fixture import write_fixture
from petl_bench.main import main
from petl_bench.method import Method
from petl_bench.runs.folder import locked
from petl_bench.sweep import jobs
from petl_bench.sweep.grid import Point
from petl_bench.sweep.survey import survey
from tests.integration.fixture_run import TINY, tiny_backbone
from tests.stops import trap

CONFIG = "fixture_linear"
MORE = (
    "--trainer.max_epochs=2",
    "--save_every_n_steps=1",
    "--data.init_args.frames=3",
    "--data.init_args.batch_size=4",
)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options of every run."""
    folder = tmp_path_factory.mktemp("data") / "fixture"
    write_fixture(folder, train_videos=8, test_videos=4, captions_per_video=2)
    backbone = f"--model.init_args.backbone={tiny_backbone(CONFIG)}"
    return (backbone, *TINY, f"--data.init_args.root={folder}", *MORE)


@pytest.fixture(scope="module")
def by_hand(given: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the same runs without a sweep; what they import is there in forks then."""
    folder = tmp_path_factory.mktemp("by_hand")
    for seed in (0, 1):
        own = (f"--config={CONFIG}", f"--seed_everything={seed}", f"--runs_dir={folder / 'runs'}")
        assert main(["fit", *own, *given]) == 0
    assert main(["report", str(folder / "runs"), f"--output={folder / 'report'}"]) == 0
    return folder / "report"


class Forked:
    """What there is of submitit's local executor, for runs in forks of this process: seconds less for each.

    `tests/unit/sweep/test_jobs.py` and `make faults` have the real one.
    """

    #: lays a trap in a run; by its seed
    traps: ClassVar[dict[str, Callable[[], None]]] = {}

    def __init__(self, folder: Path) -> None:
        """In no folder of its own."""

    def update_parameters(self, **parameters: Any) -> None:
        """None has an effect."""

    def submit(self, job: jobs.Job) -> Any:
        code: list[int] = []
        child = os.fork()
        if not child:
            end_with(lambda: self._run(job))

        def done() -> bool:
            if not code:
                found, status = os.waitpid(child, os.WNOHANG)
                code.extend([os.waitstatus_to_exitcode(status)] if found else [])
            return bool(code)

        return SimpleNamespace(job_id=str(child), done=done, result=lambda: code[0])

    def _run(self, job: jobs.Job) -> int:
        output = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        seed = re.search(r"--seed_everything=(\d+)", " ".join(job.command))
        assert seed is not None
        self.traps.get(seed[1], lambda: None)()
        return main(list(job.command[3:]))


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (jobs, sweep):
        monkeypatch.setattr(module, "require_submitit", lambda: SimpleNamespace(LocalExecutor=Forked))
    monkeypatch.setattr(Forked, "traps", {})


def command(given: tuple[str, ...], *more: str) -> list[str]:
    return ["sweep", f"--configs={CONFIG}", "--seeds", "0", "1", *more, *given, "--runs_dir=runs"]


def test_a_killed_run_stops_no_other_and_goes_on(
    given: tuple[str, ...], by_hand: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forked, "traps", {"1": trap(Method, "on_train_batch_start", 6)})
    assert main(command(given, "--jobs=2", "--no-plan")) == 128 + signal.SIGKILL
    told = capfd.readouterr().out
    assert "2 runs: 2 missing\n" in told
    assert f"{CONFIG} seed 0: done" in told
    assert f"{CONFIG} seed 1: failed (-9)" in told
    (line,) = (line for line in told.splitlines() if "ended by SIGKILL" in line)
    log = Path(line.rpartition("(")[2].rstrip(")"))
    assert log.parent == Path("runs/sweeps").absolute()
    assert log.is_file()
    first = next(Path("runs").rglob("result.json")).stat().st_mtime_ns

    monkeypatch.setattr(Forked, "traps", {})
    assert main(command(given)) == 0
    told = capfd.readouterr().out
    assert re.search(r"2 runs: 1 done, 1 resumable; at most \d\S* hours of training are left", told)
    assert "nothing was started" in told
    assert main(command(given, "--jobs=2", "--no-plan")) == 0
    assert "2 of 2 done, 0 failed" in capfd.readouterr().out
    records = {path.parent.name: path for path in Path("runs").rglob("result.json")}
    assert records["seed0"].stat().st_mtime_ns == first, "what is done is left alone"
    assert json.loads(records["seed1"].read_text(encoding="utf-8"))["train"]["resumed"] == 1
    assert figures_of(Path("report")) == figures_of(by_hand)


def test_commands_and_runs_that_are_the_same(given: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    """Points of a grid whose measured options are equal are one run; one that is at work is left out."""
    grid = ("--grid", "data.num_workers=0,1", "model.optimizer.lr=0.1")
    assert main(command(given, "--print", *grid)) == 0
    told = capfd.readouterr()
    lines = told.out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"petl-bench fit --config={CONFIG} --seed_everything=") for line in lines)
    assert all("--runs_dir=runs --data.num_workers=0 --model.optimizer.lr=0.1" in line for line in lines)
    assert told.err.count("is the same run as") == 2
    assert not Path("runs").exists()


def test_a_run_that_is_at_work_elsewhere_is_left_out(given: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    options = [*given, "--runs_dir=runs"]
    (one,) = survey([Point(CONFIG)], [0], options, [], hours=False)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with locked(one.folder):
            os.write(write, b"x")
            signal.pause()
        os._exit(0)
    os.read(read, 1)
    try:
        assert one.state == "at work"
        assert main(["sweep", f"--configs={CONFIG}", *options, "--jobs=1", "--no-plan"]) == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    told = capfd.readouterr().out
    assert "1 runs: 1 at work" in told
    assert "0 of 1 done, 0 failed" in told


def test_runs_that_wait_in_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\necho "$@" > asked\nprintf "70_0 RUNNING\\n70_1 PENDING\\n"\n', encoding="utf-8")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    queued = {"/a": "70_0", "/b": "70_1", "/c": "70_2", "/d": "69", "/e": "$(touch x)"}
    (tmp_path / "queued.json").write_text(json.dumps(queued), encoding="utf-8")
    assert sweep._in_slurm(tmp_path / "queued.json") == {"/a": ("70_0", "at work"), "/b": ("70_1", "queued")}
    assert "--jobs=69,70 " in Path("asked").read_text(encoding="utf-8")
    squeue.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sweep._in_slurm(tmp_path / "queued.json") == {}


REFUSED = [
    (("--grid", "model.ranks=1,2"), f"{CONFIG} model.ranks=1: model: unknown option 'ranks'"),
    (("--grid", "trainer.max_epochs=2,-7"), f"{CONFIG} trainer.max_epochs=-7: trainer.max_epochs is -7"),
    (("--data.root=nowhere",), f"{CONFIG}: "),
    (("--output=.",), "--output .: the runs in runs would lie within the report"),
    (("--overwrite=true",), "--overwrite is not for a sweep"),
    (("--slurm", "partition"), "--slurm partition: give an option and its value"),
]


@pytest.mark.parametrize(("more", "told"), REFUSED)
def test_refused_before_anything_begins(
    more: tuple[str, ...], told: str, given: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    how = () if "--slurm" in more else ("--jobs=1",)
    assert main(["sweep", f"--configs={CONFIG}", "--no-plan", *given, "--runs_dir=runs", *how, *more]) in (2, 4)
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("petl-bench: error: "))
    assert told in line
    assert not Path("runs").exists()
