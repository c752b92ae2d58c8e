"""VPT: trainable prompt tokens in every vision block."""

from __future__ import annotations

from typing import Any

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS, VISION
from petl_bench.method import Method
from petl_bench.nn.adapter_blocks import add_prompts
from petl_bench.ranges import Size


class VPT(Method):
    """VPT-deep (Jia et al., ECCV 2022, arXiv 2203.12119): prompts in every block of the vision tower.

    The prompts of the first block are inserted after the norm of the embeddings.

    Args:
        prompts: tokens per block; 5 give 46,080 parameters on CLIP ViT-B, 20 give 184,320.
        **kwargs: see `Method`.
    """

    identity_at_init = False
    needs = (BLOCKS, VISION)

    def __init__(self, prompts: Size = 20, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prompts = prompts

    @property
    def label(self) -> str:
        return "VPT-deep"

    def inject(self, backbone: Backbone) -> None:
        for tower in backbone.encoders("vision"):
            add_prompts(tower, self.prompts)
