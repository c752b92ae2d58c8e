"""DiDeMo as paragraph-to-video retrieval, read from the files the field distributes (specs/datasets.md section 2.4)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

from petl_bench.data.annotations import read_lines, read_records, require_keys
from petl_bench.data.base import VIDEO_SUFFIXES
from petl_bench.data.paragraphs import Paragraph, ParagraphDataModule
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError, UsageError
from petl_bench.ranges import Count

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
        if sentence_order not in ("file", "time"):
            raise UsageError(f"data.sentence_order '{sentence_order}' is unknown: file or time")
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
        found = read_sentences(path, self.sentence_order)
        if name:
            listed = {video_id(line): line for line in read_lines(self.root / name)}
            without = [line for video, line in listed.items() if video not in found]
            if without:
                raise DataError(
                    f"{path}: {len(without)} videos of {name} have no description (first: {', '.join(without[:3])})"
                )
            found = {video: found[video] for video in listed}
        return [Paragraph(video, sentences, None, self.last_second) for video, sentences in found.items()]

    def profile(self) -> dict[str, Any]:
        return super().profile() | {"last_second": self.last_second}


def video_id(name: str) -> str:
    """`owner@N00_flickrid_secret` of any spelling of a file name: with a suffix, another one, or a bare period."""
    return name.partition(".")[0]


def read_sentences(path: Path, order: str) -> dict[str, tuple[str, ...]]:
    """The descriptions of each video in the order asked for; videos in the order of the file.

    Raises:
        DataError: if a record is of neither shape, or a description is empty; it names the record.
    """
    described: dict[str, list[tuple[tuple[int, int], str]]] = {}
    for place, record in enumerate(read_records(path)):
        where = f"{path}, record {place}"
        video, moments, sentences = _read_record(record, order, where)
        if not video_id(video):
            raise DataError(f"{where}: video '{video}' is no file name")
        if not all(sentence.strip() for sentence in sentences):
            raise DataError(f"{where}: no description")
        described.setdefault(video_id(video), []).extend(zip(moments, sentences, strict=True))
    if order == "time":
        described = {video: sorted(parts, key=lambda part: part[0]) for video, parts in described.items()}
    return {video: tuple(sentence for _, sentence in parts) for video, parts in described.items()}


def _read_record(record: Any, order: str, where: str) -> tuple[str, list[tuple[int, int]], list[str]]:
    """Video, moments and sentences of a record of either shape."""
    if isinstance(record, dict) and "clip_id" in record:
        (video,) = require_keys(record, ("clip_id",), where)
        sentences = record.get("text")
        if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
            raise DataError(f"{where}: 'text' is no list of sentences")
        if order == "file":
            raise DataError(f"{where}: sentences are in the order of time here: set data.sentence_order time")
        return video, [(0, 0)] * len(sentences), sentences
    video, sentence = require_keys(record, ("video", "description"), where)
    return video, [_moment(record.get("times"), where) if order == "time" else (0, 0)], [sentence]


def _moment(times: Any, where: str) -> tuple[int, int]:
    """The segments that most annotators chose, the first of equals: what ClipBERT's files are sorted by."""
    if not isinstance(times, list) or not times:
        raise DataError(f"{where}: no 'times'")
    if not all(isinstance(t, list) and len(t) == 2 and all(isinstance(s, int) for s in t) for t in times):
        raise DataError(f"{where}: 'times' are no pairs of segments")
    start, end = Counter(map(tuple, times)).most_common(1)[0][0]
    return start, end
