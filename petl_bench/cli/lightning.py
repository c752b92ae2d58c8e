"""`fit`, `validate`, `test` and `predict`: LightningCLI with named configurations, checked class paths, run folders."""

from __future__ import annotations

import inspect
import json
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import (
    ActionConfigFile,  # pyright: ignore[reportPrivateImportUsage]  # public in its manual
    ArgumentError,
    Namespace,
    get_loader,  # pyright: ignore[reportPrivateImportUsage]
    set_loader,  # pyright: ignore[reportPrivateImportUsage]
)
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from petl_bench.backbones.base import Backbone
from petl_bench.cli.config_safety import ClassPathGuard, holds
from petl_bench.cli.messages import is_about_configuration, readable
from petl_bench.cli.named_configs import config_folder, find_config, list_configs
from petl_bench.cli.recipes import read_recipe, recipe_name
from petl_bench.cli.values import require_possible
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.current_files import named_when_lost
from petl_bench.data.qa import QuestionAnswerDataModule
from petl_bench.data.samples import Split
from petl_bench.errors import CheckpointError, PetlBenchError, UsageError, chain
from petl_bench.formats import number, shown
from petl_bench.inputs import InputSpec
from petl_bench.machine.installation import lacking, lost_import
from petl_bench.machine.launch import this_launch, without_left_overs
from petl_bench.machine.limits import fault_of_machine
from petl_bench.machine.memory import told_when_exhausted
from petl_bench.machine.signals import STOP
from petl_bench.method import Method
from petl_bench.optimizers import OptimizerRecipe
from petl_bench.ranges import Count, Seed
from petl_bench.registry import import_plugins, list_entries
from petl_bench.runs.clusters import cluster_environment, require_as_many, require_processes
from petl_bench.runs.cost import CostMeter
from petl_bench.runs.course import EarlyEnds, course_of, require_monitored, require_own_folder, require_validation
from petl_bench.runs.earlier import as_now
from petl_bench.runs.freedoms import foreign_classes, plain_defaults, refused_class, require_allowed
from petl_bench.runs.processes import Ranks, configure_ddp
from petl_bench.runs.record import measured_settings
from petl_bench.runs.run import ADAPTER_NAME, Draft, Run, Training, earlier_metrics, name_run, open_run
from petl_bench.runs.trainer import CountingTrainer
from petl_bench.runs.trainer_options import require_in_range
from petl_bench.storage.adapters import read_adapter, require_adapter_path
from petl_bench.storage.checkpoints import (
    ResumePoints,
    SafeCheckpointIO,
    read_checkpoint,
    require_training_state,
    resumable,
)
from petl_bench.storage.untrusted import expanded
from petl_bench.tasks.base import Task
from petl_bench.tasks.qa import QuestionAnswering

_yaml = get_loader("yaml")


def _load(text: str) -> Any:
    """What jsonargparse makes of a value: text that YAML fails on is text, whatever it fails with.

    File names that are not UTF-8 (`\\udcff`), and numbers of thousands of digits, are more than its fast parser takes.
    """
    try:
        return _yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if "\\ud" in text.lower():  # how such a name stands in a configuration; the slow parser reads it
            return yaml.safe_load(text)
        raise yaml.YAMLError(str(error)) from error


set_loader("yaml", _load, (yaml.YAMLError,))


class NamedConfig(ActionConfigFile):
    """`--config` that also takes the bare name of a packaged configuration."""

    guard = ClassPathGuard()

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> Any:
        if str(values).startswith("{"):  # one of our own, see _with_nulls
            return super().__call__(parser, cfg, str(values), option_string)
        path = find_config(str(values))
        text = self.guard.read(path)
        _require_takeable(self.guard.files[path], path)
        _tell(self.guard.translations)
        return super().__call__(parser, cfg, text, option_string)


def _tell(messages: list[str]) -> None:
    """Says each of them once."""
    while messages:
        rank_zero_info(messages.pop(0))


