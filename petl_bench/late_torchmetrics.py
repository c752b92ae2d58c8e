"""Has torchmetrics import its metrics when one is asked for.

Lightning takes three names of torchmetrics, whose `__init__` imports all metrics, and with them SciPy, Matplotlib,
torchvision and transformers where they are installed. Here the package is there at once, and its `__init__` runs when a
name is asked for that is none of the three; from then on it is as if it had been imported ordinarily.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

_NAME = "torchmetrics"
#: what Lightning takes, and where that is
_TAKEN = {"Metric": "metric", "MetricCollection": "collections", "__version__": "__about__"}
#: what these modules take of the package themselves
_LOGGER = "_logger"


class Finder(MetaPathFinder):
    """Finds torchmetrics, once, and has it run late."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != _NAME:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Late(spec, spec.loader)
        return spec


class _Late(Loader):
    def __init__(self, spec: ModuleSpec, loader: Loader) -> None:
        self._spec, self._loader = spec, loader
        self._lock, self._at_work = RLock(), False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._spec.loader = module.__loader__ = self._loader
        module.__dict__["__getattr__"] = partial(self._attribute, module)

    def _attribute(self, module: ModuleType, name: str) -> Any:
        """Something that the module does not have yet."""
        if name == _LOGGER:
            return logging.getLogger(_NAME)
        with self._lock:  # other threads wait until it is there
            if self._at_work:  # asked for by what is imported here
                raise AttributeError(f"module '{_NAME}' has no attribute '{name}'")
            self._at_work = True
            try:
                if name in _TAKEN and (found := _taken(name)) is not None:
                    return found
                self._run(module)
            finally:
                self._at_work = False
        return getattr(module, name)

    def _run(self, module: ModuleType) -> None:
        if "__getattr__" not in module.__dict__:  # another thread has run it
            return
        self._loader.exec_module(module)
        del module.__dict__["__getattr__"]


def _taken(name: str) -> Any:
    """What Lightning takes; None where another torchmetrics has it elsewhere, or cannot do without its `__init__`."""
    try:
        import_module(f"{_NAME}.utilities")  # first: it imports the base of metrics, which imports parts of it
        return getattr(import_module(f"{_NAME}.{_TAKEN[name]}"), name)
    except (ImportError, AttributeError):
        for loaded in [loaded for loaded in sys.modules if loaded.startswith(f"{_NAME}.")]:
            del sys.modules[loaded]
        return None


def arrange() -> None:
    """Has the next import of torchmetrics be a late one, if there is none yet."""
    if _NAME not in sys.modules:
        sys.meta_path.insert(0, Finder())
