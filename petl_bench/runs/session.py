"""`fit`, `test`, `validate` and `predict` of an experiment: what the command line and a notebook call.

Each opens a session: checks that fail cheaply, then Lightning's trainer, then the folder of the run with its lock. The
other modules of `petl_bench.runs` are its parts: `checks`, `folder`, `earlier` (runs that were begun before), `draft`
(the record), `cost`, `course` (early ends), `processes`, `clusters`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from petl_bench.data.workers import reporting_lost_workers
from petl_bench.errors import UsageError
from petl_bench.formats import number
from petl_bench.lightning_seams import DDP, continue_log, current_rank, leave_signals, set_rank
from petl_bench.machine.arithmetic import warn_of_slow_products
from petl_bench.machine.memory import reporting_exhaustion
from petl_bench.machine.signals import STOP
from petl_bench.method import Method
from petl_bench.metrics.table import mode
from petl_bench.runs import draft as drafts
from petl_bench.runs.checks import require_sense
from petl_bench.runs.clusters import cluster_environment, require_as_many
from petl_bench.runs.cost import CostMeter
from petl_bench.runs.course import EarlyEnds, require_own_folder
from petl_bench.runs.draft import Draft, Training, evaluation_of
from petl_bench.runs.earlier import as_now
from petl_bench.runs.experiment import Experiment
from petl_bench.runs.folder import ADAPTER_NAME, earlier_metrics, name_run, open_run
from petl_bench.runs.freedoms import foreign_classes
from petl_bench.runs.frozen import FrozenInBf16
from petl_bench.runs.logs import Log, Place, log_names, open_logs, status_of
from petl_bench.runs.processes import Ranks
from petl_bench.runs.progress import PlainProgress, shows_bars
from petl_bench.runs.record import measured_settings
from petl_bench.runs.trainer import CountingTrainer
from petl_bench.storage.checkpoints import (
    ResumePoints,
    SafeCheckpointIO,
    read_checkpoint,
    require_training_state,
    resumable,
)
from petl_bench.storage.untrusted import expanded

#: what to change where memory was not enough
_LESS_TO_TRAIN = (
    "lower data.batch_size, spread it over more --trainer.devices, or set backbone.gradient_checkpointing true; in "
    "validation, lower data.eval_batch_size; petl-bench plan estimates what a configuration takes"
)
_LESS_TO_TEST = "lower data.eval_batch_size, on which no figure depends"


def fit(experiment: Experiment) -> dict[str, Any] | None:
    """Trains, writes the adapter, tests the reported epoch if its truth is known, writes the record.

    Returns:
        The record; None where there is none: of a dry run, of a test split without answers, and in other processes
        than the first.
    """
    method, data = experiment.method, experiment.data
    with session("fit", experiment) as at:
        draft = at.begin_record()
        if method.trainable:
            at.train()
        if experiment.trainer.fast_dev_run:
            return None
        if experiment.run.best_on_val:
            at.load_best()
        if method.trainable:
            at.run.write_adapter(method, data)
        if not data.has_truth("test"):
            rank_zero_info(
                f"no figures and no record: {data.protocol.id} has no answers to test questions; petl-bench "
                f"predict --ckpt_path {at.run.folder / ADAPTER_NAME} writes those of the model"
            )
            return None
        if method.trainable:
            drafts.note_training(at.run, draft, at.trainer, method, data, at.meter, at.training())
        at.evaluate()
        return drafts.finish(at.run, draft, at.trainer, method, data, at.meter, experiment.run.record_words)


def test(experiment: Experiment) -> dict[str, Any] | None:
    """Tests an adapter, or a method that trains nothing.

    Returns:
        The record; None of a dry run, and in other processes than the first.
    """
    with session("test", experiment) as at:
        draft = at.begin_record()
        at.evaluate()
        if experiment.trainer.fast_dev_run:
            return None
        return drafts.finish(
            at.run, draft, at.trainer, experiment.method, experiment.data, at.meter, experiment.run.record_words
        )


def validate(experiment: Experiment) -> dict[str, Any]:
    """Evaluates on the validation split and prints; writes no record.

    Returns:
        The figures.
    """
    method, data = experiment.method, experiment.data
    with session("validate", experiment) as at:
        with at.working(_LESS_TO_TEST):
            at.trainer.validate(method, datamodule=data, verbose=False)
        drafts.show(method, data)
        return evaluation_of(method).record


def predict(experiment: Experiment) -> Path | None:
    """Writes what the task predicts for the test split: features (retrieval), or answers.

    Returns:
        The file that it writes, in the first process.
    """
    with session("predict", experiment) as at:
        with at.working(_LESS_TO_TEST):
            batches = at.trainer.predict(experiment.method, datamodule=experiment.data)
        return at.run.write_predictions(batches or [], experiment.method, experiment.data)


@contextmanager
def session(command: str, experiment: Experiment) -> Iterator[Session]:
    """A session, whose folder no other process of this machine gets meanwhile.

    Raises:
        PetlBenchError: the experiment cannot be run; nothing was written.
    """
    with ExitStack() as stack:
        opened = Session(command, experiment, stack)
        if command != "fit":
            opened.tell_changes()
        yield opened


class Session:
    """One command on one experiment.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        experiment: what it is about.
        stack: keeps the lock of the folder.

    Attributes:
        run: the folder.
        trainer: Lightning's.
        meter: measures costs.
    """

    def __init__(self, command: str, experiment: Experiment, stack: ExitStack) -> None:
        require_sense(command, experiment)
        self.command, self.experiment = command, experiment
        self._ranks, self.meter, self._early_ends = Ranks(), CostMeter(), EarlyEnds()
        self._points: ResumePoints | None = None
        self.run = name_run(command, experiment)
        self.trainer = self._trainer()
        leave_signals(self.trainer)
        self.run = open_run(self.run, command, experiment, stack)
        if command == "fit":
            STOP.advice = "; a dry run keeps nothing".__str__ if self._is_dry else self._how_to_go_on
        if self._logs and current_rank() == 0:
            self._open_logs(stack)

    # --- logs -----------------------------------------------------------------------------------------------------

    def _open_logs(self, stack: ExitStack) -> None:
        """Has `metrics.csv` go on, and the logs in tools."""
        run, options, resumed = self.run, self.experiment.run, self.run.resumed
        steps = SafeCheckpointIO().load_checkpoint(resumed).get("global_step", 0) if resumed else 0
        earlier = earlier_metrics(resumed.parent, steps) if resumed else []
        if earlier:
            continue_log(self.trainer, earlier)
        if not (names := log_names(options.log)):
            return
        figure = f"test_{self.experiment.method.task.monitor}"
        place = Place(run.folder, expanded(options.runs_dir), steps, figure)
        logs = open_logs(names, place, run.config, resumed.parent if resumed else run.folder, earlier)
        self.trainer.loggers = [*self.trainer.loggers, *logs]
        for log in logs:
            stack.push(partial(_close, log))

    # --- the trainer ----------------------------------------------------------------------------------------------

    def _trainer(self) -> Trainer:
        experiment = self.experiment
        given = experiment.given("callbacks")
        require_own_folder(given, self.run.folder)
        plugins = [*experiment.given("plugins"), *cluster_environment(experiment.trainer), SafeCheckpointIO()]
        loggers = [CSVLogger(self.run.folder, name="", version=""), *experiment.given("logger")]
        settings = {
            **experiment.objects,
            "use_distributed_sampler": False,
            "default_root_dir": str(self.run.folder),
            "callbacks": [*given, *self._callbacks()],
            "plugins": plugins,
            "strategy": self._strategy(),
            # Evaluations print; a log of theirs would take the place of the training's.
            "logger": loggers if self._logs else False,
        }
        try:
            trainer = CountingTrainer(**settings)
        except KeyError as error:
            raise UsageError(f"trainer.plugins: {error.args[0]} is not set in the environment") from error
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from error
        set_rank(trainer.global_rank)
        STOP.rank = trainer.global_rank
        require_as_many(experiment.processes, trainer, plugins)
        if isinstance(trainer.accelerator, CPUAccelerator):
            warn_of_slow_products(str(trainer.precision))
        return trainer

    @property
    def _is_dry(self) -> bool:
        return bool(self.experiment.trainer.fast_dev_run)

    @property
    def _logs(self) -> bool:
        return self.command == "fit" and not self._is_dry and self.experiment.trainer.logger is not False

    def _strategy(self) -> Strategy | str:
        """Our DDP wherever Lightning would take its own."""
        options, run = self.experiment.trainer, self.experiment.run
        if self.experiment.processes == 1 and options.strategy != "ddp":
            return "auto"
        every_step_alike = options.accumulate_grad_batches == 1  # accumulating leaves steps out of the graph
        return DDP(self._ranks, timedelta(seconds=run.collective_timeout), static_graph=every_step_alike)

    def _callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = [FrozenInBf16(), self.meter, self._ranks, self._early_ends]
        own_bar = any(isinstance(callback, ProgressBar) for callback in self.experiment.given("callbacks"))
        if self.experiment.trainer.enable_progress_bar is not False and not own_bar and not shows_bars():
            callbacks.append(PlainProgress())
        if self.experiment.run.best_on_val:
            monitor, folder = f"val_{self.experiment.method.task.monitor}", self.run.folder
            callbacks.append(
                ModelCheckpoint(folder, "best", monitor=monitor, mode=mode(monitor), enable_version_counter=False)
            )
        if self.command == "fit" and not self._is_dry:
            self._points = self._resume_points()
            callbacks.append(self._points)  # the last: it saves what the others have found
        return callbacks

    def _resume_points(self) -> ResumePoints:
        config, options = self.run.config, self.experiment.run
        basis = measured_settings(config, self.run.contents) | {"seed_everything": self.run.seed}
        annotations = self.experiment.data.annotations_sha256()
        words = partial(as_now, config=config, annotations=annotations, resolve=self.experiment.resolve)
        return ResumePoints(self.run.folder, basis, options.save_every_n_steps, options.allow_change, words)

    # --- the work -------------------------------------------------------------------------------------------------

    @contextmanager
    def working(self, advice: str) -> Iterator[None]:
        """Says what to change where memory is not enough, which process was lost, which file a lost loader was at."""
        STOP.unwinds = True
        files = self.experiment.data.current_files
        with self._ranks.ending_together(self.trainer), reporting_lost_workers(files), reporting_exhaustion(advice):
            yield

    def train(self) -> None:
        """Trains, from where an interrupted run was, if there is one."""
        method, start = self.experiment.method, self._start()
        _announce(method)
        if start is not None:
            require_training_state(start)
        with self.working(_LESS_TO_TRAIN):
            ckpt_path = None if start is None else str(start)
            self.trainer.fit(method, datamodule=self.experiment.data, ckpt_path=ckpt_path)

    def _start(self) -> Path | None:
        """The checkpoint that a training goes on from."""
        if (given := self.experiment.run.ckpt_path) is not None:
            return expanded(given).absolute()  # `last` and `best` are files here, too
        if self.run.resumed:
            rank_zero_info(f"an interrupted run goes on from {self.run.resumed} (--overwrite true starts over)")
        return self.run.resumed

    def evaluate(self) -> None:
        """Evaluates on the test split."""
        with self.working(_LESS_TO_TEST):
            self.trainer.test(self.experiment.method, datamodule=self.experiment.data, verbose=False)

    def load_best(self) -> None:
        """Gives the method the weights of its best epoch.

        Raises:
            UsageError: no epoch was validated.
        """
        method, best = self.experiment.method, self.run.folder / "best.ckpt"
        if not best.is_file():
            self.run.write_adapter(method, self.experiment.data)
            raise UsageError(
                f"best_on_val: training ended before validation ran for the first time (see trainer.max_time); there "
                f"are no figures, {self.run.folder / ADAPTER_NAME} is of the last step"
            )
        method.load_state_dict(read_checkpoint(best)["state_dict"], strict=False)

    # --- what is told ---------------------------------------------------------------------------------------------

    def begin_record(self) -> Draft:
        """The record as far as it is known now; empty where there will be none, and in other processes than the first.

        What it needs and cannot have is told before the costly part.
        """
        experiment = self.experiment
        if self._is_dry or not experiment.data.has_truth("test"):
            return {}
        selection = "best-val" if self.command == "fit" and experiment.run.best_on_val else "last"
        return drafts.begin(self.run, self.trainer, experiment.method, experiment.data, selection) or {}

    def training(self) -> Training:
        """For the record: the recipe training is compared with, what cut it short, and which user classes took part."""
        assert self._points is not None, "a training that ends has them"
        experiment = self.experiment
        classes = foreign_classes(experiment.trainer, experiment.plugins)
        return Training(self._points, experiment.recipe, self._early_ends.limits, classes)

    def tell_changes(self) -> None:
        """Says which options of the method are not those that the adapter was trained with."""
        for key, (before, now) in sorted(self.run.changed_options().items()):
            given = self.experiment.run.ckpt_path
            rank_zero_warn(f"{given} was trained with {key} {before}, and is used with {now}")

    def _how_to_go_on(self) -> str:
        """What is left of an interrupted fit, and what to do."""
        if (record := self.run.folder / self.run.record_name).is_file():
            return f"; the run is complete: {record}"
        failure = f"; {self._points.failure}" if self._points and self._points.failure else ""
        if (kept := resumable(self.run.folder) or self.run.resumed) is None:
            steps = self.trainer.global_step
            return failure or ("; no checkpoint could be saved" if steps else "; no step was made, so nothing is lost")
        options = self.experiment.run
        unwanted = {"--overwrite true": options.overwrite, "--ckpt_path": options.ckpt_path}
        without = " and ".join(option for option, given in unwanted.items() if given)
        return f"{failure}; the same command {f'without {without} ' if without else ''}goes on from {kept}"


def _close(log: Log, kind: type[BaseException] | None, *_: object) -> None:
    log.close(status_of(kind))


def _announce(method: Method) -> None:
    counts = method.parameter_counts()
    share = number(100 * counts["trainable"] / counts["total"], 3)
    rank_zero_info(
        f"{method.label} on {method.backbone.name}: {counts['trainable']:,} of {counts['total']:,} parameters "
        f"({share} %) are trained"
    )
