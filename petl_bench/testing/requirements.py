"""How the checks say what is wrong: an AssertionError with one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import find_config
from petl_bench.cli.tiny_parts import classes_of
from petl_bench.errors import UsageError
from petl_bench.registry import FOLDERS, KINDS, import_plugins, load_plugins, named_class

#: options as a mapping, or the file of a configuration
Options = Mapping[str, Any] | str | Path


def require(condition: object, sentence: str) -> None:
    """Raises an AssertionError unless the condition holds; so, too, where Python drops `assert`."""
    if not condition:
        raise AssertionError(sentence)


@contextmanager
def told_of(subject: str) -> Iterator[None]:
    """Whatever goes wrong inside the block is an AssertionError about the subject, in one line."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{subject}: {_one_line(error) or 'an assertion fails'}") from error
    except Exception as error:  # of code that is checked, which may raise anything
        raise AssertionError(f"{subject}: {type(error).__name__}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def class_of(kind: str, given: type[Any] | str) -> type[Any]:
    """The class that is checked: itself, by its path, or by its short name where a configuration may use that.

    Args:
        kind: one of `petl_bench.registry.KINDS`.
        given: the class, or how a configuration names it.

    Raises:
        AssertionError: there is no such class, or it is of another kind.
    """
    found = _named(kind, given) if isinstance(given, str) else given
    base = named_class(KINDS[kind].base)
    ours = isinstance(found, type) and issubclass(found, base)
    package = getattr(found, "__module__", "").split(".")[0]
    if ours and package not in ("petl_bench", *FOLDERS, "__main__"):
        load_plugins([package])  # which may have configurations
    require(ours, f"{given} is no {base.__name__}: derive the class from {KINDS[kind].base}")
    return found


def _named(kind: str, name: str) -> Any:
    if "." not in name:
        known = classes_of(kind)
        require(name in known, f"{name} is none of the {kind} there are ({', '.join(known)}): give its class path")
        return known[name]
    import_plugins()
    try:
        return named_class(name)
    except (ImportError, AttributeError) as error:
        raise AssertionError(f"{name} cannot be imported: {_one_line(error)}") from error


def options_of(given: Options, section: str) -> dict[str, Any]:
    """Constructor arguments, as a configuration holds them.

    Args:
        given: the arguments themselves; or a file with a whole configuration, with its section, or with arguments.
        section: `model` or `data`.

    Raises:
        AssertionError: the file cannot be read.
    """
    if isinstance(given, Mapping):
        return dict(given)
    try:
        value = composed(find_config(str(given)))
    except UsageError as error:
        raise AssertionError(str(error)) from error
    require(isinstance(value, dict), f"{given} is no mapping of keys to values")
    value = value.get(section, value)
    return dict(value.get("init_args", {})) if "class_path" in value else dict(value)
