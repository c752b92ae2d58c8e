"""RTime, clips that are told from their reverse (Du et al., "Reversed in Time", ACM MM 2024, arXiv 2412.19178)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from petl_bench.data.annotations import Record, one_line, read_json
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.batch import Question, WhichWay
from petl_bench.data.choice import WHICH_CAPTION, ChoiceDataModule, choice_question
from petl_bench.data.qa import Asked
from petl_bench.data.samples import REVERSED, Protocol, Sample, Split, require_forward, shown_as_named
from petl_bench.errors import DataError
from petl_bench.storage.untrusted import described, plain_text, shown

#: counts of the training split differ from copy to copy, and are not asserted
_PROTOCOLS = {
    "origin": Protocol("rtime-origin/v1", {"val": 500, "test": 1000}, {"val": 500, "test": 1000}),
    "hard": Protocol(
        "rtime-hard/v1", {"val": 1000, "test": 2000}, {"val": 1000, "test": 2000}, files={"val": 500, "test": 1000}
    ),
}
_BINARY = Protocol(
    "rtime-binary/v1", {"val": 1000, "test": 2000}, {"val": 2000, "test": 4000}, files={"val": 500, "test": 1000}
)


@dataclass(frozen=True)
class Entry:
    """What the annotations say of one video.

    Attributes:
        video: its id.
        forward: captions of the video.
        backward: captions of the video shown in reverse; empty where it cannot be told from the video.
        rewritten: what a language model made of `forward`.
        rewritten_backward: the same of `backward`.
        where: its place, for messages.
    """

    video: str
    forward: tuple[str, ...]
    backward: tuple[str, ...]
    rewritten: tuple[str, ...]
    rewritten_backward: tuple[str, ...]
    where: str


class Entries:
    """The three files of RTime, which are objects by video id."""

    def __init__(self, root: Path, files: dict[str, str]) -> None:
        self.paths = {split: root / name for split, name in files.items()}
        self._read: dict[str, list[Entry]] = {}

    def of(self, split: Split) -> list[Entry]:
        """The entries of a split in file order; outside training each has one caption of either kind.

        Raises:
            DataError: the file or an entry is of another shape; it names the video.
        """
        if split not in self._read:
            self._read[split] = list(read_entries(self.paths[split], one_caption=split != "train"))
        return self._read[split]


class RTime(VideoTextDataModule):
    """RTime: retrieval among 1,000 videos, or among these and the same shown in reverse.

    `origin`: 1,000 captions rank 1,000 videos. `hard`: 2,000 captions rank 2,000 clips, each video and its reverse,
    which are the same frames in the opposite order; half of the clips that are trained on are reversed, too. Videos are
    Shutterstock's, `<number>.mp4`. One caption in six has more than 32 tokens: what tells the two ways apart may stand
    at its end, so `max_words` is 77. No evaluation code is public; that each clip is ranked once, by its own caption,
    follows from the paper's sizes.

    Who does not read the order of frames cannot tell a clip of `hard` from its reverse, and does not quite tie either:
    the same frames summed the other way round give cosines that differ by rounding (by at most 9e-8 in fp32), so that
    chance settles which of the two ranks first, and may settle it otherwise with another `eval_batch_size`. About half
    of the R@1 that such a model could have is lost, and ranks that differ by one tell nothing of order: `RTimeBinary`
    does, where such ties count 1/2.

    Args:
        root: folder with the annotation files and, below it, the videos.
        split_protocol: `origin` or `hard`.
        rewrites: train on the nine rewritings of each caption, too (`train_captions: all` makes ten rows of a clip).
            Validation and test never use them.
        train_file: training entries.
        val_file: validation entries.
        test_file: test entries.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "rtime"

    def __init__(
        self,
        root: Path,
        split_protocol: Literal["origin", "hard"] = "origin",
        rewrites: bool = False,
        train_file: str = "train.json",
        val_file: str = "valid.json",
        test_file: str = "test.json",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.split_protocol: Literal["origin", "hard"] = split_protocol
        self.rewrites = rewrites
        self.files = {"train": train_file, "val": val_file, "test": test_file}

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOLS[self.split_protocol]

    def annotation_files(self) -> dict[str, Path]:
        return self._entries.paths

    def annotations(self, split: Split) -> list[Sample]:
        rewrites = self.rewrites and split == "train"
        entries = self._entries.of(split)
        forward = [Sample(one.video, one.forward + one.rewritten * rewrites) for one in entries]
        if self.split_protocol == "origin":
            return forward
        return [sample for one, own in zip(entries, forward, strict=True) for sample in _both(one, own, rewrites)]

    @cached_property
    def _entries(self) -> Entries:
        return Entries(self.root, self.files)


class RTimeBinary(ChoiceDataModule):
    """RTime-Binary: is it the video or its reverse? Chance is 50 %, and exactly that is what frames without order get.

    Of each of 1,000 videos four questions. `v2t`: which of the two captions describes the video, and which the reverse?
    `t2v`: which of the two clips does the one caption describe, and which the other? Figures of both ways stand by
    their names; ties count 1/2, and two test videos have one caption for both ways, which ties by itself. For the task
    `choice`.

    Args:
        root: folder with the annotation files and, below it, the videos.
        train_file: training entries; of those that cannot be told from their reverse nothing is asked.
        val_file: validation entries.
        test_file: test entries.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "rtime_binary"
    repeats_options: ClassVar[bool] = True

    def __init__(
        self,
        root: Path,
        train_file: str = "train.json",
        val_file: str = "valid.json",
        test_file: str = "test.json",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.files = {"train": train_file, "val": val_file, "test": test_file}

    @property
    def protocol(self) -> Protocol:
        return _BINARY

    def annotation_files(self) -> dict[str, Path]:
        return self._entries.paths

    def annotations(self, split: Split) -> list[Sample]:
        return [shown_as_named(sample) for sample in super().annotations(split)]

    def questions(self, split: Split) -> Iterator[Asked]:
        for entry in self._entries.of(split):
            if entry.backward:
                yield from _asked(entry)

    @cached_property
    def _entries(self) -> Entries:
        return Entries(self.root, self.files)


def _both(entry: Entry, forward: Sample, rewrites: bool) -> Iterator[Sample]:
    """A video and, where it has captions in reverse, that clip of it."""
    yield replace(forward, file=entry.video)
    if entry.backward:
        captions = entry.backward + entry.rewritten_backward * rewrites
        yield Sample(f"{entry.video}{REVERSED}", captions, file=entry.video, reverse=True)


def _asked(entry: Entry) -> Iterator[Asked]:
    """The four questions about a video, those about clips with the clip as it is."""
    clips = (entry.video, f"{entry.video}{REVERSED}")
    captions = (entry.forward[0], entry.backward[0])
    for place, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        of_captions = choice_question(f"{clip}_v2t", "v2t", captions, place)
        yield Asked(clip, WHICH_CAPTION, of_captions, entry.where)
        of_clips = Question(f"{clip}_t2v", "t2v", (clip,), 1.0, clips, place, caption)
        yield Asked(clips[0], caption, WhichWay(*of_clips), entry.where)


def read_entries(path: Path, one_caption: bool) -> Iterator[Entry]:
    """The entries of a file in its order.

    Args:
        path: JSON object by video id.
        one_caption: whether each has to have one caption of the video, and one of its reverse.

    Raises:
        DataError: the file or an entry is of another shape; it names the video.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: expected objects by video id, found {described(data)}; wrong file?")
    for video, given in data.items():
        where = f"{path}: video {shown(video)}"
        if not isinstance(given, dict):
            raise DataError(f"{where}: expected an object with forward_captions, found {described(given)}")
        yield _entry(plain_text(video), Record(given, where), one_caption)


def _entry(video: str, record: Record, one_caption: bool) -> Entry:
    require_forward(video, record.where)
    forward, backward = _captions(record, "forward_captions"), _captions(record, "reverse_captions")
    if not forward:
        raise record.error("forward_captions", "a list of captions")
    reversible = record.values.get("reverse", True)
    if not isinstance(reversible, bool):
        raise record.error("reverse", "true or false")
    backward = backward if reversible else ()
    for key, captions in (("forward_captions", forward), ("reverse_captions", backward)):
        if one_caption and len(captions) != 1:
            raise DataError(f"{record.where}: {len(captions)} captions in '{key}', one is expected outside training")
    rewritten = _captions(record, "forward_rewrites"), _captions(record, "reverse_rewrites")
    return Entry(video, forward, backward, *rewritten, record.where)


def _captions(record: Record, key: str) -> tuple[str, ...]:
    """Captions, each as one line; none where the list is empty or missing."""
    listed = record.values.get(key)
    if listed is None or listed == []:
        return ()
    texts = tuple(map(one_line, record.strings(key)))
    if not all(texts):
        raise DataError(f"{record.where}: a text in '{key}' is blank")
    return texts
