"""Full fine-tuning by CLIP4Clip's rule: everything but the embeddings is trained."""

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import EMBEDDINGS
from petl_bench.method import Method


class FullCLIP4Clip(Method):
    """Full fine-tuning as CLIP4Clip does it (Luo et al., arXiv 2104.08860): all but what lies before the blocks.

    Token, position and class embeddings, the patch convolution and the norm after them stay frozen. 123,540,993
    parameters on CLIP ViT-B: the "123.54M" of the literature. Source: the official code, `main_task_retrieval.py`,
    with `--freeze_layer_num 0`.
    """

    needs = (EMBEDDINGS,)

    @property
    def label(self) -> str:
        return "Full (CLIP4Clip)"

    def inject(self, backbone: Backbone) -> None:
        backbone.requires_grad_(True)
        for parameter in backbone.embeddings():
            parameter.requires_grad_(False)
