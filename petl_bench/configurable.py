"""What a configuration can name: objects that remember the arguments they were made with.

A notebook hands over objects where the command line names classes; from what they remember follows the same
configuration, and so the same folder, hash and record.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

_GIVEN = "_given"


class Configurable:
    """Base of classes that a configuration can name."""

    #: arguments that change no result
    operational: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]


def given_arguments(made: Configurable) -> dict[str, Any]:
    """The arguments that an object was made with, by name; defaults are left out."""
    return dict(vars(made).get(_GIVEN, {}))


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that notes its arguments, if it is the outermost one: bases are called with others."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if _GIVEN not in vars(self):
            bound = dict(signature.bind_partial(self, *args, **kwargs).arguments)
            rest = [name for name, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD]
            more = bound.pop(rest[0], {}) if rest else {}
            named = {name: value for name, value in bound.items() if name != next(iter(signature.parameters))}
            object.__setattr__(self, _GIVEN, named | more)  # a module refuses attributes before its own constructor
        init(self, *args, **kwargs)

    return wrapper
