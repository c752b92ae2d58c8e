"""Which file a name in an annotation stands for: by exact path, by name, by id; what stays open is refused."""

from __future__ import annotations

import filecmp
import os
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from datamodules.custom import Custom, CustomQA
from petl_bench.data.clip_files import ClipFiles, is_text, outside
from petl_bench.errors import DataError

SUFFIXES = (".mp4", ".mkv", ".mov", ".jpg")


def written(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def files(folder: Path) -> ClipFiles:
    return ClipFiles(folder, SUFFIXES, lambda path: path.stem)


def found(folder: Path, *names: str) -> str | None:
    path = files(folder).find(names)
    return None if path is None else path.relative_to(folder).as_posix()


def form(kind: str, text: str) -> str:
    return unicodedata.normalize(kind, text)  # type: ignore[arg-type]  # one of four


@pytest.mark.parametrize(
    ("there", "name", "expected"),
    [
        # the exact path below the folder, also with the folder's own name
        (["a/x.mp4", "b/x.mp4"], "b/x.mp4", "b/x.mp4"),
        (["a/x.mp4", "b/x.mp4"], "videos/b/x.mp4", "b/x.mp4"),
        (["x.mp4", "a/x.mp4"], "x.mp4", "x.mp4"),
        (["a/x.mp4", "b/x.mp4"], "./b//x.mp4", "b/x.mp4"),
        (["videos/x.mp4", "x.mp4"], "videos/x.mp4", "videos/x.mp4"),
        # then the name with its suffix
        (["x.mp4", "x.mkv"], "x.mkv", "x.mkv"),
        (["a/x.mp4", "b/x.mkv"], "x.mkv", "b/x.mkv"),
        # then the stem: a dataset may have been encoded again
        (["a/x.mkv"], "x.mp4", "a/x.mkv"),
        (["a/x.mp4", "b/y.mp4"], "x", "a/x.mp4"),
        (["a/x.mp4", "b/x.mp4"], "a/x", "a/x.mp4"),
        (["a/x.MP4"], "x", "a/x.MP4"),
        # a folder that one side leaves out
        (["x.mp4"], "a/x.mp4", "x.mp4"),
        (["deep/a/x.mp4", "x.mp4"], "a/x.mp4", "deep/a/x.mp4"),
        (["deep/a/x.mp4", "deep/b/x.mp4"], "a/x", "deep/a/x.mp4"),
        # a folder that both sides have, another one: not this file
        (["a/x.mp4"], "b/x.mp4", None),
        (["a/x.mp4"], "b/x", None),
        # dots in ids, and ids that end like a file
        (["video.1.mp4", "video.2.mp4"], "video.1", "video.1.mp4"),
        (["video.1.mp4", "video.mp4"], "video.1.mp4", "video.1.mp4"),
        (["x.mov.mp4", "x.mp4"], "x.mov", "x.mov.mp4"),
        (["x.mov", "x.mov.mp4"], "x.mov", "x.mov"),
        (["-x.mp4"], "-x", "-x.mp4"),
        # separators of another system, or a strange name
        (["a/x.mp4", "b/x.mp4"], "b\\x.mp4", "b/x.mp4"),
        (["a\\x.mp4", "a/x.mp4"], "a\\x.mp4", "a\\x.mp4"),
        # a still, where no video has the name
        (["x.mp4", "x.jpg"], "x", "x.mp4"),
        (["x.mp4", "x.jpg"], "x.jpg", "x.jpg"),
        (["a/x.jpg"], "x", "a/x.jpg"),
        # more folders than one
        (["one/a/x.mp4", "two/a/x.mp4"], "two/a/x", "two/a/x.mp4"),
        (["a/x.mp4", "x.mp4"], "one/a/x", "a/x.mp4"),
        (["x.mp4", "two/x.mp4"], "one/a/x", "x.mp4"),
        (["id1/video.mp4", "id2/video.mp4"], "id2/video", "id2/video.mp4"),
        # spaces of other scripts
        (["a\u3000b\u00a0c.mp4"], "a\u3000b\u00a0c", "a\u3000b\u00a0c.mp4"),
        # no clip, or no such case
        (["x.txt"], "x", None),
        (["X.mp4"], "x", None),
        (["x.mp4"], "../x.mp4", None),
        (["x.mp4"], "", None),
        (["x.mp4"], "x.mp4\0", None),
    ],
)
def test_a_name_stands_for(there: list[str], name: str, expected: str | None, tmp_path: Path) -> None:
    assert found(written(tmp_path / "videos", *there), name) == expected


@pytest.mark.parametrize(
    ("there", "name"),
    [
        (["a/x.mp4", "b/x.mp4"], "x"),
        (["a/x.mp4", "b/x.mp4"], "x.mp4"),
        (["x.mp4", "a/x.mp4"], "x"),
        (["x.mp4", "x.mkv"], "x"),
        (["x.mp4", "x.mkv"], "x.mov"),
        (["a/x.mp4", "a/x.mkv", "b/x.mp4"], "a/x"),
        (["one/a/x.mp4", "two/a/x.mp4"], "a/x.mp4"),
        (["a/x.jpg", "b/x.jpg"], "x"),
    ],
)
def test_what_the_annotation_leaves_open_is_refused(there: list[str], name: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "videos", *there)
    with pytest.raises(DataError) as caught:
        files(folder).find([name])
    told = str(caught.value)
    assert told.startswith(f"'{name}' ")
    assert all(str(folder / path) in told for path in there if not path.startswith("b/") or "/" not in name)


def test_names_are_tried_in_their_order(tmp_path: Path) -> None:
    folder = written(tmp_path, "a/x.mp4", "b/x.mp4", "c/y.mp4")
    assert found(folder, "b/x.mp4", "x") == "b/x.mp4"
    assert found(folder, "elsewhere/y.mp4", "y") == "c/y.mp4"


NAME = "Café_niño"


@pytest.mark.parametrize("kind", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_one_name_in_two_normal_forms(kind: str, asked: str, tmp_path: Path) -> None:
    folder = written(tmp_path, form(kind, f"{NAME}/{NAME}.mp4"), "Cafe_nino.mp4")
    expected = form(kind, f"{NAME}/{NAME}.mp4")
    assert found(folder, form(asked, NAME)) == expected
    assert found(folder, form(asked, f"{NAME}/{NAME}.mp4")) == expected


def test_two_files_whose_names_differ_in_their_normal_form_alone(tmp_path: Path) -> None:
    there = [form(kind, f"{NAME}.mp4") for kind in ("NFC", "NFD")]
    folder = written(tmp_path, *there)
    for name in there:
        assert found(folder, name) == name
        assert found(folder, name.removesuffix(".mp4")) == name
    with pytest.raises(DataError, match="normal form"):
        found(folder, f"{form('NFC', 'Café')}_{form('NFD', 'niño')}.mp4")


def test_two_folders_whose_names_differ_in_their_normal_form_alone(tmp_path: Path) -> None:
    there = [form(kind, f"{NAME}/x.mp4") for kind in ("NFC", "NFD")]
    folder = written(tmp_path, *there)
    assert [found(folder, name) for name in there] == there
    assert [found(folder, name.removesuffix(".mp4")) for name in there] == there


def test_other_letters_are_other_names(tmp_path: Path) -> None:
    folder = written(tmp_path, "ﬁlm.mp4", "Ｘ.mp4", "straße.mp4")
    assert [found(folder, name) for name in ("film", "X", "strasse")] == [None, None, None]


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    store = written(tmp_path / "store", "deep/s10.mp4", "s11.mp4")
    folder = written(tmp_path / "videos", "s1.mp4")
    (folder / "link").symlink_to(store, target_is_directory=True)
    (folder / "s12.mp4").symlink_to(store / "s11.mp4")
    assert found(folder, "s10") == "link/deep/s10.mp4"
    assert found(folder, "link/deep/s10.mp4") == "link/deep/s10.mp4"
    assert found(folder, "s12") == "s12.mp4"


def test_links_in_circles_end(tmp_path: Path) -> None:
    folder = written(tmp_path / "videos", "a/x.mp4")
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "self").symlink_to(folder / "self")
    (folder / "nowhere.mp4").symlink_to(folder / "gone.mp4")
    assert found(folder, "x") == "a/x.mp4"
    assert [path.name for path in files(folder).paths] == ["x.mp4"]
    assert "link to nothing" in files(folder).hint("nowhere")


def test_a_folder_that_is_linked_twice_is_one(tmp_path: Path) -> None:
    store = written(tmp_path / "store", "x.mp4")
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).symlink_to(store, target_is_directory=True)
    assert found(folder, "x") == "one/x.mp4"
    assert found(folder, "two/x.mp4") == "one/x.mp4"
    assert found(folder, "two/y.mp4") is None


