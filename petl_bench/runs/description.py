"""What a run's adapter file says of its model, see `petl_bench.storage.descriptions`."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl_bench.backbones.base import Backbone
from petl_bench.data.base import VideoTextDataModule
from petl_bench.hub.names import hub_name
from petl_bench.method import PARTS, Method
from petl_bench.storage.descriptions import (
    PRETRAINED,
    FrameOptions,
    ModelDescription,
    Part,
    TextFile,
    TrainingData,
    WeightFile,
    video_hashes,
)
from petl_bench.storage.dotted import has, put
from petl_bench.storage.untrusted import expanded

#: argument of a backbone that names its weights, which are described by themselves
_WITHOUT_WEIGHTS = {PRETRAINED: None}


def describe(config: Mapping[str, Any], method: Method, data: VideoTextDataModule, folder: Path) -> ModelDescription:
    """A trained method as its adapter file describes it.

    Args:
        config: resolved, as in `config.yaml`.
        method: trained.
        data: what it was trained on.
        folder: where the adapter goes.
    """
    model = config["model"]
    backbone, task = (model["init_args"][name] for name in ("backbone", "task"))
    return ModelDescription(
        method=_part(model, method.carried(), without=PARTS),
        backbone=_part(backbone, {**method.backbone.carried(), **_WITHOUT_WEIGHTS}),
        task=_part(task, method.task.carried()),
        weights=_weights((backbone.get("init_args") or {}).get(PRETRAINED), method.backbone, folder),
        inputs=method.backbone.spec.record(),
        frames=FrameOptions(data.frames, data.sampling, data.frame_rate, data.reader),
        max_words=data.max_words,
        trained_on=TrainingData(
            data_module=f"{type(data).__module__}.{type(data).__qualname__}",
            protocol=data.protocol.id,
            split_sha256=data.annotations_sha256(),
            video_hashes=video_hashes(data.training_file_ids()),
        ),
    )


def _part(described: Mapping[str, Any], carried: Mapping[str, Any], without: tuple[str, ...] = ()) -> Part:
    """A class and its arguments.

    Args:
        described: as in a configuration.
        carried: what stands for some arguments, by dotted names; a file of text is kept by itself.
        without: arguments that are left out.
    """
    given = {name: value for name, value in (described.get("init_args") or {}).items() if name not in without}
    given, files = copy.deepcopy(given), {}
    for key, value in carried.items():
        if not has(given, key):
            continue
        if isinstance(value, TextFile):
            files[key] = value
            value = None
        put(given, key, value)
    return Part(described["class_path"], given, files)


def _weights(pretrained: str | None, backbone: Backbone, folder: Path) -> WeightFile:
    sha256 = backbone.weights["sha256"] or ""
    if pretrained is None:
        return WeightFile(sha256)
    file, place = backbone.weights.get("file"), expanded(pretrained).absolute()
    if hub_name(pretrained) is not None:
        return WeightFile(sha256, file, tag=backbone.weights.get("source"))
    if not place.exists():
        return WeightFile(sha256, file, tag=pretrained)
    return WeightFile(sha256, file, place=str(place), from_here=os.path.relpath(place, folder.absolute()))
