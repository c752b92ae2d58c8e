"""Faults that a regression must not let pass, each put in the place of one of the project's functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from petl_bench import optimizers
from petl_bench.data import datasets
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.datasets import ClipLoader, TrainingDataset
from petl_bench.data.samples import Sample, Split
from petl_bench.inputs import Clips
from petl_bench.method import Method
from petl_bench.storage.adapters import Adapter

#: of a scale, where it is wrong
_FACTOR = 2


def adapter_not_loaded(patch: pytest.MonkeyPatch) -> None:
    """A test of an adapter takes its file, but keeps the tensors that the method starts with."""

    def load(self: Method, adapter: Adapter, source: str) -> None:
        self.adapter_metadata = dict(adapter.metadata)

    patch.setattr(Method, "load_trained_state", load)


def frame_mask_ignored(patch: pytest.MonkeyPatch) -> None:
    """What pads a clip counts as frames of it."""
    padded = datasets.padded

    def unmasked(*args: Any) -> Clips:
        clips = padded(*args)
        return clips._replace(mask=torch.ones_like(clips.mask))

    patch.setattr(datasets, "padded", unmasked)


def scale_wrong(patch: pytest.MonkeyPatch) -> None:
    """What adapters give counts twice."""
    adapt = Method.configure_model

    def scaled(self: Method) -> None:
        adapted = self._adapted
        adapt(self)
        if adapted:
            return
        found = [module for module in self.modules() if isinstance(getattr(module, "scale", None), float)]
        assert found, f"{type(self).__name__} has no scale"
        for module in found:
            vars(module)["scale"] *= _FACTOR

    patch.setattr(Method, "configure_model", scaled)


def labels_shuffled(patch: pytest.MonkeyPatch) -> None:
    """Each training clip has captions of another; each training question the answer to another."""
    init = TrainingDataset.__init__

    def shuffled(self: TrainingDataset, samples: Sequence[tuple[Sample, Any]], *args: Any, **kwargs: Any) -> None:
        others = [sample for sample, _ in (*samples[1:], samples[0])]
        moved = [(_labelled(sample, other), path) for (sample, path), other in zip(samples, others, strict=True)]
        init(self, moved, *args, **kwargs)

    patch.setattr(TrainingDataset, "__init__", shuffled)


def _labelled(sample: Sample, other: Sample) -> Sample:
    if not sample.questions:
        return replace(sample, captions=other.captions, caption_ids=other.caption_ids)
    pairs = zip(sample.questions, other.questions, strict=True)
    return replace(sample, questions=tuple(own._replace(answers=wrong.answers) for own, wrong in pairs))


def group_skipped(patch: pytest.MonkeyPatch) -> None:
    """The optimiser is not told of the last group: vectors, where there are any."""
    groups = optimizers.parameter_groups
    patch.setattr(optimizers, "parameter_groups", lambda *given: groups(*given)[:-1])


def wrong_split(patch: pytest.MonkeyPatch) -> None:
    """As many training clips as there are test clips are tested with, and as many texts of each."""
    samples = VideoTextDataModule.samples

    def of_training(self: VideoTextDataModule, split: Split) -> list[Sample]:
        found = samples(self, split)
        if split != "test":
            return found
        texts = len(found[0].captions)
        return [_first_texts(sample, texts) for sample in samples(self, "train")[: len(found)]]

    patch.setattr(VideoTextDataModule, "samples", of_training)


def _first_texts(sample: Sample, count: int) -> Sample:
    ids, questions = sample.caption_ids[:count], sample.questions[:count]
    return replace(sample, captions=sample.captions[:count], caption_ids=ids, questions=questions)


def one_frame_repeated(patch: pytest.MonkeyPatch) -> None:
    """Every frame of a clip is its first one."""
    load = ClipLoader.load

    def still(self: ClipLoader, *args: Any, **kwargs: Any) -> Clips:
        clip = load(self, *args, **kwargs)
        clip.frames[clip.mask] = clip.frames[0].clone()  # in place: it lies in the memory of its batch
        return clip

    patch.setattr(ClipLoader, "load", still)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "adapter not loaded": adapter_not_loaded,
    "frame mask ignored": frame_mask_ignored,
    "scale wrong by a factor": scale_wrong,
    "labels shuffled": labels_shuffled,
    "optimiser skips a group": group_skipped,
    "evaluation on the wrong split": wrong_split,
    "one frame repeated": one_frame_repeated,
}
