"""What a program or a notebook calls: `petl_bench.fit` and its siblings do what the commands of the same names do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from petl_bench.cli.config_safety import ClassPathGuard
from petl_bench.cli.configuration import Configuration, configured
from petl_bench.cli.objects import configuration_of
from petl_bench.cli.overrides import as_arguments, as_options
from petl_bench.cli.rewriting import config_beside
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.lightning_seams import interruptible
from petl_bench.machine.limits import explaining_machine_faults
from petl_bench.machine.output import printable
from petl_bench.machine.signals import ONE_AT_A_TIME, as_rank, unhandled
from petl_bench.method import Method
from petl_bench.registry import import_plugins
from petl_bench.runs import session
from petl_bench.runs.experiment import Experiment

#: a configuration's name or path, or several in order; or a method
What = str | Path | Sequence[str | Path] | Method | None
Data = VideoTextDataModule | str | Path | Mapping[str, Any] | None


def fit(what: What, data: Data = None, *, plugins: Sequence[str] = (), **options: Any) -> dict[str, Any] | None:
    """Trains, tests the result, and writes the folder of the run, as `petl-bench fit` does.

    `petl_bench.fit("msrvtt_mvadapter", root="~/msrvtt", max_epochs=1)`, or with objects
    `petl_bench.fit(MVAdapter(backbone=backbone, task=task), MSRVTT(root), max_epochs=1)`.

    An option may go by its bare name, which is looked up among those of data, trainer and model, or by its whole one:
    `**{"data.root": ...}`, `**{"model.backbone.pretrained": ...}`. With objects, options are those of the trainer and
    the run; the rest was given to their constructors. `seed_everything` is then `data.seed` unless it is given. What is
    random about objects that are made already, such as fresh weights, follows from the seed of whoever made them.

    The call leaves the handlers of signals alone. Ctrl+C (SIGINT) raises `KeyboardInterrupt` after what the last whole
    step left is saved; the same call goes on from there. Other signals do what they do in the program; then, and after
    a kill, it goes on from the last checkpoint (`save_every_n_steps`). With `devices` above 1, every other process runs
    the program from its start, and gets None here: what one process should do alone belongs below `if record:`. Calls
    of several threads run one after the other; the global random state is that of the run afterwards.

    Args:
        what: name or path of a configuration, or several that are merged in order; or a method that was not fit yet.
        data: a data module, where `what` is a method; else what the option `data` takes.
        plugins: packages with classes of your own that configurations name.
        options: of data, trainer, model and the run.

    Returns:
        The record, as in `result.json`; None of a dry run (`fast_dev_run`) and where a test split has no answers.

    Raises:
        PetlBenchError: in one line, as the command line prints it.
    """
    return _call("fit", session.fit, what, data, plugins, options)


def test(what: What = None, data: Data = None, *, plugins: Sequence[str] = (), **options: Any) -> dict[str, Any] | None:
    """Tests an adapter (`ckpt_path`), or a method that trains nothing, as `petl-bench test` does.

    `petl_bench.test(ckpt_path="runs/.../adapter.safetensors")` takes the configuration that lies beside it. For
    arguments, signals and errors see `petl_bench.fit`.

    Returns:
        The record, as in `test.json`; None of a dry run.
    """
    return _call("test", session.test, what, data, plugins, options)


def validate(what: What = None, data: Data = None, *, plugins: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    """Evaluates an adapter on the validation split, as `petl-bench validate` does; nothing is written.

    For arguments, signals and errors see `petl_bench.fit`.

    Returns:
        The figures, as in the `eval` block of a record.
    """
    return _call("validate", session.validate, what, data, plugins, options)


def predict(what: What = None, data: Data = None, *, plugins: Sequence[str] = (), **options: Any) -> Path | None:
    """Writes features of the test split, or answers to its questions, as `petl-bench predict` does.

    For arguments, signals and errors see `petl_bench.fit`.

    Returns:
        The file that was written.
    """
    return _call("predict", session.predict, what, data, plugins, options)


def _call(
    command: str,
    work: Callable[[Experiment], Any],
    what: What,
    data: Data,
    plugins: Sequence[str],
    options: dict[str, Any],
) -> Any:
    with ONE_AT_A_TIME, printable(), unhandled(), interruptible(), explaining_machine_faults():
        as_rank()
        if isinstance(what, Method):
            if not isinstance(data, VideoTextDataModule):
                raise UsageError(f"{type(what).__name__} is a method: give it a data module, too")
            with _of_objects(command, what, data, options, plugins) as configuration:
                return work(configuration.experiment(what, data))
        if isinstance(data, VideoTextDataModule):
            raise UsageError(f"{type(data).__name__} is a data module: give a method before it, not a configuration")
        if data is not None:
            options = {"data": data, **options}
        import_plugins(plugins)
        arguments = as_arguments(_configs(command, what, options), options, ClassPathGuard(plugins))
        with configured(command, arguments, plugins) as configuration:
            return work(configuration.experiment())


@contextmanager
def _of_objects(
    command: str, method: Method, data: VideoTextDataModule, options: dict[str, Any], plugins: Sequence[str]
) -> Iterator[Configuration]:
    if command == "fit" and method.pretrained_parameters():
        raise UsageError(f"this {type(method).__name__} is adapted already, so it may be trained: make a new one")
    content = configuration_of(method, data) | {"seed_everything": data.seed} | as_options(options, method, data)
    with configured(command, content, plugins) as configuration:
        data.link(method.backbone.spec, configuration.options.seed_everything)
        yield configuration


def _configs(command: str, what: What, options: Mapping[str, Any]) -> list[str]:
    """The configurations that are named, or the one beside the checkpoint."""
    if isinstance(what, str | Path):
        return [str(what)]
    if isinstance(what, Sequence):
        return [str(one) for one in what]
    if what is not None:
        raise UsageError(f"{type(what).__name__} is neither a configuration's name nor a method")
    checkpoint = options.get("ckpt_path")
    return [] if command == "fit" or checkpoint is None else [str(config_beside(str(checkpoint)))]
