"""DiDeMo as paragraph-to-video retrieval, from the files the field distributes (Hendricks et al., arXiv 1708.01641)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from petl_bench.data.annotations import Record, read_lines, read_records
from petl_bench.data.clip_files import VIDEO_SUFFIXES
from petl_bench.data.paragraphs import Paragraph, ParagraphDataModule
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError
from petl_bench.inputs import Moment
from petl_bench.ranges import Count
from petl_bench.storage.untrusted import shown, shown_all, whole_number

_VIDEOS, _SENTENCES = {"train": 8395, "val": 1065, "test": 1004}, {"train": 33_005, "val": 4_180, "test": 4_021}


class DiDeMo(ParagraphDataModule):
    """DiDeMo: personal videos of which the first 30 seconds were described in 1 to 7 sentences.

    A video is its file name up to the first dot: 62 test and validation videos stand under two file names, and joining
    by whole names, as CLIP4Clip does, loses 160 of their sentences. Published test sets differ in size (1,004, 1,003,
    1,002 and fewer).

    Args:
        root: folder with the annotation files and, below it, the clips, whatever their suffix.
        train_file: the official JSON (records with `video`, `description`, `times`), or jsonl of `clip_id` and `text`
            in the order of time (CLIP-ViP, Text-Proxy).
        val_file: the same for validation.
        test_file: the same for the test split.
        train_list: text with one file name per line, to which the file is restricted; null takes all its videos.
        val_list: the same for validation.
        test_list: the same for the test split.
        sentence_order: of a paragraph: `file` joins as the records stand (CLIP4Clip), `time` by the moment that most
            annotators chose (ClipBERT, CLIP-ViP). Only 241 of 1,002 test paragraphs are the same.
        last_second: where clips are cut; CLIP4Clip reads seconds 0 to 31, of which people saw 30. Null reads all.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "didemo"
    #: some of the original downloads have the suffix `.none` or `.null`
    suffixes = (*VIDEO_SUFFIXES, ".none", ".null")

    def __init__(
        self,
        root: Path,
        train_file: str = "train_data.json",
        val_file: str = "val_data.json",
        test_file: str = "test_data.json",
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        sentence_order: Literal["file", "time"] = "file",
        last_second: Count | None = 31,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.files = {"train": train_file, "val": val_file, "test": test_file}
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.sentence_order, self.last_second = sentence_order, last_second

    @property
    def protocol(self) -> Protocol:
        order = "" if self.sentence_order == "file" else "-time-order"
        return Protocol(f"didemo-p2v{order}/v1", _VIDEOS, {}, _SENTENCES)

    def annotation_files(self) -> dict[str, Path]:
        files = {split: self.root / name for split, name in self.files.items()}
        return files | {f"{split}_list": self.root / name for split, name in self.lists.items() if name}

    def file_id(self, path: Path) -> str:
        return video_id(path.name)

    def paragraphs(self, split: Split) -> list[Paragraph]:
        path, name = self.root / self.files[split], self.lists[split]
        found = read_paragraphs(path, self.sentence_order, self.last_second)
        if name:
            listed = {video_id(line): line for line in read_lines(self.root / name)}
            without = [line for video, line in listed.items() if video not in found]
            if without:
                raise DataError(f"{path}: {len(without)} videos of {name} have no description: {shown_all(without)}")
            found = {video: found[video] for video in listed}
        return list(found.values())

    def video_names(self, split: Split) -> dict[str, tuple[str, ...]]:
        return {paragraph.video: paragraph.names for paragraph in self.paragraphs(split)}

    def profile(self) -> dict[str, Any]:
        return super().profile() | {"last_second": self.last_second}


def video_id(name: str) -> str:
    """`owner@N00_flickrid_secret` of any spelling of a file name: with a suffix, another one, or a bare period."""
    return name.partition(".")[0]


def read_paragraphs(path: Path, order: str, last_second: int | None) -> dict[str, Paragraph]:
    """The descriptions of each video in the order asked for; videos in the order of the file.

    Raises:
        DataError: if a record is of neither shape, or a description is empty; it names the record.
    """
    described: dict[str, list[tuple[tuple[int, int], str]]] = {}
    names: dict[str, dict[str, None]] = {}
    for record in read_records(path):
        video, moments, sentences = _read_record(record, order)
        if not video_id(video):
            raise DataError(f"{record.where}: video {shown(video)} is no file name")
        if not all(sentence.strip() for sentence in sentences):
            raise DataError(f"{record.where}: no description")
        described.setdefault(video_id(video), []).extend(zip(moments, sentences, strict=True))
        names.setdefault(video_id(video), {})[video] = None
    if order == "time":
        described = {video: sorted(parts, key=lambda part: part[0]) for video, parts in described.items()}
    return {
        video: Paragraph(video, tuple(text for _, text in parts), Moment(None, last_second), (*names[video], video))
        for video, parts in described.items()
    }


def _read_record(record: Record, order: str) -> tuple[str, list[tuple[int, int]], tuple[str, ...]]:
    """Video, moments and sentences of a record of either shape."""
    if record.has("clip_id"):
        sentences = record.strings("text")
        if order == "file":
            raise DataError(f"{record.where}: sentences are in the order of time here: set data.sentence_order time")
        return record.name("clip_id"), [(0, 0)] * len(sentences), sentences
    video, sentence = record.name("video"), record.string("description")
    return video, [_moment(record) if order == "time" else (0, 0)], (sentence,)


def _moment(record: Record) -> tuple[int, int]:
    """The segments that most annotators chose, the first of equals: what ClipBERT's files are sorted by."""
    times = record.items("times")
    if not all(isinstance(moment, list) and len(moment) == 2 for moment in times):
        raise record.error("times", "pairs of segments")
    ends = [(whole_number(first), whole_number(last)) for first, last in times]
    moments = [(first, last) for first, last in ends if first is not None and last is not None and 0 <= first <= last]
    if len(moments) < len(times):
        raise record.error("times", "pairs of segments, the first and the last of a moment")
    return Counter(moments).most_common(1)[0][0]
