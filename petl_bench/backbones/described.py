"""What the configuration beside weights says of them: shapes that no tensor shows, activation, pixels.

transformers writes `config.json` and `preprocessor_config.json`, open_clip `open_clip_config.json`. A file of weights
that is taken out of such a folder has lost this, and a file that lies in one has not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from petl_bench.errors import CheckpointError, UsageError
from petl_bench.inputs import InputSpec, Resize
from petl_bench.machine.resources import exhausted
from petl_bench.storage.adapters import Adapter
from petl_bench.storage.untrusted import shown

#: the mean and deviation of OpenAI's CLIP, which BLIP and most others have taken over
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
#: PIL's number of the interpolation that frames are resized with here
_BICUBIC = 3
#: no side of an image has more pixels, no mean is larger
_LARGEST = 100_000

Facts = dict[str, Any]


@dataclass(frozen=True)
class Pixels:
    """How images were prepared; None where that is not said."""

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: Resize | None = None
    size: int | None = None

    def assumed(self, used: InputSpec) -> dict[str, Any]:
        """What is not said, and what is taken for it."""
        stated = {"mean": self.mean, "deviation": self.std, "resize": self.resize}
        taken = {"mean": used.mean, "deviation": used.std, "resize": used.resize}
        return {name: value for name, value in taken.items() if stated[name] is None}


@dataclass(frozen=True)
class Family:
    """How transformers describes one family of models.

    Attributes:
        name: `model_type`.
        whole: keys of `config.json` that say something of the architecture, and what that is called here.
        vision: the same of `vision_config`.
        text: the same of `text_config`.
        heads: of attention, where a width is given without them.
        activation: where none is given.
    """

    name: str
    whole: Mapping[str, str]
    vision: Mapping[str, str]
    text: Mapping[str, str]
    heads: Mapping[str, int]
    activation: str


#: what `vision_config` and `text_config` say of a tower
_TOWER = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "feed-forward width",
    "hidden_act": "activation",
}


@dataclass(frozen=True)
class Description:
    """What is said of weights.

    Attributes:
        files: which files say it.
        facts: of the architecture, by a name for people.
        pixels: how images were prepared.
    """

    files: tuple[str, ...] = ()
    facts: Facts = field(default_factory=dict)
    pixels: Pixels = Pixels()

    @property
    def shown(self) -> str:
        """The files, for messages and the record."""
        return " and ".join(self.files)


def describe(folder: Path, family: Family) -> Description:
    """What transformers wrote beside the weights in a folder; nothing where it wrote of another kind of model.

    Args:
        folder: where the weights are.
        family: of models.

    Raises:
        CheckpointError: if a file cannot be read or is of another shape.
    """
    path = folder / "config.json"
    config = read_json(path)
    if config is not None and config.get("model_type", family.name) != family.name:
        return Description()
    pixels, file = _preprocessor(folder)
    files = () if file is None else (file,)
    if config is None:
        return Description(files, {}, pixels)
    facts = _said_of(config, {"": family.whole}, path)
    for kind, keys in (("vision", family.vision), ("text", family.text)):
        tower = read_json(path, f"{kind}_config") or {}
        facts |= _said_of(tower, {kind: _TOWER, "": keys}, path)
        if "hidden_size" in tower:  # what is left out is the default
            facts.setdefault(f"{kind} heads", family.heads[kind])
        if tower:
            facts.setdefault(f"{kind} activation", family.activation)
    if not any(name.endswith(" activation") for name in facts):
        facts["vision activation"] = family.activation
    return Description((path.name, *files), facts, pixels)


def with_size(described: Description) -> Description:
    """With the size of images as a fact, which the architecture's must be."""
    size = described.pixels.size
    facts = described.facts | ({} if size is None else {"image size of the preprocessor": size})
    return Description(described.files, facts, described.pixels)


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, true, false or null."""
    return value is None or isinstance(value, str | int | float)


def _said_of(config: Mapping[str, Any], names: Mapping[str, Mapping[str, str]], path: Path) -> Facts:
    """What a configuration says, by names for people; what it leaves out is not said."""
    for key in (key for known in names.values() for key in known):
        if not is_plain(config.get(key)):
            raise CheckpointError(f"{path}: {key} is {shown(config[key])}; damaged, or of another kind")
    return {
        f"{kind} {name}".strip(): config[key]
        for kind, known in names.items()
        for key, name in known.items()
        if config.get(key) is not None
    }


def read_json(path: Path, *section: str) -> dict[str, Any] | None:
    """A JSON file, or a section of it, as a mapping; None where the file is absent, empty where the section is.

    Raises:
        CheckpointError: if it is no JSON, or no mapping.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise exhausted(error, path) or CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    for key in section:
        value = value.get(key, {}) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {'.'.join(section) or 'the file'} is no mapping; damaged, or of another kind")
    return value


def _preprocessor(folder: Path) -> tuple[Pixels, str | None]:
    """What transformers' image processor says, and the file that says it."""
    for name, section in (("preprocessor_config.json", ()), ("processor_config.json", ("image_processor",))):
        if config := read_json(folder / name, *section):
            return pixels_of(config, folder / name), name
    return Pixels(), None


