"""Readers of datasets whose questions are answered by choosing an option."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.fuzz.layouts import JSON, RECORDS, TABLES, form, layout
from benchmarks.fuzz.trial import Form, Target
from petl_bench.data import annotations
from petl_bench.data.annotations import Record


def _choice_readers() -> tuple[Any, ...]:
    from petl_bench.data import choice, qa

    module = choice.ChoiceDataModule
    values = (choice.texts_of, choice.chosen_by_index, choice.chosen_by_text, choice.choice_question)
    return (module.annotations, module.options_of, *values, qa.QuestionAnswerDataModule.annotations, qa._asked_twice)


def _option_readers() -> tuple[Any, ...]:
    from petl_bench.data import choice, qa

    module = choice.ChoiceDataModule
    own = (module.annotations, module.options_of, Record.caption, annotations.one_line)
    return (*own, qa.QuestionAnswerDataModule.annotations, qa._asked_twice, *JSON, *RECORDS)


def _nextqa(folder: Path) -> list[Form]:
    from datamodules.nextqa import NExTQA

    layout("nextqa", folder)
    header, *rows = csv.reader((folder / "val.csv").read_text().splitlines())
    texts = [[*row[:5], row[8 + int(row[5])], *row[6:]] for row in rows]
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["video_id", *header[1:]], *texts])
    return [
        form(NExTQA, "test.csv", "table"),
        form(NExTQA, "train.csv", "table", "train"),
        form(NExTQA, "texts.csv", "table", val_file="texts.csv", test_on="val"),
    ]


def _nextqa_readers() -> Iterable[Any]:
    from datamodules import nextqa

    own = (nextqa.NExTQA.questions, nextqa.NExTQA._read)
    return (*own, *_choice_readers(), *TABLES, Record.text, Record.name, Record.caption, Record.has, Record.error)


def _msrvtt_mc(folder: Path) -> list[Form]:
    from datamodules.msrvtt_mc import MSRVTTMC

    captions = ["a boy", 'a "movie" trailer', "an asian man", "two men, a surfer", "none"]
    rows: list[dict[str, Any]] = [{"video": f"video{n}.mp4", "caption": captions, "answer": n} for n in range(3)]
    (folder / "test.json").write_text(json.dumps(rows))
    of_inter = [{"clip_name": f"video{n}", "options": captions, "answer": str(n)} for n in range(3)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, of_inter)))
    of_clipbert = [{"id": n, "vid_id": f"video{n}", "options": captions, "answer": n} for n in range(3)]
    (folder / "clipbert.jsonl").write_text("\n".join(map(json.dumps, of_clipbert)))
    lines = [["", "vid_key", "a1", "a2", "a3", "a4", "a5", "answer"]]
    lines += [[str(n), f"msr{n}", *captions, str(n)] for n in range(3)]
    (folder / "test.csv").write_text("".join("\t".join(line) + "\n" for line in lines))
    files = {"test.json": "json", "test.jsonl": "jsonl", "clipbert.jsonl": "jsonl", "test.csv": "table"}
    return [form(MSRVTTMC, name, kind, "test", "val", test_file=name) for name, kind in files.items()]


def _msrvtt_mc_readers() -> Iterable[Any]:
    from datamodules import msrvtt_mc
    from petl_bench.data import qa

    own = (msrvtt_mc.MSRVTTMC.questions, msrvtt_mc.MSRVTTMC._read, msrvtt_mc._video, qa.clip_name)
    return (*own, *_choice_readers(), Record.strings, *JSON, *RECORDS, *TABLES)


def _star(folder: Path) -> list[Form]:
    from datamodules.star import STAR

    layout("star", folder, 4)
    return [
        form(STAR, "STAR_train.json", "json", "train"),
        form(STAR, "STAR_test.json", "json", "test", test_on="test"),
    ]


def _star_readers() -> Iterable[Any]:
    from datamodules import star
    from petl_bench.data import choice

    own = (star.STAR.questions, star.STAR._read, star._window, star._in_order, choice.chosen_by_text)
    return (*own, *_option_readers(), Record.seconds, Record.items, Record.whole)


def _egoschema(folder: Path) -> list[Form]:
    from datamodules.egoschema import EgoSchema

    layout("egoschema", folder, 4)
    records = json.loads((folder / "questions.json").read_text())
    by_uid = {one["q_uid"]: {k: v for k, v in one.items() if k != "q_uid"} | {"truth": 1} for one in records}
    (folder / "subset_anno.json").write_text(json.dumps(by_uid))
    return [
        form(EgoSchema, "questions.json", "json"),
        form(EgoSchema, "subset_answers.json", "json"),
        form(EgoSchema, "subset_anno.json", "json", questions_file="subset_anno.json", answers_file=None),
    ]


def _egoschema_readers() -> Iterable[Any]:
    from datamodules import egoschema
    from petl_bench.data import choice

    module = egoschema.EgoSchema
    own = (module.questions, module._read, egoschema.read_questions, egoschema._by_uid, choice.chosen_by_index)
    return (*own, choice.texts_of, *_option_readers())


def _vitatecs(folder: Path) -> list[Form]:
    from datamodules.vitatecs import VITATECS

    layout("vitatecs", folder)
    (folder / "written/data").rename(folder / "data")
    return [
        form(VITATECS, "data/Direction.jsonl", "jsonl", aspect="direction"),
        form(VITATECS, "data/Type.jsonl", "jsonl", source="msrvtt"),
    ]


def _vitatecs_readers() -> Iterable[Any]:
    from datamodules import vitatecs
    from petl_bench.data import choice, qa

    module = vitatecs.VITATECS
    own = (module.questions, module._asked, module._files_there, vitatecs._clip, choice.ChoiceDataModule.options_of)
    base = (qa.QuestionAnswerDataModule.annotations, annotations.one_line, *JSON)
    return (*own, *base, annotations.read_values, annotations.read_records)


def _minimal_pairs(folder: Path) -> list[Form]:
    from datamodules.minimal_pairs import MinimalPairs

    row = {"video": "order_0", "reverse": False, "axis": "order", "caption": "a ring flashes", "foil": "a star does"}
    back = row | {"reverse": True, "caption": row["foil"], "foil": row["caption"]}
    (folder / "pairs.json").write_text(json.dumps([row, back, row | {"video": "speed_0a", "axis": "speed"}]))
    return [form(MinimalPairs, "pairs.json", "json")]


def _minimal_pairs_readers() -> Iterable[Any]:
    from datamodules import minimal_pairs
    from petl_bench.data import choice, qa

    module = minimal_pairs.MinimalPairs
    own = (module.questions, module.annotations, minimal_pairs._clip, minimal_pairs._axis)
    base = (choice.ChoiceDataModule.annotations, choice.ChoiceDataModule.options_of, annotations.one_line)
    return (*own, *base, qa.QuestionAnswerDataModule.annotations, qa._asked_twice, *JSON, *RECORDS)


CHOICE_TARGETS = (
    Target("nextqa", _nextqa, _nextqa_readers),
    Target("msrvtt_mc", _msrvtt_mc, _msrvtt_mc_readers),
    Target("star", _star, _star_readers),
    Target("egoschema", _egoschema, _egoschema_readers),
    Target("vitatecs", _vitatecs, _vitatecs_readers),
    Target("minimal_pairs", _minimal_pairs, _minimal_pairs_readers),
)
