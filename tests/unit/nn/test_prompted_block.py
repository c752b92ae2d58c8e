"""Prompts as keys and values against the longer sequence that the papers describe."""

import pytest
import torch
from torch import Tensor

from petl_bench.backbones.clip.model import CLIP
from petl_bench.inputs import Words
from petl_bench.nn.adapter_blocks import PromptedBlock, add_prompts
from petl_bench.nn.transformer import Context, select_row


def by_the_paper(blocks: list[PromptedBlock], x: Tensor) -> Tensor:
    """Prompts in the sequence of every block, replaced in front of the next."""
    for block in blocks:
        count = len(block.prompts)
        longer = torch.cat([x[:, :1], block.prompts.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        longer = block.inner(longer, Context())
        x = torch.cat([longer[:, :1], longer[:, 1 + count :]], dim=1)
    return x


def prompted(kind: str, prompts: int = 3) -> tuple[CLIP, list[PromptedBlock]]:
    torch.manual_seed(0)
    backbone = CLIP("tiny", None)
    add_prompts(backbone.towers[kind], prompts)
    blocks = [block for block in backbone.towers[kind].blocks if isinstance(block, PromptedBlock)]
    for block in blocks:
        torch.nn.init.normal_(block.prompts)
    return backbone, blocks


@pytest.mark.parametrize("kind", ["vision", "text"])
def test_outputs_of_the_longer_sequence(kind: str) -> None:
    backbone, blocks = prompted(kind)
    tower = backbone.towers[kind]
    x = torch.randn(5, 7, tower.width)
    expected = by_the_paper(blocks, x)
    torch.testing.assert_close(tower.run(x, Context()), expected)
    row = torch.tensor([0, 1, 3, 6, 2])
    torch.testing.assert_close(tower.run(x, Context(), row), select_row(expected, row))


def test_masks_leave_prompts_readable() -> None:
    backbone, blocks = prompted("vision")
    x = torch.randn(2, 7, backbone.vision.width)
    keys = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    keys[:, :, :, 5:] = False
    expected = blocks[0](x[:, :5], Context())
    torch.testing.assert_close(blocks[0](x, Context(attention_mask=keys))[:, :5], expected)
    square = keys.expand(2, 1, 7, 7)
    torch.testing.assert_close(blocks[0](x, Context(attention_mask=square))[:, :5], expected)


def test_every_prompt_of_a_causal_tower_is_read_at_the_end_token() -> None:
    backbone, blocks = prompted("text")
    backbone.encode_text(Words(*backbone.spec.tokenize(["a", "a cat runs"], 8))).projected.sum().backward()
    for block in blocks:
        assert block.prompts.grad is not None
        assert bool(block.prompts.grad.abs().amax(-1).gt(0).all())
