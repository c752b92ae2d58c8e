"""Which file a name means: exact paths first, then names, then ids; what could be several is refused."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from datamodules.custom import SUFFIXES, Custom, CustomQA
from petl_bench.data.clip_files import ClipFiles
from petl_bench.errors import DataError


def clips(folder: Path, *names: str, suffixes: tuple[str, ...] = SUFFIXES) -> ClipFiles:
    """A folder with files that all differ."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return ClipFiles(folder, suffixes, lambda path: path.stem)


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        (["a_low/clip1.mp4", "b_high/clip1.mp4"], "b_high/clip1.mp4", "b_high/clip1.mp4"),
        (["a_low/clip1.mp4", "b_high/clip1.mp4"], "b_high/clip1", "b_high/clip1.mp4"),
        (["x/a_low/clip1.mp4", "x/b_high/clip1.mp4"], "b_high/clip1.mp4", "x/b_high/clip1.mp4"),
        (["clip1.mp4", "clip1.mkv"], "clip1.mkv", "clip1.mkv"),
        (["deep/clip1.mp4", "clip1.mkv"], "clip1.mp4", "deep/clip1.mp4"),
        (["deep/er/clip1.MKV"], "clip1", "deep/er/clip1.MKV"),
        (["clip1.webm"], "clip1.mp4", "clip1.webm"),
        (["clip1.mp4"], "elsewhere/clip1.mp4", "clip1.mp4"),
        (["b/clip1.mp4"], "b\\clip1.mp4", "b/clip1.mp4"),
        (["video.1.mp4", "video.2.mp4"], "video.1", "video.1.mp4"),
        (["clip.mp4.mp4", "other.mp4"], "clip.mp4", "clip.mp4.mp4"),
        (["clip1.mp4", "clip1.jpg"], "clip1", "clip1.mp4"),
        (["clip1.mp4", "clip1.jpg"], "clip1.jpg", "clip1.jpg"),
        (["1000000000.jpg"], "1000000000", "1000000000.jpg"),
        (["clip1.mp4"], "Clip1", None),
        (["clip1.txt"], "clip1", None),
    ],
)
def test_what_a_name_means(files: list[str], name: str, expected: str | None, tmp_path: Path) -> None:
    found = clips(tmp_path, *files).find([name])
    assert found == ({name: tmp_path / expected} if expected else {})


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["a/clip1.mp4", "b/clip1.mp4"], "clip1"),
        (["a/clip1.mp4", "b/clip1.mp4"], "clip1.mp4"),
        (["a/clip1.mp4", "b/clip1.mp4"], "c/clip1.mp4"),
        (["clip1.mp4", "clip1.mkv"], "clip1"),
        (["clip1.mp4", "clip1.mkv"], "clip1.avi"),
    ],
)
def test_what_could_be_several_is_refused_with_both(files: list[str], name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        clips(tmp_path, *files).find([name])
    assert all(str(tmp_path / file) in str(caught.value) for file in files)


def test_copies_of_one_file_are_one(tmp_path: Path) -> None:
    index = clips(tmp_path, "a/clip1.mp4", "b/clip1.mp4")
    (tmp_path / "b" / "clip1.mp4").write_bytes(b"a/clip1.mp4")
    assert index.find(["clip1"]) == {"clip1": tmp_path / "a" / "clip1.mp4"}


@pytest.mark.parametrize(("on_disk", "given"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_unicode_is_compared_composed(on_disk: str, given: str, tmp_path: Path) -> None:
    stem, folder = normalize(on_disk, "Café_niño"), normalize(on_disk, "é")  # type: ignore[arg-type]  # one of the two
    index = clips(tmp_path, f"{folder}/{stem}.mp4", f"b/{stem}.mp4")
    for name in ("é/Café_niño.mp4", "é/Café_niño"):
        name = normalize(given, name)  # type: ignore[arg-type]  # one of the two
        assert index.find([name]) == {name: tmp_path / folder / f"{stem}.mp4"}


def test_linked_folders_are_followed_and_circles_left(tmp_path: Path) -> None:
    clips(tmp_path / "elsewhere", "clip1.mp4")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "circle").symlink_to(tmp_path / "videos")
    index = clips(tmp_path / "videos")
    assert index.find(["clip1"]) == {"clip1": tmp_path / "videos" / "linked" / "clip1.mp4"}


def test_the_nearest_name(tmp_path: Path) -> None:
    index = clips(tmp_path, "Clip1.MP4", "other.mp4")
    assert index.nearest("clip1") == "Clip1.MP4"
    assert index.nearest("quite different") is None


@pytest.mark.parametrize("kind", [Custom, CustomQA])
def test_two_clips_of_one_name_are_told_apart(kind: type[Custom | CustomQA], tmp_path: Path) -> None:
    clips(tmp_path / "videos", "a/x.mp4", "b/x.mp4", "y.jpg")
    header, more = ("video,caption", "") if kind is Custom else ("video,question,answer", ",yes")
    rows = "".join(f"{name},words{more}\n" for name in ("a/x.mp4", "b/x.mp4", "y.jpg"))
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
    data = kind(tmp_path)
    samples = data.samples("test")
    assert [sample.video for sample in samples] == ["a__x.mp4", "b__x.mp4", "y"]
    assert data._find("test", samples) == [tmp_path / "videos" / name for name in ("a/x.mp4", "b/x.mp4", "y.jpg")]


def test_one_clip_under_two_names(tmp_path: Path) -> None:
    clips(tmp_path / "videos", "a/x.mp4")
    (tmp_path / "test.csv").write_text("video,caption\na/x.mp4,one\nx,two\n", encoding="utf-8")
    data = Custom(tmp_path)
    with pytest.raises(DataError, match=r"'a__x.mp4' and 'x' are both .*x\.mp4: write it one way"):
        data._find("test", data.annotations("test"))
