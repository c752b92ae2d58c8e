"""What is fuzzed: the readers of every file that a user may hold, with valid files to begin from.

A target is a folder of valid files and some ways of reading it ("forms"), each of which damages one of the files. It
holds if every damaged file gives either what the reader promises or the error of its kind, which names the file.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz.choice_targets import CHOICE_TARGETS
from benchmarks.fuzz.layouts import write_table
from benchmarks.fuzz.model_targets import MODEL_TARGETS
from benchmarks.fuzz.own_file_targets import OWN_FILE_TARGETS
from benchmarks.fuzz.question_targets import QUESTION_TARGETS
from benchmarks.fuzz.retrieval_targets import RETRIEVAL_TARGETS
from benchmarks.fuzz.trial import Form, Target
from petl_bench.data import annotations

TARGETS = (
    *RETRIEVAL_TARGETS,
    *QUESTION_TARGETS,
    *CHOICE_TARGETS,
    *OWN_FILE_TARGETS,
    *MODEL_TARGETS,
)


# --- the fuzzer's own trial -------------------------------------------------------------------------------------------


def planted_reader(path: Path) -> int:
    """A reader with a fault behind five conditions, to see that the fuzzer finds such a thing."""
    for record in annotations.read_table(path, ("video", "caption")):
        if not record.has("start") or not record.has("end"):
            continue
        start, end = record.whole("start", 0), record.whole("end", 0)
        if end < start and record.text("caption").startswith("-"):
            return record.values["fps"][end]  # the fault: no check, and no such column
    return 0


def _planted(folder: Path) -> list[Form]:
    write_table(folder / "test.csv", [{"video": "x.mp4", "caption": "one", "start": 3, "end": 9}] * 2)
    return [Form("test.csv", "table", lambda root: planted_reader(root / "test.csv"))]


#: fuzzed only where it is named
PLANTED = Target("planted", _planted, lambda: (planted_reader,))
