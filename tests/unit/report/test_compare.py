"""Two runs query by query: figures and tests by hand, what is refused, what is written."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import petl_bench
from petl_bench.errors import DataError, UsageError
from petl_bench.main import main
from petl_bench.report.compare import Change, Comparison, compare
from petl_bench.storage.files import FileError
from tests.records import make_answers, make_ranks, write_run

OLD = Path(__file__).parents[2] / "files_of_3e531d0" / "runs"


def runs(folder: Path, a: dict[str, np.ndarray], b: dict[str, np.ndarray], **of_b: Any) -> tuple[Path, Path]:
    write_run(folder / "a", a)
    write_run(folder / "b", b, id__seed=1, **of_b)
    return folder / "a", folder / "b"


def figures(found: Comparison, direction: str) -> dict[str, tuple[float, float, float]]:
    return {one.name: (one.a, one.b, one.delta) for one in found.figures if one.direction == direction}


@pytest.mark.parametrize("captions", [1, 3])
def test_figures_are_those_of_the_ranks(captions: int, tmp_path: Path) -> None:
    a, b = make_ranks(40, captions), make_ranks(40, captions, seed=1)
    found = compare(*runs(tmp_path, a, b))
    assert list(found.overlap) == ["t2v", "v2t", *["v2t_captions"] * (captions > 1)]
    for way in found.overlap:
        ours, theirs = a[way], b[way]
        expected = {f"R@{k}": (100 * (ours <= k).mean(), 100 * (theirs <= k).mean()) for k in (1, 5, 10)}
        expected |= {"MdR": (np.median(ours), np.median(theirs)), "MnR": (ours.mean(), theirs.mean())}
        for name, (one, other, delta) in figures(found, way).items():
            assert (one, other) == pytest.approx(expected[name])
            assert delta == pytest.approx(other - one, abs=1e-5)
        first, second = ours == 1, theirs == 1
        assert found.overlap[way] == {
            "both": (first & second).sum(),
            "only_a": (first & ~second).sum(),
            "only_b": (~first & second).sum(),
            "none": (~first & ~second).sum(),
        }
    for one in found.figures:
        assert one.low <= one.delta <= one.high
        assert (one.p is None) == (one.name == "MdR")
        clustered = captions > 1 and one.direction == "t2v"
        assert one.test == (None if one.p is None else "sign-flip" if clustered or one.name == "MnR" else "mcnemar")
        assert one.p is None or (one.p_holm is not None and one.p <= one.p_holm <= 1)
    assert found.differing == found.left_out == {}


def test_captions_of_one_video_count_together(tmp_path: Path) -> None:
    """All captions of a video say the same, so the interval must be that of the videos."""
    a, b = make_ranks(30, 1), make_ranks(30, 4)
    better = np.random.default_rng(0).integers(1, 3, 30).astype(np.int32)
    a |= {"t2v": better, "v2t": better}
    b |= {"t2v": np.repeat(better, 4), "v2t": better, "v2t_captions": better}
    intervals = []
    for name, arrays in (("single", a), ("several", b)):
        worse = {way: np.full_like(arrays[way], 3) for way in ("t2v", "v2t", "v2t_captions") if way in arrays}
        found = compare(*runs(tmp_path / name, arrays | worse, arrays))
        intervals.append(next((one.low, one.high) for one in found.figures if one.name == "R@1"))
    assert intervals[0] == pytest.approx(intervals[1])


def test_answers_by_type(tmp_path: Path) -> None:
    a, b = make_answers(20, 1), make_answers(20, 1, seed=1)
    found = compare(*runs(tmp_path, a, b))
    types = a["question_type"]
    expected = {"Accuracy": slice(None), "Accuracy how": types == "how", "Accuracy what": types == "what"}
    assert figures(found, "answers") == {
        name: pytest.approx((x := 100 * a["correct"][own].mean(), y := 100 * b["correct"][own].mean(), y - x), abs=1e-5)
        for name, own in expected.items()
    }
    assert {one.test for one in found.figures} == {"mcnemar"}
    gained, *_, lost = found.changed
    assert (gained.a, gained.b, gained.hit_a, gained.hit_b, gained.target) == (0, 1, "blue", "red", "red")
    assert (lost.a, lost.b) == (1, 0)


def test_shares_of_annotators_are_no_hits(tmp_path: Path) -> None:
    a, b = make_answers(20, 1), make_answers(20, 1, seed=1)
    a["correct"] = a["correct"] * 0.3
    assert {one.test for one in compare(*runs(tmp_path, a, b)).figures} == {"sign-flip"}


def test_queries_that_changed(tmp_path: Path) -> None:
    a = make_ranks(6, 1)
    a |= {"t2v": np.array([1, 2, 6, 4, 3, 5], dtype=np.int32), "v2t": np.ones(6, dtype=np.int32)}
    b = a | {"t2v": np.array([3, 1, 5, 4, 1, 6], dtype=np.int32)}
    b["t2v_hits"] = a["t2v_hits"].copy()
    b["t2v_hits"][0] = [5, -1, -1]
    found = compare(*runs(tmp_path, a, b))
    # by how often the rank was divided: 3/1, 2/1, 6/5, 5/6, 1/3
    assert [(one.query, one.a, one.b) for one in found.changed] == [
        ("video4#0", 3, 1),
        ("video1#0", 2, 1),
        ("video2#0", 6, 5),
        ("video5#0", 5, 6),
        ("video0#0", 1, 3),
    ]
    first = int(a["t2v_hits"][0, 0])
    assert found.changed[-1] == Change(
        *("t2v", "video0#0", "caption 0 of video 0", "video0", 1, 3, f"video{first}", "video5"),
        *(f"caption {first} of video {first}", "caption 5 of video 5"),
    )


def test_the_same_queries_in_another_order(tmp_path: Path) -> None:
    arrays = make_ranks(12, 2)
    order = np.random.default_rng(0).permutation(24)
    turned = {**arrays, **{name: arrays[name][order] for name in ("text_id", "text_video", "words", "t2v")}}
    found = compare(*runs(tmp_path, arrays, turned))
    assert not found.changed
    assert all(one.delta == 0 for one in found.figures)


def test_what_is_not_comparable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = runs(tmp_path, make_ranks(9, 1), make_ranks(9, 1, seed=1), protocol__preprocess__frames=8)
    assert main(["compare", str(a), str(b)]) == 4
    assert "not comparable: protocol.preprocess.frames ('12' and '8') (--anyway" in capsys.readouterr().err
    assert main(["compare", str(a), str(b), "--anyway"]) == 0
    assert "not comparable: protocol.preprocess.frames is 12 in A, 8 in B" in capsys.readouterr().out


def test_other_queries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = runs(tmp_path, make_ranks(9, 1), make_ranks(7, 1, seed=1))
    assert main(["compare", str(a), str(b)]) == 4
    told = capsys.readouterr().err
    assert f"the t2v queries differ: only 7 are in both runs, not 'video7#0', 'video8#0' of {a}" in told
    assert main(["compare", str(a), str(b), "--anyway", "--top=0"]) == 0
    shown = capsys.readouterr().out
    assert "not the same queries: 2 of t2v that only one of the runs has are left out" in shown
    assert {one.n for one in compare(a, b, anyway=True).figures} == {7}
    b = write_run(tmp_path / "c", make_ranks(9, 1) | {"video_id": np.array([f"clip{n}" for n in range(9)])}).path
    with pytest.raises(DataError, match="no query of t2v in common"):
        compare(a, b)


def test_runs_that_do_not_say_which_queries_they_had(tmp_path: Path) -> None:
    paths = sorted(path for path in OLD.rglob("result.json") if "msrvtt-fixture" in str(path))
    with pytest.raises(DataError, match=r"ranks\.npz is of an earlier version and does not say which queries it is of"):
        compare(paths[0], paths[0])
    twice = make_ranks(4, 1) | {"text_id": np.array(["a", "a", "b", "c"]), "text_video": np.array([0, 0, 1, 2])}
    twice = {name: array[:3] if name.startswith(("v2t", "video")) else array for name, array in twice.items()}
    twice |= {"v2t": np.ones(3, dtype=np.int32), "v2t_captions": np.ones(3, dtype=np.int32)}
    del twice["v2t_hits"], twice["t2v_hits"]
    twice["t2v"] = np.ones(4, dtype=np.int32)
    run = write_run(tmp_path / "twice", twice).path
    with pytest.raises(DataError, match="two queries of t2v have the same id"):
        compare(run, run)


def test_another_task(tmp_path: Path) -> None:
    a, b = runs(tmp_path, make_ranks(4, 1), make_answers(4, 1))
    with pytest.raises(DataError, match="not comparable: eval"):
        compare(a, b)
    with pytest.raises(DataError, match=r"is of t2v, v2t, .* of answers"):
        compare(a, b, anyway=True)


@pytest.mark.parametrize("name", [".", "result.json", "ranks.npz"])
def test_a_run_is_its_folder_its_record_or_its_ranks(name: str, tmp_path: Path) -> None:
    a, b = runs(tmp_path, make_ranks(4, 1), make_ranks(4, 1, seed=1))
    found = petl_bench.compare(a / name, b / name)
    assert (found.a.path, found.b.path) == (a / "result.json", b / "result.json")


def test_a_test_of_an_adapter_has_ranks_of_its_own(tmp_path: Path) -> None:
    a, b = runs(tmp_path, make_ranks(4, 1), make_ranks(4, 1, seed=1))
    for old, new in (("result.json", "test.json"), ("ranks.npz", "test_ranks.npz")):
        (b / old).rename(a / new)
    assert compare(a, a / "test.json").changed == compare(a, a / "test_ranks.npz").changed != []


@pytest.mark.parametrize("name", ["nothing", "nothing/result.json", "x.npz", "a/config.yaml", "ranks.npz"])
def test_what_is_no_run(name: str, tmp_path: Path) -> None:
    a, _ = runs(tmp_path, make_ranks(4, 1), make_ranks(4, 1, seed=1))
    (tmp_path / "x.npz").touch()
    with pytest.raises(UsageError, match="is no run: give its folder"):
        compare(a, tmp_path / name)


def test_a_run_without_its_record(tmp_path: Path) -> None:
    a, b = runs(tmp_path, make_ranks(4, 1), make_ranks(4, 1, seed=1))
    (b / "result.json").unlink()
    with pytest.raises(UsageError, match=r"has ranks and no result\.json: petl-bench record .*/b writes it"):
        compare(a, b)


def test_faulty_runs(tmp_path: Path) -> None:
    a, b = runs(tmp_path, make_ranks(4, 1), make_ranks(4, 1, seed=1))
    (b / "ranks.npz").write_bytes((b / "ranks.npz").read_bytes()[:-9])
    with pytest.raises(FileError, match="is not the file the run wrote"):
        compare(a, b)
    (b / "ranks.npz").unlink()
    with pytest.raises(FileError, match=r"ranks\.npz: cannot be read"):
        compare(a, b)
    record = json.loads((b / "result.json").read_text())
    (b / "result.json").write_text(json.dumps(record | {"status": "interrupted"}))
    with pytest.raises(DataError, match="status is 'interrupted'"):
        compare(a, b)
    (b / "result.json").write_text("{")
    with pytest.raises(FileError, match="cannot be read as JSON"):
        compare(a, b)


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = map(str, runs(tmp_path, make_ranks(4, 1), make_ranks(4, 1, seed=1)))
    for top in ("-1", "x", "1.5", "9" * 30):
        with pytest.raises(SystemExit, match="2"):
            main(["compare", a, b, f"--top={top}"])
        assert "is no number from 0 on" in capsys.readouterr().err
    assert main(["compare", a, b, f"--json={tmp_path}"]) == 5
    assert "B compared with A" in capsys.readouterr().out  # before it is written


HOSTILE = ["=cmd()", "<script>alert(1)</script>", "[red]a\x1b[31m\nb\u202e", "|x| `y` $z$ \\textbf{}"]


def test_hostile_texts_stay_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = make_ranks(4, 1), make_ranks(4, 1)
    names = {"words": np.array(HOSTILE), "text_id": np.array(HOSTILE), "video_id": np.array(HOSTILE)}
    a |= names | {"t2v": np.full(4, 2, dtype=np.int32)}
    b |= names | {"t2v": np.ones(4, dtype=np.int32)}
    paths = runs(tmp_path, a, b, model__method="[bold]\x1b[1m")
    assert main(["compare", *map(str, paths), f"--json={tmp_path / 'c.json'}", f"--csv={tmp_path / 'c.csv'}"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown
    assert "[bold]" in shown

    written = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert sorted(one["words"] for one in written["changed"]) == sorted(HOSTILE)
    with (tmp_path / "c.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(written["changed"]) == 4
    assert {row["words"][:2] for row in rows} == {"'=", "<s", "[r", "|x"}
    assert all(cell.isprintable() for row in rows for cell in row.values())


def test_json_has_all_that_is_shown(tmp_path: Path) -> None:
    paths = runs(tmp_path, make_ranks(12, 2), make_ranks(12, 2, seed=1))
    assert main(["compare", *map(str, paths), f"--json={tmp_path / 'c.json'}"]) == 0
    written = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    found = compare(*paths)
    assert written["schema"] == "petl_bench.comparison/1"
    assert [one["delta"] for one in written["figures"]] == [one.delta for one in found.figures]
    assert [(one["query"], one["a"], one["b"]) for one in written["changed"]] == [
        (one.query, one.a, one.b) for one in found.changed
    ]
    first = (tmp_path / "c.json").read_bytes()
    assert main(["compare", *map(str, paths), f"--json={tmp_path / 'c.json'}"]) == 0
    assert (tmp_path / "c.json").read_bytes() == first


def test_folders_whose_names_are_no_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"runs\xff")
    a, b = runs(folder, make_ranks(12, 2), make_ranks(12, 2, seed=1), model__method="M\udcff")
    assert main(["compare", str(a), str(b), f"--json={folder / 'c.json'}", f"--csv={folder / 'c.csv'}"]) == 0
    written = json.loads((folder / "c.json").read_text(encoding="utf-8"))
    assert written["a"]["path"].endswith("runs\ufffd/a/result.json")
    assert len((folder / "c.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(written["changed"])
