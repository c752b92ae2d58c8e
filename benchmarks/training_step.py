"""The training step of this checkout against that of another one: its time, what it saves, and what it computes.

    git worktree add /tmp/before HEAD~1
    python -m benchmarks.training_step --before /tmp/before

Each checkout has a process of its own, with one thread (`benchmarks/asked_steps.py`). It reads its own configurations,
and takes the steps that `petl-bench profile` takes on a CPU, which are those of `fit` on fixed noise. The two take
turns of a few steps. For each configuration a table has the median milliseconds of CPU per step, and the median of the
rounds' ratios, which other work of the machine moves less than the ratio of the medians; the megabytes that autograd
saves for the backward pass, without parameters; and whether the losses of all steps are equal to the last bit. Commits
whose `fixture_*` have the tiny backbones take other steps by these names: give `--configs` that both have.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from petl_bench.fixture import write_fixture

HERE = Path(__file__).resolve().parents[1]
#: every kind of method, on CLIP and BLIP, for retrieval and questions
CONFIGS = (
    *("fixture_adaptformer", "fixture_convpass", "fixture_cross_modal_adapter", "fixture_full", "fixture_lora"),
    *("fixture_mvadapter", "fixture_mvadapter_factor", "fixture_st_adapter", "fixture_tempme", "fixture_vop"),
    *("fixture_full_clip4clip", "fixture_blip_adaptformer", "fixture_blip_full", "fixture_blip_uniadapter"),
    *("fixtureqa_mvadapter", "fixtureqa_full", "fixtureqa_blip_adaptformer", "fixtureqa_blip_uniadapter"),
)


class CheckoutError(Exception):
    """A checkout cannot take the steps, in one line."""


class Checkout:
    """Takes turns of one checkout when it is asked to: of training steps, or of what another script does.

    Args:
        folder: of the checkout.
        current: folder in which it works.
        errors: takes what it prints.
        script: in this folder; reads and answers lines of JSON as `asked_steps` does.
        more: folders with packages that the script needs besides.

    Raises:
        CheckoutError: there is no petl_bench in the folder.
    """

    def __init__(
        self, folder: Path, current: str, errors: Path, script: str = "asked_steps.py", more: Sequence[str] = ()
    ) -> None:
        if not (folder / "petl_bench" / "__init__.py").is_file():
            raise CheckoutError(f"{folder} holds no petl_bench: give the folder of a checkout")
        self.folder, self._errors = folder, errors
        # With -P the folder of the script is none to import from.
        command = [sys.executable, "-P", str(Path(__file__).parent / script)]
        path = os.pathsep.join([str(folder), *more])
        surroundings = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with errors.open("w") as file:
            self.process = subprocess.Popen(command, cwd=current, env=surroundings, stderr=file, **pipes)

    def tell(self, what: Any) -> None:
        """Asks for something; see `asked_steps`."""
        print(json.dumps(what), file=self.process.stdin, flush=True)

    def answer(self, kind: str) -> Any:
        """What it answers.

        Raises:
            CheckoutError: it failed, or answers something else.
        """
        assert self.process.stdout is not None, "it is a pipe"
        answer = json.loads(self.process.stdout.readline() or "{}")
        if kind not in answer:
            (*_, last) = ["nothing was printed", *self._errors.read_text(errors="replace").splitlines()]
            raise CheckoutError(f"{self.folder} takes no such steps: {last}")
        return answer[kind]


@contextmanager
def checkouts(before: Path) -> Iterator[tuple[Checkout, Checkout]]:
    """Both, in an empty folder but for the generated data set, where classifiers find their answers."""
    with tempfile.TemporaryDirectory(prefix="petl_bench_") as name:
        folders = (before.resolve(), HERE)
        found: list[Checkout] = []
        try:
            found += (Checkout(folder, name, Path(name, f"{place}.log")) for place, folder in enumerate(folders))
            write_fixture(Path(name, "demo", "fixture"), train_videos=8, test_videos=2, captions_per_video=1)
            yield found[0], found[1]
        finally:
            for checkout in found:
                checkout.process.kill()
                checkout.process.communicate()


def compare(before: Checkout, after: Checkout, config: str, rounds: int, steps: int, clips: int) -> list[str]:
    """A row of the table."""
    both = (before, after)
    milliseconds: dict[Checkout, list[float]] = {before: [], after: []}
    for checkout in both:
        checkout.tell({"config": config, "turns": 1 + rounds, "steps": steps, "clips": clips})
    for number in range(1 + rounds):
        for checkout in both if number % 2 else both[::-1]:  # neither is always the first
            checkout.answer("ready")
            checkout.tell("go")
            milliseconds[checkout].append(1000 * checkout.answer("seconds") / steps)
    (old, old_losses), (new, new_losses) = (checkout.answer("saved_and_losses") for checkout in both)
    old_times, new_times = (milliseconds[checkout][1:] for checkout in both)  # the first turn warms up
    ratio = median(mine / theirs for mine, theirs in zip(new_times, old_times, strict=True))
    times = [f"{median(old_times):.1f}", f"{median(new_times):.1f}", f"{ratio:.3f}"]
    saved = [f"{old / 1e6:.3f}", f"{new / 1e6:.3f}", f"{new / old:.6f}"]
    return [config, *times, *saved, "yes" if old_losses == new_losses else "NO"]


def show(row: list[str]) -> None:
    print(f"{row[0]:<28}", *(f"{cell:>11}" for cell in row[1:]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="training_step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="the other checkout")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each checkout (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="in a turn (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=16, help="of a step (default: %(default)s)")
    options = parser.parse_args()
    if min(options.rounds, options.steps, options.clips) < 1:
        parser.error("rounds, steps and clips are whole numbers from 1 on")
    try:
        with checkouts(options.before) as (before, after):
            show(["config", "ms before", "after", "ratio", "MB before", "after", "ratio", "same losses"])
            for config in options.configs:
                show(compare(before, after, config, options.rounds, options.steps, options.clips))
    except CheckoutError as error:
        parser.exit(2, f"training_step: error: {error}\n")


if __name__ == "__main__":
    main()
