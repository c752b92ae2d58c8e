"""Figures of retrieval beside the plain ones, each under a name that says what it is.

Post-processing reads other test queries, or a bank of captions, to rank one query; published tables mix it with plain
ranks. What is here never changes the plain figures: it has a name, settings in the record, and columns of its own in a
report.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from petl_bench.configurable import Configurable
from petl_bench.data.batch import SplitTexts
from petl_bench.errors import DataError, UsageError
from petl_bench.metrics.retrieval import ranks_of_any, ranks_of_directions, recall_at_k, summarise, text_to_video_ranks
from petl_bench.metrics.second_figures import Compared, dual_softmax, judged_share, ndcg_of_directions, qb_norm
from petl_bench.ranges import Positive, Size
from petl_bench.storage.files import FileError, file_sha256
from petl_bench.storage.untrusted import UnreadableError, expanded, parse_json, read_text, shown

#: first places that FIRE looks at
_COVERED = (1, 5, 10)

Figures = dict[str, dict[str, float]]


class Seen(NamedTuple):
    """What a second figure is calculated from.

    Attributes:
        compared: similarities of the split, and of the bank where one was asked for.
        texts: words and ids of the split.
        logit_scale: of the trained model (already exponentiated).
        bank: captions of the bank, in order.
    """

    compared: Compared
    texts: SplitTexts
    logit_scale: float
    bank: list[str]


class SecondFigure(Configurable, ABC):
    """What is calculated beside the plain ranks."""

    #: in the record of a run
    name: ClassVar[str]
    #: True if it ranks anew, by similarities of one stage
    reorders: ClassVar[bool] = False
    #: True if it reads the training captions
    has_bank: ClassVar[bool] = False

    def require_fit(self, texts: SplitTexts) -> None:  # most fit any split
        """Refuses a split that it cannot be calculated of, before that is evaluated.

        Raises:
            DataError: saying what does not fit.
        """

    @abstractmethod
    def title(self, seen: Seen) -> str:
        """Its name in tables: different where figures are not comparable."""

    @abstractmethod
    def settings(self, seen: Seen) -> dict[str, Any]:
        """Everything that decides it, for the record: texts, numbers or null."""

    @abstractmethod
    def figures(self, seen: Seen) -> Figures:
        """By direction (`t2v`, `v2t`, `v2t_captions`) numbers by name: `n` queries; all else but ranks in percent."""

    def record(self, seen: Seen) -> dict[str, Any]:
        """An item of `second_figures` in the record's `eval` block."""
        return {
            "name": self.name,
            "title": self.title(seen),
            "settings": self.settings(seen),
            "directions": self.figures(seen),
        }


class DualSoftmax(SecondFigure):
    """Dual softmax over the whole test split, in both directions: a query's rank depends on all other test queries.

    Released code differs: some multiplies by the softmax over captions in both directions, which leaves the order of
    `v2t` as it is, and over parts of a split figures are others. Here the softmax of a direction is over its queries.

    Source: CAMoE (Cheng et al., arXiv 2109.04290).

    Args:
        temperature: of the softmax over logits, which are cosines times the model's logit scale; published: 1.
    """

    name = "dual_softmax"
    reorders = True

    def __init__(self, temperature: Positive = 1.0) -> None:
        self.temperature = temperature

    def title(self, seen: Seen) -> str:
        return f"Dual softmax (T {self.temperature:g})"

    def settings(self, seen: Seen) -> dict[str, Any]:
        return {
            "temperature": float(self.temperature),
            "logit_scale": seen.logit_scale,
            "axis": "t2v: captions, for each video; v2t: videos, for each caption",
            "prior": "all queries of the test split",
        }

    def figures(self, seen: Seen) -> Figures:
        compared = seen.compared
        scores = dual_softmax(compared.scores, seen.logit_scale, self.temperature)
        found = ranks_of_directions(scores, compared.text_video)
        return {way: {**summarise(ranks.ranks), "n": len(ranks.ranks)} for way, ranks in found.items()}


class QBNorm(SecondFigure):
    """QB-Norm of captions with all training captions as the bank; videos as queries would need all training videos.

    `beta` and `k` are fixed before the test split is seen; released code that searches them on it is no protocol.

    Source: QB-Norm (Bogolin et al., arXiv 2112.12777).

    Args:
        beta: inverse temperature on cosines; published: 20.
        k: nearest videos of each caption of the bank; published: 1.
    """

    name = "qb_norm"
    reorders = True
    has_bank = True

    def __init__(self, beta: Positive = 20.0, k: Size = 1) -> None:
        self.beta, self.k = beta, k

    def title(self, seen: Seen) -> str:
        return f"QB-Norm (beta {self.beta:g}, k {self.k}, {len(seen.bank):,} captions)"

    def settings(self, seen: Seen) -> dict[str, Any]:
        return {
            "beta": float(self.beta),
            "k": self.k,
            "axis": "t2v",
            "prior": "all captions of the training split",
            "bank": len(seen.bank),
            "bank_sha256": hashlib.sha256("\n".join(seen.bank).encode()).hexdigest(),
        }

    def figures(self, seen: Seen) -> Figures:
        scores, text_video, bank = seen.compared
        assert bank is not None, "it has a bank"
        ranks = text_to_video_ranks(qb_norm(scores, bank, self.beta, self.k), text_video).ranks
        return {"t2v": {**summarise(ranks), "n": len(ranks)}}


