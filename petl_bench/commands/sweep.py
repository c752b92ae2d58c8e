"""`petl-bench sweep`: many runs, their state, and who runs what is missing of them; ends in the report."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from petl_bench.cli.arguments import Parser, possible_path
from petl_bench.errors import UsageError
from petl_bench.formats import number, shown
from petl_bench.machine.output import print_table
from petl_bench.machine.signals import STOP
from petl_bench.ranges import Count, Seed, argument
from petl_bench.report.leaderboard import leaderboard
from petl_bench.report.output import require_own
from petl_bench.storage.files import write_atomically
from petl_bench.storage.untrusted import UnreadableError, expanded, parse_json, read_text
from petl_bench.sweep.grid import points_of, require_of_fit
from petl_bench.sweep.jobs import Job, Local, Outcome, Task, gpus_of, petl_bench, require_submitit, submit_array
from petl_bench.sweep.survey import Planned, survey

#: folder below that of the runs, for what they print and for submitit's files
_FOLDER = "sweeps"
#: of jobs that wait in SLURM: the number of each by the folder of its run
_QUEUED = "queued.json"
#: minutes of a SLURM job, unless said otherwise: a run goes on in the next one
_MINUTES = 240


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Lists the runs, and with `--jobs`, `--slurm` or `--print` hands over what is not done.

    Returns:
        The exit code: 0, or that of the first run that failed.

    Raises:
        UsageError: anything is wrong in options or a configuration, which is named; nothing was begun.
        DataError: data of a configuration is not there.
    """
    options, more = _parser().parse_known_args(arguments)
    require_of_fit(more)
    if options.jobs is not None or options.slurm is not None:
        require_submitit()
    of_slurm = _slurm_options(options.slurm or [])
    points = points_of(options.configs, options.grid)
    found = survey(points, list(dict.fromkeys(options.seeds)), more, plugins, options.plan and not options.print)
    runs = _each_once(found, quiet=options.print)
    if options.print:
        for one in runs:
            if one.state != "done":
                print(shlex.join(["petl-bench", *one.arguments]))
        return 0
    sweep = Sweep(runs, options.output)
    sweep.show(options.plan)
    if options.slurm is not None or options.jobs is not None:
        require_own(options.output, sweep.folders)  # before hours of work
    if options.slurm is not None:
        return sweep.to_slurm(of_slurm)
    if options.jobs is not None:
        return sweep.here(options.jobs)
    if sweep.left:
        print("nothing was started: add --jobs N, --slurm, or --print")
    return 0


