"""What is fuzzed: the readers of every file that a user may hold, with valid files to begin from.

A target is a folder of valid files and some ways of reading it ("forms"), each of which damages one of the files. It
holds if every damaged file gives either what the reader promises or the error of its kind, which names the file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fuzz.model_targets import MODEL_TARGETS
from benchmarks.fuzz.trial import Form, Target
from petl_bench.data import annotations, answers, plain_pickle
from petl_bench.data.annotations import MAX_SECONDS, Record
from petl_bench.fixture import WRITERS
from petl_bench.storage import untrusted

#: what is written of a dataset's layout; no more than the readers need, as every input is a copy of one file
_SIZE = {"train_videos": 6, "test_videos": 1, "size": 32}


# --- data modules -----------------------------------------------------------------------------------------------------

_JSON = (
    *(annotations.read_text, annotations.read_json, annotations._parsed, untrusted.read_text, untrusted.parse_json),
    *(untrusted._unique, annotations._record, Record.string, Record.text, Record.name, Record.error),
)
_RECORDS = (annotations.read_values, annotations.read_records)
_SECTIONS = (annotations.read_section, annotations.section_of)
_LINES = (annotations.read_numbered, annotations.read_lines)
_TABLES = (
    *(annotations.read_table, annotations._header, annotations._rows, annotations._readable, annotations._listed),
    *(annotations._without_last_blanks, annotations._require_unambiguous),
)


def _layout(name: str, folder: Path, most: int | None = None) -> None:
    """Writes the annotation files of a generated dataset, of lists in JSON no more than so many members."""
    WRITERS[name](folder / "written", **_SIZE)
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


def _form(make: Callable[..., Any], file: str, kind: str, *splits: str, **options: Any) -> Form:
    return Form(file, kind, partial(_samples, make, splits or ("test",), options))


def _msrvtt(folder: Path) -> list[Form]:
    from datamodules.msrvtt import MSRVTT

    _layout("msrvtt", folder)
    sentences = json.loads((folder / "MSRVTT_data.json").read_text())["sentences"]
    frozen = [{"image_id": one["video_id"], "caption": one["caption"]} for one in sentences]
    (folder / "MSR_VTT.json").write_text(json.dumps({"annotations": frozen}))
    return [
        _form(MSRVTT, "MSRVTT_data.json", "json", "train"),
        _form(MSRVTT, "MSR_VTT.json", "json", "train", captions_file="MSR_VTT.json"),
        _form(MSRVTT, "MSRVTT_JSFUSION_test.csv", "table", "test", "val"),
        _form(MSRVTT, "MSRVTT_train.full.csv", "table", "train", split_protocol="full"),
    ]


def _msrvtt_readers() -> Iterable[Any]:
    from datamodules import msrvtt

    module = msrvtt.MSRVTT
    own = (module.video_ids, module.annotations, module._all_captions, msrvtt._read_captions, Record.label)
    return (*own, *_JSON, annotations.section_of, annotations.read_column, *_TABLES)


def _msvd(folder: Path) -> list[Form]:
    from datamodules.msvd import MSVD

    _layout("msvd", folder)
    tokens = plain_pickle.read_plain_pickle(folder / "raw-captions.pkl")
    texts = {video: [" ".join(words) for words in captions] for video, captions in tokens.items()}
    (folder / "captions_msvd.json").write_text(json.dumps(texts))
    return [
        _form(MSVD, "raw-captions.pkl", "pickle", "train"),
        _form(MSVD, "captions_msvd.json", "json", "test", captions_file="captions_msvd.json"),
        _form(MSVD, "train_list.txt", "lines", "train"),
    ]


def _msvd_readers() -> Iterable[Any]:
    from datamodules import msvd

    module = msvd.MSVD
    own = (module.video_ids, module.annotations, msvd.read_captions, msvd._caption)
    unpickler = plain_pickle._PlainUnpickler
    pickles = (
        *(plain_pickle.read_plain_pickle, plain_pickle.plain_value, plain_pickle._require_small),
        *(unpickler.find_class, unpickler.persistent_load, unpickler.load_dictionary, unpickler.load_marked_dictionary),
        plain_pickle._Named.__setitem__,
    )
    json_files = (annotations.read_text, annotations.read_json, annotations._parsed, untrusted.parse_json)
    return (*own, *pickles, *json_files, *_LINES)


def _lsmdc(folder: Path) -> list[Form]:
    from datamodules.lsmdc import LSMDC

    _layout("lsmdc", folder)
    return [
        _form(LSMDC, "LSMDC16_annos_training.csv", "table", "train"),
        _form(LSMDC, "LSMDC16_challenge_1000_publictect.csv", "lines"),
    ]


def _lsmdc_readers() -> Iterable[Any]:
    from datamodules import lsmdc

    return (
        lsmdc.LSMDC.annotations,
        lsmdc.read_rows,
        annotations.read_numbered,
        annotations.read_text,
        untrusted.read_text,
    )


def _didemo(folder: Path) -> list[Form]:
    from datamodules.didemo import DiDeMo

    _layout("didemo", folder, 6)
    clips = [{"clip_id": f"{n}@N00_1_2", "text": ["first", " then "]} for n in range(3)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, clips)))
    return [
        _form(DiDeMo, "train_data.json", "json", "train"),
        _form(DiDeMo, "test_data.json", "json", sentence_order="time"),
        _form(DiDeMo, "test.jsonl", "jsonl", test_file="test.jsonl", sentence_order="time"),
        _form(DiDeMo, "test_list.txt", "lines", test_list="test_list.txt"),
    ]


def _didemo_readers() -> Iterable[Any]:
    from datamodules import didemo

    own = (didemo.DiDeMo.paragraphs, didemo.read_paragraphs, didemo._read_record, didemo._moment, didemo.video_id)
    return (*own, *_JSON, *_RECORDS, *_LINES, Record.strings, Record.items)


def _activitynet(folder: Path) -> list[Form]:
    from datamodules.activitynet import ActivityNet

    _layout("activitynet", folder)
    ids = json.loads((folder / "train_ids.json").read_text())
    (folder / "ids.txt").write_text("\n".join(ids))
    return [
        _form(ActivityNet, "train.json", "json", "train", "val"),
        _form(ActivityNet, "val_1.json", "json"),
        _form(ActivityNet, "train_ids.json", "json", "train", train_ids="train_ids.json"),
        _form(ActivityNet, "ids.txt", "lines", "train", train_ids="ids.txt"),
    ]


def _activitynet_readers() -> Iterable[Any]:
    from datamodules import activitynet

    own = (
        activitynet.ActivityNet.paragraphs,
        activitynet.read_paragraphs,
        activitynet._paragraph,
        activitynet.read_ids,
    )
    return (
        *own,
        annotations.read_json,
        annotations._parsed,
        untrusted.parse_json,
        *_LINES,
        Record.strings,
        Record.error,
    )


def _msrvtt_qa(folder: Path) -> list[Form]:
    from datamodules.msrvtt_qa import MSRVTTQA

    _layout("msrvtt_qa", folder, 5)
    records = json.loads((folder / "test_qa.json").read_text())
    named = [{k: v for k, v in one.items() if k != "id"} | {"video_id": f"video{one['video_id']}"} for one in records]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, named)))
    files = [{"video": f"{one['video_id']}.mp4", "question_id": f"q{n}"} for n, one in enumerate(named)]
    lavis = [
        one | {"question": record["question"], "answer": "red"} for one, record in zip(files, records, strict=True)
    ]
    (folder / "qa_test.json").write_text(json.dumps(lavis))
    return [
        _form(MSRVTTQA, "train_qa.json", "json", "train"),
        _form(MSRVTTQA, "test_qa.json", "json"),
        _form(MSRVTTQA, "test.jsonl", "jsonl", test_file="test.jsonl"),
        _form(MSRVTTQA, "qa_test.json", "json", test_file="qa_test.json"),
    ]


def _qa_readers() -> tuple[Any, ...]:
    from petl_bench.data import qa

    base = (qa.QuestionAnswerDataModule.annotations, qa._asked_twice, qa.question_id, qa.question_type)
    return (*base, *_JSON, *_RECORDS)


def _msrvtt_qa_readers() -> Iterable[Any]:
    from datamodules import msrvtt_qa
    from petl_bench.data import qa

    return (msrvtt_qa.MSRVTTQA.questions, msrvtt_qa._read_question, qa.clip_name, answers.read_answer, *_qa_readers())


def _msvd_qa(folder: Path) -> list[Form]:
    from datamodules.msvd_qa import MSVDQA

    _layout("msvd_qa", folder, 5)
    return [
        _form(MSVDQA, "train_qa.json", "json", "train"),
        _form(MSVDQA, "test_qa.json", "json"),
        _form(MSVDQA, "youtube_mapping.txt", "lines", "train", "test"),
    ]


def _msvd_qa_readers() -> Iterable[Any]:
    from datamodules import msvd_qa
    from petl_bench.data import qa

    module = msvd_qa.MSVDQA
    own = (module.questions, module._clip, module._mapping, qa.clip_name, answers.read_answer)
    return (*own, annotations.read_numbered, *_qa_readers())


def _tgif_qa(folder: Path) -> list[Form]:
    from datamodules.tgif_qa import TGIFAction, TGIFCount, TGIFFrameQA, TGIFTransition

    _layout("tgif_qa", folder)
    choices = [{"video": 3, "question": "what?", **{f"a{n}": n for n in range(5)}, "answer": 2, "qid": "ACTION4"}]
    _write_table(folder / "train.csv", choices)
    return [
        _form(TGIFAction, "Train_action_question.csv", "table", "train"),
        _form(TGIFTransition, "Test_transition_question.csv", "table"),
        _form(TGIFFrameQA, "Test_frameqa_question.csv", "table"),
        _form(TGIFCount, "Test_count_question.csv", "table"),
        *(
            _form(TGIFAction, file, "table", "train", train_file="train.csv", keys_file="Train_action_question.csv")
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
    return (*own, *more, *options, *_TABLES, *_qa_readers()[:2], *_LINES[:1])


def _vqav2(folder: Path) -> list[Form]:
    from datamodules.vqav2 import VQAv2

    _layout("vqav2", folder, 4)
    genome = [{"image": f"VG_100K/{n}.jpg", "question": f"What is {n}?", "answer": "a shape"} for n in range(3)]
    (folder / "vg_qa.json").write_text(json.dumps(genome))
    return [
        _form(VQAv2, "v2_OpenEnded_mscoco_val2014_questions.json", "json"),
        _form(VQAv2, "v2_mscoco_val2014_annotations.json", "json"),
        _form(VQAv2, "v2_OpenEnded_mscoco_test2015_questions.json", "json", test_on="test"),
        _form(VQAv2, "vqa_val.json", "json", source="blip"),
        _form(VQAv2, "vqa_test.json", "json", "test", "val", source="blip", test_on="test"),
        _form(VQAv2, "vg_qa.json", "json", "train", visual_genome="vg_qa.json"),
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
    return (*own, *shared, *values, *_JSON, *_RECORDS, *_SECTIONS)


def _vatex(folder: Path) -> list[Form]:
    from datamodules.vatex import VATEX

    _layout("vatex", folder, 2)
    captions = json.loads((folder / "ref_captions.json").read_text())
    (folder / "vatex_data.json").write_text(json.dumps({video: {"enCap": texts} for video, texts in captions.items()}))
    official = [{"videoID": video, "enCap": texts, "chCap": ["x"]} for video, texts in captions.items()]
    (folder / "official.json").write_text(json.dumps(official))
    (folder / "ids.json").write_text(json.dumps((folder / "train_list.txt").read_text().split()))
    return [
        _form(VATEX, "ref_captions.json", "json", "train", captions_file="ref_captions.json"),
        _form(VATEX, "vatex_data.json", "json", "train", captions_file="vatex_data.json"),
        _form(VATEX, "official.json", "json", "train", captions_file="official.json"),
        _form(VATEX, "train_list.txt", "lines", "train"),
        _form(VATEX, "ids.json", "json", "train", train_list="ids.json"),
        _form(VATEX, "test_list.txt", "lines", "test", "val", split_protocol="random-1k5", test_list="test_list.txt"),
    ]


def _vatex_readers() -> Iterable[Any]:
    from datamodules import vatex

    module = vatex.VATEX
    own = (module.video_ids, module.annotations, module._captions, module._captions_path, vatex._each)
    files = (vatex.read_ids, vatex._listed, vatex.read_captions, vatex._texts)
    return (*own, *files, *_JSON, *_LINES, Record.strings)


def _youcook2(folder: Path) -> list[Form]:
    from datamodules.youcook2 import YouCook2

    _layout("youcook2", folder)
    rows = (folder / "validation_youcook.csv").read_text().splitlines()
    videos = dict.fromkeys(row.rsplit(",", 1)[1] for row in rows)
    (folder / "youcookii_val.csv").write_text("\n".join(videos) + "\n")
    return [
        _form(YouCook2, "youcookii_annotations_trainval.json", "json", "train", "test", split_protocol="validation"),
        _form(YouCook2, "validation_youcook.csv", "table"),
        _form(YouCook2, "youcookii_val.csv", "table", test_list="youcookii_val.csv"),
    ]


def _youcook2_readers() -> Iterable[Any]:
    from datamodules import youcook2

    clips = (youcook2.read_clips, youcook2._of_video, Record.seconds, Record.items, Record.caption)
    rows = (youcook2.listed, youcook2._of_row, Record.whole, Record.has, untrusted.whole_number)
    return (youcook2.YouCook2.annotations, *clips, *rows, *_JSON, *_TABLES)


def _activitynet_qa(folder: Path) -> list[Form]:
    from datamodules.activitynet_qa import ActivityNetQA

    _layout("activitynet_qa", folder, 4)
    questions, given = (json.loads((folder / f"test_{part}.json").read_text()) for part in "qa")
    joined = [
        {"question_id": one["question_id"], "question": one["question"], "answer": answer["answer"], "video": "v_x.mp4"}
        for one, answer in zip(questions, given, strict=True)
    ]
    (folder / "anet_qa_test.json").write_text(json.dumps(joined))
    return [
        _form(ActivityNetQA, "test_q.json", "json"),
        _form(ActivityNetQA, "test_a.json", "json"),
        _form(ActivityNetQA, "train_a.json", "json", "train"),
        _form(ActivityNetQA, "anet_qa_test.json", "json", test_file="anet_qa_test.json"),
    ]


def _activitynet_qa_readers() -> Iterable[Any]:
    from datamodules import activitynet_qa
    from petl_bench.data import qa

    own = (activitynet_qa.ActivityNetQA.questions, activitynet_qa._answer_to, activitynet_qa._asked)
    ids = (activitynet_qa.read_answers_by_id, activitynet_qa.video_id, qa.clip_name, answers.read_answer)
    asked = (qa.QuestionAnswerDataModule.annotations, qa._asked_twice, qa.question_type)
    return (*own, *ids, *asked, Record.caption, Record.whole, *_JSON, *_RECORDS)


def _choice_readers() -> tuple[Any, ...]:
    from petl_bench.data import choice, qa

    module = choice.ChoiceDataModule
    values = (choice.texts_of, choice.chosen_by_index, choice.chosen_by_text, choice.choice_question)
    return (module.annotations, module.options_of, *values, qa.QuestionAnswerDataModule.annotations, qa._asked_twice)


def _nextqa(folder: Path) -> list[Form]:
    from datamodules.nextqa import NExTQA

    _layout("nextqa", folder)
    header, *rows = csv.reader((folder / "val.csv").read_text().splitlines())
    texts = [[*row[:5], row[8 + int(row[5])], *row[6:]] for row in rows]
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["video_id", *header[1:]], *texts])
    return [
        _form(NExTQA, "test.csv", "table"),
        _form(NExTQA, "train.csv", "table", "train"),
        _form(NExTQA, "texts.csv", "table", val_file="texts.csv", test_on="val"),
    ]


def _nextqa_readers() -> Iterable[Any]:
    from datamodules import nextqa

    own = (nextqa.NExTQA.questions, nextqa.NExTQA._read)
    return (*own, *_choice_readers(), *_TABLES, Record.text, Record.name, Record.caption, Record.has, Record.error)


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
    return [_form(MSRVTTMC, name, kind, "test", "val", test_file=name) for name, kind in files.items()]


def _msrvtt_mc_readers() -> Iterable[Any]:
    from datamodules import msrvtt_mc
    from petl_bench.data import qa

    own = (msrvtt_mc.MSRVTTMC.questions, msrvtt_mc.MSRVTTMC._read, msrvtt_mc._video, qa.clip_name)
    return (*own, *_choice_readers(), Record.strings, *_JSON, *_RECORDS, *_TABLES)


def _coco(folder: Path) -> list[Form]:
    from datamodules.coco import COCO
    from datamodules.flickr30k import Flickr30K

    _layout("coco", folder, 4)
    for split in ("train", "test"):
        (folder / f"flickr30k_{split}.json").write_bytes((folder / f"coco_karpathy_{split}.json").read_bytes())
    images = [
        {"filename": f"COCO_val2014_{n:012}.jpg", "split": split, "sentences": [{"raw": f"{n}.", "sentid": n}] * 2}
        for n, split in enumerate(("train", "restval", "val", "test", "test"))
    ]
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    for name in ("karpathy_test_images.txt", "coco_train.txt"):
        (folder / name).write_text("val2014/COCO_val2014_000000000001.jpg 1\nval2014/COCO_val2014_000000000002.jpg 2\n")

    def listed(root: Path) -> None:
        COCO(root, test_file="nothing.json", partial=True).video_ids("test")

    return [
        _form(COCO, "coco_karpathy_train.json", "json", "train"),
        _form(COCO, "coco_karpathy_test.json", "json"),
        _form(COCO, "dataset_coco.json", "json", "train", "val", "test", karpathy_file="dataset_coco.json"),
        _form(Flickr30K, "flickr30k_test.json", "json"),
        Form("karpathy_test_images.txt", "lines", listed),
    ]


def _coco_readers() -> Iterable[Any]:
    from petl_bench.data import karpathy

    module = karpathy.KarpathyDataModule
    own = (module.video_ids, module.annotations, module._karpathy, karpathy.read_captions, karpathy.image_id)
    labels = (Record.labels_of, annotations._label)
    texts = (Record.strings, Record.strings_of, Record.items)
    return (*own, *labels, *_JSON, *_RECORDS, *_SECTIONS, *_LINES, *texts)


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
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


def _custom(folder: Path) -> list[Form]:
    from datamodules.custom import Custom

    rows = [
        {"video": "a/x.mp4", "caption": "one, two", "start": 3, "end": 9, "reverse": "no"},
        {"video": "a/x.mp4", "caption": 'a "second" one', "start": 3, "end": 9, "reverse": "yes"},
        {"video": "y.v2", "caption": "three", "start": None, "end": None, "reverse": None},
    ]
    files = {"test.csv": "table", "test.json": "json", "test.jsonl": "jsonl"}
    for name in files:
        _write_table(folder / name, rows)
    return [_form(Custom, name, kind, "test", "val", test_file=name) for name, kind in files.items()]


def _custom_readers() -> Iterable[Any]:
    from datamodules import custom

    own = (
        custom.Custom.annotations,
        custom.Spelling.first,
        custom.file_name,
        custom.ids_by_name,
        custom._part,
        custom._reverse,
    )
    return (*own, *_JSON, *_RECORDS, *_TABLES, Record.seconds, Record.has)


def _custom_qa(folder: Path) -> list[Form]:
    from datamodules.custom import CustomQA

    rows: list[dict[str, Any]] = [
        {"video": "x.mp4", "question": "What is it?", "answer": "a cat", "type": "kind", "id": 7},
        {"video": "x.mp4", "question": "How many?", "answer": "2", "type": "", "id": "007"},
        {"video": "b/y.mkv", "question": "Where, then?", "answer": "here", "type": 3, "id": "q9"},
    ]
    files = {"test.csv": "table", "test.json": "json", "test.jsonl": "jsonl"}
    for name in files:
        _write_table(folder / name, rows)
    return [_form(CustomQA, name, kind, "test", "val", test_file=name) for name, kind in files.items()]


def _custom_qa_readers() -> Iterable[Any]:
    from datamodules import custom

    own = (custom.CustomQA.questions, custom.file_name, custom._type, answers.read_answers, Record.strings, Record.has)
    return (*own, *_qa_readers(), *_TABLES)


def _star(folder: Path) -> list[Form]:
    from datamodules.star import STAR

    _layout("star", folder, 4)
    return [
        _form(STAR, "STAR_train.json", "json", "train"),
        _form(STAR, "STAR_test.json", "json", "test", test_on="test"),
    ]


def _option_readers() -> tuple[Any, ...]:
    from petl_bench.data import choice, qa

    module = choice.ChoiceDataModule
    own = (module.annotations, module.options_of, Record.caption, annotations.one_line)
    return (*own, qa.QuestionAnswerDataModule.annotations, qa._asked_twice, *_JSON, *_RECORDS)


def _star_readers() -> Iterable[Any]:
    from datamodules import star
    from petl_bench.data import choice

    own = (star.STAR.questions, star.STAR._read, star._window, star._in_order, choice.chosen_by_text)
    return (*own, *_option_readers(), Record.seconds, Record.items, Record.whole)


def _nextqa_oe(folder: Path) -> list[Form]:
    from datamodules.nextqa_oe import NExTQAOE

    _layout("nextqa_oe", folder)
    return [
        _form(NExTQAOE, "train.csv", "table", "train"),
        _form(NExTQAOE, "add_reference_answer_test.json", "json", "test"),
    ]


def _nextqa_oe_readers() -> Iterable[Any]:
    from datamodules import nextqa_oe
    from petl_bench.data import qa

    own = (nextqa_oe.NExTQAOE.questions, nextqa_oe.read_second_answers, nextqa_oe._read, answers.read_answer)
    base = (qa.QuestionAnswerDataModule.annotations, qa._asked_twice, annotations.read_json, annotations._parsed)
    return (*own, *base, *_TABLES)


def _egoschema(folder: Path) -> list[Form]:
    from datamodules.egoschema import EgoSchema

    _layout("egoschema", folder, 4)
    records = json.loads((folder / "questions.json").read_text())
    by_uid = {one["q_uid"]: {k: v for k, v in one.items() if k != "q_uid"} | {"truth": 1} for one in records}
    (folder / "subset_anno.json").write_text(json.dumps(by_uid))
    return [
        _form(EgoSchema, "questions.json", "json"),
        _form(EgoSchema, "subset_answers.json", "json"),
        _form(EgoSchema, "subset_anno.json", "json", questions_file="subset_anno.json", answers_file=None),
    ]


def _egoschema_readers() -> Iterable[Any]:
    from datamodules import egoschema
    from petl_bench.data import choice

    module = egoschema.EgoSchema
    own = (module.questions, module._read, egoschema.read_questions, egoschema._by_uid, choice.chosen_by_index)
    return (*own, choice.texts_of, *_option_readers())


# --- other files ------------------------------------------------------------------------------------------------------


def _answers(folder: Path) -> list[Form]:
    listed = ["", "red", "two words", "café"]
    rows = [{"question": "?", "answer": answer} for answer in ("red", "blue", "red", "7")]
    files = {
        "list.json": json.dumps(listed),
        "places.json": json.dumps({answer: place for place, answer in enumerate(listed)}),
        "train.json": json.dumps([*rows, {"question": "!", "answer": ["red", "blue", "blue"]}]),
        "list.txt": "\n".join(listed[1:]),
        "list.jsonl": "\n".join(map(json.dumps, listed)),
        "train.jsonl": "\n".join(map(json.dumps, rows)),
        "list.csv": "answer\n" + "\n".join(listed[1:]),
        "train.tsv": "question\tanswer\n" + "\n".join(f"?\t{answer}" for answer in listed[1:]),
    }
    kinds = {".json": "json", ".jsonl": "jsonl", ".txt": "lines", ".csv": "table", ".tsv": "table"}

    def read(name: str, root: Path) -> None:
        vocabulary = answers.read_vocabulary(root / name)
        assert len(set(vocabulary.answers)) == len(vocabulary) > 0
        assert all(answer == answer.strip() for answer in vocabulary.answers)
        "".join(vocabulary.answers).encode()

    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [Form(name, kinds[Path(name).suffix], partial(read, name)) for name in files]


def _answers_readers() -> Iterable[Any]:
    own = (answers._read, answers._entry, answers._by_place, answers._most_frequent, answers._in_given_order)
    return (*own, answers.read_answers, answers.plain_answer, annotations.read_values, *_JSON, *_TABLES, *_LINES[:1])


def _manifest(folder: Path) -> list[Form]:
    from petl_bench.data.manifest import Entry, entry_of, read_manifest, refused, write_manifest

    entries = [
        Entry(
            "video0", "videos/video0.mp4", "ok", "", 10, 1, "0" * 64, "h264", 48, 32, 9, 6.0, 1.5, 90, ["decord: no"]
        ),
        Entry("video1", "videos/video1.mp4", "bad", "frame 3 is damaged"),
        Entry("video2", "", "missing", "no file"),
    ]
    write_manifest(folder / "manifest.jsonl", entries)
    (folder / "cut.jsonl").write_bytes((folder / "manifest.jsonl").read_bytes()[:-9])

    def read(name: str, tolerate_cut: bool, root: Path) -> None:
        found = read_manifest(root / name, tolerate_cut)
        for video in ("video0", "video1", "video2", "video3"):
            refused(entry_of(found)(video, f"videos/{video}.mp4"), root / name)
        write_manifest(root / "again.jsonl", found.values())
        assert read_manifest(root / "again.jsonl") == found

    return [
        Form("manifest.jsonl", "jsonl", partial(read, "manifest.jsonl", False)),
        Form("cut.jsonl", "jsonl", partial(read, "cut.jsonl", True)),
    ]


def _manifest_readers() -> Iterable[Any]:
    from petl_bench.data import manifest

    return (manifest.read_manifest, manifest._entry, manifest.refused, untrusted.parse_json, untrusted._unique)


def _rtime(folder: Path) -> list[Form]:
    from datamodules.rtime import RTime, RTimeBinary

    _layout("rtime", folder)
    return [
        _form(RTime, "train.json", "json", "train", split_protocol="hard", rewrites=True),
        _form(RTime, "test.json", "json"),
        _form(RTimeBinary, "test.json", "json"),
    ]


def _rtime_readers() -> Iterable[Any]:
    from datamodules import rtime
    from petl_bench.data import qa

    own = (rtime.RTime.annotations, rtime.RTimeBinary.annotations, rtime.RTimeBinary.questions)
    entries = (rtime.read_entries, rtime._entry, rtime._captions, rtime._both, rtime._asked, Record.strings)
    json_files = (annotations.read_text, annotations.read_json, annotations._parsed, untrusted.parse_json)
    return (*own, *entries, *json_files, qa.QuestionAnswerDataModule.annotations, Record.error)


def _vitatecs(folder: Path) -> list[Form]:
    from datamodules.vitatecs import VITATECS

    _layout("vitatecs", folder)
    (folder / "written/data").rename(folder / "data")
    return [
        _form(VITATECS, "data/Direction.jsonl", "jsonl", aspect="direction"),
        _form(VITATECS, "data/Type.jsonl", "jsonl", source="msrvtt"),
    ]


def _vitatecs_readers() -> Iterable[Any]:
    from datamodules import vitatecs
    from petl_bench.data import choice, qa

    module = vitatecs.VITATECS
    own = (module.questions, module._asked, module._files_there, vitatecs._clip, choice.ChoiceDataModule.options_of)
    base = (qa.QuestionAnswerDataModule.annotations, annotations.one_line, *_JSON)
    return (*own, *base, annotations.read_values, annotations.read_records)


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
    _write_table(folder / "test.csv", [{"video": "x.mp4", "caption": "one", "start": 3, "end": 9}] * 2)
    return [Form("test.csv", "table", lambda root: planted_reader(root / "test.csv"))]


TARGETS = (
    Target("msrvtt", _msrvtt, _msrvtt_readers),
    Target("msvd", _msvd, _msvd_readers),
    Target("lsmdc", _lsmdc, _lsmdc_readers),
    Target("didemo", _didemo, _didemo_readers),
    Target("activitynet", _activitynet, _activitynet_readers),
    Target("msrvtt_qa", _msrvtt_qa, _msrvtt_qa_readers),
    Target("msvd_qa", _msvd_qa, _msvd_qa_readers),
    Target("tgif_qa", _tgif_qa, _tgif_qa_readers),
    Target("vqav2", _vqav2, _vqav2_readers),
    Target("karpathy", _coco, _coco_readers),
    Target("vatex", _vatex, _vatex_readers),
    Target("youcook2", _youcook2, _youcook2_readers),
    Target("activitynet_qa", _activitynet_qa, _activitynet_qa_readers),
    Target("nextqa", _nextqa, _nextqa_readers),
    Target("msrvtt_mc", _msrvtt_mc, _msrvtt_mc_readers),
    Target("custom", _custom, _custom_readers),
    Target("custom_qa", _custom_qa, _custom_qa_readers),
    Target("nextqa_oe", _nextqa_oe, _nextqa_oe_readers),
    Target("star", _star, _star_readers),
    Target("egoschema", _egoschema, _egoschema_readers),
    Target("rtime", _rtime, _rtime_readers),
    Target("vitatecs", _vitatecs, _vitatecs_readers),
    Target("answers", _answers, _answers_readers),
    Target("manifest", _manifest, _manifest_readers),
    *MODEL_TARGETS,
)
#: fuzzed only where it is named
PLANTED = Target("planted", _planted, lambda: (planted_reader,))
