"""F165: a sweep of six runs, two of which are killed, and six runs by hand."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.trials import HELD, PETL_BENCH, Bench, Trial, completed, first_problem, orphans

_CONFIGS, _SEEDS = ("fixture_linear", "fixture_lora"), (0, 1, 2)
#: of them, those that are killed
_KILLED = (("fixture_linear", 1), ("fixture_lora", 2))
_PATIENCE = 900
#: columns of a report that say how long something took, or how much memory it wanted meanwhile
_OF_THE_MOMENT = ("Peak GB", "GPU-hours", "Wall s", "clips/s train", "clips/s infer")


def trials() -> Iterator[Trial]:
    """The one."""
    yield Trial("F165", "kill -9 of two of the six runs of a sweep, the same sweep again", _two_of_six)


def figures_of(report: Path) -> list[Any]:
    """What a report says of its rows, but for what depends on the moment and on names of folders."""
    tables = json.loads((report / "report.json").read_text(encoding="utf-8"))["tables"]
    return [(table["id"], table["notes"], [_row(row) for row in table["rows"]]) for table in tables]


def _row(row: dict[str, Any]) -> Any:
    of_figures = [
        {name: value for name, value in row[block].items() if name not in _OF_THE_MOMENT}
        for block in ("values", "to_best", "from_best", "from_full")
    ]
    return row["name"], row["config_hash"], [run["seed"] for run in row["runs"]], row["state"], of_figures


def _two_of_six(bench: Bench) -> str:
    folder = bench.new("sweep")
    runs, report, by_hand = folder / "runs", folder / "report", folder / "by_hand"
    command = [
        *(*PETL_BENCH, "sweep", "--configs", *_CONFIGS, "--seeds", *map(str, _SEEDS), "--jobs=2", "--no-plan"),
        *(*_options(bench), f"--runs_dir={runs}", f"--output={report}"),
    ]
    sweep = bench.start(command, PYTHONUNBUFFERED="1")  # in a process of its own, like every run of it
    problem = first_problem(*(_killed_in_the_middle(runs, config, seed) for config, seed in _KILLED))
    code = sweep.wait(_PATIENCE)
    there = len(list(runs.rglob("result.json")))
    after = HELD if (code, there) == (128 + signal.SIGKILL, 4) else f"it ended with {code}, and {there} runs are done"
    again = completed(bench.run(command, _PATIENCE))
    resumed = [json.loads(path.read_text())["train"]["resumed"] for path in runs.rglob("result.json")]
    gone_on = HELD if sorted(resumed) == [0, 0, 0, 0, 1, 1] else f"runs were continued {sorted(resumed)} times"
    own = [*_options(bench), f"--runs_dir={by_hand}"]
    each = [[f"--config={config}", f"--seed_everything={seed}"] for config in _CONFIGS for seed in _SEEDS]
    hands = [bench.run([*PETL_BENCH, "fit", *one, *own]) for one in each]
    reported = bench.run([*PETL_BENCH, "report", str(by_hand), f"--output={folder / 'report_by_hand'}"])
    problem = first_problem(problem, after, again, gone_on, *map(completed, hands), completed(reported), orphans(runs))
    if problem:
        return problem
    same = figures_of(report) == figures_of(folder / "report_by_hand")
    return HELD if same else "the report of the sweep is not that of six runs by hand"


def _options(bench: Bench) -> list[str]:
    return [
        "--model.init_args.backbone=backbone/clip_tiny.yaml",
        *(f"--data.init_args.root={bench.data}", "--data.init_args.batch_size=8", "--data.init_args.num_workers=0"),
        *("--trainer.max_epochs=12", "--save_every_n_steps=2", "--trainer.enable_progress_bar=false"),
    ]


def _killed_in_the_middle(runs: Path, config: str, seed: int) -> str:
    """Kills the process of a run as soon as it has saved something."""
    method, deadline = config.removeprefix("fixture_"), time.monotonic() + _PATIENCE
    while not list(runs.glob(f"*/{method}/*/*/seed{seed}/last.ckpt")):
        if time.monotonic() > deadline:
            return f"{config} with seed {seed} did not begin"
        time.sleep(0.05)
    wanted = {f"--config={config}", f"--seed_everything={seed}", f"--runs_dir={runs}"}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = set(path.read_text(encoding="utf-8", errors="replace").split("\0"))
        except OSError:
            continue
        if wanted <= words:
            os.kill(int(path.parent.name), signal.SIGKILL)
            return HELD
    return f"{config} with seed {seed} was over before it was killed"