def _require_takeable(content: Any, path: Path) -> None:
    """Refuses options of the command in a configuration whose values jsonargparse fails on without saying so."""
    if content.get("config") is not None:
        raise UsageError(f"{path}: config: no configuration names others; give --config several times")
    changes = content.get("allow_change")
    if changes is not None and not (isinstance(changes, list) and all(isinstance(key, str) for key in changes)):
        raise UsageError(f"{path}: allow_change is {shown(changes)}: give a list of keys")


def spec_of(model: Method) -> InputSpec:
    """What links a data module to the backbone it feeds."""
    return model.backbone.spec


#: what to change where memory was not enough
_LESS_TO_TRAIN = (
    "lower data.batch_size, spread it over more --trainer.devices, or set backbone.gradient_checkpointing true; in "
    "validation, lower data.eval_batch_size; petl-bench plan estimates what a configuration takes"
)
_SMALLER = "lower data.batch_size, data.eval_batch_size, data.frames or the sizes of the model"
_LESS_TO_TEST = "lower data.eval_batch_size, on which no figure depends"


class PetlBenchCLI(LightningCLI):
    """LightningCLI whose runs end in a folder of their own with an adapter and a record."""

    run: Run
    resume_points: ResumePoints | None = None

    def __init__(self, args: list[str]) -> None:
        self.command = args[0]
        self.ranks = Ranks()
        with ExitStack() as self.held:  # the lock of the run's folder
            super().__init__(
                Method,
                VideoTextDataModule,
                trainer_class=CountingTrainer,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                args=args,
            )

    # --- parsing --------------------------------------------------------------------------------------------------

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(exit_on_error=False, allow_abbrev=False, prog="petl-bench", **kwargs)
        parser.add_argument(
            "-c", "--config", action=NamedConfig, help="A YAML file, or the bare name of a packaged one; repeatable."
        )
        return parser

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # an instance knows which one it is
        """The one subcommand that is run: a parser for each of the others would take a second together."""
        return {self.command: super().subcommands()[self.command]}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=Seed, default=0, help="Of everything that is random in a run.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--runs_dir",
            type=str,
            default="runs",
            help="Folder below which new runs get their folders; results of an adapter go beside it.",
        )
        parser.add_argument(
            "--overwrite",
            type=bool,
            default=False,
            help="Begin anew where a run of this name is complete or interrupted.",
        )
        parser.add_argument(
            "--allow_change",
            nargs="+",
            type=str,
            default=[],
            metavar="KEY",
            help="What may differ from the interrupted run that is continued; the record will say so.",
        )
        parser.add_argument(
            "--save_every_n_steps",
            type=Count | None,
            default=500,
            help="Batches between two checkpoints inside an epoch; null saves at its end only.",
        )
        parser.add_argument(
            "--collective_timeout",
            type=Count,
            default=600,
            help="Seconds after which a process that the others wait for counts as lost.",
        )
        parser.add_argument(
            "--zero_shot", type=bool, default=False, help="Test a method that trains without a checkpoint."
        )
        parser.add_argument(
            "--best_on_val",
            type=bool,
            default=False,
            help="Report the best epoch on the validation split (by Rsum or accuracy) instead of the last one.",
        )
        parser.add_argument(
            "--recipe",
            type=str | None,
            default=None,
            metavar="NAME",
            help="The packaged configuration whose epochs the record is held against; found among --config.",
        )
        _open_no_files(parser)
        parser.link_arguments("model", "data.init_args.spec", compute_fn=spec_of, apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        # Of tasks with an answer list; where a task has no root, nothing is linked.
        parser.link_arguments("data.init_args.root", "model.init_args.task.init_args.root")

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would let values inside a checkpoint beat the configuration and the command line."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        if not self.config[self.command].trainer.plugins:  # which may be to read these variables
            found = self.held.enter_context(without_left_overs())
            if found:
                rank_zero_info(f"no launcher started this process: {found} in the environment is ignored")

    # --- instantiation --------------------------------------------------------------------------------------------

    @property
    def options(self) -> Namespace:
        """The parsed options of the subcommand."""
        return self.config[str(self.subcommand)]

    def before_instantiate_classes(self) -> None:
        require_possible(self.options)
        require_allowed(self.options.trainer, NamedConfig.guard.plugins)
        require_in_range(self.options.trainer)
        plain_defaults(self.options.trainer)
        _require_no_effect(self.options)
        if self.subcommand == "fit" and self.options.zero_shot:
            raise UsageError("zero_shot is for test, validate and predict: fit trains")
        # An adapter's own record says what its training was held against.
        self.recipe = read_recipe(self.options.recipe) if self.subcommand == "fit" and self.options.recipe else None
        self._require_machine()

    def _require_machine(self) -> None:
        """Refuses what this machine or its scheduler cannot do, before weights are loaded."""
        self.processes = require_processes(self.options.trainer)
        if self.subcommand == "predict" and self.processes > 1:
            raise UsageError("predict writes one file: run it with --trainer.devices 1")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # Whatever refuses this combination does so before the run gets a folder, and before files are read.
        _require_match(self.model.task, self.datamodule)
        if self.subcommand == "fit":
            self.datamodule.require_frames_to_train_on()
        else:
            self._require_adapter()
        _require_answers(str(self.subcommand), self.model.task, self.datamodule)
        self.model.configure_model()
        self._require_sense()
        resolved = self._dumped(self.options)
        dry = bool(self.options.trainer.fast_dev_run)
        static = self.options.trainer.accumulate_grad_batches == 1  # accumulating leaves steps out of the graph
        configure_ddp(self.options.trainer.strategy, self.options.collective_timeout, static, self.ranks)
        self.run = name_run(str(self.subcommand), self.options, resolved, self.model, self.datamodule)
        self.meter, self.early_ends = CostMeter(), EarlyEnds()
        logs = self.subcommand == "fit" and not dry and self.options.trainer.logger is not False
        settings: dict[str, Any] = {
            "use_distributed_sampler": False,
            "default_root_dir": str(self.run.folder),
            "callbacks": [*self._given("callbacks"), *self._callbacks(dry)],
            "plugins": [
                *self._given("plugins"),
                *cluster_environment(self.options.trainer),
                SafeCheckpointIO(),
            ],
            # Evaluations print; a log of theirs would take the place of the training's.
            "logger": [CSVLogger(self.run.folder, name="", version=""), *self._given("logger")] if logs else False,
        }
        require_own_folder(settings["callbacks"][: len(self._given("callbacks"))], self.run.folder)
        try:
            trainer = super().instantiate_trainer(**settings, **kwargs)
        except KeyError as error:
            raise UsageError(f"trainer.plugins: {error.args[0]} is not set in the environment") from error
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from error
        rank_zero_only.rank = STOP.rank = trainer.global_rank
        require_as_many(self.processes, trainer, settings["plugins"])
        # Its handler of SIGTERM talks to the other processes, whatever they are doing; ours are there already.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        self.run = open_run(
            self.run, str(self.subcommand), self.options, self._resolve, self.model, self.datamodule, self.held
        )
        if self.subcommand == "fit":
            STOP.advice = "; a dry run keeps nothing".__str__ if dry else self._how_to_go_on
        if logs:
            self._go_on_logging(trainer.loggers[0])
        return trainer

    def _dumped(self, options: Namespace) -> dict[str, Any]:
        resolved = yaml.safe_load(self._parser(self.subcommand).dump(options, skip_none=False))
        resolved.pop("config", None)  # which files it came from is no part of what is measured
        return resolved

    def _resolve(self, config: dict[str, Any]) -> dict[str, Any]:
        """A configuration with the defaults of what it does not say."""
        return self._dumped(self._parser(self.subcommand).parse_object(config))

    def _given(self, option: str) -> list[Any]:
        """The objects that a configuration gives for an option of the trainer, which may be a list of them."""
        value = self.config_init[str(self.subcommand)].trainer[option]
        given = list(value) if isinstance(value, (list, tuple)) else [value]
        return [item for item in given if item is not None and not isinstance(item, bool)]

    def _require_sense(self) -> None:
        """Refuses what would fail only after the costly part, or come to nothing: the cheapest checks first."""
        if self.subcommand != "fit":
            self._load(self.model, self.options.ckpt_path)
        elif self.options.ckpt_path is not None:
            with _told_of("ckpt_path"):
                self.model.on_load_checkpoint(read_checkpoint(expanded(self.options.ckpt_path)))
        self.datamodule.setup(str(self.subcommand))
        if self.subcommand == "fit" and self.model.trainable:
            self._require_trainable()
        if self.subcommand == "validate" and not self.datamodule.samples("val"):
            raise UsageError(f"{self.datamodule.protocol.id} has no validation split; set data.val_videos, or use test")

    def _require_trainable(self) -> None:
        """Refuses a training that could teach nothing, or that waits for figures that never come."""
        trainer, data, task = self.options.trainer, self.datamodule, self.model.task
        if data.batch_size % self.processes:
            raise UsageError(
                f"data.batch_size {data.batch_size} is global and must be a multiple of {self.processes} processes"
            )
        if reason := task.untaught(data.batch_size, self.processes, data.training_videos()):
            raise UsageError(reason)
        if trainer.accumulate_grad_batches > 1 and not task.accumulates:
            raise UsageError(
                f"trainer.accumulate_grad_batches: {task.name} compares all samples of a batch, so a sum over smaller "
                "batches is another loss; lower data.batch_size, or use backbone.gradient_checkpointing"
            )
        batches, held_out = data.training_batches(), data.samples("val")
        if self.options.best_on_val and not held_out:
            raise UsageError(
                f"best_on_val: {data.protocol.id} has no validation split; set data.val_videos to hold some training "
                "videos out (an epoch is never chosen on test)"
            )
        if trainer.fast_dev_run:
            return
        course = course_of(trainer, batches, bool(held_out))
        if self.options.best_on_val:
            require_validation(course, "best_on_val is true")
        several = any(len(sample.captions) > 1 for sample in held_out)
        types = {question.type for sample in held_out for question in sample.questions}
        metrics = [f"val_{name}" for name in task.metric_names(several, types)] if held_out else []
        require_monitored(self._given("callbacks"), course, ("loss", *task.logs), metrics)

    def _go_on_logging(self, logger: Any) -> None:
        """The table of a resumed run begins with the rows before its checkpoint."""
        if self.run.resumed is None or rank_zero_only.rank:
            return
        steps = SafeCheckpointIO().load_checkpoint(self.run.resumed).get("global_step", 0)
        rows = earlier_metrics(self.run.resumed.parent, steps)  # before the logger deletes them
        logger.experiment.metrics.extend(rows)

    def _callbacks(self, dry: bool) -> list[Callback]:
        callbacks: list[Callback] = [self.meter, self.ranks, self.early_ends]
        if self.options.best_on_val:
            callbacks.append(self._best_on_val())
        if self.subcommand == "fit" and not dry:
            callbacks.append(self._resume_points())  # the last: it saves what the others have found
        return callbacks

    def _resume_points(self) -> ResumePoints:
        basis = measured_settings(self.run.config, self.run.contents) | {"seed_everything": self.run.seed}
        every = self.options.save_every_n_steps
        words = partial(
            as_now,
            config=self.run.config,
            annotations=self.datamodule.annotations_sha256(),
            resolve=self._resolve,
        )
        self.resume_points = ResumePoints(self.run.folder, basis, every, self.options.allow_change, words)
        return self.resume_points

    def _best_on_val(self) -> ModelCheckpoint:
        monitor = f"val_{self.model.task.monitor}"
        return ModelCheckpoint(self.run.folder, "best", monitor=monitor, mode="max", enable_version_counter=False)

    # --- subcommands ----------------------------------------------------------------------------------------------

    def fit(self, model: Method, datamodule: VideoTextDataModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Trains, writes the adapter, tests the reported epoch if its truth is known, writes the record."""
        if ckpt_path is not None:
            ckpt_path = str(expanded(ckpt_path).absolute())  # `last` and `best` are files here, too
        elif self.run.resumed:
            ckpt_path = str(self.run.resumed)
            rank_zero_info(f"an interrupted run goes on from {ckpt_path} (--overwrite true begins anew)")
        draft = self._begin_record(model, datamodule)
        if model.trainable:
            self._announce(model)
            if ckpt_path is not None:
                require_training_state(Path(ckpt_path))
            with self._losses_told(), told_when_exhausted(_LESS_TO_TRAIN):
                self.trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, **kwargs)
        if self.options.trainer.fast_dev_run:
            return
        if self.options.best_on_val:
            self._load_best(model)
        if model.trainable:
            self.run.write_adapter(model)
        if not datamodule.has_truth("test"):
            rank_zero_info(
                f"no figures and no record: {datamodule.protocol.id} has no answers to test questions; petl-bench "
                f"predict --ckpt_path {self.run.folder / ADAPTER_NAME} writes those of the model"
            )
            return
        if model.trainable:
            self.run.note_training(draft, self.trainer, model, datamodule, self.meter, self._training())
        with self._losses_told(), told_when_exhausted(_LESS_TO_TEST):
            self.trainer.test(model, datamodule=datamodule, verbose=False)
        self.run.finish(self.trainer, model, datamodule, self.meter, draft)

    def _begin_record(self, model: Method, data: VideoTextDataModule) -> Draft:
        """The record as far as it is known now; empty where there will be none, and in other processes than the first.

        What it needs and cannot have is told before the costly part.
        """
        if self.options.trainer.fast_dev_run or not data.has_truth("test"):
            return {}
        return self.run.begin_record(self.trainer, model, data, self.selection) or {}

    @property
    def selection(self) -> str:
        """Which epoch is reported."""
        return "best-val" if self.subcommand == "fit" and self.options.best_on_val else "last"

    def _load_best(self, model: Method) -> None:
        best = self.run.folder / "best.ckpt"
        if not best.is_file():
            self.run.write_adapter(model)
            raise UsageError(
                f"best_on_val: training ended before validation ran for the first time (see trainer.max_time); there "
                f"are no figures, {self.run.folder / ADAPTER_NAME} is of the last step"
            )
        model.load_state_dict(read_checkpoint(best)["state_dict"], strict=False)

    def _training(self) -> Training:
        """For the record: what training was held against and cut short by, and which classes of the user took part."""
        assert self.resume_points is not None, "a training that ends has them"
        classes = foreign_classes(self.options.trainer, NamedConfig.guard.plugins)
        return Training(self.resume_points, self.recipe, self.early_ends.limits, classes)

    def _how_to_go_on(self) -> str:
        """What is left of an interrupted fit, and what to do."""
        if (record := self.run.folder / self.run.record_name).is_file():
            return f"; the run is complete: {record}"
        failure = f"; {self.resume_points.failure}" if self.resume_points and self.resume_points.failure else ""
        if (kept := resumable(self.run.folder) or self.run.resumed) is None:
            steps = getattr(getattr(self, "trainer", None), "global_step", 0)
            return failure or ("; no checkpoint could be saved" if steps else "; no step was made, so nothing is lost")
        unwanted = {"--overwrite true": self.options.overwrite, "--ckpt_path": self.options.ckpt_path}
        without = " and ".join(option for option, given in unwanted.items() if given)
        return f"{failure}; the same command {f'without {without} ' if without else ''}goes on from {kept}"

    @contextmanager
    def _losses_told(self) -> Iterator[None]:
        """Says which process was lost, or which file a lost loader process was at."""
        STOP.unwinds = True
        with self.ranks.together(self.trainer), named_when_lost(self.datamodule.current_files):
            yield

    @staticmethod
    def _announce(model: Method) -> None:
        counts = model.parameter_counts()
        share = number(100 * counts["trainable"] / counts["total"], 3)
        rank_zero_info(
            f"{model.label} on {model.backbone.name}: {counts['trainable']:,} of {counts['total']:,} parameters "
            f"({share} %) are trained"
        )

    def test(self, model: Method, datamodule: VideoTextDataModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Tests an adapter, or a method that trains nothing."""
        self._tell_changes()
        draft = self._begin_record(model, datamodule)
        with self._losses_told(), told_when_exhausted(_LESS_TO_TEST):
            self.trainer.test(model, datamodule=datamodule, verbose=False)
        if not self.options.trainer.fast_dev_run:
            self.run.finish(self.trainer, model, datamodule, self.meter, draft)

    def validate(
        self, model: Method, datamodule: VideoTextDataModule, ckpt_path: str | None = None, **kwargs: Any
    ) -> None:
        """Evaluates on the validation split and prints; writes no record."""
        self._tell_changes()
        with self._losses_told(), told_when_exhausted(_LESS_TO_TEST):
            self.trainer.validate(model, datamodule=datamodule, verbose=False)
        self.run.show(model, datamodule)

    def predict(
        self, model: Method, datamodule: VideoTextDataModule, ckpt_path: str | None = None, **kwargs: Any
    ) -> None:
        """Writes what the task predicts for the test split: features (retrieval), or answers."""
        self._tell_changes()
        with self._losses_told(), told_when_exhausted(_LESS_TO_TEST):
            batches = self.trainer.predict(model, datamodule=datamodule)
        self.run.write_predictions(batches or [], model)

    def _require_adapter(self) -> None:
        """Refuses to evaluate what was never trained, unless asked to."""
        if self.options.ckpt_path is not None:
            with _told_of("ckpt_path"):
                require_adapter_path(expanded(self.options.ckpt_path))
        elif self.model.trainable and not self.options.zero_shot:
            raise UsageError(
                f"{self.subcommand} of {type(self.model).__name__} needs --ckpt_path adapter.safetensors; to evaluate "
                "it untrained on purpose, add --zero_shot true"
            )

    def _load(self, model: Method, ckpt_path: str | None) -> None:
        if ckpt_path is not None:
            path = expanded(ckpt_path)
            adapter = read_adapter(path)
            model.load_trained_state(adapter, str(path))
            trained, used = adapter.metadata.get("pixels"), model.identity()["pixels"]
            if trained not in (None, used):  # adapters of earlier versions do not say
                rank_zero_warn(f"{path} was trained with pixels {trained}, and is used with {used}")

    def _tell_changes(self) -> None:
        """Says which options of the method are not those that the adapter was trained with."""
        for key, (before, now) in sorted(self.run.changed_options().items()):
            rank_zero_warn(f"{self.options.ckpt_path} was trained with {key} {before}, and is used with {now}")


def _open_no_files(parser: LightningArgumentParser) -> None:
    """Keeps jsonargparse from files: it would read any one whose name is the value of a key that takes a class.

    `ClassPathGuard` has put those that are meant in their places, and looked at them, before.
    """
    for action in parser._actions:
        if hasattr(action, "_enable_path"):
            action._enable_path = False  # type: ignore[attr-defined]  # nothing public turns this off
            action.sub_add_kwargs = {**getattr(action, "sub_add_kwargs", {}), "sub_configs": False}  # type: ignore[attr-defined]


def _require_match(task: Task, data: VideoTextDataModule) -> None:
    if task.texts != data.texts:
        raise UsageError(
            f"task {task.name} reads {task.texts}, but data {data.name} has {data.texts}: "
            "choose a task and a dataset that belong together"
        )


def _require_answers(command: str, task: Task, data: VideoTextDataModule) -> None:
    """Refuses a list of answers that answers none of the questions at hand."""
    splits: dict[str, tuple[Split, ...]] = {"fit": ("train", "val", "test"), "validate": ("val",), "test": ("test",)}
    if isinstance(task, QuestionAnswering) and isinstance(data, QuestionAnswerDataModule) and task.vocabulary:
        data.require_covered(task.vocabulary, splits.get(command, ()))


def _require_no_effect(options: Namespace) -> None:
    """Refuses values of options that Lightning adds to its commands and nothing here reads."""
    for name in ("weights_only", "verbose", "return_predictions"):
        if options.get(name) not in (None, True):
            raise UsageError(f"{name} is {options[name]}: leave it out, it has no effect here")


def run(
    command: str,
    arguments: Sequence[str],
    plugins: Sequence[str] = (),
    cli: Callable[[list[str]], PetlBenchCLI] = PetlBenchCLI,
) -> int:
    """Runs one of the four Lightning subcommands, or what `cli` makes of it.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    _quiet()
    rank_zero_only.rank = this_launch().rank  # Lightning's own is of whatever variable was there at its import
    import_plugins(plugins)
    guard = NamedConfig.guard = ClassPathGuard(plugins)
    guard.check_arguments(arguments)
    arguments = _with_nulls(_with_recipe(_with_config_beside(command, guard.with_fragments(arguments))))
    _tell(guard.translations)
    try:
        with told_when_exhausted(_SMALLER):
            cli([command, *arguments])
    except ArgumentError as error:
        _require_able(error)
        told = readable(str(error), _known_words, partial(_where, files=guard.files))
        raise UsageError(refused_class(str(error), plugins) or told) from error
    except MisconfigurationException as error:
        raise UsageError(str(error)) from error
    except (ValueError, TypeError) as error:  # jsonargparse wraps what a constructor raises
        cause = _cause(error)
        if cause is error:
            _require_able(error)
        if cause is error and is_about_configuration(str(error)):
            raise UsageError(readable(str(error), _known_words)) from error
        raise cause from error
    except SystemExit as stop:  # --help and --print_config end this way
        return int(stop.code or 0)
    return 0


@contextmanager
def _told_of(option: str) -> Iterator[None]:
    """Names the option that named a file, where that cannot be used."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{option}: {error}") from error


