"""BLIP: our towers equal transformers' models, masks are applied, the shortcuts are exact, the rest is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.adaptformer import AdaptFormer
from petl_bench.backbones.base import CAPABILITIES
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.blip.towers import BERTBlock
from petl_bench.backbones.clip.model import CLIP
from petl_bench.errors import UsageError
from petl_bench.inputs import Words
from petl_bench.nn.transformer import CrossAttention, Memory
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import BLIPS, Purpose
from tests.inputs import clips_of, memory_of, tokens_of
from tests.unit.backbones.blip_reference import (
    CONFIG,
    Reference,
    captions,
    clips,
    make_reference,
    real_frames,
    write_architecture,
)

PURPOSES: tuple[Purpose, ...] = ("retrieval", "qa")


@pytest.fixture(scope="module")
def retrieval(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("retrieval"), "retrieval")


@pytest.fixture(scope="module")
def qa(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("qa"), "qa")


@pytest.fixture
def blip(retrieval: Reference) -> BLIP:
    return retrieval.ours("retrieval")


def meta(purpose: Purpose, **options: Any) -> Any:
    with torch.device("meta"):
        return BLIPS[purpose]("base", None, **options)


def count(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def video_tokens(model: BLIP | BLIPVQA) -> Tensor:
    return tokens_of(model, clips_of(clips(model), real_frames()))


def both(ids: Tensor, words: Tensor, *memory: Tensor) -> tuple[Words, Memory]:
    """What `fuse` and `match` read."""
    return Words(ids, words), memory_of(*memory)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


# --- equal to transformers ------------------------------------------------------------------------------------------


def test_contrastive_features_equal_transformers(retrieval: Reference, blip: BLIP) -> None:
    ids, words = captions(blip)
    pictures, every = clips(blip, frames=1), torch.ones(3, 1, dtype=torch.bool)
    ours = blip.encode_text(Words(ids, words)).pooled @ blip.encode_video(clips_of(pictures, every)).pooled.T
    theirs = retrieval.model(ids, pictures[:, 0], False, words.long()).itm_score  # image by text
    assert_same(ours, theirs.T)


def test_matching_equals_transformers(retrieval: Reference, blip: BLIP) -> None:
    ids, words = captions(blip)
    pictures, every = clips(blip, frames=1), torch.ones(3, 1, dtype=torch.bool)
    tokens = tokens_of(blip, clips_of(pictures, every))
    with_enc = torch.cat([torch.full((3, 1), 174), ids[:, 1:]], 1)  # transformers leaves [CLS]
    theirs = retrieval.model(with_enc, pictures[:, 0], True, words.long())
    assert_same(blip.match(*both(ids, words, tokens, every)), theirs.itm_score)


def test_answer_logits_equal_transformers(qa: Reference) -> None:
    model = qa.ours("qa")
    ids, words = captions(model)
    every = torch.ones_like(words)  # transformers drops the mask of cross-attention
    tokens = video_tokens(model)[:, :1]
    question = qa.model.text_encoder(
        torch.cat([torch.full((3, 1), 174), ids[:, 1:]], 1), words.long(), encoder_hidden_states=tokens.flatten(1, 2)
    )
    states = model.fuse(*both(ids, words, tokens, real_frames()[:, :1]))
    assert_same(states[words], question.last_hidden_state[words])
    answers, answer_words = ids[:, :6], words[:, :6]
    theirs = qa.model.text_decoder(
        torch.cat([torch.full((3, 1), 173), answers[:, 1:]], 1), answer_words.long(), encoder_hidden_states=states
    )
    ours = model.decode(Words(answers, answer_words), Memory(states, every))
    assert_same(ours[answer_words], theirs.logits[answer_words])


def test_next_token_is_the_last_of_all_logits(qa: Reference) -> None:
    model = qa.ours("qa")
    ids, words = captions(model)
    states = model.fuse(*both(ids, words, video_tokens(model), real_frames()))
    answers = ids[:, :3]  # no caption is shorter
    logits = model.decode(Words(answers, torch.ones_like(answers, dtype=torch.bool)), Memory(states, words))
    assert_same(model.decode_next(answers, Memory(states, words)), logits[:, -1])
    shared = model.decode_next(answers, Memory(states[:1], words[:1]))
    assert_same(shared[0], logits[0, -1])


def test_answers_are_not_cleaned(qa: Reference) -> None:
    """[DEC], pieces, [SEP]; as long as the longest."""
    model = qa.ours("qa")
    ids, mask, _ = model.answer_words(["red", "a red circle", ""])
    assert mask.sum(1).tolist() == [3, 5, 2]
    assert ids.shape == (3, 5)
    assert (ids[:, 0] == model.dec_token).all()
    assert ids[mask].eq(model.sep_token).sum() == 3
    assert ids[~mask].eq(model.pad_token).all()
    assert model.answer_texts(ids) == ["red", "a red circle", ""]


def test_decoder_reads_states_of_the_width_of_text(tmp_path: Path) -> None:
    model = BLIPVQA(str(write_architecture(tmp_path, CONFIG)), None).eval()
    assert model.vision.width != model.text.width
    ids, words = captions(model)
    states = model.fuse(*both(ids, words, video_tokens(model), real_frames()))
    assert model.decode(Words(ids, words), Memory(states, words)).shape == (3, 10, 175)


def test_positions_are_interpolated_as_in_transformers(retrieval: Reference) -> None:
    larger = retrieval.ours("retrieval", image_size=48)
    assert (larger.spec.image_size, larger.vision.grid) == (48, (6, 6))
    pictures = clips(larger, frames=1)
    theirs = retrieval.model.vision_model(pictures[:, 0], interpolate_pos_encoding=True).last_hidden_state
    tokens = tokens_of(larger, clips_of(pictures, torch.ones(3, 1, dtype=torch.bool)))
    assert_same(tokens[:, 0], theirs)


# --- masks ----------------------------------------------------------------------------------------------------------


def test_padded_frames_are_not_read(blip: BLIP) -> None:
    ids, words = captions(blip)
    tokens = video_tokens(blip)
    other = tokens.clone()
    other[~real_frames()] += 1.0
    assert_same(
        blip.fuse(*both(ids, words, other, real_frames())),
        blip.fuse(*both(ids, words, tokens, real_frames())),
    )
    shorter = blip.fuse(*both(ids[2:], words[2:], tokens[2:, :1], real_frames()[2:, :1]))
    assert_same(blip.fuse(*both(ids, words, tokens, real_frames()))[2:], shorter)
    every = torch.ones_like(real_frames())
    assert not torch.allclose(
        blip.fuse(*both(ids, words, other, every)),
        blip.fuse(*both(ids, words, tokens, every)),
        atol=1e-2,
    )


def test_clip_is_the_mean_of_its_real_frames(blip: BLIP) -> None:
    video = blip.encode_video(clips_of(clips(blip), real_frames()))
    assert_same(video.pooled[0], nn.functional.normalize(video.by_frame()[0].mean(0), dim=0))
    assert_same(video.pooled[2], nn.functional.normalize(video.by_frame()[2, 0], dim=0))


def test_padding_of_texts_is_not_read(blip: BLIP) -> None:
    ids, words = captions(blip)
    other = ids.masked_fill(~words, 7)
    tokens = video_tokens(blip)
    assert_same(blip.encode_text(Words(other, words)).pooled, blip.encode_text(Words(ids, words)).pooled)
    assert_same(
        blip.fuse(*both(other, words, tokens, real_frames()))[words],
        blip.fuse(*both(ids, words, tokens, real_frames()))[words],
    )


def test_decoder_reads_neither_padded_questions_nor_later_tokens(qa: Reference) -> None:
    model = qa.ours("qa")
    ids, words = captions(model)
    states = model.fuse(*both(ids, words, video_tokens(model), real_frames()))
    logits = model.decode(Words(ids, words), Memory(states, words))
    spoilt = states.clone()
    spoilt[~words] += 1.0
    later = ids.clone()
    later[:, 4:] = 9
    assert_same(model.decode(Words(ids, words), Memory(spoilt, words)), logits)
    assert_same(model.decode(Words(later, words), Memory(states, words))[:, :4], logits[:, :4])


# --- shortcuts ------------------------------------------------------------------------------------------------------


def test_pooled_rows_equal_full_computation(blip: BLIP) -> None:
    ids, words = captions(blip)
    pixels = clips_of(clips(blip), real_frames())
    assert_same(blip.encode_video(pixels).by_frame(), blip.encode_video_tokens(pixels).features.by_frame())
    short, (full, tokens) = blip.encode_text(Words(ids, words)), blip.encode_text_tokens(Words(ids, words))
    assert tokens.shape == (*ids.shape, blip.text.width)
    assert_same(short.projected, full.projected)


def test_match_equals_the_head_on_all_states(blip: BLIP) -> None:
    ids, words = captions(blip)
    tokens = video_tokens(blip)
    states = blip.fuse(*both(ids, words, tokens, real_frames()))
    assert_same(blip.match(*both(ids, words, tokens, real_frames())), blip.itm_head(states[:, 0]))


def test_one_clip_for_all_captions_equals_copies_of_it(blip: BLIP) -> None:
    ids, words = captions(blip)
    tokens, real = video_tokens(blip)[2:], real_frames()[2:]
    copies = blip.fuse(*both(ids, words, tokens.expand(3, -1, -1, -1), real.expand(3, -1)))
    assert_same(blip.fuse(*both(ids, words, tokens, real)), copies)


def test_key_scale_multiplies_keys_alone() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(8, 6, 2)
    tokens, scale = torch.randn(2, 5, 6), torch.rand(2, 5) + 0.5
    mask = torch.ones(2, 5, dtype=torch.bool)
    k, v = attention.project_memory(Memory(tokens, mask))
    scaled_k, scaled_v = attention.project_memory(Memory(tokens, mask, scale))
    assert_same(scaled_k, k * scale[:, None, :, None])
    assert torch.equal(scaled_v, v)


def test_key_scale_by_frame_reaches_the_tokens_of_that_frame(blip: BLIP) -> None:
    """A frame whose keys are zero gets the same weight as any token that every query is indifferent to."""
    ids, words = captions(blip)
    tokens, real = video_tokens(blip), real_frames()
    ones = torch.ones(tokens.shape[:3])
    assert_same(
        blip.fuse(*both(ids, words, tokens, real, ones)),
        blip.fuse(*both(ids, words, tokens, real)),
    )
    scale = ones.clone()
    scale[2, 1] = 3.0  # a padded frame, which nobody reads
    assert_same(
        blip.match(*both(ids, words, tokens, real, scale)),
        blip.match(*both(ids, words, tokens, real)),
    )
    scale[0, 1] = 3.0
    changed = (
        (blip.fuse(*both(ids, words, tokens, real, scale)) - blip.fuse(*both(ids, words, tokens, real)))
        .abs()
        .amax((1, 2))
    )
    assert changed[0] > 1e-3
    assert changed[1:].max() < 1e-5


@pytest.mark.parametrize("purpose", PURPOSES)
def test_gradient_checkpointing_gives_the_same_gradients(purpose: Purpose) -> None:
    expected, recomputed = (gradients(purpose, checkpointing) for checkpointing in (False, True))
    assert expected.keys() == recomputed.keys() != set()
    for name, gradient in expected.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def gradients(purpose: Purpose, checkpointing: bool) -> dict[str, Tensor]:
    """Of everything a backbone computes, with dropout."""
    model: Any = BLIPS[purpose]("tiny", None, gradient_checkpointing=checkpointing).train()
    assert {tower.checkpointing for tower in model.towers.values()} == {checkpointing}
    torch.manual_seed(7)
    ids, words = captions(model)
    tokens = video_tokens(model)
    if purpose == "qa":
        states = model.fuse(*both(ids, words, tokens, real_frames()))
        model.decode(Words(ids, words), Memory(states, words)).square().mean().backward()
    else:
        pooled = (
            model.encode_text(Words(ids, words)).pooled.sum()
            + model.encode_video(clips_of(clips(model), real_frames())).pooled.sum()
        )
        (pooled * model.logit_scale + model.match(*both(ids, words, tokens, real_frames())).square().sum()).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == dict(model.named_parameters()).keys()
    return found


def test_dropout_is_for_training_only() -> None:
    model = BLIP("tiny", None)
    ids, words = captions(model)
    first, second = (model.train().encode_text(Words(ids, words)).pooled for _ in range(2))
    assert not torch.allclose(first, second)
    without = BLIP("tiny", None, dropout=0.0).train().encode_text(Words(ids, words)).pooled
    assert_same(model.eval().encode_text(Words(ids, words)).pooled, without)


# --- what a backbone has --------------------------------------------------------------------------------------------


def test_parameters_of_the_real_size() -> None:
    """The counts of salesforce/BLIP's base models, part by part."""
    model = meta("retrieval")
    assert count(model.parameters()) == 223_452_419
    assert count(model.vision.parameters()) == 85_798_656
    assert count(model.text.parameters()) == 137_258_496
    assert (
        count(p for block in model.text.modules() if isinstance(block, BERTBlock) for p in cross(block)) == 28_366_848
    )
    assert count(model.fusion_parameters()) == 28_366_848 + 1_538
    assert count(model.projections()) == 2 * 196_864
    assert count(model.text.embeddings()) == 23_837_184
    assert count(meta("retrieval", image_size=384).parameters()) == 223_452_419 + 291_840
    answering = meta("qa")
    assert count(answering.parameters()) == 360_938_300
    assert count(answering.decoder.parameters()) == 137_881_148


