"""MSVD, read from the files the field distributes (Chen and Dolan, ACL 2011)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petl_bench.data.annotations import read_json, read_lines
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.plain_pickle import read_plain_pickle
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError, MissingFileError
from petl_bench.storage.untrusted import described, is_file, plain_text, shown, shown_all

_PROTOCOL = Protocol(
    "msvd/v1", {"train": 1200, "val": 100, "test": 670}, {"train": 48_774, "val": 4_290, "test": 27_763}
)
#: CLIP4Clip's release; X-Pool's
_CAPTIONS = ("raw-captions.pkl", "captions_msvd.json")


class MSVD(VideoTextDataModule):
    """MSVD: 1,970 clips of 10 seconds on average, 18 to 81 captions each.

    Every caption of a test video is a query (27,763 over 670 videos). Ids are `<YouTube id>_<start>_<end>`; some begin
    with `-`. The validation split is meant for choosing an epoch, the usual papers choose on test.

    Args:
        root: folder with the annotation files and, below it, the clips.
        captions_file: all captions by video, as a pickle of token lists (CLIP4Clip's `raw-captions.pkl`, read without
            running anything) or JSON of token lists or strings; null takes `raw-captions.pkl`, or X-Pool's
            `captions_msvd.json`.
        train_list: text with one id per line.
        val_list: the same for validation.
        test_list: the same for the test split.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "msvd"

    def __init__(
        self,
        root: Path,
        captions_file: str | None = None,
        train_list: str = "train_list.txt",
        val_list: str = "val_list.txt",
        test_list: str = "test_list.txt",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.captions_file = captions_file
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self._captions: dict[str, tuple[str, ...]] | None = None

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def annotation_files(self) -> dict[str, Path]:
        return {"captions": self._captions_path()} | {
            f"{split}_list": self.root / name for split, name in self.lists.items()
        }

    def video_ids(self, split: Split) -> list[str]:
        return read_lines(self.root / self.lists[split])

    def annotations(self, split: Split) -> list[Sample]:
        if self._captions is None:
            self._captions = read_captions(self._captions_path())
        ids = self.video_ids(split)
        without = [video for video in ids if video not in self._captions]
        if without:
            raise DataError(
                f"{self._captions_path()}: {len(without)} videos of {self.lists[split]} have no caption, "
                f"{shown_all(without)}; the two files do not belong together"
            )
        return [Sample(video, self._captions[video]) for video in ids]

    def _captions_path(self) -> Path:
        if self.captions_file:
            return self.root / self.captions_file
        found = next((self.root / name for name in _CAPTIONS if is_file(self.root / name)), None)
        if found is None:
            raise MissingFileError(
                f"no captions in {self.root}: none of {', '.join(_CAPTIONS)}; set data.root, or data.captions_file"
            )
        return found


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Captions by video id; a caption is a string or a list of tokens.

    Raises:
        DataError: if the file is of another shape; it names the video.
    """
    is_pickle = path.suffix.lower() in (".pkl", ".pickle", ".p")
    data = read_plain_pickle(path) if is_pickle else read_json(path)
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: expected captions by video id, found {described(data)}; wrong file?")
    captions = {}
    for video, given in data.items():
        where = f"{path}: video {shown(video)}"
        if not isinstance(video, str) or not isinstance(given, list):
            raise DataError(f"{where}: expected a list of captions, found {described(given)}")
        captions[video] = tuple(_caption(caption, where) for caption in given)
    return captions


def _caption(given: Any, where: str) -> str:
    if isinstance(given, str):
        return plain_text(given)
    if isinstance(given, (list, tuple)) and all(isinstance(token, str) for token in given):
        return plain_text(" ".join(given))
    raise DataError(f"{where}: a caption is neither text nor a list of words")
