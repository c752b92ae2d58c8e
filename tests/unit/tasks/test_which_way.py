"""Choosing between a clip and its reverse: what is compared, and that frames without order get exactly half."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.rtime import RTimeBinary
from methods.full import Full
from methods.st_adapter import STAdapter
from petl_bench.backbones.blip import BLIP, BLIPVQA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch
from petl_bench.errors import UsageError
from petl_bench.fixture import WRITERS
from petl_bench.method import Method
from petl_bench.tasks.choice import Choice
from petl_bench.tasks.choice_generation import ChoiceGeneration
from petl_bench.tasks.choice_matching import ChoiceMatching
from petl_bench.tasks.choosing import Choosing


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("which_way") / "rtime"
    WRITERS["rtime"](folder, train_videos=4, test_videos=6, captions_per_video=1, size=32, seconds=1)
    return folder


def made(
    backbone: type[CLIP] | type[BLIP], kind: type[Full] | type[STAdapter] = Full, task: type[Choosing] = Choice
) -> Method:
    torch.manual_seed(0)
    return kind(backbone=backbone.tiny(), task=task()).adapt().eval()


def batches(method: Method, root: Path) -> list[Batch]:
    options = {"frames": 5, "frame_rate": None, "max_words": 32, "eval_batch_size": 5, "num_workers": 0}
    data = RTimeBinary(root, partial=True, spec=method.backbone.spec, **options)
    data.setup("test")
    return list(data.test_dataloader())


@pytest.mark.parametrize(("backbone", "task"), [(CLIP, Choice), (BLIP, Choice), (BLIP, ChoiceMatching)])
def test_frames_without_order_get_exactly_half_either_way(
    backbone: type[CLIP] | type[BLIP], task: type[Choosing], root: Path
) -> None:
    method = made(backbone, task=task)
    method.task.expect(12, 24)
    with torch.no_grad():
        for batch in batches(method, root):
            method.task.update(method.backbone, batch)
    found = method.task.compute()
    assert found.metrics == {"accuracy": 50.0, "mean_of_types": 50.0, "accuracy_t2v": 50.0, "accuracy_v2t": 50.0}
    assert found.record["n_per_type"] == {"v2t": 12, "t2v": 12}
    by_clips = found.ranks["question_type"] == "t2v"
    # By captions one clip of a pair may be right, the other wrong.
    assert set(found.ranks["correct"][by_clips]) == {0.5}


def test_a_clip_is_compared_as_it_is_and_in_reverse(root: Path) -> None:
    """By clips, the scores are those of the same caption with the two clips of the split."""
    method = made(CLIP, STAdapter)
    with torch.no_grad():
        for parameter in method.parameters():  # adapters begin as nothing
            parameter.add_(0.2 * torch.randn_like(parameter))
        scores: dict[int | str, list[float]] = {}
        for batch in batches(method, root):
            task = method.task
            assert isinstance(task, Choice)
            found = task.scores(method.backbone, batch)
            scores |= {q.id: own.tolist() for q, own in zip(batch.questions, found, strict=True)}
    videos = [str(id).removesuffix("_v2t") for id in scores if str(id).endswith("_v2t") and "reversed" not in str(id)]
    assert len(videos) == 6
    for video in videos:
        forward, back = scores[f"{video}_v2t"], scores[f"{video}_reversed_v2t"]
        assert scores[f"{video}_t2v"] == pytest.approx([forward[0], back[0]], abs=1e-5)
        assert scores[f"{video}_reversed_t2v"] == pytest.approx([forward[1], back[1]], abs=1e-5)
        assert abs(forward[0] - back[0]) > 1e-5  # it reads order


def test_what_is_trained_and_predicted(root: Path) -> None:
    method = made(CLIP, STAdapter)
    data = RTimeBinary(root, partial=True, spec=method.backbone.spec, batch_size=8, frames=4, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert {q.type for q in batch.questions} == {"v2t", "t2v"}
    loss, _ = method.task.loss(method.backbone, batch)
    assert loss.item() > 0
    loss.backward()
    with torch.no_grad():
        given = [one for each in batches(method, root) for one in method.task.predict(method.backbone, each)]
    assert len(given) == 24
    assert {chosen for _, chosen in given} <= {0, 1}


def test_clips_are_no_options_of_a_decoder(root: Path) -> None:
    method = Full(backbone=BLIPVQA.tiny(), task=ChoiceGeneration()).adapt().eval()
    with pytest.raises(UsageError, match="some here are clips: take choice or choice_matching"):
        method.task.update(method.backbone, batches(method, root)[0])
