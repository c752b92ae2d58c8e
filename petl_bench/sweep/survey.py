"""What has become of the runs of a sweep, and how long the rest will take.

It takes the objects of every configuration to know the folder of its runs, and steps on this machine's GPU to know
their hours: so this happens in a process of its own, which leaves nothing behind in the one that waits for the runs.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from petl_bench.cli.configuration import configured
from petl_bench.data.build_cache import progress_bar
from petl_bench.errors import PetlBenchError, UsageError
from petl_bench.machine.output import console
from petl_bench.machine.signals import as_helper, starting_helpers
from petl_bench.runs.earlier import lock_of
from petl_bench.runs.experiment import Experiment
from petl_bench.runs.folder import name_run
from petl_bench.runs.planning import estimated
from petl_bench.runs.record import FILE_NAME, read_result
from petl_bench.storage.checkpoints import resumable
from petl_bench.storage.files import FileError
from petl_bench.storage.locks import is_held
from petl_bench.sweep.grid import Point


@dataclass(frozen=True)
class Planned:
    """A run of a sweep.

    Attributes:
        point: configuration and choices.
        seed: of it.
        arguments: of `petl-bench`, which give the run.
        folder: of the run.
        runs: below which it is.
        hours: of its training, from its start; None if they are not known.
        gpus: that it takes; 0 of one that trains on the CPU.
    """

    point: Point
    seed: int
    arguments: tuple[str, ...]
    folder: Path
    runs: Path
    hours: float | None
    gpus: int

    def __str__(self) -> str:
        return f"{self.point} seed {self.seed}"

    @property
    def record(self) -> Path:
        """What is there when it is done."""
        return self.folder / FILE_NAME

    @property
    def state(self) -> str:
        """`done`, `at work` (in another process of this machine), `resumable` or `missing`; as it is now."""
        if self.record.is_file():
            return "done"
        if _is_at_work(self.folder):
            return "at work"
        return "resumable" if resumable(self.folder) else "missing"


def survey(
    points: Sequence[Point], seeds: Sequence[int], more: Sequence[str], plugins: Sequence[str], hours: bool
) -> list[Planned]:
    """The runs of a sweep, those of a point together; a run that two points stand for is there twice.

    Args:
        points: configurations at points of the grid.
        seeds: of each.
        more: options of `fit` for all.
        plugins: packages that the user trusts.
        hours: whether to measure how long they take.

    Raises:
        PetlBenchError: a configuration cannot be run, with its name.
    """
    found: list[Planned] = []
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("fork"), _prepared)
    with pool, progress_bar(console(stderr=True)) as progress:
        task = progress.add_task("looking at configurations", total=len(points))
        for point in points:
            with starting_helpers():
                future = pool.submit(_looked_at, point, tuple(seeds), tuple(more), tuple(plugins), hours)
            found += future.result()
            progress.advance(task)
    return found


def _prepared() -> None:
    as_helper()
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _looked_at(
    point: Point, seeds: Sequence[int], more: Sequence[str], plugins: Sequence[str], hours: bool
) -> list[Planned]:
    """The runs of one point."""
    arguments = point.arguments(seeds[0], more)
    try:
        with configured("fit", arguments[1:], plugins) as configuration:
            configuration.require_possible()
            experiment = configuration.build()
            run = name_run("fit", experiment)
            took = (_hours_of(run.folder.parent) or _measured(experiment)) if hours else None
    except PetlBenchError as error:
        told = UsageError(f"{point}: {error}")
        told.exit_code = error.exit_code
        raise told from None  # whose class the other process may not be able to make
    first = Planned(point, seeds[0], (), run.folder, Path(experiment.run.runs_dir), took, _gpus(experiment))
    own = [f"--plugins={plugin}" for plugin in plugins]
    return [
        replace(
            first,
            seed=seed,
            arguments=(*point.arguments(seed, more), *own),
            folder=run.folder.with_name(f"seed{seed}"),
        )
        for seed in seeds
    ]


def _gpus(experiment: Experiment) -> int:
    """GPUs of one machine that a run takes; whatever is there (`auto`) is one, as others take the rest."""
    devices = experiment.trainer.devices
    if experiment.trainer.accelerator == "cpu":
        return 0
    return int(devices) if str(devices).isdecimal() else 1


def _hours_of(folder: Path) -> float | None:
    """What finished runs of the same configuration took, on average."""
    found: list[float] = []
    for path in folder.glob(f"seed*/{FILE_NAME}"):
        try:
            found.append(read_result(path)["train"]["wall_s"] / 3600)
        except (FileError, KeyError, TypeError):
            continue
    return fmean(found) if found else None


def _measured(experiment: Experiment) -> float | None:
    """What the training takes by a few of its steps here; None where nothing can be told."""
    experiment.method.configure_model()
    if not experiment.method.trainable:
        return 0.0
    try:
        return estimated(experiment.method, experiment.data, experiment.objects)["hours"]
    except UsageError:  # a run may end by steps, or be for other machines
        return None


def _is_at_work(folder: Path) -> bool:
    try:
        return is_held(lock_of(folder))
    except OSError:
        return False
