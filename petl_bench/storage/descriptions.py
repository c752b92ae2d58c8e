"""What an adapter file says of its model, so that it can be loaded where nothing else of its run is left.

`adapter.schema.json` is the format. A file may come from anybody: nothing in it is believed before it was checked.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.errors import CheckpointError
from petl_bench.storage.adapters import Adapter
from petl_bench.storage.untrusted import shown

#: key of an adapter's metadata, and the version of what stands there
KEY, VERSION = "model", 1
#: the argument that names a backbone's weights; null in what describes the backbone, as `WeightFile` describes them
PRETRAINED = "pretrained"
#: bytes of a video's id that are kept: among a million videos two share them with a chance of 1 in 30 million
HASH_BYTES = 8
#: what the arguments of a class may hold; none of ours has a tenth of it
_MOST_VALUES, _DEEPEST = 10_000, 30


class TextFile(NamedTuple):
    """A small file that an argument names: its name, and its content."""

    name: str
    text: str


@dataclass(frozen=True)
class Part:
    """A class and the arguments that it was made with.

    Attributes:
        class_path: of the class.
        init_args: arguments that name no file.
        files: arguments that name a small file.
    """

    class_path: str
    init_args: dict[str, Any]
    files: dict[str, TextFile] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightFile:
    """The weights of a frozen backbone. Random ones have neither tag nor place.

    Attributes:
        sha256: of the file; of random weights, of the parameters.
        file: its name.
        tag: that weights are published under.
        place: where the file was, absolute.
        from_here: where that is, seen from the adapter's folder.
    """

    sha256: str
    file: str | None = None
    tag: str | None = None
    place: str | None = None
    from_here: str | None = None


@dataclass(frozen=True)
class FrameOptions:
    """How the frames of a clip are chosen and read: the options of a data module of these names."""

    count: int
    sampling: str
    rate: int | None
    reader: str


@dataclass(frozen=True)
class TrainingData:
    """What an adapter was trained on.

    Attributes:
        data_module: class path.
        protocol: id.
        split_sha256: of the annotation files.
        video_hashes: of the training videos, sorted, `HASH_BYTES` each; see `video_hash`.
    """

    data_module: str
    protocol: str
    split_sha256: str
    video_hashes: tuple[bytes, ...]


@dataclass(frozen=True)
class ModelDescription:
    """All that it takes to make a trained model again, but for the weights of its backbone.

    Attributes:
        method: without backbone, task and optimiser.
        backbone: without weights.
        task: with its answer list, if it has one.
        weights: of the backbone.
        inputs: as `petl_bench.inputs.InputSpec.record` gives them.
        frames: how frames are chosen and read.
        max_words: tokens per text.
        trained_on: what with.
    """

    method: Part
    backbone: Part
    task: Part
    weights: WeightFile
    inputs: dict[str, Any]
    frames: FrameOptions
    max_words: int
    trained_on: TrainingData

    def as_metadata(self) -> dict[str, Any]:
        """For the metadata of an adapter file."""
        data = asdict(self.trained_on)
        hashes = data.pop("video_hashes")
        return {
            "version": VERSION,
            **{name: _part_as_metadata(getattr(self, name)) for name in ("method", "backbone", "task")},
            "weights": {key: value for key, value in asdict(self.weights).items() if value is not None},
            "inputs": self.inputs,
            "frames": asdict(self.frames),
            "max_words": self.max_words,
            "trained_on": {
                **data,
                "videos": len(hashes),
                "video_hashes": base64.b64encode(b"".join(hashes)).decode(),
            },
        }


def video_hash(id: str) -> bytes:
    """What stands for a video's id in an adapter file."""
    return hashlib.sha256(id.encode(errors="surrogatepass")).digest()[:HASH_BYTES]


def video_hashes(ids: Iterable[str]) -> tuple[bytes, ...]:
    """The same of many, sorted."""
    return tuple(sorted(map(video_hash, ids)))


def read_description(adapter: Adapter, path: Path) -> ModelDescription | None:
    """What an adapter says of its model; None of a file by an earlier version, which says nothing.

    Raises:
        CheckpointError: what it says cannot be, or is of a later version.
    """
    said = adapter.metadata.get(KEY)
    if said is None:
        return None
    if isinstance(said, dict) and isinstance(version := said.get("version"), int) and version > VERSION:
        raise CheckpointError(f"{path} describes its model in version {version}: update petl_bench to read it")
    if reason := _complaint(said):
        raise CheckpointError(f"{path}: its metadata '{KEY}' is damaged: {reason}")
    data = dict(said["trained_on"])
    count, text = data.pop("videos"), data.pop("video_hashes")
    return ModelDescription(
        method=_part(said["method"]),
        backbone=_part(said["backbone"]),
        task=_part(said["task"]),
        weights=WeightFile(**said["weights"]),
        inputs=said["inputs"],
        frames=FrameOptions(**said["frames"]),
        max_words=said["max_words"],
        trained_on=TrainingData(**data, video_hashes=_hashes(text, count, path)),
    )


def _part_as_metadata(part: Part) -> dict[str, Any]:
    files = {argument: file._asdict() for argument, file in part.files.items()}
    return {"class_path": part.class_path, "init_args": part.init_args, "files": files}


def _part(said: Mapping[str, Any]) -> Part:
    files = {argument: TextFile(**file) for argument, file in said["files"].items()}
    return Part(said["class_path"], said["init_args"], files)


def _hashes(text: str, count: int, path: Path) -> tuple[bytes, ...]:
    try:
        joined = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        joined = b""
    hashes = tuple(joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES))
    if len(joined) != count * HASH_BYTES or list(hashes) != sorted(hashes):
        raise CheckpointError(
            f"{path}: its metadata '{KEY}' is damaged: trained_on.video_hashes are not {count} sorted hashes"
        )
    return hashes


def _complaint(said: Any) -> str | None:
    """What is wrong with a description; None if nothing."""
    from jsonschema.exceptions import best_match

    if error := best_match(_validator().iter_errors(said)):
        key = error.json_path.removeprefix("$").removeprefix(".") or "it"
        reason = " ".join(str(error.message).split())
        return f"{shown(key).strip(chr(39))}: {reason if len(reason) <= 200 else f'{reason[:200]}...'}"
    for name in ("method", "backbone", "task"):
        if _is_huge(said[name]["init_args"]):
            return f"{name}.init_args hold more than any class of ours takes"
    return None


def _is_huge(value: Any) -> bool:
    """Whether a value holds too many others, or nests too deeply."""
    level, seen = [value], 0
    for _ in range(_DEEPEST):
        seen += len(level)
        groups = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [item for group in groups for item in group]
        if not level:
            return False
        if seen + len(level) > _MOST_VALUES:
            return True
    return True


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    schema = Path(__file__).with_name("adapter.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(schema))
