"""`petl-bench list matrix`: which method runs on which backbone for which task, and why not.

Nothing is written down: every combination is built, on the tiny backbones and without memory, and says itself what is
wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from petl_bench.backbones.base import CAPABILITIES, Backbone
from petl_bench.cli.tiny_parts import built, classes_of, default_options
from petl_bench.errors import UsageError
from petl_bench.method import Method
from petl_bench.tasks.base import Task


class Cell(NamedTuple):
    """One combination; `reason` is what it says when it is built, None if it runs."""

    method: str
    backbone: str
    task: str
    reason: str | None


def matrix(plugins: Sequence[str] = (), text: str = "") -> list[Cell]:
    """Every method on every backbone for every task, those of plug-ins included.

    Args:
        plugins: that a user named.
        text: only combinations in whose method, backbone or task it occurs, whatever its case.
    """
    kinds = [classes_of(kind, plugins) for kind in ("methods", "backbones", "tasks")]
    methods, backbones, tasks = kinds
    builders: dict[str, Callable[[Backbone, Task], Method]] = {}
    return [
        Cell(name, backbone, task.name, _refusal(builder, backbones[backbone], task))
        for name, method in methods.items()
        for backbone in backbones
        for task in tasks.values()
        if any(text.lower() in word.lower() for word in (name, backbone, task.name))
        for builder in [builders.setdefault(name, partial(_built, method))]
    ]


def _built(method: type[Method], backbone: Backbone, task: Task) -> Method:
    return built(method, default_options(method), backbone, task)


def _refusal(build: Callable[[Backbone, Task], Method], backbone: type[Backbone], task: type[Task]) -> str | None:
    try:
        with torch.device("meta"):
            build(backbone.tiny(), task.tiny()).adapt()
    except UsageError as error:
        return str(error)
    return None


def run(as_json: bool, plugins: Sequence[str] = (), text: str = "") -> int:
    """Prints the matrix, and below it the reason of each hole."""
    cells = matrix(plugins, text)
    if as_json:
        print(json.dumps([cell._asdict() for cell in cells], indent=2))
    else:
        print(render(cells, classes_of("tasks", plugins).values()))
    return 0


def shared_reason(cell: Cell) -> str | None:
    """The reason without the method's name, so that methods with the same one share a line."""
    return cell.reason and cell.reason.removeprefix(f"{cell.method} ")


def letters_of(tasks: Iterable[str]) -> dict[str, str]:
    """A letter for each task, the first one of its last word, or the next one that is free: qa_classifier is C."""
    found: dict[str, str] = {}
    for task in tasks:
        wanted = [*task.rsplit("_", 1)[-1].upper(), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
        found[task] = next((letter for letter in wanted if letter not in found.values()), task)
    return found


def render(cells: Sequence[Cell], tasks: Iterable[type[Task]]) -> str:
    """A table of + and of numbers of reasons, and the reasons.

    Args:
        cells: of the table.
        tasks: the classes of their tasks, and maybe more.
    """
    told = dict.fromkeys(reason for cell in cells if (reason := shared_reason(cell)))
    reasons = {reason: place for place, reason in enumerate(told, 1)}
    found = {(cell.method, cell.backbone, cell.task): shared_reason(cell) for cell in cells}
    methods, backbones, names = (list(dict.fromkeys(cell[place] for cell in cells)) for place in range(3))
    letters = letters_of(names)
    width = max(map(len, methods), default=0)
    lines = [" " * width + "".join(f"  {backbone:<{3 * len(letters)}}" for backbone in backbones)]
    lines.append(" " * width + ("  " + "".join(f"{letter:>2} " for letter in letters.values())) * len(backbones))
    for method in methods:
        marks = ("".join(_mark(found, reasons, (method, backbone, task)) for task in letters) for backbone in backbones)
        lines.append(f"{method:<{width}}  " + "  ".join(marks))
    lines += ["", "+ runs"]
    for kind in tasks:
        if kind.name in letters:
            needs = ", ".join(CAPABILITIES[need] for need in kind.needs) or "nothing"
            lines.append(f"{letters[kind.name]} {kind.name}: needs {needs}")
    lines.append("")
    lines += [f"{place:>2}  {reason}" for reason, place in reasons.items()]
    return "\n".join(line.rstrip() for line in lines)


def _mark(
    found: Mapping[tuple[str, str, str], str | None], reasons: Mapping[str, int], place: tuple[str, str, str]
) -> str:
    """What stands for a combination: of those that are left out by a filter, nothing."""
    if place not in found:
        return "   "
    return f"{reasons.get(found[place] or '', '+'):>2} "