def _require_able(error: BaseException) -> None:
    """Says what this installation or machine lacks, where that is behind what a parser says.

    Raises:
        PetlBenchError: naming the package, where a constructor asked for it and not a class path of the user's; or what
            ran out.
    """
    lost = lost_import(error)
    if lost is not None:
        if not re.search(rf"[\s'\"]{re.escape(str(lost.name))}\.", str(error)):
            raise UsageError(lacking(lost)) from error
    elif fault := fault_of_machine(error):
        raise fault from error


def _cause(error: BaseException) -> BaseException:
    """Our own error that another one was raised from, or the error itself."""
    return next((one for one in chain(error) if isinstance(one, PetlBenchError)), error)


def _with_nulls(arguments: Sequence[str]) -> list[str]:
    """Turns `--a.b.c null` into a configuration: jsonargparse passes a null on to nested classes as the text "None"."""
    split: list[str] = []
    for argument in arguments:
        split += argument.split("=", 1) if argument.startswith("--") and argument.endswith("=null") else [argument]
    out: list[str] = []
    for argument in split:
        if argument == "null" and out and out[-1].startswith("--"):
            value: Any = None
            for key in reversed(out.pop()[2:].split(".")):
                value = {key: value}
            out.append(f"--config={json.dumps(value)}")
        else:
            out.append(argument)
    return out