def cross(block: BERTBlock) -> list[nn.Parameter]:
    return [*block.memory_attention.parameters(), *block.ln_cross.parameters()]


@pytest.mark.parametrize("purpose", PURPOSES)
def test_embeddings_and_projections_are_all_outside_the_blocks(purpose: Purpose) -> None:
    model: Any = BLIPS[purpose]("tiny", None)
    loose: list[nn.Parameter] = [*model.embeddings(), *model.vision.ln_post.parameters()]
    if purpose == "retrieval":
        loose += [*model.projections(), *model.itm_head.parameters(), model.temp]
    else:
        decoder = model.decoder
        loose += [*decoder.transform.parameters(), *decoder.ln_head.parameters(), decoder.bias]
    outside = {id(p) for p in loose}
    inside = {id(p) for tower in model.towers.values() for p in tower.stack.parameters()}
    assert len(outside) == len(loose)
    assert not outside & inside
    assert outside | inside == {id(p) for p in model.parameters()}


def test_text_and_fusion_are_one_tower(blip: BLIP) -> None:
    assert list(blip.towers) == ["vision", "text"]
    ids, words = captions(blip)
    before = (
        blip.encode_text(Words(ids, words)).pooled,
        blip.match(*both(ids, words, video_tokens(blip), real_frames())),
    )
    with torch.no_grad():
        bias = blip.towers["text"].blocks[0].attention.out.bias
        bias += torch.randn_like(bias)
    after = (
        blip.encode_text(Words(ids, words)).pooled,
        blip.match(*both(ids, words, video_tokens(blip), real_frames())),
    )
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(before, after, strict=True))


