"""ActivityNet Captions as paragraph-to-video retrieval (Krishna et al., arXiv 1705.00754)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from petl_bench.data.annotations import MAX_SECONDS, Record, read_json, read_lines
from petl_bench.data.paragraphs import Paragraph, ParagraphDataModule
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError
from petl_bench.inputs import Moment
from petl_bench.storage.untrusted import described, plain_text, shown

_PROTOCOL = Protocol("activitynet-p2v-val1/v1", {"train": 10_009, "test": 4_917}, {}, {"train": 37_421, "test": 17_505})
#: `v_` and a YouTube id of 11 characters, which may itself begin with `v_`
_PREFIXED = 13


class ActivityNet(ParagraphDataModule):
    """ActivityNet Captions: YouTube videos of two minutes on average, each described by a paragraph.

    The test split is `val_1`, as everywhere; there is no validation split of its own. 15 training ids of the lists have
    no captions and are left out, as they are in `train.json`. A quarter of the paragraphs are longer than 64 tokens.

    Args:
        root: folder with the annotation files and, below it, the videos, `v_<YouTube id>` or without `v_`.
        train_file: JSON by video: `duration`, `timestamps`, `sentences`.
        test_file: the same for the test split.
        train_ids: JSON list, or text with one id per line, to which the file is restricted; null takes all of the file.
        test_ids: the same for the test split.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "activitynet"

    def __init__(
        self,
        root: Path,
        train_file: str = "train.json",
        test_file: str = "val_1.json",
        train_ids: str | None = None,
        test_ids: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.files: dict[str, str] = {"train": train_file, "test": test_file}
        self.ids: dict[str, str | None] = {"train": train_ids, "test": test_ids}

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def annotation_files(self) -> dict[str, Path]:
        files = {split: self.root / name for split, name in self.files.items()}
        return files | {f"{split}_ids": self.root / name for split, name in self.ids.items() if name}

    def file_id(self, path: Path) -> str:
        return video_id(path.stem)

    def paragraphs(self, split: Split) -> list[Paragraph]:
        if split not in self.files:
            return []
        found = read_paragraphs(self.root / self.files[split])
        name = self.ids[split]
        if not name:
            return found
        listed = read_ids(self.root / name)
        return [paragraph for paragraph in found if paragraph.video in listed]


def video_id(name: str) -> str:
    """`v_` and the YouTube id, as the annotation files have it, of a name with or without `v_`."""
    return name if name.startswith("v_") and len(name) == _PREFIXED else f"v_{name}"


def read_paragraphs(path: Path) -> list[Paragraph]:
    """The paragraphs of a file, each with the end of its video in whole seconds.

    Raises:
        DataError: if a record is of another shape; it names the video.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: expected paragraphs by video id, found {described(data)}; wrong file?")
    return [_paragraph(video, record, f"{path}: video {shown(video)}") for video, record in data.items()]


def _paragraph(video: str, given: Any, where: str) -> Paragraph:
    record = Record(given if isinstance(given, dict) else {}, where)
    sentences = record.strings("sentences")
    if not "".join(sentences).strip():
        raise DataError(f"{where}: 'sentences' are blank")
    duration = record.values.get("duration")
    if not isinstance(duration, (int, float)) or isinstance(duration, bool) or not 0 < duration <= MAX_SECONDS:
        raise record.error("duration", "a number of seconds")
    return Paragraph(video_id(plain_text(video)), sentences, Moment(None, math.ceil(duration)))


def read_ids(path: Path) -> set[str]:
    """Ids with `v_`, from a JSON list or from text with one id per line."""
    ids = read_json(path) if path.suffix.lower() == ".json" else read_lines(path)
    if not isinstance(ids, list) or not all(isinstance(video, str) for video in ids):
        raise DataError(f"{path}: no list of video ids, but {shown(ids)}; wrong file?")
    return set(map(video_id, ids))
