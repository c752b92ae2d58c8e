import copy
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from methods.mv_adapter import (
    AdaptedBlock,
    Calibration,
    DownUp,
    Factor,
    FactorLinear,
    Kronecker,
    KroneckerLinear,
    MVAdapter,
    TextAdapter,
    Untied,
    VideoAdapter,
)
from petl_bench.backbones.clip.model import CLIP
from petl_bench.errors import UsageError
from petl_bench.inputs import Words
from petl_bench.nn.transformer import Context, Tower
from petl_bench.storage.adapters import Adapter, read_adapter, write_adapter
from petl_bench.tasks.base import present
from petl_bench.tasks.losses import contrastive_loss
from petl_bench.tasks.retrieval import Retrieval
from tests.inputs import clips_of

FRAMES, WORDS = 4, 10
TYINGS: list[dict[str, Any]] = [
    {"tying": Kronecker()},
    {"tying": Factor()},
    {"tying": Factor("up_out", layers=1)},
    {"tying": Untied()},
]
SMALL: dict[str, Any] = {"bottleneck_dim": 8, "max_frames": FRAMES, "max_words": WORDS}


def small_clip(folder: Path, vision_layers: int = 2, text_layers: int = 2) -> CLIP:
    """A CLIP with towers of unequal width: 32 and 24."""
    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "layers": vision_layers, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 50, "width": 24, "heads": 2, "layers": text_layers},
    }
    path = folder / "small.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return CLIP(str(path), None)


def adapted(backbone: CLIP, **options: Any) -> MVAdapter:
    torch.manual_seed(0)
    method = MVAdapter(backbone=backbone, task=Retrieval(), **SMALL | options)
    method.adapt()
    return method


def adapters(tower: Tower) -> list[DownUp]:
    blocks = tower.blocks
    return [block.adapter for block in blocks if isinstance(block, AdaptedBlock)]


