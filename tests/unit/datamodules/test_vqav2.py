"""VQAv2: official files, BLIP's, Visual Genome."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.vqav2 import VQAv2
from petl_bench.errors import DataError, UsageError

IMAGE = "COCO_val2014_000000262148"


def write(root: Path, part: str, questions: list[dict[str, Any]], annotations: list[dict[str, Any]] | None) -> None:
    path = root / f"v2_OpenEnded_mscoco_{part}_questions.json"
    path.write_text(json.dumps({"info": {}, "questions": questions}))
    if annotations is not None:
        (root / f"v2_mscoco_{part}_annotations.json").write_text(json.dumps({"annotations": annotations}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    questions = [{"image_id": 262148, "question_id": 262148000 + n, "question": f"Is it {n}?"} for n in range(2)]
    answers = [{"answer": "yes" if n < 7 else "no", "answer_id": n + 1} for n in range(10)]
    annotations = [q | {"answer_type": "yes/no", "question_type": "is it", "answers": answers} for q in questions]
    write(tmp_path, "val2014", questions, annotations)
    write(tmp_path, "train2014", questions[:1], annotations[:1])
    write(tmp_path, "test2015", questions, None)
    return tmp_path


def test_official_files(root: Path) -> None:
    (sample,) = VQAv2(root, partial=True).samples("test")
    assert (sample.video, sample.captions) == (IMAGE, ("Is it 0?", "Is it 1?"))
    question = sample.questions[0]
    assert (question.id, question.type, len(question.answers)) == (262148000, "yes/no", 10)
    assert question.weights == {"yes": pytest.approx(0.7), "no": pytest.approx(0.3)}


def test_both_parts_are_trained_on_and_the_test_has_no_answers(root: Path) -> None:
    data = VQAv2(root, train_on="train+val", test_on="test", partial=True)
    assert [s.video for s in data.samples("train")] == ["COCO_train2014_000000262148", IMAGE]
    (sample,) = data.samples("test")
    assert (sample.video, sample.questions[0].answers) == ("COCO_test2015_000000262148", ())
    assert set(data.annotation_files()) == {
        "train_questions",
        "train_annotations",
        "val_questions",
        "val_annotations",
        "test_questions",
    }


def test_testing_on_trained_images_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="test_on"):
        VQAv2(root, train_on="train+val")


def test_blip_s_files_and_visual_genome(root: Path) -> None:
    record = {
        "question_id": 1,
        "question": "What?",
        "answer": ["a"] * 10,
        "image": f"val2014/{IMAGE}.jpg",
        "dataset": "vqa",
    }
    (root / "vqa_train.json").write_text(json.dumps([record]))
    (root / "vqa_val.json").write_text(json.dumps([record | {"answer": "one"}]))
    genome = {"image": "VG_100K/7.jpg", "question": "Where?", "answer": "at home", "dataset": "vg"}
    (root / "vg_qa.json").write_text(json.dumps([genome]))
    data = VQAv2(root, source="blip", visual_genome="vg_qa.json", partial=True)
    first, second = data.samples("train")
    assert (first.video, first.questions[0].weights) == (IMAGE, {"a": pytest.approx(1.0)})
    assert (second.video, second.questions[0].weights) == ("7", {"at home": 0.2})
    assert data.samples("test")[0].questions[0].answers == ("one",)
    assert data.protocol.id != VQAv2(root, source="blip").protocol.id


def test_images_are_found_in_their_sub_folders(root: Path) -> None:
    (root / "images" / "val2014").mkdir(parents=True)
    (root / "images" / "val2014" / f"{IMAGE}.jpg").touch()
    (root / "images" / "movie.mp4").touch()
    clips = VQAv2(root, videos="images").clip_files()
    assert clips
    assert clips.find([IMAGE]).keys() == {IMAGE}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"question_id": "1"}, r"questions\[0\]: 'question_id'"),
        ({"question": None}, r"questions\[0\]: 'question'"),
        ({"question": " "}, r"questions\[0\]: 'question' is blank"),
        ({"question_id": True}, r"questions\[0\]: 'question_id' is True"),
        ({"question_id": 1.5}, r"questions\[0\]: 'question_id' is 1.5"),
        ({"question_id": float("inf")}, r"questions\[0\]: 'question_id' is inf"),
        ({"image_id": -1}, r"questions\[0\]: 'image_id' is -1"),
        ({"image_id": 1e999}, r"questions\[0\]: 'image_id' is inf"),
        ({"question_id": 5}, "question 5 has no annotation"),
    ],
)
def test_a_wrong_record_is_named(root: Path, change: dict[str, Any], told: str) -> None:
    path = root / "v2_OpenEnded_mscoco_val2014_questions.json"
    data = json.loads(path.read_text())
    data["questions"][0] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=told):
        VQAv2(root, partial=True).samples("test")


def test_counts_are_those_of_the_protocol(root: Path) -> None:
    with pytest.raises(DataError, match="expected 40504"):
        VQAv2(root).samples("test")


def test_a_real_extract(shared: Path) -> None:
    root = shared / "data/annotations/vqav2/allennlp_fixture"
    files = {"val_questions": "questions.json", "val_annotations": "annotations.json"}
    samples = VQAv2(root, files=files, partial=True).samples("test")
    questions = [question for sample in samples for question in sample.questions]
    assert len(questions) == len(json.loads((root / "questions.json").read_text())["questions"])
    assert all(len(question.answers) == 10 for question in questions)
