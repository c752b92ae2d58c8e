"""Generated answers: the loss by hand, both ways of answering question by question, and what is trained with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

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
from petl_bench.errors import DataError, NonFiniteError, UsageError
from petl_bench.inputs import Words
from petl_bench.method import Method
from petl_bench.nn.transformer import Memory
from petl_bench.storage.adapters import Adapter
from petl_bench.tasks.answering import Generate, Rank, rank, read_questions
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.testing.samples import make_batch, train
from tests.inputs import with_frames, with_mask

ANSWERS = ("red", "blue", "a red circle", "a green square", "up", "left then up", "down")
METHODS = (UniAdapter, AdaptFormer, MVAdapter, STAdapter, Convpass, LoRA, BitFit, Full)
SIZE: dict[type[Method], dict[str, Any]] = {UniAdapter: {"bottleneck_dim": 8}, AdaptFormer: {"bottleneck_dim": 8}}


@pytest.fixture
def answer_list(tmp_path: Path) -> Path:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(ANSWERS), encoding="utf-8")
    return path


def build(kind: type[Method] = UniAdapter, **options: Any) -> Method:
    """On the tiny BLIP without dropout."""
    torch.manual_seed(0)
    backbone = BLIPVQA("tiny", None, dropout=0.0)
    return kind(backbone=backbone, task=AnswerGeneration(**options), **SIZE.get(kind, {})).adapt()


def blip_of(method: Method) -> BLIPVQA:
    assert isinstance(method.backbone, BLIPVQA)
    return method.backbone


def training_batch(method: Method, *answers: tuple[str, ...], weight: float = 1.0) -> Batch:
    questions = tuple(Question(place, "what", own, weight) for place, own in enumerate(answers))
    return make_batch(method.backbone, frames=3)._replace(questions=questions)


def some_batch(method: Method) -> Batch:
    return training_batch(method, ("red",), ("blue", "a red circle"), ("up", "up"), ("down",))


def evaluation_batch(method: Method) -> Batch:
    """Three clips with two, three and one question, not in the order of the clips."""
    batch = make_batch(method.backbone, frames=3, clips=3)
    texts = ("what colour?", "which way first?", "what shape?", "which way then?", "what moves?", "what?")
    return batch._replace(
        words=method.backbone.spec.tokenize(texts, 32),
        video_index=torch.tensor([7, 3, 5]),
        text_index=torch.arange(6),
        text_video=torch.tensor([7, 3, 3, 5, 7, 3]),
        questions=tuple(Question(10 + number, "what", ("red",)) for number in range(6)),
    )


CLIPS = (0, 1, 1, 2, 0, 1)  # of the questions of `evaluation_batch`


def states_of(method: Method, batch: Batch, clip: int, text: int) -> Tensor:
    """Of one question about one clip, computed alone and without padding: (1, N, D)."""
    blip, one = blip_of(method), slice(clip, clip + 1)
    words = int(batch.words.mask[text].sum())
    own = Words(batch.words.ids[text : text + 1, :words], batch.words.mask[text : text + 1, :words])
    return blip.fuse(own, blip.encode_video_tokens(batch.clips.select(one)).memory)


def log_probability(blip: BLIPVQA, states: Tensor, answer: str, smoothing: float) -> Tensor:
    """Of an answer to a question, token after token."""
    (ids,), *_ = blip.answer_words([answer])
    total = torch.zeros(())
    for place in range(1, len(ids)):
        logits = blip.decode_next(ids[None, :place], Memory(states, torch.ones(states.shape[:2], dtype=torch.bool)))[0]
        log = logits.log_softmax(-1)
        total = total + (1 - smoothing) * log[ids[place]] + smoothing * log.mean()
    return total


# --- loss ---------------------------------------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    """Sum over tokens, weights of answers, mean over questions; distinct answers once, with their summed weight."""
    method = build(label_smoothing=0.2)
    batch = training_batch(method, ("red",), ("blue", "a red circle", "blue"), ("left then up",), ("down",), weight=0.3)
    loss, logs = method.task.loss(method.backbone, batch)
    expected = torch.zeros(())
    for row, question in enumerate(batch.questions):
        states = states_of(method, batch, row, row)
        for answer in question.answers:
            expected = expected - 0.3 * log_probability(blip_of(method), states, answer, 0.2) / 4
    assert not logs
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_keys_and_values_of_a_question_are_computed_once_for_all_its_answers() -> None:
    method = build()
    batch = training_batch(method, ("red", "blue"), ("blue", "a red circle", "up"), ("left then up",), ("down",))
    counts: list[int] = []
    for block in blip_of(method).decoder.blocks:
        assert block.cross_attention is not None
        block.cross_attention.key_value.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    method.task.loss(method.backbone, batch)
    assert counts == len(counts) * [4]


def test_a_question_without_an_answer_cannot_train() -> None:
    method = build()
    with pytest.raises(DataError, match="no annotated answer"):
        method.task.loss(method.backbone, training_batch(method, ("red",), (), ("up",), ("down",)))


def test_loss_learns_to_answer() -> None:
    """A few steps make the annotated answers the generated ones."""
    method = build(Full, inference=Generate(num_beams=2), label_smoothing=0.0)
    batch = training_batch(method, ("red",), ("a red circle",), ("left then up",), ("down",))
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        method.task.loss(method.backbone, batch)[0].backward()
        optimizer.step()
    with torch.no_grad():
        given = method.eval().task.predict(method.backbone, batch)
    assert given == list(enumerate(["red", "a red circle", "left then up", "down"]))


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 100, None])
def test_rank_by_hand(k: int | None, answer_list: Path) -> None:
    method = build(inference=Rank(answer_list, k=k), label_smoothing=0.1).eval()
    batch, blip, expected = evaluation_batch(method), blip_of(method), []
    with torch.no_grad():
        for text, clip in enumerate(CLIPS):
            states = states_of(method, batch, clip, text)
            ids, *_ = blip.answer_words(ANSWERS)
            first = blip.decode_next(ids[:1, :1], Memory(states, torch.ones(states.shape[:2], dtype=torch.bool)))[
                0, ids[:, 1]
            ]
            likely = first.argsort(descending=True, stable=True)[:k].tolist()
            best = max(likely, key=lambda place: float(log_probability(blip, states, ANSWERS[place], 0.1)))
            expected.append(ANSWERS[best])
        assert method.task.predict(method.backbone, batch) == [(10 + n, answer) for n, answer in enumerate(expected)]


@pytest.mark.parametrize("k", [3, None])
def test_questions_are_ranked_together_as_alone(k: int | None) -> None:
    method = build().double().eval()
    blip, batch = blip_of(method), evaluation_batch(method)
    batch = with_frames(batch, batch.clips.frames.double() / 255)
    answers = blip.answer_words(ANSWERS)
    with torch.no_grad():
        _, states = read_questions(blip, batch)
        found = rank(blip, states, answers, k, 0.1)
        alone = [rank(blip, states.select(slice(row, row + 1)), answers, k, 0.1) for row in range(6)]
    ranks, scores = (torch.cat(parts) for parts in zip(*alone, strict=True))
    assert found[0].equal(ranks)
    torch.testing.assert_close(found[1], scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("pairs", "questions", "rows"), [(512, 16, [18]), (8, 16, [8, 8, 2]), (8, 4, [8, 4, 6])])
def test_answers_to_several_questions_are_decoded_at_once(
    pairs: int, questions: int, rows: list[int], answer_list: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 questions with 3 answers each: in parts of so many pairs of so many questions."""
    method = build(inference=Rank(answer_list, k=3)).eval()
    blip, batch = blip_of(method), evaluation_batch(method)
    with torch.no_grad():
        whole = method.task.predict(blip, batch)
        decode, seen = blip.decode, list[Words]()
        monkeypatch.setattr(blip, "decode", lambda words, memory: seen.append(words) or decode(words, memory))
        monkeypatch.setattr("petl_bench.tasks.answering.PAIRS", pairs)
        monkeypatch.setattr("petl_bench.tasks.answering.QUESTIONS", questions)
        assert method.task.predict(blip, batch) == whole
    assert [len(words.ids) for words in seen] == rows


