"""BLIP: for retrieval and for answers, over the same towers; its weights, its words."""

from petl_bench.backbones.blip.model import BLIP, BLIPVQA

__all__ = ["BLIP", "BLIPVQA"]
