"""ActivityNet-QA: questions and answers in files of their own, and the denominator of `free`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.activitynet_qa import ActivityNetQA
from petl_bench.data.answers import read_vocabulary
from petl_bench.data.describe import describe
from petl_bench.data.samples import Split
from petl_bench.errors import DataError
from petl_bench.metrics.qa import AnswerMetric, exact_match
from petl_bench.metrics.ranks import figures_of
from petl_bench.runs.figures import print_figures
from tests.unit.data.test_parts import SPEC
from tests.unit.datamodules.files import found

#: of the test split, by the numbers that stand for types
PUBLISHED = (800, 800, 800, 2_094, 697, 318, 386, 606, 1_499)
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Rows = list[dict[str, Any]]


def rows(split: str) -> tuple[Rows, Rows]:
    """Two questions on each of two videos, the first of which has `v_` in its own id."""
    ids = [f"v_{video}_{n}" for n in (1, 2) for video in ("v_" + split.rjust(9, "-"), "-" + split.rjust(10, "_"))]
    asked = [{"video_name": id[2:-2], "question": f"what is\n in {n}", "question_id": id} for n, id in enumerate(ids)]
    answers = [{"answer": str(n), "type": 8 * n // 3, "question_id": id} for n, id in enumerate(ids)]
    return asked, answers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in SPLITS:
        for kind, listed in zip("qa", rows(split), strict=True):
            (tmp_path / f"{split}_{kind}.json").write_text(json.dumps(listed))
    return tmp_path


def module(root: Path, **options: Any) -> ActivityNetQA:
    return ActivityNetQA(root, **{"partial": True, "spec": SPEC, "num_workers": 0, **options})


def test_the_original_files(root: Path) -> None:
    data = module(root)
    assert set(data.annotation_files()) == {*SPLITS, "train_answers", "val_answers", "test_answers"}
    first, second = data.samples("test")
    assert (first.video, second.video) == ("v_v_-----test", "v_-______test")
    assert first.captions == ("what is in 0", "what is in 2")
    assert [(q.id, q.type, q.group, q.answers) for q in first.questions] == [
        ("v_v_-----test_1", "motion", "motion", ("0",)),
        ("v_v_-----test_2", "object", "free", ("2",)),
    ]
    assert [(q.type, q.group) for q in second.questions] == [("temporal", "temporal"), ("other", "free")]


def test_files_with_and_without_the_prefix(root: Path) -> None:
    (root / "videos").mkdir()
    for name in ("v_-----test.mkv", "v_-______test.webm"):
        (root / "videos" / name).touch()
    assert found(module(root), "v_v_-----test") == root / "videos/v_-----test.mkv"
    assert found(module(root), "v_-______test") == root / "videos/v_-______test.webm"


def test_the_shape_of_lavis_has_no_groups(root: Path) -> None:
    for split in SPLITS:
        asked, answers = rows(split)
        records = [
            {"question": q["question"], "question_id": q["question_id"], "video": f"{q['question_id'][:-2]}.mp4"}
            | {"answer": a["answer"]}
            for q, a in zip(asked, answers, strict=True)
        ]
        (root / f"anet_qa_{split}.json").write_text(json.dumps(records))
        (root / f"{split}_q.json").unlink()
    samples = module(root).samples("test")
    assert [sample.video for sample in samples] == ["v_v_-----test", "v_-______test"]
    assert [(q.type, q.group, q.answers) for q in samples[0].questions] == [("what", "", ("0",)), ("what", "", ("2",))]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda q, a: a.pop(), "record 3: question 'v_-______test_2' has no answer in .*test_a.json"),
        (lambda q, a: q.pop(), "record 3: an answer to 'v_-______test_2', which .*test_q.json does not ask"),
        (lambda q, a: a.append(a[0]), "record 4: question 'v_v_-----test_1' is answered above, too"),
        (lambda q, a: q.append(q[0]), "record 4: question 'v_v_-----test_1' has no answer .* stands twice"),
        (lambda q, a: a[1].update(type=9), "record 1: 'type' is 9, not a whole number from 0 to 8"),
        (lambda q, a: a[1].pop("type"), "test_a.json, record 1: 'type' is missing"),
        (lambda q, a: a[1].update(answer=" "), "record 1: 'answer' is blank"),
        (lambda q, a: q[1].update(question=None), "record 1: 'question' is missing"),
        (lambda q, a: q[1].pop("question_id"), "record 1: 'question_id' is missing"),
        (lambda q, a: q[1].update(video_name="../x"), "is no file name"),
    ],
)
def test_wrong_records(root: Path, change: Callable[[Rows, Rows], Any], told: str) -> None:
    asked, answers = rows("test")
    change(asked, answers)
    (root / "test_q.json").write_text(json.dumps(asked))
    (root / "test_a.json").write_text(json.dumps(answers))
    with pytest.raises(DataError, match=told):
        module(root).samples("test")


def test_counts_are_those_of_the_protocol(root: Path) -> None:
    with pytest.raises(DataError, match=r"activitynet-qa/v1: test split has 2 videos, expected 800: .*test_q.json"):
        module(root, partial=False).samples("test")


def _free_of(samples: Any, right: Callable[[str], bool]) -> dict[str, Any]:
    """The figures where the questions of some types are answered, and no others."""
    questions = [question for sample in samples for question in sample.questions]
    metric = AnswerMetric(exact_match, None)
    metric.update(
        torch.arange(len(questions)),
        [q.answers[0] if right(q.type) else None for q in questions],
        [q.answers for q in questions],
        [q.type for q in questions],
        [q.group for q in questions],
    )
    result = metric.compute()
    return figures_of({"correct": result.scores, "question_type": result.types, "question_group": result.groups})


def test_free_of_made_rows_of_the_published_counts(root: Path) -> None:
    kinds = [kind for kind, count in enumerate(PUBLISHED) for _ in range(count)]
    ids = [f"v_{n // 10:011}_{n % 10 + 1}" for n in range(len(kinds))]
    asked = [{"video_name": id[2:13], "question": "what", "question_id": id} for id in ids]
    (root / "test_q.json").write_text(json.dumps(asked))
    answers = [{"answer": "no", "type": kind, "question_id": id} for kind, id in zip(kinds, ids, strict=True)]
    (root / "test_a.json").write_text(json.dumps(answers))
    samples = module(root, partial=False).samples("test")
    figures = _free_of(samples, lambda kind: kind == "yes/no")
    assert figures["n_per_group"] == {"free": 5_600, "motion": 800, "spatial": 800, "temporal": 800}
    assert figures["per_group"]["free"] == pytest.approx(100 * 2_094 / 5_600)
    assert figures["per_type"]["yes/no"] == 100
    assert figures["accuracy"] == pytest.approx(100 * 2_094 / 8_000)


def test_a_type_that_is_a_group_of_its_own_is_printed_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_figures("figures", _free_of(module(root).samples("test"), lambda kind: kind == "motion"))
    printed = capsys.readouterr().out
    assert [printed.count(f" {name} ") for name in ("free", "motion", "temporal", "object", "other")] == [1] * 5


def test_figures_need_a_group_for_each_question() -> None:
    metric = AnswerMetric(exact_match, None)
    with pytest.raises(ValueError, match="1 types and 2 groups"):
        metric.update(torch.arange(1), ["a"], [["a"]], ["what"], ["x", "y"])


def test_the_real_files(shared: Path) -> None:
    root = shared / "data/annotations_2/activitynet_qa"
    splits = describe(module(root, partial=False))["splits"]
    assert (splits["val"]["videos"], splits["val"]["questions"]) == (1800, 18_000)
    assert splits["val"]["question_groups"]["free"] == 12_600
    assert "train_q.json" in splits["train"]["missing"]
    assert "test_q.json" in splits["test"]["missing"]
    data = module(root, train_file="train_q.head500.json", val_file="val_q.json", test_file="val_q.json")
    samples = data.samples("val")
    assert Counter(len(sample.questions) for sample in samples) == {10: 1800}
    figures = _free_of(samples, lambda kind: kind == "color")
    assert figures["n_per_group"]["free"] == 12_600
    assert figures["per_group"]["free"] == pytest.approx(100 * figures["n_per_type"]["color"] / 12_600)
    assert sum(len(sample.questions) for sample in data.samples("train")) == 500
    assert len(read_vocabulary(root / "train_a.head500.json", 3)) == 3