def test_first_token_is_the_one_for_the_mode(qa: Reference) -> None:
    model = qa.ours("qa")
    ids, words = captions(model)
    assert (model.dec_token, model.enc_token, model.sep_token, model.pad_token) == (173, 174, 3, 0)
    other = ids.clone()
    other[:, 0] = 20
    tokens = video_tokens(model)
    states = model.fuse(*both(ids, words, tokens, real_frames()))
    assert torch.equal(model.fuse(*both(other, words, tokens, real_frames())), states)
    assert torch.equal(
        model.decode(Words(other, words), Memory(states, words)), model.decode(Words(ids, words), Memory(states, words))
    )
    assert not torch.allclose(
        model.encode_text(Words(other, words)).pooled, model.encode_text(Words(ids, words)).pooled, atol=1e-3
    )


def test_temperature(blip: BLIP) -> None:
    assert blip.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    blip.logit_scale.backward()
    assert blip.temp.grad is not None
    assert blip.temp.grad.item() == pytest.approx(-1 / 0.07)
    for start, end in ((0.9, 0.5), (1e-6, 0.001), (0.2, 0.2)):
        nn.init.constant_(blip.temp, start)
        blip.limit_logit_scale()
        assert blip.temp.item() == pytest.approx(end)


def test_spec(blip: BLIP) -> None:
    assert (blip.spec.image_size, blip.spec.resize, blip.spec.context_length) == (32, "squash", 20)
    assert blip.spec.mean == CLIP("tiny", None).spec.mean
    assert blip.embed_dim == 12
    assert blip.name == "blip-other"
    assert meta("retrieval").name == "blip-base"


