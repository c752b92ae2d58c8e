"""What a method may need of a backbone, each with the sentence that refuses a backbone without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from petl_bench.backbones.base import Backbone
from petl_bench.errors import UsageError
from petl_bench.nn.layers import biases
from petl_bench.nn.transformer import Modality, Tower


@dataclass(frozen=True)
class Need:
    """Something that a backbone has or lacks.

    Attributes:
        what: it is, as what follows "needs" in a sentence.
        lack: what is wrong with a backbone, as a clause; None if nothing is.
    """

    what: str
    lack: Callable[[Backbone], str | None]


def refusal(method: str, needs: Iterable[Need], backbone: Backbone) -> str | None:
    """The sentence in which a method refuses a backbone; None if it has all that is needed."""
    for need in needs:
        if (lack := need.lack(backbone)) is not None:
            return f"{method} needs {need.what}: {lack}"
    return None


def _of_towers(modality: Modality, lacks: Callable[[Tower], str | None]) -> Callable[[Backbone], str | None]:
    """Asks all towers that encode a modality, of which there must be one."""

    def lack(backbone: Backbone) -> str | None:
        towers = backbone.encoders(modality)
        if not towers:
            return f"{backbone.name} has no tower that reads {modality}"
        found = (lacks(tower) for tower in towers)
        return next((f"the {modality} tower of {backbone.name} {clause}" for clause in found if clause), None)

    return lack


def _blocks(backbone: Backbone) -> str | None:
    try:
        empty = not all(tower.blocks for tower in backbone.towers.values())
    except UsageError as error:
        return str(error)
    return f"{backbone.name} has a tower without blocks" if empty else None


def _equal_widths(backbone: Backbone) -> str | None:
    widths = {name: tower.width for name, tower in backbone.towers.items()}
    if len(set(widths.values())) == 1:
        return None
    named = ", ".join(f"{name} {width}" for name, width in widths.items())
    return f"those of {backbone.name} differ in width ({named})"


def _projections(backbone: Backbone) -> str | None:
    try:
        return None if backbone.projections() else f"{backbone.name} has no projections into a joint space"
    except UsageError as error:
        return str(error)


def _embeddings(backbone: Backbone) -> str | None:
    try:
        backbone.embeddings()
    except UsageError as error:
        return str(error)
    return None


def _cross_attention(backbone: Backbone) -> str | None:
    blocks = (block for tower in backbone.towers.values() for block in tower.blocks)
    if any(block.cross_attention is not None for block in blocks):
        return None
    return f"{backbone.name} has no cross-attention"


def _class_token(tower: Tower) -> str | None:
    if not tower.class_token:
        return "has none"
    return None if tower.prefix_tokens == 1 else f"has {tower.prefix_tokens} tokens there, not that one alone"


BLOCKS = Need("towers whose blocks can be replaced", _blocks)
VISION = Need("a tower that reads video", _of_towers("vision", lambda tower: None))
TEXT = Need("a tower that reads text", _of_towers("text", lambda tower: None))
CLASS_TOKEN = Need("a class token in front of the patches", _of_towers("vision", _class_token))
GRID = Need("a grid of patches", _of_towers("vision", lambda tower: None if tower.grid else "does not have one"))
STEPS = Need(
    "rows of single frames or of a few, so that there are steps in time",
    _of_towers("vision", lambda tower: None if tower.frames_per_row else "has all frames of a clip in one row"),
)
SINGLE_FRAMES = Need(
    "a row of tokens for each frame",
    _of_towers("vision", lambda tower: None if tower.frames_per_row == 1 else "has several frames in one row"),
)
TOKENS_HOLD_POSITIONS = Need(
    "tokens that hold their positions",
    _of_towers("vision", lambda tower: "turns keys by positions (rotary)" if tower.positions == "rotary" else None),
)
EQUAL_WIDTHS = Need("towers of one width, whose projections it shares", _equal_widths)
BIASES = Need("biases", lambda backbone: None if biases(backbone) else f"{backbone.name} has none")
NORMS = Need(
    "norms", lambda backbone: None if any(t.norms() for t in backbone.towers.values()) else f"{backbone.name} has none"
)
PROJECTIONS = Need("projections into a joint space", _projections)
EMBEDDINGS = Need("embeddings that are told from other parameters", _embeddings)
CROSS_ATTENTION = Need("layers in which text reads video", _cross_attention)
