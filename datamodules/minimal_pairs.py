"""Minimal pairs: generated clips of which two differ in one respect, the diagnostic benchmark's own questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from petl_bench.data.annotations import read_records
from petl_bench.data.choice import ChoiceDataModule, choice_question
from petl_bench.data.qa import Asked
from petl_bench.data.samples import REVERSED, Protocol, Sample, Split

#: what `petl-bench fixture --layout pairs` writes: of three axes one file stands for both clips of a pair
_PROTOCOL = Protocol("minimal-pairs/v1", {"test": 2100}, {"test": 2100}, files={"test": 1650})
_QUESTION = "which caption describes the clip"


class MinimalPairs(ChoiceDataModule):
    """Which of two captions describes a clip, where captions and clips of a pair differ in one respect; no training.

    Types are the respects: appearance, binding, direction, order, relation, speed, repetitions. Of direction, order and
    relation the second clip is the first one in reverse: a model that does not read the order of frames ties, and gets
    50.0 to the last digit. Of speed and repetitions the sets of frames differ, and nothing of that kind is claimed.

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
            if (backwards := record.values.get("reverse")) not in (True, False):
                raise record.error("reverse", "true or false")
            video = record.name("video") + (REVERSED if backwards else "")
            options = self.options_of(record, (record.text("caption"), record.text("foil")))
            question = choice_question(video, record.name("axis"), options, 0)
            yield Asked(video, _QUESTION, question, record.where)

    def annotations(self, split: Split) -> list[Sample]:
        return [
            replace(sample, file=sample.video.removesuffix(REVERSED), reverse=sample.video.endswith(REVERSED))
            for sample in super().annotations(split)
        ]
