"""Whatever a configuration holds: it is refused in one way, or nothing outside the allowed packages is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentError, ArgumentParser

from petl_bench.cli.config_safety import ALLOWED, ClassPathGuard
from petl_bench.errors import UsageError
from petl_bench.optimizers import OptimizerRecipe

TRAP = "guard_trap"
KEYS = st.sampled_from(
    ["class_path", "init_args", "model", "data", "trainer", "callbacks", "logger", "backbone", "x"]
) | st.text(max_size=5)
#: text that looks like class paths, of ours, of Python, of a trap on the path, and of nobody
PATHS = st.builds(
    ".".join,
    st.lists(
        st.sampled_from(
            [*ALLOWED, TRAP, "os", "subprocess", "builtins", "inner", "Thing", "system", "", "é", "__main__"]
        ),
        min_size=1,
        max_size=4,
    ),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | PATHS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package that leaves a mark where it is imported."""
    folder = tmp_path_factory.mktemp("trap")
    mark = folder / "imported"
    (folder / TRAP).mkdir()
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Thing: pass\n"
    (folder / TRAP / "__init__.py").write_text(code, encoding="utf-8")
    (folder / TRAP / "inner.py").write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield mark
    sys.path.remove(str(folder))
    sys.modules.pop(TRAP, None)


def refused(*arguments: str) -> bool:
    try:
        ClassPathGuard().check_arguments(arguments)
    except UsageError:
        return True
    return False


def names_the_trap(value: Any) -> bool:
    """Whether a class path or a dotted text anywhere in a value is one of the trap."""
    if isinstance(value, str):
        return value.startswith(f"{TRAP}.") and all(part.isidentifier() for part in value.split("."))
    if isinstance(value, dict):
        return any(map(names_the_trap, value.values()))
    return isinstance(value, list) and any(map(names_the_trap, value))


@settings(max_examples=150, deadline=None)
@given(value=st.dictionaries(KEYS, VALUES, min_size=1, max_size=3) | st.lists(VALUES, min_size=1, max_size=3))
def test_a_structure_with_a_class_from_outside_is_refused(value: Any, trap: Path) -> None:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    found = refused(f"--anything={text}"), refused("--anything", text)
    assert found[0] == found[1]
    assert found[0] or not names_the_trap(value)
    assert not trap.exists()


@settings(max_examples=150, deadline=None)
@given(option=st.text(max_size=12), text=st.text(max_size=60) | PATHS)
def test_any_text_is_refused_or_passes(option: str, text: str, trap: Path) -> None:
    refused(f"--{option}={text}")
    refused(f"--{option}", text)
    refused("--model.class_path={" + text, "--x=[" + text)
    assert not trap.exists()


@settings(max_examples=100, deadline=None)
@given(value=VALUES)
def test_what_passes_imports_nothing_from_outside(value: Any, trap: Path) -> None:
    """jsonargparse tries texts as class paths wherever it may."""
    text = yaml.safe_dump({"recipe": value}, default_flow_style=True, width=10**6).strip()
    if refused(f"--config={text}"):
        return
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(OptimizerRecipe, "recipe")
    with suppress(ArgumentError, TypeError, ValueError, AttributeError, KeyError):
        parser.parse_object({"recipe": value})
    assert not trap.exists()
