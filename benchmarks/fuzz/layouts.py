"""What targets of data modules share: generated files, what is promised of samples, and the readers beneath."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fuzz.trial import Form
from petl_bench.data import annotations
from petl_bench.data.annotations import MAX_SECONDS, Record
from petl_bench.fixture import WRITERS
from petl_bench.storage import untrusted

#: what is written of a dataset's layout; no more than the readers need, as every input is a copy of one file
SIZE = {"train_videos": 6, "test_videos": 1, "size": 32}

JSON = (
    *(annotations.read_text, annotations.read_json, annotations._parsed, untrusted.read_text, untrusted.parse_json),
    *(untrusted._unique, annotations._record, Record.string, Record.text, Record.name, Record.error),
)
RECORDS = (annotations.read_values, annotations.read_records)
SECTIONS = (annotations.read_section, annotations.section_of)
LINES = (annotations.read_numbered, annotations.read_lines)
TABLES = (
    *(annotations.read_table, annotations._header, annotations._rows, annotations._readable, annotations._listed),
    *(annotations._without_last_blanks, annotations._require_unambiguous),
)


def layout(name: str, folder: Path, most: int | None = None) -> None:
    """Writes the annotation files of a generated dataset, of lists in JSON no more than so many members."""
    WRITERS[name](folder / "written", **SIZE)
    for path in (folder / "written").iterdir():
        if path.suffix == ".json":
            value = json.loads(path.read_text())
            parts = value if isinstance(value, dict) else {"": value}
            cut = {key: part[:most] if isinstance(part, list) else part for key, part in parts.items()}
            path.write_text(json.dumps(cut if isinstance(value, dict) else cut[""]))
        if path.is_file():
            path.rename(folder / path.name)


def _samples(make: Callable[..., Any], splits: Sequence[str], options: dict[str, Any], folder: Path) -> None:
    """Reads splits, and checks what every data module promises of its samples."""
    data = make(folder, partial=True, **options)
    for split in splits:
        for sample in data.checked(split):
            assert sample.captions
            assert all(caption.strip() for caption in sample.captions)
            start, end = sample.moment.start or 0, sample.moment.end or MAX_SECONDS + 1
            assert 0 <= start < end <= MAX_SECONDS + 1
            for question in sample.questions:
                assert isinstance(question.id, int) or question.id.strip()
                "\0".join((question.type, *question.answers)).encode()
            "\0".join((sample.video, *sample.captions, *sample.caption_ids)).encode()
        data.video_ids(split)


def form(make: Callable[..., Any], file: str, kind: str, *splits: str, **options: Any) -> Form:
    return Form(file, kind, partial(_samples, make, splits or ("test",), options))


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As CSV, JSON or jsonl, by the suffix."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def qa_readers() -> tuple[Any, ...]:
    from petl_bench.data import qa

    base = (qa.QuestionAnswerDataModule.annotations, qa._asked_twice, qa.question_id, qa.question_type)
    return (*base, *JSON, *RECORDS)
