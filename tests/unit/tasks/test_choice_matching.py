"""The task `choice_matching`: options that read a clip each, a loss over them, and adapters of matching."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from methods.adaptformer import AdaptFormer
from methods.full import Full
from methods.linear import Linear
from methods.lora import LoRA
from methods.mv_adapter import MVAdapter
from methods.uniadapter import UniAdapter
from petl_bench.backbones.blip import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch
from petl_bench.errors import CheckpointError, DataError, UsageError
from petl_bench.method import Method
from petl_bench.metrics.choice import LOGITS
from petl_bench.nn.transformer import Memory
from petl_bench.runs.cost import count_gmacs
from petl_bench.storage.adapters import Adapter
from petl_bench.tasks.base import Task, present
from petl_bench.tasks.choice import Choice
from petl_bench.tasks.choice_matching import ChoiceMatching
from petl_bench.tasks.choosing import Choosing
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing import check_task
from petl_bench.testing.samples import asked, make_batch, rows_of, train
from tests.inputs import about_other_clips

SIZE: dict[type[Method], dict[str, Any]] = {UniAdapter: {"bottleneck_dim": 8}, AdaptFormer: {"bottleneck_dim": 8}}


def made(kind: type[Method] = Full, task: Task | None = None, **options: Any) -> Method:
    torch.manual_seed(0)
    backbone = BLIP("tiny", None, dropout=0.0)
    return kind(backbone=backbone, task=task or ChoiceMatching(), **SIZE.get(kind, {}), **options).adapt().eval()


def scores(method: Method, batch: Batch) -> list[Tensor]:
    assert isinstance(method.task, ChoiceMatching)
    with torch.no_grad():
        return method.task.scores(method.backbone, batch)


def test_it_keeps_what_tasks_promise() -> None:
    check_task("ChoiceMatching")


@pytest.mark.parametrize("kind", [Full, UniAdapter])
def test_scores_and_loss_are_those_of_each_option_read_alone(kind: type[Method]) -> None:
    """UniAdapter has each option weigh the frames, by the features of the same text."""
    method = made(kind)
    blip, batch = method.backbone, about_other_clips(make_batch(method.backbone, frames=3))
    expected, losses = [], []
    for row, question in zip(batch.text_video.tolist(), batch.questions, strict=True):
        own = []
        for choice in question.choices:
            words = blip.spec.tokenize([f"{question.prompt} {choice}"], 32).without_padding()
            clip = batch.clips.select(slice(row, row + 1))
            video, memory = blip.encode_video_tokens(clip)
            text = blip.encode_text(words).pooled
            memory = present(blip.fusion).weigh_frames(memory, text, video.by_frame(), clip.mask)
            own.append(present(blip.matching).match(words, memory)[0, 1])
        expected.append(torch.stack(own))
        losses.append(-torch.stack(own).log_softmax(0)[question.correct])
    assert (present(blip.fusion).frame_attention is None) == (kind is Full)
    for found, wanted in zip(scores(method, batch), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    loss, logs = method.task.loss(blip, batch)
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)
    assert not logs


def test_options_of_other_questions_are_no_negatives() -> None:
    method = made()
    batch = asked(make_batch(method.backbone))
    alone = [method.task.loss(method.backbone, rows_of(batch, [row]))[0] for row in range(4)]
    torch.testing.assert_close(method.task.loss(method.backbone, batch)[0], torch.stack(alone).mean())


def test_each_clip_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method, encoded = made(), []
    batch, encode = about_other_clips(make_batch(method.backbone)), method.backbone.encode_video_tokens
    monkeypatch.setattr(method.backbone, "encode_video_tokens", lambda clips: encoded.append(clips) or encode(clips))
    scores(method, batch)
    assert [len(clips.frames) for clips in encoded] == [4]


def test_what_the_cpu_knows_of_clips_goes_with_the_batch() -> None:
    """A GPU is asked neither for the clip of a question nor whether it could be read."""
    method = made()
    batch = about_other_clips(make_batch(method.backbone))._replace(decoded=torch.tensor([True, False, False, True]))
    sent = method.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert sent.located == batch.own_clips() == ([2, 0, 2, 1], [False, True, False, False])
    assert sent.questions is batch.questions
    unknown = sent._replace(text_video=torch.full((4,), -1), decoded=torch.zeros(4, dtype=torch.bool))
    assert [own.isnan().all().item() for own in scores(method, unknown)] == [True, False, True, True]


def test_a_clip_that_cannot_be_read_is_wrong() -> None:
    method = made()
    batch = asked(make_batch(method.backbone))
    batch.clips.mask[0] = False
    lost = batch._replace(decoded=torch.tensor([False, True, True, True]))
    method.task.expect(4, 4)
    with torch.no_grad():
        method.task.update(method.backbone, lost)
        given = method.task.predict(method.backbone, lost)
    evaluation = method.task.compute()
    assert (evaluation.ranks["correct"][0], evaluation.ranks["chosen"][0]) == (0, -1)
    assert given[0] == (0, -1)
    assert min(chosen for _, chosen in given[1:]) >= 0
    assert evaluation.inference["answers"] == "matching logit of each option"
    assert evaluation.inference["pooling"] is None


def test_who_does_not_say_what_is_right_is_not_trained_on() -> None:
    method = made()
    batch = asked(make_batch(method.backbone))
    questions = tuple(question._replace(correct=None) for question in batch.questions)
    with pytest.raises(DataError, match="no right option"):
        method.task.loss(method.backbone, batch._replace(questions=questions))


def test_the_tolerance_is_above_what_the_order_of_frames_moves_a_logit_by() -> None:
    """The measurement behind it, with a head whose logits are as large as a trained one's."""
    blip, spread, largest = BLIP("tiny", None).eval(), 0.0, 0.0
    with torch.no_grad():
        blip.itm_head.weight.mul_(10)
        for count in (4, 16):
            batch = make_batch(blip, frames=count)
            tokens, mask, *_ = blip.encode_video_tokens(batch.clips).memory
            logits = blip.match(batch.words, Memory(tokens, mask))[:, 1]
            generator = torch.Generator().manual_seed(0)
            for order in (torch.arange(count).flip(0), torch.randperm(count, generator=generator)):
                parts = (part.unflatten(1, (count, -1))[:, order].flatten(1, 2) for part in (tokens, mask))
                moved = blip.match(batch.words, Memory(*parts))[:, 1] - logits
                spread, largest = max(spread, float(moved.abs().max())), max(largest, float(logits.abs().max()))
    assert largest > 5
    assert 0 < spread < LOGITS / 5


