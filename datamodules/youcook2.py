"""YouCook2 as clip retrieval, from the files the field distributes (Zhou et al., arXiv 1703.09788)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from petl_bench.data.annotations import Record, one_line, read_json, read_table
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.samples import Protocol, Sample, Split
from petl_bench.errors import DataError, MissingFileError
from petl_bench.inputs import Moment
from petl_bench.storage.untrusted import described, is_file, plain_text, shown, shown_all, whole_number

_PROTOCOLS = {
    "mil-nce": Protocol(
        "youcook2-mil-nce/v1",
        {"train": 10_337, "test": 3_350},
        {"train": 10_337, "test": 3_350},
        files={"train": 1_333, "test": 436},
    ),
    "validation": Protocol(
        "youcook2-validation/v1",
        {"train": 10_337, "test": 3_492},
        {"train": 10_337, "test": 3_492},
        files={"train": 1_333, "test": 457},
    ),
}
#: what the annotations call the splits; those of `testing` have no captions
_SUBSETS = {"training": "train", "validation": "test", "testing": None}


class YouCook2(VideoTextDataModule):
    """YouCook2: the steps of cooking videos, each a clip of whole seconds with one caption.

    Each caption of the test split ranks its clips. `mil-nce`, which most papers follow, leaves out the 21 validation
    videos that are in HowTo100M, `validation` takes them all; there is no split to choose an epoch by (`val_videos`
    holds out whole training videos). Captions repeat (81 of the validation split), and one clip is annotated twice:
    such ties count against a method. Ids of clips are `<YouTube id>_<number>`; ids of videos may begin with `-`. A
    fifth of the videos or more are gone from YouTube.

    Args:
        root: folder with the annotation files and, below it, the videos, in whatever folders.
        split_protocol: `mil-nce` (3,350 clips of 436 videos), or `validation` (3,492 of 457).
        annotations_file: the official JSON (`database`, by video: `subset`, `duration`, `annotations`).
        test_list: table with `video_id` to which the validation split is restricted: MIL-NCE's rows (with `start`,
            `end`, `text`, each of which has to be in the JSON), or videos alone (UniVL's `youcookii_val.csv`). Null
            takes `validation_youcook.csv` for `mil-nce`, and all for `validation`.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "youcook2"

    def __init__(
        self,
        root: Path,
        split_protocol: Literal["mil-nce", "validation"] = "mil-nce",
        annotations_file: str = "youcookii_annotations_trainval.json",
        test_list: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.split_protocol = split_protocol
        self.annotations_file = annotations_file
        self.test_list = test_list or ("validation_youcook.csv" if split_protocol == "mil-nce" else None)

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOLS[self.split_protocol]

    def annotation_files(self) -> dict[str, Path]:
        files = {"annotations": self.root / self.annotations_file}
        return files | ({"test_list": self.root / self.test_list} if self.test_list else {})

    def annotations(self, split: Split) -> list[Sample]:
        clips = self._clips.get(split, [])
        if split != "test" or not self.test_list:
            return clips
        path = self.root / self.test_list
        if not is_file(path):
            raise MissingFileError(
                f"no list of test clips at {path.absolute()}: get MIL-NCE's csv/validation_youcook.csv, set "
                "data.test_list, or set data.split_protocol validation, which takes all"
            )
        return list(listed(path, clips))

    @cached_property
    def _clips(self) -> dict[str, list[Sample]]:
        return read_clips(self.root / self.annotations_file)


def read_clips(path: Path) -> dict[str, list[Sample]]:
    """The clips of the official file by split, in its order.

    Raises:
        DataError: if the file or a record is of another shape, or a clip is not within its video; it names the video.
    """
    data = read_json(path)
    database = data.get("database") if isinstance(data, dict) else None
    if not isinstance(database, dict) or not database:
        raise DataError(f"{path}: expected videos by id in 'database', found {described(data)}; wrong file?")
    clips: dict[str, list[Sample]] = {}
    for video, given in database.items():
        record = Record(given if isinstance(given, dict) else {}, f"{path}: video {shown(video)}")
        subset = record.name("subset")
        if subset not in _SUBSETS:
            raise record.error("subset", f"one of {', '.join(_SUBSETS)}")
        if split := _SUBSETS[subset]:
            clips.setdefault(split, []).extend(_of_video(plain_text(video), record))
    return clips


def _of_video(video: str, record: Record) -> Iterator[Sample]:
    duration = record.seconds("duration")
    for place, given in enumerate(record.items("annotations")):
        where = f"{record.where}, annotation {place}"
        one = Record(given if isinstance(given, dict) else {}, where)
        ends = [whole_number(second) for second in one.items("segment")]
        if len(ends) != 2 or ends[0] is None or ends[1] is None or not 0 <= ends[0] < ends[1]:
            raise one.error("segment", "two whole seconds, the first before the second")
        if ends[1] > math.ceil(duration):
            raise DataError(f"{where}: it ends at second {ends[1]}, and its video at {duration:g}")
        moment = Moment(ends[0], ends[1])
        yield Sample(f"{video}_{one.whole('id', 0)}", (one.caption("sentence"),), moment, file=video)


def listed(path: Path, clips: Sequence[Sample]) -> Iterator[Sample]:
    """The clips that a table lists: each one by its row, or all of a video.

    Raises:
        DataError: a row is of no clip that there is, or stands twice; it names the row.
    """
    videos = {clip.file for clip in clips}
    known = {(clip.file, clip.moment.start, clip.moment.end, clip.captions[0]): clip for clip in clips}
    records = read_table(path, ("video_id",))
    if not records:
        raise DataError(f"{path} has a header and no records")
    rows: dict[str, str] = {}
    for record in records:
        video = record.name("video_id")
        if video not in videos:
            raise DataError(f"{record.where}: {shown(video)} is no video of the validation split")
        found = _of_row(record, known) if record.has("text") else [clip for clip in clips if clip.file == video]
        for clip in found:
            if other := rows.get(clip.video):
                raise DataError(f"{record.where}: clip {shown(clip.video)} is listed twice (see {Path(other).name})")
            rows[clip.video] = record.where
            yield clip


def _of_row(record: Record, known: Mapping[tuple[Any, ...], Sample]) -> list[Sample]:
    video, start, end = record.name("video_id"), record.whole("start", 0), record.whole("end", 0)
    clip = known.get((video, start, end, one_line(record.text("text"))))
    if clip is None:
        near = [one.captions[0] for key, one in known.items() if key[:3] == (video, start, end)]
        told = f", but {shown_all(near)}" if near else ""
        raise DataError(
            f"{record.where}: seconds {start} to {end} of {shown(video)} are not described so in the annotations{told}"
        )
    return [clip]
