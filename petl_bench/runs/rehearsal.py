"""What the end of a run needs, tried at its start."""

from __future__ import annotations

import io
from collections.abc import Callable

from petl_bench.errors import UsageError
from petl_bench.machine.installation import lacking, remedy
from petl_bench.runs.record import complaint


def rehearse() -> None:
    """Does what else would be done at the end of a run for the first time, on nothing.

    Raises:
        UsageError: a package that is needed for it is missing, or cut.
    """
    for package, use in _AT_THE_END.items():
        try:
            use()
        except Exception as error:  # of a package that is there in part, anything may come
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            told = lacking(error) or f"package {package} does not work ({reason}): {remedy(package)}"
            raise UsageError(f"{told} (the results of a run need it)") from error


def _tables() -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text("figures"))
    table.add_column("R1", justify="right")
    table.add_row(Text("1.0"))
    Console(file=io.StringIO()).print(table)


def _adapters() -> None:
    import torch
    from safetensors.torch import load, save

    load(save({"": torch.zeros(1)}, {"": ""}))


def _records() -> None:
    complaint({})


def _ranks() -> None:
    import numpy as np

    ranks = io.BytesIO()
    np.savez_compressed(ranks, allow_pickle=False, ranks=np.zeros(1))


_AT_THE_END: dict[str, Callable[[], None]] = {
    "rich": _tables,
    "safetensors": _adapters,
    "jsonschema": _records,
    "numpy": _ranks,
}
