"""Adapters in MTEB: its own made tasks, the figures of the record, and what it cannot be asked for.

MTEB seeds the global generators when it is imported: all of it is in one process of its own.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import petl_bench
from petl_bench.fixture import write_fixture
from tests.integration.fixture_run import only_record, run
from tests.stops import in_a_fresh_process


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With clips enough for figures that differ."""
    folder = tmp_path_factory.mktemp("mteb") / "fixture"
    write_fixture(folder, train_videos=16, test_videos=24, captions_per_video=2)
    return folder


@pytest.fixture(scope="module")
def runs(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of runs, by configuration."""
    found = {}
    for config in ("fixture_lora", "fixture_adaptformer", "fixture_cross_modal_adapter"):
        folder = tmp_path_factory.mktemp("mteb") / "runs"
        assert run("fit", config, dataset, folder) == 0
        found[config] = only_record(folder)[0]
    return found


@pytest.fixture(scope="module")
def found(runs: dict[str, Path], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("mteb")
    in_a_fresh_process(_evaluate, runs, dataset, out)
    return json.loads((out / "found.json").read_text(encoding="utf-8")) | {"folder": out}


def _evaluate(runs: dict[str, Path], dataset: Path, out: Path) -> None:
    sys.modules["torchcodec"] = None  # type: ignore[assignment]  # as where it is not installed
    import datasets
    import mteb
    import torch

    vars(datasets)["config"].TORCHCODEC_AVAILABLE = False
    torch.set_num_threads(1)
    model = petl_bench.load(runs["fixture_lora"], device="cpu")
    encoder: Any = model.as_mteb()
    mocked = mteb.mock_run(encoder)
    results: Any = mteb.evaluate(
        encoder, [_task(name, dataset) for name in ("MSRVTTT2V", "MSRVTTV2T")], cache=mteb.ResultCache(out / "mteb")
    )
    scores = {result.task_name: result.scores["test"][0] for result in results}
    broken, odd = _task("MSRVTTT2V", dataset), _task("MSRVTTT2V", dataset)
    corpus = broken.dataset["default"]["test"]["corpus"].to_list()
    broken.dataset["default"]["test"]["corpus"] = _videos([corpus[0], {**corpus[1], "video": b"no video"}])
    loaded = petl_bench.load(runs["fixture_lora"], device="cpu")
    with torch.no_grad():
        next(iter(loaded.method.backbone.towers["vision"].parameters())).fill_(float("nan"))
    of_sound = SimpleNamespace(features={"video": None, "audio": None})
    spoilt: Any = loaded.as_mteb()
    told = {
        "broken": _told(lambda: mteb.evaluate(encoder, [broken], cache=None)),
        "nan": _told(lambda: mteb.evaluate(spoilt, [odd], cache=None)),
        "sound": _told(lambda: encoder.encode(SimpleNamespace(dataset=of_sound))),
        "two vectors": _told(petl_bench.load(runs["fixture_cross_modal_adapter"], device="cpu").as_mteb),
    }
    other: Any = petl_bench.load(runs["fixture_adaptformer"], device="cpu").as_mteb()
    again: Any = model.as_mteb()
    meta = encoder.mteb_model_meta
    content = {
        "mocked": {name: type(result).__name__ for name, result in mocked.task_results.items() if result is not None},
        "scores": {name: {k: v for k, v in one.items() if k.startswith("recall")} for name, one in scores.items()},
        "told": told,
        "revisions": [meta.revision, again.mteb_model_meta.revision, other.mteb_model_meta.revision],
        "name": meta.name,
        "trained_on": sorted(meta.training_datasets),
    }
    (out / "found.json").write_text(json.dumps(content), encoding="utf-8")


def _told(work: Callable[[], object]) -> str:
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _videos(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset, Video

    made = [{"id": row["id"], "video": {"bytes": _bytes(row["video"]), "path": None}} for row in rows]
    return Dataset.from_list(made).cast_column("video", Video(decode=False))


def _bytes(video: Any) -> bytes:
    return video if isinstance(video, bytes) else video["bytes"]


def _task(name: str, dataset: Path) -> Any:
    """A task of MTEB's on the clips and captions of the generated test split."""
    import mteb
    from datasets import Dataset
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    with (dataset / "MSRVTT_JSFUSION_test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    clips = [{"id": r["video_id"], "video": (dataset / "videos" / f"{r['video_id']}.mp4").read_bytes()} for r in rows]
    texts = Dataset.from_list([{"id": f"t-{row['video_id']}", "text": row["sentence"]} for row in rows])
    videos = _videos(clips)
    pairs = [(f"t-{row['video_id']}", row["video_id"]) for row in rows]
    by_text = name.endswith("T2V")
    task: Any = mteb.get_task(name)
    task.dataset = {
        "default": {
            "test": RetrievalSplitData(
                queries=texts if by_text else videos,
                corpus=videos if by_text else texts,
                relevant_docs={(t if by_text else v): {(v if by_text else t): 1} for t, v in pairs},
                top_ranked=None,
            )
        }
    }
    task.data_loaded = True
    return task


def test_the_made_tasks_of_mteb(found: dict[str, Any]) -> None:
    """Also those of videos."""
    assert set(found["mocked"].values()) == {"TaskResult"}
    assert sum("video" in name.lower() for name in found["mocked"]) > 2


def test_figures_are_those_of_the_record(found: dict[str, Any], runs: dict[str, Path]) -> None:
    figures = json.loads((runs["fixture_lora"] / "result.json").read_text(encoding="utf-8"))["eval"]
    assert figures["t2v"]["R1"] < figures["t2v"]["R5"] < figures["t2v"]["R10"]
    for direction, task in (("t2v", "MSRVTTT2V"), ("v2t", "MSRVTTV2T")):
        for k in (1, 5, 10):
            share = found["scores"][task][f"recall_at_{k}"]
            assert 100 * share == pytest.approx(figures[direction][f"R{k}"], abs=1e-3)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("broken", "cannot be read"),
        ("nan", "NonFiniteError: features of row "),
        ("sound", "UsageError: this task has audio, and the model reads texts and videos"),
        ("two vectors", "UsageError: this model (retrieval, pooling text_conditioned) does not compare two vectors"),
    ],
)
def test_what_is_refused(case: str, words: str, found: dict[str, Any]) -> None:
    assert words in found["told"][case]


def test_a_revision_stands_for_one_model(found: dict[str, Any]) -> None:
    own, again, other = found["revisions"]
    assert own == again != other
    assert found["name"] == "petl_bench/lora-clip-tiny-msrvtt"
    assert {"MSRVTTT2V", "MSRVTTV2T", "MSRVTTVA2T"} <= set(found["trained_on"])
