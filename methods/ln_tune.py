"""LN-tune: only layer norms are trained."""

from torch import nn

from petl_bench.backbones.base import Backbone
from petl_bench.method import Method


class LNTune(Method):
    """Weights and biases of all layer norms, 65,536 parameters on CLIP ViT-B.

    Source: specs/other_methods.md sections 1 and 5.
    """

    @property
    def label(self) -> str:
        return "LN-tune"

    def inject(self, backbone: Backbone) -> None:
        for module in backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)
