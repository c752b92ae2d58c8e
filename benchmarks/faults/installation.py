"""F150-F159: installations that are cut, shadowed or moved, and records that a run did not come to write."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults.trials import (
    HELD,
    PATIENCE,
    PETL_BENCH,
    ROOT,
    Bench,
    Ended,
    Trial,
    completed,
    first_problem,
    incomplete,
    refused,
)

#: of Python's start: hides modules (`BLOCK`), and what distributions say of themselves (`HIDE`)
_CUT = """
import os, sys, importlib.metadata as metadata
blocked, hidden = (os.environ.get(name, "").split() for name in ("BLOCK", "HIDE"))
class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if any(f"{name}.".startswith(f"{block}.") for block in blocked):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked)
known = metadata.distribution
def distribution(name):
    if name in hidden:
        raise metadata.PackageNotFoundError(name)
    return known(name)
metadata.distribution = distribution
"""


def trials() -> Iterator[Trial]:
    """All of them."""
    for module, package in (("jsonschema", "jsonschema"), ("rpds", "rpds-py"), ("rich", "rich")):
        yield Trial("F150", f"V6a cut installation without {module}", partial(_without, module, package))
    yield Trial(
        "F150", "V6a cut installation, part of safetensors", partial(_without, "safetensors.torch", "safetensors")
    )
    yield Trial("F151", "V6b cut installation without open_clip", partial(_without, "open_clip", "open_clip_torch"))
    yield Trial("F152", "V5b V5c decoders and others without their metadata", _no_metadata)
    yield Trial("F153", "killed before the record, `record` makes it", _record_of_a_killed_run)
    yield Trial("F153", "record lost, `record` makes it without a draft", _record_without_draft)
    yield Trial("F154", "P2 run from the folder that holds the clone", _above_the_clone)
    yield Trial("F155", "P1c V3 foreign methods and datamodules", _foreign_methods)
    yield Trial("F156", "own av.py in the current folder", _own_module)
    yield Trial("F157", "P3b own backbone/ in the current folder", _own_fragments)
    yield Trial("F158", "V2 clone moved after make setup", _moved)


def _cut(bench: Bench, command: list[str], **variables: str) -> Ended:
    folder = bench.new("cut")
    (folder / "sitecustomize.py").write_text(_CUT, encoding="utf-8")
    return bench.run(command, PATIENCE, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]), **variables)


def _without(module: str, package: str, bench: Bench) -> str:
    runs = bench.new()
    ended = _cut(bench, bench.fit(runs), BLOCK=module)
    nothing = HELD if not list(runs.rglob("config.yaml")) else "the run had got a folder"
    told = " ".join(ended.messages)
    advice = HELD if "pip install" in told and told.rpartition("pip install")[2].count(package) else told
    return first_problem(refused(ended, 2, module.partition(".")[0]), advice, nothing)


def _no_metadata(bench: Bench) -> str:
    runs = bench.new()
    hidden = "av decord torch pillow timm transformers open_clip_torch petl-bench torchvision"
    ended = _cut(bench, bench.fit(runs, "--trainer.max_epochs=1"), HIDE=hidden)
    if problem := completed(ended):
        return problem
    env = json.loads(next(runs.rglob("result.json")).read_text())["env"]
    return HELD if env["versions"]["av"] is None and env["decoder"] else f"the record says {env['versions']}"


def _petl_bench(*arguments: str) -> list[str]:
    return [*PETL_BENCH, *arguments]


def _record_of_a_killed_run(bench: Bench) -> str:
    runs = bench.new()
    killed = bench.run(bench.fit(runs), FAULT="test no record")
    first = HELD if killed.code == -9 else f"exit code {killed.code}: {killed.text[-300:]}"
    return first_problem(first, incomplete(runs), _recorded(bench, runs))


def _record_without_draft(bench: Bench) -> str:
    """Of a run of an earlier version, or whose record was deleted."""
    runs = bench.new()
    shutil.copytree(bench.uninterrupted(), runs, dirs_exist_ok=True)
    next(runs.rglob("result.json")).unlink()
    return _recorded(bench, runs)


def _recorded(bench: Bench, runs: Path) -> str:
    """`record` gives the figures of an uninterrupted run, says how it came by them, and is not repeated."""
    folder = next(runs.rglob("config.yaml")).parent
    command = _petl_bench("record", "--plugins=benchmarks.faults.faulty", str(folder))
    if problem := completed(bench.run(command)):
        return problem
    record, whole = (
        json.loads(next(place.rglob("result.json")).read_text()) for place in (runs, bench.uninterrupted())
    )
    figures = [{name: value for name, value in one["eval"].items() if name != "cost"} for one in (record, whole)]
    same = HELD if figures[0] == figures[1] else "other figures than those of an uninterrupted run"
    marked = HELD if record.get("reconstructed") else "the record does not say that it was reconstructed"
    left = HELD if not list(runs.rglob("record.draft.json")) else "the draft is left"
    return first_problem(same, marked, left, refused(bench.run(command), 2, "has its record"))


def _above_the_clone(bench: Bench) -> str:
    """A namespace package stands in the place of ours, which is found by an editable installation."""
    above = bench.new("clones")
    (above / "petl_bench").symlink_to(ROOT)
    finder = bench.new("finder")
    (finder / "sitecustomize.py").write_text(_EDITABLE.format(package=str(ROOT / "petl_bench")), encoding="utf-8")
    command = ["env", "-C", str(above), *_petl_bench("list", "methods")]
    return completed(bench.run(command, PYTHONPATH=str(finder)))


#: what setuptools installs for `pip install -e`: a finder that comes after all folders of the path
_EDITABLE = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "petl_bench":
            return spec_from_file_location(name, {package!r} + "/__init__.py", submodule_search_locations=[{package!r}])
        return PathFinder.find_spec(name, [{package!r}]) if name.rpartition(".")[0] == "petl_bench" else None
sys.meta_path.append(Editable)
"""


