"""COCO captions on Karpathy's split (Chen et al., arXiv 1504.00325)."""

from __future__ import annotations

from typing import ClassVar

from petl_bench.data.karpathy import KarpathyDataModule
from petl_bench.data.samples import Protocol, Split

_PROTOCOL = Protocol("coco-karpathy-5k/v1", {"train": 113_287, "val": 5_000, "test": 5_000}, {})


class COCO(KarpathyDataModule):
    """COCO: 123,287 images with 5 to 7 captions each; 5,000 are tested on at once."""

    name = "coco"
    file_names: ClassVar = {split: f"coco_karpathy_{split}.json" for split in ("train", "val", "test")}
    list_names: ClassVar = {
        "train": ("coco_train.txt", "coco_restval.txt"),
        "val": ("karpathy_val_images.txt",),
        "test": ("karpathy_test_images.txt",),
    }

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def hint(self, split: Split, images: int) -> str:
        without_restval = split == "train" and images == 82_783
        return "the 30,504 of restval belong to training, too" if without_restval else ""