class Sweep:
    """The runs of one command.

    Args:
        runs: each once.
        output: of the report.
    """

    def __init__(self, runs: Sequence[Planned], output: Path) -> None:
        self.runs, self.output = runs, output
        self.folder = expanded(runs[0].runs) / _FOLDER
        self._in_slurm = _in_slurm(self.folder / _QUEUED)
        self.states = {one: self._state(one) for one in runs}
        self.left = [one for one in runs if self.states[one] in ("missing", "resumable")]

    def show(self, hours: bool) -> None:
        """Prints every run with its state, and what is left to do."""
        rows = [
            (str(one.point), str(one.seed), self.states[one], *([_hours(one)] if hours else [])) for one in self.runs
        ]
        print_table("", ("run", "seed", "state", *(["hours"] if hours else [])), rows, left=1)
        states = list(self.states.values())
        counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states))]
        known = [one.hours for one in self.left if one.hours is not None]
        unknown = len(self.left) - len(known)
        told = f"; at most {number(sum(known))} hours of training are left" if hours and known else ""
        print(
            f"{len(states)} runs: {', '.join(counts)}{told}{f' ({unknown} runs unknown)' if told and unknown else ''}"
        )

    def here(self, at_once: int) -> int:
        """Runs what is left on this machine; the exit code of the first that failed."""
        outcomes: list[Outcome] = []
        STOP.advice = "; runs have saved what is done: the same command goes on".__str__
        STOP.unwinds = True
        gpus = _gpus(at_once, self.left) if self.left else []
        tasks = {self._task(one): one for one in self.left}

        def wanted(task: Task) -> bool:
            return tasks[task].state in ("missing", "resumable")

        def tell(outcome: Outcome) -> None:
            outcomes.append(outcome)
            code, one = outcome.code, tasks[outcome.task]
            words = {None: f"{one.state} elsewhere, left out", 0: "done"}
            how = words.get(code) or ("stopped" if STOP.number else f"failed ({code})")
            print(f"{outcome.task.name}: {how} [{len(outcomes)}/{len(tasks)}]", flush=True)

        if tasks:
            print(f"what runs print is in {self.folder}", flush=True)
            with TemporaryDirectory(prefix=".submitit-", dir=self.folder) as folder:
                Local(at_once, Path(folder), gpus).run(list(tasks), wanted, tell)
        failed = [outcome for outcome in outcomes if outcome.code not in (0, None)]
        print(f"\n{sum(one.record.is_file() for one in self.runs)} of {len(self.runs)} done, {len(failed)} failed")
        for outcome in failed:
            print(f"  {outcome.task.name}: {outcome.last_words} ({outcome.task.job.log})")
        self._report()
        return next((code if code > 0 else 128 - code for _, code in failed if code), 0)

    def to_slurm(self, options: dict[str, Any]) -> int:
        """Submits what is left as an array, and the report after it."""
        if not self.left:
            self._report()
            return 0
        gpus = max(one.gpus for one in self.left)
        if gpus and not any(name.startswith(("gpus", "gres", "num_gpus")) for name in options):
            options = {"gpus_per_node": gpus, **options}
        tasks = [self._task(one) for one in self.left]
        report = ["report", *map(str, self.folders), f"--output={self.output}"]
        last = Task("the report", Job(petl_bench(report), "", str((self.folder / "report.log").absolute())))
        *jobs, of_report = submit_array((self.folder / "slurm").absolute(), {"time": _MINUTES, **options}, tasks, last)
        queued = {folder: job for folder, (job, _) in self._in_slurm.items()}
        queued |= {str(one.folder.absolute()): job for one, job in zip(self.left, jobs, strict=True)}
        write_atomically(self.folder / _QUEUED, json.dumps(queued, indent=1) + "\n")
        print(f"submitted {len(jobs)} runs as {jobs[0].partition('_')[0]}, and the report after them as {of_report}")
        print(f"what runs print is in {self.folder}; the same command shows how far they are")
        return 0

    def _task(self, one: Planned) -> Task:
        """The job of a run, whose log has the name of the run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{one.point.slug}-{one.folder.parent.name}-seed{one.seed}.log"
        return Task(str(one), Job(petl_bench(one.arguments), str(one.record.absolute()), str(log.absolute())))

    @property
    def folders(self) -> list[Path]:
        """Below which all runs are."""
        return list(dict.fromkeys(expanded(one.runs) for one in self.runs))

    def _state(self, one: Planned) -> str:
        """Of a run, wherever it waits or is at work."""
        _, elsewhere = self._in_slurm.get(str(one.folder.absolute()), ("", ""))
        return one.state if one.state == "done" or not elsewhere else elsewhere

    def _report(self) -> None:
        if any(one.record.is_file() for one in self.runs):
            leaderboard(self.folders, self.output)


def _in_slurm(path: Path) -> dict[str, tuple[str, str]]:
    """Runs that wait in SLURM, or are at work there: job and state of each by its folder.

    Args:
        path: of the file that says which jobs were submitted.
    """
    try:
        jobs = parse_json(read_text(path)) if path.is_file() else {}
    except UnreadableError:
        return {}
    pairs = jobs.items() if isinstance(jobs, dict) else ()
    ours = {folder: str(job) for folder, job in pairs if re.fullmatch(r"\d+(_\d+)?", str(job))}
    arrays = sorted({job.partition("_")[0] for job in ours.values()})
    if not arrays:
        return {}
    command = ["squeue", "--noheader", "--array", f"--jobs={','.join(arrays)}", "--format=%i %T"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    there: dict[str, str] = dict(re.findall(r"^\s*(\S+) (\S+)\s*$", told, re.MULTILINE))
    words = {"RUNNING": "at work", "COMPLETING": "at work"}
    return {folder: (job, words.get(there[job], "queued")) for folder, job in ours.items() if job in there}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="petl-bench sweep",
        usage="petl-bench sweep --configs NAME ... --seeds N ... [--grid KEY=VALUE,VALUE ...] "
        "[--jobs N | --slurm [KEY=VALUE ...] | --print] [any option of `petl-bench fit`]",
        description="Runs every configuration with every seed and every point of a grid: what is done is left alone, "
        "what was interrupted goes on. Without --jobs, --slurm or --print the runs are only listed.",
        allow_abbrev=False,
    )
    parser.add_argument("--configs", nargs="+", required=True, metavar="NAME", help="configurations, as of fit")
    parser.add_argument("--seeds", nargs="+", type=argument(Seed), default=[0], metavar="N", help="(default: 0)")
    parser.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="an option and its values; of several, all combinations",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--jobs", type=argument(Count), metavar="N", help="run so many at once here, with a GPU each")
    how.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help=f"submit an array; options of sbatch, as partition=gpu time=MINUTES ({_MINUTES}) cpus_per_task=8",
    )
    how.add_argument("--print", action="store_true", help="print the commands of what is not done, one a line")
    parser.add_argument("--no-plan", dest="plan", action="store_false", help="leave out the hours, which are measured")
    parser.add_argument(
        "--output", type=possible_path, default=Path("report"), help="folder of the report (default: report)"
    )
    return parser


def _each_once(found: Iterable[Planned], quiet: bool) -> list[Planned]:
    """Runs without those that others are already; says which these are."""
    by_folder: dict[Path, Planned] = {}
    for one in found:
        first = by_folder.setdefault(one.folder.absolute(), one)
        if first is not one:
            print(f"{one} is the same run as {first}: it is run once", file=sys.stderr if quiet else None)
    return list(by_folder.values())


def _hours(one: Planned) -> str:
    return "?" if one.hours is None else number(one.hours)


def _gpus(at_once: int, runs: Sequence[Planned]) -> list[str]:
    """The GPUs of every slot; none where runs take none, or there are none."""
    each = max(one.gpus for one in runs)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = [str(place) for place in range(torch.cuda.device_count())]
    if given is not None and present:
        present = [name.strip() for name in given.split(",")][: len(present)]
    return gpus_of(min(at_once, len(runs)), each, present) if each and present else []


def _slurm_options(given: Sequence[str]) -> dict[str, Any]:
    """Options of `sbatch`, read as YAML."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--slurm {shown(text)}: give an option and its value, such as partition=gpu")
        found[name.replace("-", "_")] = yaml.safe_load(value)
    return found
