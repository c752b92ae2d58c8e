"""`petl-bench list matrix`: which method runs on which backbone for which task, and why not.

Nothing is written down: every combination is built, on the tiny backbones and without memory, and says itself what is
wrong with it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from petl_bench.backbones.base import CAPABILITIES, Backbone
from petl_bench.backbones.known import known_backbones
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.errors import UsageError
from petl_bench.method import Method
from petl_bench.registry import import_plugins, instantiate, list_entries, plugin_entries
from petl_bench.tasks.base import Task
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.qa_classifier import AnswerClassifier
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.tasks.retrieval import Retrieval

BACKBONES = known_backbones()
_KINDS: dict[str, type[Task]] = {"R": Retrieval, "M": MatchingRetrieval, "C": AnswerClassifier, "G": AnswerGeneration}
#: tasks by the letter that stands for them in the table
TASKS = {letter: kind.name for letter, kind in _KINDS.items()}


class Cell(NamedTuple):
    """One combination; `reason` is what it says when it is built, None if it runs."""

    method: str
    backbone: str
    task: str
    reason: str | None


def matrix(plugins: Sequence[str] = ()) -> list[Cell]:
    """Every method, those of plug-ins included, on every backbone for every task."""
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.json"
        answers.write_text('["yes", "no"]', encoding="utf-8")
        tasks: dict[str, Callable[[], Task]] = {
            "retrieval": Retrieval,
            "matching": MatchingRetrieval,
            "qa_classifier": lambda: AnswerClassifier(answers),
            "qa_generation": AnswerGeneration,
        }
        return [
            Cell(name, backbone, task, _refusal(build, _backbone(backbone), tasks[task]()))
            for name, build in _methods(plugins).items()
            for backbone in BACKBONES
            for task in TASKS.values()
        ]


def _methods(plugins: Sequence[str]) -> dict[str, Callable[[Backbone, Task], Method]]:
    """What builds each method, by name, with the arguments of its first fixture configuration, or its defaults."""
    found: dict[str, Callable[[Backbone, Task], Method]] = {}
    given: dict[str, dict[str, Any]] = {}
    for path in sorted(config_folder().glob("fixture_*.yaml")):
        model = composed(path)["model"]
        given.setdefault(model["class_path"], model["init_args"])
    import_plugins()
    for entry in [*list_entries("methods"), *plugin_entries("methods", plugins)]:
        kind = getattr(importlib.import_module(entry.module), entry.name)
        arguments = given.get(f"{entry.module}.{entry.name}", {})
        own = (key for key in arguments if key not in ("backbone", "task", "optimizer"))
        options = {key: instantiate(arguments[key]) for key in own}
        found[entry.name] = partial(_built, kind, options)
    return found


def _built(kind: type[Method], options: dict[str, Any], backbone: Backbone, task: Task) -> Method:
    parameters = inspect.signature(kind).parameters.values()
    named = {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if missing := sorted(named - {"backbone", "task", *options}):
        raise UsageError(f"{kind.__name__} has no default for {', '.join(missing)}, and no fixture configuration")
    return kind(backbone=backbone, task=task, **options)


def _backbone(name: str) -> Backbone:
    with torch.device("meta"):
        return BACKBONES[name].tiny()


def _refusal(build: Callable[[Backbone, Task], Method], backbone: Backbone, task: Task) -> str | None:
    try:
        with torch.device("meta"):
            build(backbone, task).adapt()
    except UsageError as error:
        return str(error)
    return None


def run(as_json: bool, plugins: Sequence[str] = ()) -> int:
    """Prints the matrix, and below it the reason of each hole."""
    cells = matrix(plugins)
    print(json.dumps([cell._asdict() for cell in cells], indent=2) if as_json else render(cells))
    return 0


def shared_reason(cell: Cell) -> str | None:
    """The reason without the method's name, so that methods with the same one share a line."""
    return cell.reason and cell.reason.removeprefix(f"{cell.method} ")


def render(cells: Sequence[Cell]) -> str:
    """A table of + and of numbers of reasons, and the reasons."""
    told = dict.fromkeys(reason for cell in cells if (reason := shared_reason(cell)))
    reasons = {reason: place for place, reason in enumerate(told, 1)}
    methods = list(dict.fromkeys(cell.method for cell in cells))
    found = {(cell.method, cell.backbone, cell.task): shared_reason(cell) for cell in cells}
    width = max(map(len, methods))
    lines = [" " * width + "".join(f"  {backbone:<{3 * len(TASKS)}}" for backbone in BACKBONES)]
    lines.append(" " * width + ("  " + "".join(f"{letter:>2} " for letter in TASKS)) * len(BACKBONES))
    for method in methods:
        marks = (
            "".join(f"{reasons.get(found[method, backbone, task] or '', '+'):>2} " for task in TASKS.values())
            for backbone in BACKBONES
        )
        lines.append(f"{method:<{width}}  " + "  ".join(marks))
    lines += ["", "+ runs"]
    for letter, kind in _KINDS.items():
        lines.append(f"{letter} {kind.name}: needs {', '.join(CAPABILITIES[need] for need in kind.needs) or 'nothing'}")
    lines.append("")
    lines += [f"{place:>2}  {reason}" for reason, place in reasons.items()]
    return "\n".join(line.rstrip() for line in lines)
