"""What is imported is declared in setup.cfg, and what is declared is imported."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.shared import REPOSITORY

OURS = {"petl_bench", "methods", "datamodules", "tests", "benchmarks"}
RUN_TIME, DEVELOPMENT = ("petl_bench", "methods", "datamodules"), ("tests", "benchmarks")
#: programs and plug-ins, and what the next changes import
NOT_IMPORTED = {"build", "pip-audit", "pyright", "ruff", "pytest-timeout", "pytest-xdist", "setuptools", "einops"}
CONSTRAINTS = REPOSITORY / "constraints.txt"


@cache
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def requirements(*extras: str) -> dict[str, Requirement]:
    """What setup.cfg declares for an installation, by canonical name; extras of extras included."""
    lines = setup()["options"]["install_requires"].splitlines()
    for extra in extras:
        lines += setup()["options.extras_require"][extra].splitlines()
    found: dict[str, Requirement] = {}
    for requirement in (Requirement(line) for line in lines if line):
        if requirement.name == "petl-bench":
            found |= requirements(*requirement.extras)
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def third_party(path: Path) -> set[str]:
    """First names of what a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in modules} - OURS - set(sys.stdlib_module_names)


def distributions(folders: Iterable[str]) -> dict[str, set[str]]:
    """The distributions that code below some folders imports, and the files that do."""
    owners = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))):
        for module in third_party(path):
            for owner in owners.get(module, [f"(no distribution has {module})"]):
                found.setdefault(canonicalize_name(owner), set()).add(str(path.relative_to(REPOSITORY)))
    return found


@pytest.mark.parametrize(
    ("folders", "extras"),
    [(RUN_TIME, ("decord", "lance", "mteb", "onnx", "parquet", "report", "sweep", "wups")), (DEVELOPMENT, ("ci",))],
    ids=["run time", "tests"],
)
def test_every_import_is_declared(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    declared = requirements(*extras)
    assert not {name: files for name, files in distributions(folders).items() if name not in declared}


def test_what_is_imported_at_once_needs_no_extra() -> None:
    """matplotlib and NLTK are imported where they are there, the others where a user asks for them."""
    optional = {
        "decord",
        "lancedb",
        "matplotlib",
        "mteb",
        "nltk",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pyarrow",
        "submitit",
    }
    assert not optional & requirements().keys()


def test_everything_declared_is_used() -> None:
    used = distributions((*RUN_TIME, *DEVELOPMENT)).keys() | NOT_IMPORTED
    assert not requirements("dev").keys() - used


def test_constraints_pin_everything_declared_within_its_bounds() -> None:
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if "==" in line)
    pinned = {str(canonicalize_name(name)): version for name, version in pins.items()}
    for name, requirement in requirements("dev").items():
        assert name == "setuptools" or requirement.specifier.contains(pinned[name]), requirement


def test_versions_of_python() -> None:
    """The Makefile, the README and the type checker speak of the versions that setup.cfg admits."""
    admitted = SpecifierSet(setup()["options"]["python_requires"])
    versions = [f"3.{minor}" for minor in range(8, 20) if f"3.{minor}" in admitted]
    assert versions == ["3.11", "3.12", "3.13"]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert f"(3, {versions[0][2:]}) <= sys.version_info < (3, {int(versions[-1][2:]) + 1})" in makefile
    assert re.search(rf"^PYTHONS .*= {' '.join(versions)}$", makefile, re.MULTILINE)
    assert f"{versions[0]} to {versions[-1]}" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
