"""How fast petl_bench is, against its goals: one table, and the same as JSON.

    python -m benchmarks.perf [--before FOLDER] [--only NAME ...] [--output FILE] [--quick]

Two sides of a comparison take turns on one thread, in this process or in one each; CPU time counts, and the median of
the rounds' ratios, with half of their interquartile range as noise. `FOLDER` is a checkout of 3e531d0, against which
official codes were measured; without it those rows are left out, and so are peft, decord and torchcodec where they
are not installed. With `--quick` everything is tiny: it shows that all of this runs, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.perf import around, evaluation, loading, rounds, starting, steps
from benchmarks.perf.rounds import Row
from benchmarks.perf.steps import Sizes
from benchmarks.training_step import CheckoutError

#: by the name that `--only` takes
MEASUREMENTS: dict[str, Callable[[Sizes], list[Row]]] = {
    **{f"{name}-2x{frames}": partial(steps.adapter, name, frames) for name in steps.ADAPTERS for frames in (4, 12)},
    "UniAdapter-1x4": steps.uniadapter,
    **{f"{name}-bf16": partial(steps.mixed, name) for name in steps.ADAPTERS},
    "MV-Adapter-official-frozen": partial(steps.mv_official, "frozen"),
    "MV-Adapter-official-trained": partial(steps.mv_official, "trained"),
    "UniAdapter-official": steps.uniadapter_official,
    "LoRA-peft": steps.lora_of_peft,
    "clips-warm": partial(loading.cached, False, 100),
    "clips-cold": partial(loading.cached, True, 20),
    "decoding": loading.decoding,
    "ranks-5000": partial(evaluation.ranks, 5000, 4),
    "ranks-10000": partial(evaluation.ranks, 10000, 6),
    "reranking": evaluation.reranking,
    "first-step": starting.first_step,
    "step-overhead": starting.step_overhead,
    **{
        f"growth-{name}-{of}": partial(steps.growth, name, of)
        for name in ("AdaptFormer", "MV-Adapter")
        for of in ("frames", "clips", "width")
    },
    "growth-ranks": evaluation.growth,
    "growth-report": around.report_growth,
    "growth-describe": around.describe_growth,
    "describe": around.describe,
}


def main(arguments: list[str] | None = None) -> int:
    """Measures, prints the table and writes it; 0 also where goals are missed."""
    parser = argparse.ArgumentParser(prog="perf", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="a checkout of 3e531d0")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON, whose other measurements stay")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round: whether it runs")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("rounds is a whole number from 1 on")
    if options.quick and options.output:
        parser.error("figures of --quick mean nothing and are not kept: leave out --output")
    sizes = Sizes(1 if options.quick else options.rounds, options.quick, options.before and options.before.resolve())
    torch.set_num_threads(1)
    found: dict[str, list[Row]] = {}
    try:
        for name in options.only or MEASUREMENTS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            found[name] = MEASUREMENTS[name](sizes)
            if options.output:  # after each one, for all of them take a while
                rounds.write(options.output, {name: found[name]}, rounds.surroundings())
    except CheckoutError as error:
        parser.exit(2, f"perf: error: {error}\n")
    rounds.show([row for rows in found.values() for row in rows])
    return 0


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":  # numpy's threads are counted when it is imported
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.perf", *sys.argv[1:]], alone)
    sys.exit(main())
