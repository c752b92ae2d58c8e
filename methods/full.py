"""Full fine-tuning: everything is trained."""

from petl_bench.backbones.base import Backbone
from petl_bench.method import Method


class Full(Method):
    """Full fine-tuning of every parameter, embeddings and logit scale included.

    The literature's "123.54M" leaves out what CLIP4Clip's rule freezes; this does not
    (specs/other_methods.md section 0).
    """

    def inject(self, backbone: Backbone) -> None:
        backbone.requires_grad_(True)
