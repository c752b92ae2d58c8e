"""Has torchmetrics import its metrics when one is asked for, and Matplotlib when something is plotted.

Lightning takes three names of torchmetrics, whose `__init__` imports all metrics, and with them SciPy, torchvision and
transformers where they are installed; the base of metrics imports Matplotlib for plots.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Any

from petl_bench import late_imports

_NAME = "torchmetrics"
#: what Lightning takes, and where that is
_TAKEN = {"Metric": "metric", "MetricCollection": "collections", "__version__": "__about__"}
_PLOT = ("plot_single_or_multi_val", "_AX_TYPE", "_PLOT_OUT_TYPE")


def arrange() -> None:
    """Has the next import of torchmetrics be a late one, if there is none yet."""
    if _NAME in sys.modules:
        return
    # Modules that Lightning takes have the logger of the package themselves.
    late_imports.arrange(_NAME, given={"_logger": logging.getLogger(_NAME)}, early=_taken)
    late_imports.arrange(f"{_NAME}.utilities.plot", stand_ins=_PLOT)


def _taken(name: str) -> Any:
    """What Lightning takes; None of other names, where it is elsewhere, or where it cannot do without `__init__`."""
    if name not in _TAKEN:
        return None
    try:
        import_module(f"{_NAME}.utilities")  # first: it imports the base of metrics, which imports parts of it
        return getattr(import_module(f"{_NAME}.{_TAKEN[name]}"), name)
    except (ImportError, AttributeError):
        for loaded in [loaded for loaded in sys.modules if loaded.startswith(f"{_NAME}.")]:
            del sys.modules[loaded]
        return None
