"""F15, F19, F20: scores that mean nothing, and machines that lack something."""

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.faults.trials import HELD, Bench, Trial, completed, first_problem, refused

_UNTRAINED = ("--model.class_path=benchmarks.faults.faulty.Faulty", "--zero_shot=true")
_SHARED_MEMORY = Path("/dev/shm")
_WORKERS = "--data.init_args.num_workers=2"


def trials() -> Iterator[Trial]:
    """All of them."""
    yield Trial("F15", "features that are no numbers", _no_numbers)
    yield Trial("F15", "features that are all the same", _constant)
    yield Trial("F19", "no network", partial(_wrapped, ["unshare", "--net"]))
    yield Trial("F19", "read-only HOME", _read_only_home)
    yield Trial("F19", "HOME is not there", partial(_wrapped, ["env", "HOME=/nowhere/at/all"]))
    yield Trial("F19", "empty environment, no FFmpeg in PATH", partial(_wrapped, ["env", "PATH="]))
    yield Trial("F20", "clock jumps back", _clock)
    yield Trial("F20", "TMPDIR is not there", partial(_wrapped, ["env", "TMPDIR=/nowhere/at/all"]))
    yield Trial("F20", "64 open files", partial(_wrapped, ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"]))
    yield Trial("F20", "16 open files", _few_files)
    yield Trial("F20", "64 MB of /dev/shm", partial(_shared_memory, "64m"))
    yield Trial("F20", "100 kB of /dev/shm", _no_shared_memory)


def _no_numbers(bench: Bench) -> str:
    command = bench.command("test", bench.new(), *_UNTRAINED)
    return refused(bench.run(command, FAULT="test nan"), 3, "finite")


def _constant(bench: Bench) -> str:
    """Whatever is ranked by equal scores must come out as chance, not as perfect."""
    runs = bench.new()
    command = bench.command("test", runs, *_UNTRAINED)
    ended = bench.run(command, FAULT="test constant")
    if problem := completed(ended):
        return problem
    found = json.loads(next(runs.rglob("result.json")).read_text())["eval"]["t2v"]
    chance = math.ceil((found["n"] + 1) / 2)  # a rank shared by all is their mean, rounded up
    return HELD if found["MnR"] == chance and found["R1"] < 50 else f"mean rank {found['MnR']}, R@1 {found['R1']}"


def _wrapped(prefix: Sequence[str], bench: Bench) -> str:
    """The run must complete with the same weights as ever."""
    runs = bench.new()
    return first_problem(completed(bench.run([*prefix, *bench.fit(runs, _WORKERS)])), bench.compared(runs, _WORKERS))


def _read_only_home(bench: Bench) -> str:
    home, runs = bench.new("home"), bench.new()
    command = bench.mounted("-t tmpfs -o ro none", home, bench.fit(runs, _WORKERS))
    return first_problem(completed(bench.run(command, HOME=str(home))), bench.compared(runs, _WORKERS))


def _clock(bench: Bench) -> str:
    runs = bench.new()
    return first_problem(completed(bench.run(bench.fit(runs), FAULT="clock")), bench.compared(runs))


def _few_files(bench: Bench) -> str:
    """Too few even for Python's own imports: one line, or the work is done."""
    ended = bench.run(["sh", "-c", 'ulimit -n 16; exec "$@"', "sh", *bench.fit(bench.new(), _WORKERS)])
    return HELD if ended.code == 0 or (ended.code > 0 and ended.messages) else f"{ended.code}: {ended.text[-300:]}"


def _shared_memory(size: str, bench: Bench) -> str:
    runs = bench.new()
    ended = bench.run(bench.mounted(f"-t tmpfs -o size={size} none", _SHARED_MEMORY, bench.fit(runs, _WORKERS)))
    return first_problem(completed(ended), bench.compared(runs, _WORKERS))


def _no_shared_memory(bench: Bench) -> str:
    command = bench.fit(bench.new(), _WORKERS)
    ended = bench.run(bench.mounted("-t tmpfs -o size=100k none", _SHARED_MEMORY, command))
    return refused(ended, 4, "/dev/shm")
