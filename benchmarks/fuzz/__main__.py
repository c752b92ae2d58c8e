"""Fuzzes whatever reads a file that a user brings.

These are the readers of annotation files, answer lists, manifests, adapters, weights, checkpoints, run records and
configurations.

    python -m benchmarks.fuzz [--executions N | --seconds S] [target ...]

Every input that breaks a reader is saved below `fuzz_findings/` with a text that says how, and printed; the exit code
is 0 if there is none. `--seconds` is the time for all targets together, after they have been set up. At the end stands
how many inputs were tried and what share of the readers' lines they reached.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: a fork loses its threads

from benchmarks.fuzz.fuzzer import fuzz
from benchmarks.fuzz.targets import PLANTED, TARGETS
from benchmarks.fuzz.trial import Target

#: share of a target's lines that should be reached
_WANTED = 0.9


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzzes the targets that are named, or all; returns 1 if an input broke one, else 0."""
    options = _options(arguments)
    chosen = [target for target in (*TARGETS, PLANTED) if target.name in (options.targets or [t.name for t in TARGETS])]
    for target in chosen:
        list(target.readers())  # imports what all targets need, once
    processes = min(len(os.sched_getaffinity(0)), len(chosen))
    seconds = options.seconds * processes / len(chosen) if options.seconds else None
    executions = None if seconds else options.executions

    def work(target: Target) -> dict[str, Any]:
        found = fuzz(target, options.output, executions, seconds)
        missed = sorted(f"{Path(line.file).name}:{line.number}" for line in found.missed)
        return {
            "target": target.name,
            "executions": found.executions,
            "seconds": found.seconds,
            "faults": [str(path) for path in found.faults],
            "lines": len(found.reached) + len(found.missed),
            "share": found.share,
            "missed": missed,
        }

    results = []
    for result in _each_in_a_process(work, chosen, processes):
        results.append(result)
        _print(result)
    return _summary(results)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").split("\n")[0])
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--executions", type=int, default=100_000, help="inputs for each target (default: %(default)s)")
    limit.add_argument("--seconds", type=float, help="time for all targets together")
    parser.add_argument(
        "--output", type=Path, default=Path("fuzz_findings"), help="where inputs go that break a target"
    )
    names = [target.name for target in (*TARGETS, PLANTED)]
    parser.add_argument("targets", nargs="*", metavar="target", help=f"all but the last of {', '.join(names)}")
    options = parser.parse_args(arguments)
    unknown = set(options.targets) - set(names)
    if unknown:
        parser.error(f"unknown target {min(unknown)}: one of {', '.join(names)}")
    if options.executions < 1 or (options.seconds is not None and options.seconds <= 0):
        parser.error("--executions and --seconds must be positive")
    return options


def _each_in_a_process(
    work: Callable[[Target], dict[str, Any]], targets: Sequence[Target], processes: int
) -> Iterator[dict[str, Any]]:
    """The results of targets as they come, some at once, each from a process of its own."""
    waiting, running, failed = list(targets), dict[int, tuple[Target, Path]](), list[str]()
    with tempfile.TemporaryDirectory() as name:
        while waiting or running:
            while waiting and len(running) < processes:
                target = waiting.pop(0)
                path = Path(name) / target.name
                running[_started(lambda target=target: work(target), path)] = (target, path)
            process, status = os.waitpid(-1, 0)
            if process not in running:
                continue
            target, path = running.pop(process)
            if status:
                failed.append(target.name)
            else:
                yield json.loads(path.read_text())
    if failed:
        raise RuntimeError(f"could not be fuzzed (see above): {', '.join(failed)}")


def _started(work: Callable[[], dict[str, Any]], path: Path) -> int:
    """The number of a child process that does some work and writes what came of it."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        path.write_text(json.dumps(work()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _print(result: dict[str, Any]) -> None:
    rate = result["executions"] / max(result["seconds"], 1e-9)
    print(
        f"{result['target']:<12} {result['executions']:>8,} executions, {rate:>6,.0f} a second; "
        f"{100 * result['share']:5.1f} % of {result['lines']:>3} lines reached; {len(result['faults'])} faults",
        flush=True,
    )
    if result["share"] < _WANTED:
        print(f"  not reached: {' '.join(result['missed'])}")
    for path in map(Path, result["faults"]):
        text = path.with_suffix(".txt")
        told = (
            text.read_text().strip().splitlines()[-1]
            if text.is_file()
            else "hangs, takes all memory, or ends the process"
        )
        print(f"  {path}: {told[:300]}")


def _summary(results: Sequence[dict[str, Any]]) -> int:
    faults = sum(len(result["faults"]) for result in results)
    executions = sum(result["executions"] for result in results)
    lines = sum(result["lines"] for result in results)
    reached = sum(round(result["share"] * result["lines"]) for result in results)
    print(
        f"{executions:,} executions of {len(results)} targets, {100 * reached / lines:.1f} % of lines, {faults} faults"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
