"""VITATECS, captions and what they would be if one aspect were another (Li et al., CVPR 2024, arXiv 2311.17404)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pytorch_lightning.utilities import rank_zero_warn

from petl_bench.data.annotations import Record, read_records
from petl_bench.data.choice import WHICH_CAPTION, ChoiceDataModule, choice_question
from petl_bench.data.clip_files import VIDEO_SUFFIXES
from petl_bench.data.qa import Asked
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError, MissingFileError
from petl_bench.storage.untrusted import is_file, shown

Aspect = Literal["all", "direction", "intensity", "sequence", "localization", "compositionality", "type"]
Source = Literal["all", "msrvtt", "vatex"]
_ASPECTS = ("direction", "intensity", "sequence", "localization", "compositionality", "type")
_SOURCES = {"MSRVTT": "msrvtt", "VATEX": "vatex"}
#: where the official repository keeps the files, below the folder or in it
_FOLDERS = ("", "data")


class _Count(NamedTuple):
    """Questions, and the clips that they are about where that is known."""

    questions: int
    clips: int | None = None


#: by aspect and source; of the parts of the last three aspects no count is known
_COUNTS = {
    ("all", "all"): _Count(13_838),
    ("all", "msrvtt"): _Count(5_399),
    ("all", "vatex"): _Count(8_439),
    ("direction", "all"): _Count(3_800, 2_646),
    ("direction", "msrvtt"): _Count(1_158, 778),
    ("direction", "vatex"): _Count(2_642, 1_868),
    ("intensity", "all"): _Count(779, 692),
    ("intensity", "msrvtt"): _Count(232, 195),
    ("intensity", "vatex"): _Count(547, 497),
    ("sequence", "all"): _Count(151, 150),
    ("sequence", "msrvtt"): _Count(23, 23),
    ("sequence", "vatex"): _Count(128, 127),
    ("localization", "all"): _Count(1_053),
    ("compositionality", "all"): _Count(1_450),
    ("type", "all"): _Count(6_605),
}


class VITATECS(ChoiceDataModule):
    """VITATECS: does a caption describe a clip better than its counterfactual? Of six aspects; no training.

    The clips are those of MSR-VTT's full test split and of VATEX's public test: put both below the folder of clips, or
    links to both. Who has MSR-VTT's alone takes `source: msrvtt`. Direction and sequence are about the order of time.
    Accuracy stands by aspect. The official script counts a pair where the caption's score is greater; here a tie counts
    1/2, which is more only where scores are equal. An adapter that saw a clip in training is refused: of MSR-VTT train
    on `split_protocol: 1kA-7k` or `full`, as two thirds of its clips are in 1k-A's 9k.

    Args:
        root: folder with the six files (`Direction.jsonl`, ...), or with a folder `data` of them, and, below it, the
            clips.
        aspect: `all`, or the one that is asked about.
        source: `all`, or the dataset whose clips are asked about: `msrvtt` (5,399 of 13,838 questions) or `vatex`.
        **kwargs: see `VideoTextDataModule`. With `partial`, aspects whose files are not there are left out.
    """

    name = "vitatecs"
    evaluation_only = True

    def __init__(self, root: Path, aspect: Aspect = "all", source: Source = "all", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.aspect: Aspect = aspect
        self.source: Source = source

    @property
    def protocol(self) -> Protocol:
        parts = [part for part in (self.aspect, self.source) if part != "all"]
        count = _COUNTS.get((self.aspect, self.source))
        return Protocol(
            "-".join(("vitatecs", *parts)) + "/v1",
            {"test": count.clips} if count and count.clips else {},
            {"test": count.questions} if count else {},
        )

    def annotation_files(self) -> dict[str, Path]:
        files = self._files_there()
        missing = [_file_name(aspect) for aspect in self._aspects if aspect not in files]
        if missing and not (files and self.partial):
            told = f"no {', '.join(missing)} in {self.root.absolute()}, nor in a folder data of it"
            raise MissingFileError(f"{told}: set data.root, or data.aspect to one that is there")
        return files

    def video_ids(self, split: Split) -> list[str]:
        """The clips that the files name that are there."""
        if split != "test":
            return []
        files = self._files_there()
        return list(dict.fromkeys(asked.video for aspect in files for asked in self._asked(aspect, files[aspect])))

    def questions(self, split: Split) -> Iterator[Asked]:
        if split != "test":
            return
        files = self.annotation_files()
        if left_out := [_file_name(aspect) for aspect in self._aspects if aspect not in files]:
            rank_zero_warn(f"{self.root}: {', '.join(left_out)} not there, and left out")
        for aspect, path in files.items():
            yield from self._asked(aspect, path)

    @property
    def _aspects(self) -> tuple[str, ...]:
        return _ASPECTS if self.aspect == "all" else (self.aspect,)

    def _files_there(self) -> dict[str, Path]:
        """The files of the aspects that are asked about, by aspect."""
        places = {aspect: [self.root / folder / _file_name(aspect) for folder in _FOLDERS] for aspect in self._aspects}
        return {aspect: next(filter(is_file, found)) for aspect, found in places.items() if any(map(is_file, found))}

    def _asked(self, aspect: str, path: Path) -> Iterator[Asked]:
        for place, record in enumerate(read_records(path)):
            if record.name("aspect").lower() != aspect:
                raise record.error("aspect", f"that of the file, {aspect.capitalize()}")
            source = record.name("src_dataset")
            if source not in _SOURCES:
                raise record.error("src_dataset", f"one of {', '.join(_SOURCES)}")
            options = self.options_of(record, (record.text("caption"), record.text("counterfactual")))
            if self.source in ("all", _SOURCES[source]):
                question = choice_question(f"{aspect}_{place}", aspect, options, 0)
                yield Asked(_clip(record), WHICH_CAPTION, question, record.where)


def _file_name(aspect: str) -> str:
    return f"{aspect.capitalize()}.jsonl"


def _clip(record: Record) -> str:
    """The clip that a record names by its file.

    Raises:
        DataError: it names none.
    """
    name = record.name("video_name")
    stem, _, suffix = name.rpartition(".")
    if not stem or f".{suffix.lower()}" not in VIDEO_SUFFIXES:
        raise DataError(f"{record.where}: 'video_name' is {shown(name)}, not the name of a video file")
    return stem
