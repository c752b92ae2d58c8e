"""Flickr30K on Karpathy's split (Young et al., TACL 2014)."""

from __future__ import annotations

from typing import ClassVar

from petl_bench.data.karpathy import KarpathyDataModule
from petl_bench.data.samples import Protocol, Split

_PROTOCOL = Protocol(
    "flickr30k-karpathy/v1",
    {"train": 29_000, "val": 1_014, "test": 1_000},
    {"train": 145_000, "val": 5_070, "test": 5_000},
)


class Flickr30K(KarpathyDataModule):
    """Flickr30K: 31,014 images with 5 captions each. Images are given out on request only."""

    name = "flickr30k"
    file_names: ClassVar = {split: f"flickr30k_{split}.json" for split in ("train", "val", "test")}

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def hint(self, split: Split, images: int) -> str:
        entities = split == "train" and images == 29_783
        return "this is the split of Flickr30K Entities, not Karpathy's of 29,000" if entities else ""
