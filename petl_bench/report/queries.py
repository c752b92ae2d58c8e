"""What `ranks.npz` tells of each query of a run: its rank or score, and which one it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from petl_bench.metrics.table import FIGURES, kind_of, score_of
from petl_bench.report.collect import Run
from petl_bench.runs.record import ranks_beside
from petl_bench.storage.arrays import read_arrays
from petl_bench.storage.files import FileError
from petl_bench.storage.untrusted import plain_text

_HITS = 3
#: between the captions of one video
_BETWEEN = " | "

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Queries:
    """N queries of one direction, in the order of the split.

    What a run does not say is None: files of earlier versions know neither ids nor hits, `record_words` false keeps no
    words. Texts are foreign; they can be encoded, but may hold anything that can be printed or not.

    Attributes:
        clusters: int (N,), alike for queries that share a video: captions of it, questions about it; or a file that
            several clips are parts of (also a clip and its reverse).
        ranks: int32 (N,), from 1; None of answers.
        scores: float64 (N,), 0 to 1, of answers; None of others.
        errors: float64 (N, 2), of counts, squared: against the answers from 1, and as they are; None of others.
        ids: of the query: caption, video or question.
        targets: what is looked for: the video's id (`t2v`); the caption's, or with several captions per video the
            video's own for their set (`v2t`); the ids of all own captions with ` | ` in between (`v2t_captions`); the
            expected answers, likewise (`answers`).
        hits: the first three of the gallery, best first, by the same ids, fewer where there are fewer; of answers the
            prediction, none where the video could not be read.
        words: what the query says; of a video its first caption.
        score: what the mean of the scores is called.
        types: of questions, or groups of them where there are any: what tables have columns of.
        in_groups: whether that is what they are.
        videos: ids of the videos that the queries are about.
    """

    clusters: np.ndarray
    ranks: np.ndarray | None = None
    scores: np.ndarray | None = None
    errors: np.ndarray | None = None
    ids: list[str] | None = None
    targets: list[str] | None = None
    hits: list[list[str]] | None = None
    words: list[str] | None = None
    score: str = FIGURES["accuracy"].title
    types: list[str] | None = None
    in_groups: bool = False
    videos: list[str] | None = None

    def __len__(self) -> int:
        return len(self.clusters)


def has_all_queries(record: Mapping[str, Any]) -> bool:
    """Whether a run had every query of its split, so that its number tells which ones they are."""
    protocol = record["protocol"]
    return not protocol["partial"] and protocol["n_found"] == protocol["n_expected"]


def read_queries(run: Run) -> dict[str, Queries]:
    """The queries of a run by direction.

    Returns:
        `t2v`, `v2t` and, with several captions per video, `v2t_captions`; or `answers`; or `counts`.

    Raises:
        ResourceError: this machine lacks something that reading takes.
        FileError: the ranks are missing, damaged, not those that the record has the digest of, or do not fit it.
    """
    path = ranks_beside(run.path)
    arrays = read_arrays(path, run.record["integrity"]["ranks_sha256"])
    try:
        if "squared_error" in arrays:
            found = {"counts": _asked(arrays, errors=_errors(arrays))}
        else:
            score = score_of(run.record["eval"]).title
            found = {"answers": _answers(arrays, score)} if "correct" in arrays else _retrieval(arrays)
    except ValueError as error:
        raise FileError(path, str(error)) from error
    figures = run.record["eval"]
    asked = {"accuracy": "answers", "errors": "counts"}.get(kind_of(figures))
    expected = {asked: figures["n"]} if asked else _counts(figures)
    counts = {direction: len(queries) for direction, queries in found.items()}
    if counts != expected:
        raise FileError(path, f"is of {_told(counts)}, the record of {_told(expected)}")
    return found


def _counts(figures: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {way: figures[way]["n"] for way in ("t2v", "v2t", "v2t_captions") if way in figures}


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {direction}" for direction, count in counts.items())


# --- retrieval ----------------------------------------------------------------------------------------------------


def _retrieval(arrays: Arrays) -> dict[str, Queries]:
    captions, videos = len(_ranks(arrays, "t2v")), len(_ranks(arrays, "v2t"))
    text_video, files = _text_video(arrays, captions, videos), _files(arrays, videos)
    names = _Names.of(arrays, text_video, captions, videos)
    several = "v2t_captions" in arrays
    found = {
        "t2v": _direction(arrays, "t2v", np.arange(captions) if text_video is None else files[text_video], videos),
        "v2t": _direction(arrays, "v2t", files, videos if several else captions),
    }
    if several:
        found["v2t_captions"] = _direction(arrays, "v2t_captions", files, captions)
    if names is None:
        return found
    return {way: names.given_to(way, queries, arrays, several) for way, queries in found.items()}


def _direction(arrays: Arrays, way: str, clusters: np.ndarray, gallery: int) -> Queries:
    ranks = _ranks(arrays, way)
    if len(ranks) != len(clusters):
        raise ValueError(f"{way} holds {len(ranks)} ranks of {len(clusters)} queries")
    if ranks.min() < 1 or ranks.max() > gallery:
        raise ValueError(f"{way} holds what is no rank from 1 to {gallery}")
    return Queries(clusters, ranks.astype(np.int32))


def _ranks(arrays: Arrays, way: str) -> np.ndarray:
    if way not in arrays:
        raise ValueError(f"holds no {way}")
    return _column(arrays, way, "iu")


def _text_video(arrays: Arrays, texts: int, videos: int) -> np.ndarray | None:
    return _rows_of_videos(arrays, "text_video", texts, videos) if "text_video" in arrays else None


def _files(arrays: Arrays, videos: int) -> np.ndarray:
    """A label of each video's file (V,); each is one of its own where nothing else is said."""
    return _rows_of_videos(arrays, "video_file", videos, videos) if "video_file" in arrays else np.arange(videos)


