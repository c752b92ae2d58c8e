"""CLIP: our towers equal open_clip's, the shortcuts are exact, and what does not fit is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from petl_bench.backbones.base import mean_over_frames
from petl_bench.backbones.clip.model import CLIP, find_architecture, tokenizer_of
from petl_bench.bpe import VOCABULARY, clip_tokenize
from petl_bench.errors import UsageError
from petl_bench.inputs import Words
from petl_bench.nn.transformer import Attention
from tests.inputs import clips_of
from tests.unit.backbones.reference import (
    GELU,
    TINY,
    Reference,
    captions,
    make_reference,
    pictures,
    unit,
    write_architecture,
)


@pytest.fixture(scope="module", params=["tiny", "gelu_and_layer_scale"])
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    path = TINY if request.param == "tiny" else write_architecture(folder, request.param, GELU)
    return make_reference(folder, path)


@pytest.fixture
def clip(reference: Reference) -> CLIP:
    return CLIP(reference.architecture, str(reference.weights)).eval()


def clips(backbone: CLIP, videos: int = 2, frames: int = 3) -> Tensor:
    return pictures(videos * frames, backbone.spec.image_size).unflatten(0, (videos, frames))


def mask(videos: int = 2, frames: int = 3) -> Tensor:
    """The last clip has one real frame only."""
    real = torch.ones(videos, frames, dtype=torch.bool)
    real[-1, 1:] = False
    return real


def gradients(model: CLIP, tokens: bool = False) -> dict[str, Tensor]:
    """Of a sum over all features, weighted so that no feature cancels another."""
    model.zero_grad()
    pixels, words = clips_of(clips(model), mask()), Words(*captions(model))
    if tokens:
        video, text = (
            model.encode_video_tokens(pixels).features.by_frame(),
            model.encode_text_tokens(words).features.pooled,
        )
    else:
        video, text = model.encode_video(pixels).by_frame(), model.encode_text(words).pooled
    weights = torch.randn(video.shape[-1], generator=torch.Generator().manual_seed(5))
    (video @ weights).sum().add((text @ weights).sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys() != set()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


# --- equal to open_clip ---------------------------------------------------------------------------------------------


def test_vision_tower_equals_open_clip(reference: Reference, clip: CLIP) -> None:
    frames = clips(clip)
    expected = reference.model.encode_image(frames.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(clip.encode_video(clips_of(frames, mask())).frames, expected, atol=1e-5, rtol=1e-5)


def test_text_tower_equals_open_clip(reference: Reference, clip: CLIP) -> None:
    ids, words = captions(clip, clip.spec.context_length)
    expected = reference.model.encode_text(ids, normalize=True)
    torch.testing.assert_close(clip.encode_text(Words(ids, words)).pooled, expected, atol=1e-5, rtol=1e-5)


def test_spec_is_open_clips(reference: Reference, clip: CLIP) -> None:
    visual = reference.model.visual
    assert (clip.spec.image_size, clip.spec.image_size) == visual.image_size
    assert clip.spec.context_length == reference.model.context_length
    assert clip.spec.mean == visual.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert clip.spec.std == visual.preprocess_cfg["std"] == open_clip.OPENAI_DATASET_STD
    assert clip.spec.resize == "shorter_side_crop"
    assert clip.embed_dim == visual.output_dim


def test_every_parameter_is_taken_over_once(reference: Reference, clip: CLIP) -> None:
    ours = sorted(p.sum().item() for p in clip.parameters())
    assert ours == sorted(p.sum().item() for p in reference.model.parameters())


def test_embeddings_and_projections_are_all_outside_the_blocks(tiny_clip: CLIP) -> None:
    norms = [tiny_clip.vision.ln_post, tiny_clip.text.ln_final]
    outside = {id(p) for p in [*tiny_clip.embeddings(), *tiny_clip.projections(), tiny_clip.logit_scale]}
    outside |= {id(p) for norm in norms for p in norm.parameters()}
    inside = {id(p) for tower in tiny_clip.towers.values() for p in tower.stack.parameters()}
    assert not outside & inside
    assert outside | inside == {id(p) for p in tiny_clip.parameters()}


# --- shortcuts ------------------------------------------------------------------------------------------------------


def test_pooled_row_equals_full_computation(clip: CLIP) -> None:
    pixels = clips_of(clips(clip), mask())
    short, (full, memory) = clip.encode_video(pixels), clip.encode_video_tokens(pixels)
    patches = (clip.spec.image_size // clip.vision.conv1.kernel_size[0]) ** 2
    assert memory.tokens.shape == (2, 3 * (1 + patches), clip.vision.width)
    torch.testing.assert_close(short.frames, full.frames, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(short.pooled, full.pooled, atol=1e-6, rtol=1e-5)


def test_pooled_row_gives_the_same_gradients(clip: CLIP) -> None:
    full = gradients(clip, tokens=True)
    assert_same(gradients(clip), full)
    assert full.keys() == {name for name, _ in clip.named_parameters()} - {"logit_scale"}


def test_text_cut_at_the_last_end_token_equals_full_length(clip: CLIP) -> None:
    ids, words = captions(clip, clip.spec.context_length)
    cut, (full, tokens) = clip.encode_text(Words(ids, words)), clip.encode_text_tokens(Words(ids, words))
    assert tokens.shape == (*ids.shape, clip.text.width)
    torch.testing.assert_close(cut.pooled, full.pooled, atol=1e-6, rtol=1e-5)


def test_a_smaller_vocabulary_spells_words_in_more_pieces() -> None:
    texts = ["a photograph of <|endoftext|>!", "żółw 🐢"]
    ids, words = clip_tokenize(texts, 77)
    fewer, more_words = tokenizer_of(1000)(texts, 77)
    assert fewer.max() == 999 == fewer[0, more_words[0].sum() - 1], "the end token has the highest id"
    assert (fewer[:, 0] == 998).all()
    assert (more_words.sum(1) >= words.sum(1)).all()
    assert more_words.sum() > words.sum()
    assert torch.equal(clip_tokenize(texts, 77)[0], ids), "nothing is shared with the whole vocabulary"


@pytest.mark.parametrize("vocabulary", [40, 513, VOCABULARY + 1])
def test_a_vocabulary_that_the_tokenizer_cannot_have_is_refused_when_texts_are_read(vocabulary: int) -> None:
    tokenizer = tokenizer_of(vocabulary)
    with pytest.raises(UsageError, match=rf"text_cfg.vocab_size {vocabulary}: CLIP's tokenizer has 514 .*to 49408"):
        tokenizer(["a cat"], 77)


def test_text_is_cut_at_the_longest_caption(tiny_clip: CLIP) -> None:
    lengths: list[int] = []
    first = tiny_clip.text.blocks[0]
    handle = first.register_forward_hook(lambda _module, args, _out: lengths.append(args[0].shape[1]))
    ids, words, _ = tiny_clip.spec.tokenize(["a cat", "a dog runs"], 32)
    tiny_clip.encode_text(Words(ids, words))
    handle.remove()
    assert lengths == [int(words.sum(1).max())] == [5]


def test_what_follows_the_end_token_changes_nothing(tiny_clip: CLIP) -> None:
    ids, words = captions(tiny_clip)
    expected = tiny_clip.encode_text(Words(ids, words)).pooled
    other = ids.masked_fill(~words, 77)
    torch.testing.assert_close(tiny_clip.encode_text(Words(other, words)).pooled, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_one_row_equals_that_row_of_all(causal: bool, masked: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(12, 3, causal)
    x = torch.randn(4, 5, 12)
    keys = torch.tensor([True, True, False, True, True])[None, None, None].expand(4, 1, 1, 5) if masked else None
    row = torch.tensor([0, 4, 1, 3])
    expected = attention(x, keys)[torch.arange(4), row][:, None]
    torch.testing.assert_close(attention(x, keys, row), expected)


def test_causal_attention_with_a_mask_reads_neither_later_nor_masked_tokens() -> None:
    torch.manual_seed(0)
    attention = Attention(12, 3, causal=True)
    x = torch.randn(1, 5, 12)
    keys = torch.tensor([True, False, True, True, True])[None, None, None]
    other = x.clone()
    other[:, [1, 4]] += 1.0
    torch.testing.assert_close(attention(x, keys)[:, [0, 2, 3]], attention(other, keys)[:, [0, 2, 3]])


def test_gradient_checkpointing_gives_the_same_gradients(clip: CLIP) -> None:
    expected = gradients(clip)
    clip.set_gradient_checkpointing(True)
    calls = count_calls(clip.vision.blocks[0].attention)
    assert_same(gradients(clip), expected)
    assert len(calls) == 2  # once forward, once again for the backward pass


def test_gradient_checkpointing_is_an_argument(clip: CLIP) -> None:
    assert [tower.checkpointing for tower in clip.towers.values()] == [False, False]
    checkpointed = CLIP("tiny", None, gradient_checkpointing=True)
    assert [tower.checkpointing for tower in checkpointed.towers.values()] == [True, True]


def count_calls(module: nn.Module) -> list[None]:
    calls: list[None] = []
    module.register_forward_pre_hook(lambda *_: calls.append(None))
    return calls


# --- frames ---------------------------------------------------------------------------------------------------------


def test_normalise_scales_bytes_and_leaves_floats(tiny_clip: CLIP) -> None:
    frames = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tiny_clip.spec.mean, tiny_clip.spec.std))
    torch.testing.assert_close(tiny_clip.normalise(frames), (frames / 255 - mean) / std)
    floats = torch.randn(2, 3, 4, 4)
    assert tiny_clip.normalise(floats) is floats


def test_bytes_and_normalised_floats_give_the_same_features(tiny_clip: CLIP) -> None:
    size = tiny_clip.spec.image_size
    frames = torch.randint(256, (2, 3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    from_bytes = tiny_clip.encode_video(clips_of(frames, mask())).pooled
    torch.testing.assert_close(from_bytes, tiny_clip.encode_video(clips_of(tiny_clip.normalise(frames), mask())).pooled)


def test_mean_over_frames_by_hand() -> None:
    frames = torch.tensor([[[3.0, 4.0], [0.0, 2.0], [9.0, 9.0]], [[0.0, 5.0], [1.0, 1.0], [1.0, 1.0]]])
    real = torch.tensor([[True, True, False], [True, False, False]])
    mean = torch.tensor([(0.6 + 0.0) / 2, (0.8 + 1.0) / 2])  # of (0.6, 0.8) and (0, 1)
    torch.testing.assert_close(mean_over_frames(frames, real), torch.stack([unit(mean), torch.tensor([0.0, 1.0])]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_over_frames_is_equal_to_the_bit_in_any_order(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    frames, real = torch.randn(16, 12, 64, generator=generator, dtype=dtype), torch.ones(16, 12, dtype=torch.bool)
    found = mean_over_frames(frames, real)
    for _ in range(8):
        assert torch.equal(mean_over_frames(frames[:, torch.randperm(12, generator=generator)], real), found)


def test_mean_over_frames_ignores_what_padding_holds() -> None:
    frames = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    spoilt = frames.clone()
    spoilt[~mask()] = float("nan")
    torch.testing.assert_close(mean_over_frames(spoilt, mask()), mean_over_frames(frames, mask()))
    assert mean_over_frames(frames, torch.zeros(2, 3, dtype=torch.bool)).isnan().all()


def test_image_size_interpolates_positions(reference: Reference) -> None:
    own = CLIP(reference.architecture, str(reference.weights))
    patch = own.vision.conv1.kernel_size[0]
    larger = CLIP(reference.architecture, str(reference.weights), image_size=own.spec.image_size + 2 * patch)
    grid, side = own.vision.grid, own.spec.image_size // patch
    assert grid == (side, side)
    assert larger.spec.image_size == own.spec.image_size + 2 * patch
    assert larger.vision.grid == (side + 2, side + 2)
    before, after = own.vision.positional_embedding, larger.vision.positional_embedding
    assert torch.equal(before[0], after[0])  # [CLS]
    patches = before[1:].unflatten(0, (side, side)).permute(2, 0, 1)[None]
    resized = nn.functional.interpolate(patches, (side + 2, side + 2), mode="bicubic", antialias=True)
    torch.testing.assert_close(after[1:], resized[0].permute(1, 2, 0).flatten(0, 1))
    assert larger.encode_video(clips_of(clips(larger), mask())).pooled.isfinite().all()


@pytest.mark.parametrize(("start", "end"), [(5.0, 4.60517), (2.0, 2.0), (-1.0, -1.0)])
def test_logit_scale_is_limited_from_above(start: float, end: float) -> None:
    clip = CLIP("tiny", None)
    nn.init.constant_(clip.logit_scale, start)
    clip.limit_logit_scale()
    assert clip.logit_scale.item() == pytest.approx(end)
    assert clip.logit_scale.requires_grad


# --- what is refused ------------------------------------------------------------------------------------------------


def assert_refused(architecture: str, *words: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError) as caught:  # meta: refused architectures cost no memory
        CLIP(architecture, None)
    message = str(caught.value)
    assert "\n" not in message
    for word in (architecture, *words):
        assert word in message


def test_unknown_architecture_suggests_close_names() -> None:
    assert_refused("ViT-B16", "unknown", "ViT-B-16")


@pytest.mark.parametrize("architecture", ["hf-hub:someone/model", "https://host/model.json", "local-dir:somewhere"])
def test_address_as_architecture_is_refused(architecture: str) -> None:
    assert_refused(architecture)


@pytest.mark.parametrize(
    "architecture", ["RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32", "convnext_base", "ViT-H-14-CLIPA"]
)
def test_other_towers_are_refused(architecture: str) -> None:
    assert_refused(architecture, "ViT-*")


@pytest.mark.parametrize("text", ["", "{bad", "[1]", '{"embed_dim": 8}', "\xff", "[" * 100_000])
def test_broken_architecture_file_is_refused_and_forgotten(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(text.encode("latin-1"))
    assert_refused(str(path))
    with torch.device("meta"):
        assert CLIP("tiny", None).name == "clip-tiny"  # open_clip reads all registered files again


OTHER_TYPES: list[Any] = [[], "x", 3.5, -1, 0, {"a": [1]}]


@pytest.mark.parametrize("value", OTHER_TYPES)
@pytest.mark.parametrize(
    "key", ["embed_dim", "vision_cfg", "text_cfg", "vision_cfg.layers", "text_cfg.width", "text_cfg.heads"]
)
def test_architecture_with_a_value_of_another_type(key: str, value: Any, tmp_path: Path) -> None:
    config: dict[str, Any] = copy.deepcopy(find_architecture("tiny")[0])
    section, _, name = key.rpartition(".")
    (config[section] if section else config)[name] = value
    path = tmp_path / f"other_{key}_{OTHER_TYPES.index(value)}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    told = path.stem
    try:
        with torch.device("meta"):
            CLIP(str(path), None)
    except UsageError as error:
        told = str(error)
    assert path.stem in told
    assert "\n" not in told


@pytest.mark.parametrize("max_words", [2, 17])
def test_max_words_outside_the_context_is_refused(max_words: int, tmp_path: Path) -> None:
    with torch.device("meta"):
        clip = CLIP(str(write_architecture(tmp_path, "short_context", GELU)), None)
    with pytest.raises(UsageError, match=f"max_words is {max_words}: .* 3 to 16"):
        clip.spec.tokenize(["a cat"], max_words)


# --- random weights -------------------------------------------------------------------------------------------------


def test_random_weights_follow_from_their_seed(tiny_clip: CLIP) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    same, other = CLIP("tiny", None), CLIP("tiny", None, init_seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same.weights == tiny_clip.weights
    assert same.weights["source"] == "random, seed 0"
    assert same.weights["sha256"] != other.weights["sha256"]
    for name, value in same.state_dict().items():
        assert torch.equal(value, tiny_clip.state_dict()[name])


def test_name_is_for_folders() -> None:
    with torch.device("meta"):
        assert CLIP("ViT-B-16-quickgelu", None).name == "clip-vit-b-16-quickgelu"


def test_copies_share_nothing(tiny_clip: CLIP) -> None:
    twin = copy.deepcopy(tiny_clip)
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in tiny_clip.parameters()}
