"""What a configuration can name: objects that remember the arguments they were made with.

A notebook hands over objects where the command line names classes; from what they remember follows the same
configuration, and so the same folder, hash and record.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from petl_bench.errors import UsageError
from petl_bench.ranges import Checked

_GIVEN = "_given"


class Configurable(Checked):
    """Base of classes that a configuration can name."""

    #: arguments that change no result
    operational: ClassVar[frozenset[str]] = frozenset()
    #: arguments that there were none of before, by the value that changes nothing: that one is not hashed, so that runs
    #: of before keep their hash
    later_options: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    def contents(self) -> dict[str, Any]:
        """What stands for the paths among the arguments where runs are compared: the content of the files."""
        return {}

    def carried(self) -> dict[str, Any]:
        """Arguments as an adapter file holds them, where they are others: a small file by its content (`TextFile`)."""
        return {}


def given_arguments(made: Configurable) -> dict[str, Any]:
    """The arguments that an object was made with, by name; defaults are left out."""
    return dict(vars(made).get(_GIVEN, {}))


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that notes its arguments, if it is the outermost one: bases are called with others."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if _GIVEN in vars(self):
            init(self, *args, **kwargs)
            return
        # Not by `self.x = ...`: a module refuses attributes before its own constructor.
        object.__setattr__(self, _GIVEN, _named(signature, self, args, kwargs))
        try:
            init(self, *args, **kwargs)
        except (AttributeError, TypeError) as error:
            if is_unfinished(error):
                raise UsageError(f"{_handing_on(self)} ({error})") from error
            raise
        if hasattr(type(self), "register_module") and "_modules" not in vars(self):
            raise UsageError(_handing_on(self))

    return wrapper


def is_unfinished(error: Exception) -> bool:
    """Whether a constructor did not call that of its base, or not with all that it needs."""
    return bool(re.search(r"before Module\.__init__\(\) call|\w\.__init__\(\) missing .* argument", str(error)))


def _handing_on(made: object) -> str:
    return f"{type(made).__name__}.__init__ must begin with super().__init__(**kwargs), and take **kwargs for it"


def _named(signature: inspect.Signature, made: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name; empty where the constructor will refuse them."""
    try:
        bound = signature.bind(made, *args, **kwargs).arguments
    except TypeError:
        return {}
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    named = dict(list(bound.items())[1:])
    for name in [name for name in named if kinds[name] is inspect.Parameter.VAR_KEYWORD]:
        named |= named.pop(name)
    return named
