"""What an installation lacks or what shadows its parts, in one line that says what to do."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
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
    return f"package {package} {what}: {remedy(package)}"


def stand_ins() -> str:
    """Files of the current folder that were imported in the place of a package, for the end of a message."""
    known = importlib.metadata.packages_distributions().keys() | sys.stdlib_module_names
    names = sorted(name for name in set(sys.modules) & known if name != "petl_bench")
    files = [str(file) for name in names if (file := _stand_in(name)) is not None]
    return f"; {files[0]} is imported in the place of a package: rename it, or run from another folder" if files else ""


def package_version(package: str) -> str | None:
    """The version of an installed package; None where it is another's module, or its installation is cut."""
    try:
        return importlib.metadata.version(package)
    except Exception:  # of metadata that is there in part, anything may come
        return None


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


def remedy(package: str) -> str:
    """What installs a package, or mends it."""
    name = _DISTRIBUTIONS.get(package, package)
    try:
        importlib.metadata.version(name.partition("[")[0])
    except Exception:  # of metadata that is there in part, anything may come
        return f"pip install {name}"
    # Its metadata is there, so pip would do nothing.
    return f"pip install --force-reinstall --no-deps {name.partition('[')[0]}"
