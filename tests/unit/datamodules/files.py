"""Where a data module finds the file of a video."""

from __future__ import annotations

from pathlib import Path

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.samples import Split, looked_up_by


def found(data: VideoTextDataModule, video: str, split: Split = "test") -> Path | None:
    """The file of one video of a split, whatever else is missing."""
    files = data.clip_files()
    assert files is not None
    return files.find(next(looked_up_by(sample) for sample in data.samples(split) if sample.video == video))
