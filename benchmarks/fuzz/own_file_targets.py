"""Readers of files that users write themselves (lists of clips, questions, answers); of manifests and cached frames."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fuzz.layouts import JSON, LINES, RECORDS, TABLES, form, qa_readers, write_table
from benchmarks.fuzz.trial import Form, Target
from petl_bench.data import annotations, answers
from petl_bench.data.annotations import Record
from petl_bench.data.cache import DamagedEntry
from petl_bench.storage import untrusted


def _custom(folder: Path) -> list[Form]:
    from datamodules.custom import Custom

    rows = [
        {"video": "a/x.mp4", "caption": "one, two", "start": 3, "end": 9, "reverse": "no"},
        {"video": "a/x.mp4", "caption": 'a "second" one', "start": 3, "end": 9, "reverse": "yes"},
        {"video": "y.v2", "caption": "three", "start": None, "end": None, "reverse": None},
    ]
    files = {"test.csv": "table", "test.json": "json", "test.jsonl": "jsonl"}
    for name in files:
        write_table(folder / name, rows)
    return [form(Custom, name, kind, "test", "val", test_file=name) for name, kind in files.items()]


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
    return (*own, *JSON, *RECORDS, *TABLES, Record.seconds, Record.has)


def _custom_qa(folder: Path) -> list[Form]:
    from datamodules.custom import CustomQA

    rows: list[dict[str, Any]] = [
        {"video": "x.mp4", "question": "What is it?", "answer": "a cat", "type": "kind", "id": 7},
        {"video": "x.mp4", "question": "How many?", "answer": "2", "type": "", "id": "007"},
        {"video": "b/y.mkv", "question": "Where, then?", "answer": "here", "type": 3, "id": "q9"},
    ]
    files = {"test.csv": "table", "test.json": "json", "test.jsonl": "jsonl"}
    for name in files:
        write_table(folder / name, rows)
    return [form(CustomQA, name, kind, "test", "val", test_file=name) for name, kind in files.items()]


def _custom_qa_readers() -> Iterable[Any]:
    from datamodules import custom

    own = (custom.CustomQA.questions, custom.file_name, custom._type, answers.read_answers, Record.strings, Record.has)
    return (*own, *qa_readers(), *TABLES)


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
    return (*own, answers.read_answers, answers.plain_answer, annotations.read_values, *JSON, *TABLES, *LINES[:1])


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


def _cached(folder: Path) -> list[Form]:
    """Entries of a frame cache, and a JPEG file in one whose sums say that it is what was written."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from petl_bench.data.cache import Clip, FrameCache, Profile
    from petl_bench.data.checksum import word_sum
    from petl_bench.data.jpeg import joined
    from petl_bench.inputs import FrameRule

    video, room = folder / "video.png", torch.empty(1, 3, 24, 24, dtype=torch.uint8)
    pixels = np.random.default_rng(0).integers(256, size=(30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(video)
    rule, clip = FrameRule(1, "uniform", None), Clip(video)
    names, caches = {}, {}
    for kind, quality in (("pixels", None), ("jpeg", 90)):
        caches[kind] = FrameCache(folder / "cache", Profile.of(rule, 24, "squash", "pyav", jpeg_quality=quality))
        caches[kind].store(clip)
        names[kind] = str(caches[kind].entry(clip).relative_to(folder))
    entry = folder / names["jpeg"]
    description = json.loads(_metadata(entry)["clip"])
    whole = entry.read_bytes()
    (folder / "frame.jpg").write_bytes(whole[-description["lengths"][0] :])

    def read(kind: str, _root: Path) -> None:
        assert caches[kind].read(clip, lambda *_: np.zeros(1, int), room).frames.shape == room.shape

    def read_frame(root: Path) -> None:
        content = (root / "frame.jpg").read_bytes() or b"\0"  # an entry has no empty one
        text = json.dumps(description | {"lengths": [len(content)], "sums": [word_sum(memoryview(content))]})
        save_file({"jpeg": joined([content])}, entry, {"clip": text, "crc32": str(zlib.crc32(text.encode()))})
        try:
            read("jpeg", root)
        finally:
            entry.write_bytes(whole)

    forms = [Form(names[kind], "safetensors", partial(read, kind)) for kind in names]
    return [*forms, Form("frame.jpg", "bytes", read_frame)]


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def _cached_readers() -> Iterable[Any]:
    from petl_bench.data import cache, jpeg

    pixels, jpegs = cache._Entry, cache._JpegEntry
    own = (pixels.__init__, pixels._header, pixels._tensor, pixels._read_times, pixels.frames, pixels._put)
    return (*own, pixels._read, pixels._fill, jpegs.__init__, jpegs._read, jpeg.decode)


OWN_FILE_TARGETS = (
    Target("custom", _custom, _custom_readers),
    Target("custom_qa", _custom_qa, _custom_qa_readers),
    Target("answers", _answers, _answers_readers),
    Target("manifest", _manifest, _manifest_readers),
    Target("cached", _cached, _cached_readers, DamagedEntry),
)