@pytest.mark.parametrize("kind", [UniAdapter, AdaptFormer, MVAdapter, LoRA, Full, Linear])
def test_everything_trainable_gets_a_gradient(kind: type[Method]) -> None:
    """DDP waits for ever for a parameter without one; the joint space has no part in the loss."""
    method = made(kind)
    moved = set().union(*train(method, asked(make_batch(method.backbone)), 3))
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    assert {name for name in trainable - moved if "token_embedding" not in name} == set()
    assert not [name for name in trainable if name.startswith(("backbone.vision_proj", "backbone.text_proj"))]


# --- adapters of matching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [UniAdapter, Full])
@pytest.mark.parametrize("task", [ChoiceMatching, Choice])
def test_an_adapter_of_matching_is_taken_whole(kind: type[Method], task: type[Task]) -> None:
    trained = made(kind, MatchingRetrieval.tiny())
    train(trained, make_batch(trained.backbone), 1)
    method = made(kind, task())
    own = method.trained_state().keys()
    method.load_trained_state(Adapter(trained.trained_state(), trained.identity()), "adapter.safetensors")
    assert own < method.trained_state().keys() == trained.trained_state().keys()
    assert method.parameter_counts() == trained.parameter_counts()
    batch = asked(make_batch(method.backbone))
    assert isinstance(method.task, Choosing)
    with torch.no_grad():
        found, wanted = (method.task.scores(one.eval().backbone, batch) for one in (method, trained))
    assert all(one.equal(other) for one, other in zip(found, wanted, strict=True))


def test_no_other_adapter_is_taken() -> None:
    method, of_retrieval, of_matching = made(), made(task=Retrieval()), made(task=MatchingRetrieval.tiny())
    with pytest.raises(CheckpointError, match="task retrieval, this run has choice_matching"):
        method.load_trained_state(Adapter(of_retrieval.trained_state(), of_retrieval.identity()), "a.safetensors")
    checkpoint = {"state_dict": of_matching.trained_state(), "petl_bench": of_matching.identity()}
    with pytest.raises(CheckpointError, match="task matching, this run has choice_matching"):
        method.on_load_checkpoint(checkpoint)
    cut = {name: tensor for name, tensor in of_matching.trained_state().items() if "itm_head" not in name}
    with pytest.raises(CheckpointError, match="2 tensors missing"):
        method.load_trained_state(Adapter(cut, of_matching.identity()), "a.safetensors")


def test_a_backbone_that_reads_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="task choice_matching needs layers in which text reads video"):
        Full(backbone=CLIP.tiny(), task=ChoiceMatching()).adapt()


def test_what_it_costs_beyond_the_vision_tower() -> None:
    method = made()
    vision, total = count_gmacs(method.backbone, method.task, frames=2, max_words=16)
    _, of_more_words = count_gmacs(method.backbone, method.task, frames=2, max_words=32)
    assert vision < total < of_more_words
