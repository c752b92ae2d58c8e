"""What an installation lacks, and what stands in the place of its parts: told in one line, with what helps there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from petl_bench.errors import UsageError, chain

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
#: what `pip install` calls a module that has another name
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "attr": "attrs",
    "jsonargparse": "jsonargparse[signatures]",
    "lightning_fabric": "pytorch-lightning",
    "lightning_utilities": "lightning-utilities",
    "markdown_it": "markdown-it-py",
    "open_clip": "open_clip_torch",
    "pytorch_lightning": "pytorch-lightning",
    "rpds": "rpds-py",
    "typing_extensions": "typing-extensions",
    "yaml": "pyyaml",
}


def restore_own_package() -> None:
    """Makes `petl_bench` the package that this module belongs to.

    In a folder that holds a clone named `petl_bench`, `python -m` and torchrun take the clone for a package without
    code, before they look where an editable installation points to.

    Raises:
        UsageError: another package of that name was imported.
    """
    package = sys.modules["petl_bench"]
    file = getattr(package, "__file__", None)
    if file is not None and Path(file).resolve().parent == PACKAGE:
        return
    if file is not None:
        raise UsageError(f"{file} is imported in the place of petl_bench in {PACKAGE}: rename it, or run elsewhere")
    spec = importlib.util.spec_from_file_location("petl_bench", PACKAGE / "__init__.py")
    assert spec is not None, "it has the name of a source file"
    assert spec.loader is not None, "it has the name of a source file"
    package.__path__ = [str(PACKAGE)]
    package.__file__, package.__spec__ = spec.origin, spec
    spec.loader.exec_module(package)
    sys.path.append(str(ROOT))  # for processes that take over the path


def lost_import(error: BaseException | None) -> ImportError | None:
    """The first error of an import in a chain that says which module is not there, or lacks a name."""
    for one in chain(error):
        if isinstance(one, AttributeError):  # of a class path with a typing error
            return None
        told = isinstance(one, ModuleNotFoundError) or "cannot import name" in str(one)
        if isinstance(one, ImportError) and one.name and told:
            return one
    return None


def lacking(error: BaseException) -> str:
    """What an error of importing says about an installation, and what helps; empty if it is about something else."""
    lost = lost_import(error)
    if lost is None or lost.name is None:
        return ""
    package = lost.name.partition(".")[0]
    if (file := _stand_in(package)) is not None:
        return f"{file} is imported in the place of the package {package}: rename it, or run from another folder"
    if package == "petl_bench":
        return f"{lost.name} is missing from {PACKAGE}: install petl_bench again"
    what = "is missing" if package == lost.name else f"is not whole ({' '.join(str(lost).split())[:200]})"
    return f"package {package} {what}: {_remedy(package)}"


def stand_ins() -> str:
    """Files of the current folder that were imported in the place of a package, for the end of a message."""
    known = importlib.metadata.packages_distributions().keys() | sys.stdlib_module_names
    names = sorted(name for name in set(sys.modules) & known if name != "petl_bench")
    files = [str(file) for name in names if (file := _stand_in(name)) is not None]
    return f"; {files[0]} is imported in the place of a package: rename it, or run from another folder" if files else ""


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
            told = lacking(error) or f"package {package} does not work ({reason}): {_remedy(package)}"
            raise UsageError(f"{told} (the results of a run need it)") from error


def _stand_in(package: str) -> Path | None:
    """The file of the current folder, or of one on PYTHONPATH, that was imported as a package."""
    module: ModuleType | None = sys.modules.get(package)
    found = getattr(module, "__file__", None)
    if found is None or package in ("petl_bench", "__main__"):
        return None
    file = Path(found).resolve()
    folder = file.parents[1] if file.name == "__init__.py" else file.parent
    return file if folder != ROOT and folder in _own_folders() else None


def _own_folders() -> list[Path]:
    """Where a user's own modules come before those that are installed."""
    names = [".", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    folders = [Path(name).resolve() for name in names]
    return [folder for folder in folders if not any(folder.glob("*.dist-info"))]


def _remedy(package: str) -> str:
    name = _DISTRIBUTIONS.get(package, package)
    try:
        importlib.metadata.version(name.partition("[")[0])
    except Exception:  # of metadata that is there in part, anything may come
        return f"pip install {name}"
    # Its metadata is there, so pip would do nothing.
    return f"pip install --force-reinstall --no-deps {name.partition('[')[0]}"


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
    from petl_bench.runs.record import complaint

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
