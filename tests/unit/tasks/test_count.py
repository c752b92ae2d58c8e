"""The task `count`: its loss, clips that cannot be read, what it writes, and which epoch is the best one."""

from __future__ import annotations

import json

import pytest
import torch

from methods.full import Full
from petl_bench.backbones.blip import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.errors import DataError
from petl_bench.method import Method
from petl_bench.tasks.count import Count
from petl_bench.testing import check_task
from petl_bench.testing.samples import asked, make_batch


def made(backbone: type[CLIP] | type[BLIP] = CLIP) -> Method:
    torch.manual_seed(0)
    return Full(backbone=backbone.tiny(), task=Count()).adapt().eval()


def test_it_keeps_what_tasks_promise() -> None:
    check_task("Count")


@pytest.mark.parametrize("backbone", [CLIP, BLIP])
def test_the_loss_is_the_squared_error_against_answers_from_one(backbone: type[CLIP] | type[BLIP]) -> None:
    method = made(backbone)
    batch = asked(make_batch(method.backbone))
    assert [question.number for question in batch.questions] == [0, 3, 6, 9]
    head = method.task.get_submodule("head.linear")
    v, q = method.backbone.encode_video(batch.clips).pooled, method.backbone.encode_text(batch.words).pooled
    features = torch.cat([torch.nn.functional.layer_norm(x, x.shape[1:]) for x in (v, q)], dim=1)
    expected = (head(features)[:, 0] - torch.tensor([1.0, 3.0, 6.0, 9.0])).square().mean()
    loss, logs = method.task.loss(method.backbone, batch)
    torch.testing.assert_close(loss, expected)
    assert not logs


def test_an_answer_that_is_not_known_can_be_predicted_and_nothing_else() -> None:
    method = made()
    batch = asked(make_batch(method.backbone))
    unknown = batch._replace(questions=tuple(question._replace(number=None) for question in batch.questions))
    with torch.no_grad():
        assert all(1 <= (count or 0) <= 10 for _, count in method.task.predict(method.backbone, unknown))
        with pytest.raises(DataError, match="no annotated count"):
            method.task.update(method.backbone, unknown)
    with pytest.raises(DataError, match="no annotated count"):
        method.task.loss(method.backbone, unknown)


def test_a_clip_that_cannot_be_read_is_the_worst_count() -> None:
    method = made()
    batch = asked(make_batch(method.backbone))
    clips = batch.clips._replace(mask=batch.clips.mask.clone())
    clips.mask[0] = False
    lost = batch._replace(clips=clips, decoded=torch.tensor([False, True, True, True]))
    method.task.expect(4, 4)
    with torch.no_grad():
        method.task.update(method.backbone, lost)
        given = method.task.predict(method.backbone, lost)
    found = method.task.compute()
    assert (found.ranks["squared_error"][0], found.ranks["squared_error_raw"][0]) == (81, 100)
    assert (found.ranks["prediction"][0], given[0]) == ("", (0, None))
    assert found.metrics == {name: found.record[name] for name in ("mse", "mse_raw")}


def test_what_predict_writes() -> None:
    file = Count().prediction_file([[("COUNT1", 3)], [("COUNT2", None)]])
    assert (file.name, json.loads(file.content)) == ("counts.json", {"COUNT1": 3, "COUNT2": None})