def test_answers_of_like_length_are_decoded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build().eval()
    blip, batch = blip_of(method), evaluation_batch(method)
    answers = blip.answer_words(ANSWERS)
    lengths = answers.mask.sum(1).repeat(6).sort().values
    decode, seen = blip.decode, list[Words]()
    monkeypatch.setattr(blip, "decode", lambda words, memory: seen.append(words) or decode(words, memory))
    monkeypatch.setattr("petl_bench.tasks.answering.PAIRS", 6)
    with torch.no_grad():
        rank(blip, read_questions(blip, batch)[1], answers, None, 0.1)
    assert [words.ids.shape[1] for words in seen] == lengths[5::6].tolist()
    assert lengths.unique().tolist() == [3, 5]


def test_many_questions_are_read_in_parts(answer_list: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(inference=Rank(answer_list, k=None)).eval()
    batch = evaluation_batch(method)
    with torch.no_grad():
        whole = method.task.predict(method.backbone, batch)
        monkeypatch.setattr("petl_bench.tasks.answering.CHUNK", 2)
        monkeypatch.setattr("petl_bench.tasks.qa_generation.CHUNK", 2)
        assert method.task.predict(method.backbone, batch) == whole


def test_generate_by_hand() -> None:
    """With one beam, the likeliest token each time, about the question's own clip."""
    method = build(inference=Generate(num_beams=1, max_length=5)).eval()
    batch, blip, expected = evaluation_batch(method), blip_of(method), []
    with torch.no_grad():
        for text, clip in enumerate(CLIPS):
            states = states_of(method, batch, clip, text)
            ids = torch.tensor([[blip.dec_token]])
            while ids.shape[1] < 5 and ids[0, -1] != blip.sep_token:
                logits = blip.decode_next(ids, Memory(states, torch.ones(states.shape[:2], dtype=torch.bool)))
                ids = torch.cat([ids, logits.argmax(1, keepdim=True)], 1)
            expected += blip.answer_texts(ids)
        assert method.task.predict(method.backbone, batch) == [(10 + n, answer) for n, answer in enumerate(expected)]
    assert len(set(expected)) > 1


@pytest.mark.parametrize("inference", ["rank", "generate"])
def test_a_clip_is_encoded_once(inference: Any, answer_list: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(inference=Rank(answer_list) if inference == "rank" else Generate()).eval()
    blip, seen = blip_of(method), []
    encode = blip.encode_video_tokens
    monkeypatch.setattr(blip, "encode_video_tokens", lambda clips: seen.append(len(clips.mask)) or encode(clips))
    with torch.no_grad():
        method.task.predict(blip, evaluation_batch(method))
    assert seen == [3]


@pytest.mark.parametrize("inference", ["rank", "generate"])
def test_a_video_that_could_not_be_read_is_answered_wrongly(inference: Any, answer_list: Path) -> None:
    method = build(inference=Rank(answer_list) if inference == "rank" else Generate()).eval()
    batch = evaluation_batch(method)
    frame_mask = batch.clips.mask.clone()
    frame_mask[0] = False
    lost = with_mask(batch, frame_mask)._replace(decoded=torch.tensor([False, True, True]))
    with torch.no_grad():
        whole, rest = (method.task.predict(method.backbone, b) for b in (batch, lost))
        right = tuple(Question(number, "what", (answer,)) for number, answer in whole)
        method.task.expect(3, 6)
        method.task.update(method.backbone, lost._replace(questions=right))
        none = method.task.predict(method.backbone, lost._replace(decoded=torch.tensor([False] * 3)))
    assert rest == [(n, answer if n not in (10, 14) else "") for n, answer in whole]
    assert none == [(n, "") for n, _ in whole]
    found = method.task.compute()
    assert found.ranks["correct"].tolist() == [0, 1, 1, 1, 0, 1]
    assert found.metrics["accuracy"] == found.record["accuracy"] == pytest.approx(400 / 6)
    assert found.videos == 3


def test_questions_without_annotated_answers_are_answered() -> None:
    """A test split whose answers only EvalAI has."""
    method = build().eval()
    batch = evaluation_batch(method)
    unlabelled = batch._replace(questions=tuple(question._replace(answers=()) for question in batch.questions))
    with torch.no_grad():
        assert method.task.predict(method.backbone, unlabelled) == method.task.predict(method.backbone, batch)
        with pytest.raises(DataError, match="no annotated answer"):
            method.task.update(method.backbone, unlabelled)


def test_what_the_record_says(answer_list: Path) -> None:
    def evaluate(**options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        method = build(**options).eval()
        with torch.no_grad():
            method.task.update(method.backbone, evaluation_batch(method))
        found = method.task.compute()
        return found.record, found.inference

    record, inference = evaluate(inference=Generate(num_beams=2, max_length=6))
    assert "vocabulary" not in record  # any text can be given
    assert inference["answers"] == "generate, num_beams 2, max_length 6"
    record, inference = evaluate(inference=Rank(answer_list))
    assert record["vocabulary"]["size"] == len(ANSWERS)
    assert record["vocabulary"]["coverage"] == 100
    assert inference["answers"] == "rank, k_test 128 of 7, label_smoothing 0.1"


def test_nan_is_an_error() -> None:
    method = build().eval()
    with torch.no_grad():
        blip_of(method).vision.ln_post.weight.fill_(torch.nan)
        with pytest.raises(NonFiniteError, match="states of questions"):
            method.task.predict(method.backbone, evaluation_batch(method))


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", METHODS)
def test_everything_trainable_is_trained(kind: type[Method]) -> None:
    """DDP waits for ever for a parameter without a gradient."""
    method = build(kind)
    moved = set().union(*train(method, some_batch(method), 4))
    parameters = dict(method.named_parameters())
    trainable = {name for name, p in parameters.items() if p.requires_grad}
    assert not [name for name in trainable if parameters[name].grad is None]
    assert {name for name in trainable - moved if "token_embedding" not in name} == set()


@pytest.mark.parametrize("kind", METHODS)
def test_reload_gives_the_same_loss(kind: type[Method]) -> None:
    method, fresh = build(kind), build(kind)
    batch = some_batch(method)
    train(method, batch, 2)
    fresh.load_trained_state(Adapter(method.trained_state(), method.identity()), "adapter.safetensors")
    losses = [m.eval().task.loss(m.backbone, batch)[0] for m in (method, fresh)]
    assert losses[0].equal(losses[1])


def test_an_adapter_answers_in_both_ways(answer_list: Path) -> None:
    """What is trained does not depend on the way."""
    method, other = build(), build(inference=Rank(answer_list))
    other.load_trained_state(Adapter(method.trained_state(), method.identity()), "adapter.safetensors")


@pytest.mark.parametrize("kind", [UniAdapter, Full])
def test_memory_savers(kind: type[Method]) -> None:
    method = build(kind).train()
    batch = some_batch(method)

    def gradients() -> dict[str, Tensor]:
        method.zero_grad()
        method.task.loss(method.backbone, batch)[0].backward()
        return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}

    plain = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        low = gradients()
    assert low.keys() == plain.keys()
    assert all(gradient.isfinite().all() for gradient in low.values())
    method.backbone.set_gradient_checkpointing(True)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-5)


def test_logits_are_in_full_precision_under_autocast() -> None:
    method = build().eval()
    batch, blip = evaluation_batch(method), blip_of(method)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        states = states_of(method, batch, 0, 0)
        question = torch.ones(states.shape[:2], dtype=torch.bool)
        assert blip.decode(blip.answer_words(ANSWERS), Memory(states, question)).dtype == torch.float32
        method.task.predict(blip, batch)


# --- what does not go together ------------------------------------------------------------------------------------


def test_an_answer_has_room_between_start_and_end() -> None:
    with pytest.raises(UsageError, match=r"Generate\.max_length: expected a whole number from 3"):
        Generate(max_length=2)


def test_missing_answer_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        AnswerGeneration(Rank(tmp_path / "nowhere.json"))


def test_a_backbone_without_decoder_is_refused() -> None:
    for backbone, missing in (
        (CLIP("tiny", None), r"layers in which text reads video and an answer decoder: CLIP \(clip-tiny\)"),
        (BLIP("tiny", None), r"needs an answer decoder: BLIP \(blip-tiny\)"),
    ):
        with pytest.raises(UsageError, match=missing):
            AdaptFormer(backbone=backbone, task=AnswerGeneration()).adapt()


def test_linear_has_nothing_to_train() -> None:
    with pytest.raises(UsageError, match="into a joint space"):
        build(Linear)


def test_zero_shot_answers() -> None:
    method = build(ZeroShot).eval()
    with torch.no_grad():
        assert len(method.task.predict(method.backbone, evaluation_batch(method))) == 6