def _foreign_methods(bench: Bench) -> str:
    folder, runs = bench.new("here"), bench.new()
    for name in ("methods", "datamodules"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('foreign')\n", encoding="utf-8")
    command = bench.fit(runs, "--trainer.max_epochs=1", method="methods.linear.Linear")
    command = [part for part in command if not part.startswith("--plugins")]
    return completed(bench.run(["env", "-C", str(folder), *command]))


def _own_module(bench: Bench) -> str:
    folder = bench.new("here")
    (folder / "av.py").write_text("", encoding="utf-8")
    ended = bench.run(["env", "-C", str(folder), *bench.fit(bench.new())])
    return refused(ended, 2, f"{folder / 'av.py'} is imported in the place of the package av")


def _own_fragments(bench: Bench) -> str:
    folder = bench.new("here")
    (folder / "backbone").mkdir()
    (folder / "backbone" / "clip_tiny.yaml").write_text("a: 1\n", encoding="utf-8")
    ended = bench.run(["env", "-C", str(folder), *bench.fit(bench.new())])
    return refused(ended, 2, "backbone/clip_tiny.yaml, which is read in place of the packaged backbone/clip_tiny.yaml")


def _moved(bench: Bench) -> str:
    """`make setup` does nothing where nothing changed, and makes the environment anew in a clone that was moved."""
    here = bench.new("clone")
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, here)
    (here / ".venv").mkdir()
    (here / ".venv" / ".installed").write_text(f"{(here / '.venv').resolve()}\n", encoding="utf-8")
    moved = here.with_name("moved clone")
    planned = [_make(here)]
    here.rename(moved)
    planned.append(_make(moved))
    told = ["venv --clear" in text for text in planned]
    return HELD if told == [False, True] else f"make setup would do: {planned}"


def _make(folder: Path) -> str:
    done = subprocess.run(["make", "-n", "setup"], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