def test_captions_and_questions_are_cleaned_differently() -> None:
    text = ["Left. " * 40 + "up"]
    longest = {}
    for purpose in PURPOSES:
        model = BLIPS[purpose]("tiny", None)
        longest[purpose] = int(model.spec.tokenize(text, 64)[1].sum()) - 2
    assert longest == {"retrieval": 30, "qa": 41}
    assert int(BLIP("tiny", None, caption_words=40).spec.tokenize(text, 64)[1].sum()) - 2 == 40


def test_random_weights_follow_from_their_seed() -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    first, same, other = BLIP("tiny", None), BLIP("tiny", None), BLIP("tiny", None, init_seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.weights == same.weights
    assert first.weights["source"] == "random, seed 0"
    assert first.weights["sha256"] != other.weights["sha256"]


def test_a_method_treats_the_decoder_as_text() -> None:
    plain = sum(len(tower.blocks) for tower in BLIPVQA("tiny", None).towers.values())
    method = AdaptFormer(backbone=BLIPVQA("tiny", None), task=Retrieval(), bottleneck_dim=2, text_adapter="none")
    method.inject(method.backbone)
    adapted = sum(type(block) is not BERTBlock for block in method.backbone.towers["decoder"].blocks)
    assert (plain, adapted) == (12, 0)
    method = AdaptFormer(backbone=BLIPVQA("tiny", None), task=Retrieval(), bottleneck_dim=2, text_adapter="same")
    method.inject(method.backbone)
    assert not any(type(block) is BERTBlock for block in method.backbone.towers["decoder"].blocks)


# --- what is refused ------------------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[UsageError], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_what_a_backbone_has_is_a_part_or_none(tiny_clip: CLIP) -> None:
    answering, ranking = BLIPVQA("tiny", None), BLIP("tiny", None)
    found = {
        type(backbone).__name__: {name for name in CAPABILITIES if getattr(backbone, name) is not None}
        for backbone in (tiny_clip, ranking, answering)
    }
    assert found == {
        "CLIP": {"joint"},
        "BLIP": {"joint", "fusion", "matching"},
        "BLIPVQA": {"fusion", "answers"},
    }
    for backbone, gone in ((answering, ("match", "logit_scale")), (ranking, ("decode", "answer_words", "decoder"))):
        assert not [name for name in gone if hasattr(backbone, name)]


def test_a_head_trains_what_is_behind_the_towers() -> None:
    with pytest.raises(UsageError) as caught:
        BLIPVQA("tiny", None).heads()
    one_line(caught, "blip-tiny", "joint space")


@pytest.mark.parametrize("architecture", ["large", "blip_base", "none.json"])
def test_unknown_architecture(architecture: str) -> None:
    with pytest.raises(UsageError) as caught:
        BLIP(architecture, None)
    one_line(caught, architecture, "base, tiny")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{bad", "[1]", '{"vision_config": {}}', '{"vision_config": {}, "text_config": 1}', "[" * 100_000),
        '{"vision_config": {}, "text_config": {}, "vocabulary": 3}',
        '{"vision_config": {}, "text_config": {}, "vocabulary": null}',
    ],
)
def test_broken_architecture_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        BLIP(str(path), None)
    one_line(caught, str(path))


def test_architecture_without_a_vocabulary_takes_berts(tmp_path: Path) -> None:
    path = write_architecture(tmp_path, {key: value for key, value in CONFIG.items() if key != "vocabulary"})
    with torch.device("meta"):
        tokenizer: Any = BLIP(str(path), None).spec.tokenizer
    assert tokenizer.vocabulary == "bert-base-uncased"
