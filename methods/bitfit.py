"""BitFit: only biases are trained."""

from pytorch_lightning.utilities import rank_zero_info

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BIASES
from petl_bench.method import Method
from petl_bench.nn.layers import biases


class BitFit(Method):
    """BitFit (Ben Zaken et al., ACL 2022, arXiv 2106.10199): all biases, those of norms included.

    171,008 parameters on CLIP ViT-B. A tower without biases stays as it is, which is said on the console.
    """

    needs = (BIASES,)

    def inject(self, backbone: Backbone) -> None:
        for bias in biases(backbone):
            bias.requires_grad_(True)
        for name, tower in backbone.towers.items():
            if not any(parameter.requires_grad for parameter in tower.parameters()):
                rank_zero_info(f"BitFit: the {name} tower of {backbone.name} has no biases, so none of it is trained")
