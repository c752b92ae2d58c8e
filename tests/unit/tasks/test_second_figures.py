"""Which second figures there are, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from petl_bench.data.batch import SplitTexts
from petl_bench.errors import DataError, UsageError
from petl_bench.inputs import Words
from petl_bench.metrics.scores import scores_of_matrix
from petl_bench.metrics.second_figures import Compared
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.tasks.second_figures import FIRE, NDCG, DualSoftmax, QBNorm, Seen, beside

NOTHING = torch.zeros(0, 0)
TEXTS = SplitTexts(
    ("v1", "v2", "v3"), ("a man  sings", "a dog", "a man  sings"), list, lambda captions: Words(NOTHING, NOTHING)
)


def seen(similarity: list[list[float]], bank: list[list[float]] | None = None) -> Seen:
    of_bank = None if bank is None else scores_of_matrix(torch.tensor(bank))
    compared = Compared(scores_of_matrix(torch.tensor(similarity)), torch.arange(3), of_bank)
    return Seen(compared, TEXTS, 100.0, ["one", "two"])


def judged(path: Path, *rows: tuple[str, str, str]) -> str:
    annotations = [
        {"query": query, "video_id": video, "label": label, "models": ["CE"]} for query, video, label in rows
    ]
    path.write_text(json.dumps({"annotations": annotations, "license": "CC BY-NC 2.0"}), encoding="utf-8")
    return str(path)


SIMILARITY = [[0.5, 0.9, 0.1], [0.6, 0.5, 0.4], [0.1, 0.2, 0.3]]


def test_fire_counts_own_and_relevant_videos_of_equal_captions(tmp_path: Path) -> None:
    rows = (("a man sings", "v2", "relevant"), ("a dog", "v2", "irrelevant"), ("a dog", "v9", "relevant"))
    fire = FIRE(judged(tmp_path / "fire.json", *rows))
    fire.require_fit(TEXTS)
    found = fire.figures(seen(SIMILARITY))["t2v"]
    # Both captions "a man sings" have v2 and their own; of "a dog" the own one stays, which comes second.
    assert found["C1"] == pytest.approx(200 / 3)
    assert found["C5"] == 100
    assert found["judged1"] == pytest.approx(200 / 3)
    assert found["judged10"] == pytest.approx(100 * 5 / 9)
    assert fire.settings(seen(SIMILARITY))["judged_queries"] == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "no list `annotations`"),
        ('{"annotations": []}', "no list `annotations`"),
        ('{"annotations": [{"query": "a", "video_id": "v1"}]}', r"annotations\[0\] has no query"),
        ('{"annotations": [{"query": "a", "video_id": 1, "label": "relevant"}]}', r"annotations\[0\]"),
        ('{"annotations": [{"query": "a", "video_id": "v1", "label": "maybe"}]}', r"relevant or irrelevant"),
        ("version https://git-lfs.github.com/spec/v1", "Git LFS"),
    ],
)
def test_a_file_that_holds_no_judgements_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "fire.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=told) as found:
        FIRE(str(path))
    assert str(path) in str(found.value)


def test_judgements_of_another_data_set_are_refused(tmp_path: Path) -> None:
    fire = FIRE(judged(tmp_path / "fire.json", ("a man sings", "video7020", "relevant")))
    with pytest.raises(DataError, match="judges no pair of this test split"):
        fire.require_fit(TEXTS)


def test_what_is_asked_for_twice_is_there_once_and_settings_are_told() -> None:
    found = beside([DualSoftmax(), DualSoftmax(1), DualSoftmax(0.5), NDCG(5)], seen(SIMILARITY))
    assert [item["title"] for item in found] == ["Dual softmax (T 1)", "Dual softmax (T 0.5)", "nDCG@5"]
    assert found[1]["settings"]["temperature"] == 0.5
    assert found[1]["settings"]["logit_scale"] == 100
    assert "axis" in found[1]["settings"]
    json.dumps(found)


def test_qb_norm_tells_its_bank() -> None:
    (found,) = beside([QBNorm()], seen(SIMILARITY, bank=[[0.5, 0.1, 0.2], [0.4, 0.3, 0.1]]))
    assert found["title"] == "QB-Norm (beta 20, k 1, 2 captions)"
    assert found["settings"]["bank"] == 2
    assert found["directions"].keys() == {"t2v"}


@pytest.mark.parametrize("figure", [DualSoftmax(), QBNorm()])
def test_what_ranks_anew_is_refused_behind_a_second_stage(figure: DualSoftmax | QBNorm) -> None:
    with pytest.raises(UsageError, match=rf"{type(figure).__name__} ranks by cosines.*reranking null"):
        MatchingRetrieval(queue_size=8, second_figures=[figure])
    MatchingRetrieval(queue_size=8, reranking=None, second_figures=[figure])
    MatchingRetrieval(queue_size=8, second_figures=[NDCG()])


@pytest.mark.parametrize(
    ("figure", "arguments"), [(DualSoftmax, {"temperature": 0}), (QBNorm, {"k": 0}), (NDCG, {"k": 0})]
)
def test_values_that_cannot_be_are_refused(figure: type, arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{figure.__name__}.{next(iter(arguments))}: expected"):
        figure(**arguments)


def test_an_adapter_carries_none() -> None:
    assert Retrieval(second_figures=[NDCG()]).carried() == {"second_figures": []}
