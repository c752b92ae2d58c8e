"""MSRVTT-QA: every distributed shape of its files, its counts, and batches with their questions."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.msrvtt_qa import MSRVTTQA
from petl_bench.data.batch import Batch, Question
from petl_bench.errors import DataError
from petl_bench.fixture import write_fixture
from petl_bench.inputs import InputSpec

NUM_TRAIN, NUM_TEST, PER_VIDEO = 16, 4, 4
SPLITS = ("train", "val", "test")


def count_letters(questions: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
    """Stands for a tokenizer: the lengths of the words."""
    ids = torch.zeros(len(questions), max_words, dtype=torch.long)
    for row, question in enumerate(questions):
        words = [len(word) for word in question.split()][:max_words]
        ids[row, : len(words)] = torch.tensor(words)
    return ids, ids > 0


SPEC = InputSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "shorter_side_crop", 77, count_letters)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "msrvtt"
    write_fixture(folder, train_videos=NUM_TRAIN, test_videos=NUM_TEST, captions_per_video=1, size=32, seconds=1)
    return folder


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "msrvtt"))


def module(root: Path, **options: Any) -> MSRVTTQA:
    defaults = {"batch_size": 8, "frames": 3, "frame_rate": None, "max_words": 12, "num_workers": 0, "partial": True}
    return MSRVTTQA(root, spec=SPEC, **{**defaults, **options})


def records(root: Path, split: str) -> list[dict[str, Any]]:
    return json.loads((root / f"{split}_qa.json").read_text(encoding="utf-8"))


def original(record: dict[str, Any]) -> dict[str, Any]:
    return record


def clipbert(record: dict[str, Any]) -> dict[str, Any]:
    question = record["question"]
    return {
        "answer": record["answer"],
        "question": question,
        "video_id": f"video{record['video_id']}",
        "answer_type": question.split()[0],
    }


def lavis(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "video": f"video{record['video_id']}.mp4",
        "question": record["question"],
        "answer": record["answer"],
        "question_id": record["id"],
    }


SHAPES = {"{}_qa.json": original, "{}.jsonl": clipbert, "qa_{}.json": lavis, "msrvtt_qa_{}.json": lavis}


@pytest.mark.parametrize("name", SHAPES)
def test_every_distributed_shape_gives_the_same(name: str, root: Path) -> None:
    expected = {split: records(root, split) for split in SPLITS}
    for split in SPLITS:
        (root / f"{split}_qa.json").unlink()
        lines = [SHAPES[name](record) for record in expected[split]]
        text = "\n".join(map(json.dumps, lines)) + "\n" if name.endswith("l") else json.dumps(lines)
        (root / name.format(split)).write_text(text, encoding="utf-8")
    data = module(root)
    assert data.annotation_files() == {split: root / name.format(split) for split in SPLITS}
    for split in SPLITS:
        samples = data.samples(split)
        assert [sample.video for sample in samples] == list(
            dict.fromkeys(f"video{r['video_id']}" for r in expected[split])
        )
        assert [text for sample in samples for text in sample.captions] == [r["question"] for r in expected[split]]
        questions = [question for sample in samples for question in sample.questions]
        assert [question.answers for question in questions] == [(r["answer"],) for r in expected[split]]
        assert [question.type for question in questions] == [r["question"].split()[0] for r in expected[split]]
        places = range(len(expected[split])) if name == "{}.jsonl" else [r["id"] for r in expected[split]]
        assert [question.id for question in questions] == list(places)


def test_given_files_win(root: Path) -> None:
    (root / "mine.json").write_text(json.dumps(records(root, "val")), encoding="utf-8")
    data = module(root, train_file="mine.json")
    assert [s.video for s in data.samples("train")] == [s.video for s in data.samples("val")]


def test_questions_of_a_video_that_are_apart_belong_together(root: Path) -> None:
    shuffled = sorted(records(root, "test"), key=lambda record: record["question"])
    (root / "test_qa.json").write_text(json.dumps(shuffled), encoding="utf-8")
    samples = module(root).samples("test")
    assert len(samples) == NUM_TEST
    by_id = {record["id"]: record for record in shuffled}
    for sample in samples:
        assert len(sample.captions) == len(sample.questions) == PER_VIDEO
        for text, question in zip(sample.captions, sample.questions, strict=True):
            record = by_id[question.id]
            assert (text, question.answers, sample.video) == (
                record["question"],
                (record["answer"],),
                f"video{record['video_id']}",
            )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: [], "expected a list of records"),
        (lambda rows: {"questions": rows}, "expected a list of records"),
        (lambda rows: [*rows, "what?"], "record 16: expected an object"),
        (lambda rows: [{**rows[0], "answer": 3}], "record 0: 'answer' is 3, not text"),
        (lambda rows: [{**rows[0], "video_id": None}], "record 0: neither 'video_id' nor 'video'"),
        (lambda rows: [{**rows[0], "video_id": True}], "record 0: neither 'video_id' nor 'video'"),
        (lambda rows: [{**rows[0], "question": " "}], "record 0: 'question' is blank"),
        (lambda rows: [{**rows[0], "video_id": "../../etc/passwd"}], "is no file name"),
    ],
)
def test_wrong_records(change: Callable[[list[Any]], Any], told: str, root: Path) -> None:
    (root / "test_qa.json").write_text(json.dumps(change(records(root, "test"))), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        module(root).samples("test")
    assert told in str(caught.value)


def test_a_cut_jsonl_names_its_line(root: Path) -> None:
    text = "\n".join(json.dumps(clipbert(record)) for record in records(root, "test"))
    (root / "cut.jsonl").write_text(text[:-5], encoding="utf-8")
    with pytest.raises(DataError, match=r"cut.jsonl, line 16 is not whole JSON"):
        module(root, test_file="cut.jsonl").samples("test")


def test_missing_files(root: Path) -> None:
    (root / "val_qa.json").unlink()
    with pytest.raises(DataError, match=r"no val questions in .*val_qa.json, val.jsonl, qa_val.json"):
        module(root).samples("train")


def test_counts_are_asserted(written: Path) -> None:
    with pytest.raises(DataError, match="train split has 56 questions, expected 158581"):
        module(written, partial=False).samples("train")


def test_training_batches_pair_each_question_with_its_answer(written: Path) -> None:
    data = module(written)
    data.setup("fit")
    batches: list[Batch] = list(data.train_dataloader())
    samples = data.samples("train")
    texts = [
        (text, question) for sample in samples for text, question in zip(sample.captions, sample.questions, strict=True)
    ]
    assert len(batches) == len(texts) // 8
    for batch in batches:
        assert len(batch.questions) == len(batch.clips.frames) == 8
        for row, index in enumerate(batch.text_index.tolist()):
            text, question = texts[index]
            assert batch.questions[row] == question
            assert batch.words.ids[row].equal(count_letters([text], 12)[0][0])


def test_evaluation_reads_a_clip_once_with_all_its_questions(written: Path) -> None:
    data = module(written, eval_batch_size=3)
    data.setup("test")
    batches: list[Batch] = list(data.test_dataloader())
    assert [len(batch.clips.frames) for batch in batches] == [3, 1]
    assert [len(batch.questions) for batch in batches] == [3 * PER_VIDEO, PER_VIDEO]
    questions = [question for batch in batches for question in batch.questions]
    assert questions == [question for sample in data.samples("test") for question in sample.questions]
    assert [int(i) for batch in batches for i in batch.text_index] == list(range(NUM_TEST * PER_VIDEO))


def test_record_of_the_protocol(written: Path) -> None:
    data = module(written)
    data.setup("test")
    record = data.protocol_record()
    assert (record["id"], record["dataset"]) == ("msrvtt-qa/v1", "msrvttqa-fixture")
    assert (record["n_queries"], record["n_gallery"], record["n_found"]) == (NUM_TEST * PER_VIDEO, NUM_TEST, NUM_TEST)
    assert set(record["annotation_files"]) == set(SPLITS)


def test_weights_add_up_over_equal_answers() -> None:
    question = Question(1, "yes/no", ("yes", "no", "yes"), 0.25)
    assert question.weights == {"yes": 0.5, "no": 0.25}


def test_the_real_validation_split(shared: Path) -> None:
    """The counts of Xu et al., ACM Multimedia 2017, and what its files hold."""
    folder = shared / "data" / "annotations" / "msrvtt_qa"
    data = module(folder, train_file="val.jsonl", test_file="val.jsonl")
    samples = data.samples("val")
    questions = [question for sample in samples for question in sample.questions]
    assert (len(samples), len(questions)) == (497, 12_278)
    assert (samples[0].video, samples[-1].video) == ("video6513", "video7009")
    types = Counter(question.type for question in questions)
    assert types == {"what": 8337, "who": 3439, "how": 344, "when": 106, "where": 52}
    known = json.loads((folder / "train_ans2label.json").read_text(encoding="utf-8"))
    assert round(100 * sum(q.answers[0] in known for q in questions) / len(questions), 1) == 93.0