def _with_config_beside(command: str, arguments: list[str]) -> list[str]:
    """Adds the `config.yaml` beside a checkpoint where no configuration is given: it says what was trained."""
    given = any(a in ("-c", "--config") or a.startswith("--config=") for a in arguments)
    checkpoint = _value_of("--ckpt_path", arguments)
    if command == "fit" or given or checkpoint is None:
        return arguments
    path = expanded(checkpoint)
    with _told_of("ckpt_path"):
        require_adapter_path(path)
    beside = path.parent / "config.yaml"
    if not beside.is_file():
        raise CheckpointError(f"no config.yaml beside {checkpoint}: give --config")
    return ["--config", str(beside), *arguments]


def _with_recipe(arguments: list[str]) -> list[str]:
    """Says which packaged configuration was named, before anything that may say otherwise."""
    name = recipe_name(_values_of(("-c", "--config"), arguments))
    return arguments if name is None else [f"--recipe={name}", *arguments]


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    return next(iter(_values_of((option,), arguments)), None)


def _values_of(options: Collection[str], arguments: Sequence[str]) -> list[str]:
    """What options are given, in order."""
    values = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        option, equals, value = argument.partition("=")
        if option in options and (equals or following):
            values.append(value if equals else following)
    return values


def _quiet() -> None:
    """Silences what says nothing to a user of this suite."""
    for message in (
        "LightningCLI's args parameter",  # both ways of passing arguments carry the same ones
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",
        "Checkpoint directory .* exists and is not empty",
        ".*The number of training batches .* is smaller than the logging interval",
        ".*`ModelCheckpoint.*monitor=None.*",
        # Lightning 2.6 calls instantiate_classes; we call dump(skip_none), the name that all of 4.40 to 4.x know.
        r"\s*By default only one JsonargparseDeprecationWarning",
        r"\s*``instantiate_classes`` was deprecated",
        r"\s*skip_none parameter was deprecated",
        "Experiment logs directory .* exists and is not empty",
        "Total length of `list` across ranks is zero",  # no validation split
        "It is recommended to use `self.log.*sync_dist=True",  # every process has the figures of all samples
        "You have overridden `configure_gradient_clipping`",
        "You're resuming from a checkpoint that ended before the epoch ended",  # our loaders begin where it ended
        "You defined a `validation_step` but have no `val_dataloader`",  # profile
    ):
        warnings.filterwarnings("ignore", message)
    for name in ("pytorch_lightning", "lightning_fabric"):  # advertisements and what was left at its default
        logging.getLogger(f"{name}.utilities.rank_zero").addFilter(_worth_reading)
    # We read plain values only, whatever it says (petl_bench.storage.checkpoints).
    logging.getLogger("pytorch_lightning.trainer.connectors.checkpoint_connector").addFilter(_worth_reading)


