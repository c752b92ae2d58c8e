"""What lies beside a record: whatever is wrong with it, a report says so and goes on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from petl_bench.report.compare import compare
from petl_bench.report.details import MOST_BYTES, MOST_POINTS, MOST_QUERIES, Beside, read_curves
from petl_bench.report.leaderboard import leaderboard
from petl_bench.report.overlap import Overlap
from petl_bench.report.page import write_pages
from petl_bench.report.thumbnails import Clips, picture
from tests.answered import answers, retrieval
from tests.made_up_reports import HOSTILE, METHODS, make_report


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "metrics.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_curves_are_means_of_neighbouring_steps(tmp_path: Path) -> None:
    lines = "\n".join(f"{step // 100},{step % 2},{step}," for step in range(1000))
    curves, missing = read_curves(write(tmp_path, f"epoch,loss,step,val_t2v_R1\n{lines}\n9,,999,41.5\n"))
    loss, validation = curves
    assert missing == []
    assert len(loss.steps) == MOST_POINTS
    assert (loss.steps[0], loss.values[0]) == (2.0, pytest.approx(0.4))
    assert (validation.name, validation.steps, validation.values) == ("val_t2v_R1", [999.0], [41.5])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe\x00", "is not UTF-8"),
        ("", "no column `step`"),
        ("loss\n1\n", "no column `step`"),
        ("loss,step\n" + "x" * 200_000 + ",1\n", "field larger"),
    ],
)
def test_what_is_no_table_of_curves_is_told(content: str | bytes, told: str, tmp_path: Path) -> None:
    curves, missing = read_curves(write(tmp_path, content))
    assert curves == []
    assert told in missing[0]


def test_cut_and_unfinite_values_are_left_out_and_counted(tmp_path: Path) -> None:
    text = "loss,step,val_rsum\n1.0,0,\nnan,1,\ninf,2,\nabc,3,\n1e400,4,\n2.0,5,\n3.0,"
    (loss,), missing = read_curves(write(tmp_path, text))
    assert (loss.steps, loss.values) == ([0.0, 5.0], [1.0, 2.0])
    assert missing == ["metrics.csv: 5 values or lines are cut, or no finite numbers."]


def test_a_huge_file_and_one_that_is_none_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "metrics.csv").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    assert "too many" in read_curves(tmp_path / "metrics.csv")[1][0]
    (tmp_path / "folder" / "metrics.csv").mkdir(parents=True)
    assert "a folder, not a file" in read_curves(tmp_path / "folder" / "metrics.csv")[1][0]
    assert read_curves(tmp_path / "missing" / "metrics.csv")[0] == []


def test_hardest_queries_have_words_targets_and_hits(tmp_path: Path) -> None:
    report = make_report(tmp_path, seeds=1, methods=METHODS[:3], hostile=False)
    details = Beside().details(report.tables[0].rows[0].runs[0])
    assert details.missing == []
    ranks = [query.rank for query in details.hardest]
    assert len(ranks) == MOST_QUERIES
    assert ranks == sorted(ranks, key=lambda rank: -(rank or 0))
    first = details.hardest[0]
    assert first.rank == 1000
    assert first.words == "".join(character if character.isprintable() else " " for character in HOSTILE)
    assert first.target == first.clip == "video8009"
    assert len(first.hits) == 3


def test_missing_cut_and_foreign_ranks_are_told_and_the_page_is_whole(tmp_path: Path) -> None:
    report = make_report(tmp_path / "runs", seeds=1, methods=METHODS[:3], hostile=False)
    runs = [row.runs[0] for row in report.tables[0].rows]
    for run, damage in zip(runs, ("missing", "cut", "foreign"), strict=True):
        ranks = run.path.with_name("ranks.npz")
        if damage == "missing":
            ranks.unlink()
        elif damage == "cut":
            ranks.write_bytes(ranks.read_bytes()[:100])
        else:
            np.savez(ranks, t2v=np.arange(3))
        details = Beside().details(run)
        assert details.hardest == []
        assert "No single queries: ranks.npz" in " ".join(details.missing)
        assert str(tmp_path) not in " ".join(details.missing)
    assert Beside().overlap(runs[0], runs[1]) is None
    write_pages(report, tmp_path)
    assert "No single queries: ranks.npz" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_different_queries_have_no_overlap(tmp_path: Path) -> None:
    report = make_report(tmp_path, seeds=1, methods=METHODS[:2], hostile=False)
    measured, fixture = report.tables[0].rows[0].runs[0], report.tables[3].rows[0].runs[0]
    assert Beside().overlap(measured, measured) is not None
    assert Beside().overlap(measured, fixture) is None


def test_overlaps_are_of_the_same_queries_by_one_rule(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    first = retrieval(tmp_path / "first", [1, 1, 2, 3], [1, 1, 1, 1], names=names)
    turned = retrieval(tmp_path / "turned", [3, 1, 1, 1], [1, 1, 1, 1], names=names[::-1], id__seed=1)
    assert Beside().overlap(first, turned) == Overlap(both=2, only_a=0, only_b=1, neither=1)
    asked = answers(tmp_path / "asked", [1 / 3, 1 / 3, 0, 1], ["x"] * 4, [0, 1, 2, 3])
    other = answers(tmp_path / "other", [0, 1 / 3, 0.6, 1], ["x"] * 4, [0, 1, 2, 3], id__seed=1)
    shared = Overlap(both=1, only_a=0, only_b=1, neither=2)
    assert Beside().overlap(asked, other) == shared
    told = compare(tmp_path / "asked", tmp_path / "other").overlap["answers"]
    assert [*told.values()] == [shared.both, shared.only_a, shared.only_b, shared.neither]


@pytest.mark.parametrize("partial", [False, True])
def test_queries_without_ids_overlap_only_where_all_are_there(partial: bool, tmp_path: Path) -> None:
    about = {"protocol__partial": partial, "protocol__n_found": 3, "protocol__n_expected": 9 if partial else 3}
    a, b = (retrieval(tmp_path / name, [1, 2, 1], [1, 1, 1], **about) for name in "ab")
    assert (Beside().overlap(a, b) is None) == partial


# --- pictures


def clip(path: Path, side: int = 64) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), 30 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_pictures_are_small_and_the_same_every_time(tmp_path: Path) -> None:
    clip(tmp_path / "video1.mp4")
    Image.new("RGB", (900, 600), "red").save(tmp_path / "image1.png")
    for name in ("video1", "video1.mp4", "image1"):
        uri = picture(tmp_path, name)
        assert uri is not None
        assert uri == picture(tmp_path, name)
        assert uri.startswith("data:image/jpeg;base64,")
        assert len(uri) < 4000


def test_what_is_no_clip_of_the_folder_has_no_picture(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    clip(tmp_path / "outside.mp4")
    (inside / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    (inside / "garbage.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 20)
    (inside / "empty.avi").touch()
    (inside / "page.jpg").write_text("<html>", encoding="utf-8")
    (inside / "folder.mp4").mkdir()
    Image.new("1", (9000, 9000)).save(inside / "large.png")
    outside = ("../outside", "../outside.mp4", str(tmp_path / "outside.mp4"), "link")
    damaged = ("garbage", "empty", "page", "folder", "large")
    for name in (*outside, *damaged, "missing", "", "zero\0byte", "a" * 5000):
        assert picture(inside, name) is None, name


def test_a_page_has_pictures_of_its_clips_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = make_report(tmp_path / "runs", seeds=1, methods=METHODS[:2], hostile=False)
    hardest = Beside().details(report.tables[0].rows[0].runs[0]).hardest
    clips = tmp_path / "clips"
    clips.mkdir()
    for query in hardest[:3]:
        clip(clips / f"{query.clip}.mp4")
    write_pages(report, tmp_path, clips=Clips(clips))
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count('<img src="data:image/jpeg;base64,') >= 3
    monkeypatch.setattr("petl_bench.report.thumbnails.MOST_BYTES", 100)
    write_pages(report, tmp_path, clips=Clips(clips))
    assert "<img" not in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_no_record_chooses_what_a_page_shows(tmp_path: Path) -> None:
    """A forged configuration may name any folder of this machine as that of its data."""
    (tmp_path / "private").mkdir()
    clip(tmp_path / "private" / "passport.mp4")
    names = ["passport", "b", "c"]
    digest = hashlib.sha256(b"data:\n  init_args:\n    root: %s\n" % bytes(tmp_path / "private")).hexdigest()
    retrieval(tmp_path / "runs", [3, 3, 3], [3, 3, 3], names=names, integrity__config_sha256=digest)
    config = f"data:\n  init_args:\n    root: {tmp_path / 'private'}\n"
    (tmp_path / "runs" / "config.yaml").write_text(config, encoding="utf-8")

    def pictures(thumbnails: Path | None) -> int:
        leaderboard([tmp_path / "runs"], tmp_path / "report", thumbnails=thumbnails)
        return (tmp_path / "report" / "index.html").read_text(encoding="utf-8").count('alt="frame of passport"')

    assert pictures(None) == 0
    assert pictures(tmp_path / "private") > 0
    assert pictures(None) == 0, "those of the last report are gone"
