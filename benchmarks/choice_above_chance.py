"""Whether tasks that choose learn: the 95 % interval of their accuracy on generated questions must lie above chance.

    python -m benchmarks.choice_above_chance /tmp/choice    # ten minutes on one core; writes benchmarks/results/

Writes generated clips in NExT-QA's layout (512 test questions with five options about 128 clips of scenes that no
training clip shows), and trains each configuration with three seeds: the small CLIP of the package, which chooses by
cosine, and the small BLIP, which chooses by its matching score. Test clips have colours on other shapes than training
clips, so that to guess one from the other is below chance: what a model gets, it has seen. Intervals are those of the
report: bootstrap over clips, all questions about one of them together. Some options are never right, in training
neither: who has learnt that alone and sees no clip reaches `blind`, which is above chance, so that the lower ends are
compared with it, too. Ends with 1 where one does not lie above both.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from datamodules.nextqa import NExTQA
from petl_bench.data.batch import Question
from petl_bench.data.samples import Split
from petl_bench.fixture import WRITERS
from petl_bench.main import main as petl_bench
from petl_bench.report.collect import Run
from petl_bench.report.intervals import Statistics
from petl_bench.runs.record import FILE_NAME, read_result

RESULT = Path(__file__).parent / "results" / "choice_above_chance.json"
_SEEDS = (0, 1, 2)
_CLIPS = {"train_videos": 240, "test_videos": 128}


class Trained(NamedTuple):
    """What is trained: a configuration, its task, and the kind of its backbone."""

    config: str
    task: str
    backbone: str


TRAINED = (
    Trained("fixturechoice_full", "choice", "CLIP"),
    Trained("fixturechoice_blip_full", "choice_matching", "BLIP"),
)


def main() -> int:
    """Runs what the folder does not hold yet; writes and prints the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="for data and runs; what lies there already is used")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = options.folder / "nextqa"
    if not data.exists():
        WRITERS["nextqa"](data, **_CLIPS)
    runs = [figures(options.folder, trained, seed) for trained in TRAINED for seed in _SEEDS]
    chance = blind_accuracy(data)
    wanting = [run for run in runs if run["interval"][0] <= max(run["chance"], chance)]
    result = {"questions": runs[0]["questions"], "blind": chance, "runs": runs, "environment": _environment()}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{len(runs) - len(wanting)} of {len(runs)} runs above chance and above blind {chance:.1f}: {RESULT}")
    return 1 if wanting else 0


def figures(folder: Path, trained: Trained, seed: int) -> dict[str, Any]:
    """What one run reached, which is begun if its record is not there."""
    runs = folder / "runs" / f"{trained.config}-{trained.task}-{seed}"
    if not list(runs.rglob(FILE_NAME)):
        _call(
            *("fit", f"--config={trained.config}", f"--model.task=task/{trained.task}.yaml"),
            *(f"--seed_everything={seed}", f"--data.root={folder / 'nextqa'}", "--data.num_workers=0"),
            *(f"--runs_dir={runs}", "--trainer.enable_progress_bar=false"),
        )
    (path,) = runs.rglob(FILE_NAME)
    record = read_result(path)
    interval = Statistics(None).intervals([Run(path, record)])["Accuracy"]
    found = {
        "config": trained.config,
        "backbone": trained.backbone,
        "task": trained.task,
        "seed": seed,
        "accuracy": record["eval"]["accuracy"],
        "interval": [interval.low, interval.high],
        "per_type": record["eval"]["per_type"],
        "chance": record["eval"]["chance"],
        "questions": record["eval"]["n"],
    }
    told = f"{found['accuracy']:.1f} ({interval.low:.1f} to {interval.high:.1f})"
    print(f"{trained.task} on {trained.backbone}, seed {seed}: {told}", flush=True)
    return found


def blind_accuracy(root: Path) -> float:
    """In percent, of whoever sees no clip and takes the option that was right most often in training."""
    offered: dict[str, Counter[str]] = defaultdict(Counter)
    right: dict[str, Counter[str]] = defaultdict(Counter)
    for question in _questions(root, "train"):
        offered[question.type].update(question.choices)
        right[question.type].update(question.answers)
    points = []
    for question in _questions(root, "test"):
        shares = [right[question.type][one] / max(1, offered[question.type][one]) for one in question.choices]
        best = [place for place, share in enumerate(shares) if share == max(shares)]
        points.append((question.correct in best) / len(best))
    return 100 * sum(points) / len(points)


def _questions(root: Path, split: Split) -> list[Question]:
    samples = NExTQA(root, partial=True).samples(split)
    return [question for sample in samples for question in sample.questions]


def _call(*arguments: str) -> None:
    print(f"$ petl-bench {shlex.join(arguments)}", flush=True)
    if code := petl_bench(list(arguments)):
        sys.exit(code)


def _environment() -> dict[str, str]:
    return {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}


if __name__ == "__main__":
    sys.exit(main())
