"""F45, F46: the process group is signalled at any moment, with helpers of any kind (rows R6a and R6c)."""

import csv
import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.faults.trials import HELD, PETL_BENCH, ROOT, Bench, Trial, first_problem
from benchmarks.faults.warm import OUTCOME, Outcome, Try
from petl_bench.storage.checkpoints import LAST, read_checkpoint

#: tries of each kind of moment and helper, how many at once, and the seconds from the signal to the end
TRIES, AT_ONCE, LIMIT = 20, 3, 10.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
#: one in so many tries is continued and compared with a run that nothing happened to
_CONTINUED = 5
#: two epochs of six steps and four batches of validation
_SHORT = (
    "--trainer.max_epochs=2",
    "--trainer.log_every_n_steps=1",
    "--data.init_args.batch_size=4",
    "--data.init_args.eval_batch_size=2",
    "--data.init_args.val_videos=8",
    "--best_on_val=true",
    "--save_every_n_steps=4",
)
_TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "petl_bench")


@dataclass(frozen=True)
class Moment:
    """A kind of moment, by its name in `benchmarks.faults.warm`.

    Attributes:
        name: of the kind.
        counts: which of its kind it may be.
        delay: seconds at most from its beginning to the signal.
        hold: seconds that it takes.
    """

    name: str
    counts: range = range(1, 2)
    delay: float = 0.2
    hold: float = 0.0


#: longer than a stop may take
_LONG = 30.0
_OF_FIT = (
    Moment("in a step", range(1, 13), 0.06, 0.05),
    Moment("in an optimiser step", range(1, 13), 0.06, 0.05),
    Moment("between batches", range(1, 44), hold=_LONG),
    Moment("while saving", range(1, 5), 0.06, 0.05),
    Moment("in validation", range(1, 9), hold=_LONG),
    Moment("in the test", range(1, 4), hold=_LONG),
)
_OF_HELPERS = (
    Moment("while helpers start", range(1, 6), 0.03, 0.01),
    Moment("while helpers are shut down", range(1, 6), 0.03, 0.01),
)
_OF_TWO = (*_OF_FIT[:1], *_OF_FIT[2:], Moment("runs/**/config.yaml", delay=3.0))


def trials() -> Iterator[Trial]:
    """All of them."""
    for workers in (0, 1, 4):
        for moment in _OF_FIT + _OF_HELPERS * bool(workers):
            yield _trial(f"{moment.name}, {workers} loaders", partial(_stopped, moment, workers))
    long_step = replace(_OF_FIT[0], hold=_LONG)
    yield _trial("in a step of half a minute", partial(_stopped, long_step, 1))
    yield _trial("in a step, twice", partial(_stopped, _OF_FIT[0], 2, again=0.3))
    yield _trial("at any moment of a run", partial(_stopped, Moment("", delay=1.5), 2), "R6c")
    yield _trial("while Python starts", _starting)
    yield _trial("two processes of Lightning", _launched)
    yield _trial("two processes of torchrun", _under_torchrun)
    yield _trial("while caching", partial(_prepared, "cache"), fault="F46")
    yield _trial("while verifying", partial(_prepared, "verify"), fault="F46")


def _trial(name: str, one: Callable[[int, random.Random, Bench], str], row: str = "R6a", fault: str = "F45") -> Trial:
    """Signals to a process group, tried many times, several side by side."""

    def run(bench: Bench) -> str:
        def tried(number: int) -> str:
            return one(number, random.Random(f"{name} {number}"), bench)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            problems = [problem for problem in pool.map(tried, range(TRIES)) if problem != HELD]
        return f"{len(problems)} of {TRIES}: {problems[0]}" if problems else HELD

    return Trial(fault, f"{row} signals to the group {name}", run)


# --- kinds of tries ---------------------------------------------------------------------------------------------------


def _stopped(moment: Moment, workers: int, number: int, draw: random.Random, bench: Bench, again: float = 0.0) -> str:
    folder = bench.new("try")
    arguments = _fit(bench, folder, workers)
    outcome = perform(bench, _try(moment, number, draw, folder, arguments, again))
    problem = first_problem(in_time(outcome), told(outcome, number), saved(outcome, folder))
    if problem or number % _CONTINUED:
        return problem
    return continued(bench, folder, arguments)


def _starting(number: int, draw: random.Random, bench: Bench) -> str:
    """A fresh interpreter, and all that is imported."""
    folder = bench.new("try")
    command = [*PETL_BENCH, *_fit(bench, folder, 2)]
    moment = Moment("", delay=4.0)
    outcome = perform(bench, replace(_try(moment, number, draw, folder, []), cold=command))
    if outcome.code == -SIGNALS[number % 4]:
        return in_time(outcome)  # Python was not there yet
    return first_problem(in_time(outcome), told(outcome, number), saved(outcome, folder))


def _launched(number: int, draw: random.Random, bench: Bench) -> str:
    folder = bench.new("try")
    arguments = [*_fit(bench, folder, number % 3), *_TWO]
    moment = _OF_TWO[number % len(_OF_TWO)]
    outcome = perform(bench, _try(moment, number, draw, folder, arguments))
    return first_problem(in_time(outcome), told(outcome, number), saved(outcome, folder))


def _under_torchrun(number: int, draw: random.Random, bench: Bench) -> str:
    """torchrun has an exit code and a last word of its own."""
    folder = bench.new("try")
    command = [sys.executable, *_TORCHRUN, *_fit(bench, folder, number % 3), *_TWO, "--trainer.max_epochs=200"]
    moment = Moment("runs/**/config.yaml", delay=4.0)
    outcome = perform(bench, replace(_try(moment, number, draw, folder, []), cold=command))
    if "petl-bench: stopped by" not in outcome.text:
        return f"not a word: {outcome.text[-300:]}"
    return first_problem(in_time(outcome), saved(outcome, folder))


