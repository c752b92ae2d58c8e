"""The public checks find what is planted, and say it in one sentence."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.full import Full
from petl_bench.backbones.base import Backbone, VideoFeatures
from petl_bench.data.batch import Batch
from petl_bench.data.samples import Sample, Split
from petl_bench.errors import UsageError
from petl_bench.inputs import Clips
from petl_bench.tasks.base import Evaluation
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing import check_backbone, check_datamodule, check_method, check_task
from petl_bench.testing.gated import Gated
from tests.integration.toybench.datamodule import Lines

_numbers = itertools.count()


class Moves(Full):
    """Changes what it says it leaves."""

    def inject(self, backbone: Backbone) -> None:
        super().inject(backbone)
        with torch.no_grad():
            next(iter(backbone.towers.values())).norms()[0].weight.add_(1)  # type: ignore[operator]  # a norm's


class Crashes(Full):
    """Works on CLIP alone, and does not say so."""

    def inject(self, backbone: Backbone) -> None:
        raise KeyError("class_embedding")


class Nowhere(Full):
    """Refuses all."""

    def inject(self, backbone: Backbone) -> None:
        raise UsageError("Nowhere does not like it")


class Unused(Full):
    """Adds what nobody reads."""

    def inject(self, backbone: Backbone) -> None:
        super().inject(backbone)
        self.extra = nn.Parameter(torch.zeros(3))


class Draws(Full):
    """Starts elsewhere each time, with what is not saved."""

    identity_at_init = False

    def inject(self, backbone: Backbone) -> None:
        with torch.no_grad():
            next(iter(backbone.towers.values())).norms()[0].weight.add_(next(_numbers))  # type: ignore[operator]
        next(iter(backbone.towers.values())).norms()[-1].requires_grad_(True)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Moves, "Moves on BLIP for retrieval: identity_at_init is True, but before training the features are not"),
        (Crashes, "Crashes on BLIP for choice: KeyError: 'class_embedding'"),
        (Nowhere, "Nowhere refuses every backbone for every task: "),
        (Unused, "Unused on BLIP for choice: 1 trainable tensors get no gradient, for which DDP waits: extra"),
        (Draws, "Draws on BLIP for retrieval: a fresh method that loads the adapter gives other features"),
        ("Fulll", "Fulll is none of the methods there are (AdaptFormer, "),
        ("methods.full.Fulll", "methods.full.Fulll cannot be imported: "),
        (Gated, "Gated'> is no Method: derive the class from petl_bench.method.Method"),
    ],
)
def test_of_methods(method: Any, words: str) -> None:
    refused(lambda: check_method(method, {}), words)


class Drawn(Gated):
    @classmethod
    def tiny(cls, init_seed: int = 0) -> Drawn:
        return cls(next(_numbers))


class Nameless(Gated):
    def __init__(self, init_seed: int = 0) -> None:
        super().__init__(init_seed)
        self.name = ""


class Leaky(Gated):
    """Reads padded frames."""

    def encode_video(self, clips: Clips) -> VideoFeatures:
        found = super().encode_video(clips)
        return found._replace(pooled=found.pooled + clips.frames.float().mean((1, 2, 3, 4))[:, None])


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (Drawn, "Drawn: tiny() gives other weights each time"),
        (Nameless, "Nameless: it has no name"),
        (Leaky, "Leaky: what is in padded frames changes the features of a clip"),
    ],
)
def test_of_backbones(backbone: type[Backbone], words: str) -> None:
    refused(lambda: check_backbone(backbone), words)


class Silent(Retrieval):
    name = "silent"
    logs = ()


class Forgetful(Retrieval):
    """Does not forget what it took in."""

    name = "forgetful"

    def compute(self) -> Evaluation:
        found = super().compute()
        return Evaluation({**found.metrics, "rsum": float(next(_numbers))}, found.record, found.ranks)


class Endless(Retrieval):
    name = "endless"

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = super().loss(backbone, batch)
        return loss / 0, logs


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Silent, "Silent on BLIP: loss logs ['logit_scale'], and logs names []"),
        (Forgetful, "Forgetful on BLIP: repeating it changes the metrics of an evaluation from"),
        (Endless, "Endless on BLIP: the loss is no single finite number"),
    ],
)
def test_of_tasks(task: type[Retrieval], words: str) -> None:
    refused(lambda: check_task(task), words)


class Twice(Lines):
    """One sample for each caption."""

    def annotations(self, split: Split) -> list[Sample]:
        return [Sample("video1", ("one",)), Sample("video1", ("two",))]

    def annotation_files(self) -> dict[str, Path]:
        return {}


class Lost(Lines):
    """Its files are elsewhere."""


class Shuffled(Twice):
    def annotations(self, split: Split) -> list[Sample]:
        return [Sample(f"video{next(_numbers)}", ("one",))]


@pytest.mark.parametrize(
    ("datamodule", "words"),
    [
        (Twice, "Twice: videos stand in several samples of the train split: join them"),
        (Lost, "train.tsv for train, which is not there"),
        (Shuffled, "Shuffled: annotations('train') gives other samples each time"),
    ],
)
def test_of_datamodules(datamodule: type[Lines], words: str, tmp_path: Path) -> None:
    refused(lambda: check_datamodule(datamodule, tmp_path), words)


def refused(check: Callable[[], None], words: str) -> None:
    with pytest.raises(AssertionError) as found:
        check()
    assert words in str(found.value)
    assert "\n" not in str(found.value)
