"""TGIF-QA: four tasks, both forms of their files, the releases of the training splits, and GIFs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from av import VideoFrame

from datamodules.tgif_qa import TGIFAction, TGIFCount, TGIFFrameQA, TGIFTransition
from petl_bench.data.answers import read_vocabulary
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.describe import describe
from petl_bench.data.video import DecordReader, VideoError, open_video
from petl_bench.errors import DataError, UsageError
from petl_bench.fixture import WRITERS
from petl_bench.fixture.scenes import encode
from petl_bench.testing import check_datamodule
from tests.unit.data.test_parts import SPEC

CHOICES = "gif_name question a1 a2 a3 a4 a5 answer vid_id key"
FRAMEQA = "gif_name question answer type vid_id key description"
COUNT = "gif_name question answer vid_id key"
OF_HQGA = "video,width,height,question,a0,a1,a2,a3,a4,answer,qid"
#: class, what its files are called, their columns, and a row
TASKS: dict[str, tuple[type[VideoTextDataModule], str, str]] = {
    "action": (TGIFAction, CHOICES, 'g1|What does  the man do 3 times ?|"nod|none|null|na|wave|2|ACTION4|26'),
    "transition": (TGIFTransition, CHOICES, 'g1|What does he do before nod ?|say "hi|a|b|c|d|0|TRANS7|26'),
    "frameqa": (TGIFFrameQA, FRAMEQA, "g1|what is red ?|t-shirt|0|FRAMEQA9|26|a red t-shirt"),
    "count": (TGIFCount, COUNT, "g1|How many times does he nod ?|10|COUNT12|26"),
}


def write(folder: Path, task: str, *rows: str, split: str = "Test", encoding: str = "utf-8", end: str = "\r\n") -> None:
    lines = [TASKS[task][1].replace(" ", "\t"), *(row.replace("|", "\t") for row in rows)]
    (folder / f"{split}_{task}_question.csv").write_bytes("".join(line + end for line in lines).encode(encoding))


def module(task: str, folder: Path, **options: Any) -> VideoTextDataModule:
    return TASKS[task][0](folder, **{"partial": True, "spec": SPEC, "num_workers": 0, **options})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tgif") / "tgif_qa"
    WRITERS["tgif_qa"](folder, train_videos=6, test_videos=4, size=32, seconds=1)
    return folder


def test_the_official_files(tmp_path: Path) -> None:
    for task, (_, _, row) in TASKS.items():
        write(tmp_path, task, row)
    found = {task: module(task, tmp_path).samples("test") for task in TASKS}
    assert {sample.video for samples in found.values() for sample in samples} == {"g1"}
    asked = {task: samples[0].questions[0] for task, samples in found.items()}
    assert asked["action"].choices == ('"nod', "none", "null", "na", "wave")
    assert (asked["action"].id, asked["action"].correct, asked["action"].answers) == ("ACTION4", 2, ("null",))
    assert asked["action"].options[1] == "What does the man do 3 times ? none"
    assert asked["transition"].choices[0] == 'say "hi'
    assert (asked["frameqa"].type, asked["frameqa"].answers) == ("object", ("t-shirt",))
    assert "a red t-shirt" not in str(found["frameqa"])  # the description holds the answer
    assert (asked["count"].id, asked["count"].answers) == ("COUNT12", ("10",))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_ends_of_lines_and_a_byte_order_mark(end: str, encoding: str, tmp_path: Path) -> None:
    row = TASKS["action"][2]
    write(tmp_path, "action", row, row.replace("ACTION4", "ACTION5"), end=end, encoding=encoding)
    (sample,) = module("action", tmp_path).samples("test")
    assert [question.id for question in sample.questions] == ["ACTION4", "ACTION5"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_refused(encoding: str, tmp_path: Path) -> None:
    write(tmp_path, "action", TASKS["action"][2].replace("wave", "café"), encoding=encoding)
    with pytest.raises(DataError, match=r"Test_action_question\.csv: .*UTF-8"):
        module("action", tmp_path).samples("test")


def test_the_files_of_hqga_number_gifs(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(f'{OF_HQGA}\n26,245,185,"what, then",nod,b,c,d,e,0,ACTION4\n')
    (sample,) = module("action", tmp_path).samples("test")
    (question,) = sample.questions
    assert (sample.video, question.id, question.answers, question.prompt) == ("26", "ACTION4", ("nod",), "what, then")
    write(tmp_path, "action", TASKS["action"][2], split="Total")
    named = module("action", tmp_path, keys_file="Total_action_question.csv")
    assert [sample.video for sample in named.samples("test")] == ["g1"]
    (tmp_path / "test.csv").write_text(f"{OF_HQGA}\n27,245,185,what,nod,b,c,d,e,0,ACTION4\n")
    with pytest.raises(DataError, match=r"test.csv, line 2: no GIF has the key '27' in .*Total_action_question.csv"):
        module("action", tmp_path, keys_file="Total_action_question.csv").samples("test")
    (tmp_path / "test.csv").write_text(
        "video,width,height,question,answer,qid\n26,2,1,how many dogs run,two,FRAMEQA9\n"
    )
    (sample,) = module("frameqa", tmp_path).samples("test")
    assert (sample.questions[0].type, sample.questions[0].answers) == ("how", ("two",))


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        ("action", ("|2|", "|5|"), "'answer' is '5', not the index of an option, 0 to 4"),
        ("action", ("|2|", "|null|"), "not the index of an option"),
        ("action", ("|none|", "|wave|"), "option 'wave' is given twice"),
        ("action", ("|none|", "| |"), "'a2' is missing or blank"),
        ("action", ("|26", ""), "9 fields between tabs, the header has 10"),
        ("frameqa", ("|0|", "|4|"), "'type' is '4', not a whole number from 0 to 3"),
        ("frameqa", ("|t-shirt|", "||"), "'answer' is missing or blank"),
        ("count", ("|10|", "|11|"), "'answer' is '11', not a whole number from 0 to 10"),
        ("count", ("|10|", "|-1|"), "'answer' is '-1', not a whole number from 0 to 10"),
        ("count", ("|10|", "|2.5|"), "'answer' is '2.5', not a whole number from 0 to 10"),
        ("count", ("COUNT12", " "), "'vid_id' is missing or blank"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_line(
    task: str, change: tuple[str, str], told: str, tmp_path: Path
) -> None:
    write(tmp_path, task, TASKS[task][2].replace(*change))
    with pytest.raises(DataError, match=rf"Test_{task}_question\.csv, line 2: .*{told}"):
        module(task, tmp_path).samples("test")


def test_files_of_another_task_and_questions_that_stand_twice_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "count", TASKS["count"][2], TASKS["count"][2])
    with pytest.raises(DataError, match="line 3: question id 'COUNT12' is given twice"):
        module("count", tmp_path).samples("test")
    with pytest.raises(DataError, match=r"Test_count_question.csv, line 2: 'a1' is missing"):
        module("action", tmp_path, test_file="Test_count_question.csv").samples("test")
    with pytest.raises(DataError, match=r"no test questions in .*: none of Test_action_question.csv, test.csv"):
        module("action", tmp_path).samples("test")


def test_answers_of_a_file_with_open_quotes(tmp_path: Path) -> None:
    row = TASKS["frameqa"][2]
    write(tmp_path, "frameqa", row, row.replace("what is", '"what'), row.replace("t-shirt", "hat"), split="Train")
    assert read_vocabulary(tmp_path / "Train_frameqa_question.csv", 5).answers == ("t-shirt", "hat")


@pytest.mark.parametrize("task", TASKS)
def test_the_generated_files(task: str, written: Path) -> None:
    kind = TASKS[task][0].__name__
    check_datamodule(kind, written, f"data/tgif_{task}.yaml", partial=True, frames=2)


def test_validation_gifs_are_held_out_by_their_names(written: Path) -> None:
    held = [module(task, written, val_videos=2).samples("val") for task in ("action", "count")]
    assert [sample.video for sample in held[0]] == [sample.video for sample in held[1]]
    assert len(held[0]) == 2


def test_gifs_decode_to_what_was_written(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(256, size=(7, 32, 32, 3), dtype=np.uint8)
    palette = [VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="rgb8") for frame in drawn]
    frames = np.stack([frame.to_ndarray(format="rgb24") for frame in palette])
    encode(tmp_path / "moving.gif", frames, 10)
    with open_video(tmp_path / "moving.gif") as video:
        assert video.info.num_frames == 7
        found = video.read(range(7))
    assert np.array_equal(found, frames)


def test_decord_is_refused_gifs(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petl_bench.data.base.require_reader", lambda reader: None)
    monkeypatch.setattr("petl_bench.data.video.require_reader", lambda reader: None)
    with pytest.raises(UsageError, match=r"decord cannot open animated GIFs such as .*\.gif: set data.reader pyav"):
        module("action", written, reader="decord").setup("test")
    with pytest.raises(VideoError, match="decord cannot open animated GIFs"):
        DecordReader(next((written / "videos").iterdir()))


@pytest.mark.parametrize(
    ("task", "videos", "questions", "types"),
    [
        ("action", 2_274, 2_274, {"what": 2_274}),
        ("transition", 3_116, 6_232, {"what": 6_232}),
        ("frameqa", 7_132, 13_691, {"object": 5_586, "color": 3_904, "number": 3_148, "location": 1_053}),
        ("count", 3_554, 3_554, {"count": 3_554}),
    ],
)
def test_the_real_files(task: str, videos: int, questions: int, types: dict[str, int], shared: Path) -> None:
    data = module(task, shared / "data/annotations_2/tgif_qa", partial=False)
    found = describe(data)
    test = found["splits"]["test"]
    assert (test["videos"], test[data.texts.replace(" ", "_")]) == (videos, questions)
    assert test["question_types"] == types
    assert f"none of Train_{task}_question.csv" in found["splits"]["train"]["missing"]
    assert data.has_truth("test")


def test_counts_of_the_real_test_file(shared: Path) -> None:
    samples = module("count", shared / "data/annotations_2/tgif_qa").samples("test")
    answers = Counter(int(question.answers[0]) for sample in samples for question in sample.questions)
    assert [answers[number] for number in range(11)] == [918, 0, 914, 582, 394, 222, 161, 85, 73, 41, 164]


@pytest.mark.parametrize(
    ("task", "split_protocol", "expected"), [("action", "hqga", 20_473), ("count", "readme", 26_843)]
)
def test_a_cut_training_file_is_partial(task: str, split_protocol: str, expected: int, shared: Path) -> None:
    root, head = shared / "data/annotations_2/tgif_qa", f"Train_{task}_question.head500.csv"
    assert len(module(task, root, train_file=head).samples("train")) == 500
    told = f"tgif-{task}-{split_protocol}/v1: train split has 500 videos, expected {expected}: a file is cut"
    with pytest.raises(DataError, match=told):
        module(task, root, train_file=head, split_protocol=split_protocol, partial=False).samples("train")


def test_the_list_of_answers_of_hqga(shared: Path) -> None:
    path = shared / "data/annotations_2/tgif_qa/frameqa_train_answers_HQGA.json"
    assert len(json.loads(path.read_text())) == len(read_vocabulary(path)) == 1_540
