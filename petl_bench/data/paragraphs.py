"""The base of paragraph-to-video data modules: all sentences about a clip, joined, are its one caption."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.samples import Sample, Split
from petl_bench.errors import DataError
from petl_bench.inputs import WHOLE, Moment


class Paragraph(NamedTuple):
    """The sentences about one clip in the order of the protocol; `moment` and `names` as in `Sample`."""

    video: str
    sentences: tuple[str, ...]
    moment: Moment = WHOLE
    names: tuple[str, ...] = ()


class ParagraphDataModule(VideoTextDataModule):
    """Clips with one paragraph each. Subclasses read annotation files."""

    @abstractmethod
    def paragraphs(self, split: Split) -> list[Paragraph]:
        """The paragraphs of a split in file order; an empty list if the protocol has no such split."""

    def sentence_count(self, split: Split) -> int:
        """Sentences that the paragraphs of a split are joined from."""
        return sum(len(paragraph.sentences) for paragraph in self.paragraphs(split))

    def annotations(self, split: Split) -> list[Sample]:
        paragraphs = self.paragraphs(split)
        found, expected = sum(len(p.sentences) for p in paragraphs), self.protocol.sentences.get(split)
        if expected is not None and found != expected and not self.partial:
            raise DataError(
                f"{self.protocol.id}: {split} split has {found} sentences, expected {expected}: a file is cut or of "
                "another protocol; for a subset on purpose set data.partial true, which marks the run"
            )
        return [Sample(p.video, (join(p.sentences),), p.moment, names=p.names) for p in paragraphs]


def join(sentences: Sequence[str]) -> str:
    """One line; sentences come with leading spaces, double spaces and newlines."""
    return " ".join(" ".join(sentences).split())
