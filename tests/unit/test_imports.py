"""Imports go downward only and every module can be imported alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from petl_bench.registry import FOLDERS, ROOT

PACKAGES = ("petl_bench", *FOLDERS)
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

GROUND = {"configurable", "errors", "formats", "lightning_seams", "ranges"}
#: every part of petl_bench -> what else of petl_bench it may import; from the ground up
MAY_IMPORT = {
    "errors": set(),
    "lightning_seams": set(),
    "late_imports": set(),
    "late_torchmetrics": {"late_imports"},
    "formats": set(),
    "ranges": {"errors", "formats"},
    "configurable": {"errors", "ranges"},
    "inputs": {"errors"},
    "machine": {"errors", "formats"},
    "storage": {"errors", "lightning_seams", "machine"},
    "hub": {"errors", "machine", "storage"},
    "renamed": set(),
    "registry": {"errors", "storage"},
    "methods": {"registry"},
    "datamodules": {"registry"},
    "configs": set(),
    "nn": {"errors"},
    "metrics": {"errors"},
    "optimizers": {"configurable", "ranges"},
    "bpe": {"errors"},
    "blip_words": set(),
    "backbones": {*GROUND, "blip_words", "bpe", "hub", "inputs", "late_imports", "machine", "nn", "storage"},
    "data": {*GROUND, "inputs", "machine", "storage"},
    "fixture": {"data.mark", "errors"},
    "tasks": {*GROUND, "backbones", "data.answers", "data.batch", "inputs", "metrics", "nn", "storage"},
    "step_report": {"tasks.losses"},
    "method": {
        *(*GROUND, "backbones", "data.batch", "machine.signals", "optimizers", "renamed", "step_report", "storage"),
        "tasks",
    },
    "runs": {
        *(*GROUND, "backbones", "data", "hub", "inputs", "machine", "method", "nn", "optimizers", "renamed", "storage"),
        *("metrics.table", "tasks"),
    },
    "cli": {
        *(*GROUND, "backbones", "data", "hub", "inputs", "machine", "method", "optimizers", "registry", "renamed"),
        *("runs", "storage", "tasks"),
    },
    "report": {
        *GROUND,
        "cli.fragments",
        "cli.named_configs",
        "data.display",
        "data.opening",
        "machine",
        "metrics.table",
        "renamed",
        "runs.record",
        "storage",
    },
    "pretraining": {
        *("backbones", "errors", "fixture", "inputs", "nn", "optimizers", "runs.environment", "storage"),
        *("tasks.answering", "tasks.losses"),
    },
    "mteb_encoder": {"backbones", "data", "errors", "inputs", "method", "storage.descriptions"},
    "video_text_model": {*GROUND, "mteb_encoder", "backbones.base", "data", "inputs", "method", "storage", "tasks"},
    "loading": {
        *(*GROUND, "backbones", "cli", "data", "inputs", "machine", "method", "registry", "renamed", "runs", "storage"),
        *("hub.names", "tasks", "video_text_model"),
    },
    "search": {
        *(*GROUND, "backbones.base", "backbones.blip.wordpiece", "blip_words", "bpe", "cli.sources", "data", "inputs"),
        *("loading", "machine", "metrics"),
        *("report.templating", "report.thumbnails", "storage", "tasks.base", "tasks.questions", "video_text_model"),
    },
    "export": {
        *(*GROUND, "backbones.base", "backbones.blip.wordpiece", "inputs", "search", "storage", "video_text_model"),
    },
    "sharing": {
        *("cli.dataset_descriptions", "errors", "hub", "machine", "metrics.table", "registry", "report", "storage"),
        *("runs.hub_adapters", "runs.record"),
    },
    "sweep": {
        *("cli.configuration", "data.build_cache", "errors", "formats", "machine", "runs", "storage"),
    },
    "library": {*GROUND, "cli", "data", "machine", "method", "registry", "runs"},
    "testing": {*GROUND, "backbones", "cli", "data", "inputs", "method", "nn", "registry", "storage", "tasks"},
    "commands": {
        *(*GROUND, "backbones", "cli", "data", "export", "fixture", "inputs", "loading", "machine", "method"),
        *("metrics", "pretraining", "registry", "report", "runs", "search", "sharing", "storage", "sweep", "tasks"),
    },
    "main": {"cli.rewriting", "commands.table", "errors", "machine"},
    "__main__": {"main"},
}
WITHOUT_TORCH = (
    *("errors", "formats", "main", "ranges", "registry", "renamed", "fixture", "report"),
    *("machine.cgroups", "machine.cpus", "machine.installation", "machine.launch", "machine.limits", "machine.output"),
    *("machine.resources", "storage.arrays", "storage.files", "storage.locks", "storage.plain_yaml"),
    *("storage.untrusted", "commands.compare", "hub"),
    *("cli.arguments", "cli.config_safety", "cli.fragments", "cli.messages", "cli.named_configs", "cli.recipes"),
    *("cli.rewriting", "configurable"),
    *("commands.demo", "commands.fixture", "commands.list", "commands.report", "commands.table"),
    *("runs.environment", "runs.old_records", "runs.recipe", "runs.record", "runs.rehearsal"),
    *("data.annotations", "data.answers", "data.plain_pickle", "metrics.table"),
)
TORCH = {"torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning_fabric"}
HEAVY = {"open_clip", "transformers", "decord"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules that a piece of code imports, with the names it takes out of them."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, ()) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            yield str(child.module), tuple(alias.name for alias in child.names)


def top_level(path: Path) -> set[str]:
    """First names of what importing a module imports at once: nothing in functions or under TYPE_CHECKING."""
    found: set[str] = set()
    for statement in tree(path).body:
        typing_only = isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef) and not typing_only:
            found |= {name.split(".")[0] for name, _ in imports(statement)}
    return found


def parts_of(path: Path) -> Iterator[str]:
    """What a module imports of petl_bench, e.g. `data.batch`; `from petl_bench.data import sampling` included."""
    for module, names in imports(tree(path)):
        if module.split(".")[0] != "petl_bench":
            continue
        part = module.removeprefix("petl_bench").removeprefix(".")
        submodules = [name for name in names if (ROOT.joinpath(*module.split(".")) / f"{name}.py").is_file()]
        yield from (f"{part}.{name}".removeprefix(".") for name in submodules)
        if part and len(submodules) < max(len(names), 1):
            yield part


def is_within(part: str, allowed: str) -> bool:
    return part == allowed or part.startswith(f"{allowed}.")


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_petl_bench_imports_downward(part: str) -> None:
    files = [path for path in FILES if is_within(module_name(path), f"petl_bench.{part}")]
    assert files, "the table names a part that is gone"
    allowed = {part, *MAY_IMPORT[part]}
    upward = {
        (module_name(p), name) for p in files for name in parts_of(p) if not any(is_within(name, a) for a in allowed)
    }
    assert not upward


def test_rules_find_an_upward_import(tmp_path: Path) -> None:
    """The rules above would not notice if nothing was found at all."""
    path = tmp_path / "upward.py"
    code = "from petl_bench.data import sampling\ndef f():\n    import petl_bench.tasks.base\n    import petl_bench\n"
    path.write_text(code, encoding="utf-8")
    assert list(parts_of(path)) == ["data.sampling", "tasks.base"]


def test_every_part_has_a_rule() -> None:
    parts = {module_name(path).split(".")[1] for path in FILES if module_name(path).startswith("petl_bench.")}
    assert parts == MAY_IMPORT.keys()


def test_no_rule_leads_upwards() -> None:
    order = list(MAY_IMPORT)
    upward = {
        (p, a) for p, allowed in MAY_IMPORT.items() for a in allowed if order.index(a.split(".")[0]) >= order.index(p)
    }
    assert not upward


@pytest.mark.parametrize("folder", FOLDERS)
def test_plugins_import_no_sibling(folder: str) -> None:
    files = [path for path in FILES if module_name(path).startswith(f"{folder}.")]
    assert files
    taken = {(module_name(path), name) for path in files for name, _ in imports(tree(path))}
    assert not {(path, name) for path, name in taken if name.split(".")[0] in FOLDERS}


def test_petl_bench_names_no_plugin() -> None:
    """`registry` imports them by the name of their folder."""
    files = [path for path in FILES if module_name(path).startswith("petl_bench")]
    taken = {(module_name(path), name) for path in files for name, _ in imports(tree(path))}
    assert not {(path, name) for path, name in taken if name.split(".")[0] in FOLDERS}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_heavy_packages_are_imported_where_they_are_used(path: Path) -> None:
    assert not top_level(path) & HEAVY


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_light_modules_import_no_torch(part: str) -> None:
    files = [path for path in FILES if is_within(module_name(path), f"petl_bench.{part}")]
    assert files
    assert not {module_name(path) for path in files if top_level(path) & TORCH}


def run_python(code: str, *arguments: str) -> str:
    """Output of a fresh interpreter."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


