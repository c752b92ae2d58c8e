"""Has modules of other packages run late: when something is asked for that needs them.

A module is there at once when it is imported, with stand-ins for some of its names, and runs when a stand-in is used or
another name is asked for. From then on it is as if it had been imported ordinarily, for whoever took a stand-in, too.
So whatever another version of a package takes, it gets; at worst the module runs at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

Early = Callable[[str], Any]
"""Gives what a name stands for without running the module; None where it has to run."""


class StandIn:
    """In place of a class or function: whatever is done with it has the module run, and means what it has."""

    def __init__(self, real: Callable[[], Any]) -> None:
        self._real = real

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._real()(*args, **kwargs)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real())

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._real())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__qualname__"):  # annotations look for some
            raise AttributeError(f"what {self!r} stands for has not been asked for yet")
        return getattr(self._real(), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._real(),)


def arrange(
    module: str, stand_ins: Collection[str] = (), given: Mapping[str, Any] | None = None, early: Early | None = None
) -> None:
    """Has the first import of a module be a late one, if there is none yet.

    Args:
        module: its full name.
        stand_ins: names of its classes and functions that are taken, and perhaps never used.
        given: values of further names until it runs.
        early: is asked for all other names first.
    """
    if module not in sys.modules:
        sys.meta_path.insert(0, _Finder(module, stand_ins, given or {}, early))


class _Finder(MetaPathFinder):
    """Finds one module, once."""

    def __init__(self, name: str, stand_ins: Collection[str], given: Mapping[str, Any], early: Early | None) -> None:
        self._name, self._late = name, (stand_ins, given, early)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Late(spec, spec.loader, *self._late)
        return spec


class _Late(Loader):
    def __init__(
        self,
        spec: ModuleSpec,
        loader: Loader,
        stand_ins: Collection[str],
        given: Mapping[str, Any],
        early: Early | None,
    ) -> None:
        self._spec, self._loader, self._given, self._early = spec, loader, given, early
        self._stand_ins = {name: StandIn(partial(self._attribute, name)) for name in stand_ins}
        self._lock, self._at_work = RLock(), False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._spec.loader = module.__loader__ = self._loader
        self._module = module
        module.__dict__.update(self._given, **self._stand_ins, __getattr__=self._attribute)

    def _attribute(self, name: str) -> Any:
        """Something that the module did not have when it was asked for."""
        with self._lock:  # other threads wait until it is there
            # Asked for by what is imported here, or by `from module import name`, of what is no package.
            if self._at_work or name == "__path__":
                raise AttributeError(f"module '{self._spec.name}' has no attribute '{name}'")
            self._at_work = True
            try:
                if self._early is not None and (found := self._early(name)) is not None:
                    return found
                self._run()
            finally:
                self._at_work = False
        return getattr(self._module, name)

    def _run(self) -> None:
        module = self._module
        if "__getattr__" not in module.__dict__:  # another thread has run it
            return
        self._loader.exec_module(module)
        del module.__dict__["__getattr__"]
        for name, stand_in in self._stand_ins.items():
            self._replace(stand_in, module.__dict__.get(name))

    def _replace(self, stand_in: StandIn, real: Any) -> None:
        """Gives modules of the package that took a stand-in what it stands for."""
        package = self._spec.name.partition(".")[0]
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == package:
                taken = [key for key, value in vars(module).items() if value is stand_in]
                vars(module).update(dict.fromkeys(taken, real))
