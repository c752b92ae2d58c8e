"""`fit`, `validate`, `test` and `predict`: LightningCLI with named configurations, checked class paths, run folders."""

from __future__ import annotations

import inspect
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, Namespace  # pyright: ignore[reportPrivateImportUsage]  # public in its manual
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from petl_bench.adapters import read_adapter, require_adapter_path
from petl_bench.backbones.base import Backbone, InputSpec
from petl_bench.checkpoints import (
    LAST,
    ResumePoints,
    SafeCheckpointIO,
    read_checkpoint,
    require_training_state,
    resumable,
)
from petl_bench.config_safety import ClassPathGuard
from petl_bench.cost import CostMeter
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.current_files import named_when_lost
from petl_bench.data.qa import QuestionAnswerDataModule
from petl_bench.data.samples import Split
from petl_bench.errors import CheckpointError, PetlBenchError, UsageError
from petl_bench.method import Method
from petl_bench.named_configs import config_folder, find_config, with_found_fragments
from petl_bench.optimizers import OptimizerRecipe
from petl_bench.processes import Ranks, configure_ddp
from petl_bench.registry import import_plugins, list_entries
from petl_bench.results import measured_settings
from petl_bench.run import ADAPTER_NAME, Run, earlier_metrics, open_run
from petl_bench.signals import Stopped, StopRequest
from petl_bench.tasks.base import Task
from petl_bench.tasks.qa import QuestionAnswering


class NamedConfig(ActionConfigFile):
    """`--config` that also takes the bare name of a packaged configuration."""

    guard = ClassPathGuard()

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> Any:
        if str(values).startswith("{"):  # one of our own, see _with_nulls
            return super().__call__(parser, cfg, str(values), option_string)
        path = find_config(str(values))
        self.guard.check_file(path)
        return super().__call__(parser, cfg, with_found_fragments(path), option_string)


def spec_of(model: Method) -> InputSpec:
    """What links a data module to the backbone it feeds."""
    return model.backbone.spec


