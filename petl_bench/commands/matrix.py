"""`petl-bench list matrix`: which method runs on which backbone for which task, and why not.

Nothing is written down: every combination is built, on the tiny backbones and without memory, and says itself what is
wrong with it.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from petl_bench.backbones.base import CAPABILITIES, Backbone
from petl_bench.cli.messages import nothing_found
from petl_bench.cli.tiny_parts import built, classes_of, default_options, tiny_backbone
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
    methods, backbones, tasks = (classes_of(kind, plugins) for kind in ("methods", "backbones", "tasks"))
    options = functools.cache(default_options)  # plug-ins may bring more configurations until the next call
    return [
        Cell(name, place, task.name, _refusal(method, options, backbone, task))
        for name, method in methods.items()
        for place, backbone in backbones.items()
        for task in tasks.values()
        if any(text.lower() in word.lower() for word in (name, place, task.name))
    ]


def _refusal(
    method: type[Method],
    options: Callable[[type[Method]], dict[str, Any]],
    backbone: type[Backbone],
    task: type[Task],
) -> str | None:
    if lacking := _lacking(backbone, task):  # whatever the method is
        return lacking
    try:
        with torch.device("meta"):
            built(method, options(method), tiny_backbone(backbone), task.tiny()).adapt()
    except UsageError as error:
        return str(error)
    return None


@functools.cache
def _lacking(backbone: type[Backbone], task: type[Task]) -> str | None:
    """Why a task refuses a backbone; None if it has all that the task needs."""
    try:
        with torch.device("meta"):
            task.tiny().require_capabilities(tiny_backbone(backbone))
    except UsageError as error:
        return str(error)
    return None


def run(as_json: bool, plugins: Sequence[str] = (), text: str = "") -> int:
    """Prints the matrix, and below it the reason of each hole."""
    cells = matrix(plugins, text)
    if not cells:
        names = [*classes_of("methods", plugins), *classes_of("backbones", plugins)]
        print(nothing_found(text, names), file=sys.stderr)
    if as_json:
        print(json.dumps([cell._asdict() for cell in cells], indent=2))
    elif cells:
        print(render(cells, classes_of("tasks", plugins).values()))
    return 0


def shared_reason(cell: Cell) -> str | None:
    """The reason without the method's name, so that methods with the same one share a line."""
    return cell.reason and cell.reason.removeprefix(f"{cell.method} ")


def letters_of(tasks: Iterable[str]) -> dict[str, str]:
    """A letter for each task, the first one of its last word, or the next one that is free: qa_generation is G."""
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
    methods = dict.fromkeys(cell.method for cell in cells)
    backbones = dict.fromkeys(cell.backbone for cell in cells)
    letters = letters_of(dict.fromkeys(cell.task for cell in cells))
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