def pixels_of(config: Mapping[str, Any], path: Path) -> Pixels:
    """Of an image processor of transformers.

    Raises:
        CheckpointError: naming what cannot be.
    """
    side, crop = _side(config.get("size"), path), _side(config.get("crop_size"), path)
    cropped = bool(config.get("do_center_crop", "crop_size" in config))
    mean, std = triple(config, "image_mean", path), triple(config, "image_std", path)
    if config.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    resize: Resize | None = None if side is None and crop is None else "shorter_side_crop" if cropped else "squash"
    size = config.get("size")
    shortest = isinstance(size, int) or (isinstance(size, Mapping) and "shortest_edge" in size)
    if cropped and side and crop and shortest and side != crop:
        _warn_of(path, f"the shorter side is resized to {side} and {crop} are cropped", f"to {crop}")
    if config.get("resample", _BICUBIC) != _BICUBIC:
        _warn_of(path, f"images are resized with interpolation {shown(config['resample'])} of PIL", "bicubic, 3")
    return Pixels(mean, std, resize, (crop or side) if cropped else side)


def pixels_of_open_clip(config: Mapping[str, Any], path: Path | str) -> Pixels:
    """Of open_clip's `preprocess_cfg`, or of a tag.

    Raises:
        CheckpointError: naming what cannot be.
        UsageError: images were padded, which frames here are not.
    """
    mode = config.get("resize_mode")
    if mode not in (None, "shortest", "squash"):
        raise UsageError(f"{path}: images were resized by {shown(mode)}, frames here are by 'shortest' or 'squash'")
    if config.get("interpolation", "bicubic") != "bicubic":
        _warn_of(path, f"images are resized with interpolation {shown(config['interpolation'])}", "bicubic")
    resize: dict[Any, Resize] = {"shortest": "shorter_side_crop", "squash": "squash"}
    return Pixels(
        triple(config, "mean", path), triple(config, "std", path), resize.get(mode), _side(config.get("size"), path)
    )


def said_by(spec: InputSpec) -> str:
    """How images are prepared for a backbone, for the metadata of an adapter file."""
    return json.dumps({"mean": spec.mean, "std": spec.std, "resize": spec.resize})


def pixels_of_adapter(adapter: Adapter, path: Path) -> Pixels:
    """What `said_by` wrote; nothing in files of earlier versions.

    Raises:
        CheckpointError: if it is something else.
    """
    try:
        config = json.loads(adapter.metadata.get("pixels", "{}"))
        resize = config.get("resize")
        if resize not in (None, "shorter_side_crop", "squash"):
            raise ValueError(f"resize is {shown(resize)}")
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata 'pixels' is damaged: {error}") from error
    return Pixels(triple(config, "mean", path), triple(config, "std", path), resize)


def _warn_of(path: Path | str, there: str, here: str) -> None:
    rank_zero_warn(f"{path}: {there}; here {here}: figures may differ a little from published ones")


def triple(config: Mapping[str, Any], key: str, path: Path | str) -> tuple[float, float, float] | None:
    """Three numbers, one for each colour, or None if the key is absent.

    Raises:
        CheckpointError: if it is something else.
    """
    value = config.get(key)
    if value is None:
        return None
    listed = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(listed) != 3 or not all(_is_number(v) and abs(v) < _LARGEST for v in listed):
        raise CheckpointError(f"{path}: {key} is {shown(value)}, not three numbers")
    if "std" in key and not all(v > 0 for v in listed):
        raise CheckpointError(f"{path}: {key} is {shown(value)}, not positive")
    red, green, blue = map(float, listed)
    return red, green, blue


def _side(size: Any, path: Path | str) -> int | None:
    """The side of a square in any of the ways that a size is written."""
    if isinstance(size, Mapping):
        listed = [size.get(key) for key in ("shortest_edge", "height", "width")]
    else:
        listed = list(size) if isinstance(size, list | tuple) else [size]
    sides = [side for side in listed if side is not None]
    if not all(_is_number(side) and 0 < side < _LARGEST and side == int(side) for side in sides):
        raise CheckpointError(f"{path}: {shown(size)} is no size of images")
    if len(set(sides)) > 1:
        raise UsageError(f"{path}: images of size {shown(size)} are not square; frames here are")
    return int(sides[0]) if sides else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def require_described(
    described: Description, own: Mapping[str, Any], source: str, architecture: str, advice: Callable[[Facts], str]
) -> None:
    """Refuses weights that the configuration beside them says are of another architecture.

    Raises:
        UsageError: naming the file, what differs, and what to set.
    """
    differing = {name: value for name, value in described.facts.items() if name in own and own[name] != value}
    if not differing:
        return
    told = ", ".join(f"{name} {_said(value)} (not {own[name]})" for name, value in differing.items())
    raise UsageError(
        f"{described.shown} beside weights '{source}' contradicts architecture '{architecture}': {told}; "
        f"{advice(differing)}"
    )


def tell_assumed(source: str, assumed: Mapping[str, Any]) -> str | None:
    """Says on the console what nobody says of weights and is taken for granted; returns it for the record."""
    if not assumed:
        return None
    told = ", ".join(f"{name} {_short(value)}" for name, value in assumed.items())
    rank_zero_info(f"weights '{source}': assumed, since no configuration beside them says so: {told}")
    return told


def _said(value: Any) -> str:
    """A fact for a message: a plain word as it is."""
    return value if isinstance(value, str) and value.isidentifier() and len(value) < 60 else shown(value)


def _short(value: Any) -> str:
    return " ".join(f"{v:.3f}" for v in value) if isinstance(value, tuple) else str(value)
