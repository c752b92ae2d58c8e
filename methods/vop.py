"""VoP: trainable prompt tokens in every vision and text block."""

from __future__ import annotations

from typing import Any

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.needs import BLOCKS, TEXT, VISION
from petl_bench.method import Method
from petl_bench.nn.adapter_blocks import add_prompts
from petl_bench.ranges import Size


class VoP(Method):
    """VoP, basic variant (Huang et al., CVPR 2023, arXiv 2211.12764): prompts in every block of both towers.

    Source: modelscope 1.40.2, models/cv/vop_retrieval, which only infers. With these differences undone, features and
    their gradients equal that code's:

    * It has 4 text prompts after the start token and 4 at the end of the text. The latter lie behind the end token,
      where a causal tower never reads them; all 8 stand after the start token here, with the same number of parameters.
    * It reads the text feature 4 places behind the end token; here the end token is read.
    * Words keep their positions and captions their length (there: shifted by 4, cut to 69 tokens).
    * The prompts of the first vision block are inserted after the embeddings' norm (there: before it).
    * Videos are ranked by cosine; there the mean over frames, of features of length 1, is not normalised again.

    Args:
        vision_prompts: tokens per vision block.
        text_prompts: tokens per text block; 4 is what reaches the feature in the released layout of 4 + 4.
        **kwargs: see `Method`.
    """

    identity_at_init = False
    needs = (BLOCKS, VISION, TEXT)

    def __init__(self, vision_prompts: Size = 8, text_prompts: Size = 8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vision_prompts, self.text_prompts = vision_prompts, text_prompts

    def inject(self, backbone: Backbone) -> None:
        for tower in backbone.encoders("vision"):
            add_prompts(tower, self.vision_prompts)
        for tower in backbone.encoders("text"):
            add_prompts(tower, self.text_prompts)
