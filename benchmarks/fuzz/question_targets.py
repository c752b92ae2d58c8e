"""Readers of datasets whose questions are answered in words or by a count."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.fuzz.layouts import JSON, LINES, RECORDS, SECTIONS, TABLES, form, layout, qa_readers, write_table
from benchmarks.fuzz.trial import Form, Target
from petl_bench.data import annotations, answers
from petl_bench.data.annotations import Record
from petl_bench.storage import untrusted


def _msrvtt_qa(folder: Path) -> list[Form]:
    from datamodules.msrvtt_qa import MSRVTTQA

    layout("msrvtt_qa", folder, 5)
    records = json.loads((folder / "test_qa.json").read_text())
    named = [{k: v for k, v in one.items() if k != "id"} | {"video_id": f"video{one['video_id']}"} for one in records]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, named)))
    files = [{"video": f"{one['video_id']}.mp4", "question_id": f"q{n}"} for n, one in enumerate(named)]
    lavis = [
        one | {"question": record["question"], "answer": "red"} for one, record in zip(files, records, strict=True)
    ]
    (folder / "qa_test.json").write_text(json.dumps(lavis))
    return [
        form(MSRVTTQA, "train_qa.json", "json", "train"),
        form(MSRVTTQA, "test_qa.json", "json"),
        form(MSRVTTQA, "test.jsonl", "jsonl", test_file="test.jsonl"),
        form(MSRVTTQA, "qa_test.json", "json", test_file="qa_test.json"),
    ]


def _msrvtt_qa_readers() -> Iterable[Any]:
    from datamodules import msrvtt_qa
    from petl_bench.data import qa

    return (msrvtt_qa.MSRVTTQA.questions, msrvtt_qa._read_question, qa.clip_name, answers.read_answer, *qa_readers())


def _msvd_qa(folder: Path) -> list[Form]:
    from datamodules.msvd_qa import MSVDQA

    layout("msvd_qa", folder, 5)
    return [
        form(MSVDQA, "train_qa.json", "json", "train"),
        form(MSVDQA, "test_qa.json", "json"),
        form(MSVDQA, "youtube_mapping.txt", "lines", "train", "test"),
    ]


def _msvd_qa_readers() -> Iterable[Any]:
    from datamodules import msvd_qa
    from petl_bench.data import qa

    module = msvd_qa.MSVDQA
    own = (module.questions, module._clip, module._mapping, qa.clip_name, answers.read_answer)
    return (*own, annotations.read_numbered, *qa_readers())


def _activitynet_qa(folder: Path) -> list[Form]:
    from datamodules.activitynet_qa import ActivityNetQA

    layout("activitynet_qa", folder, 4)
    questions, given = (json.loads((folder / f"test_{part}.json").read_text()) for part in "qa")
    joined = [
        {"question_id": one["question_id"], "question": one["question"], "answer": answer["answer"], "video": "v_x.mp4"}
        for one, answer in zip(questions, given, strict=True)
    ]
    (folder / "anet_qa_test.json").write_text(json.dumps(joined))
    return [
        form(ActivityNetQA, "test_q.json", "json"),
        form(ActivityNetQA, "test_a.json", "json"),
        form(ActivityNetQA, "train_a.json", "json", "train"),
        form(ActivityNetQA, "anet_qa_test.json", "json", test_file="anet_qa_test.json"),
    ]


def _activitynet_qa_readers() -> Iterable[Any]:
    from datamodules import activitynet_qa
    from petl_bench.data import qa

    own = (activitynet_qa.ActivityNetQA.questions, activitynet_qa._answer_to, activitynet_qa._asked)
    ids = (activitynet_qa.read_answers_by_id, activitynet_qa.video_id, qa.clip_name, answers.read_answer)
    asked = (qa.QuestionAnswerDataModule.annotations, qa._asked_twice, qa.question_type)
    return (*own, *ids, *asked, Record.caption, Record.whole, *JSON, *RECORDS)


def _nextqa_oe(folder: Path) -> list[Form]:
    from datamodules.nextqa_oe import NExTQAOE

    layout("nextqa_oe", folder)
    return [
        form(NExTQAOE, "train.csv", "table", "train"),
        form(NExTQAOE, "add_reference_answer_test.json", "json", "test"),
    ]


def _nextqa_oe_readers() -> Iterable[Any]:
    from datamodules import nextqa_oe
    from petl_bench.data import qa

    own = (nextqa_oe.NExTQAOE.questions, nextqa_oe.read_second_answers, nextqa_oe._read, answers.read_answer)
    base = (qa.QuestionAnswerDataModule.annotations, qa._asked_twice, annotations.read_json, annotations._parsed)
    return (*own, *base, *TABLES)


def _tgif_qa(folder: Path) -> list[Form]:
    from datamodules.tgif_qa import TGIFAction, TGIFCount, TGIFFrameQA, TGIFTransition

    layout("tgif_qa", folder)
    choices = [{"video": 3, "question": "what?", **{f"a{n}": n for n in range(5)}, "answer": 2, "qid": "ACTION4"}]
    write_table(folder / "train.csv", choices)
    return [
        form(TGIFAction, "Train_action_question.csv", "table", "train"),
        form(TGIFTransition, "Test_transition_question.csv", "table"),
        form(TGIFFrameQA, "Test_frameqa_question.csv", "table"),
        form(TGIFCount, "Test_count_question.csv", "table"),
        *(
            form(TGIFAction, file, "table", "train", train_file="train.csv", keys_file="Train_action_question.csv")
            for file in ("train.csv", "Train_action_question.csv")
        ),
    ]


def _tgif_qa_readers() -> Iterable[Any]:
    from datamodules import tgif_qa
    from petl_bench.data import choice

    module = tgif_qa._TGIF
    own = (module.questions, module._video, module._names, tgif_qa._Choices.read, tgif_qa.TGIFFrameQA.read)
    options = (choice.ChoiceDataModule.options_of, choice.texts_of, choice.chosen_by_index)
    more = (tgif_qa._records, tgif_qa._number, answers.read_answer, annotations.read_unquoted)
    return (*own, *more, *options, *TABLES, *qa_readers()[:2], *LINES[:1])


def _vqav2(folder: Path) -> list[Form]:
    from datamodules.vqav2 import VQAv2

    layout("vqav2", folder, 4)
    genome = [{"image": f"VG_100K/{n}.jpg", "question": f"What is {n}?", "answer": "a shape"} for n in range(3)]
    (folder / "vg_qa.json").write_text(json.dumps(genome))
    return [
        form(VQAv2, "v2_OpenEnded_mscoco_val2014_questions.json", "json"),
        form(VQAv2, "v2_mscoco_val2014_annotations.json", "json"),
        form(VQAv2, "v2_OpenEnded_mscoco_test2015_questions.json", "json", test_on="test"),
        form(VQAv2, "vqa_val.json", "json", source="blip"),
        form(VQAv2, "vqa_test.json", "json", "test", "val", source="blip", test_on="test"),
        form(VQAv2, "vg_qa.json", "json", "train", visual_genome="vg_qa.json"),
    ]


def _vqav2_readers() -> Iterable[Any]:
    from datamodules import vqav2
    from petl_bench.data import karpathy, qa

    own = (
        vqav2.VQAv2.questions,
        vqav2.read_official,
        vqav2._official_answers,
        vqav2.read_blip,
        vqav2.read_visual_genome,
    )
    shared = (
        vqav2._number,
        vqav2._interned,
        karpathy.image_id,
        qa.QuestionAnswerDataModule.annotations,
        qa._asked_twice,
    )
    values = (Record.strings, Record.strings_of, Record.items, Record.whole, untrusted.whole_number)
    return (*own, *shared, *values, *JSON, *RECORDS, *SECTIONS)


QUESTION_TARGETS = (
    Target("msrvtt_qa", _msrvtt_qa, _msrvtt_qa_readers),
    Target("msvd_qa", _msvd_qa, _msvd_qa_readers),
    Target("activitynet_qa", _activitynet_qa, _activitynet_qa_readers),
    Target("nextqa_oe", _nextqa_oe, _nextqa_oe_readers),
    Target("tgif_qa", _tgif_qa, _tgif_qa_readers),
    Target("vqav2", _vqav2, _vqav2_readers),
)
