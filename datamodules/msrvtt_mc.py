"""MSRVTT-MC, read from the files the field distributes (Yu et al., JSFusion, ECCV 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from petl_bench.data.annotations import Record, read_table
from petl_bench.data.choice import WHICH_CAPTION, ChoiceDataModule, choice_question, chosen_by_index, texts_of
from petl_bench.data.qa import Asked, clip_name, first_file
from petl_bench.data.samples import Protocol, Split
from petl_bench.errors import DataError

_PROTOCOL = Protocol("msrvtt-mc/v1", {"test": 2990}, {"test": 2990})
#: Singularity, VindLU and ViCLIP; All-in-one and InternVideo; ClipBERT; JSFusion
_NAMES = ("msrvtt_mc_test.json", "msrvtt_mc_test.jsonl", "msrvtt_retrieval_mc_test.jsonl", "MSR_MC_test.csv")
#: where the five captions stand: of JSFusion's table in columns of their own
_LISTS, _COLUMNS = ("caption", "options"), ("a1", "a2", "a3", "a4", "a5")


class MSRVTTMC(ChoiceDataModule):
    """MSRVTT-MC: which of five captions describes each of the 2,990 clips of MSR-VTT's full test split; no training.

    It evaluates a model that was trained for retrieval. Of those that were trained on 1k-A's 9k videos, two thirds of
    these clips were seen with their captions: such adapters are refused, train on `split_protocol: 1kA-7k` or `full`.

    Args:
        root: folder with the annotation file and, below it, the clips of MSR-VTT.
        test_file: null takes the first that is there of `msrvtt_mc_test.json` (Singularity, VindLU, ViCLIP),
            `msrvtt_mc_test.jsonl` (All-in-one, InternVideo), `msrvtt_retrieval_mc_test.jsonl` (ClipBERT) and
            `MSR_MC_test.csv` (JSFusion).
        **kwargs: see `VideoTextDataModule`.
    """

    name = "msrvtt_mc"
    evaluation_only = True
    options_each = 5

    def __init__(self, root: Path, test_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.test_file = test_file

    @property
    def protocol(self) -> Protocol:
        return _PROTOCOL

    def annotation_files(self) -> dict[str, Path]:
        return {"test": first_file(self.root, "test", self.test_file, _NAMES)}

    def questions(self, split: Split) -> Iterator[Asked]:
        if split != "test":
            return
        for record in read_table(self.annotation_files()["test"], ("vid_key", *_COLUMNS, "answer")):
            yield self._read(record)

    def _read(self, record: Record) -> Asked:
        listed = next((key for key in _LISTS if record.has(key)), None)
        options = self.options_of(record, record.strings(listed) if listed else texts_of(record, _COLUMNS))
        right = chosen_by_index(record, "answer", options)
        video = _video(record)
        return Asked(video, WHICH_CAPTION, choice_question(video, "caption", options, right), record.where)


def _video(record: Record) -> str:
    """The clip: `video9770.mp4`, `video9770`, or `msr9770` in the official table.

    Raises:
        DataError: nothing names it.
    """
    key = next((key for key in ("vid_key", "vid_id", "clip_name") if record.has(key)), None)
    if key is not None:
        name = record.name(key)
        return f"video{name.removeprefix('msr')}" if name.startswith("msr") else name.removesuffix(".mp4")
    if not record.has("video"):
        raise DataError(f"{record.where}: none of video, vid_id, clip_name and vid_key names a clip")
    return clip_name(record, "video")
