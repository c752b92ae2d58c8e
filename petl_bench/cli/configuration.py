"""Parses a configuration with LightningCLI, checks its options, and makes the objects of an experiment."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
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
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_info

from petl_bench.cli.config_safety import ClassPathGuard, holds
from petl_bench.cli.messages import is_about_configuration, readable
from petl_bench.cli.named_configs import config_folder, find_config, list_configs
from petl_bench.cli.recipes import read_recipe
from petl_bench.cli.rewriting import rewritten
from petl_bench.cli.values import require_possible
from petl_bench.configurable import Configurable
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import PetlBenchError, UsageError, chain
from petl_bench.formats import shown
from petl_bench.lightning_seams import quiet, set_rank
from petl_bench.machine.installation import lacking, lost_import
from petl_bench.machine.launch import this_launch, without_left_overs
from petl_bench.machine.limits import fault_of_machine
from petl_bench.machine.memory import reporting_exhaustion
from petl_bench.method import Method
from petl_bench.ranges import Seed
from petl_bench.registry import import_plugins, named_class
from petl_bench.runs.checks import require_adapter
from petl_bench.runs.clusters import require_processes
from petl_bench.runs.experiment import Experiment, RunOptions
from petl_bench.runs.freedoms import plain_defaults, refused_class, require_allowed
from petl_bench.runs.logs import require_logs
from petl_bench.runs.trainer import CountingTrainer
from petl_bench.runs.trainer_options import require_in_range

_yaml = get_loader("yaml")
#: what to change where memory was not enough
_SMALLER = "lower data.batch_size, data.eval_batch_size, data.frames or the sizes of the model"
#: options that Lightning adds to its commands and nothing here reads
_NO_EFFECT = ("weights_only", "verbose", "return_predictions")
#: the option of the backbone that names its weights
_WEIGHTS = "model.init_args.backbone.init_args.pretrained"


def _load(text: str) -> Any:
    r"""What jsonargparse makes of a value: text that YAML fails on is text, whatever it fails with.

    File names that are not UTF-8 (`\udcff`), and numbers of thousands of digits, are more than its fast parser takes.
    """
    try:
        return _yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if "\\ud" in text.lower():  # how such a name stands in a configuration; the slow parser reads it
            return yaml.safe_load(text)
        raise yaml.YAMLError(str(error)) from error


set_loader("yaml", _load, (yaml.YAMLError,))


@contextmanager
def configured(command: str, given: list[str] | dict[str, Any], plugins: Sequence[str] = ()) -> Iterator[Configuration]:
    """A parsed configuration; an error inside the block is reported in its terms, in one line.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        given: arguments of the command line, or what a configuration holds.
        plugins: packages that the user trusts.

    Raises:
        UsageError: for anything wrong in options or configuration.
        SystemExit: of `--help` and `--print_config`.
    """
    guard = ClassPathGuard(plugins)
    set_rank(this_launch().rank)
    with quiet(), ExitStack() as stack:
        import_plugins(plugins)
        if isinstance(given, list):
            given = rewritten(command, given, guard)
            _tell(guard.translations)
        stack.enter_context(in_one_line(guard))
        stack.enter_context(reporting_exhaustion(_SMALLER))
        configuration = Configuration(command, given, guard)
        if not configuration.options.trainer.plugins:  # which may be to read these variables
            left_over = stack.enter_context(without_left_overs())
            if left_over:
                rank_zero_info(f"no launcher started this process: {left_over} in the environment is ignored")
        yield configuration


class NamedConfig(ActionConfigFile):
    """`--config` that also takes the bare name of a packaged configuration.

    Attributes:
        guard: reads the files.
    """

    guard: ClassPathGuard

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> Any:
        if str(values).startswith("{"):  # one of our own, see `petl_bench.cli.rewriting`
            return super().__call__(parser, cfg, str(values), option_string)
        path = find_config(str(values))
        text = self.guard.read(path)
        _require_takeable(self.guard.files[path], path)
        _tell(self.guard.translations)
        return super().__call__(parser, cfg, text, option_string)


def _tell(messages: list[str]) -> None:
    """Prints each message once."""
    while messages:
        rank_zero_info(messages.pop(0))


def _require_takeable(content: Any, path: Path) -> None:
    """Refuses options of the command in a configuration whose values jsonargparse fails on without saying so."""
    if content.get("config") is not None:
        raise UsageError(f"{path}: config: no configuration names others; give --config several times")
    changes = content.get("allow_change")
    if changes is not None and not (isinstance(changes, list) and all(isinstance(key, str) for key in changes)):
        raise UsageError(f"{path}: allow_change is {shown(changes)}: give a list of keys")


class Configuration(LightningCLI):
    """LightningCLI that parses the options of one command, and makes nothing by itself.

    Args:
        command: `fit`, `validate`, `test` or `predict`.
        given: arguments of the command line, or what a configuration holds.
        guard: reads configurations.
    """

    def __init__(self, command: str, given: list[str] | dict[str, Any], guard: ClassPathGuard) -> None:
        self.command, self.guard = command, guard
        super().__init__(
            Method,
            VideoTextDataModule,
            trainer_class=CountingTrainer,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=given,
            run=False,
        )

    # --- the parser -----------------------------------------------------------------------------------------------

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(exit_on_error=False, allow_abbrev=False, prog=f"petl-bench {self.command}", **kwargs)
        named: Any = parser.add_argument(
            "-c", "--config", action=NamedConfig, help="A YAML file, or the bare name of a packaged one; repeatable."
        )
        named.guard = self.guard
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=Seed, default=0, help="Seed of everything random in a run.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        of_lightning: set[str | int] = {*self.subcommands()[self.command]}
        elsewhere: set[str | int] = {"seed_everything", "allow_change", "ckpt_path"}
        parser.add_class_arguments(RunOptions, skip=elsewhere, instantiate=False)
        parser.add_argument(
            "--allow_change",
            nargs="+",
            type=str,
            default=[],
            metavar="KEY",
            help="Options that may differ from the interrupted run that is resumed; the record lists them.",
        )
        parser.add_method_arguments(CountingTrainer, self.command, skip=of_lightning)
        open_no_files(parser)
        parser.link_arguments("model", "data.init_args.spec", apply_on="instantiate")  # by `build`; no option
        parser.link_arguments("seed_everything", "data.init_args.seed")
        # Of tasks with an answer list; where a task has no root, nothing is linked.
        parser.link_arguments("data.init_args.root", "model.init_args.task.init_args.root")

    def instantiate_classes(self) -> None:
        """Nothing: `experiment` and `build` do, once whoever asked has seen the options."""

    # --- what comes out -------------------------------------------------------------------------------------------

    @property
    def options(self) -> Namespace:
        """All options, as parsed."""
        return self.config

    def experiment(self, method: Method | None = None, data: VideoTextDataModule | None = None) -> Experiment:
        """Method, data module and options of a run, checked as far as they can be before anything is made.

        Args:
            method: that the configuration describes, where it is there already.
            data: likewise.

        Raises:
            UsageError: options are out of their range, or ask for what this machine does not have.
        """
        options = self.options
        self.require_possible()
        processes = require_processes(options.trainer)
        if self.command == "predict" and processes > 1:
            raise UsageError("predict writes one file: run it with --trainer.devices 1")
        if data is None:
            require_adapter(self.command, named_class(options.model.class_path), self._run_options)
            data = self.data()
            data.require_files(self.command)  # before weights are fetched, which may take minutes
        return self.build(method, data, processes)

    def require_possible(self) -> None:
        """Refuses options that are out of their range, and classes that a run cannot keep its promises with."""
        options = self.options
        require_possible(options)
        require_allowed(options.trainer, self.guard.plugins)
        require_in_range(options.trainer)
        require_logs(options.log, options.trainer.logger)
        plain_defaults(options.trainer)
        for name in _NO_EFFECT:
            if options.get(name) not in (None, True):
                raise UsageError(f"{name} is {options[name]}: leave it out, it has no effect here")
        if self.command == "fit" and options.zero_shot:
            raise UsageError("zero_shot is for test, validate and predict: fit trains")

    def inspected(self) -> Experiment:
        """The same with random weights, for one process of this machine; no weight file need be there.

        Raises:
            UsageError: options are out of their range, or name a checkpoint.
        """
        self.require_possible()
        if self.options.ckpt_path:
            raise UsageError("ckpt_path: params and profile look at a configuration, they load no checkpoint")
        if self.options.get(_WEIGHTS) is not None:
            self.options[_WEIGHTS] = None
        return self.build()

    def build(
        self, method: Method | None = None, data: VideoTextDataModule | None = None, processes: int = 1
    ) -> Experiment:
        """Makes what the options describe, see `experiment`, without looking at them."""
        options = self.options
        run = self._run_options
        # An adapter's own record says which recipe its training was compared with.
        recipe = read_recipe(run.recipe) if self.command == "fit" and run.recipe else None
        data = self.data() if data is None else data
        method = self._method() if method is None else method
        if not data.is_linked:
            data.link(method.backbone.spec, run.seed_everything)
        method.seed = run.seed_everything
        config, plugins = self.dumped(options), self.guard.plugins
        parts = (method, data, options.trainer, _trainer_alone(options.trainer))
        return Experiment(*parts, run, config, self.resolve, recipe, plugins, processes)

    def data(self) -> VideoTextDataModule:
        """The data module, which nobody has told yet what the backbone expects.

        Raises:
            UsageError: its options are wrong.
        """
        return self._made("data")

    def _method(self) -> Method:
        return self._made("model")

    def weights(self) -> str:
        """Where the weights of the backbone are, in a few words; they are not fetched.

        Raises:
            UsageError: no weights are called so.
            CheckpointError: they are neither here nor to be had.
        """
        backbone = self.options.model.init_args.backbone
        pretrained = self.options.get(_WEIGHTS)
        return named_class(backbone.class_path).whereabouts(str(backbone.init_args.architecture), pretrained)

    @property
    def _run_options(self) -> RunOptions:
        return RunOptions(**{field.name: self.options.get(field.name) for field in dataclasses.fields(RunOptions)})

    def _made(self, name: str) -> Any:
        """The method (`model`) or the data module (`data`) of the configuration."""
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments({"model": Method, "data": VideoTextDataModule}[name], name, required=True)
        open_no_files(parser)
        return parser.instantiate_classes(Namespace({name: self.options[name]}))[name]

    def dumped(self, options: Namespace) -> dict[str, Any]:
        """Options as `config.yaml` holds them."""
        resolved = yaml.safe_load(self.parser.dump(options, skip_none=False))
        resolved.pop("config", None)  # which files it came from is no part of what is measured
        return resolved

    def resolve(self, config: dict[str, Any]) -> dict[str, Any]:
        """A configuration with the defaults of what it does not say."""
        return self.dumped(self.parser.parse_object(config))


def _trainer_alone(options: Namespace) -> Namespace:
    """Options of the trainer with their callbacks, loggers and the like made."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(CountingTrainer, "trainer")
    made: Any = parser.instantiate_classes(Namespace(trainer=options))
    return made.trainer


