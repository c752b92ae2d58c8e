"""Training steps: adapters against full fine-tuning, against another checkout, and against peft.

Each side has a process of its own with one thread, and they take turns. Our steps are those of `petl-bench profile`,
which are those of `fit` on noise, Lightning's part included; peft's are a bare loop. Weights are random.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks.perf.rounds import ROOT, Measured, Row, exponent, interleave, left_out, ratio
from benchmarks.training_step import Checkout

_BACKBONE = "--model.init_args.backbone.init_args"


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
        rounds: turns of each side that count.
        quick: tiny backbones, so that everything runs, and no figure means anything.
        before: a checkout of 3e531d0, if there is one.
    """

    rounds: int = 7
    quick: bool = False
    before: Path | None = None


class Recipe(NamedTuple):
    """One side of a comparison.

    Attributes:
        config: name of a configuration.
        clips: of a step.
        frames: of a clip.
        options: more of `petl-bench profile`.
        checkout: whose code takes the steps.
    """

    config: str
    clips: int
    frames: int
    options: tuple[str, ...] = ()
    checkout: Path = ROOT

    def arguments(self, quick: bool, vocabulary: Path) -> list[str]:
        """Options of `petl-bench profile`; `vocabulary` is that of BLIP base."""
        blip = "blip" in self.config or "uniadapter" in self.config
        base = "base" if blip else "ViT-B-32-quickgelu"
        return [
            f"{_BACKBONE}.architecture={'tiny' if quick else base}",
            *([f"{_BACKBONE}.vocabulary={vocabulary}"] if blip and not quick else []),
            f"--data.init_args.frames={self.frames}",
            *self.options,
        ]


def write_vocabulary(path: Path) -> Path:
    """As many pieces as BERT's vocabulary has, its special ones in their places; texts are of the one word `a`."""
    known = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1037: "a"}
    path.write_text("".join(f"{known.get(number, f'[unused{number}]')}\n" for number in range(30522)), encoding="utf-8")
    return path


class Taken(NamedTuple):
    """Seconds of CPU per step, one for each round, and bytes that the first step saves."""

    seconds: list[float]
    saved: int


def take(recipes: Mapping[str, Recipe], sizes: Sizes) -> dict[str, Taken]:
    """Steps of all sides in turns."""
    with _processes(recipes, sizes) as sides:
        seconds = interleave({name: lambda side=side: _turn(side) for name, side in sides.items()}, sizes.rounds)
        saved = {name: side.answer("saved_and_losses")[0] for name, side in sides.items()}
    return {name: Taken(seconds[name], saved[name]) for name in recipes}