class NDCG(SecondFigure):
    """nDCG@k of the plain order, with a caption's own video, or a video's own captions, as what is relevant.

    Ties by the rule of ranks, where `pytrec_eval` goes by ids. It is not the graded nDCG of Wray et al. (2021).

    Args:
        k: where the order is cut.
    """

    name = "ndcg"

    def __init__(self, k: Size = 10) -> None:
        self.k = k

    def title(self, seen: Seen) -> str:
        return f"nDCG@{self.k}"

    def settings(self, seen: Seen) -> dict[str, Any]:
        return {"k": self.k, "relevance": "binary: the annotated pairs"}

    def figures(self, seen: Seen) -> Figures:
        found = ndcg_of_directions(seen.compared, self.k)
        name = f"nDCG{self.k}"
        return {way: {name: 100 * float(values.mean()), "n": len(values)} for way, values in found.items()}


class FIRE(SecondFigure):
    """C@k of captions by FIRE's judgements: whether any of the first k videos was judged relevant, or is the own one.

    A video that nobody judged counts as irrelevant, so better models are under-rated; `judged10` is the share of the
    first ten that were judged. The own video stays relevant, whatever was judged of it.

    Source: FIRE (Rodriguez et al., arXiv 2210.05038) and its code. The file is CC BY-NC and no part of this package.

    Args:
        file: `fire_msrvtt_dataset.json` or `fire_msvd_dataset.json`; relative to the current folder.
    """

    name = "fire"

    def __init__(self, file: str) -> None:
        self.file = file
        self._sha256, self._judged = _judgements(file)

    def require_fit(self, texts: SplitTexts) -> None:
        if not self._pairs(texts)[0].any():
            raise DataError(f"{self.file} judges no pair of this test split: name FIRE's file of this data set")

    def title(self, seen: Seen) -> str:
        return f"FIRE ({self._sha256[:8]})"

    def settings(self, seen: Seen) -> dict[str, Any]:
        known = sum(_plain(caption) in self._judged for caption in seen.texts.captions)
        return {"file_sha256": self._sha256, "axis": "t2v", "judged_queries": known}

    def figures(self, seen: Seen) -> Figures:
        scores, text_video, _ = seen.compared
        judged, relevant = self._pairs(seen.texts)
        own = torch.arange(scores.texts), text_video
        judged[own] = relevant[own] = True
        query, video = relevant.nonzero(as_tuple=True)
        ranks = ranks_of_any(scores.text_rows, (query, video), scores.failed, scores.texts)
        figures = {f"C{k}": recall_at_k(ranks, k) for k in _COVERED}
        figures |= {f"judged{k}": 100 * judged_share(scores.text_rows, judged, k) for k in _COVERED[::2]}
        return {"t2v": {**figures, "n": scores.texts}}

    def _pairs(self, texts: SplitTexts) -> tuple[Tensor, Tensor]:
        """Pairs of captions and videos of the split that were judged, and those found relevant, (M, V) bool."""
        place = {video: index for index, video in enumerate(texts.videos)}
        judged, relevant = torch.zeros(2, len(texts.captions), len(texts.videos), dtype=torch.bool)
        for row, caption in enumerate(texts.captions):
            for video, is_relevant in self._judged.get(_plain(caption), {}).items():
                if video in place:
                    judged[row, place[video]], relevant[row, place[video]] = True, is_relevant
        return judged, relevant


def _judgements(file: str) -> tuple[str, Mapping[str, Mapping[str, bool]]]:
    """SHA-256 of a file of FIRE, and by caption and video whether it is relevant.

    Raises:
        DataError: it is missing, or is no such file.
    """
    path = expanded(file)
    try:
        digest, found = file_sha256(path), parse_json(read_text(path))
    except FileError as error:
        raise DataError(f"{error}; set second_figures' `file` to FIRE's judgements") from error
    except UnreadableError as error:
        raise DataError(f"{file}: {error}; FIRE's judgements are JSON (a Git LFS pointer is not the file)") from error
    rows = found.get("annotations") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{file}: no list `annotations`: FIRE's judgements have one")
    judged: dict[str, dict[str, bool]] = defaultdict(dict)
    for number, row in enumerate(rows):
        query, video, label = (
            row.get(key) if isinstance(row, dict) else None for key in ("query", "video_id", "label")
        )
        if not isinstance(query, str) or not isinstance(video, str) or label not in ("relevant", "irrelevant"):
            raise DataError(
                f"{file}: annotations[{number}] has no query, video_id and label (relevant or irrelevant): {shown(row)}"
            )
        of_query = judged[_plain(query)]
        of_query[video] = of_query.get(video, False) or label == "relevant"
    return digest, dict(judged)


def _plain(caption: str) -> str:
    return " ".join(caption.split())


def require_one_stage(figures: Sequence[SecondFigure], reranks: bool) -> None:
    """Refuses orders of similarities where ranks are those of a second stage, whose scores are none.

    Raises:
        UsageError: naming them.
    """
    anew = [type(figure).__name__ for figure in figures if figure.reorders]
    if reranks and anew:
        raise UsageError(
            f"second_figures: {', '.join(anew)} ranks by cosines, and the task ranks again by matching scores: set "
            "task.reranking null, or leave it out"
        )


def beside(figures: Sequence[SecondFigure], seen: Seen) -> list[dict[str, Any]]:
    """Items of the record; what is asked for twice is there once."""
    found = {figure.title(seen): figure for figure in figures}
    return [figure.record(seen) for figure in found.values()]