def _worth_reading(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    noise = (
        "💡",
        "`weights_only` was not set",
        "GPU available",
        "TPU available",
        "HPU available",
        "Loading `train_dataloader`",
    )
    return not text.startswith(noise)


def _where(words: Sequence[str], files: Mapping[Path, Any]) -> str:
    """The user's own file that holds the first of these words, and whether it hides a packaged one.

    Args:
        words: that a message is about.
        files: configurations that were read, and what they hold.
    """
    packaged = config_folder()
    own = {path: value for path, value in files.items() if not path.resolve().is_relative_to(packaged.resolve())}
    path = next((path for word in words for path, value in own.items() if holds(value, word)), None)
    if path is None:
        return ""
    hidden = next((name for name in list_configs() if path.resolve().as_posix().endswith(f"/{name}")), None)
    return f" in {path}" + (f", which is read in place of the packaged {hidden}" if hidden else "")


def _known_words() -> list[str]:
    """Class names and constructor arguments that a configuration of ours may hold."""
    words = [entry.name for folder in ("methods", "datamodules") for entry in list_entries(folder)]
    stack: list[type] = [Method, VideoTextDataModule, Backbone, Task, OptimizerRecipe, Trainer]
    while stack:
        kind = stack.pop()
        stack += kind.__subclasses__()
        words += [kind.__name__, *inspect.signature(kind.__init__).parameters]
    return words
