"""Folders of pretrained weights as open_clip and transformers write them, with a card."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from petl_bench.backbones.blip import files as blip_files
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.clip import files as clip_files
from petl_bench.backbones.clip.model import CLIP
from petl_bench.fixture.scenes import create_empty
from petl_bench.pretraining import blip, clip
from petl_bench.pretraining.recipe import Recipe
from petl_bench.pretraining.stills import HELD_OUT, Stills, stills
from petl_bench.runs.environment import environment
from petl_bench.storage.files import write_atomically, write_bytes_atomically

#: held-out stills that a card's figures are of
_EXAMINED = 1000


class Small(NamedTuple):
    """One of the small backbones.

    Attributes:
        recipe: how it is trained.
        pretrain: gives its tensors by the names of the library that has such weights.
        write: what lies beside them, into the folder.
        examine: what the weights in the folder know of held-out stills, in percent.
        file: what the library calls the weights.
        told: in the card.
    """

    recipe: Recipe
    pretrain: Callable[[Recipe], dict[str, Tensor]]
    write: Callable[[Path], None]
    examine: Callable[[Path, Stills], dict[str, float]]
    file: str
    told: str


def write(name: str, folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Trains a small backbone and writes its folder.

    Args:
        name: of `SMALL`.
        folder: created; may exist only if empty.
        recipe: how.

    Returns:
        What the card says, which also lies in `card.json`.

    Raises:
        UsageError: the folder holds something already.
        NonFiniteError: the loss is not finite.
    """
    small = SMALL[name]
    create_empty(folder)
    torch.set_num_threads(1)  # sums over several depend on their number
    began = time.monotonic()
    tensors = small.pretrain(recipe)
    minutes = (time.monotonic() - began) / 60
    small.write(folder)
    write_bytes_atomically(folder / small.file, _halved(tensors))
    found, unseen = environment(), stills(_EXAMINED, recipe.seed, HELD_OUT)
    card = {
        "name": name,
        "recipe": recipe._asdict(),
        "code": {"commit": found["commit"], "dirty": found["dirty"], "torch": torch.__version__},
        "minutes": round(minutes, 1),
        "held_out": {"stills": _EXAMINED, "percent": small.examine(folder, unseen)},
    }
    write_atomically(folder / "card.json", json.dumps(card, indent=2) + "\n")
    write_atomically(folder / "README.md", _readme(small, card))
    return card


def _halved(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensors[name].detach().half().contiguous().clone() for name in sorted(tensors)})


def _clip_files(folder: Path) -> None:
    backbone = CLIP(clip.ARCHITECTURE, None)
    write_bytes_atomically(folder / clip_files.CONFIG_NAME, clip_files.config_file(backbone.config, backbone.spec))


def _blip_files(folder: Path) -> None:
    backbone = BLIP(blip.ARCHITECTURE, None)
    write_bytes_atomically(folder / blip_files.CONFIG_NAME, blip_files.config_file(backbone.config))
    write_bytes_atomically(folder / blip_files.PIXELS_NAME, blip_files.pixels_file(backbone.spec))
    shutil.copyfile(backbone.tokenizer.vocabulary, folder / blip_files.VOCABULARY_NAME)


def _examine_clip(folder: Path, unseen: Stills) -> dict[str, float]:
    return clip.examine(CLIP(clip.ARCHITECTURE, str(folder)).eval(), unseen)


def _examine_blip(folder: Path, unseen: Stills) -> dict[str, float]:
    backbones = BLIP(blip.ARCHITECTURE, str(folder)).eval(), BLIPVQA(blip.ARCHITECTURE, str(folder)).eval()
    return blip.examine(*backbones, unseen)


def _readme(small: Small, card: Mapping[str, Any]) -> str:
    """The card for people."""
    recipe, code, held_out = card["recipe"], card["code"], card["held_out"]
    figures = "\n".join(f"| {name} | {value} |" for name, value in held_out["percent"].items())
    return f"""# {card["name"]}

{small.told} It is part of petl_bench, for trials, tests and the diagnostic benchmark on a CPU. It has seen nothing but
generated stills, and knows nothing of photographs.

## Recipe

`petl-bench pretrain-fixture {card["name"]} FOLDER` gives these files, on one machine the same to the last bit.

| | |
|---|---|
| steps | {recipe["steps"]} |
| stills of a step | {recipe["batch"]}, of {recipe["stills"]} |
| optimiser | AdamW, rate {recipe["lr"]} (warm-up, then half a cosine), weight decay {recipe["weight_decay"]} |
| seed | {recipe["seed"]} |
| products | in bfloat16 |
| time | {card["minutes"]} minutes with one thread |
| code | commit {code["commit"]}, torch {code["torch"]} |

Stills come in twins, which differ in one respect: what one thing looks like or where it is, the colours or the places
of two, or the ground. One twin in five is a frame of a clip with the clip's captions; it shows none of the motion. A
linear layer reads looks and places from both encoders' features, and another one reads from the text encoder's what
captions of clips tell of motion; these texts have no picture. The colour and shape that act in a test clip of the
diagnostic benchmark act in no frame and no text of these.

## What it knows of {held_out["stills"]} stills that it has not seen, in percent

| | |
|---|---|
{figures}

R@1 and R@5: a caption finds its still among all. Twins: a caption is nearer to its still than to the twin. Weights are
stored in half precision, of which these figures are.
"""


SMALL = {
    "clip_small": Small(
        clip.RECIPE,
        clip.pretrain,
        _clip_files,
        _examine_clip,
        clip_files.WEIGHTS_NAME,
        "A small CLIP with 2.1 million parameters for frames of 64 x 64 pixels.",
    ),
    "blip_small": Small(
        blip.RECIPE,
        blip.pretrain,
        _blip_files,
        _examine_blip,
        blip_files.WEIGHTS_NAME,
        "A small BLIP with 2.6 million parameters for frames of 64 x 64 pixels: two encoders, a head that "
        "matches, and a decoder that answers.",
    ),
}
