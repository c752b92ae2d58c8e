"""MSR-VTT, read from the files the field distributes (Xu et al., CVPR 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from petl_bench.data.annotations import read_column, read_json, read_table, section_of
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import shown_all

_PROTOCOLS = {
    "1kA-9k": Protocol("msrvtt-1kA-9k/v1", {"train": 9000, "test": 1000}, {"test": 1000}),
    "1kA-7k": Protocol("msrvtt-1kA-7k/v1", {"train": 7010, "test": 1000}, {"test": 1000}),
    "full": Protocol("msrvtt-full/v1", {"train": 6513, "val": 497, "test": 2990}, {}),
}
_LISTS = {
    "1kA-9k": {"train": "MSRVTT_train.9k.csv", "test": "MSRVTT_JSFUSION_test.csv"},
    "1kA-7k": {"train": "MSRVTT_train.7k.csv", "test": "MSRVTT_JSFUSION_test.csv"},
    "full": {"train": "MSRVTT_train.full.csv", "val": "MSRVTT_val.full.csv", "test": "MSRVTT_test.full.csv"},
}


class MSRVTT(VideoTextDataModule):
    """MSR-VTT: 10,000 clips of 10 to 30 seconds, about 20 captions each.

    `1kA-*` tests with one given caption for each of 1,000 videos and has no validation split; `full` tests with all
    captions of 2,990 videos.

    Args:
        root: folder with the annotation files and, below it, the clips.
        split_protocol: `1kA-9k`, `1kA-7k` or `full`.
        captions_file: JSON of all captions, in the official shape (`sentences`) or Frozen-in-Time's (`annotations`).
        train_list: CSV with a column `video_id`; null takes the protocol's usual file name.
        test_list: CSV with `video_id`, for `1kA-*` also `sentence`; null takes the protocol's usual file name.
        val_list: CSV with a column `video_id`; null takes the protocol's usual file name, if it has one.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "msrvtt"

    def __init__(
        self,
        root: Path,
        split_protocol: Literal["1kA-9k", "1kA-7k", "full"] = "1kA-9k",
        captions_file: str = "MSRVTT_data.json",
        train_list: str | None = None,
        test_list: str | None = None,
        val_list: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.split_protocol = split_protocol
        self.captions_file = captions_file
        given = {"train": train_list, "val": val_list, "test": test_list}
        self.lists = _LISTS[split_protocol] | {split: name for split, name in given.items() if name}
        self._captions: dict[str, list[_Caption]] | None = None

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOLS[self.split_protocol]

    def annotation_files(self) -> dict[str, Path]:
        files = {"captions": self.root / self.captions_file}
        return files | {f"{split}_list": self.root / name for split, name in self.lists.items()}

    def video_ids(self, split: Split) -> list[str]:
        return read_column(self.root / self.lists[split], "video_id") if split in self.lists else []

    def annotations(self, split: Split) -> list[Sample]:
        if split not in self.lists:
            return []
        path, ids = self.root / self.lists[split], self.video_ids(split)
        if split == "test" and self.split_protocol != "full":
            records = read_table(path, ("video_id", "sentence"))
            return [
                Sample(record.name("video_id"), (record.text("sentence"),), caption_ids=(record.label("key"),))
                for record in records
            ]
        captions = self._all_captions()
        without = [video for video in ids if video not in captions]
        if without:
            raise DataError(
                f"{self.root / self.captions_file}: {len(without)} videos of {path.name} have no caption, "
                f"{shown_all(without)}; the two files do not belong together"
            )
        return [_sample(video, captions[video]) for video in ids]

    def _all_captions(self) -> dict[str, list[_Caption]]:
        if self._captions is None:
            self._captions = _read_captions(self.root / self.captions_file)
        return self._captions


class _Caption(NamedTuple):
    """A caption and what the file calls it, if it does."""

    text: str
    id: str


def _sample(video: str, captions: list[_Caption]) -> Sample:
    return Sample(video, tuple(one.text for one in captions), caption_ids=tuple(one.id for one in captions))


def _read_captions(path: Path) -> dict[str, list[_Caption]]:
    """Captions by video id from `MSRVTT_data.json`, or from `MSR_VTT.json`, which some rename to it."""
    data = read_json(path)
    keys = {"sentences": "video_id", "annotations": "image_id"}
    section = next((key for key in keys if isinstance(data, dict) and key in data), None)
    if section is None:
        raise DataError(f"{path}: has neither 'sentences' (official) nor 'annotations' (Frozen-in-Time); wrong file?")
    captions: dict[str, list[_Caption]] = {}
    for record in section_of(data, section, path):
        caption = _Caption(record.string("caption"), record.label("sen_id") or record.label("id"))
        captions.setdefault(record.name(keys[section]), []).append(caption)
    return captions
