"""What a trial of a fault is, and the runs that it is tried on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from safetensors.numpy import load_file

from benchmarks.faults import forked
from petl_bench.storage.checkpoints import LAST, read_checkpoint

ROOT = Path(__file__).parents[2]
#: seconds after which a run counts as hanging
PATIENCE = 120
HELD = ""
PETL_BENCH = (sys.executable, "-m", "petl_bench")
#: variables that a command reads when it runs, and nobody when Python starts
_READ_LATE = {"FAULT", "FAULT_RANK"}
#: makes a scratch mount that other processes do not see; `$1` is its folder, then the command
_MOUNTED = 'folder=$1; shift; mount {options} "$folder" || exit 99; "$@"'


@dataclass(frozen=True)
class Trial:
    """One fault.

    Attributes:
        fault: its number, by which the command line chooses trials.
        name: of the variant.
        run: tries it; returns `HELD`, or what went wrong.
    """

    fault: str
    name: str
    run: Callable[["Bench"], str]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    text: str
    seconds: float

    @property
    def messages(self) -> list[str]:
        """The errors that petl-bench printed."""
        return [line for line in self.text.splitlines() if line.startswith("petl-bench: ") and "error: " in line]


@dataclass
class Bench:
    """A generated dataset, and short runs on it.

    Attributes:
        folder: for everything that trials write.
        data: the dataset; 32 training videos, so 4 steps of 8 in an epoch.
    """

    folder: Path
    data: Path
    _count: int = 0
    _whole: dict[str, Path] = field(default_factory=dict)
    _is_warm: bool = False

    def new(self, name: str = "runs") -> Path:
        """A folder that no other trial uses."""
        self._count += 1
        path = self.folder / f"{self._count}-{name}"
        path.mkdir()
        return path

    def fit(self, runs: Path, *more: str, method: str = "benchmarks.faults.faulty.Faulty") -> list[str]:
        """A command that trains for three epochs, then tests."""
        return self.command("fit", runs, f"--model.class_path={method}", "--trainer.max_epochs=3", *more)

    def command(self, command: str, runs: Path, *more: str) -> list[str]:
        """One command on the dataset and the tiny backbone."""
        return [
            *(*PETL_BENCH, command, "--plugins=benchmarks.faults.faulty"),
            "--config=fixture_linear",
            "--model.init_args.backbone=backbone/clip_tiny.yaml",
            f"--data.init_args.root={self.data}",
            "--data.init_args.batch_size=8",
            "--data.init_args.num_workers=0",
            "--trainer.enable_progress_bar=false",
            f"--runs_dir={runs}",
            *more,
        ]

    def start(
        self, command: Sequence[str], output: IO[str] | int = subprocess.DEVNULL, **environment: str
    ) -> "subprocess.Popen[bytes] | forked.Forked":
        """Starts a command in a process group of its own.

        petl-bench itself runs in a fork of this process, unless variables are set that Python or libraries read when
        they start.
        """
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "FAULT": "none", **environment}
        if tuple(command[:3]) == PETL_BENCH and environment.keys() <= _READ_LATE:
            self._warm()
            return forked.start(command[3:], output, variables, self.folder)
        return subprocess.Popen(
            command, env=variables, stdout=output, stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True
        )

    def run(self, command: Sequence[str], patience: float = PATIENCE, **environment: str) -> Ended:
        """Runs a command to its end, or kills it with its children after `patience` seconds."""
        path, started = self.new("output") / "output.txt", time.monotonic()
        with path.open("w") as output:
            process = self.start(command, output, **environment)
            try:
                code = process.wait(patience)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
        return Ended(code, path.read_text(errors="replace"), time.monotonic() - started)

    def _warm(self) -> None:
        """Imports here what a run imports, once."""
        if self._is_warm:
            return
        self._is_warm = True
        os.environ["FAULT"] = "none"
        forked.import_what_is_used_by(self.fit(self.new("warm"))[3:], self.new("imports"))

    def mounted(self, options: str, folder: Path, command: Sequence[str]) -> list[str]:
        """A command that sees `mount OPTIONS FOLDER`; needs root."""
        return ["unshare", "--mount", "sh", "-c", _MOUNTED.format(options=options), "sh", str(folder), *command]

    def weights(self, runs: Path) -> dict[str, np.ndarray]:
        """Trained tensors of the only run below a folder."""
        (path,) = runs.rglob("adapter.safetensors")
        return load_file(path)

    def uninterrupted(self, *more: str) -> Path:
        """The folder of runs with one with these options that nothing happens to."""
        key = " ".join(more)
        if key not in self._whole:
            runs = self.new("whole")
            ended = self.run(self.fit(runs, *more))
            if ended.code:
                raise RuntimeError(f"the run that others are compared with failed: {ended.text[-500:]}")
            self._whole[key] = runs
        return self._whole[key]

    def seconds(self, *more: str) -> float:
        """How long an uninterrupted run takes from its first file to its last."""
        (record,) = self.uninterrupted(*more).rglob("result.json")
        return record.stat().st_mtime - record.with_name("config.yaml").stat().st_mtime

    def compared(self, runs: Path, *more: str) -> str:
        """`HELD` if the run below a folder has the weights of an uninterrupted one, to the last bit."""
        found, expected = self.weights(runs), self.weights(self.uninterrupted(*more))
        same = found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)
        return HELD if same else "the weights differ from those of an uninterrupted run"


def resumed(runs: Path) -> str:
    """`HELD` if the record of the only run below a folder says that it was continued once."""
    times = json.loads(next(runs.rglob("result.json")).read_text())["train"]["resumed"]
    return HELD if times == 1 else f"the record says that it was continued {times} times"


def refused(ended: Ended, code: int, told: str, messages: int = 1) -> str:
    """`HELD` if a command ended with a code and at least so many clear messages, one of which holds a text."""
    if ended.code == 99 and "mount" in ended.text:
        return "not tried: mounting needs root"
    if ended.code != code:
        return f"exit code {ended.code}, expected {code}: {' | '.join(ended.messages)[-300:] or ended.text[-300:]}"
    if "Traceback" in ended.text or "unexpected error" in ended.text:
        return f"a traceback: {ended.text[-300:]}"
    if len(ended.messages) < messages or not any(told in message for message in ended.messages):
        return f"no message holds '{told}': {ended.messages}"
    return HELD


def completed(ended: Ended) -> str:
    """`HELD` if a command did its work."""
    if ended.code == 99 and "mount" in ended.text:
        return "not tried: mounting needs root"
    return HELD if ended.code == 0 else f"exit code {ended.code}: {ended.text[-400:]}"


def loadable(runs: Path, at_least: int = 1) -> str:
    """`HELD` if `last.ckpt` below a folder can be read and is of some step."""
    paths = list(runs.rglob(LAST))
    if len(paths) != 1:
        return f"{len(paths)} checkpoints"
    step = int(read_checkpoint(paths[0])["global_step"])
    return HELD if step >= at_least else f"the checkpoint is of step {step}"


def incomplete(runs: Path) -> str:
    """`HELD` if no run below a folder counts as complete."""
    return "the run counts as complete" if list(runs.rglob("result.json")) else HELD


def first_problem(*verdicts: str) -> str:
    """The first that is not `HELD`."""
    return next((verdict for verdict in verdicts if verdict != HELD), HELD)


def orphans(runs: Path) -> str:
    """`HELD` if no process that was told of a folder is left after a few seconds; else kills those."""
    deadline = time.monotonic() + 15
    while left := _told_of(str(runs).encode()):
        if time.monotonic() > deadline:
            for number in left:
                os.kill(number, signal.SIGKILL)
            return f"processes are left: {left}"
        time.sleep(0.5)
    return HELD


def _told_of(word: bytes) -> list[int]:
    """Processes with a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word in path.read_bytes():
                found.append(int(path.parent.name))
    return found
