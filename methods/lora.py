"""LoRA: updates of low rank on the query, key and value weights, which can be folded into them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS
from petl_bench.errors import NonFiniteError, UsageError
from petl_bench.method import Method
from petl_bench.nn.layers import LoRALinear, LowRank, add_to_weight
from petl_bench.nn.transformer import Place, Widths
from petl_bench.ranges import Finite, Size


class QueryValueLoRA(nn.Module):
    """A frozen fused qkv layer with separate updates of its queries and its values.

    Args:
        native: the frozen layer.
        widths: of the queries, keys and values that it gives.
        rank: r of each update.
        scale: fixed factor.
    """

    def __init__(self, native: nn.Linear, widths: Widths, rank: int, scale: float = 1.0) -> None:
        super().__init__()
        self.native, self.widths = native, widths
        self.query = LowRank(native.in_features, widths.q, rank, scale)
        self.value = LowRank(native.in_features, widths.v, rank, scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., q + k + v)."""
        q, k, v = self.native(x).split(self.widths, -1)
        return torch.cat([q + self.query(x), k, v + self.value(x)], -1)

    def merged(self) -> nn.Linear:
        """A plain linear layer with the same outputs; this one is left as it is."""
        query, value = self.query.weight(), self.value.weight()
        key = query.new_zeros(self.widths.k, query.shape[1])
        return add_to_weight(self.native, torch.cat([query, key, value]))


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

    needs = (BLOCKS,)

    def __init__(
        self, rank: Size = 8, targets: Literal["in_proj", "q_v"] = "in_proj", scale: Finite = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.rank, self.targets, self.scale = rank, targets, scale
        self._adapted_layers: list[tuple[str, Place, LoRALinear | QueryValueLoRA]] = []  # in words, where, what
        self._merged = False

    @property
    def label(self) -> str:
        return "LoRA" if self.targets == "in_proj" else "LoRA (q, v)"

    def inject(self, backbone: Backbone) -> None:
        for name, tower in backbone.towers.items():
            for index, block in enumerate(tower.blocks):
                place = block.linears["q"]  # and of keys and values
                layer = self._with_update(place.layer, block.attention.widths)
                place.put(layer)
                self._adapted_layers.append((f"{name} block {index}", place, layer))

    def _with_update(self, native: nn.Module, widths: Widths) -> LoRALinear | QueryValueLoRA:
        assert isinstance(native, nn.Linear)
        if self.targets == "in_proj":
            return LoRALinear(native, self.rank, self.scale)
        return QueryValueLoRA(native, widths, self.rank, self.scale)

    @property
    def mergeable(self) -> bool:
        self.configure_model()
        return not self._has_head

    def merge(self) -> Backbone:
        """Folds the updates into copies of the weights and returns the backbone, now without extra modules.

        Raises:
            UsageError: if it is merged already.
            NonFiniteError: if a merged weight is NaN or infinite; nothing is changed then.
        """
        self._require_unmerged("merging again")
        self.configure_model()
        merged = [layer.merged() for _, _, layer in self._adapted_layers]
        for (told, _, _), layer in zip(self._adapted_layers, merged, strict=True):
            if not torch.isfinite(layer.weight).all():
                raise NonFiniteError(f"LoRA of {told} is NaN or infinite: not merged; load another checkpoint")
        for (_, place, _), layer in zip(self._adapted_layers, merged, strict=True):
            place.put(layer)
        self._merged = True
        return self.backbone

    def unmerge(self) -> None:
        """Puts back what `merge` replaced: the frozen weights, bit for bit, and the updates beside them."""
        for _, place, layer in self._adapted_layers:
            place.put(layer)
        self._merged = False

    def trained_state(self) -> dict[str, Tensor]:
        self._require_unmerged("reading or writing its adapter")
        return super().trained_state()

    def _require_unmerged(self, action: str) -> None:
        if self._merged:
            raise UsageError(f"LoRA is merged into the weights: call unmerge() before {action}")
