"""Keyword arguments of a library call as options: `root=...` is `data.root`, if nothing but the data has a `root`."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

from petl_bench.cli.config_safety import ClassPathGuard
from petl_bench.cli.named_configs import SUFFIXES, find_config, find_fragment
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.formats import shown
from petl_bench.method import Method
from petl_bench.registry import is_within, named_class
from petl_bench.runs.experiment import RunOptions
from petl_bench.runs.trainer import CountingTrainer
from petl_bench.storage.dotted import put
from petl_bench.storage.plain_yaml import parse_yaml

#: groups of options, and what their values are
_GROUPS: dict[str, type] = {"data": VideoTextDataModule, "trainer": CountingTrainer, "model": Method}
_RUN = {field.name for field in dataclasses.fields(RunOptions)}
#: arguments that follow from something else
_LINKED = {"seed": "seed_everything", "spec": "the model's backbone"}


def as_arguments(configs: Sequence[str], options: Mapping[str, Any], guard: ClassPathGuard) -> list[str]:
    """What the command line would be given.

    Args:
        configs: names or paths of configurations.
        options: by name: `data.root`, `data.init_args.root`, or `root`.
        guard: reads the configurations.

    Raises:
        UsageError: a name that nothing has, or several; a value that no configuration holds.
    """
    contents = [_content(find_config(name), guard) for name in configs]
    names = _Names({group: _kind(group, [*contents, options], guard) for group in _GROUPS})
    arguments = [f"--config={name}" for name in configs]
    for name, value in options.items():
        if name == "allow_change":
            keys = [value] if isinstance(value, str) else [*value]
            arguments += ["--allow_change", *keys] if keys else []
        else:
            arguments.append(f"--{names.whole(name)}={_text(name, value)}")
    return arguments


def as_options(options: Mapping[str, Any], method: Method, data: VideoTextDataModule) -> dict[str, Any]:
    """The same as a configuration, where method and data are there already.

    Raises:
        UsageError: a name that neither the trainer nor a run has, or of what belongs to an object.
    """
    names = _Names({"data": type(data), "trainer": CountingTrainer, "model": type(method)})
    owners = {"data": data, "model": method}
    content: dict[str, Any] = {}
    for name, value in options.items():
        whole = names.whole(name)
        if (owner := owners.get(whole.split(".")[0])) is not None:
            raise UsageError(f"{name}: give it to {type(owner).__name__}, which is made already")
        put(content, whole, plain(value, name))
    return content


def plain(value: Any, where: str) -> Any:
    """A value as a configuration holds it.

    Raises:
        UsageError: it cannot; `where` begins the message.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item, where) for item in value]
    if isinstance(value, Mapping):
        return {str(name): plain(item, f"{where}.{name}") for name, item in value.items()}
    raise UsageError(
        f"{where} is {shown(value)}, which no configuration holds: give text, numbers, lists or mappings (of a class: "
        "class_path and init_args)"
    )


def _text(name: str, value: Any) -> str:
    value = plain(value, name)
    return value if isinstance(value, str) else json.dumps(value)


class _Names:
    """Which group of options has a name.

    Args:
        kinds: class by group; None where its options cannot be given.
    """

    def __init__(self, kinds: Mapping[str, type | None]) -> None:
        self._known = {group: set(parameters_of(kind)) if kind else set() for group, kind in kinds.items()}

    def whole(self, name: str) -> str:
        """The name with its group: `data.root` of `root`.

        Raises:
            UsageError: nothing has it, or several do.
        """
        first = name.split(".")[0]
        if first in _GROUPS or first in _RUN:
            return name
        if first in _LINKED:
            raise UsageError(f"{name} follows from {_LINKED[first]}: leave it out, or set that")
        owners = [group for group, known in self._known.items() if first in known]
        if len(owners) == 1:
            return f"{owners[0]}.{name}"
        if owners:
            both = " and of ".join(owners)
            raise UsageError(f"{first} is an option of {both}: say which, as in **{{'{owners[0]}.{name}': ...}}")
        close = get_close_matches(first, [*_RUN, *set().union(*self._known.values())], 1)
        hint = f": did you mean {close[0]}?" if close else "; `petl-bench fit --help` shows all options"
        raise UsageError(f"unknown option {shown(first)}{hint}")


def parameters_of(kind: type) -> Iterator[str]:
    """The names of a constructor's arguments, with those that it hands on to its bases."""
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        yield from (p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return


def _kind(group: str, contents: Sequence[Mapping[str, Any]], guard: ClassPathGuard) -> type | None:
    """The class that configurations name for a group of options; the last one counts."""
    if group == "trainer":
        return CountingTrainer
    named = [path for content in contents if (path := _class_path(content.get(group), guard))]
    if not named:
        return None
    module, _, name = named[-1].rpartition(".")
    if module:
        return _found(named[-1], group)
    return next((kind for kind in _below(_GROUPS[group]) if kind.__name__ == name), None)


def _found(class_path: str, group: str) -> type:
    """The class of a path.

    Raises:
        UsageError: there is none.
    """
    try:
        return named_class(class_path)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ImportError) and not (error.name and is_within(class_path, error.name)):
            raise  # of something that the module itself imports
        raise UsageError(f"{group}: there is no class {shown(class_path)}") from error


def _class_path(value: Any, guard: ClassPathGuard) -> str | None:
    """The class path that a value of `data` or `model` gives: a mapping, a file with one, or the path itself."""
    if isinstance(value, str | Path) and str(value).endswith(SUFFIXES):
        value = _content(find_fragment(str(value), Path()), guard)
    if isinstance(value, Mapping):
        value = value.get("class_path")
    if not isinstance(value, str):
        return None
    guard.check_arguments([f"--class_path={value}"])
    return value


def _content(path: Path, guard: ClassPathGuard) -> Any:
    return parse_yaml(guard.read(path), str(path))


def _below(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
