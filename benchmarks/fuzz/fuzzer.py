"""Runs one target under atheris in a process of its own, and replays what it kept to see which lines were reached."""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import struct
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import atheris

from benchmarks.children import end_with
from benchmarks.fuzz.coverage import Line, LineCoverage, constants_of
from benchmarks.fuzz.mutators import CELLS, Mutator
from benchmarks.fuzz.trial import Target, Trial, functions

_ROOT = Path(__file__).parents[2]
#: seconds for one input, MB of the process
_PATIENCE, _MEMORY = 60, 4000
#: different faults of a target after which it is left alone
_ENOUGH = 20
#: share of inputs that are changed as plain bytes, by libFuzzer's own mutator
_PLAIN = 0.15


@dataclass
class Found:
    """What fuzzing a target gave.

    Attributes:
        target: what was fuzzed.
        executions: inputs tried.
        seconds: spent on them.
        faults: files with the inputs that broke the target, each with a text that says how.
        reached: lines of the readers that ran.
        missed: lines of the readers that did not.
    """

    target: Target
    executions: int
    seconds: float
    faults: list[Path] = field(default_factory=list)
    reached: set[Line] = field(default_factory=set)
    missed: set[Line] = field(default_factory=set)

    @property
    def share(self) -> float:
        """Of the readers' lines that were reached, 0 to 1."""
        return len(self.reached) / max(1, len(self.reached) + len(self.missed))


def fuzz(target: Target, output: Path, executions: int | None, seconds: float | None) -> Found:
    """Fuzzes a target and replays what was kept of its inputs.

    Args:
        target: what is fuzzed.
        output: folder for the inputs that break it; made when there is one.
        executions: inputs to try, or None.
        seconds: how long to try, or None.
    """
    with tempfile.TemporaryDirectory(prefix="petl_bench_fuzz_", dir=_memory()) as name:
        scratch = Path(name)
        for folder in ("files", "corpus", "faults"):
            (scratch / folder).mkdir()
        trial = Trial(target, scratch / "files")
        for place, seed in enumerate(trial.seeds()):
            (scratch / "corpus" / f"seed{place}").write_bytes(seed)
        counter = mmap.mmap(-1, 16)
        limits = [f"-runs={executions}"] if executions else [f"-max_total_time={max(1, round(seconds or 0))}"]
        child = os.fork()
        if not child:
            end_with(partial(_fuzz, trial, scratch, limits, counter), scratch / "log")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        count, nanoseconds = struct.unpack("<QQ", counter)
        found = Found(target, count, nanoseconds / 1e9, _kept(target, scratch / "faults", output))
        if status and not found.faults:
            raise RuntimeError(
                f"{target.name}: the fuzzer ended with {status}: {(scratch / 'log').read_text()[-2000:]}"
            )
        lines = LineCoverage(functions(*target.readers()))
        # Of damaged files there are many, and this process does nothing else.
        warnings.simplefilter("ignore")
        logging.disable()
        for path in sorted((scratch / "corpus").iterdir()):
            with lines:  # for each anew: where Python's stack ends inside the tracing, Python ends the tracing
                _survived(trial, path.read_bytes())
        found.reached, found.missed = lines.reached, lines.lines - lines.reached
        return found


def _memory() -> str | None:
    """A folder in memory, where there is one: every input becomes a file."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _fuzz(trial: Trial, scratch: Path, limits: list[str], counter: mmap.mmap) -> int:
    """In the child: libFuzzer, which ends the process."""
    (scratch / "dictionary").write_text(_dictionary(), encoding="ascii")
    for function in set(functions(*trial.target.readers())):
        atheris.instrument_func(function)  # pyright: ignore[reportAttributeAccessIssue]  # not in its __all__
    options = (
        *(str(scratch / "corpus"), f"-dict={scratch / 'dictionary'}", f"-artifact_prefix={scratch / 'faults'}/"),
        *(
            f"-max_len={trial.target.longest}",
            "-len_control=0",
            f"-timeout={_PATIENCE}",
            f"-report_slow_units={_PATIENCE}",
            f"-rss_limit_mb={_MEMORY}",
        ),
        *("-seed=1", "-use_value_profile=1", "-detect_leaks=0", "-verbosity=0", *limits),
    )
    atheris.Setup(["fuzz", *options], _harness(trial, scratch / "faults", counter), custom_mutator=_mutator(trial))
    atheris.Fuzz()
    return 0


def _harness(trial: Trial, faults: Path, counter: mmap.mmap) -> Callable[[bytes], None]:
    """Tries an input, counts it, and keeps one that breaks the target in a new way."""
    known: set[str] = set()
    count, started = 0, time.monotonic_ns()

    def one_input(data: bytes) -> None:
        nonlocal count
        count += 1
        counter[:] = struct.pack("<QQ", count, time.monotonic_ns() - started)
        try:
            trial.run(data)
        except Exception as error:
            key = _place(error)
            if key in known:
                return
            known.add(key)
            path = faults / f"fault-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            text = f"found after {count} executions\n{''.join(traceback.format_exception(error))}"
            path.with_suffix(".txt").write_text(text, errors="backslashreplace")
            if len(known) >= _ENOUGH:
                raise

    return one_input


def _place(error: Exception) -> str:
    """What tells one fault from another: its type, and where our code raised it or called who did."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(_ROOT) in frame.filename]
    last = frames[-1] if frames else None
    return f"{type(error).__name__} {last and (last.filename, last.lineno)}"


def _mutator(trial: Trial) -> Callable[[bytes, int, int], bytes]:
    constants = constants_of(functions(*trial.target.readers()))

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        rng = Random(seed)
        if not data or rng.random() < _PLAIN:
            return atheris.Mutate(data, longest)
        form = trial.form_of(data)
        first = rng.randrange(len(trial.forms)) if rng.random() < 0.02 else data[0]
        return (bytes([first]) + Mutator(rng, constants, form.words).damaged(data[1:], form.kind))[:longest]

    return mutate


def _dictionary() -> str:
    """Words of JSON and tables, for libFuzzer's own mutator."""
    words = [
        *(cell for cell in CELLS if cell),
        "null",
        "true",
        "1e999",
        "NaN",
        "Infinity",
        "-1",
        '":',
        '","',
        "[[",
        "{}",
    ]
    quoted = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in words)
    return "".join(f'"{word}"\n' for word in quoted)


def _kept(target: Target, faults: Path, output: Path) -> list[Path]:
    """Copies the inputs that broke a target out of the scratch folder; hangs and crashes of the process among them."""
    kept = []
    for path in sorted(faults.iterdir()):
        output.mkdir(parents=True, exist_ok=True)
        copy = output / f"{target.name}-{path.name}"
        copy.write_bytes(path.read_bytes())
        kept += [copy] if path.suffix != ".txt" else []
    return kept


def _survived(trial: Trial, data: bytes) -> None:
    try:
        trial.run(data)
    except Exception:  # kept already
        return
