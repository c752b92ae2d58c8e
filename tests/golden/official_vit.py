"""Our blocks with the parameters of official vision transformers, found by their official names."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from petl_bench.backbones.clip.model import CLIPBlock
from petl_bench.nn.transformer import Block, Context, Tower
from tests.golden.helpers import Case, assert_gradient

Slots = dict[str, Tensor]  # parameters of ours by official names


def build_block(width: int, heads: int, hidden: int, quick_gelu: bool = False, eps: float = 1e-5) -> CLIPBlock:
    """A block of ours with random weights."""
    from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock

    activation = QuickGELU if quick_gelu else nn.GELU
    native = ResidualAttentionBlock(
        width, heads, hidden / width, act_layer=activation, norm_layer=partial(LayerNorm, eps=eps)
    )
    return CLIPBlock(native, causal=False)


def slots(official: str, module: nn.Module) -> Slots:
    """The parameters of a module whose own names are official too, below the name `official`."""
    prefix = f"{official}." if official else ""
    return {prefix + name: parameter for name, parameter in module.named_parameters()}


def below(official: str, inner: Slots) -> Slots:
    """The same slots below the name `official`."""
    return {f"{official}.{name}": parameter for name, parameter in inner.items()}


def clip_block_slots(block: CLIPBlock) -> Slots:
    """By the names of OpenAI's ResidualAttentionBlock."""
    attention = block.attention
    found = slots("ln_1", block.ln_1) | slots("ln_2", block.ln_2) | slots("attn.out_proj", attention.out)
    found |= {f"attn.in_proj_{name}": parameter for name, parameter in slots("", attention.qkv).items()}
    return found | slots("mlp.c_fc", block.fc) | slots("mlp.c_proj", block.proj)


def timm_block_slots(block: CLIPBlock, mlp: str) -> Slots:
    """By the names of timm's Block, its two linear layers below `mlp`."""
    attention = block.attention
    found = slots("norm1", block.ln_1) | slots("norm2", block.ln_2) | slots("attn.proj", attention.out)
    found |= slots("attn.qkv", attention.qkv)
    return found | slots(f"{mlp}fc1", block.fc) | slots(f"{mlp}fc2", block.proj)


def fuse_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`q_proj`, `k_proj` and `v_proj` as one `qkv`.

    The gradient of a key bias is zero but for round-off, so it is comparable only beside those of queries and values.
    """
    fused = {}
    for name, tensor in tensors.items():
        if ".q_proj." in name:
            parts = [tensors[name.replace(".q_proj.", f".{letter}_proj.")] for letter in "qkv"]
            fused[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            fused[name] = tensor
    return fused


class ViT(nn.Module):
    """Patches and [CLS] of frames, our blocks, the norm and head of the official classifiers."""

    def __init__(
        self, patches: nn.Conv2d, tokens: int, ln_pre: nn.Module, tower: Tower, norm: nn.Module, classes: int
    ) -> None:
        super().__init__()
        width = patches.out_channels
        self.patches, self.ln_pre, self.tower, self.norm = patches, ln_pre, tower, norm
        self.cls = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        self.head = nn.Linear(width, classes)

    def forward(self, frames: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """(B*T, 3, H, W) -> features (B, D) and logits (B, classes)."""
        x = self.patches(frames).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), 1, -1), x], 1) + self.positions
        x = self.tower.run(self.ln_pre(x), context)
        features = self.norm(x[:, 0].unflatten(0, (-1, context.steps)).mean(1))
        return features, self.head(features)


class VisionTower(Tower):
    reads = frozenset({"vision"})


def tower_of(blocks: list[Block], width: int, grid: tuple[int, int]) -> Tower:
    return VisionTower(blocks, width, grid)


def load(found: Slots, case: Case) -> None:
    """Copies the case's parameters in; every one of them and of ours must have its place."""
    fill(found, fuse_qkv(case.group("param")))


def fill(found: Slots, official: Mapping[str, Tensor]) -> None:
    """Copies official tensors in; every one of them and of ours must have its place."""
    assert found.keys() == official.keys()
    with torch.no_grad():
        for name, parameter in found.items():
            parameter.copy_(official[name].view_as(parameter))


def backward(case: Case, **outputs: Tensor) -> None:
    """Gradients of sum(out * cot) over the named outputs."""
    cotangents = case.group("cot")
    assert outputs.keys() == cotangents.keys()
    torch.stack([(output * cotangents[name]).sum() for name, output in outputs.items()]).sum().backward()


def assert_gradients(found: Slots, inputs: dict[str, Tensor], case: Case) -> None:
    """Gradients of all parameters and inputs."""
    ours = found | {f"in.{name}": tensor for name, tensor in inputs.items()}
    expected = fuse_qkv(case.group("grad"))
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        gradient = None if tensor.grad is None else tensor.grad.view_as(expected[name])
        assert_gradient(gradient, expected[name], name)
