"""A backbone with what a method has learnt in its own weights, in the form of the library that it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from petl_bench.backbones.base import Backbone
from petl_bench.configurable import given_arguments
from petl_bench.errors import CheckpointError
from petl_bench.storage.descriptions import PRETRAINED
from petl_bench.storage.files import new_folder, write_atomically, write_bytes_atomically
from petl_bench.video_text_model import VideoTextModel


class Merged(NamedTuple):
    """What was written.

    Attributes:
        architecture: of the backbone, as `backbone.architecture` takes it.
        files: their names.
    """

    architecture: str
    files: tuple[str, ...]


def write_merged(model: VideoTextModel, folder: Path, source: str) -> Merged:
    """Writes the backbone, which `pretrained` of the same class, open_clip or transformers read.

    It is read back before the folder appears: the same class gives the same weights, to the bit.

    Args:
        model: on the CPU; not to be used afterwards.
        folder: must not exist.
        source: where the model came from, for the card.

    Raises:
        UsageError: its method cannot be merged, or its backbone has no such form.
        CheckpointError: what was written reads back as something else.
        FileError: a file cannot be written.
    """
    label, task = model.method.label, model.method.task.name
    model.method.require_mergeable()  # LoRA can be folded beside a head, which would be lost
    backbone = model.method.merge()
    files = backbone.published()
    architecture = str(given_arguments(backbone)["architecture"])
    with new_folder(folder) as place:
        for name, content in files.items():
            write_bytes_atomically(place / name, content)
        _require_equal(_read_back(backbone, place), backbone)
        write_atomically(place / "README.md", _card(backbone, architecture, label, task, source))
    return Merged(architecture, (*files, "README.md"))


def _read_back(backbone: Backbone, folder: Path) -> Backbone:
    arguments = {**given_arguments(backbone), PRETRAINED: str(folder)}
    return type(backbone)(**arguments)


def _require_equal(found: Backbone, backbone: Backbone) -> None:
    own = backbone.state_dict()
    differing = [name for name, tensor in found.state_dict().items() if not torch.equal(tensor, own[name])]
    if differing or found.spec.record() != backbone.spec.record():
        raise CheckpointError(f"{backbone.name} reads back otherwise ({', '.join(differing[:1]) or 'its inputs'})")


def _card(backbone: Backbone, architecture: str, label: str, task: str, source: str) -> str:
    weights = backbone.weights
    return f"""# {backbone.name} with {label}

The weights of {weights["source"]} (sha256 {weights["sha256"]}) with what {label} learnt for {task} in them, in fp32,
merged by `petl-bench merge` from {source}. Their licence is that of these weights and of the data of the training.

`petl-bench fit --config ... --model.backbone.architecture {architecture} --model.backbone.pretrained FOLDER` starts
from them. How frames are chosen, and the task, are not part of a backbone.
"""
