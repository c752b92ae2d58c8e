"""What is written in the layout of a dataset is read again as it was, whatever the texts are."""

from __future__ import annotations

import csv
import io
import json
import pickle
import string
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.activitynet import ActivityNet
from datamodules.coco import COCO
from datamodules.custom import Custom, CustomQA
from datamodules.didemo import DiDeMo
from datamodules.flickr30k import Flickr30K
from datamodules.lsmdc import LSMDC
from datamodules.msrvtt import MSRVTT
from datamodules.msrvtt_qa import MSRVTTQA
from datamodules.msvd import MSVD
from datamodules.msvd_qa import MSVDQA
from datamodules.vqav2 import VQAv2
from petl_bench.data.answers import read_vocabulary
from petl_bench.data.base import VideoTextDataModule

settings.register_profile("few", derandomize=True, deadline=None, database=None, max_examples=25)
few = settings.get_profile("few")

#: texts that are more than white space; JSON holds all, a table what a line of text holds
written = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda text: text.strip())
in_a_line = written.map(lambda text: " ".join(text.replace("\0", "_").split())).filter(bool)
names = st.text("abcXYZ019_-é語", min_size=1, max_size=8).filter(lambda name: not name.isspace())
numbers = st.integers(-(2**40), 2**70)
clips = st.dictionaries(names, st.lists(written, min_size=1, max_size=3), min_size=1, max_size=4)
plain_clips = st.dictionaries(names, st.lists(in_a_line, min_size=1, max_size=3), min_size=1, max_size=4)
#: questions about clips: clip, text, answers
asked = st.lists(st.tuples(names, written, st.lists(in_a_line, min_size=1, max_size=3)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def captions(data: VideoTextDataModule, split: Any = "test") -> dict[str, list[str]]:
    return {sample.video: list(sample.captions) for sample in data.checked(split)}


def questions(data: VideoTextDataModule) -> list[tuple[Any, ...]]:
    """Clip, question, id, type and answers, in the order of clips."""
    return [
        (sample.video, text, question.id, question.type, question.answers)
        for sample in data.checked("test")
        for text, question in zip(sample.captions, sample.questions, strict=True)
    ]


def by_clip(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    order = list(dict.fromkeys(row[0] for row in rows))
    return sorted(rows, key=lambda row: order.index(row[0]))


def first_word(text: str) -> str:
    return text.split()[0].lower()


def nfc(answers: list[str]) -> tuple[str, ...]:
    return tuple(normalize("NFC", answer) for answer in answers)


def save(path: Path, value: Any) -> None:
    """As JSON, or one value per line."""
    lines = map(json.dumps, value) if path.suffix == ".jsonl" else [json.dumps(value)]
    path.write_text("\n".join(lines), encoding="utf-8")


@st.composite
def tables(draw: st.DrawFn, columns: list[str]) -> Callable[[list[list[Any]]], bytes]:
    """A way of writing a table, as spreadsheets and people have them."""
    delimiter = draw(st.sampled_from(",;\t"))
    quoting: Any = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r\r\n"]))
    mark, blank = draw(st.sampled_from(["", "\ufeff"])), draw(st.sampled_from(["", end, end * 3, f"  {end}"]))
    case = draw(st.sampled_from([str.lower, str.upper, str.title, lambda name: f" {name} "]))
    more = draw(st.sampled_from([0, 0, 2]))  # columns without name or value, at the end

    def write(rows: list[list[Any]]) -> bytes:
        out = io.StringIO()
        writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)
        writer.writerow([*map(case, columns), *[""] * more])
        for row in rows:
            out.write(blank)
            writer.writerow([*row, *[""] * more])
        return (mark + out.getvalue() + blank).encode()

    return write


spans = st.one_of(st.none(), st.tuples(st.integers(0, 99), st.integers(100, 200)))


@few
@given(data=plain_clips, write=tables(["video", "caption", "start", "end"]), span=spans)
def test_custom_table(root: Path, data: dict[str, list[str]], write: Callable[..., bytes], span: Any) -> None:
    rows = [[f"a/{video}.mp4", text, *(span or ("", ""))] for video, texts in data.items() for text in texts]
    (root / "test.csv").write_bytes(write(rows))
    samples = Custom(root).checked("test")
    assert {sample.video: list(sample.captions) for sample in samples} == data
    assert {(sample.moment.start, sample.moment.end) for sample in samples} == {span or (None, None)}


@few
@given(data=clips, name=st.sampled_from(["test.json", "test.jsonl", "test.JSON"]), span=spans)
def test_custom_json(root: Path, data: dict[str, list[str]], name: str, span: Any) -> None:
    start, end = span or (None, None)
    rows = [{"video": v, "caption": t, "start": start, "end": end} for v, texts in data.items() for t in texts]
    save(root / name, rows)
    samples = Custom(root, test_file=name).checked("test")
    assert {sample.video: list(sample.captions) for sample in samples} == data
    assert {(sample.moment.start, sample.moment.end) for sample in samples} == {(start, end)}


identities = st.one_of(st.integers(-99, 10**17), st.sampled_from(["007", "q1", "1e3", "12_34", "-0", "٣"]))


@few
@given(rows=asked, write=tables(["video", "question", "answer", "id", "type"]), ids=st.data())
def test_custom_questions_as_a_table(
    root: Path, rows: list[Any], write: Callable[..., bytes], ids: st.DataObject
) -> None:
    given_ids = ids.draw(st.lists(identities, min_size=len(rows), max_size=len(rows), unique_by=str))
    flat = [(video, " ".join(text.replace("\0", "_").split()), answers[0]) for video, text, answers in rows]
    table = [[video, text, answer, one, "kind"] for (video, text, answer), one in zip(flat, given_ids, strict=True)]
    (root / "test.csv").write_bytes(write(table))
    expected = [(v, t, one, "kind", nfc([a])) for (v, t, a), one in zip(flat, given_ids, strict=True)]
    assert questions(CustomQA(root)) == by_clip(expected)


@few
@given(rows=asked, name=st.sampled_from(["test.json", "test.jsonl"]), ids=st.data())
def test_custom_questions_as_json(root: Path, rows: list[Any], name: str, ids: st.DataObject) -> None:
    given_ids = ids.draw(st.lists(identities, min_size=len(rows), max_size=len(rows), unique_by=str))
    save(
        root / name,
        [{"video": v, "question": t, "answer": a, "id": one} for (v, t, a), one in zip(rows, given_ids, strict=True)],
    )
    expected = [(v, t, one, first_word(t), nfc(a)) for (v, t, a), one in zip(rows, given_ids, strict=True)]
    assert questions(CustomQA(root, test_file=name)) == by_clip(expected)


@few
@given(data=clips, frozen=st.booleans(), write=tables(["video_id"]))
def test_msrvtt(root: Path, data: dict[str, list[str]], frozen: bool, write: Callable[..., bytes]) -> None:
    section, key = ("annotations", "image_id") if frozen else ("sentences", "video_id")
    save(root / "MSRVTT_data.json", {section: [{key: v, "caption": t} for v, texts in data.items() for t in texts]})
    (root / "MSRVTT_train.9k.csv").write_bytes(write([[video] for video in data]))
    assert captions(MSRVTT(root, partial=True), "train") == data


@few
@given(data=plain_clips, write=tables(["key", "video_id", "sentence"]))
def test_msrvtt_test_list(root: Path, data: dict[str, list[str]], write: Callable[..., bytes]) -> None:
    rows = [[f"ret{place}", video, texts[0]] for place, (video, texts) in enumerate(data.items())]
    (root / "MSRVTT_JSFUSION_test.csv").write_bytes(write(rows))
    assert captions(MSRVTT(root, partial=True)) == {video: texts[:1] for video, texts in data.items()}


@few
@given(data=plain_clips, protocol=st.integers(0, 5), name=st.sampled_from(["c.pkl", "c.json", "c.PKL"]))
def test_msvd(root: Path, data: dict[str, list[str]], protocol: int, name: str) -> None:
    tokens = {video: [text.split(" ") for text in texts] for video, texts in data.items()}
    if name.lower().endswith("pkl"):
        (root / name).write_bytes(pickle.dumps(tokens, protocol))
    else:
        save(root / name, tokens)
    (root / "test_list.txt").write_text("\r\n".join(data), encoding="utf-8")
    assert captions(MSVD(root, captions_file=name, partial=True)) == data


@few
@given(data=plain_clips, end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_lsmdc(root: Path, data: dict[str, list[str]], end: str) -> None:
    rows = [[video, *"1234", text] for video, texts in data.items() for text in texts]
    text = "".join("\t".join(row) + end for row in rows)
    (root / "LSMDC16_challenge_1000_publictect.csv").write_bytes(text.encode())
    assert captions(LSMDC(root, partial=True)) == data


@few
@given(data=clips, suffix=st.sampled_from(["", ".mp4", ".", ".mov.mp4"]))
def test_didemo(root: Path, data: dict[str, list[str]], suffix: str) -> None:
    save(root / "test_data.json", [{"video": v + suffix, "description": t} for v, texts in data.items() for t in texts])
    joined = {video: [" ".join(" ".join(texts).split())] for video, texts in data.items()}
    assert captions(DiDeMo(root, partial=True)) == joined
    times = [
        {"video": video, "description": text, "times": [[place, place]] * 2 + [[0, 5]]}
        for video, texts in data.items()
        for place, text in reversed(list(enumerate(texts)))
    ]
    save(root / "test_data.json", times)
    assert captions(DiDeMo(root, sentence_order="time", partial=True)) == joined


youtube = st.text(string.ascii_letters + string.digits + "-_", min_size=11, max_size=11)


@few
@given(
    data=st.dictionaries(youtube, st.lists(written, min_size=1, max_size=3), min_size=1, max_size=4),
    duration=st.one_of(st.floats(0.1, 1e6), st.integers(1, 10**6)),
    listed=st.booleans(),
)
def test_activitynet(root: Path, data: dict[str, list[str]], duration: float, listed: bool) -> None:
    save(root / "val_1.json", {f"v_{v}": {"duration": duration, "sentences": texts} for v, texts in data.items()})
    (root / "ids.txt").write_text("\n".join(data), encoding="utf-8")
    samples = ActivityNet(root, test_ids="ids.txt" if listed else None, partial=True).checked("test")
    joined = {f"v_{video}": [" ".join(" ".join(texts).split())] for video, texts in data.items()}
    assert {sample.video: list(sample.captions) for sample in samples} == joined
    assert all(duration <= float(sample.moment.end or 0) < duration + 1 for sample in samples)


@few
@given(rows=asked, shape=st.sampled_from(["original", "clipbert", "lavis"]), first=numbers)
def test_msrvtt_qa(root: Path, rows: list[Any], shape: str, first: int) -> None:
    clip = {video: place for place, video in enumerate(dict.fromkeys(row[0] for row in rows))}
    records, ids = [], range(first, first + len(rows))
    for (video, text, answers), one in zip(rows, ids, strict=True):
        number = clip[video]
        named = {
            "original": {"video_id": number, "id": one},
            "clipbert": {"video_id": f"video{number}"},
            "lavis": {"video": f"video{number}.mp4", "question_id": one},
        }[shape]
        records.append({"question": text, "answer": answers[0]} | named)
    name = "test.jsonl" if shape == "clipbert" else "test.json"
    save(root / name, records)
    places = range(len(rows)) if shape == "clipbert" else ids
    expected = [
        (f"video{clip[v]}", t, one, first_word(t), nfc(a[:1])) for (v, t, a), one in zip(rows, places, strict=True)
    ]
    assert questions(MSRVTTQA(root, test_file=name, partial=True)) == by_clip(expected)


@few
@given(rows=asked, by_number=st.booleans())
def test_msvd_qa(root: Path, rows: list[Any], by_number: bool) -> None:
    clip = {video: place for place, video in enumerate(dict.fromkeys(row[0] for row in rows), 1)}
    (root / "youtube_mapping.txt").write_text("".join(f"{v} vid{n}\n" for v, n in clip.items()), encoding="utf-8")
    records = [
        {"video_id": clip[v], "id": n} if by_number else {"video": f"{v}.avi", "id": n}
        for n, (v, _, _) in enumerate(rows)
    ]
    save(root / "q.json", [r | {"question": t, "answer": a[0]} for r, (_, t, a) in zip(records, rows, strict=True)])
    expected = [(v, t, n, first_word(t), nfc(a[:1])) for n, (v, t, a) in enumerate(rows)]
    assert questions(MSVDQA(root, test_file="q.json", partial=True)) == by_clip(expected)


images = st.integers(0, 10**12 - 1)


@few
@given(rows=st.lists(st.tuples(images, written, st.lists(in_a_line, min_size=1)), min_size=1, max_size=4))
def test_vqav2(root: Path, rows: list[Any]) -> None:
    asked_of = [{"image_id": image, "question_id": n, "question": text} for n, (image, text, _) in enumerate(rows)]
    votes = [
        {"question_id": n, "image_id": image, "answer_type": "other", "answers": [{"answer": a} for a in answers]}
        for n, (image, _, answers) in enumerate(rows)
    ]
    save(root / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked_of})
    save(root / "v2_mscoco_val2014_annotations.json", {"annotations": votes})
    expected = [
        (f"COCO_val2014_{image:012}", text, n, "other", nfc(answers)) for n, (image, text, answers) in enumerate(rows)
    ]
    assert questions(VQAv2(root, partial=True)) == by_clip(expected)
    blip = [
        {"image": f"val2014/COCO_val2014_{image:012}.jpg", "question_id": n, "question": text, "answer": answers}
        for n, (image, text, answers) in enumerate(rows)
    ]
    save(root / "vqa_val.json", blip)
    expected = [(video, text, n, "unknown", answers) for video, text, n, _, answers in expected]
    assert questions(VQAv2(root, source="blip", partial=True)) == by_clip(expected)
    save(root / "vg_qa.json", blip)
    save(root / "vqa_train.json", blip)
    data = VQAv2(root, source="blip", visual_genome="vg_qa.json", partial=True)
    ids = [question.id for sample in data.checked("train") for question in sample.questions]
    assert sorted(ids) == [*range(-len(rows), 0), *range(len(rows))]


@few
@given(data=clips, kind=st.sampled_from([COCO, Flickr30K]), listed=st.booleans())
def test_pictures(root: Path, data: dict[str, list[str]], kind: Any, listed: bool) -> None:
    rows = [{"image": f"a/{image}.jpg", "caption": texts} for image, texts in data.items()]
    flat = [{"image": f"a/{image}.jpg", "caption": text} for image, texts in data.items() for text in texts]
    save(root / kind.file_names["test"], rows if listed else flat)
    assert captions(kind(root, partial=True)) == data
    own = [
        {
            "filename": f"{image}.jpg",
            "split": "restval" if place % 2 else "train",
            "sentences": [{"raw": t} for t in texts],
        }
        for place, (image, texts) in enumerate(data.items())
    ]
    save(root / "dataset.json", {"images": own})
    assert captions(kind(root, karpathy_file="dataset.json", partial=True), "train") == data


@few
@given(
    answers=st.lists(in_a_line, min_size=1, max_size=5, unique_by=lambda text: normalize("NFC", text)),
    name=st.sampled_from(["a.txt", "a.json", "places.json", "a.jsonl", "a.csv", "a.tsv"]),
    write=tables(["answer"]),
)
def test_answers(root: Path, answers: list[str], name: str, write: Callable[..., bytes]) -> None:
    if name == "a.txt":
        (root / name).write_text("\n\n".join(f" {answer}\t" for answer in answers), encoding="utf-8", newline="\r\n")
    elif name == "places.json":
        save(root / name, {answer: place for place, answer in reversed(list(enumerate(answers)))})
    elif name.endswith("sv"):
        (root / name).write_bytes(write([[answer] for answer in answers]))
    else:
        save(root / name, answers)
    assert read_vocabulary(root / name).answers == nfc(answers)
