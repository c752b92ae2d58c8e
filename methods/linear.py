"""Linear: only what stands behind the towers is trained."""

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import PROJECTIONS
from petl_bench.method import Method


class Linear(Method):
    """Linear probe for retrieval: the projections into the joint space, 655,360 parameters on CLIP ViT-B.

    On BLIP the matching head is trained with them, where the task matches: 395,266 parameters on BLIP base.

    The literature calls it "head only" or "projection".
    """

    needs = (PROJECTIONS,)

    def inject(self, backbone: Backbone) -> None:
        for parameter in backbone.heads():
            parameter.requires_grad_(True)
