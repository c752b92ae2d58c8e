"""What becomes of the arguments of a command before they are parsed: all of it, in the order in which it is done.

1. `--debug` and `--plugins PACKAGE` are taken out (`taken`, before anything heavy is imported).
2. An adapter of the Hub gets its commit (`--ckpt_path hf-hub:owner/name@commit`), so that all that follows is of one.
3. Class paths are checked, and the names of files that stand for a group of options are replaced by what those hold
   (`ClassPathGuard`).
4. Where no configuration is given, it is the one beside the checkpoint. One whose method trains nothing, which cannot
   have a checkpoint, gives data and task, and that beside the checkpoint the rest: the adapter is tested on other data.
5. The packaged configuration that was named is noted as `--recipe`.
6. `--key null` becomes a configuration.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from petl_bench.errors import CheckpointError

if TYPE_CHECKING:
    from petl_bench.cli.config_safety import ClassPathGuard


#: arguments of a data module that an adapter was trained with: how frames are read
_OF_TRAINING = ("frames", "frame_rate", "sampling", "reader")


class Taken(NamedTuple):
    """A command line without the options that every command has."""

    arguments: list[str]
    plugins: list[str]


def taken(arguments: Sequence[str]) -> Taken:
    """Takes out `--debug` and every `--plugins PACKAGE`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugins", action="append", default=[])
    known, rest = parser.parse_known_args([argument for argument in arguments if argument != "--debug"])
    return Taken(rest, known.plugins)


def rewritten(command: str, arguments: Sequence[str], guard: ClassPathGuard) -> list[str]:
    """The arguments of a command as the parser of configurations takes them.

    Raises:
        UsageError: a class path is from outside, or a file that is named is none or cannot be used.
        CheckpointError: no configuration lies beside the checkpoint, or the Hub has no such adapter.
    """
    arguments = list(arguments) if command == "fit" else _with_commit(arguments)
    guard.check_arguments(arguments)
    arguments = _on_other_data(command, guard.with_fragments(arguments), guard)
    return _with_nulls(_with_recipe(_with_config_beside(command, arguments)))


def _with_commit(arguments: Sequence[str]) -> list[str]:
    """Says which commit of the Hub an adapter is of."""
    from petl_bench.hub.names import PREFIX
    from petl_bench.runs.hub_adapters import pinned

    out = list(arguments)
    for place, argument in enumerate(out):
        option, equals, value = argument.partition("=")
        if option == "--ckpt_path" and value.startswith(PREFIX):
            out[place] = f"--ckpt_path={pinned(value)}"
        elif not equals and argument.startswith(PREFIX) and place and out[place - 1] == "--ckpt_path":
            out[place] = pinned(argument)
    return out


def _with_config_beside(command: str, arguments: list[str]) -> list[str]:
    """Adds the `config.yaml` beside a checkpoint where no configuration is given: it says what was trained."""
    given = any(a in ("-c", "--config") or a.startswith("--config=") for a in arguments)
    checkpoint = next(iter(_values_of(("--ckpt_path",), arguments)), None)
    if command == "fit" or given or checkpoint is None:
        return arguments
    return ["--config", str(config_beside(checkpoint)), *arguments]


def _on_other_data(command: str, arguments: list[str], guard: ClassPathGuard) -> list[str]:
    """Puts the configuration beside a checkpoint below one whose method trains nothing.

    Frames are read as the adapter was trained, unless arguments say otherwise.
    """
    checkpoint = next(iter(_values_of(("--ckpt_path",), arguments)), None)
    given = _values_of(("-c", "--config"), arguments)
    if command == "fit" or checkpoint is None or len(given) != 1:
        return arguments
    overlay = _data_and_task(given[0], guard)
    if overlay is None:
        return arguments
    place = next(i for i, a in enumerate(arguments) if a in ("-c", "--config") or a.startswith("--config="))
    after = place + (1 if "=" in arguments[place] else 2)
    both = ["--config", str(config_beside(checkpoint)), f"--config={json.dumps(overlay)}"]
    return [*both, *arguments[:place], *arguments[after:]]  # first, as it says ckpt_path null


def _data_and_task(name: str, guard: ClassPathGuard) -> dict[str, Any] | None:
    """What a configuration says of data and task, if its method trains nothing; else None."""
    from petl_bench.cli.fragments import composed
    from petl_bench.cli.named_configs import found_config
    from petl_bench.registry import named_class

    path = found_config(name)
    if path is None:
        return None  # the parser says so
    found = composed(path)
    if not isinstance(found, dict):
        return None
    guard.check(found, str(path))
    model, data = found.get("model"), found.get("data")
    if not (isinstance(model, dict) and isinstance(data, dict) and {"class_path"} <= model.keys() & data.keys()):
        return None
    if "." not in model["class_path"] or getattr(named_class(model["class_path"]), "trainable", True):
        return None
    arguments = {key: value for key, value in data.get("init_args", {}).items() if key not in _OF_TRAINING}
    task = model.get("init_args", {}).get("task")
    return {"data": {**data, "init_args": arguments}, "model": {"init_args": {"task": task}}}


def config_beside(checkpoint: str) -> Path:
    """The configuration of the run that wrote a checkpoint.

    Raises:
        CheckpointError: there is none, or the checkpoint is no adapter.
    """
    from petl_bench.runs.checks import naming_option
    from petl_bench.runs.hub_adapters import local_adapter
    from petl_bench.runs.record import CONFIG_NAME
    from petl_bench.storage.adapters import require_adapter_path

    with naming_option("ckpt_path"):
        path = local_adapter(checkpoint)
        require_adapter_path(path)
    beside = path.parent / CONFIG_NAME
    if not beside.is_file():
        raise CheckpointError(f"no config.yaml beside {checkpoint}: give --config")
    return beside


def _with_recipe(arguments: list[str]) -> list[str]:
    """Says which packaged configuration was named, before anything that may say otherwise."""
    from petl_bench.cli.recipes import recipe_name

    name = recipe_name(_values_of(("-c", "--config"), arguments))
    return arguments if name is None else [f"--recipe={name}", *arguments]


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


def _values_of(options: Collection[str], arguments: Sequence[str]) -> list[str]:
    """What options are given, in order."""
    values = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        option, equals, value = argument.partition("=")
        if option in options and (equals or following):
            values.append(value if equals else following)
    return values
