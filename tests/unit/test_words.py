"""What docstrings, comments, configurations and manuals send a reader to can be opened by anybody."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared import REPOSITORY

#: our own notes, which no reader has; tests may name data that they read
_NOTES = re.compile(
    r"\bspecs?/|\bDESIGN\b|\bEXAMPLES\b|\b(?:review|bug_reports?)_[\w.-]+\.md|\.\./shared/(?:specs|golden)"
)
#: vectors that only the tests have
_GOLDEN = re.compile(r"\bgolden\b")
_TEXT = (".md", ".yaml", ".yml", ".toml", ".cfg", "Makefile")


def tracked(*ends: str) -> list[Path]:
    """Files of the repository with one of some endings; those of earlier versions are left as they were."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True).stdout
    names = [name for name in listed.decode().split("\0") if name.endswith(ends) and "/files_of_" not in name]
    return [REPOSITORY / name for name in names if (REPOSITORY / name).is_file()]


def words_of(source: str) -> Iterator[tuple[int, str]]:
    """The comments and docstrings of a module, with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def pointers(source: str, pattern: re.Pattern[str]) -> list[str]:
    """What a module sends its reader to in vain."""
    return [f"line {line}: {found[0]}" for line, text in words_of(source) for found in pattern.finditer(text)]


@pytest.mark.parametrize(
    "source",
    [
        '"""Adapters.\n\nSource: specs/mv_adapter.md section 2.\n"""',
        "def f():\n    '''As DESIGN section 2 has it.'''",
        "class C:\n    x = 1  # see review_2026-11.md",
    ],
)
def test_pointers_are_found(source: str) -> None:
    assert pointers(source, _NOTES)


def test_what_is_no_comment_is_left_alone() -> None:
    assert not pointers("PATH = 'specs/a.md'\n'''Source: LoRA (arXiv 2106.09685), section 4.1.'''", _NOTES)


def test_modules_name_no_notes_of_ours() -> None:
    found = {path: pointers(path.read_text(encoding="utf-8"), _NOTES) for path in tracked(".py")}
    assert not {path.relative_to(REPOSITORY).as_posix(): lines for path, lines in found.items() if lines}


def test_what_is_installed_names_no_vectors_of_the_tests() -> None:
    files = [path for path in tracked(".py") if path.relative_to(REPOSITORY).parts[0] != "tests"]
    found = {path: pointers(path.read_text(encoding="utf-8"), _GOLDEN) for path in files}
    assert not {path.relative_to(REPOSITORY).as_posix(): lines for path, lines in found.items() if lines}


def test_manuals_and_configurations_name_no_notes_of_ours() -> None:
    found = {path: _NOTES.findall(path.read_text(encoding="utf-8")) for path in tracked(*_TEXT)}
    assert not {path.relative_to(REPOSITORY).as_posix(): words for path, words in found.items() if words}
