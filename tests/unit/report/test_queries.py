"""What ranks.npz tells, read back; and what it cannot tell, refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petl_bench.report.collect import Run
from petl_bench.report.queries import read_queries
from petl_bench.runs.record import read_result
from petl_bench.storage.files import FileError
from tests.records import make_answers, make_ranks, write_run

OLD = Path(__file__).parents[2] / "files_of_3e531d0" / "runs"
Arrays = dict[str, np.ndarray]


def test_one_caption_per_video(tmp_path: Path) -> None:
    arrays = make_ranks(5, 1)
    found = read_queries(write_run(tmp_path, arrays))
    assert list(found) == ["t2v", "v2t"]
    t2v, v2t = found["t2v"], found["v2t"]
    videos, captions = arrays["video_id"].tolist(), arrays["text_id"].tolist()
    for queries, way, ids, targets in ((t2v, "t2v", captions, videos), (v2t, "v2t", videos, captions)):
        np.testing.assert_array_equal(queries.ranks, arrays[way])
        assert queries.clusters.tolist() == [0, 1, 2, 3, 4]
        assert (queries.ids, queries.targets, queries.videos) == (ids, targets, videos)
        assert queries.words == arrays["words"].tolist()
        assert queries.hits == [[targets[hit] for hit in hits] for hits in arrays[f"{way}_hits"].tolist()]
        assert queries.scores is queries.types is None


def test_several_captions_per_video(tmp_path: Path) -> None:
    arrays = make_ranks(2, 3)
    order = np.array([3, 0, 4, 1, 5, 2])  # captions of both videos by turns
    for name in ("text_id", "text_video", "words", "t2v", "t2v_hits"):
        arrays[name] = arrays[name][order]
    found = read_queries(write_run(tmp_path, arrays))
    assert list(found) == ["t2v", "v2t", "v2t_captions"]
    assert found["t2v"].clusters.tolist() == [1, 0, 1, 0, 1, 0]
    assert found["t2v"].targets == ["video1", "video0"] * 3
    assert found["t2v"].hits is not None
    assert all(len(hits) == 2 for hits in found["t2v"].hits)  # there are two videos
    assert found["v2t"].targets == found["v2t"].ids == ["video0", "video1"]
    assert found["v2t"].words == ["caption 0 of video 0", "caption 3 of video 1"]
    assert found["v2t_captions"].targets == [f"video{v}#0 | video{v}#1 | video{v}#2" for v in (0, 1)]
    hits = [[arrays["text_id"][hit] for hit in row] for row in arrays["v2t_captions_hits"].tolist()]
    assert found["v2t_captions"].hits == hits


def test_answers(tmp_path: Path) -> None:
    arrays = make_answers(3, 2)
    arrays["prediction"][1] = ""  # of a video that could not be read
    (queries,) = read_queries(write_run(tmp_path, arrays)).values()
    np.testing.assert_array_equal(queries.scores, arrays["correct"])
    assert queries.clusters.tolist() == [0, 0, 1, 1, 2, 2]
    assert queries.ids == ["0", "1", "2", "3", "4", "5"]
    assert queries.videos == ["video0", "video0", "video1", "video1", "video2", "video2"]
    assert queries.words == arrays["words"].tolist()
    assert queries.targets == ["red"] * 6
    assert queries.types == ["what", "how"] * 3
    assert queries.hits == [[answer] if answer else [] for answer in arrays["prediction"].tolist()]
    assert queries.ranks is None


def test_parts_of_one_file_are_resampled_together(tmp_path: Path) -> None:
    files = {"video_file": np.array([0, 0, 2, 2])}
    found = read_queries(write_run(tmp_path / "ranks", make_ranks(4, 2) | files))
    assert found["t2v"].clusters.tolist() == [0] * 4 + [2] * 4
    assert found["v2t"].clusters.tolist() == found["v2t_captions"].clusters.tolist() == [0, 0, 2, 2]
    assert found["v2t"].videos == ["video0", "video1", "video2", "video3"]
    (answered,) = read_queries(write_run(tmp_path / "answers", make_answers(4, 1) | files)).values()
    assert answered.clusters.tolist() == [0, 0, 2, 2]
    assert answered.videos == ["video0", "video1", "video2", "video3"]


def test_without_words(tmp_path: Path) -> None:
    found = read_queries(write_run(tmp_path, make_ranks(4, 2, words=False)))
    assert all(queries.words is None and queries.ids is not None for queries in found.values())


def test_files_of_earlier_versions() -> None:
    paths = sorted(OLD.rglob("result.json"))
    assert len(paths) == 5
    for path in paths:
        found = read_queries(Run(path, read_result(path)))
        assert found.keys() in ({"t2v", "v2t"}, {"answers"})
        for queries in found.values():
            assert queries.ids is queries.targets is queries.words is None
            assert len(queries.clusters) > 1


def without(*names: str) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        for name in names:
            del arrays[name]

    return change


def changed(name: str, value: Any) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = np.array(value(arrays[name]) if callable(value) else value)

    return change


ONE, ANSWERS = make_ranks(4, 1), make_answers(2, 2)
FORGED = [
    (ONE, without("t2v"), "holds no t2v"),
    (ONE, changed("t2v", lambda x: x.astype(float)), "t2v is no column of numbers"),
    (ONE, changed("t2v", lambda x: x[:, None]), "t2v is no column of numbers"),
    (ONE, changed("t2v", [0, 1, 1, 1]), "t2v holds what is no rank from 1 to 4"),
    (ONE, changed("v2t", [1, 1, 1, 5]), "v2t holds what is no rank from 1 to 4"),
    (ONE, changed("text_video", [0, 1, 2, 4]), "text_video holds what is no row of 4 videos"),
    (ONE, changed("text_video", [0, 1, 2]), "text_video has 3 rows, not 4"),
    (ONE, changed("text_video", [0, 1, 2, 2]), "text_video leaves a video without a caption"),
    (ONE, changed("video_id", ["a"]), "video_id has 1 rows, not 4"),
    (ONE, changed("text_id", [1, 2, 3, 4]), "text_id is no column of text"),
    (ONE, changed("words", ["a", "b"]), "words has 2 rows, not 4"),
    (ONE, changed("t2v_hits", lambda x: x[:, :2]), "t2v_hits holds no 3 hits of 4 queries"),
    (ONE, changed("v2t_hits", lambda x: x + 4), "v2t_hits holds what is no row of 4"),
    (ONE, changed("v2t_hits", lambda x: x - 9), "v2t_hits holds what is no row of 4"),
    (ANSWERS, changed("correct", [0.0, 1.0, 2.0, 1.0]), "correct holds what is no score from 0 to 1"),
    (ANSWERS, changed("correct", [0.0, 1.0, np.nan, 1.0]), "correct holds what is no score from 0 to 1"),
    (ANSWERS, changed("question_type", ["a"]), "question_type has 1 rows, not 4"),
    (ONE, changed("video_file", [0, 0, 2, 4]), "video_file holds what is no row of 4 videos"),
    (ONE, changed("video_file", [0, 0]), "video_file has 2 rows, not 4"),
    (ANSWERS, changed("video_file", ["a", "a"]), "video_file is no column of numbers"),
    (ANSWERS, changed("text_video", [0, 0, 0, -1]), "text_video holds what is no row of 2 videos"),
]


@pytest.mark.parametrize(("arrays", "change", "told"), FORGED, ids=[told for *_, told in FORGED])
def test_forged_files(arrays: Arrays, change: Callable[[Arrays], None], told: str, tmp_path: Path) -> None:
    forged = dict(arrays)
    change(forged)
    run = write_run(tmp_path, {"t2v": ONE["t2v"], "v2t": ONE["v2t"]} if arrays is ONE else arrays)
    np.savez(tmp_path / "ranks.npz", allow_pickle=False, **forged)
    run.record["integrity"]["ranks_sha256"] = None
    with pytest.raises(FileError) as caught:
        read_queries(run)
    assert str(caught.value) == f"{tmp_path / 'ranks.npz'}: {told}"


def test_ranks_of_other_queries_than_the_record(tmp_path: Path) -> None:
    run = write_run(tmp_path, ONE)
    run.record["eval"]["t2v"]["n"] = 5
    with pytest.raises(FileError, match=r"is of 4 t2v, 4 v2t, the record of 5 t2v, 4 v2t$"):
        read_queries(run)
    run.record["eval"] = {"accuracy": 5.0, "n": 4}
    with pytest.raises(FileError, match=r"the record of 4 answers$"):
        read_queries(run)


def test_ranks_that_were_changed(tmp_path: Path) -> None:
    run = write_run(tmp_path, ONE)
    np.savez(tmp_path / "ranks.npz", allow_pickle=False, **make_ranks(4, 1, seed=1))
    with pytest.raises(FileError, match="is not the file the run wrote"):
        read_queries(run)


def test_texts_that_cannot_be_encoded(tmp_path: Path) -> None:
    arrays = ONE | {"words": np.array(["\ud800", "b", "c", "\x1b[31m"])}
    words = read_queries(write_run(tmp_path, arrays))["t2v"].words
    assert words == ["\ufffd", "b", "c", "\x1b[31m"]
