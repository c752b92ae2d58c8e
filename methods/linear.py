"""Linear: only the projections into the joint space are trained."""

from petl_bench.backbones.base import Backbone
from petl_bench.method import Method


class Linear(Method):
    """Linear probe for retrieval: the two projection matrices, 655,360 parameters on CLIP ViT-B.

    Source: specs/other_methods.md sections 1 and 5 ("head only").
    """

    def inject(self, backbone: Backbone) -> None:
        for projection in backbone.projections():
            projection.requires_grad_(True)
