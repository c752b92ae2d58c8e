"""The task `choice`: cosines of options, a loss over the options of each question alone, what it writes."""

from __future__ import annotations

import json

import pytest
import torch

from methods.full import Full
from petl_bench.backbones.blip import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.errors import CheckpointError
from petl_bench.method import Method
from petl_bench.storage.adapters import Adapter
from petl_bench.tasks.base import Task, present
from petl_bench.tasks.choice import Choice
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing import check_task
from petl_bench.testing.samples import asked, make_batch, rows_of


def made(task: Task | None = None, backbone: type[CLIP] | type[BLIP] = CLIP) -> Method:
    torch.manual_seed(0)
    return Full(backbone=backbone.tiny(), task=task or Choice()).adapt().eval()


def choice(method: Method) -> Choice:
    assert isinstance(method.task, Choice)
    return method.task


def test_it_keeps_what_tasks_promise() -> None:
    check_task("Choice")


@pytest.mark.parametrize("backbone", [CLIP, BLIP])
def test_scores_and_loss_are_those_of_the_formula(backbone: type[CLIP] | type[BLIP]) -> None:
    method = made(backbone=backbone)
    batch = asked(make_batch(method.backbone))
    video = method.backbone.encode_video(batch.clips).pooled
    losses, expected = [], []
    for row, question in enumerate(batch.questions):
        options = method.backbone.spec.tokenize([f"{question.prompt} {choice}" for choice in question.choices], 32)
        cosines = method.backbone.encode_text(options).pooled @ video[row]
        scale = present(method.backbone.joint).logit_scale.exp()
        losses.append(-(scale * cosines).log_softmax(0)[question.correct])
        expected.append(cosines)
    for found, wanted in zip(choice(method).scores(method.backbone, batch), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    loss, logs = method.task.loss(method.backbone, batch)
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)
    assert logs.keys() == {"logit_scale"}


def test_options_of_other_questions_are_no_negatives() -> None:
    method = made()
    batch = asked(make_batch(method.backbone))
    alone = [method.task.loss(method.backbone, rows_of(batch, [row]))[0] for row in range(4)]
    torch.testing.assert_close(method.task.loss(method.backbone, batch)[0], torch.stack(alone).mean())


def test_equal_options_share_the_point_whichever_is_right() -> None:
    method = made()
    batch = asked(make_batch(method.backbone))
    twice = [q._replace(choices=("red", "red"), correct=row % 2) for row, q in enumerate(batch.questions)]
    options = method.backbone.spec.tokenize([text for q in twice for text in q.options], 32)
    method.task.expect(4, 4)
    with torch.no_grad():
        method.task.update(method.backbone, batch._replace(questions=tuple(twice), options=options))
    assert method.task.compute().record["accuracy"] == 50.0


def test_a_clip_in_reverse_is_chosen_in_half_of_the_cases() -> None:
    """Mean pooling knows no order: forward and reversed clips tie, so 50.0 to the last digit."""
    method = made()
    batch = asked(make_batch(method.backbone))
    whole = batch.clips._replace(mask=torch.ones_like(batch.clips.mask))
    with torch.no_grad():
        forward = choice(method).scores(method.backbone, batch._replace(clips=whole))
        backward = choice(method).scores(
            method.backbone, batch._replace(clips=whole._replace(frames=whole.frames.flip(1)))
        )
    pairs = [torch.stack([one[0], other[0]]) for one, other in zip(forward, backward, strict=True)]
    choice(method).metric.update(
        torch.arange(4), pairs, [0, 1, 0, 1], [("forward", "reversed")] * 4, ["order"] * 4, [""] * 4
    )
    assert method.task.compute().record["accuracy"] == 50.0


def test_a_clip_that_cannot_be_read_is_wrong() -> None:
    method = made()
    batch = asked(make_batch(method.backbone))
    clips = batch.clips._replace(mask=batch.clips.mask.clone())
    clips.mask[0] = False
    lost = batch._replace(clips=clips, decoded=torch.tensor([False, True, True, True]))
    method.task.expect(4, 4)
    with torch.no_grad():
        method.task.update(method.backbone, lost)
        given = method.task.predict(method.backbone, lost)
    ranks = method.task.compute().ranks
    assert (ranks["correct"][0], ranks["prediction"][0], ranks["chosen"][0]) == (0, "", -1)
    assert given[0] == (0, -1)


def test_what_predict_writes() -> None:
    file = Choice().prediction_file([[("7_1", 2), ("7_2", -1)], [("a-b", 0)]])
    assert file.name == "choices.json"
    assert json.loads(file.content) == {"7_1": 2, "7_2": -1, "a-b": 0}


@pytest.mark.parametrize("backbone", [CLIP, BLIP])
def test_an_adapter_of_retrieval_is_taken_and_no_checkpoint_of_it(backbone: type[CLIP] | type[BLIP]) -> None:
    trained, method = made(Retrieval(), backbone), made(backbone=backbone)
    adapter = Adapter(trained.trained_state(), trained.identity())
    method.load_trained_state(adapter, "adapter.safetensors")
    checkpoint = {"state_dict": trained.trained_state(), "petl_bench": trained.identity()}
    with pytest.raises(CheckpointError, match="task retrieval, this run has choice"):
        method.on_load_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="task choice, this run has retrieval"):
        trained.load_trained_state(Adapter(method.trained_state(), method.identity()), "adapter.safetensors")
