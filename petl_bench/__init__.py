"""Benchmark suite for parameter-efficient transfer learning on video and text."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from petl_bench.late_torchmetrics import arrange

__version__ = "0.1.0"

if TYPE_CHECKING:
    from petl_bench.backbones.base import Backbone
    from petl_bench.data.base import VideoTextDataModule
    from petl_bench.errors import PetlBenchError
    from petl_bench.library import fit, predict, test, validate
    from petl_bench.loading import load
    from petl_bench.method import Method
    from petl_bench.report import report
    from petl_bench.report.compare import compare
    from petl_bench.search.session import VideoSearch
    from petl_bench.sharing.push import push
    from petl_bench.tasks.base import Task

#: public names, and the modules that have them, which are imported when a name is used: torch takes seconds
_MODULES = {
    "Backbone": "backbones.base",
    "Method": "method",
    "PetlBenchError": "errors",
    "Task": "tasks.base",
    "VideoSearch": "search.session",
    "VideoTextDataModule": "data.base",
    "compare": "report.compare",
    "fit": "library",
    "load": "loading",
    "predict": "library",
    "push": "sharing.push",
    "test": "library",
    "validate": "library",
}

__all__ = [
    "Backbone",
    "Method",
    "PetlBenchError",
    "Task",
    "VideoSearch",
    "VideoTextDataModule",
    "__version__",
    "compare",
    "fit",
    "load",
    "predict",
    "push",
    "report",
    "test",
    "validate",
]

arrange()


def __getattr__(name: str) -> Any:
    if name == "report":  # a package that can be called
        return import_module("petl_bench.report")
    if name not in _MODULES:
        raise AttributeError(f"module 'petl_bench' has no attribute '{name}'")
    return getattr(import_module(f"petl_bench.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