def _rows_of_videos(arrays: Arrays, name: str, length: int, videos: int) -> np.ndarray:
    rows = _column(arrays, name, "iu", length)
    if rows.min() < 0 or rows.max() >= videos:
        raise ValueError(f"{name} holds what is no row of {videos} videos")
    return rows.astype(np.int64)


@dataclass(frozen=True)
class _Names:
    """What videos and captions are called; `own` are the captions of each video."""

    videos: list[str]
    captions: list[str]
    words: list[str] | None
    text_video: np.ndarray
    own: list[np.ndarray]

    @classmethod
    def of(cls, arrays: Arrays, text_video: np.ndarray | None, captions: int, videos: int) -> _Names | None:
        if text_video is None or not {"video_id", "text_id"} <= arrays.keys():
            return None
        counts = np.bincount(text_video, minlength=videos)
        if not counts.all():
            raise ValueError("text_video leaves a video without a caption")
        own = np.split(np.argsort(text_video, kind="stable"), np.cumsum(counts)[:-1])
        words = _texts(arrays, "words", captions) if "words" in arrays else None
        return cls(_texts(arrays, "video_id", videos), _texts(arrays, "text_id", captions), words, text_video, own)

    def given_to(self, way: str, queries: Queries, arrays: Arrays, several: bool) -> Queries:
        """The queries of a direction with ids, targets, hits and words."""
        rows = {"ranks": queries.ranks, "clusters": queries.clusters}
        if way == "t2v":
            targets = [self.videos[video] for video in self.text_video]
            hits = _hits(arrays, way, len(queries), self.videos)
            return Queries(**rows, ids=self.captions, targets=targets, hits=hits, words=self.words, videos=targets)
        sets = way == "v2t" and several
        gallery = self.videos if sets else self.captions
        targets = gallery if sets else [_BETWEEN.join(gallery[caption] for caption in own) for own in self.own]
        hits = _hits(arrays, way, len(queries), gallery)
        words = None if self.words is None else [self.words[own[0]] for own in self.own]
        return Queries(**rows, ids=self.videos, targets=targets, hits=hits, words=words, videos=self.videos)


def _hits(arrays: Arrays, way: str, queries: int, gallery: list[str]) -> list[list[str]] | None:
    name = f"{way}_hits"
    if name not in arrays:
        return None
    hits = arrays[name]
    if hits.shape != (queries, _HITS) or hits.dtype.kind not in "iu":
        raise ValueError(f"{name} holds no {_HITS} hits of {queries} queries")
    if hits.min() < -1 or hits.max() >= len(gallery):
        raise ValueError(f"{name} holds what is no row of {len(gallery)}")
    return [[gallery[item] for item in row if item >= 0] for row in hits.tolist()]


# --- answers ------------------------------------------------------------------------------------------------------


def _answers(arrays: Arrays, score: str) -> Queries:
    scores = _column(arrays, "correct", "f").astype(np.float64)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("correct holds what is no score from 0 to 1")
    in_groups = "question_group" in arrays
    types = _optional(arrays, "question_group" if in_groups else "question_type", len(scores))
    return replace(_asked(arrays, scores=scores), score=score, types=types, in_groups=in_groups)


def _errors(arrays: Arrays) -> np.ndarray:
    errors = _column(arrays, "squared_error", "f")
    if "squared_error_raw" not in arrays:
        raise ValueError("holds no squared_error_raw")
    both = np.stack([errors, _column(arrays, "squared_error_raw", "f", len(errors))], axis=1).astype(np.float64)
    if not ((both >= 0) & (both <= [FIGURES["mse"].most, FIGURES["mse_raw"].most])).all():
        raise ValueError("squared_error holds what is no error of a count")
    return both


def _asked(arrays: Arrays, scores: np.ndarray | None = None, errors: np.ndarray | None = None) -> Queries:
    """Questions with what each was worth, or how far off it was."""
    values = errors if scores is None else scores
    assert values is not None, "questions have scores or errors"
    count = len(values)
    videos = _texts(arrays, "video_id") if "video_id" in arrays else None
    rows = None if videos is None else _text_video(arrays, count, len(videos))
    predictions = _optional(arrays, "prediction", count)
    return Queries(
        clusters=np.arange(count) if rows is None or videos is None else _files(arrays, len(videos))[rows],
        scores=scores,
        errors=errors,
        ids=_optional(arrays, "text_id", count),
        targets=_optional(arrays, "answers", count),
        hits=None if predictions is None else [[answer] if answer else [] for answer in predictions],
        words=_optional(arrays, "words", count),
        videos=None if videos is None or rows is None else [videos[video] for video in rows],
    )


# --- columns ------------------------------------------------------------------------------------------------------


def _column(arrays: Arrays, name: str, kinds: str, length: int | None = None) -> np.ndarray:
    values = arrays[name]
    if values.ndim != 1 or not len(values) or values.dtype.kind not in kinds:
        raise ValueError(f"{name} is no column of {'text' if kinds == 'U' else 'numbers'}")
    if length is not None and len(values) != length:
        raise ValueError(f"{name} has {len(values)} rows, not {length}")
    return values


def _texts(arrays: Arrays, name: str, length: int | None = None) -> list[str]:
    return [plain_text(text) for text in _column(arrays, name, "U", length).tolist()]


def _optional(arrays: Arrays, name: str, length: int) -> list[str] | None:
    return _texts(arrays, name, length) if name in arrays else None
