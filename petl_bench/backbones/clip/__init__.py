"""CLIP as two towers, and as the whole network it was published as."""

from petl_bench.backbones.clip.model import CLIP
from petl_bench.backbones.clip.whole import WholeCLIP
from petl_bench.late_imports import arrange

__all__ = ["CLIP", "WholeCLIP"]

# open_clip imports transformers and timm, which take a second, for what few of its architectures have.
arrange("open_clip.coca_model", stand_ins=["CoCa"])
arrange("open_clip.hf_model", stand_ins=["HFTextEncoder"])
arrange("open_clip.timm_model", stand_ins=["TimmModel"])
