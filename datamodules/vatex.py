"""VATEX, read from the files the field distributes (Wang et al., arXiv 1904.03493)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from petl_bench.data.annotations import Record, one_line, read_json, read_numbered
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError, MissingFileError
from petl_bench.storage.untrusted import described, is_file, plain_text, shown, shown_all

#: captions of all splits: HGR's release and TS2-Net; CLIP2Video; VALOR
_CAPTIONS = ("ref_captions.json", "vatex_data.json", "txt_mapper_en.json")
_TRAINING, _VALIDATION = "vatex_training_v1.0.json", "vatex_validation_v1.0.json"
_PUBLIC = "vatex_public_test_english_v1.1.json"
#: a YouTube id of 11 characters, `_` and `-` among them, and the first and the last second
_ID = re.compile(r"[\w-]{11}_[0-9]{6}_[0-9]{6}", re.ASCII)

_HGR = {"train": "train_list.txt", "val": "val_list.txt", "test": "test_list.txt"}
_TRAIN = 25_991


class _Variant(NamedTuple):
    """A protocol, the file that lists each of its splits (None: whatever has captions), and what a query is."""

    protocol: Protocol
    lists: Mapping[str, str | None]
    queries: Callable[[tuple[str, ...]], tuple[str, ...]]
    #: the official files with captions of validation and test
    official: tuple[str, str] = (_VALIDATION, _VALIDATION)


def _each(captions: tuple[str, ...]) -> tuple[str, ...]:
    return captions


def _first(captions: tuple[str, ...]) -> tuple[str, ...]:
    return captions[:1]


def _joined(captions: tuple[str, ...]) -> tuple[str, ...]:
    return (" ".join(captions),)


_VARIANTS = {
    "hgr": _Variant(
        Protocol(
            "vatex-hgr/v1",
            {"train": _TRAIN, "val": 1500, "test": 1500},
            {"train": 10 * _TRAIN, "val": 15_000, "test": 15_000},
        ),
        _HGR,
        _each,
    ),
    "random-1k5": _Variant(
        Protocol(
            "vatex-random-1k5/v1", {"train": _TRAIN, "val": 724, "test": 1500}, {"train": 10 * _TRAIN, "test": 15_000}
        ),
        {**_HGR, "test": "test1k5_sec_list.txt"},
        _each,
    ),
    "joined": _Variant(
        Protocol("vatex-joined/v1", {"train": _TRAIN, "val": 1500, "test": 1500}, {"val": 1500, "test": 1500}),
        {**_HGR, "val": "val_list_split1.txt", "test": "val_list_split2.txt"},
        _joined,
    ),
    "public": _Variant(
        Protocol("vatex-public/v1", {"train": _TRAIN, "val": 3000, "test": 6000}, {"train": 10 * _TRAIN}),
        {"train": None, "val": None, "test": None},
        _each,
        (_VALIDATION, _PUBLIC),
    ),
    "public-1k": _Variant(
        Protocol("vatex-public-1k/v1", {"train": _TRAIN, "val": 1500, "test": 1000}, {"test": 1000}),
        {**_HGR, "test": "test_1k_list.txt"},
        _first,
        (_VALIDATION, _PUBLIC),
    ),
}


class VATEX(VideoTextDataModule):
    """VATEX: YouTube clips of 10 seconds with ten English captions each.

    At least five test sets are called VATEX's. `hgr` is the one of most papers: 1,500 videos of the official validation
    set, the other 1,500 of which validate; each of the 15,000 captions is a query. Ids are `<YouTube id>_<start>_<end>`
    with six digits each; many YouTube ids begin with `-` or hold `_`. Videos are gone from YouTube, and much code drops
    those from gallery and queries: figures on fewer than 1,500 are marked as incomplete here.

    Args:
        root: folder with the annotation files and, below it, the clips.
        split_protocol: `hgr`; `random-1k5`, CLIP2Video's (724 of HGR's test videos and 776 of its validation videos,
            which are left out of validation); `joined`, collaborative-experts' halves with the captions of a video
            joined into one query; `public`, the official public test (6,000 videos) with the official validation set;
            `public-1k`, MTEB's 1,000 of these with the first caption.
        captions_file: JSON of all captions: texts by id (HGR's `ref_captions.json`, VALOR's `txt_mapper_en.json`),
            objects with `enCap` by id (CLIP2Video's `vatex_data.json`), or the official list of objects with `videoID`
            and `enCap`. Null takes the first of those names that is there, else the official files for each split.
        train_list: text with one id per line, or a JSON list; null takes the protocol's usual file name.
        val_list: the same for validation.
        test_list: the same for the test split.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "vatex"

    def __init__(
        self,
        root: Path,
        split_protocol: Literal["hgr", "random-1k5", "joined", "public", "public-1k"] = "hgr",
        captions_file: str | None = None,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.split_protocol = split_protocol
        self._variant = _VARIANTS[split_protocol]
        self.captions_file = captions_file
        given = {"train": train_list, "val": val_list, "test": test_list}
        self.lists = dict(self._variant.lists) | {split: name for split, name in given.items() if name}
        self._read: dict[Path, dict[str, tuple[str, ...]]] = {}

    @property
    def protocol(self) -> Protocol:
        return self._variant.protocol

    def annotation_files(self) -> dict[str, Path]:
        captions = {f"{split}_captions": self._captions_path(split) for split in ("train", "val", "test")}
        if len(set(captions.values())) == 1:
            captions = {"captions": captions["train_captions"]}
        return captions | {f"{split}_list": self.root / name for split, name in self.lists.items() if name}

    def video_ids(self, split: Split) -> list[str]:
        name = self.lists[split]
        if name is None:
            return list(self._captions(split))
        ids = read_ids(self.root / name)
        if split != "val" or self.split_protocol != "random-1k5":
            return ids
        tested = set(self.video_ids("test"))
        return [video for video in ids if video not in tested]

    def annotations(self, split: Split) -> list[Sample]:
        ids, captions = self.video_ids(split), self._captions(split)
        without = [video for video in ids if video not in captions]
        if without:
            raise DataError(
                f"{self._captions_path(split)}: {len(without)} videos of {self.lists[split]} have no caption, "
                f"{shown_all(without)}; the two files do not belong together"
            )
        queries = _each if split == "train" else self._variant.queries
        return [Sample(video, queries(captions[video])) for video in ids]

    def _captions(self, split: str) -> dict[str, tuple[str, ...]]:
        path = self._captions_path(split)
        if path not in self._read:
            self._read[path] = read_captions(path)
        return self._read[path]

    def _captions_path(self, split: str) -> Path:
        if self.captions_file:
            return self.root / self.captions_file
        validation, test = self._variant.official
        official = {"train": _TRAINING, "val": validation, "test": test}[split]
        # Where a list says what a split is, a file of all captions will do.
        names = (*_CAPTIONS, official) if self.lists[split] else (official,)
        found = next((self.root / name for name in names if is_file(self.root / name)), None)
        if found is None:
            raise MissingFileError(
                f"no {split} captions in {self.root}: none of {', '.join(names)}; set data.root, or data.captions_file"
            )
        return found


def read_ids(path: Path) -> list[str]:
    """The ids that a text or a JSON list has, in its order.

    Raises:
        DataError: one is no id of VATEX, or given twice; its line is named.
    """
    ids: dict[str, str] = {}
    for where, video in _listed(path):
        if not isinstance(video, str) or not _ID.fullmatch(video.strip()):
            told = f"{shown(video)} is no <YouTube id>_<6 digits>_<6 digits>"
            raise DataError(f"{where}: {told}; another release, which names whole videos?")
        if other := ids.get(video.strip()):
            raise DataError(f"{where}: {shown(video)} is listed twice (see {other.removeprefix(f'{path}, ')})")
        ids[video.strip()] = where
    return list(ids)


def _listed(path: Path) -> list[tuple[str, Any]]:
    if path.suffix.lower() != ".json":
        return [(f"{path}, line {number}", line) for number, line in read_numbered(path)]
    values = read_json(path)
    if not isinstance(values, list) or not values:
        raise DataError(f"{path}: expected a list of ids, found {described(values)}; wrong file?")
    return [(f"{path}, record {place}", value) for place, value in enumerate(values)]


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """English captions by id, of any of the shapes that circulate; each is one line.

    Raises:
        DataError: if the file is of another shape; it names the record.
    """
    data = read_json(path)
    if isinstance(data, dict) and data:
        return {plain_text(video): _texts(given, f"{path}: video {shown(video)}") for video, given in data.items()}
    if not isinstance(data, list) or not data:
        raise DataError(f"{path}: expected captions by id, or a list of records, found {described(data)}; wrong file?")
    captions: dict[str, tuple[str, ...]] = {}
    for place, given in enumerate(data):
        where = f"{path}, record {place}"
        video = Record(given if isinstance(given, dict) else {}, where).name("videoID")
        if video in captions:
            raise DataError(f"{where}: {shown(video)} has captions above, too")
        captions[video] = _texts(given, where)
    return captions


def _texts(given: Any, where: str) -> tuple[str, ...]:
    """The captions of a video: a text, a list of texts, or either by the name of `enCap`."""
    key = "enCap" if isinstance(given, dict) else "captions"
    texts = Record(given if isinstance(given, dict) else {key: given}, where).strings(key)
    captions = tuple(one_line(text) for text in texts)
    if not all(captions):
        raise DataError(f"{where}: caption {captions.index('')} is blank")
    return captions
