"""The packaged configurations and the tiny backbones and tasks that the checks of `petl_bench.testing` run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import refusal
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder, find_config
from petl_bench.cli.tiny_parts import built, default_options
from petl_bench.method import Method, own_options
from petl_bench.registry import import_plugins, list_entries, named_class
from petl_bench.tasks.base import Task
from petl_bench.testing.gated import Gated
from petl_bench.testing.methods import Build
from petl_bench.testing.methods import builder as builder_of

import_plugins()

#: by the name of the class in small letters, but for what is used as a whole: most methods refuse that
BACKBONES: dict[str, type[Backbone]] = {
    entry.name.lower(): entry.load() for entry in list_entries("backbones") if entry.load().has_tokens
}
#: of another make than those in the package
FOREIGN: dict[str, type[Backbone]] = {"gated": Gated}
TASKS: dict[str, type[Task]] = {entry.load().name: entry.load() for entry in list_entries("tasks")}


@dataclass(frozen=True, eq=False)
class Case:
    """A method with the options that it is tried with, and what the case is called."""

    name: str
    method: type[Method]
    options: dict[str, Any]

    @property
    def class_path(self) -> str:
        return f"{self.method.__module__}.{self.method.__qualname__}"

    def __str__(self) -> str:
        return self.name


def case_of(config: Path | str) -> Case:
    """The method of a configuration, with its options."""
    path = find_config(str(config))
    model = composed(path)["model"]
    return Case(path.stem.removeprefix("fixture_"), named_class(model["class_path"]), own_options(model))


def _cases() -> list[Case]:
    """The fixture configurations that have other methods or options than those before, and methods that have none."""
    cases: list[Case] = []
    found = config_folder().glob("fixture_*.yaml")
    for path in sorted(found, key=lambda path: (path.stem.startswith("fixture_blip_"), path.stem)):
        case = case_of(path)
        if not any((case.method, case.options) == (other.method, other.options) for other in cases):
            cases.append(case)
    named = {case.class_path for case in cases}
    others = [entry for entry in list_entries("methods") if entry.class_path not in named]
    return cases + [Case(entry.name, entry.load(), default_options(entry.load())) for entry in others]


CASES = _cases()


def builder(case: Case | Path | str, backbone: str = "clip", task: str = "retrieval", init_seed: int = 0) -> Build:
    """Builds the method of a case or a configuration on a tiny backbone with random weights."""
    case = case if isinstance(case, Case) else case_of(case)
    return builder_of(case.method, case.options, (BACKBONES | FOREIGN)[backbone], TASKS[task], init_seed)


def _refusal_of(method: Method, backbone: Backbone, task: Task) -> str | None:
    """The sentence that refuses a method for a backbone and a task by what they declare; None if they fit."""
    if missing := task.lacking(backbone):
        return f"task {task.name} needs {' and '.join(missing)}"
    if sentence := refusal(type(method).__name__, method.needs, backbone):
        return sentence
    task.prepare(backbone)
    if not method.trainable and any(parameter.requires_grad for parameter in task.parameters()):
        return f"{type(method).__name__} trains nothing"
    return None


def _holes() -> dict[tuple[str, str, str], str]:
    """Case, backbone and task that do not run together by what they declare, and what they say."""
    tiny = {name: kind.tiny() for name, kind in (BACKBONES | FOREIGN).items()}
    found = {}
    for case in CASES:
        # Not adapted, so that the backbone is as it was; `needs` follows from class and options.
        method = built(case.method, case.options, tiny["clip"], TASKS["retrieval"].tiny())
        for backbone, made in tiny.items():
            for task, kind in TASKS.items():
                if sentence := _refusal_of(method, made, kind.tiny()):
                    found[case.name, backbone, task] = sentence
    return found


HOLES = _holes()
