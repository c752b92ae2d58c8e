"""The task `choice_generation`: log-probabilities of options, sum and mean, and adapters of generated answers."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from methods.full import Full
from methods.uniadapter import UniAdapter
from petl_bench.backbones.blip import BLIP, BLIPVQA
from petl_bench.data.batch import Batch
from petl_bench.errors import CheckpointError, DataError, UsageError
from petl_bench.inputs import Words
from petl_bench.method import Method
from petl_bench.metrics.choice import LOGITS
from petl_bench.nn.transformer import Memory
from petl_bench.runs.cost import count_gmacs
from petl_bench.storage.adapters import Adapter
from petl_bench.tasks.answering import log_probabilities
from petl_bench.tasks.base import Task
from petl_bench.tasks.choice_generation import ChoiceGeneration
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.testing import check_task
from petl_bench.testing.samples import asked, make_batch, train
from tests.inputs import about_other_clips

OPTIONS = (("red", "a red circle moves left"), ("blue", "it is blue", "green"), ("up", "down"), ("one", "it", "a"))


def made(task: Task | None = None, kind: type[Method] = Full, **options: Any) -> Method:
    torch.manual_seed(0)
    backbone = BLIPVQA("tiny", None, dropout=0.0)
    return kind(backbone=backbone, task=task or ChoiceGeneration(**options)).adapt().eval()


def evaluation_batch(method: Method) -> Batch:
    batch = about_other_clips(make_batch(method.backbone, frames=3))
    questions = (q._replace(choices=own, correct=1) for q, own in zip(batch.questions, OPTIONS, strict=True))
    return batch._replace(questions=tuple(questions))


def log_probability(blip: BLIPVQA, states: Tensor, option: str, smoothing: float, mean: bool) -> Tensor:
    """Of an option, token after token, the end included."""
    (ids,), *_ = blip.answer_words([option])
    parts = []
    for place in range(1, len(ids)):
        memory = Memory(states, torch.ones(states.shape[:2], dtype=torch.bool))
        log = blip.decode_next(ids[None, :place], memory)[0].log_softmax(-1)
        parts.append((1 - smoothing) * log[ids[place]] + smoothing * log.mean())
    return torch.stack(parts).mean() if mean else torch.stack(parts).sum()


def test_it_keeps_what_tasks_promise() -> None:
    check_task("ChoiceGeneration")


@pytest.mark.parametrize("way", ["sum", "mean"])
def test_scores_are_log_probabilities_of_each_option_alone(way: Literal["sum", "mean"]) -> None:
    method = made(log_probability=way)
    batch, blip, task = evaluation_batch(method), method.backbone, method.task
    assert isinstance(blip, BLIPVQA)
    assert isinstance(task, ChoiceGeneration)
    with torch.no_grad():
        found = task.scores(blip, batch)
        for place, (row, question) in enumerate(zip(batch.text_video.tolist(), batch.questions, strict=True)):
            words = batch.words.select(slice(place, place + 1)).without_padding()
            states = blip.fuse(words, blip.encode_video_tokens(batch.clips.select(slice(row, row + 1))).memory)
            expected = [log_probability(blip, states, one, 0.1, way == "mean") for one in question.choices]
            torch.testing.assert_close(found[place], torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert task.inference()["answers"] == f"log-probability of each option, {way} over tokens, label_smoothing 0.1"


def test_options_of_all_questions_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = made(), list[int]()
    blip, batch = method.backbone, evaluation_batch(method)
    assert isinstance(blip, BLIPVQA)
    decode = blip.decode
    monkeypatch.setattr(blip, "decode", lambda words, memory: seen.append(len(words.ids)) or decode(words, memory))
    with torch.no_grad():
        method.task.predict(blip, batch)
    assert seen == [sum(map(len, OPTIONS))]


def test_the_sum_favours_short_options() -> None:
    """A decoder that knows nothing gives each token the same: the shortest option has the largest sum, means tie."""
    chosen = {}
    for way in ("sum", "mean"):
        method = made(log_probability=way)
        blip, batch = method.backbone, evaluation_batch(method)
        assert isinstance(blip, BLIPVQA)
        with torch.no_grad():
            blip.decoder.token_embedding.weight.zero_()
            blip.decoder.bias.zero_()
            method.task.expect(4, 4)
            method.task.update(blip, batch)
        chosen[way] = method.task.compute().ranks
    assert chosen["sum"]["chosen"].tolist()[0] == 0
    assert chosen["sum"]["correct"].tolist() == [0, 0, 0.5, 1 / 3]
    assert chosen["mean"]["correct"].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 2, 1 / 3])


def test_the_loss_is_that_of_generating_the_right_option() -> None:
    method = made()
    batch = asked(make_batch(method.backbone))
    other = made(AnswerGeneration(label_smoothing=0.1))
    right = tuple(q._replace(answers=(q.choices[q.correct or 0],), choices=()) for q in batch.questions)
    expected, _ = other.task.loss(other.backbone, batch._replace(questions=right))
    found, logs = method.task.loss(method.backbone, batch)
    assert found.equal(expected)
    assert not logs
    unknown = tuple(question._replace(correct=None) for question in batch.questions)
    with pytest.raises(DataError, match="no right option"):
        method.task.loss(method.backbone, batch._replace(questions=unknown))


def test_each_clip_is_encoded_once_and_unreadable_ones_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    method, encoded = made(), []
    batch, encode = evaluation_batch(method), method.backbone.encode_video_tokens
    batch.clips.mask[2] = False
    lost = batch._replace(decoded=torch.tensor([True, True, False, True]))
    monkeypatch.setattr(method.backbone, "encode_video_tokens", lambda clips: encoded.append(clips) or encode(clips))
    method.task.expect(4, 4)
    with torch.no_grad():
        method.task.update(method.backbone, lost)
        none = method.task.predict(method.backbone, lost._replace(decoded=torch.zeros(4, dtype=torch.bool)))
    assert [len(clips.frames) for clips in encoded] == [3]
    ranks = method.task.compute().ranks
    assert ranks["chosen"].tolist()[::2] == [-1, -1]
    assert ranks["correct"].tolist()[::2] == [0, 0]
    assert none == [(place, -1) for place in range(4)]


def test_the_tolerance_is_above_what_the_order_of_frames_moves_a_log_probability_by() -> None:
    blip, spread, largest = BLIPVQA("tiny", None).eval(), 0.0, 0.0
    options = blip.answer_words(["a red circle moves left then up and down again", "blue", "no"])
    with torch.no_grad():
        for count in (4, 16, 64):
            batch = make_batch(blip, frames=count, clips=1)
            tokens, mask, *_ = blip.encode_video_tokens(batch.clips).memory
            generator = torch.Generator().manual_seed(0)
            orders = (torch.arange(count), torch.arange(count).flip(0), torch.randperm(count, generator=generator))
            found = []
            for order in orders:
                parts = (part.unflatten(1, (count, -1))[:, order].flatten(1, 2) for part in (tokens, mask))
                words = Words(*batch.words)
                states = Memory(blip.fuse(words, Memory(*parts)), words.mask)
                found.append(log_probabilities(blip, states, options, [3], 0.1))
            spread = max(spread, *(float((one - found[0]).abs().max()) for one in found))
            largest = max(largest, float(found[0].abs().max()))
    assert largest > 50
    assert 0 < spread < LOGITS / 5


def test_everything_trainable_gets_a_gradient() -> None:
    method = made(kind=UniAdapter)
    batch = evaluation_batch(method)._replace(text_video=torch.arange(4))
    moved = set().union(*train(method, batch, 4))
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    assert {name for name in trainable - moved if "token_embedding" not in name} == set()


def test_an_adapter_of_generated_answers_is_taken() -> None:
    trained, method = made(AnswerGeneration(), UniAdapter), made(kind=UniAdapter)
    method.load_trained_state(Adapter(trained.trained_state(), trained.identity()), "adapter.safetensors")
    with pytest.raises(CheckpointError, match="task choice_generation, this run has qa_generation"):
        trained.load_trained_state(Adapter(method.trained_state(), method.identity()), "adapter.safetensors")


def test_a_backbone_without_a_decoder_is_refused() -> None:
    with pytest.raises(UsageError, match="task choice_generation needs an answer decoder"):
        Full(backbone=BLIP.tiny(), task=ChoiceGeneration()).adapt()


def test_what_it_costs_beyond_the_vision_tower() -> None:
    method = made()
    vision, total = count_gmacs(method.backbone, method.task, frames=2, max_words=16)
    _, of_more_words = count_gmacs(method.backbone, method.task, frames=2, max_words=32)
    assert vision < total < of_more_words
