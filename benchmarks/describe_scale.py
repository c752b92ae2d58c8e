"""Seconds of `petl-bench data describe` on annotation files as large as MSR-VTT's: 10,000 videos, 200,000 captions.

    python -m benchmarks.describe_scale [--before FOLDER] [--rounds 3]

The captions are made up of words that recur as in captions; the list of test videos has none of its own. Seconds are
those of the processor, of the whole command in a process of its own, one thread, less those of the same command on 40
captions: what is left is not imports. With `--before` the checkout in a folder takes turns with this one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.perf.rounds import ROOT, ratio, summary

VIDEOS, CAPTIONS = 10_000, 20
_SYLLABLES = (
    *("ba", "con", "der", "fi", "gar", "hol", "jo", "ka", "lum"),
    *("ma", "ner", "ope", "que", "ro", "sta", "tion", "vel"),
)


def make_annotations(folder: Path, videos: int) -> None:
    """Writes the files of protocol 1kA-9k; a tenth of the videos is the test split."""
    chosen = random.Random(0)
    words = ["a", "is", "the", "in", "man", "woman", "it's"]
    words += ["".join(chosen.choices(_SYLLABLES, k=3)) for _ in range(5000)]
    frequency = [1 / (place + 1) for place in range(len(words))]  # Zipf

    def caption() -> str:
        return " ".join(chosen.choices(words, frequency, k=chosen.randint(5, 14)))

    ids = [f"video{number}" for number in range(videos)]
    rows = [{"video_id": video, "caption": caption()} for video in ids for _ in range(CAPTIONS)]
    folder.mkdir()
    (folder / "MSRVTT_data.json").write_text(json.dumps({"sentences": rows}))
    tested = ids[-(videos // 10 or 1) :]
    with (folder / "MSRVTT_train.9k.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video_id"], *([video] for video in ids[: -len(tested)])])
    with (folder / "MSRVTT_JSFUSION_test.csv").open("w", newline="") as file:
        rows_of_test = [[f"ret{place}", video, caption()] for place, video in enumerate(tested)]
        csv.writer(file).writerows([["key", "video_id", "sentence"], *rows_of_test])


def described(checkout: Path, root: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of the command, and what it prints."""
    arguments = ["data", "describe", "--config", "data/msrvtt.yaml", f"--data.root={root}", "--data.partial=true"]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "petl_bench", *arguments]
    with subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "it is a pipe"
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"petl-bench data describe ended with {process.returncode} in {checkout}")
    return usage.ru_utime + usage.ru_stime, json.loads(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checkouts = {"here": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    texts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        large, small = Path(temporary, "large"), Path(temporary, "small")
        make_annotations(large, VIDEOS)
        make_annotations(small, 1 + 1)
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                whole, told = described(checkout, large)
                imports, _ = described(checkout, small)
                seconds[name].append(whole - imports)
                texts[name] = told["splits"]
    found: dict[str, Any] = {name: round(summary(took).value, 2) for name, took in seconds.items()}
    if options.before:
        found["here / before"] = ratio(seconds["here"], seconds["before"])._asdict()
        found["same words and cuts"] = all(
            {name: split.get(name) for name in ("captions", "words", "cut_share")}
            == {name: texts["before"][way].get(name) for name in ("captions", "words", "cut_share")}
            for way, split in texts["here"].items()
        )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
