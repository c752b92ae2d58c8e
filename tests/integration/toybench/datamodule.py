"""A toy dataset."""

from __future__ import annotations

from pathlib import Path

from petl_bench.data.annotations import read_numbered
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.samples import Protocol, Sample, Split


class Lines(VideoTextDataModule):
    """Files `train.tsv` and `test.tsv` with a video and its caption in each line."""

    name = "lines"

    @property
    def protocol(self) -> Protocol:
        return Protocol("lines/v1", {"test": 4}, {"test": 4})

    def annotation_files(self) -> dict[str, Path]:
        return {split: self.root / f"{split}.tsv" for split in ("train", "test")}

    def annotations(self, split: Split) -> list[Sample]:
        if split == "val":
            return []
        pairs = (line.split("\t") for _, line in read_numbered(self.annotation_files()[split]))
        return [Sample(video, (caption,)) for video, caption in pairs]