@contextmanager
def _processes(recipes: Mapping[str, Recipe], sizes: Sizes) -> Iterator[dict[str, Checkout]]:
    more = [str(Path(place).resolve()) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    found: dict[str, Checkout] = {}
    with tempfile.TemporaryDirectory(prefix="petl_bench_") as name:
        vocabulary = write_vocabulary(Path(name, "vocab.txt"))
        try:
            for side, recipe in recipes.items():
                foreign = recipe.config == "peft"
                script = "perf/peft_steps.py" if foreign else "asked_steps.py"
                # Another checkout sees its own code alone.
                found[side] = Checkout(
                    recipe.checkout, name, Path(name, f"{side}.log"), script, more if foreign else ()
                )
                asked = {"config": recipe.config, "turns": 1 + sizes.rounds, "steps": 1, "clips": recipe.clips}
                options = ["tiny"] * sizes.quick if foreign else recipe.arguments(sizes.quick, vocabulary)
                found[side].tell(asked | {"options": options} | ({"frames": recipe.frames} if foreign else {}))
            yield found
        finally:
            for checkout in found.values():
                checkout.process.kill()
                checkout.process.communicate()


def _turn(side: Checkout) -> float:
    side.answer("ready")
    side.tell("go")
    return side.answer("seconds")


# --- adapters and full fine-tuning --------------------------------------------------------------------------------

#: configuration, goals of time at 2 x 4 and 2 x 12, and of saved bytes
ADAPTERS = {
    "AdaptFormer": ("msrvtt_adaptformer", {4: 0.53, 12: 0.60}, 0.57),
    "LoRA": ("msrvtt_lora", {4: 0.55, 12: 0.65}, 0.62),
    "MV-Adapter": ("msrvtt_mvadapter_factor", {4: 0.60, 12: 0.66}, 0.70),
}


def adapter(name: str, frames: int, sizes: Sizes) -> list[Row]:
    """A step of an adapter, and what it saves, against full fine-tuning: ViT-B/32, two clips, fp32."""
    config, goals, bytes_goal = ADAPTERS[name]
    adapted, full = Recipe(config, 2, frames), Recipe("msrvtt_full", 2, frames)
    taken = take({"adapter": adapted, "full": full}, sizes)
    where = f"{name} / full, ViT-B/32, 2 x {frames}"
    return [_time(f"step of {where}", goals[frames], taken), _saved(f"saved bytes of {where}", bytes_goal, taken)]


def uniadapter(sizes: Sizes) -> list[Row]:
    """The same of UniAdapter with the matching task on BLIP base, one clip of four frames.

    The goal of the bytes is that of the performance note for retrieval: matching has none of its own.
    """
    taken = take({"adapter": Recipe("msrvtt_uniadapter", 1, 4), "full": Recipe("msrvtt_blip_full", 1, 4)}, sizes)
    where = "UniAdapter matching / full, BLIP base, 1 x 4"
    return [_time(f"step of {where}", 0.65, taken), _saved(f"saved bytes of {where}", 0.65, taken)]


def mixed(name: str, sizes: Sizes) -> list[Row]:
    """What an adapter saves under bf16-mixed against what it saves in fp32: 2 x 4, exact, from one step."""
    recipe = Recipe(ADAPTERS[name][0], 2, 4)
    in_bf16 = recipe._replace(options=("--trainer.precision=bf16-mixed",))
    taken = take({"bf16": in_bf16, "fp32": recipe}, sizes._replace(rounds=1))
    return [_saved(f"saved bytes of {name}, bf16-mixed / fp32, ViT-B/32, 2 x 4", 0.52, taken)]


def _time(what: str, goal: float, taken: Mapping[str, Taken], factor: float = 1.0) -> Row:
    (mine, own), (theirs, other) = taken.items()
    found = " and ".join(f"{name} {sorted(of.seconds)[len(of.seconds) // 2]:.3g} s" for name, of in taken.items())
    measured = ratio(own.seconds, other.seconds, factor)
    return Row(what, goal, "less", measured, f"{found}: {mine} / {theirs}{_times(factor)}")


def _saved(what: str, goal: float, taken: Mapping[str, Taken], factor: float = 1.0) -> Row:
    (mine, own), (theirs, other) = taken.items()
    found = " and ".join(f"{name} {of.saved / 1e6:.4g} MB" for name, of in taken.items())
    measured = Measured(factor * own.saved / other.saved, 0.0)
    return Row(what, goal, "less", measured, f"{found}: {mine} / {theirs}{_times(factor)}")


def _times(factor: float) -> str:
    return "" if factor == 1 else f", times {factor:g}, which is 3e531d0 / official as measured 2026-11-25"


# --- official codes, by way of 3e531d0 -----------------------------------------------------------------------------

_FROZEN = ("--model.init_args.tune_backbone_bias=false",)
#: 3e531d0's step, and what it saves, as ratios to the official step as shipped (2026-11-25, 2 x 12, ViT-B/32)
_OF_MV = {"frozen": (0.904, 0.623), "trained": (0.966, 0.678)}


def mv_official(biases: str, sizes: Sizes) -> list[Row]:
    """MV-Adapter's step against the official one as shipped, through what 3e531d0 took of it."""
    goals = {"frozen": (0.86, 0.62), "trained": (0.90, 0.67)}[biases]
    what = f"of MV-Adapter, biases {biases} / official as shipped, 2 x 12"
    names = (f"step {what}", f"saved bytes {what}")
    if sizes.before is None:
        return [left_out(name, goal, "less", _NO_BEFORE) for name, goal in zip(names, goals, strict=True)]
    recipe = Recipe("msrvtt_mvadapter_factor", 2, 12, _FROZEN if biases == "frozen" else ())
    taken = take({"now": recipe, "3e531d0": recipe._replace(checkout=sizes.before)}, sizes)
    time, saved = _OF_MV[biases]
    return [_time(names[0], goals[0], taken, time), _saved(names[1], goals[1], taken, saved)]


_NO_BEFORE = "needs --before, a checkout of 3e531d0"


def uniadapter_official(sizes: Sizes) -> list[Row]:
    """UniAdapter's matching step against the official one, through what 3e531d0 took of it: 2 x 4, BLIP base."""
    what, goal = "step of UniAdapter matching / official, BLIP base, 2 x 4", 0.73
    if sizes.before is None:
        return [left_out(what, goal, "less", _NO_BEFORE)]
    recipe = Recipe("msrvtt_uniadapter", 2, 4)
    taken = take({"now": recipe, "3e531d0": recipe._replace(checkout=sizes.before)}, sizes)
    return [_time(what, goal, taken, 0.85)]


# --- peft ----------------------------------------------------------------------------------------------------------


def lora_of_peft(sizes: Sizes) -> list[Row]:
    """LoRA against peft on transformers' CLIP: the same 491,520 parameters, text of 32 tokens."""
    what, goal = "step of LoRA / peft's, ViT-B/32, 2 x 4", 0.88
    if find_spec("peft") is None:
        return [left_out(what, goal, "less", "peft is not installed (extra bench)")]
    taken = take({"LoRA": Recipe("msrvtt_lora", 2, 4), "peft": Recipe("peft", 2, 4)}, sizes)
    return [_time(what, goal, taken)]


# --- growth --------------------------------------------------------------------------------------------------------

#: how far the exponent of something linear may come out above 1
_SLACK = 0.05


def growth(name: str, of: str, sizes: Sizes) -> list[Row]:
    """The exponents by which time and saved bytes of a step grow: ViT-B/32."""
    config = ADAPTERS[name][0]
    more = ("--model.init_args.max_frames=32",) if name == "MV-Adapter" else ()
    grown = {
        "frames": [(n, Recipe(config, 1, n, more)) for n in (4, 8, 16)],
        "clips": [(n, Recipe(config, n, 4, more)) for n in (1, 2, 4)],
        "width": [(n, Recipe(config, 2, 4, (*more, f"--model.init_args.bottleneck_dim={n}"))) for n in (16, 64, 256)],
    }[of]
    numbers = [number for number, _ in grown]
    taken = take({str(number): recipe for number, recipe in grown}, sizes)
    time = exponent(numbers, [taken[str(number)].seconds for number in numbers])
    saved = exponent(numbers, [[taken[str(number)].saved] for number in numbers])
    how = f"{of} {', '.join(map(str, numbers))}; linear is 1, and {_SLACK} is left to noise"
    return [
        Row(f"exponent of {name}'s step in {of}", 1 + _SLACK, "less", time, how),
        Row(f"exponent of {name}'s saved bytes in {of}", 1 + _SLACK, "less", saved, how),
    ]
