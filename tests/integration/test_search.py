"""`petl-bench search`: the ranks of the test, an index that is brought up to date, and what cannot be searched."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import petl_bench
from petl_bench.main import main
from petl_bench.search import build
from petl_bench.search.index import Indexed, Rows, Stamp
from petl_bench.search.session import VideoSearch
from petl_bench.search.shards import Folder, Shards
from petl_bench.search.sheet import clock
from tests.browser import browser
from tests.integration.fixture_run import only_record, run
from tests.stops import in_child, trap


@pytest.fixture(scope="module")
def clips(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of the test split and nothing else."""
    folder = tmp_path_factory.mktemp("search") / "clips"
    folder.mkdir()
    for row in rows_of(dataset):
        shutil.copy(dataset / "videos" / f"{row['video_id']}.mp4", folder)
    return folder


@pytest.fixture(scope="module")
def adapter(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("search") / "runs"
    assert run("fit", "fixture_lora", dataset, runs) == 0
    return only_record(runs)[0]


@pytest.fixture
def videos(clips: Path, tmp_path: Path) -> Path:
    """A copy of the clips, to be changed."""
    return Path(shutil.copytree(clips, tmp_path / "videos", ignore=shutil.ignore_patterns(".*")))


def rows_of(dataset: Path) -> list[dict[str, str]]:
    with (dataset / "MSRVTT_JSFUSION_test.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def searched(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """What the command prints as JSON."""
    capsys.readouterr()
    assert main(["search", "--workers=0", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


@contextmanager
def trap_of_reads() -> Iterator[list[Path]]:
    """The files of which windows are read in the block."""
    read: list[Path] = []
    original = build.windows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "windows", lambda path, *more: (read.append(path), original(path, *more))[1])
        yield read


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    """Exit code and the one line of a search that ends with an error."""
    capsys.readouterr()
    code = main(["search", "--workers=0", *map(str, arguments)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return code, line


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("fixture_lora", ()),
        ("fixture_cross_modal_adapter", ("--data.init_args.frames=3",)),
        (
            "fixture_blip_uniadapter",
            ("--model.init_args.task.init_args.queue_size=8", *("--model.task.reranking.k=2",)),
        ),
        ("fixture_blip_adaptformer", ()),
    ],
)
def test_ranks_are_those_of_the_test(
    config: str, more: tuple[str, ...], dataset: Path, clips: Path, tmp_path: Path
) -> None:
    assert run("fit", config, dataset, tmp_path / "runs", *more) == 0
    folder, _ = only_record(tmp_path / "runs")
    with np.load(folder / "ranks.npz") as ranks:
        expected = ranks["t2v"].tolist()
    found = VideoSearch(str(folder), clips, index=str(tmp_path / "index"), device="cpu").open()
    for row, rank in zip(rows_of(dataset), expected, strict=True):
        hits = found.of_text(row["sentence"], 100)
        assert [hit.place.file.path for hit in hits] != []
        (own,) = [hit for hit in hits if Path(hit.place.file.path).stem == row["video_id"]]
        assert own.rank == rank
    later = VideoSearch(str(folder), clips, index=str(tmp_path / "index"), device="cpu").open()
    one_stage = [found.of_text("a red circle", 3, two_stages=False) for found in (found, later)]
    assert one_stage[0] == one_stage[1]
    assert later.search._model is None, "a text needs no model"


def test_clips_that_are_equal_share_a_rank(adapter: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = min(videos.iterdir())
    (videos / "below").mkdir()
    shutil.copy(first, videos / "below" / "copy of ü.mp4")
    found = searched(capsys, "--adapter", adapter, "--videos", videos, "a red circle")
    both = [hit for hit in found["hits"] if hit["video"] in (first.name, "below/copy of ü.mp4")]
    assert both[0]["score"] == both[1]["score"]
    assert both[0]["rank"] == both[1]["rank"] == found["hits"].index(both[0]) + 2, "the worse of the two"
    (found,) = searched(capsys, "--adapter", adapter, "--videos", videos, "a red circle", "--top-k=1")["hits"]
    assert found["start"] == 0


def test_features_are_those_of_the_model(adapter: Path, videos: Path, tmp_path: Path) -> None:
    found = VideoSearch(str(adapter), videos, seconds=1, index=str(tmp_path / "index"), device="cpu").open()
    model = petl_bench.load(adapter, device="cpu")
    assert isinstance(found.index, Shards)
    for windows, rows in found.index.live(found.stamps):
        assert len(windows) > len(list(videos.iterdir()))
        for (file, place), feature in zip(windows, rows.features, strict=True):
            start = int(file.spans[place][0])
            (expected,) = model.encode_video([(videos / file.path, start, start + 1)])
            assert torch.allclose(feature, expected, atol=1e-6)


def test_a_clip_and_a_picture_as_the_query(
    adapter: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = max(videos.iterdir())
    best = searched(capsys, "--adapter", adapter, "--videos", videos, "--like", clip)["hits"][0]
    assert best["video"] == clip.name
    assert best["score"] == pytest.approx(1, abs=1e-5)
    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 40), "red").save(picture)
    assert len(searched(capsys, "--adapter", adapter, "--videos", videos, "--like", picture)["hits"]) == 4


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows were encoded at each time."""
    counts: list[int] = []
    original = build.features
    monkeypatch.setattr(build, "features", lambda model, clips: (counts.append(len(clips)), original(model, clips))[1])
    return counts


def test_only_what_is_new_or_changed_is_read(
    adapter: Path, videos: Path, encoded: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    def search() -> tuple[set[str], int]:
        encoded.clear()
        found = searched(capsys, "--adapter", adapter, "--videos", videos, "a circle", "--top-k=50")
        assert found["windows"] == len(found["hits"])
        return {hit["video"] for hit in found["hits"]}, sum(encoded)

    first, second, *_ = names = sorted(path.name for path in videos.iterdir())
    assert search() == (set(names), len(names))
    assert search() == (set(names), 0)
    shutil.copy(videos / first, videos / "new.mp4")
    shutil.copy(videos / first, videos / second)
    assert search() == ({*names, "new.mp4"}, 2)
    (videos / first).unlink()
    assert search() == ({*names, "new.mp4"} - {first}, 0)
    (videos / "later.mp4").write_bytes((videos / second).read_bytes())
    found = searched(capsys, "--adapter", adapter, "--videos", videos, "a circle", "--no-update")
    assert "later.mp4" not in {hit["video"] for hit in found["hits"]}


def test_many_small_additions_become_one(adapter: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = min(videos.iterdir()).read_bytes()
    for number in range(10):
        (videos / f"new{number}.mp4").write_bytes(content)
        found = searched(capsys, "--adapter", adapter, "--videos", videos, "a circle", "--top-k=50")
        assert len(found["hits"]) == number + 5
    (folder,) = (videos / ".petl_bench").iterdir()
    assert len(list(folder.glob("shard-*"))) < 9
    assert len(Shards(folder)) == 14


def test_killed_while_it_is_written(
    adapter: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_WINDOWS", 1)
    monkeypatch.setattr(build, "_BATCH", 1)
    search = VideoSearch(str(adapter), videos, index=str(tmp_path / "whole"), device="cpu")
    expected = search.open().of_text("a red circle", 9)

    def interrupted() -> int:
        VideoSearch(str(adapter), videos, index=str(tmp_path / "broken"), device="cpu").open()
        return 0

    for count in (1, 2, 1):
        assert in_child(interrupted, trap(Folder, "add", count)) == -signal.SIGKILL
    assert 1 <= len(Shards(tmp_path / "broken").files) <= 4
    found = (
        VideoSearch(str(adapter), videos, index=str(tmp_path / "broken"), device="cpu")
        .open()
        .of_text("a red circle", 9)
    )
    assert [(hit.rank, hit.score, hit.place.file.path) for hit in found] == [
        (hit.rank, hit.score, hit.place.file.path) for hit in expected
    ]


SECOND = """
import sys
from petl_bench.main import main
assert main(["search", *sys.argv[1:]]) == 0
heavy = {"pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "timm", "open_clip", "transformers"}
ours = {name for name in sys.modules if name.startswith(("petl_bench.backbones", "petl_bench.method", "methods"))}
print(sorted(heavy & set(sys.modules)), sorted(ours), file=sys.stderr)
"""


def test_the_second_search_needs_no_model(adapter: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["a red circle", f"--adapter={adapter}", f"--videos={videos}"]
    first = searched(capsys, *arguments)
    command = [sys.executable, "-c", SECOND, *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "[] []\n"
    assert json.loads(done.stdout) == first


def test_files_that_cannot_be_read(
    adapter: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "bro\nken.mp4").write_bytes(b"no video")
    (videos / os.fsdecode(b"\xff.mp4")).write_bytes(b"")
    assert main(["search", f"--adapter={adapter}", f"--videos={videos}", "a circle", "--workers=1"]) == 0
    told = capsys.readouterr().err
    assert told.count("skipped: ") == 2
    assert "skipped: bro\\nken.mp4: " in told
    assert "2 of 6 files could not be read" in told
    given = (f"--adapter={adapter}", f"--videos={videos}", "a circle")
    capsys.readouterr()
    assert main(["search", *given, "--json", f"--html={tmp_path / 'sheet.html'}"]) == 0
    output, told = capsys.readouterr()
    assert {file["video"] for file in json.loads(output)["skipped"]} == {"bro\nken.mp4", "\udcff.mp4"}
    assert told == "2 of 6 files could not be read (to their end); --retry reads them again\n"
    broken = videos / "bro\nken.mp4"
    content = min(videos.glob("video*.mp4")).read_bytes()
    broken.write_bytes(content)
    assert len(searched(capsys, *given)["skipped"]) == 1, "it has changed"
    broken.write_bytes(content[: len(content) // 3])
    assert len(searched(capsys, *given)["skipped"]) == 2
    with trap_of_reads() as read:
        searched(capsys, *given)
        assert read == []
        searched(capsys, *given, "--retry")
        assert len(read) == 2
    for path in videos.glob("video*.mp4"):
        path.unlink()
    assert refused(capsys, f"--adapter={adapter}", f"--videos={videos}", "a circle")[0] == 4


def test_what_cannot_be_searched(
    adapter: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: Path
) -> None:
    given = (f"--adapter={adapter}", f"--videos={videos}")
    clip, empty = min(videos.iterdir()), tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").touch()
    index = tmp_path / "index"
    searched(capsys, *given, f"--index={index}", "a circle")
    assert refused(capsys, *given)[0] == 2
    assert refused(capsys, *given, "a circle", f"--like={clip}")[0] == 2
    assert "no video below" in refused(capsys, given[0], f"--videos={empty}", "a circle")[1]
    assert not list(empty.glob(".*")), "nothing is left behind"
    assert refused(capsys, given[0], f"--videos={tmp_path / 'nothing'}", "a circle")[0] == 4
    assert refused(capsys, f"--adapter={tmp_path / 'no.safetensors'}", given[1], "a circle")[0] == 5
    code, told = refused(capsys, *given, f"--index={index}", "--window=1", "a circle")
    assert (code, "an index of whole files by" in told) == (2, True)
    assert "no index at" in refused(capsys, *given, "a circle", "--no-update")[1]
    code, told = refused(capsys, *given, f"--like={empty / 'notes.txt'}")
    assert (code, "notes.txt" in told) == (4, True)
    with Folder(index).being_written():
        (videos / "new.mp4").write_bytes(clip.read_bytes())
        # A lock of a process is its own: another one has to ask.
        assert in_child(lambda: main(["search", "a circle", *given, f"--index={index}"])) == 2
    assert run("fit", "fixtureqa_adaptformer", dataset, tmp_path / "qa") == 0
    answers = only_record(tmp_path / "qa")[0]
    told = refused(capsys, f"--adapter={answers}", given[1], f"--index={tmp_path / 'answers'}", "a circle")[1]
    assert "compares no texts with videos" in told
    assert not (tmp_path / "answers").exists()
    told = refused(capsys, *given, f"--like={tmp_path / 'nothing.mp4'}", f"--index={tmp_path / 'answers'}")[1]
    assert "no such file" in told
    assert not (tmp_path / "answers").exists()


def test_an_index_that_is_damaged(
    adapter: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("a circle", f"--adapter={adapter}", f"--videos={videos}", f"--index={tmp_path / 'index'}")
    expected = searched(capsys, *given)
    (shard,) = (tmp_path / "index").glob("shard-*")
    content = shard.read_bytes()
    for damaged in (b"", content[:100], content[:-10], b"\0" * len(content)):
        shard.write_bytes(damaged)
        code, told = refused(capsys, *given)
        assert (code, f"{shard} is damaged" in told, "delete it" in told) == (5, True, True)
    shard.unlink()
    assert searched(capsys, *given) == expected
    tower = tmp_path / "index" / "text.safetensors"
    tower.write_bytes(tower.read_bytes()[:-1])
    assert "text.safetensors is damaged" in refused(capsys, *given)[1]
    tower.unlink()
    again = searched(capsys, *given)  # by the whole model
    assert [hit["video"] for hit in again["hits"]] == [hit["video"] for hit in expected["hits"]]
    (tmp_path / "index" / "index.json").write_text("{", encoding="utf-8")
    assert refused(capsys, *given)[0] == 5
    (tmp_path / "index" / "index.json").unlink()  # as if it had been killed before
    assert searched(capsys, *given) == expected
    (tmp_path / "index" / "index.json").unlink()
    other = searched(capsys, "a circle", "--adapter=fixture_zeroshot", *given[2:])
    assert [hit["score"] for hit in other["hits"]] != [hit["score"] for hit in expected["hits"]]


def test_a_query_of_500_words(adapter: Path, videos: Path) -> None:
    found = VideoSearch(str(adapter), videos, device="cpu").open()
    with pytest.warns(UserWarning, match="of which the first"):
        long = found.of_text(" ".join(["circle"] * 500), 3)
    assert long[0].score == found.of_text(" ".join(["circle"] * 100), 3)[0].score


@pytest.mark.needs_chromium
def test_the_sheet(adapter: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(min(videos.iterdir()), videos / "<img src=x onerror=alert(1)>.mp4")
    (videos / "broken<b>.mp4").write_bytes(b"<script>alert(1)</script>")
    sheet = tmp_path / "sheet.html"
    query = "a <b>red</b> circle"
    found = searched(capsys, f"--adapter={adapter}", f"--videos={videos}", query, f"--html={sheet}")
    with browser() as opened:
        opened.show(1280, 900, False)
        opened.open(sheet)
        assert opened.run("document.querySelector('h1').textContent") == query
        names = opened.run("[...document.querySelectorAll('.found strong')].map((e) => e.textContent)")
        assert names == [hit["video"] for hit in found["hits"]]
        pictures = "[...document.querySelectorAll('.found img')].map((e) => e.complete && e.naturalWidth)"
        assert all(width > 0 for width in opened.run(pictures))
        assert len(opened.run(pictures)) == len(names)
        assert "broken<b>.mp4" in opened.run("document.body.textContent")
        asked = {address for address in opened.requests if not address.startswith("data:")}
        assert asked <= {sheet.as_uri()}
        assert opened.complaints == []


@pytest.fixture
def lance() -> None:
    pytest.importorskip("lancedb", reason="lancedb is not installed")


@pytest.mark.usefixtures("lance")
def test_a_database_gives_the_same_answers(
    adapter: Path, videos: Path, tmp_path: Path, encoded: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / os.fsdecode(b"it's \xff\n.mp4")).write_bytes(min(videos.iterdir()).read_bytes())
    (videos / "broken.mp4").write_bytes(b"no video")
    given = (f"--adapter={adapter}", f"--videos={videos}", "--window=1", "a red circle")
    database = f"--index={tmp_path / 'index.lance'}"

    def same() -> int:
        expected = searched(capsys, *given, f"--index={tmp_path / 'index'}", "--top-k=7")
        encoded.clear()
        assert searched(capsys, *given, database, "--top-k=7") == expected
        assert searched(capsys, *given, database, "--top-k=7", "--no-update") == expected
        return sum(encoded)

    first = same()
    assert first > 5
    assert same() == 0
    other, changed, *_ = sorted(videos.glob("video*.mp4"))
    shutil.copy(other, changed)
    assert 0 < same() < first
    changed.unlink()
    assert same() == 0
    code, told = refused(capsys, *given[:2], database, "a red circle")
    assert (code, "an index of windows of 1 s" in told) == (2, True)


@pytest.mark.usefixtures("lance")
def test_many_windows_in_a_database(tmp_path: Path) -> None:
    """More than are fetched at first, and many of them equal."""
    from petl_bench.search.lance import Database

    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(30, 16, generator=generator), dim=-1).repeat_interleave(20, 0)
    files = [Indexed(f"{n:03}.mp4", Stamp(1, n), ((0.0, 1.0),)) for n in range(600)]
    stamps = {file.path: file.stamp for file in files}
    found = []
    for storage in (Folder(tmp_path / "folder"), Database(str(tmp_path / "index.lance"))):
        with storage.being_written():
            storage.create({"pooling": {"pooling": "mean"}, "two_stage": None}, None)
            for first in range(0, 600, 200):
                part = slice(first, first + 200)
                storage.add(files[part], [Rows(features[part])])
        index = storage.open()
        assert index.text_tower() is None
        found.append([index.ranked(features[row], stamps, 90) for row in (0, 299, 599)])
        assert len(index) == 600
    assert found[0] == found[1]
    assert {hit.rank for hit in found[0][0][:20]} == {11}


def test_a_database_without_its_package(
    adapter: Path, videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    given = (f"--adapter={adapter}", f"--videos={videos}", "a circle")
    code, told = refused(capsys, *given, "--index=s3://bucket/name")
    assert (code, "pip install 'petl-bench[lance]'" in told) == (2, True)


def test_a_search_beside_one_that_merges(adapter: Path, videos: Path, tmp_path: Path) -> None:
    """What was listed is gone when it is read."""
    search = VideoSearch(str(adapter), videos, index=str(tmp_path / "index"), device="cpu")
    found = search.open()
    expected = found.of_text("a red circle", 9)
    (shard,) = (tmp_path / "index").glob("shard-*")
    shard.rename(shard.with_name("shard-000007.safetensors"))
    assert found.of_text("a red circle", 9) == expected


def test_a_candidate_that_is_gone(dataset: Path, videos: Path, tmp_path: Path) -> None:
    more = ("--model.task.queue_size=8", "--model.task.reranking.k=3")
    assert run("fit", "fixture_blip_uniadapter", dataset, tmp_path / "runs", *more) == 0
    search = VideoSearch(str(only_record(tmp_path / "runs")[0]), videos, index=str(tmp_path / "index"), device="cpu")
    found = search.open()
    first = found.of_text("a red circle", 4)
    one_stage = found.of_text("a red circle", 4, two_stages=False)
    assert {hit.place for hit in first} == {hit.place for hit in one_stage}
    assert [hit.score for hit in first] != [hit.score for hit in one_stage]
    (videos / first[0].place.file.path).unlink()
    with pytest.warns(UserWarning, match="comes after those that could be read"):
        again = found.of_text("a red circle", 4)
    assert [hit.place for hit in again[:2]] == [hit.place for hit in first[1:3]]
    assert again[2].place == first[0].place


def test_seconds_as_a_player_shows_them() -> None:
    told = [clock(seconds) for seconds in (0, 1.88, 59.97, 119.98, 3599.99, 3723.5)]
    assert told == ["0:00", "0:01.9", "1:00", "2:00", "1:00:00", "1:02:03.5"]


def test_a_query_that_is_no_text(adapter: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = refused(capsys, f"--adapter={adapter}", f"--videos={videos}", os.fsdecode(b"a \xff"))
    assert (code, "not UTF-8" in told) == (2, True)
