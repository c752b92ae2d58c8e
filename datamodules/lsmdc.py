"""LSMDC, read from the files of the 2016 challenge (Rohrbach et al., arXiv 1605.03705)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petl_bench.data.annotations import read_numbered
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError

_COLUMNS = ("clip", "start_aligned", "end_aligned", "start_extracted", "end_extracted", "sentence")
_PROTOCOL = Protocol("lsmdc-1k/v1", {"test": 1000}, {"train": 101_079, "val": 7_408, "test": 1000})


class LSMDC(VideoTextDataModule):
    """LSMDC 2016: short clips of films with audio descriptions; the test set is the challenge's 1,000 clips.

    A clip of the training and validation files can stand in several rows: they are its captions. The licence is given
    out by MPII with a password, so nothing is downloaded; clips are `<film>/<clip id>.avi`. One clip of the usual
    copies cannot be read (`1012_Unbreakable_00.05.16.065-00.05.21.941`): train with `bad_videos: tolerate`.

    Args:
        root: folder with the annotation files and, below it, the clips.
        train_file: tab-separated text without header and quotes: clip id, four times, sentence.
        val_file: the same for validation.
        test_file: the same for the test split (the misspelling is official).
        **kwargs: see `VideoTextDataModule`.
    """

    name = "lsmdc"

    def __init__(
        self,
        root: Path,
        train_file: str = "LSMDC16_annos_training.csv",
        val_file: str = "LSMDC16_annos_val.csv",
        test_file: str = "LSMDC16_challenge_1000_publictect.csv",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.files = {"train": train_file, "val": val_file, "test": test_file}

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def annotation_files(self) -> dict[str, Path]:
        return {split: self.root / name for split, name in self.files.items()}

    def annotations(self, split: Split) -> list[Sample]:
        captions: dict[str, list[str]] = {}
        for clip, sentence in read_rows(self.root / self.files[split]):
            captions.setdefault(clip, []).append(sentence)
        return [Sample(clip, tuple(sentences)) for clip, sentences in captions.items()]


def read_rows(path: Path) -> list[tuple[str, str]]:
    """Clip ids and sentences in file order.

    Raises:
        DataError: if a line has other than six fields, no clip or no sentence; it names the line.
    """
    rows = []
    for number, line in read_numbered(path):
        where, fields = f"{path}, line {number}", line.split("\t")
        if len(fields) != len(_COLUMNS):
            raise DataError(f"{where}: {len(fields)} fields between tabs, expected {len(_COLUMNS)}; the file is cut")
        clip, sentence = fields[0].strip(), fields[-1].strip()
        if not clip or not sentence:
            raise DataError(f"{where}: no {'sentence' if clip else 'clip'}")
        rows.append((clip, sentence))
    return rows
