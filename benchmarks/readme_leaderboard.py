"""The leaderboard in the README: that of the fixture, from records that are committed beside this.

    python -m benchmarks.readme_leaderboard            # write the block again from the records
    python -m benchmarks.readme_leaderboard --remake   # run the demo (minutes), take its records, write the block

Commit everything before `--remake`: records say of which commit they are, and whether anything was changed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.report.collect import Run, collect
from petl_bench.report.duplicates import settled
from petl_bench.report.leaderboard import build_report
from petl_bench.report.markdown import render_block
from petl_bench.report.verification import verified
from petl_bench.runs.record import config_hash

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
RECORDS = REPOSITORY / "benchmarks" / "results" / "fixture"
BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
_KEPT = ("result.json", "ranks.npz", "config.yaml")
#: where data and weights lie is no part of a recipe
_PATHS = ("data.init_args.root", "model.init_args.backbone.init_args.pretrained")


def main() -> None:
    """Writes the block, of new records if that is asked for."""
    parser = argparse.ArgumentParser(description="Writes the fixture's leaderboard into the README.")
    parser.add_argument("--remake", action="store_true", help="run the demo and take its records")
    if parser.parse_args().remake:
        remake()
    README.write_text(with_block(README.read_text(encoding="utf-8"), block()), encoding="utf-8")
    print(f"{README}: the leaderboard of {RECORDS.relative_to(REPOSITORY)}")


def block() -> str:
    """The Markdown that the records give.

    Raises:
        RuntimeError: a record is rejected, or its recipe is no longer the packaged one.
    """
    found = settled(verified(collect([RECORDS]), None))
    if found.rejected or not found.runs:
        raise RuntimeError(f"records of the README: {found.rejected or 'none'}")
    for run in found.runs:
        require_recipe(run)
    return render_block(build_report(found))


def with_block(page: str, text: str) -> str:
    """A page with a new block between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise RuntimeError(f"the page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{text}{END}{after}"


def require_recipe(run: Run) -> None:
    """Refuses the record of a recipe that has changed since.

    Of the run's complete configuration counts what its packaged one spells out, without paths. So a default of the code
    that no recipe names is not looked at: the numbers of regression tests are.

    Raises:
        RuntimeError: naming the recipe.
    """
    ran = yaml.safe_load(run.path.with_name("config.yaml").read_text(encoding="utf-8"))
    name = ran["recipe"]
    packaged = composed(config_folder() / f"{name}.yaml")
    if recipe_hash(packaged) != recipe_hash(_among(ran, packaged)):
        raise RuntimeError(f"{name}.yaml has changed: python -m benchmarks.readme_leaderboard --remake")


def recipe_hash(config: dict[str, Any]) -> str:
    """`config_hash` of what a packaged configuration says, without the paths of data and weights."""
    for path in _class_paths(config):  # classes say themselves which of their options are operational
        importlib.import_module(path.rpartition(".")[0])
    return config_hash(config, {name.rpartition(".")[0]: {name.rpartition(".")[2]: None} for name in _PATHS})


def remake() -> None:
    """Runs the demo from this checkout and keeps the records of its runs."""
    with tempfile.TemporaryDirectory() as folder:
        # Its configurations look into `demo` of the current folder, so that records hold no path of this machine.
        command = [sys.executable, "-m", "petl_bench", "demo", "demo"]
        # Threads decide the last bit on a CPU: as `make demo` has them.
        own = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, env={**os.environ, **own}, check=True)
        keep(Path(folder) / "demo" / "runs")


def keep(runs: Path) -> None:
    """Puts the records of runs into the place of those that are here."""
    shutil.rmtree(RECORDS, ignore_errors=True)
    for record in sorted(runs.rglob("result.json")):
        place = RECORDS / record.parent.relative_to(runs)
        place.mkdir(parents=True)
        for name in _KEPT:
            shutil.copyfile(record.with_name(name), place / name)


def _among(value: Any, named: Any) -> Any:
    """What of nested mappings stands under a name that others have, too."""
    if not isinstance(value, dict) or not isinstance(named, dict):
        return value
    return {name: _among(value[name], named[name]) for name in named if name in value}


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (item for name, item in value.items() if name == "class_path")
        for item in value.values():
            yield from _class_paths(item)


if __name__ == "__main__":
    main()