class PetlBenchCLI(LightningCLI):
    """LightningCLI whose runs end in a folder of their own with an adapter and a record."""

    run: Run
    resume_points: ResumePoints | None = None

    def __init__(self, args: list[str], stop_request: StopRequest | None = None) -> None:
        self.stop_request = stop_request or StopRequest()
        self.ranks = Ranks()
        with ExitStack() as self.held:  # the lock of the run's folder
            super().__init__(
                Method,
                VideoTextDataModule,
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
            type=int | None,
            default=500,
            help="Batches between two checkpoints inside an epoch; null saves at its end only.",
        )
        parser.add_argument(
            "--collective_timeout",
            type=int,
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
        parser.link_arguments("model", "data.init_args.spec", compute_fn=spec_of, apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would let values inside a checkpoint beat the configuration and the command line."""

    # --- instantiation --------------------------------------------------------------------------------------------

    @property
    def options(self) -> Namespace:
        """The parsed options of the subcommand."""
        return self.config[str(self.subcommand)]

    def before_instantiate_classes(self) -> None:
        if not isinstance(self.options.seed_everything, int) or isinstance(self.options.seed_everything, bool):
            raise UsageError("seed_everything must be a number: a random seed cannot be repeated")
        _require_whole_splits(self.options.trainer)
        if self.subcommand == "fit" and self.options.zero_shot:
            raise UsageError("zero_shot is for test, validate and predict: fit trains")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # Whatever refuses this combination does so before the run gets a folder.
        _require_match(self.model.task, self.datamodule)
        _require_answers(str(self.subcommand), self.model.task, self.datamodule)
        self.model.configure_model()
        resolved = yaml.safe_load(self._parser(self.subcommand).dump(self.options, skip_none=False))
        resolved.pop("config", None)  # which files it came from is no part of what is measured
        dry = bool(self.options.trainer.fast_dev_run)
        static = self.options.trainer.accumulate_grad_batches == 1  # accumulating leaves steps out of the graph
        configure_ddp(self.options.trainer.strategy, self.options.collective_timeout, static)
        self.run = open_run(str(self.subcommand), self.options, resolved, self.model, self.datamodule, self.held)
        self.meter = CostMeter()
        settings: dict[str, Any] = {
            "use_distributed_sampler": False,
            "default_root_dir": str(self.run.folder),
            "callbacks": [*(self.config_init[str(self.subcommand)].trainer.callbacks or []), *self._callbacks(dry)],
            "plugins": [*(self.config_init[str(self.subcommand)].trainer.plugins or []), SafeCheckpointIO()],
        }
        if self.options.trainer.logger is None:
            # Evaluations print; a log of theirs would take the place of the training's.
            settings["logger"] = self._logger() if self.subcommand == "fit" and not dry else False
        try:
            trainer = super().instantiate_trainer(**settings, **kwargs)
        except ValueError as error:
            raise UsageError(f"trainer: {error}") from error
        # Its handler of SIGTERM talks to the other processes, whatever they are doing; ours are there already.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        return trainer

    def _logger(self) -> CSVLogger:
        """A table of the run; a resumed one begins with the rows before its checkpoint."""
        resumed = self.run.resumed
        steps = SafeCheckpointIO().load_checkpoint(resumed).get("global_step", 0) if resumed else 0
        rows = earlier_metrics(self.run.folder, steps)
        logger = CSVLogger(self.run.folder, name="", version="")
        if rows and rank_zero_only.rank == 0:
            logger.experiment.metrics.extend(rows)  # type: ignore[arg-type]  # text is written as it is
        return logger

    def _callbacks(self, dry: bool) -> list[Callback]:
        callbacks: list[Callback] = [self.meter, self.ranks]
        if self.options.best_on_val:
            callbacks.append(self._best_on_val())
        if self.subcommand == "fit" and not dry:
            callbacks.append(self._resume_points())  # the last: it saves what the others have found
        return callbacks

    def _resume_points(self) -> ResumePoints:
        basis = measured_settings(self.run.config) | {
            "seed_everything": self.run.seed,
            "annotation_files": self.datamodule.annotations_sha256(),
        }
        every = self.options.save_every_n_steps
        if every is not None and every < 1:
            raise UsageError(f"save_every_n_steps is {every}: it must be at least 1, or null")
        self.resume_points = ResumePoints(self.run.folder, basis, every, self.options.allow_change, self.stop_request)
        return self.resume_points

    def _best_on_val(self) -> ModelCheckpoint:
        if not self.datamodule.samples("val"):
            raise UsageError(
                f"best_on_val: {self.datamodule.protocol.id} has no validation split; set data.val_videos to hold some "
                "training videos out (an epoch is never chosen on test)"
            )
        monitor = f"val_{self.model.task.monitor}"
        return ModelCheckpoint(self.run.folder, "best", monitor=monitor, mode="max", enable_version_counter=False)

    # --- subcommands ----------------------------------------------------------------------------------------------

    def fit(self, model: Method, datamodule: VideoTextDataModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Trains, writes the adapter, tests the reported epoch if its truth is known, writes the record."""
        try:
            self._fit(model, datamodule, ckpt_path, **kwargs)
        except Stopped as stopped:
            if self.resume_points and rank_zero_only.rank == 0 and resumable(self.run.folder):
                again = "without --overwrite true " if self.options.overwrite else ""
                stopped.advice = f"; the same command {again}goes on from {self.run.folder / LAST}"
            raise

    def _fit(self, model: Method, datamodule: VideoTextDataModule, ckpt_path: str | None, **kwargs: Any) -> None:
        if ckpt_path is None and self.run.resumed:
            ckpt_path = str(self.run.resumed)
            rank_zero_info(f"an interrupted run goes on from {ckpt_path} (--overwrite true begins anew)")
        if model.trainable:
            self._announce(model)
            if ckpt_path is not None:
                require_training_state(Path(ckpt_path))
            with self._losses_told():
                self.trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, **kwargs)
        if self.options.trainer.fast_dev_run:
            return
        if self.options.best_on_val:
            state = read_checkpoint(self.run.folder / "best.ckpt")["state_dict"]
            model.load_state_dict(state, strict=False)
        if model.trainable:
            self.run.write_adapter(model)
        if not datamodule.has_truth("test"):
            rank_zero_info(
                f"no figures and no record: {datamodule.protocol.id} has no answers to test questions; petl-bench "
                f"predict --ckpt_path {self.run.folder / ADAPTER_NAME} writes those of the model"
            )
            return
        with self._losses_told():
            self.trainer.test(model, datamodule=datamodule, verbose=False)
        selection = "best-val" if self.options.best_on_val else "last"
        self.run.finish(self.trainer, model, datamodule, self.meter, selection, self.resume_points)

    @contextmanager
    def _losses_told(self) -> Iterator[None]:
        """Says which process was lost, or which file a lost loader process was at."""
        with self.ranks.together(self.trainer), named_when_lost(self.datamodule.current_files):
            yield

    @staticmethod
    def _announce(model: Method) -> None:
        counts = model.parameter_counts()
        share = 100 * counts["trainable"] / counts["total"]
        rank_zero_info(
            f"{model.label} on {model.backbone.name}: {counts['trainable']:,} of {counts['total']:,} parameters "
            f"({share:.3f} %) are trained"
        )

    def test(self, model: Method, datamodule: VideoTextDataModule, ckpt_path: str | None = None, **kwargs: Any) -> None:
        """Tests an adapter, or a method that trains nothing."""
        self._load(model, ckpt_path)
        datamodule.annotations_sha256()  # of all files, for the record: one that is missing is better told now
        with self._losses_told():
            self.trainer.test(model, datamodule=datamodule, verbose=False)
        if not self.options.trainer.fast_dev_run:
            self.run.finish(self.trainer, model, datamodule, self.meter, "last")

    def validate(
        self, model: Method, datamodule: VideoTextDataModule, ckpt_path: str | None = None, **kwargs: Any
    ) -> None:
        """Evaluates on the validation split and prints; writes no record."""
        if not datamodule.samples("val"):
            raise UsageError(f"{datamodule.protocol.id} has no validation split; set data.val_videos, or use test")
        self._load(model, ckpt_path)
        with self._losses_told():
            self.trainer.validate(model, datamodule=datamodule, verbose=False)
        self.run.show(model, datamodule)

    def predict(
        self, model: Method, datamodule: VideoTextDataModule, ckpt_path: str | None = None, **kwargs: Any
    ) -> None:
        """Writes what the task predicts for the test split: features (retrieval), or answers."""
        if self.trainer.world_size > 1:
            raise UsageError("predict writes one file: run it with --trainer.devices 1")
        self._load(model, ckpt_path)
        with self._losses_told():
            batches = self.trainer.predict(model, datamodule=datamodule)
        self.run.write_predictions(batches or [], model)

    def _load(self, model: Method, ckpt_path: str | None) -> None:
        if ckpt_path is not None:
            path = Path(ckpt_path).expanduser()
            model.load_trained_state(read_adapter(path), str(path))
            for key, (before, now) in sorted(self.run.changed_options().items()):
                rank_zero_warn(f"{path} was trained with {key} {before}, and is used with {now}")
            return
        if model.trainable and not self.options.zero_shot:
            raise UsageError(
                f"{self.subcommand} of {type(model).__name__} needs --ckpt_path adapter.safetensors; to evaluate it "
                "untrained on purpose, add --zero_shot true"
            )


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


def _require_whole_splits(options: Namespace) -> None:
    """Refuses what Lightning takes to leave samples out of an evaluation."""
    for name in ("limit_val_batches", "limit_test_batches", "limit_predict_batches"):
        value = options[name]
        if name == "limit_val_batches" and value == 0:
            continue  # no validation
        if value is not None and str(value) != "1.0":  # 1 is one batch
            raise UsageError(f"trainer.{name} {value}: evaluations count every sample; for a trial set fast_dev_run")
    every = options.check_val_every_n_epoch
    if every is not None and every < 1:
        raise UsageError(f"trainer.check_val_every_n_epoch is {every}: it must be at least 1")


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
    import_plugins(plugins)
    arguments = [_packaged(argument) for argument in arguments]
    NamedConfig.guard = ClassPathGuard(plugins)
    NamedConfig.guard.check_arguments(arguments)
    arguments = [command, *_with_nulls(_with_config_beside(command, arguments))]
    try:
        cli(arguments)
    except ArgumentError as error:
        raise UsageError(_readable(str(error))) from error
    except MisconfigurationException as error:
        raise UsageError(str(error)) from error
    except (ValueError, TypeError) as error:  # jsonargparse wraps what a constructor raises
        raise _cause(error) from error
    except SystemExit as stop:  # --help and --print_config end this way
        return int(stop.code or 0)
    return 0


def _cause(error: BaseException) -> BaseException:
    """Our own error that another one was raised from, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, PetlBenchError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


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


def _packaged(argument: str) -> str:
    """Replaces the name of a packaged fragment, `--data data/fixture.yaml`, by its path, as `--config` does."""
    option, equals, value = argument.rpartition("=")
    if not value.endswith(".yaml") or Path(value).exists() or not (config_folder() / value).is_file():
        return argument
    return f"{option}{equals}{config_folder() / value}"


def _with_config_beside(command: str, arguments: list[str]) -> list[str]:
    """Adds the `config.yaml` beside a checkpoint where no configuration is given: it says what was trained."""
    given = any(a in ("-c", "--config") or a.startswith("--config=") for a in arguments)
    checkpoint = _value_of("--ckpt_path", arguments)
    if command == "fit" or given or checkpoint is None:
        return arguments
    path = Path(checkpoint).expanduser()
    require_adapter_path(path)
    beside = path.parent / "config.yaml"
    if not beside.is_file():
        raise CheckpointError(f"no config.yaml beside {checkpoint}: give --config")
    return ["--config", str(beside), *arguments]


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == option and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(option + "="):
            return argument.partition("=")[2]
    return None


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
    # We read plain values only, whatever it says (petl_bench.checkpoints).
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


#: what jsonargparse says deep inside its messages, from the most to the least telling
_TELLING = (
    (r"Option '([^']+)' is not accepted", "unknown option '{0}'"),
    (r"Expected a dot import path string: (\S+)", "unknown class '{0}'"),
    (r'Parser key "([^"]+)": Expected an? (.+?)\. Got value: (.+?) (?:- |Given|$)', "{0}: expected {1}, got {2}"),
    (r"[Uu]nrecognized arguments: (.+)", "unknown option {0}"),
    (r"Key '([^']+)' is not expected", "unknown key '{0}'"),
)


def _readable(message: str) -> str:
    """jsonargparse's message in one line, with a suggestion for a misspelt class or option."""
    line = " ".join(message.split())
    if "arguments are required" in line:
        return "no configuration: add --config NAME (`petl-bench list configs` shows the packaged ones)"
    told = line[:400]
    for pattern, template in _TELLING:
        found = re.findall(pattern, line)
        if found:
            values = found[-1] if isinstance(found[-1], tuple) else (found[-1],)
            told = template.format(*(re.sub(r"<class '([\w.]+)'>|typing\.", r"\1", value) for value in values))
            break
    for word in _unknown_words(line):
        close = get_close_matches(word, _known_words(), 1, 0.7)
        if close and close[0] != word:
            return f"{told}: did you mean '{close[0]}'?"
    return told


def _unknown_words(line: str) -> list[str]:
    """The words a message of jsonargparse complains about."""
    patterns = (r"Option '([\w.]+)'", r"import path string: ([\w.]+)", r"Key '([\w.]+)'", r"arguments: --([\w.]+)")
    return [word.rsplit(".", 1)[-1] for pattern in patterns for word in re.findall(pattern, line)]


def _known_words() -> list[str]:
    """Class names and constructor arguments that a configuration of ours may hold."""
    words = [entry.name for folder in ("methods", "datamodules") for entry in list_entries(folder)]
    stack: list[type] = [Method, VideoTextDataModule, Backbone, Task, OptimizerRecipe, Trainer]
    while stack:
        kind = stack.pop()
        stack += kind.__subclasses__()
        words += [kind.__name__, *inspect.signature(kind.__init__).parameters]
    return words