LIGHT = """
import importlib, sys
import petl_bench.main, petl_bench.registry
assert "torch" not in sys.modules, "main"
for arguments in (*(["list", kind] for kind in (*petl_bench.registry.KINDS, "configs")), ["--help"], ["--version"]):
    assert petl_bench.main.main(arguments) == 0, arguments
    assert "torch" not in sys.modules, arguments
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
"""


def test_light_commands_do_not_load_torch() -> None:
    light = [module_name(p) for p in FILES if any(is_within(module_name(p), f"petl_bench.{w}") for w in WITHOUT_TORCH)]
    output = run_python(LIGHT, *light)
    assert "AdaptFormer" in output
    assert "BLIPVQA" in output
    assert "Retrieval" in output
    assert "MSRVTT" in output


def test_the_package_itself_imports_next_to_nothing() -> None:
    """Its public names are imported when they are used."""
    code = "import sys, petl_bench; print(sorted(n for n in sys.modules if n.split('.')[0] in ('petl_bench', 'torch')))"
    assert run_python(code) == "['petl_bench', 'petl_bench.late_imports', 'petl_bench.late_torchmetrics']\n"


def test_checks_need_no_pytest() -> None:
    """Only what a test needs may come with them: users' checks run wherever they like."""
    assert run_python("import sys, petl_bench.testing; print('pytest' in sys.modules)") == "False\n"


# Each module is imported in a child of its own, forked from a process that has loaded foreign packages only: a fresh
# interpreter for each would spend its time on torch.
ALONE = """
import importlib, os, sys, traceback
import torch, pytorch_lightning.cli, torchmetrics, torchvision.transforms.v2, av, docstring_parser, einops, jsonargparse
import safetensors.torch, typeshed_client
assert not [name for name in sys.modules if name.split(".")[0] in ("petl_bench", "methods", "datamodules")]
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(f"cannot be imported alone: {failed}" if failed else 0)
"""


def test_every_module_imports_alone() -> None:
    run_python(ALONE, *(name for path in FILES if not (name := module_name(path)).endswith("__main__")))
