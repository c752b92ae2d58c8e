"""Minimal pairs: generated clips of which two differ in one respect, the diagnostic benchmark's own questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from petl_bench.data.annotations import Record, read_records
from petl_bench.data.choice import WHICH_CAPTION, ChoiceDataModule, choice_question
from petl_bench.data.qa import Asked
from petl_bench.data.samples import REVERSED, Protocol, Sample, Split, require_forward, shown_as_named

#: what `petl-bench fixture --layout pairs` writes: of three axes one file stands for both clips of a pair
_PROTOCOL = Protocol("minimal-pairs/v1", {"test": 2100}, {"test": 2100}, files={"test": 1650})
#: respects in which two clips differ; of a pair of the first three the second clip is the first one in reverse
AXES = ("direction", "order", "relation", "appearance", "binding", "speed", "repetitions")


class MinimalPairs(ChoiceDataModule):
    """Which of two captions describes a clip, where captions and clips of a pair differ in one respect; no training.

    Types are the respects (`AXES`). Of direction, order and relation the second clip is the first one in reverse: a
    model that does not read the order of frames gets 50.0 to the last digit. Of speed and repetitions the
    frames differ, or how often each occurs, and nothing of that kind is claimed.

    Args:
        root: folder with the file and, below it, the clips (`petl-bench fixture DIR --layout pairs`).
        test_file: JSON, a list of objects with `video`, `reverse`, `axis`, `caption` and `foil`.
        **kwargs: see `VideoTextDataModule`.
    """

    name = "minimal_pairs"
    evaluation_only = True
    options_each = 2

    def __init__(self, root: Path, test_file: str = "pairs.json", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.test_file = test_file

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def annotation_files(self) -> dict[str, Path]:
        return {"test": self.root / self.test_file}

    def questions(self, split: Split) -> Iterator[Asked]:
        if split != "test":
            return
        for record in read_records(self.root / self.test_file):
            video = _clip(record)
            options = self.options_of(record, (record.text("caption"), record.text("foil")))
            yield Asked(video, WHICH_CAPTION, choice_question(video, _axis(record), options, 0), record.where)

    def annotations(self, split: Split) -> list[Sample]:
        return [shown_as_named(sample) for sample in super().annotations(split)]


def _clip(record: Record) -> str:
    """The id of the clip that a record is about, which says whether it is shown in reverse."""
    video, backwards = record.name("video"), record.values.get("reverse")
    if not isinstance(backwards, bool):
        raise record.error("reverse", "true or false")
    require_forward(video, record.where)
    return video + REVERSED * backwards


def _axis(record: Record) -> str:
    axis = record.name("axis")
    if axis not in AXES:
        raise record.error("axis", f"one of {', '.join(AXES)}")
    return axis
