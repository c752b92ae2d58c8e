from typing import Any

import pytest
import torch

from methods.st_adapter import BeforeMLP, STAdapter
from petl_bench.errors import UsageError
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import UnevenCLIP
from tests.inputs import clips_of
from tests.unit.methods import trials

TEXT = 1_580_544 + 12_288  # AdaptMLP of 128 in 12 blocks of 512, and its input norms
VARIANTS = ["pre_attn", "pre_mlp", "pre_attn_pre_mlp"]


def tiny(**options: Any) -> STAdapter:
    return trials.on_tiny(STAdapter, **{"bottleneck_dim": 16, "text_bottleneck_dim": 8} | options)


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "ViT-B-32-quickgelu"])
@pytest.mark.parametrize(
    ("options", "vision"),
    [
        ({}, 7_110_144),
        ({"positions": "pre_mlp"}, 7_110_144),
        ({"positions": "pre_attn_pre_mlp"}, 14_220_288),
        ({"kernel_size": (3, 3, 3)}, 7_220_736),
    ],
)
def test_counts(architecture: str, options: dict[str, Any], vision: int) -> None:
    counts = trials.on_vit_b(STAdapter, architecture, **options)
    assert (counts["vision"], counts["text"], counts["other"]) == (vision, TEXT, 0)
    counts = trials.on_vit_b(STAdapter, architecture, text_adapter="none", **options)
    assert (counts["vision"], counts["trainable"]) == (vision, vision)


def test_share_of_mv_adapters_baseline() -> None:
    """With CLIP's biases, the 5.93 % of ViT-B/16 in MV-Adapter's tables (arXiv 2301.07868)."""
    trained = trials.on_vit_b(STAdapter)["trainable"] + 171_008
    assert f"{100 * trained / 149_620_737:.2f}" == "5.93"


@pytest.mark.parametrize("positions", VARIANTS)
def test_contract(positions: str) -> None:
    trials.assert_starts_as_plain(tiny(positions=positions))
    trials.assert_last_block_shortcut_exact(tiny(positions=positions))
    trials.assert_copies(tiny(positions=positions))
    trials.assert_runs_in_bf16(tiny(positions=positions))


@pytest.mark.parametrize("positions", VARIANTS)
@pytest.mark.parametrize("kernel_size", [(3, 1, 1), (5, 1, 1), (3, 3, 3)])
def test_padded_frames_change_nothing(positions: str, kernel_size: tuple[int, int, int]) -> None:
    trials.assert_padding_changes_nothing(tiny(positions=positions, kernel_size=kernel_size))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_learns(checkpointing: bool) -> None:
    trials.assert_learns(tiny(), checkpointing)


@pytest.mark.parametrize("positions", ["pre_mlp", "pre_attn_pre_mlp"])
def test_the_last_adapter_before_the_mlp_is_not_read(positions: str) -> None:
    """It changes patches only and the head reads [CLS]: a gradient of zero, and none of the others."""
    method = trials.randomise(tiny(positions=positions))
    video, text = trials.features(method.backbone)
    (video @ text.T).diagonal().sum().backward()
    still = {name for name, p in trials.trainable(method).items() if p.grad is None or not p.grad.any()}
    last = method.backbone.towers["vision"].blocks[-1]
    (before_mlp,) = (module for module in last.modules() if isinstance(module, BeforeMLP))
    names = {id(p): name for name, p in method.named_parameters()}
    assert still == {names[id(p)] for p in before_mlp.adapter.parameters()}


@pytest.mark.parametrize(("extent", "reach"), [(1, 0), (3, 1), (5, 2)])
def test_frames_reach_as_far_as_the_kernel(extent: int, reach: int) -> None:
    """One block: a frame changes those within half the kernel."""
    method = trials.randomise(tiny(kernel_size=(extent, 1, 1)))
    vision = method.backbone.towers["vision"]
    del vision.stack[1:]
    mask = torch.ones(1, 7, dtype=torch.bool)
    changed = trials.clips(1, 7)
    changed[:, 3] += 1
    before, after = (
        method.backbone.encode_video(clips_of(x, mask)).by_frame()[0] for x in (trials.clips(1, 7), changed)
    )
    moved = [i for i in range(7) if (before[i] - after[i]).abs().max() > 1e-6]
    assert moved == list(range(3 - reach, 3 + reach + 1))


@pytest.mark.parametrize("kernel_size", [(2, 1, 1), (3, 0, 1), (3, 1, 4)])
def test_even_kernels_are_refused(kernel_size: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="odd"):
        tiny(kernel_size=kernel_size)


def test_a_tower_without_a_grid_is_refused() -> None:
    backbone = UnevenCLIP()
    backbone.vision.grid = None
    with pytest.raises(UsageError, match="grid of patches"):
        STAdapter(backbone=backbone, task=Retrieval()).adapt()


def test_labels() -> None:
    assert [tiny(positions=p).label for p in VARIANTS] == [
        "ST-Adapter",
        "ST-Adapter (before MLP)",
        "ST-Adapter (before attention and MLP)",
    ]
