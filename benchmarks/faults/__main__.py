"""Injects faults into short runs and prints which trials held.

    python -m benchmarks.faults [F4 F11 ...]

A trial holds if the run ends as it should: with the right exit code and one clear message, with nothing lost, or with
the same weights as a run that nothing happened to. Some trials mount scratch disks and need root.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import chain
from pathlib import Path

from benchmarks.faults import (
    annotation_files,
    bad_inputs,
    environment,
    frames,
    freedoms,
    identity,
    installation,
    kills,
    launchers,
    lookup,
    lost_processes,
    old_files,
    resources,
    searching,
    shared_folders,
    slurm,
    stopping,
    storage,
    surroundings,
    sweeping,
)
from benchmarks.faults.trials import HELD, ROOT, Bench, Trial

#: modules with `trials()`
SCRIPTED = (
    *(kills, stopping, storage, lost_processes, surroundings, frames, annotation_files, identity, old_files),
    *(lookup, freedoms, launchers, slurm, resources, searching, sweeping, shared_folders, environment, installation),
)
#: faults that tests of every change try already
TESTS = {
    "F2": "test_resume",
    "F13": "test_process_counts test_metric_sharding",
    "F14": "test_training_ddp test_matching_ddp test_contrastive_ddp test_answers",
    "F30": "test_wheel test_demo test_surroundings",  # what an installation lacks, what lies in the current folder
}


def tried(trial: Trial, bench: Bench) -> str:
    """What came of a trial; a trial that fails itself holds nothing."""
    try:
        return trial.run(bench)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _tested(fault: str, bench: Bench) -> str:
    """What the tests of a fault say."""
    files = [str(next(ROOT.glob(f"tests/*/{name}.py"))) for name in TESTS[fault].split()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return HELD if ended.returncode == 0 else ended.stdout.splitlines()[-1]


def main() -> int:
    """Runs the trials of the faults that are named, or all; returns how many did not hold."""
    wanted = set(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="petl_bench_faults_") as name:
        bench = Bench(Path(name), Path(name) / "data")
        size = ["--train-videos=32", "--test-videos=6", "--captions-per-video=1"]
        subprocess.run([sys.executable, "-m", "petl_bench", "fixture", bench.data, *size], check=True, cwd=ROOT)
        scripted = chain.from_iterable(module.trials() for module in SCRIPTED)
        trials = [*scripted, *(Trial(fault, f"tests: {TESTS[fault]}", partial(_tested, fault)) for fault in TESTS)]
        chosen = [trial for trial in trials if not wanted or trial.fault in wanted]
        failures = 0
        for trial in sorted(chosen, key=lambda trial: int(trial.fault[1:])):
            started = time.monotonic()
            found = tried(trial, bench)
            failures += found != HELD
            took = f"{time.monotonic() - started:.0f} s"
            print(f"{trial.fault:<4} {trial.name:<60} {found or 'held'} ({took})", flush=True)
    print(f"faults tried {len(chosen)}, held {len(chosen) - failures}")
    return failures + (0 if wanted else bad_inputs.main())  # F7 and F16 are among the bad inputs


if __name__ == "__main__":
    sys.exit(min(main(), 1))
