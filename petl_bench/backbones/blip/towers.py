"""BLIP's towers: our blocks with the parameters of transformers' layers."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from petl_bench.nn.mixed_precision import taken_over
from petl_bench.nn.transformer import Attention, Block, Context, CrossAttention, Place, PreNormBlock, Role, Tower


class BERTBlock(Block):
    """A post-norm BERT layer with cross-attention.

    a = LN1(x + Attention(x)); c = LNc(a + CrossAttention(a, memory)), or a where there is no memory;
    z = LN2(c + MLP(c)). Built from a transformers `BlipTextLayer`, whose parameters it takes over.

    Args:
        native: the layer.
        causal: a token reads only itself and those before it.
        dropout: of attention weights and of each branch, in training only.
    """

    token_wise = True

    def __init__(self, native: Any, causal: bool, dropout: float) -> None:
        super().__init__()
        own, cross = native.attention.self, native.crossattention.self
        width, heads = own.query.in_features, own.num_attention_heads
        with torch.device("meta"):  # their own weights are not wanted: no memory, and no draw from the generator
            self.self_attention = Attention(width, heads, causal, dropout)
            self.memory_attention = CrossAttention(width, cross.key.in_features, heads, dropout)
        self.self_attention.qkv = _fused(own.query, own.key, own.value)
        self.self_attention.out = native.attention.output.dense
        self.ln_1 = taken_over(native.attention.output.LayerNorm)
        self.memory_attention.query = cross.query
        self.memory_attention.key_value = _fused(cross.key, cross.value)
        self.memory_attention.out = native.crossattention.output.dense
        self.ln_cross = taken_over(native.crossattention.output.LayerNorm)
        self.fc = native.intermediate.dense
        self.activation = native.intermediate.intermediate_act_fn
        self.proj = native.output.dense
        self.ln_2 = taken_over(native.output.LayerNorm)
        self.dropout = nn.Dropout(dropout)

    @property
    def attention(self) -> Attention:
        return self.self_attention

    @property
    def cross_attention(self) -> CrossAttention:
        return self.memory_attention

    @property
    def linears(self) -> dict[Role, Place]:
        feed_forward: dict[Role, Place] = {"up": Place(self, "fc"), "down": Place(self, "proj")}
        return self.self_attention.linears | feed_forward

    @property
    def norms(self) -> list[nn.Module]:
        return [self.ln_1, self.ln_cross, self.ln_2]

    def attention_norm(self, x: Tensor) -> Tensor:
        return x

    def feed_forward_norm(self, x: Tensor) -> Tensor:
        return x

    def attend(self, x: Tensor, context: Context, row: Tensor | None = None) -> Tensor:
        return self.dropout(self.self_attention(x, context.attention_mask, row, context.positions))

    def cross_attend(self, x: Tensor, context: Context) -> Tensor | None:
        return None if context.memory is None else self.dropout(self.memory_attention(x, context.memory))

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.dropout(self.proj(self.activated(lambda x: self.activation(self.fc(x)), x)))

    def after_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.ln_1(x + branch)

    def after_cross_attention(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.ln_cross(x + branch)

    def after_feed_forward(self, x: Tensor, branch: Tensor) -> Tensor:
        return self.ln_2(x + branch)


class BLIPVisionTower(Tower):
    """Patches and a [CLS] token of each frame; frames do not interact."""

    reads = frozenset({"vision"})

    def __init__(self, vision: Any) -> None:
        blocks = [_vision_block(layer) for layer in vision.encoder.layers]
        side = vision.config.image_size // vision.config.patch_size
        super().__init__(blocks, vision.config.hidden_size, (side, side))
        self.patch_embedding = vision.embeddings.patch_embedding
        self.class_embedding = vision.embeddings.class_embedding
        self.positional_embedding = vision.embeddings.position_embedding
        self.ln_post = taken_over(vision.post_layernorm)

    def outer_norms(self) -> list[nn.Module]:
        return [self.ln_post]

    def embed(self, frames: Tensor) -> Tensor:
        """(R, 3, H, W) -> (R, 1 + P, D): [CLS], then patches row by row."""
        patches = rearrange(self.patch_embedding(frames), "r d h w -> r (h w) d")
        cls = self.class_embedding.to(patches.dtype).expand(patches.shape[0], -1, -1)
        return torch.cat([cls, patches], 1) + self.positional_embedding.to(patches.dtype)


class BLIPTextTower(Tower):
    """BERT with cross-attention: encodes texts alone, or fuses them with what they read.

    Both are one tower with the same self-attention and feed-forward weights. A module that a method puts into one of
    its blocks acts in both; `context.memory` tells which it is.
    """

    reads = frozenset({"text"})
    causal = False

    def __init__(self, bert: Any, dropout: float) -> None:
        blocks = [BERTBlock(layer, self.causal, dropout) for layer in bert.encoder.layer]
        super().__init__(blocks, bert.config.hidden_size)
        self.token_embedding = bert.embeddings.word_embeddings
        self.positional_embedding = bert.embeddings.position_embeddings.weight
        self.ln_pre = taken_over(bert.embeddings.LayerNorm)
        self.dropout = nn.Dropout(dropout)

    def outer_norms(self) -> list[nn.Module]:
        return [self.ln_pre]

    def embed(self, ids: Tensor) -> Tensor:
        """(M, N) -> (M, N, D)."""
        x = self.token_embedding(ids)
        return self.dropout(self.ln_pre(x + self.positional_embedding[: ids.shape[1]]))

    def give_back(self, bert: Any) -> None:
        """Copies fused layers into those of the transformers model that the tower was made of."""
        for block, layer in zip(self.blocks, bert.encoder.layer, strict=True):
            assert isinstance(block, BERTBlock)
            own, cross = layer.attention.self, layer.crossattention.self
            _copy_apart(block.self_attention.qkv, own.query, own.key, own.value)
            _copy_apart(block.memory_attention.key_value, cross.key, cross.value)

    def embeddings(self) -> list[nn.Parameter]:
        """The parameters in front of the first block."""
        return [self.positional_embedding, *self.token_embedding.parameters(), *self.ln_pre.parameters()]


class BLIPDecoder(BLIPTextTower):
    """Causal BERT that reads question states and predicts the next token; weights of its own."""

    encodes = False
    class_token = False
    causal = True

    def __init__(self, native: Any, dropout: float) -> None:
        super().__init__(native.bert, dropout)
        head = native.cls.predictions
        self.transform = head.transform.dense
        self.activation = head.transform.transform_act_fn
        self.ln_head = taken_over(head.transform.LayerNorm)
        self.bias = head.bias

    def outer_norms(self) -> list[nn.Module]:
        return [*super().outer_norms(), self.ln_head]

    def head(self, x: Tensor) -> Tensor:
        """(..., D) -> logits (..., V); the output layer is the token embedding's."""
        with torch.autocast(x.device.type, enabled=False):  # in low precision many answers would tie
            x = self.ln_head(self.activation(self.transform(x.to(self.bias.dtype))))
            return nn.functional.linear(x, self.token_embedding.weight, self.bias)


def _vision_block(native: Any) -> PreNormBlock:
    """A block with the parameters of a transformers `BlipEncoderLayer`."""
    with torch.device("meta"):
        attention = Attention(native.self_attn.embed_dim, native.self_attn.num_heads)
    attention.qkv, attention.out = native.self_attn.qkv, native.self_attn.projection
    mlp = native.mlp
    ln_1, ln_2 = taken_over(native.layer_norm1), taken_over(native.layer_norm2)
    return PreNormBlock(attention, ln_1, ln_2, mlp.fc1, mlp.activation_fn, mlp.fc2)


def _fused(*layers: nn.Linear) -> nn.Linear:
    """One linear layer that gives the outputs of several, one after the other."""
    with torch.device("meta"):
        fused = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers))
    fused.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
    fused.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))
    return fused


def _copy_apart(fused: nn.Module, *layers: nn.Linear) -> None:
    """The inverse of `_fused`."""
    assert isinstance(fused, nn.Linear)
    sizes = [layer.out_features for layer in layers]
    with torch.no_grad():
        for layer, weight, bias in zip(layers, fused.weight.split(sizes), fused.bias.split(sizes), strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