def _prepared(command: str, number: int, draw: random.Random, bench: Bench) -> str:
    """`data cache` and `data verify` keep what is done and go on from there."""
    folder = bench.new("try")
    arguments = ["data", command, "--config=data/fixture.yaml", f"--data.root={bench.data}", "--data.partial=true"]
    arguments += ["--workers=2", "--cache" if command == "cache" else "--manifest", str(folder / "kept")]
    moment = Moment(f"while {'caching' if command == 'cache' else 'verifying'}", range(1, 20), 0.1, 0.02)
    outcome = perform(bench, _try(moment, number, draw, folder, arguments))
    if problem := first_problem(in_time(outcome), told(outcome, number)):
        return problem
    if "goes on from there" not in outcome.text:
        return f"no advice: {outcome.text[-300:]}"
    if number % _CONTINUED:
        return HELD
    again = perform(bench, Try(str(bench.new("try")), arguments, number=0))
    whole = "found, 0 mended, 0 unreadable" if command == "cache" else "38 ok, 0 bad, 0 missing, 0 extra"
    return HELD if again.code == 0 and whole in again.text else f"not continued: {again.text[-300:]}"


def _fit(bench: Bench, folder: Path, workers: int) -> list[str]:
    more = (*_SHORT, f"--data.init_args.num_workers={workers}")
    return bench.command("fit", folder / "runs", *more)[3:]


def _try(
    moment: Moment, number: int, draw: random.Random, folder: Path, arguments: list[str], again: float = 0.0
) -> Try:
    return Try(
        folder=str(folder),
        arguments=arguments,
        moment=moment.name,
        count=draw.choice(moment.counts),
        delay=draw.uniform(0, moment.delay),
        number=SIGNALS[number % len(SIGNALS)],
        again=draw.uniform(0, again) if again else -1.0,
        hold=moment.hold,
    )


# --- what came of a try -----------------------------------------------------------------------------------------------


def perform(bench: Bench, one: Try) -> Outcome:
    """Has the warm process make a try, and waits for its end."""
    arguments = tuple(bench.command("fit", bench.folder / "warm", *_SHORT)[3:])
    with _LOCK:
        _warm(bench.folder, arguments).write(json.dumps(asdict(one)))
    path = Path(one.folder) / OUTCOME
    while not path.is_file():
        time.sleep(0.01)
    return Outcome(**json.loads(path.read_text()))


_LOCK = threading.Lock()


class _Warm:
    """The process that tries are forked from."""

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "FAULT": "none"}
        command = [sys.executable, "-m", "benchmarks.faults.warm", *arguments]
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout
        if not any(line == "warm\n" for line in self._process.stdout):
            raise RuntimeError("the process that tries are forked from ended early")

    def write(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


@functools.cache
def _warm(folder: Path, arguments: tuple[str, ...]) -> _Warm:
    return _Warm(folder, arguments)


def in_time(outcome: Outcome) -> str:
    """`HELD` if the whole group ended soon."""
    if outcome.seconds > LIMIT:
        return f"{outcome.seconds:.1f} s from the signal to the end: {outcome.text[-300:]}"
    return f"{outcome.left} processes are left" if outcome.left else HELD


def told(outcome: Outcome, number: int) -> str:
    """`HELD` if a try ended as the signal wants it and said so once, and nothing else; or was done before."""
    name, text = SIGNALS[number % len(SIGNALS)].name, outcome.text
    if outcome.code == 0 and "record: " in text:
        return HELD
    if outcome.code != 128 + SIGNALS[number % len(SIGNALS)]:
        return f"exit code {outcome.code} after {name}: {text[-300:]}"
    if text.count(f"petl-bench: stopped by {name};") != 1:
        return f"not told once: {text[-300:]}"
    noise = next((word for word in ("Traceback", "error:", "Exception ignored") if word in text), None)
    return f"'{noise}' in {text[-500:]}" if noise else HELD


def saved(outcome: Outcome, folder: Path) -> str:
    """`HELD` if every step that was done at the signal is in a checkpoint that is named, or in a complete run."""
    if list(folder.rglob("result.json")):
        return HELD
    found = list(folder.rglob(LAST))
    if not found:
        nothing = outcome.steps == 0 and "nothing is lost" in outcome.text
        return HELD if nothing else f"no checkpoint after {outcome.steps} steps: {outcome.text[-300:]}"
    if f"goes on from {found[0]}" not in outcome.text:
        return f"the checkpoint is not named: {outcome.text[-300:]}"
    steps = int(read_checkpoint(found[0])["global_step"])
    return HELD if steps >= outcome.steps else f"{outcome.steps} steps were done, {steps} are saved"


def continued(bench: Bench, folder: Path, arguments: list[str]) -> str:
    """`HELD` if the same command ends with the weights and the log of a run that nothing happened to."""
    again = perform(bench, Try(str(bench.new("try")), arguments, number=0))
    done = again.code == 2 and "this run is complete" in again.text
    if again.code and not done:
        return f"not continued: exit code {again.code}: {again.text[-300:]}"
    (log,), (whole,) = folder.rglob("metrics.csv"), (bench.folder / "warm").rglob("metrics.csv")
    if _figures(log) != _figures(whole):
        return f"another log than without the signal: {log}"
    found, expected = bench.weights(folder), bench.weights(bench.folder / "warm")
    same = found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)
    return HELD if same else "other weights than without the signal"


def _figures(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