def test_copies_of_one_file_are_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "videos", "a/x.mp4", "c/x.mp4")
    (folder / "b").mkdir()
    (folder / "b" / "x.mp4").write_text("a/x.mp4")
    assert found(folder, "b/x") == "b/x.mp4"
    with pytest.raises(DataError, match=r"'x' may be .*a/x\.mp4' or .*c/x\.mp4'"):
        found(folder, "x")
    (folder / "c" / "x.mp4").unlink()
    assert found(folder, "x") == "a/x.mp4"


def test_folders_and_files_that_are_not_ours_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "videos", "a/x.mp4", "b/x.mp4", "locked/y.mp4")
    (folder / "b" / "x.mp4").write_text("a/x.mp4")
    scandir = os.scandir

    def refuse(path: Path, *_: object, **__: object) -> Any:
        if path.name in ("locked", "x.mp4"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse)
        patched.setattr(filecmp, "cmp", refuse)
        assert found(folder, "y") is None
        with pytest.raises(DataError, match="'x' may be"):
            found(folder, "x")


@pytest.mark.parametrize(
    ("there", "name", "hint"),
    [
        (["X.mp4"], "x.mp4", "'X.mp4', in other letters"),
        (["a/x.mp4"], "b/x.mp4", "'a/x.mp4'"),
        (["x.txt"], "x", "'x.txt', no clip by its suffix"),
        (["video12.mp4", "video7.mp4"], "vide12", "'video12.mp4'"),
        (["video12.mp4", "video7.mp4"], "video13", ""),
        (["zebra.mp4"], "x", ""),
    ],
)
def test_the_nearest_name_is_told(there: list[str], name: str, hint: str, tmp_path: Path) -> None:
    assert files(written(tmp_path, *there)).hint(name) == hint


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x.mp4", "leads out of it"),
        ("a/../../x", "leads out of it"),
        ("a\\..\\x", "leads out of it"),
        ("/etc/passwd", "absolute"),
        ("C:\\clips\\x.mp4", "absolute"),
        ("\\\\server\\clips\\x.mp4", "absolute"),
        ("", "no file name"),
        (".", "no file name"),
        ("a\x07b", "no file name"),
        ("a\0b", "no file name"),
        ("a\u2028b", "no file name"),
        ("\\x.mp4", "absolute"),
        ("a\u3000b.mp4", ""),
        ("T: x.mp4", ""),
        ("a/x.mp4", ""),
        ("..x.mp4", ""),
        ("a\\x.mp4", ""),
    ],
)
def test_names_that_lead_elsewhere(name: str, why: str) -> None:
    assert why in outside(name)
    assert bool(outside(name)) == bool(why)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no folder of clips at {tmp_path / 'x'}"):
        files(tmp_path / "x")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Linux takes any bytes; those that are no text are shown as escapes."""
    (tmp_path / os.fsdecode(b"the caf\xe9.mp4")).touch()
    hint = files(tmp_path).hint("the cafe")
    hint.encode()
    assert "caf" in hint


def test_names_are_shown_in_one_line(tmp_path: Path) -> None:
    folder = written(tmp_path, "a/x\n\x1b[31m.mp4", "b/x\n\x1b[31m.mp4")
    told = files(folder).hint("x\n\x1b[31m")
    assert told.isprintable()
    assert not is_text("x\n\x1b[31m")


def test_many_clips_of_one_name(tmp_path: Path) -> None:
    """Each in a folder of its own, and half of the names missing: comparing each with all would take minutes."""
    count = 5000
    clips = files(written(tmp_path, *(f"id{number}/video.mp4" for number in range(count))))
    started = time.process_time()
    there = [clips.find([f"id{number}/video"]) for number in range(2 * count)]
    assert sum(path is not None for path in there) == count
    assert time.process_time() - started < 5


@pytest.mark.parametrize("kind", [Custom, CustomQA])
def test_two_clips_of_one_name_are_told_apart(kind: type[Custom | CustomQA], tmp_path: Path) -> None:
    written(tmp_path / "videos", "a/x.mp4", "b/x.mp4", "y.jpg")
    header, more = ("video,caption", "") if kind is Custom else ("video,question,answer", ",yes")
    rows = "".join(f"{name},words{more}\n" for name in ("a/x.mp4", "b\\x.mp4", "y.jpg"))
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
    data = kind(tmp_path)
    samples = data.samples("test")
    assert [sample.video for sample in samples] == ["a__x.mp4", "b__x.mp4", "y"]
    assert data._find("test", samples) == [tmp_path / "videos" / name for name in ("a/x.mp4", "b/x.mp4", "y.jpg")]
