"""STAR: windows and their questions, options by their ids, what is wrong with a record, and what a manifest refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from datamodules.star import STAR
from petl_bench.backbones.clip import CLIP
from petl_bench.data.manifest import Entry, write_manifest
from petl_bench.data.reader import READING_RULES
from petl_bench.data.samples import Sample, Split
from petl_bench.errors import DataError
from petl_bench.fixture import WRITERS
from petl_bench.inputs import Moment
from petl_bench.testing import check_datamodule
from petl_bench.testing.gated import Gated

CHOICES = [
    {"choice_id": 1, "choice": "The box."},
    {"choice_id": 0, "choice": "The none."},
    {"choice_id": 3, "choice": "The cup."},
    {"choice_id": 2, "choice": "The bag."},
]
RECORD = {
    "question_id": "Interaction_T1_4",
    "question": "Which object\nwas eaten?",
    "video_id": "TJZ0P",
    "start": 7.7,
    "end": 15.0,
    "answer": "The box.",
    "choices": CHOICES,
    "situations": {"000001": {"rel_labels": ["The box."]}},
}


def read(folder: Path, *records: dict[str, Any], split: Split = "test", **options: Any) -> list[Sample]:
    (folder / ("STAR_val.json" if split == "test" else "STAR_train.json")).write_text(
        json.dumps(records), encoding="utf-8"
    )
    return STAR(folder, partial=True, **options).samples(split)


def test_the_mean_of_types_is_the_official_figure(written: Path) -> None:
    assert STAR(written, partial=True, spec=CLIP("tiny", None).spec).protocol_record()["headline"] == "mean_of_types"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("star") / "star"
    WRITERS["star"](folder, train_videos=8, test_videos=4, size=32, seconds=1)
    return folder


def test_questions_about_a_window_are_together_and_apart_from_others(tmp_path: Path) -> None:
    of_another_window = RECORD | {"question_id": "Prediction_T2_9", "end": 15.7}
    same = RECORD | {"question_id": "Sequence_T2_10", "end": 15}
    first, second = read(tmp_path, RECORD, of_another_window, same)
    assert (first.video, first.file, first.moment) == ("TJZ0P_7.7_15", "TJZ0P", Moment(7.7, 15))
    assert (second.video, second.file_id, second.moment) == ("TJZ0P_7.7_15.7", "TJZ0P", Moment(7.7, 15.7))
    assert [question.id for question in first.questions] == ["Interaction_T1_4", "Sequence_T2_10"]
    assert [question.type for question in first.questions] == ["interaction", "sequence"]
    (question,) = second.questions
    assert question.choices == ("The none.", "The box.", "The bag.", "The cup.")  # by id
    assert (question.correct, question.answers, question.type) == (1, ("The box.",), "prediction")
    assert question.options[1] == "Which object was eaten? The box."


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"answer": "The dog."}, "'answer' is 'The dog.', not one of the options"),
        ({"answer": None}, "'answer' is missing or blank"),
        ({"question_id": "Intention_T1_4"}, "'question_id' is 'Intention_T1_4', not one that begins with Interaction"),
        ({"start": 15.0}, "its window begins at second 15 and ends at 15"),
        ({"start": -0.1}, "'start' is -0.1, not a number of seconds"),
        ({"end": None}, "'end' is missing or blank"),
        ({"choices": CHOICES[:1]}, r"choices have the choice_id \[1\], not each of 0 to 0"),
        ({"choices": [CHOICES[0], CHOICES[0]]}, r"choices have the choice_id \[1, 1\], not each of 0 to 1"),
        ({"choices": CHOICES[:2]}, "2 options, each question has 4"),
        ({"choices": [*CHOICES[:3], {"choice_id": 2, "choice": "The  box."}]}, "option 'The box.' is given twice"),
        ({"choices": ["The box."]}, "choice 0: 'choice_id' is missing or blank"),
        ({"choices": [CHOICES[0], {"choice_id": 0, "choice": " "}]}, "choice 1: 'choice' is blank"),
        ({"video_id": None}, "'video_id' is missing or blank"),
    ],
)
def test_what_is_wrong_with_a_record_is_told_with_its_place(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"STAR_val.json, record 0.*{told}"):
        read(tmp_path, RECORD | changed)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_question_that_stands_twice_is_refused(split: Split, tmp_path: Path) -> None:
    for name in ("STAR_train.json", "STAR_val.json"):
        (tmp_path / name).write_text(json.dumps([RECORD, RECORD]), encoding="utf-8")
    with pytest.raises(DataError, match="record 1: question id 'Interaction_T1_4' is given twice"):
        STAR(tmp_path, partial=True).checked(split)


def test_answers_of_the_test_split_are_not_public(written: Path) -> None:
    data = STAR(written, test_on="test", partial=True)
    assert data.protocol.id == "star-test/v1"
    assert not data.has_truth("test")
    assert data.has_truth("val")
    assert all(question.correct is None for sample in data.samples("test") for question in sample.questions)


def test_counts_are_those_of_the_questions(tmp_path: Path) -> None:
    (tmp_path / "STAR_val.json").write_text(json.dumps([RECORD]), encoding="utf-8")
    with pytest.raises(DataError, match="star-val/v1: test split has 1 choice questions, expected 7098"):
        STAR(tmp_path).samples("test")


def test_the_generated_files(written: Path) -> None:
    check_datamodule("STAR", written, "data/star.yaml", partial=True, frames=2, max_words=32)
    samples = STAR(written, partial=True).samples("train")
    assert {(sample.moment.start, sample.moment.end) for sample in samples} == {(0, 0.5), (0.5, 1)}
    assert len({sample.file for sample in samples}) == len(samples) / 2
    questions = [question for sample in samples for question in sample.questions]
    assert {question.type for question in questions} == {"interaction", "sequence", "prediction", "feasibility"}
    assert len({question.correct for question in questions}) > 2


def test_a_window_past_the_end_of_its_clip_is_refused_where_lengths_are_known(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "star"
    shutil.copytree(written, folder)
    records = json.loads((folder / "STAR_val.json").read_text())
    video = records[0]["video_id"]
    paths = sorted((folder / "videos").rglob("*.mp4"))
    found = [(path, path.stat()) for path in paths]
    entries = [
        Entry(
            path.stem, str(path.relative_to(folder)), "ok", bytes=status.st_size, mtime_ns=status.st_mtime_ns,
            codec="h264", duration=1.0, rules=READING_RULES,
        )
        for path, status in found
    ]  # fmt: skip
    write_manifest(folder / "manifest.jsonl", entries)

    def setup(end: float, **options: Any) -> None:
        name = next(i for i, record in enumerate(records) if record["video_id"] == video)
        changed = [record | {"end": end} if i == name else record for i, record in enumerate(records)]
        (folder / "STAR_val.json").write_text(json.dumps(changed), encoding="utf-8")
        data = STAR(folder, partial=True, manifest=folder / "manifest.jsonl", frames=2, num_workers=0, **options)
        data.link(Gated.tiny().spec, 0)
        data.setup("test")

    setup(1.9)
    with pytest.raises(
        DataError, match=rf"refuses 1 of .*'{video}_0_2.1' \(it ends at second 2.1, and its file at 1\)"
    ):
        setup(2.1)
    with pytest.warns(UserWarning, match="ends at second 2.1"):
        setup(2.1, bad_videos="tolerate")


def test_the_record_of_the_shape(shared: Path) -> None:
    data = STAR(shared / "data/annotations_2/star", val_file="STAR_shape_example.json", partial=True)
    samples = data.samples("test")
    assert [sample.video for sample in samples] == ["TJZ0P_7.7_15.7", "5UFCJ_20.2_30"]
    assert [sample.questions[0].answers for sample in samples] == [("The sandwich.",), ("Ate.",)]
    assert [sample.questions[0].correct for sample in samples] == [0, 3]
