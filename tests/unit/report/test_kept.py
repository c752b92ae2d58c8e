from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from petl_bench.report import memo
from petl_bench.report.collect import collect
from petl_bench.report.kept import Kept
from petl_bench.report.memo import Digests, fingerprint, remember, unchanged
from petl_bench.runs import record
from petl_bench.runs.record import write_result
from petl_bench.storage.files import FileError, file_sha256
from tests.records import make_record


def filled(folder: Path | None, **values: object) -> Kept:
    kept = Kept(folder, "some", "1")
    for key, value in values.items():
        kept[key] = value
    kept.save()
    return kept


def test_values_are_kept_and_what_nobody_needs_goes(tmp_path: Path) -> None:
    filled(tmp_path, a=[1.5, None], b={"c": "é"})
    again = Kept(tmp_path, "some", "1")
    assert (again["a"], again.get("c")) == ([1.5, None], None)
    again.save()
    last = Kept(tmp_path, "some", "1")
    assert "a" in last
    assert "b" not in last


def test_values_of_other_rules_are_none(tmp_path: Path) -> None:
    filled(tmp_path, a=1)
    assert "a" not in Kept(tmp_path, "some", "2")
    assert "a" not in Kept(tmp_path, "other", "1")
    assert "a" not in Kept(None, "some", "1")


def test_a_damaged_file_counts_as_empty(tmp_path: Path) -> None:
    filled(tmp_path, a=1, b="text")
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    damages = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(len(whole))]
    for content in (b"", whole[:-1], whole + b" ", b"\n", b"\xff\n{}", b"[1]", *damages):
        file.write_bytes(content)
        assert "a" not in Kept(tmp_path, "some", "1")
    filled(tmp_path, a=2)
    assert Kept(tmp_path, "some", "1")["a"] == 2


def test_what_comes_from_elsewhere_is_not_believed(tmp_path: Path) -> None:
    filled(tmp_path / "theirs", a=True)
    shutil.copytree(tmp_path / "theirs", tmp_path / "ours")
    assert "a" in Kept(tmp_path / "theirs", "some", "1")
    assert "a" not in Kept(tmp_path / "ours", "some", "1")
    (tmp_path / "theirs").rename(tmp_path / "moved")
    assert "a" in Kept(tmp_path / "moved", "some", "1")


def test_a_folder_that_cannot_be_written_to_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert filled(tmp_path / "cache", a=1)["a"] == 1
    (tmp_path / "some.json").mkdir()
    assert filled(tmp_path, a=1)["a"] == 1


def test_a_file_is_whole_whoever_writes_it(tmp_path: Path) -> None:
    def write(number: int) -> None:
        filled(tmp_path, key="x" * 1000 * number, number=number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(1, 40)))
    found = Kept(tmp_path, "some", "1")
    assert found["key"] == "x" * 1000 * found["number"]
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


# --- files


