"""The base of image-text retrieval on Karpathy's splits (specs/datasets.md sections 4.2 and 4.3)."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from petl_bench.data.annotations import read_lines, read_records, read_section
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.data.samples import Sample, Split
from petl_bench.errors import DataError
from petl_bench.untrusted import is_file

#: Karpathy's own names of what belongs to each split
_KARPATHY = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


class KarpathyDataModule(VideoTextDataModule):
    """Images with about five captions each. Subclasses say which files and counts.

    Image-to-text recall in the literature is the rank of an image's best caption among all captions: `v2t_captions`
    in the tables (`v2t` ranks caption sets). The images are clips of one frame.

    Args:
        root: folder with the annotation files and, below it, the images.
        train_file: BLIP's JSON: records with `image` and `caption`, a string or a list; null takes BLIP's usual name.
        val_file: the same for validation.
        test_file: the same for the test split.
        karpathy_file: Karpathy's own JSON of all splits in place of the three, e.g. `dataset_coco.json`.
        **kwargs: see `VideoTextDataModule`.
    """

    suffixes = IMAGE_SUFFIXES
    #: BLIP's names of the files by split
    file_names: ClassVar[dict[str, str]]
    #: lists of image names that exist without captions, by split
    list_names: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        root: Path,
        train_file: str | None = None,
        val_file: str | None = None,
        test_file: str | None = None,
        karpathy_file: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        given = {"train": train_file, "val": val_file, "test": test_file}
        self.files = {split: name or self.file_names[split] for split, name in given.items()}
        self.karpathy_file = karpathy_file

    @abstractmethod
    def hint(self, split: Split, images: int) -> str:
        """What a wrong number of images may come from; empty if nobody knows."""

    def annotation_files(self) -> dict[str, Path]:
        if self.karpathy_file:
            return {"captions": self.root / self.karpathy_file}
        return {split: self.root / name for split, name in self.files.items()}

    def file_option(self, role: str) -> str | None:
        return "karpathy_file" if role == "captions" else super().file_option(role)

    def video_ids(self, split: Split) -> list[str]:
        lists = [self.root / name for name in self.list_names.get(split, ())]
        if self.karpathy_file or is_file(self.root / self.files[split]) or not all(map(is_file, lists)):
            return super().video_ids(split)
        return [image_id(line.split()[0]) for path in lists for line in read_lines(path)]

    def annotations(self, split: Split) -> list[Sample]:
        captions = self._karpathy(split) if self.karpathy_file else read_captions(self.root / self.files[split])
        if not self.partial and (hint := self.hint(split, len(captions))):
            raise DataError(f"{self.protocol.id}: {split} split has {len(captions)} images: {hint}")
        return [Sample(image, tuple(texts)) for image, texts in captions.items()]

    def _karpathy(self, split: Split) -> dict[str, list[str]]:
        captions: dict[str, list[str]] = {}
        for record in read_section(self.root / str(self.karpathy_file), "images"):
            image, texts = image_id(record.name("filename")), record.strings_of("sentences", "raw")
            if record.name("split") in _KARPATHY[split]:
                captions.setdefault(image, []).extend(texts)
        return captions


def read_captions(path: Path) -> dict[str, list[str]]:
    """Captions by image of a JSON file in BLIP's shape, where an image may stand in several rows.

    Raises:
        DataError: if a record is of another shape; it is named.
    """
    captions: dict[str, list[str]] = {}
    for record in read_records(path):
        captions.setdefault(image_id(record.name("image")), []).extend(record.strings("caption"))
    return captions


def image_id(name: str) -> str:
    """The stem of an image's path, `val2014/COCO_val2014_000000262148.jpg`: names differ without their folders."""
    base = name.rsplit("/", 1)[-1]
    stem, dot, suffix = base.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else base
