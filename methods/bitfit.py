"""BitFit: only biases are trained."""

from petl_bench.backbones.base import Backbone
from petl_bench.method import Method
from petl_bench.nn.layers import biases


class BitFit(Method):
    """BitFit (Ben Zaken et al., ACL 2022, arXiv 2106.10199): all biases, those of norms included.

    171,008 parameters on CLIP ViT-B. Source: specs/other_methods.md section 5.
    """

    def inject(self, backbone: Backbone) -> None:
        for bias in biases(backbone):
            bias.requires_grad_(True)
