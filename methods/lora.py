"""LoRA: updates of low rank on the query, key and value weights, which can be folded into them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.errors import NonFiniteError, UsageError
from petl_bench.method import Method
from petl_bench.nn.layers import LoRALinear, LowRank, add_to_weight
from petl_bench.nn.transformer import Attention
from petl_bench.ranges import Finite, Size


class QueryValueLoRA(nn.Module):
    """A frozen fused qkv layer with separate updates of its queries and its values.

    Args:
        native: the frozen layer, D to 3D.
        rank: r of each update.
        scale: fixed factor.
    """

    def __init__(self, native: nn.Linear, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        width = native.out_features // 3
        self.native = native
        self.query = LowRank(native.in_features, width, rank, scale)
        self.value = LowRank(native.in_features, width, rank, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 3D)."""
        q, k, v = self.native(x).chunk(3, -1)
        return torch.cat([q + self.query(x), k, v + self.value(x)], -1)

    def merged(self) -> nn.Linear:
        """A plain linear layer with the same outputs; this one is left as it is."""
        query, value = self.query.weight(), self.value.weight()
        return add_to_weight(self.native, torch.cat([query, torch.zeros_like(query), value]))


LAYERS = {"in_proj": LoRALinear, "q_v": QueryValueLoRA}


class LoRA(Method):
    """LoRA (Hu et al., ICLR 2022, arXiv 2106.09685) in the attention of all blocks of both towers.

    491,520 parameters on CLIP ViT-B with either target at rank 8. `in_proj` equals (outputs, loss, gradients) the LoRA
    of LunarShen/DsicoVLA 6ace76f and LunarShen/TempMe e624930, the baseline of both papers. `merge` folds a trained
    LoRA into the weights, so that inference costs nothing.

    Args:
        rank: r.
        targets: `in_proj`: one A shared by queries, keys and values (TempMe, DiscoVLA); `q_v`: queries and values,
            each with its own pair (the LoRA paper).
        scale: fixed factor on the update.
        **kwargs: see `Method`.
    """

    def __init__(
        self, rank: Size = 8, targets: Literal["in_proj", "q_v"] = "in_proj", scale: Finite = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.rank, self.targets, self.scale = rank, targets, scale
        self._adapted_layers: list[tuple[str, Attention, LoRALinear | QueryValueLoRA]] = []  # place, where, what
        self._merged = False

    @property
    def label(self) -> str:
        return "LoRA" if self.targets == "in_proj" else "LoRA (q, v)"

    def inject(self, backbone: Backbone) -> None:
        for kind, tower in backbone.towers.items():
            for index, block in enumerate(tower.blocks):
                attention = block.attention
                assert isinstance(attention.qkv, nn.Linear)
                layer = LAYERS[self.targets](attention.qkv, self.rank, self.scale)
                attention.qkv = layer
                self._adapted_layers.append((f"{kind} block {index}", attention, layer))

    def merge(self) -> Backbone:
        """Folds the updates into copies of the weights and returns the backbone, now without extra modules.

        Raises:
            UsageError: if it is merged already.
            NonFiniteError: if a merged weight is NaN or infinite; nothing is changed then.
        """
        self._require_unmerged("merging again")
        self.configure_model()
        merged = [layer.merged() for _, _, layer in self._adapted_layers]
        for (place, _, _), layer in zip(self._adapted_layers, merged, strict=True):
            if not torch.isfinite(layer.weight).all():
                raise NonFiniteError(f"LoRA of {place} is NaN or infinite: not merged; load another checkpoint")
        for (_, attention, _), layer in zip(self._adapted_layers, merged, strict=True):
            attention.qkv = layer
        self._merged = True
        return self.backbone

    def unmerge(self) -> None:
        """Puts back what `merge` replaced: the frozen weights, bit for bit, and the updates beside them."""
        for _, attention, layer in self._adapted_layers:
            attention.qkv = layer
        self._merged = False

    def trained_state(self) -> dict[str, Tensor]:
        self._require_unmerged("reading or writing its adapter")
        return super().trained_state()

    def _require_unmerged(self, action: str) -> None:
        if self._merged:
            raise UsageError(f"LoRA is merged into the weights: call unmerge() before {action}")
