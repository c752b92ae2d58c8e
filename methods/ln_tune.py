"""LN-tune: only norms are trained."""

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import NORMS
from petl_bench.method import Method


class LNTune(Method):
    """Weights and biases of all norms, layer norms and RMS norms alike; 65,536 parameters on CLIP ViT-B."""

    needs = (NORMS,)

    @property
    def label(self) -> str:
        return "LN-tune"

    def inject(self, backbone: Backbone) -> None:
        for tower in backbone.towers.values():
            for norm in tower.norms():
                norm.requires_grad_(True)
