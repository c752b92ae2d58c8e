"""The base of image-text retrieval on Karpathy's splits (Karpathy and Fei-Fei, arXiv 1412.2306)."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from petl_bench.data.annotations import read_lines, read_records, read_section
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.clip_files import outside
from petl_bench.data.images import IMAGE_SUFFIXES
from petl_bench.data.samples import Sample, Split
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import is_file

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
        return list(self.video_names(split))

    def video_names(self, split: Split) -> dict[str, tuple[str, ...]]:
        lists = [self.root / name for name in self.list_names.get(split, ())]
        if self.karpathy_file or is_file(self.root / self.files[split]) or not all(map(is_file, lists)):
            return {sample.video: sample.names for sample in self.annotations(split)}
        listed = [line.split()[0] for path in lists for line in read_lines(path)]
        return {image_id(name): image_names(name) for name in listed}

    def annotations(self, split: Split) -> list[Sample]:
        rows = self._karpathy(split) if self.karpathy_file else read_captions(self.root / self.files[split])
        captions: dict[str, list[str]] = {}
        ids: dict[str, list[str]] = {}
        names: dict[str, tuple[str, ...]] = {}
        for name, texts, labels in rows:
            captions.setdefault(image_id(name), []).extend(texts)
            ids.setdefault(image_id(name), []).extend(labels)
            names.setdefault(image_id(name), image_names(name))
        if not self.partial and (hint := self.hint(split, len(captions))):
            raise DataError(f"{self.protocol.id}: {split} split has {len(captions)} images: {hint}")
        return [
            Sample(image, tuple(texts), names=names[image], caption_ids=tuple(ids[image]))
            for image, texts in captions.items()
        ]

    def _karpathy(self, split: Split) -> list[CaptionedImage]:
        rows = []
        for record in read_section(self.root / str(self.karpathy_file), "images"):
            name, texts = record.name("filename"), record.strings_of("sentences", "raw")
            if record.name("split") in _KARPATHY[split]:
                folder = f"{record.name('filepath')}/" if record.has("filepath") else ""  # COCO's images have one
                rows.append(CaptionedImage(folder + name, texts, record.labels_of("sentences", "sentid")))
        return rows


class CaptionedImage(NamedTuple):
    """A row of a file: the image's path, its captions, and what the file calls each of them, if it does."""

    image: str
    captions: tuple[str, ...]
    caption_ids: tuple[str, ...] = ()


def read_captions(path: Path) -> list[CaptionedImage]:
    """Images and captions of a JSON file in BLIP's shape, where an image may stand in several rows.

    Raises:
        DataError: if a record is of another shape; it is named.
    """
    return [CaptionedImage(record.name("image"), record.strings("caption")) for record in read_records(path)]


def image_id(name: str) -> str:
    """The stem of an image's path, `val2014/COCO_val2014_000000262148.jpg`: names differ without their folders."""
    base = name.rsplit("/", 1)[-1]
    stem, dot, suffix = base.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else base


def image_names(name: str) -> tuple[str, ...]:
    """What to look for an image by: its path, and its id, as folders of images are named in many ways."""
    return () if outside(name) else (name, image_id(name))
