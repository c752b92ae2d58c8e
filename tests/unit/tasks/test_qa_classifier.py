"""The answer classifier: its loss by hand, its evaluation question by question, and what is trained with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from methods.adaptformer import AdaptFormer
from methods.bitfit import BitFit
from methods.convpass import Convpass
from methods.full import Full
from methods.linear import Linear
from methods.lora import LoRA
from methods.mv_adapter import MVAdapter
from methods.st_adapter import STAdapter
from methods.uniadapter import UniAdapter
from methods.zero_shot import ZeroShot
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch, Question
from petl_bench.errors import CheckpointError, DataError, NonFiniteError, UsageError
from petl_bench.method import Method
from petl_bench.storage.adapters import Adapter
from petl_bench.tasks.qa_classifier import AnswerClassifier, AnswerHead
from petl_bench.testing.samples import make_batch, train
from tests.inputs import with_mask

ANSWERS = ("red", "blue", "left", "up", "circle")
METHODS = (AdaptFormer, MVAdapter, Full, Linear)


@pytest.fixture
def answer_list(tmp_path: Path) -> Path:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(ANSWERS), encoding="utf-8")
    return path


def build(kind: type[Method], answer_list: Path, on: type[CLIP] | type[BLIP] = CLIP, **options: Any) -> Method:
    torch.manual_seed(0)
    return kind(backbone=on("tiny", None), task=AnswerClassifier(answer_list, hidden_dim=8, **options)).adapt()


def head_of(method: Method) -> AnswerHead:
    assert isinstance(method.task, AnswerClassifier)
    return method.task.head


def asked(*answers: str) -> tuple[Question, ...]:
    return tuple(Question(place, "what", (answer,)) for place, answer in enumerate(answers))


def training_batch(method: Method, *answers: str) -> Batch:
    return make_batch(method.backbone)._replace(questions=asked(*answers))


def evaluation_batch(method: Method) -> Batch:
    """Three clips with two, three and one question, not in the order of the clips."""
    batch = make_batch(method.backbone, clips=3)
    texts = ("what colour?", "which way first?", "what shape?", "which way then?", "what moves?", "what?")
    return batch._replace(
        words=method.backbone.spec.tokenize(texts, 32),
        video_index=torch.tensor([7, 3, 5]),
        text_index=torch.arange(6),
        text_video=torch.tensor([7, 3, 3, 5, 7, 3]),
        questions=asked("red", "left", "circle", "up", "circle", "square"),
    )


def logits(method: Method, batch: Batch, clip: int, text: int) -> torch.Tensor:
    """Of one clip and one question, computed alone."""
    one = slice(clip, clip + 1)
    video = method.backbone.encode_video(batch.clips.select(one)).pooled
    question = method.backbone.encode_text(batch.words.select(slice(text, text + 1))).pooled
    return head_of(method)(video, question)[0]


def test_loss_by_hand(answer_list: Path) -> None:
    method = build(Linear, answer_list, dropout=0.0)
    batch = make_batch(method.backbone)._replace(
        questions=(
            Question(0, "what", ("blue",)),
            Question(1, "what", ("left", "up", "left", "elsewhere"), 0.25),
            Question(2, "what", ("elsewhere",)),  # adds nothing
            Question(3, "what", ("red",), 0.2),
        )
    )
    loss, _ = method.task.loss(method.backbone, batch)
    log = torch.stack([logits(method, batch, row, row).log_softmax(0) for row in range(4)])
    expected = -(log[0, 1] + 0.5 * log[1, 2] + 0.25 * log[1, 3] + 0.2 * log[3, 0]) / 4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_head_by_hand() -> None:
    head = AnswerHead(width=4, hidden_dim=3, answers=2, dropout=0.0)
    video, question = torch.randn(5, 4), torch.randn(5, 4)
    v, q = (
        (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        for x in (video, question)
    )
    first, last = head.layers[0], head.layers[3]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    hidden = nn.functional.gelu(torch.cat([v, q, v * q], 1) @ first.weight.T + first.bias)
    assert torch.allclose(head(video, question), hidden @ last.weight.T + last.bias, atol=1e-6)


def test_logits_are_in_full_precision_under_autocast() -> None:
    head = AnswerHead(4, 3, 2, 0.0)
    video, question = torch.randn(5, 4), torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(video.bfloat16(), question.bfloat16()).dtype == torch.float32
        assert head(video, question).equal(head(video, question))
    assert head(video, question).dtype == torch.float32


def test_each_question_is_answered_from_its_own_clip(answer_list: Path) -> None:
    method = build(Linear, answer_list).eval()
    batch = evaluation_batch(method)
    clips = [0, 1, 1, 2, 0, 1]
    with torch.no_grad():
        expected = [ANSWERS[int(logits(method, batch, clip, text).argmax())] for text, clip in enumerate(clips)]
        assert method.task.predict(method.backbone, batch) == list(enumerate(expected))
        method.task.expect(3, 6)
        method.task.update(method.backbone, batch)
    found = method.task.compute()
    truth = [question.answers[0] for question in batch.questions]
    right = [given == answer for given, answer in zip(expected, truth, strict=True)]
    assert found.ranks["correct"].tolist() == right
    assert found.ranks["prediction"].tolist() == expected
    assert found.metrics["accuracy"] == found.record["accuracy"] == pytest.approx(100 * sum(right) / 6)
    assert found.record["n_per_type"] == {"what": 6}
    assert found.record["vocabulary"]["coverage"] == pytest.approx(500 / 6)  # `square` is no answer of the list
    assert found.videos == 3


def test_a_video_that_could_not_be_read_is_answered_wrongly(answer_list: Path) -> None:
    method = build(Linear, answer_list).eval()
    batch = evaluation_batch(method)
    frame_mask = batch.clips.mask.clone()
    frame_mask[0] = False
    lost = with_mask(batch, frame_mask)._replace(decoded=torch.tensor([False, True, True]))
    with torch.no_grad():
        whole, rest = (method.task.predict(method.backbone, b) for b in (batch, lost))
        right = tuple(Question(number, "what", (answer,)) for number, answer in whole)
        method.task.update(method.backbone, lost._replace(questions=right))
    assert rest == [(n, answer if n not in (0, 4) else "") for n, answer in whole]
    assert method.task.compute().ranks["correct"].tolist() == [0, 1, 1, 1, 0, 1]


def test_nan_is_an_error(answer_list: Path) -> None:
    method = build(Linear, answer_list).eval()
    with torch.no_grad():
        next(head_of(method).parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="answers"):
        method.task.predict(method.backbone, evaluation_batch(method))


def test_ties_go_to_the_first_answer(answer_list: Path) -> None:
    method = build(Linear, answer_list).eval()
    with torch.no_grad():
        for parameter in head_of(method).parameters():
            parameter.zero_()
        given = method.task.predict(method.backbone, evaluation_batch(method))
    assert {answer for _, answer in given} == {ANSWERS[0]}


ON_BOTH = [(kind, on) for kind in (*METHODS, LoRA, BitFit, STAdapter, Convpass) for on in (CLIP, BLIP)]


@pytest.mark.parametrize(("kind", "on"), [*ON_BOTH, (UniAdapter, BLIP)])
def test_everything_trainable_is_trained(kind: type[Method], on: type[CLIP] | type[BLIP], answer_list: Path) -> None:
    """DDP waits for ever for a parameter without a gradient."""
    method = build(kind, answer_list, on)
    batch = training_batch(method, "red", "left", "circle", "elsewhere")
    moved = set().union(*train(method, batch, 4))
    parameters = dict(method.named_parameters())
    trainable = {name for name, p in parameters.items() if p.requires_grad}
    assert not [name for name in trainable if parameters[name].grad is None]
    assert {name for name in trainable - moved if "token_embedding" not in name} == set()
    assert {"task.head.layers.0.weight", "task.head.layers.3.bias"} <= trainable
    assert not trainable & {"backbone.logit_scale", "backbone.temp", "backbone.itm_head.weight"}


def test_a_backbone_with_a_decoder_is_refused(answer_list: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a joint space of video and text: BLIPVQA \(blip-tiny\)"):
        Full(backbone=BLIPVQA("tiny", None), task=AnswerClassifier(answer_list)).adapt()


@pytest.mark.parametrize("kind", METHODS)
def test_reload_gives_the_same_answers(kind: type[Method], answer_list: Path) -> None:
    method = build(kind, answer_list)
    train(method, training_batch(method, "red", "left", "circle", "up"), 2)
    fresh = build(kind, answer_list)
    fresh.load_trained_state(Adapter(method.trained_state(), method.identity()), "adapter.safetensors")
    batch = evaluation_batch(method)
    with torch.no_grad():
        assert logits(fresh.eval(), batch, 1, 2).equal(logits(method.eval(), batch, 1, 2))


def test_a_head_for_other_answers_is_refused(answer_list: Path, tmp_path: Path) -> None:
    method = build(Linear, answer_list)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(ANSWERS[::-1]), encoding="utf-8")
    with pytest.raises(CheckpointError, match="with answers"):
        build(Linear, other).load_trained_state(Adapter(method.trained_state(), method.identity()), "adapter")


def test_memory_savers(answer_list: Path) -> None:
    method = build(AdaptFormer, answer_list, dropout=0.0).train()
    batch = training_batch(method, "red", "left", "circle", "up")

    def gradients() -> dict[str, torch.Tensor]:
        method.zero_grad()
        method.task.loss(method.backbone, batch)[0].backward()
        return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}

    plain = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(gradient.isfinite().all() for gradient in gradients().values())
    method.backbone.set_gradient_checkpointing(True)
    for name, gradient in gradients().items():
        assert torch.allclose(gradient, plain[name], rtol=1e-4, atol=1e-6), name


def test_a_method_without_training_cannot_answer(answer_list: Path) -> None:
    with pytest.raises(UsageError, match="ZeroShot trains nothing"):
        build(ZeroShot, answer_list)


def test_the_score_is_part_of_the_metric_version(answer_list: Path) -> None:
    assert AnswerClassifier(answer_list).metric_version == "qa-exact-match/1"
    assert AnswerClassifier(answer_list, score="vqa").metric_version == "vqav2-accuracy/1"


def test_vqa_score(answer_list: Path) -> None:
    method = build(Linear, answer_list, score="vqa").eval()
    with torch.no_grad():
        for parameter in head_of(method).parameters():
            parameter.zero_()  # always the first answer: red
        batch = evaluation_batch(method)
        annotated = tuple(Question(n, "other", ("Red.",) * n + ("x",) * (10 - n)) for n in range(6))
        method.task.update(method.backbone, batch._replace(questions=annotated))
    assert method.task.compute().ranks["correct"].tolist() == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])


def test_a_list_is_taken_whole(answer_list: Path) -> None:
    with pytest.raises(UsageError, match="max_answers is 3"):
        AnswerClassifier(answer_list, max_answers=3)


def test_missing_answer_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        AnswerClassifier(tmp_path / "nowhere.json")
