"""Readers of datasets whose clips or images are retrieved by captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.fuzz.layouts import JSON, LINES, RECORDS, SECTIONS, TABLES, form, layout
from benchmarks.fuzz.trial import Form, Target
from petl_bench.data import annotations, plain_pickle
from petl_bench.data.annotations import Record
from petl_bench.storage import untrusted


def _msrvtt(folder: Path) -> list[Form]:
    from datamodules.msrvtt import MSRVTT

    layout("msrvtt", folder)
    sentences = json.loads((folder / "MSRVTT_data.json").read_text())["sentences"]
    frozen = [{"image_id": one["video_id"], "caption": one["caption"]} for one in sentences]
    (folder / "MSR_VTT.json").write_text(json.dumps({"annotations": frozen}))
    return [
        form(MSRVTT, "MSRVTT_data.json", "json", "train"),
        form(MSRVTT, "MSR_VTT.json", "json", "train", captions_file="MSR_VTT.json"),
        form(MSRVTT, "MSRVTT_JSFUSION_test.csv", "table", "test", "val"),
        form(MSRVTT, "MSRVTT_train.full.csv", "table", "train", split_protocol="full"),
    ]


def _msrvtt_readers() -> Iterable[Any]:
    from datamodules import msrvtt

    module = msrvtt.MSRVTT
    own = (module.video_ids, module.annotations, module._all_captions, msrvtt._read_captions, Record.label)
    return (*own, *JSON, annotations.section_of, annotations.read_column, *TABLES)


def _msvd(folder: Path) -> list[Form]:
    from datamodules.msvd import MSVD

    layout("msvd", folder)
    tokens = plain_pickle.read_plain_pickle(folder / "raw-captions.pkl")
    texts = {video: [" ".join(words) for words in captions] for video, captions in tokens.items()}
    (folder / "captions_msvd.json").write_text(json.dumps(texts))
    return [
        form(MSVD, "raw-captions.pkl", "pickle", "train"),
        form(MSVD, "captions_msvd.json", "json", "test", captions_file="captions_msvd.json"),
        form(MSVD, "train_list.txt", "lines", "train"),
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
    return (*own, *pickles, *json_files, *LINES)


def _lsmdc(folder: Path) -> list[Form]:
    from datamodules.lsmdc import LSMDC

    layout("lsmdc", folder)
    return [
        form(LSMDC, "LSMDC16_annos_training.csv", "table", "train"),
        form(LSMDC, "LSMDC16_challenge_1000_publictect.csv", "lines"),
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

    layout("didemo", folder, 6)
    clips = [{"clip_id": f"{n}@N00_1_2", "text": ["first", " then "]} for n in range(3)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, clips)))
    return [
        form(DiDeMo, "train_data.json", "json", "train"),
        form(DiDeMo, "test_data.json", "json", sentence_order="time"),
        form(DiDeMo, "test.jsonl", "jsonl", test_file="test.jsonl", sentence_order="time"),
        form(DiDeMo, "test_list.txt", "lines", test_list="test_list.txt"),
    ]


def _didemo_readers() -> Iterable[Any]:
    from datamodules import didemo

    own = (didemo.DiDeMo.paragraphs, didemo.read_paragraphs, didemo._read_record, didemo._moment, didemo.video_id)
    return (*own, *JSON, *RECORDS, *LINES, Record.strings, Record.items)


def _activitynet(folder: Path) -> list[Form]:
    from datamodules.activitynet import ActivityNet

    layout("activitynet", folder)
    ids = json.loads((folder / "train_ids.json").read_text())
    (folder / "ids.txt").write_text("\n".join(ids))
    return [
        form(ActivityNet, "train.json", "json", "train", "val"),
        form(ActivityNet, "val_1.json", "json"),
        form(ActivityNet, "train_ids.json", "json", "train", train_ids="train_ids.json"),
        form(ActivityNet, "ids.txt", "lines", "train", train_ids="ids.txt"),
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
        *LINES,
        Record.strings,
        Record.error,
    )


def _vatex(folder: Path) -> list[Form]:
    from datamodules.vatex import VATEX

    layout("vatex", folder, 2)
    captions = json.loads((folder / "ref_captions.json").read_text())
    (folder / "vatex_data.json").write_text(json.dumps({video: {"enCap": texts} for video, texts in captions.items()}))
    official = [{"videoID": video, "enCap": texts, "chCap": ["x"]} for video, texts in captions.items()]
    (folder / "official.json").write_text(json.dumps(official))
    (folder / "ids.json").write_text(json.dumps((folder / "train_list.txt").read_text().split()))
    return [
        form(VATEX, "ref_captions.json", "json", "train", captions_file="ref_captions.json"),
        form(VATEX, "vatex_data.json", "json", "train", captions_file="vatex_data.json"),
        form(VATEX, "official.json", "json", "train", captions_file="official.json"),
        form(VATEX, "train_list.txt", "lines", "train"),
        form(VATEX, "ids.json", "json", "train", train_list="ids.json"),
        form(VATEX, "test_list.txt", "lines", "test", "val", split_protocol="random-1k5", test_list="test_list.txt"),
    ]


def _vatex_readers() -> Iterable[Any]:
    from datamodules import vatex

    module = vatex.VATEX
    own = (module.video_ids, module.annotations, module._captions, module._captions_path, vatex._each)
    files = (vatex.read_ids, vatex._listed, vatex.read_captions, vatex._texts)
    return (*own, *files, *JSON, *LINES, Record.strings)


def _youcook2(folder: Path) -> list[Form]:
    from datamodules.youcook2 import YouCook2

    layout("youcook2", folder)
    rows = (folder / "validation_youcook.csv").read_text().splitlines()
    videos = dict.fromkeys(row.rsplit(",", 1)[1] for row in rows)
    (folder / "youcookii_val.csv").write_text("\n".join(videos) + "\n")
    return [
        form(YouCook2, "youcookii_annotations_trainval.json", "json", "train", "test", split_protocol="validation"),
        form(YouCook2, "validation_youcook.csv", "table"),
        form(YouCook2, "youcookii_val.csv", "table", test_list="youcookii_val.csv"),
    ]


def _youcook2_readers() -> Iterable[Any]:
    from datamodules import youcook2

    clips = (youcook2.read_clips, youcook2._of_video, Record.seconds, Record.items, Record.caption)
    rows = (youcook2.listed, youcook2._of_row, Record.whole, Record.has, untrusted.whole_number)
    return (youcook2.YouCook2.annotations, *clips, *rows, *JSON, *TABLES)


def _rtime(folder: Path) -> list[Form]:
    from datamodules.rtime import RTime, RTimeBinary

    layout("rtime", folder)
    return [
        form(RTime, "train.json", "json", "train", split_protocol="hard", rewrites=True),
        form(RTime, "test.json", "json"),
        form(RTimeBinary, "test.json", "json"),
    ]


def _rtime_readers() -> Iterable[Any]:
    from datamodules import rtime
    from petl_bench.data import qa

    own = (rtime.RTime.annotations, rtime.RTimeBinary.annotations, rtime.RTimeBinary.questions)
    entries = (rtime.read_entries, rtime._entry, rtime._captions, rtime._both, rtime._asked, Record.strings)
    json_files = (annotations.read_text, annotations.read_json, annotations._parsed, untrusted.parse_json)
    return (*own, *entries, *json_files, qa.QuestionAnswerDataModule.annotations, Record.error)


def _coco(folder: Path) -> list[Form]:
    from datamodules.coco import COCO
    from datamodules.flickr30k import Flickr30K

    layout("coco", folder, 4)
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
        form(COCO, "coco_karpathy_train.json", "json", "train"),
        form(COCO, "coco_karpathy_test.json", "json"),
        form(COCO, "dataset_coco.json", "json", "train", "val", "test", karpathy_file="dataset_coco.json"),
        form(Flickr30K, "flickr30k_test.json", "json"),
        Form("karpathy_test_images.txt", "lines", listed),
    ]


def _coco_readers() -> Iterable[Any]:
    from petl_bench.data import karpathy

    module = karpathy.KarpathyDataModule
    own = (module.video_ids, module.annotations, module._karpathy, karpathy.read_captions, karpathy.image_id)
    labels = (Record.labels_of, annotations._label)
    texts = (Record.strings, Record.strings_of, Record.items)
    return (*own, *labels, *JSON, *RECORDS, *SECTIONS, *LINES, *texts)


RETRIEVAL_TARGETS = (
    Target("msrvtt", _msrvtt, _msrvtt_readers),
    Target("msvd", _msvd, _msvd_readers),
    Target("lsmdc", _lsmdc, _lsmdc_readers),
    Target("didemo", _didemo, _didemo_readers),
    Target("activitynet", _activitynet, _activitynet_readers),
    Target("vatex", _vatex, _vatex_readers),
    Target("youcook2", _youcook2, _youcook2_readers),
    Target("rtime", _rtime, _rtime_readers),
    Target("karpathy", _coco, _coco_readers),
)
