"""Full fine-tuning: everything is trained."""

from petl_bench.backbones.base import Backbone
from petl_bench.method import Method


class Full(Method):
    """Full fine-tuning of every parameter, embeddings and logit scale included.

    The literature's "123.54M" leaves out what CLIP4Clip's rule freezes (`FullCLIP4Clip`); this does not.
    """

    def inject(self, backbone: Backbone) -> None:
        backbone.requires_grad_(True)
