from typing import Any

import pytest
import torch

from methods.convpass import ConvBypass, Convpass
from petl_bench.errors import UsageError
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import UnevenCLIP
from tests.unit.methods import trials

VARIANTS = ["convpass", "convpass_attn"]


def tiny(**options: Any) -> Convpass:
    return trials.on_tiny(Convpass, **{"dropout": 0.0, "text_bottleneck_dim": 8} | options)


@pytest.mark.parametrize("architecture", ["ViT-B-16-quickgelu", "ViT-B-32-quickgelu"])
@pytest.mark.parametrize(("variant", "vision"), [("convpass", 327_552), ("convpass_attn", 163_776)])
def test_counts(architecture: str, variant: str, vision: int) -> None:
    counts = trials.on_vit_b(Convpass, architecture, variant=variant)
    assert (counts["vision"], counts["text"], counts["other"]) == (vision, 1_592_832, 0)
    counts = trials.on_vit_b(Convpass, architecture, variant=variant, text_adapter="none")
    assert (counts["vision"], counts["trainable"]) == (vision, vision)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("conv_init", ["identity", "xavier"])
def test_contract(variant: str, conv_init: str) -> None:
    options = {"variant": variant, "conv_init": conv_init}
    trials.assert_starts_as_plain(tiny(**options))
    trials.assert_last_block_shortcut_exact(tiny(**options))
    trials.assert_padding_changes_nothing(tiny(**options))
    trials.assert_copies(tiny(**options))
    trials.assert_runs_in_bf16(tiny(**options))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_learns(variant: str, checkpointing: bool) -> None:
    trials.assert_learns(tiny(variant=variant), checkpointing)


def test_identity_start_passes_channels_on() -> None:
    bypass = ConvBypass(12, 4, 1.0, "identity", 0.0, (3, 5))
    h = torch.randn(2, 4, 3, 5)
    assert torch.equal(bypass.conv(h), h)


def test_cls_is_an_image_of_one_pixel_and_patches_see_their_neighbours() -> None:
    """Against nn.Conv2d on [CLS] as a 1x1 image; a patch reaches the eight around it, never [CLS]."""
    torch.manual_seed(0)
    bypass = ConvBypass(12, 4, 0.5, "xavier", 0.0, (3, 5))
    torch.nn.init.normal_(bypass.up.weight)
    torch.nn.init.normal_(bypass.get_parameter("conv.bias"))
    u = torch.randn(1, 16, 12)
    pixel = bypass.activation(bypass.down(u[:, 0]))[:, :, None, None]
    expected = bypass.up(bypass.activation(bypass.conv(pixel)[:, :, 0, 0])) * 0.5
    torch.testing.assert_close(bypass(u)[:, 0], expected)

    changed = u.clone()
    changed[:, 1 + 7] += 1  # row 1, column 2 of a 3 x 5 grid
    moved = (bypass(u) - bypass(changed))[0].abs().amax(-1) > 1e-6
    neighbours = [1 + 5 * row + column for row in (0, 1, 2) for column in (1, 2, 3)]
    assert moved.nonzero().flatten().tolist() == neighbours


def test_dropout_acts_in_training_only() -> None:
    bypass = ConvBypass(12, 4, 1.0, "identity", 0.5, (2, 2))
    torch.nn.init.normal_(bypass.up.weight)
    u = torch.randn(3, 5, 12)
    assert not torch.equal(bypass(u), bypass(u))
    bypass.eval()
    assert torch.equal(bypass(u), bypass(u))


def test_a_tower_without_a_grid_is_refused() -> None:
    backbone = UnevenCLIP()
    backbone.vision.grid = None
    with pytest.raises(UsageError, match="grid of patches"):
        Convpass(backbone=backbone, task=Retrieval()).adapt()


def test_labels() -> None:
    assert [tiny(variant=v).label for v in VARIANTS] == ["Convpass", "Convpass (attention only)"]