def shake(module: nn.Module) -> None:
    """Moves every parameter away from its start, so that nothing is zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def video(batch: int = 3) -> tuple[Tensor, Tensor]:
    """Normalised frames (B, T, 3, 16, 16) and a ragged mask."""
    mask = torch.arange(FRAMES) < torch.tensor([FRAMES, 2, 1])[:batch, None]
    return torch.randn(batch, FRAMES, 3, 16, 16), mask


def captions() -> tuple[Tensor, Tensor]:
    """Captions of lengths 8, 4 and 6; 49 is the end token."""
    lengths = torch.tensor([8, 4, 6])
    ids = torch.randint(1, 48, (3, WORDS)).where(torch.arange(WORDS) < lengths[:, None], 0)
    ids[torch.arange(3), lengths - 1] = 49
    return ids, torch.arange(WORDS) < lengths[:, None]


def step_loss(method: MVAdapter) -> Tensor:
    backbone = method.backbone
    text = backbone.encode_text(Words(*captions())).pooled
    scale = present(backbone.joint).logit_scale.exp()
    return contrastive_loss(text, backbone.encode_video(clips_of(*video())).pooled, scale)


# --- parameter counts: the official modules' and the paper's percentages -----------------------------------------

MSRVTT = {"max_frames": 12, "max_words": 32}
LONG = {"max_frames": 32, "max_words": 64}
COUNTS = {
    "msrvtt": ("16", MSRVTT | {"tying": Factor(layers=2)}, 3_572_736),
    "msrvtt-b32": ("32", MSRVTT | {"tying": Factor(layers=2)}, 3_572_736),
    "msrvtt-adapters-only": ("16", MSRVTT | {"tying": Factor(), "tune_backbone_bias": False}, 3_401_728),
    "lsmdc": ("16", MSRVTT | {"tying": Factor(layers=3)}, 3_615_008),
    "didemo": ("16", LONG | {"tying": Factor(layers=2)}, 3_628_032),
    "anet": ("16", LONG | {"tying": Factor(layers=1)}, 3_585_760),
    "msrvtt-released": ("16", MSRVTT | {"tying": Factor("down_out")}, 3_496_704),
    "didemo-released": ("16", LONG | {"tying": Factor("down_out")}, 3_552_000),
    "anet-released": ("16", LONG | {"tying": Factor(layers=1), "ln_in": True}, 3_616_480),
    "large": ("L", MSRVTT | {"tying": Factor(), "bottleneck_dim": 128}, 17_002_176),
    "untied": ("16", MSRVTT | {"tying": Untied()}, 1_897_920 + 1_419_264 + 171_008),
    "biases": ("16", MSRVTT | {"tying": Untied(), "tune_backbone_bias": False}, 1_897_920 + 1_419_264),
    "no-calibration": ("16", MSRVTT | {"tying": Untied(), "components": "trm"}, 3_488_192 - 12 * 7_248),
    "video-only": ("16", MSRVTT | {"tying": Untied(), "branches": "video"}, 1_897_920 + 171_008),
    "text-only": ("16", MSRVTT | {"tying": Untied(), "branches": "text"}, 1_419_264 + 171_008),
    "down-up": (
        "16",
        MSRVTT | {"tying": Untied(), "components": "down_up"},
        12 * (49_216 + 49_920 + 32_832 + 33_280) + 171_008,
    ),
    "kronecker": ("16", MSRVTT, 3_488_192 - 12 * (49_152 + 32_768) + 12 * (64 + 12_288 + 8_192)),
    "kronecker-2": ("16", MSRVTT | {"tying": Kronecker(2)}, 3_488_192 - 6 * (49_152 + 32_768) + 12 * 8),
}
ARCHITECTURES = {"16": "ViT-B-16-quickgelu", "32": "ViT-B-32-quickgelu", "L": "ViT-L-14-quickgelu"}
TOTALS = {"16": 149_620_737, "32": 151_277_313, "L": 427_616_513}


@pytest.fixture(scope="module")
def clips() -> dict[str, CLIP]:
    with torch.device("meta"):
        return {size: CLIP(name, None) for size, name in ARCHITECTURES.items()}


@pytest.mark.parametrize("row", COUNTS)
def test_counts_at_published_size(row: str, clips: dict[str, CLIP]) -> None:
    size, options, expected = COUNTS[row]
    with torch.device("meta"):
        method = MVAdapter(backbone=copy.deepcopy(clips[size]), task=Retrieval(), **options)
        method.adapt()
    counts = method.parameter_counts()
    assert counts["trainable"] == expected
    assert counts["vision"] + counts["text"] == expected
    assert sum(p.numel() for p in clips[size].parameters()) == TOTALS[size]


def test_published_percentages() -> None:
    shares = {"msrvtt": 2.39, "lsmdc": 2.42, "didemo": 2.42, "anet": 2.40}
    assert {row: round(100 * COUNTS[row][2] / TOTALS["16"], 2) for row in shares} == shares


# --- tied layers ----------------------------------------------------------------------------------------------------


def test_kronecker_weight_is_the_sum_of_products() -> None:
    plain = nn.Linear(12, 8)
    layer = KroneckerLinear(plain, nn.Parameter(torch.randn(4, 4, 4)), 0.1)
    expected = sum((torch.kron(a, b) for a, b in zip(layer.shared, layer.own, strict=True)), torch.zeros(8, 12))
    torch.testing.assert_close(layer.weight, expected)
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(layer(x), x @ expected.T + plain.bias)


def test_kronecker_weight_starts_as_wide_as_the_plain_one(tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path))
    for kind, expected in (("vision", (3 * 32) ** -0.5), ("text", (2 * 24) ** -0.5)):
        (adapter, *_) = adapters(method.backbone.towers[kind])
        assert isinstance(adapter.down, KroneckerLinear)
        plain = nn.Linear(512, 512)
        layers = [KroneckerLinear(plain, nn.Parameter(torch.randn(4, 4, 4) / 2), adapter.down_std) for _ in range(20)]
        assert torch.stack([layer.weight for layer in layers]).std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("side", ["in", "out"])
def test_factor_scales_channels_by_its_projection(side: Literal["in", "out"]) -> None:
    plain = nn.Linear(6, 5)
    layer = FactorLinear(plain, nn.Parameter(torch.randn(3)), side)
    scale = layer.projection(layer.factor)
    x = torch.randn(4, 6)
    product = (x * scale) @ plain.weight.T if side == "in" else (x @ plain.weight.T) * scale
    torch.testing.assert_close(layer(x), product + plain.bias)


def test_factor_starts_at_zero_so_the_scale_starts_at_the_bias(tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path), tying=Factor(layers=1))
    first, last = adapters(method.backbone.towers["vision"])
    assert isinstance(first.down, nn.Linear)
    assert isinstance(last.down, FactorLinear)
    assert not last.down.factor.any()
    assert last.down.projection.bias.any()


@pytest.mark.parametrize("options", [{"tying": Kronecker()}, {"tying": Factor()}])
def test_shared_tensor_is_one_everywhere(options: dict[str, Any], tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path, vision_layers=3, text_layers=2), **options)

    def shared(owner: MVAdapter) -> list[tuple[Tensor, Tensor]]:
        name = "shared" if isinstance(options["tying"], Kronecker) else "factor"
        vision, text = (adapters(owner.backbone.towers[kind])[-2:] for kind in ("vision", "text"))
        return [(getattr(v.down, name), getattr(t.down, name)) for v, t in zip(vision, text, strict=True)]

    pairs = shared(method)
    assert len(pairs) == 2
    assert all(vision is text for vision, text in pairs)
    assert pairs[0][0] is not pairs[1][0]
    assert all(vision is text for vision, text in shared(copy.deepcopy(method)))
    # The first vision layer has no partner.
    assert isinstance(adapters(method.backbone.towers["vision"])[0].down, nn.Linear)

    optimised = [entry.parameter for entry in method.trainable_parameters()]
    file = tmp_path / "adapter.safetensors"
    write_adapter(file, Adapter(method.trained_state(), method.identity()))
    saved = read_adapter(file)
    for vision, _ in pairs:
        assert sum(parameter is vision for parameter in optimised) == 1
        assert sum(tensor.data_ptr() == vision.data_ptr() for tensor in method.trained_state().values()) == 1
    assert sum(tensor.numel() for tensor in saved.tensors.values()) == method.parameter_counts()["trainable"]

    shake(method.backbone)
    changed = [vision.clone() for vision, _ in pairs]
    method.load_trained_state(saved, str(file))
    for (vision, text), other in zip(shared(method), changed, strict=True):
        assert vision is text
        assert not torch.equal(vision, other)


# --- before training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [*TYINGS, {"tying": Untied(), "components": "down_up"}, {"ln_in": True}])
def test_outputs_before_training_are_the_backbones(options: dict[str, Any], tmp_path: Path) -> None:
    backbone = small_clip(tmp_path)
    frames, mask = video()
    pixels, words = clips_of(frames, mask), Words(*captions())
    plain = backbone.encode_video_tokens(pixels), backbone.encode_text_tokens(words)
    method = adapted(backbone, **options)
    ours = method.backbone.encode_video_tokens(pixels), backbone.encode_text_tokens(words)
    for before, after in zip(plain, ours, strict=True):
        assert torch.equal(before.features.pooled, after.features.pooled)
    assert torch.equal(plain[0].memory.tokens, ours[0].memory.tokens)
    assert torch.equal(plain[1].tokens, ours[1].tokens)


def test_calibration_starts_at_one() -> None:
    calibration = Calibration(8, 4)
    alpha = calibration(torch.randn(2, 3, 8), torch.randn(2, 8), torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(alpha, torch.ones(2, 3, 8))


def test_only_up_projections_and_biases_get_a_first_gradient(tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path))
    step_loss(method).backward()
    up = {id(p) for tower in method.backbone.towers.values() for a in adapters(tower) for p in a.up.parameters()}
    for entry in method.trainable_parameters():
        assert entry.parameter.grad is not None, entry.name
        assert bool(entry.parameter.grad.any()) == (entry.pretrained or id(entry.parameter) in up), entry.name


def test_starting_deviations() -> None:
    width, m = 768, 64
    torch.manual_seed(0)
    adapter = VideoAdapter(width, m, 0.1, False, 2, 12, 16)
    text = TextAdapter(512, m, 0.1, False, 2, 32, causal=True)
    qkv = adapter.mixer.trm.attention.qkv
    assert isinstance(qkv, nn.Linear)
    expected = [
        (adapter.down.weight, (3 * width) ** -0.5),
        (qkv.weight, width**-0.5),
        (adapter.mixer.trm.attention.out.weight, (2 * width) ** -0.5),
        (adapter.mixer.trm.fc.weight, (2 * width) ** -0.5),
        (adapter.mixer.trm.proj.weight, (2 * width) ** -0.5),
        (adapter.mixer.positions, 0.01),
        (text.down.weight, 2**-5),
        (text.mixer.trm.fc.weight, 2**-5),
    ]
    for tensor, std in expected:
        assert tensor.std().item() == pytest.approx(std, rel=0.05)
    assert adapter.cc.std().item() == pytest.approx(m**-0.5, rel=0.3)
    for zero in (qkv.bias, adapter.mixer.trm.attention.out.bias, adapter.down.bias, adapter.up.weight, adapter.up.bias):
        assert not zero.any()


# --- what depends on what -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", TYINGS)
def test_content_of_padded_frames_changes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path), **options)
    shake(method.backbone)
    frames, mask = video()
    other = torch.where(mask[:, :, None, None, None], frames, torch.randn_like(frames))
    with torch.no_grad():
        one, two = (method.backbone.encode_video(clips_of(x, mask)) for x in (frames, other))
    assert torch.equal(one.pooled, two.pooled)
    assert torch.equal(one.by_frame()[mask], two.by_frame()[mask])


def moved(adapter: DownUp, h: Tensor, context: Context, row: int) -> Tensor:
    """Which outputs (rows, tokens) change when all tokens of one row do."""
    other = h.clone()
    other[row] += torch.randn_like(other[row])
    return (adapter(h, context) != adapter(other, context)).any(-1)


def test_patches_depend_on_their_frame_and_cls_on_all_real_frames() -> None:
    adapter = VideoAdapter(32, 8, 0.1, False, 2, FRAMES, 4)
    shake(adapter)
    _, mask = video()
    h = torch.randn(3 * FRAMES, 5, 32)
    context = Context(steps=FRAMES, step_mask=mask)
    for row in range(len(h)):
        changed = moved(adapter, h, context, row)
        own = torch.arange(len(h)) == row
        assert torch.equal(changed[:, 1:], own[:, None].expand(-1, 4))
        clip, frame = divmod(row, FRAMES)
        same_clip = torch.arange(len(h)) // FRAMES == clip
        assert torch.equal(changed[:, 0], same_clip if mask[clip, frame] else own)


def test_text_adapter_is_causal_and_exact_on_cut_captions() -> None:
    adapter = TextAdapter(24, 8, 0.1, False, 2, WORDS, causal=True)
    shake(adapter)
    h = torch.randn(2, WORDS, 24)
    whole = adapter(h, Context())
    for length in range(1, WORDS):
        torch.testing.assert_close(adapter(h[:, :length], Context()), whole[:, :length], rtol=1e-5, atol=1e-6)


def test_text_features_do_not_depend_on_the_cut(tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path))
    shake(method.backbone)
    ids, mask = captions()
    cut = method.backbone.encode_text(Words(ids, mask))
    whole = method.backbone.encode_text_tokens(Words(ids, mask)).features
    torch.testing.assert_close(cut.pooled, whole.pooled, rtol=1e-5, atol=1e-6)


def test_text_adapter_reads_both_ways_but_no_padding_where_its_tower_does() -> None:
    adapter = TextAdapter(24, 8, 0.1, False, 2, WORDS, causal=False)
    shake(adapter)
    _, mask = captions()
    h = torch.randn(3, WORDS, 24)
    context = Context(attention_mask=mask[:, None, None])
    padded = torch.where(mask[..., None], h, torch.randn_like(h))
    assert torch.equal(adapter(h, context)[mask], adapter(padded, context)[mask])
    last_word = h.clone()
    last_word[0, 7] += 1
    assert (adapter(h, context) != adapter(last_word, context))[0, 0].any()


def test_frames_without_a_mask_are_all_real() -> None:
    adapter = VideoAdapter(32, 8, 0.1, False, 2, FRAMES, 4)
    shake(adapter)
    h = torch.randn(2 * FRAMES, 5, 32)
    every = torch.ones(2, FRAMES, dtype=torch.bool)
    assert torch.equal(adapter(h, Context(FRAMES)), adapter(h, Context(FRAMES, every)))


def test_too_many_frames_or_words_are_refused(tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path), max_frames=3, max_words=7)
    with pytest.raises(UsageError, match=r"4 frames given.* for 3: set model.init_args.max_frames"):
        method.backbone.encode_video(clips_of(*video()))
    with pytest.raises(UsageError, match=r"8 words given.* for 7: set model.init_args.max_words"):
        method.backbone.encode_text(Words(*captions()))


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *TYINGS,
        {"ln_in": True},
        {"components": "trm"},
        {"components": "down_up"},
        {"tying": Untied(), "branches": "video"},
        {"tying": Untied(), "branches": "text", "tune_backbone_bias": False},
    ],
)
def test_every_trainable_tensor_learns_and_nothing_else_does(options: dict[str, Any], tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path), **options)
    trainable = method.trainable_parameters()
    optimizer = torch.optim.AdamW([entry.parameter for entry in trainable], lr=1e-2)
    # The first step moves W_u, the second what is before it, the third what those start at zero for.
    for _ in range(3):
        optimizer.zero_grad()
        step_loss(method).backward()
        optimizer.step()
    for entry in trainable:
        assert entry.parameter.grad is not None, entry.name
        assert entry.parameter.grad.any(), entry.name
    assert all(p.grad is None for p in method.parameters() if not p.requires_grad)
    assert any(entry.pretrained for entry in trainable) == method.tune_backbone_bias


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path))
    shake(method.backbone)
    gradients = []
    for enabled in (False, True):
        method.backbone.set_gradient_checkpointing(enabled)
        method.zero_grad()
        torch.manual_seed(1)
        step_loss(method).backward()
        gradients.append([entry.parameter.grad for entry in method.trainable_parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("options", TYINGS)
def test_bf16_autocast_stays_near_fp32(options: dict[str, Any], tmp_path: Path) -> None:
    method = adapted(small_clip(tmp_path), **options)
    frames, mask = video()
    ids, text_mask = captions()

    def features() -> tuple[Tensor, Tensor]:
        return method.backbone.encode_video(clips_of(frames, mask)).pooled, method.backbone.encode_text(
            Words(ids, text_mask)
        ).pooled

    with torch.no_grad():
        exact = features()
        with torch.autocast("cpu", torch.bfloat16):
            rounded = features()
    for one, two in zip(exact, rounded, strict=True):
        assert torch.cosine_similarity(one, two.float()).min() > 0.99


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "MV-Adapter (Kronecker)"),
        ({"tying": Factor()}, "MV-Adapter (CVPR'24 factor)"),
        ({"tying": Factor("down_out")}, "MV-Adapter (CVPR'24 factor, Down-Out)"),
        ({"tying": Untied()}, "MV-Adapter (untied)"),
        ({"components": "trm", "tying": Untied()}, "MV-Adapter (untied, no calibration)"),
        ({"components": "down_up", "tying": Untied()}, "MV-Adapter (untied, Down&Up only)"),
        ({"tying": Untied(), "branches": "text"}, "MV-Adapter (untied, text branch only)"),
        ({"ln_in": True, "tune_backbone_bias": False}, "MV-Adapter (Kronecker, input norm, frozen biases)"),
    ],
)
def test_variants_have_names_of_their_own(options: dict[str, Any], label: str, tmp_path: Path) -> None:
    assert MVAdapter(backbone=small_clip(tmp_path), task=Retrieval(), **options).label == label


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branches": "video"}, "tying Kronecker joins both: set tying Untied"),
        ({"heads": 3}, "heads is 3: it must divide bottleneck_dim 8"),
        ({"tying": Kronecker(3)}, "tying.terms is 3: it must divide bottleneck_dim 8"),
        ({"tying": Kronecker(16), "bottleneck_dim": 16}, "tying.terms is 16: it must divide a tower's width 24"),
        ({"tying": Factor(layers=3)}, "tying.layers is 3: this backbone has 1 to 2 layers to tie"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        adapted(small_clip(tmp_path), **options)