def open_no_files(parser: LightningArgumentParser) -> None:
    """Keeps jsonargparse from files: it would read any one whose name is the value of a key that takes a class.

    `ClassPathGuard` has put those that are meant in their places, and looked at them, before.
    """
    for action in parser._actions:
        if hasattr(action, "_enable_path"):
            action._enable_path = False  # type: ignore[attr-defined]  # nothing public turns this off
            action.sub_add_kwargs = {**getattr(action, "sub_add_kwargs", {}), "sub_configs": False}  # type: ignore[attr-defined]


# --- what went wrong --------------------------------------------------------------------------------------------------


@contextmanager
def in_one_line(guard: ClassPathGuard) -> Iterator[None]:
    """Puts what parsers and constructors raise in one line, in the words of the user's configuration."""
    try:
        yield
    except ArgumentError as error:
        _require_able(error)
        told = readable(str(error), known_words, partial(_where, files=guard.files))
        raise UsageError(refused_class(str(error), guard.plugins) or told) from error
    except MisconfigurationException as error:
        raise UsageError(str(error)) from error
    except (ValueError, TypeError) as error:  # jsonargparse wraps what a constructor raises
        cause = _cause(error)
        if cause is error:
            _require_able(error)
        if cause is error and is_about_configuration(str(error)):
            raise UsageError(readable(str(error), known_words)) from error
        raise cause from error


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


def known_words() -> list[str]:
    """Class names and constructor arguments that a configuration of ours may hold."""
    words: list[str] = []
    stack: list[type] = [Configurable, Trainer]
    while stack:
        kind = stack.pop()
        stack += kind.__subclasses__()
        words += [kind.__name__, *inspect.signature(kind.__init__).parameters]
    return words
