"""What a run keeps of its queries is read without the data, and two runs are compared by it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from petl_bench.main import main
from petl_bench.report.collect import Run
from petl_bench.report.queries import Queries, read_queries
from petl_bench.runs.record import read_result
from tests.integration.fixture_run import only_record, run


def queries_of(folder: Path) -> dict[str, Queries]:
    return read_queries(Run(folder / "result.json", read_result(folder / "result.json")))


def test_queries_are_read_again_without_the_data(dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    assert run("test", "fixture_zeroshot", data, tmp_path / "runs", "--data.init_args.split_protocol=full") == 0
    with (data / "MSRVTT_test.full.csv").open(encoding="utf-8", newline="") as file:
        videos = [row["video_id"] for row in csv.DictReader(file)]
    sentences = json.loads((data / "MSRVTT_data.json").read_text(encoding="utf-8"))["sentences"]
    expected = [one for video in videos for one in sentences if one["video_id"] == video]
    folder, record = only_record(tmp_path / "runs")
    shutil.rmtree(data)
    found = queries_of(Path(shutil.move(folder, tmp_path / "elsewhere")))

    assert found["t2v"].ids == [str(one["sen_id"]) for one in expected]
    assert found["t2v"].words == [one["caption"] for one in expected]
    assert found["t2v"].targets == [one["video_id"] for one in expected]
    assert found["v2t"].ids == found["v2t"].targets == found["v2t_captions"].ids == videos
    for way, queries in found.items():
        assert queries.ranks is not None
        assert queries.targets is not None
        assert queries.hits is not None
        assert 100 * (queries.ranks <= 5).mean() == pytest.approx(record["eval"][way]["R5"])
        assert all(len(hits) == 3 for hits in queries.hits)
        for rank, target, hits in zip(queries.ranks.tolist(), queries.targets, queries.hits, strict=True):
            place = next((place for place, hit in enumerate(hits, 1) if hit in target.split(" | ")), 4)
            assert min(rank, 4) == place  # own captions are no rivals of each other, and nothing ties


def test_two_runs(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test", "fixture_zeroshot", dataset, tmp_path / "a") == 0
    assert run("fit", "fixture_linear", dataset, tmp_path / "b", "--record_words=false") == 0
    (a, first), (b, second) = (only_record(tmp_path / name) for name in "ab")
    with np.load(b / "ranks.npz", allow_pickle=False) as file:
        assert "words" not in file.files
        assert "text_id" in file.files
    capsys.readouterr()
    assert main(["compare", str(a), str(b / "ranks.npz"), f"--json={tmp_path / 'c.json'}"]) == 0
    shown = capsys.readouterr().out
    assert "FIXTURE - not benchmark results: B compared with A" in shown
    assert "Zero-shot" in shown or "ZeroShot" in shown

    written = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    keys = {"R@1": "R1", "R@5": "R5", "R@10": "R10", "MdR": "MdR", "MnR": "MnR"}
    assert len(written["figures"]) == 10
    for one in written["figures"]:
        ours, theirs = (record["eval"][one["direction"]][keys[one["name"]]] for record in (first, second))
        assert (one["a"], one["b"]) == pytest.approx((ours, theirs))
    ranks = {way: (x.ranks, queries_of(b)[way].ranks) for way, x in queries_of(a).items()}
    assert len(written["changed"]) == sum(int((x != y).sum()) for x, y in ranks.values())  # pyright: ignore
    assert all(one["words"] for one in written["changed"])  # the first run knows them