def later(monkeypatch: pytest.MonkeyPatch, seconds: float = 10) -> None:
    """Lets the files of a test be old."""
    now = time.time_ns
    monkeypatch.setattr(memo.time, "time_ns", lambda: now() + round(seconds * 1e9))


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    later(monkeypatch)
    digests = Digests(tmp_path / "cache", "files")
    first = digests.of(file)
    digests.save()
    with monkeypatch.context() as patch:
        patch.setattr(memo, "file_sha256", lambda path: pytest.fail("hashed again"))
        assert Digests(tmp_path / "cache", "files").of(file) == first
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` would leave it
    assert Digests(tmp_path / "cache", "files").of(file) == file_sha256(file) != first


def test_a_file_that_changed_just_now_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its times would not tell of a change within the same tick of the clock."""
    file = tmp_path / "file"
    file.write_text("one")
    digests = Digests(tmp_path / "cache", "files")
    digests.of(file)
    digests.save()
    hashed = []
    monkeypatch.setattr(memo, "file_sha256", lambda path: hashed.append(path) or "digest")
    assert Digests(tmp_path / "cache", "files").of(file) == "digest"
    assert hashed == [file]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read: No such file"):
        Digests(None, "files").of(tmp_path / "missing")


# --- inputs and outputs


def test_a_report_stays_as_long_as_its_input_and_its_files(tmp_path: Path) -> None:
    output = tmp_path / "report"
    (output / "tables").mkdir(parents=True)
    files = [output / "page.md", output / "tables" / "a.tex"]
    for file in files:
        file.write_text(file.name)
    assert not unchanged(output, "f" * 64)
    remember(output, "f" * 64, files)
    assert unchanged(output, "f" * 64)
    assert not unchanged(output, "0" * 64)
    files[1].write_text("other")
    assert not unchanged(output, "f" * 64)
    files[1].unlink()
    assert not unchanged(output, "f" * 64)
    files[1].write_text("a.tex")
    assert unchanged(output, "f" * 64)
    remember(output, "0" * 64, files)
    assert not unchanged(output, "f" * 64)  # only the last one is known


@pytest.mark.parametrize("found", [[], {"../a": 1}, {"a\0b": "c"}, {"": "d"}, "text", None])
def test_outputs_of_another_shape_are_none(found: object, tmp_path: Path) -> None:
    kept = Kept(tmp_path / ".cache", "outputs", "1")
    kept["f" * 64] = found
    kept.save()
    assert not unchanged(tmp_path, "f" * 64)


@pytest.mark.parametrize("digest", [None, 1, ["a"]])
def test_digests_of_another_shape_are_none(digest: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    later(monkeypatch)
    found = file.stat()
    kept = Kept(tmp_path / "cache", "files", "1")
    kept[str(file)] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, digest]
    kept.save()
    assert Digests(tmp_path / "cache", "files").of(file) == file_sha256(file)


def test_everything_that_a_report_is_made_from_is_in_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run" / "result.json"
    path.parent.mkdir()
    write_result(path, make_record())
    found = [fingerprint([(path, {})], [], None, None)]

    def changed(*arguments: object) -> bool:
        found.append(fingerprint(*arguments))  # pyright: ignore[reportArgumentType]
        return found.count(found[-1]) == 1

    assert not changed([(path, {})], [], None, tmp_path / "cache")
    path.with_name("metrics.csv").write_text("loss\n1\n")
    assert changed([(path, {})], [], None, tmp_path / "cache")
    path.with_name("metrics.csv").write_text("loss\n2\n")
    assert changed([(path, {})], [], None, tmp_path / "cache")
    path.with_name("adapter.safetensors").touch()  # which the command of a test names
    assert changed([(path, {})], [], None, tmp_path / "cache")
    assert changed([], [], None, None)
    assert changed([], [(path, "its reason")], None, None)
    assert changed([], [], tmp_path / "clips", None)
    monkeypatch.setattr(memo, "_code", lambda: "edited")
    assert changed([], [], None, None)


# --- records


def test_records_and_files_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = tmp_path / "run", tmp_path / "cache"
    folder.mkdir()
    (folder / "adapter.safetensors").write_bytes(b"weights")
    good = make_record(integrity__adapter_sha256=file_sha256(folder / "adapter.safetensors"))
    write_result(folder / "result.json", good)
    later(monkeypatch)
    assert len(collect([tmp_path], cache=cache).runs) == 1
    with monkeypatch.context() as patch:
        patch.setattr(record, "complaint", lambda found: pytest.fail("validated again"))
        patch.setattr(memo, "file_sha256", lambda path: pytest.fail("hashed again"))
        assert collect([tmp_path], cache=cache).runs[0].record == good
    (folder / "result.json").write_text((folder / "result.json").read_text().replace('"R1": 40.0', '"R1": "many"'))
    (rejected,) = collect([tmp_path], cache=cache).rejected
    assert "eval.t2v.R1" in rejected.reason or "eval" in rejected.reason
    write_result(folder / "result.json", good)
    (folder / "adapter.safetensors").write_bytes(b"altered")
    (rejected,) = collect([tmp_path], cache=cache).rejected
    assert rejected.reason == "adapter.safetensors is not the file the run wrote (SHA-256 differs)"
