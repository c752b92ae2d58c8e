"""BLIP: image, text and decoder towers, its weights, its words."""

from petl_bench.backbones.blip.model import BLIP

__all__ = ["BLIP"]
