"""CLIP as two towers, and as the whole network it was published as."""

from petl_bench.backbones.clip.model import CLIP
from petl_bench.backbones.clip.whole import WholeCLIP

__all__ = ["CLIP", "WholeCLIP"]
