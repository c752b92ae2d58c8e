"""Beam search: the most likely sequences of tokens, approximately."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Beams(NamedTuple):
    """What searches found, the best sequence first.

    Attributes:
        ids: (Q, K, n), from the start to the end token, then padding.
        scores: (Q, K), mean log-probability of a token; -inf where fewer were found.
    """

    ids: Tensor
    scores: Tensor


def beam_search(
    next_logits: Callable[[Tensor], Tensor],
    questions: int,
    start: int,
    end: int,
    pad: int,
    beams: int,
    max_length: int,
    device: torch.device,
) -> Beams:
    """The sequences with the highest mean log-probability that each search finds.

    Follows the rules of transformers 4.15, with which the released code generates: per question the `beams` best
    open sequences go on; one that ends among the `beams` best of a step is finished. A search is over when it has
    `beams` finished sequences and the best open one, as it stands, scores no higher than the worst of them. Scores are
    log-probabilities divided by the length, [start] included and [end] not. Later versions of transformers divide by
    another length, and find other answers where they differ in length.

    Args:
        next_logits: open sequences (Q * K, n), those of a question one after the other, to logits (Q * K, V).
        questions: Q.
        start: first token of every sequence.
        end: token that ends a sequence.
        pad: token after the end.
        beams: K; 1 is greedy search.
        max_length: tokens of a sequence, [start] and [end] included.
        device: of the sequences.
    """
    ids = torch.full((questions, beams, 1), start, device=device)
    scores = torch.full((questions, beams), -torch.inf, device=device)  # all beams are alike at first: one counts
    scores[:, 0] = 0.0
    best_ids = torch.full((questions, beams, max_length), pad, device=device)
    best_scores = torch.full((questions, beams), -torch.inf, device=device)
    done = torch.zeros(questions, dtype=torch.bool, device=device)
    for length in range(1, max_length):
        logits = next_logits(ids.flatten(0, 1)).unflatten(0, (questions, beams))
        total = scores[..., None] + F.log_softmax(logits.float(), dim=-1)  # (Q, K, V)
        words = total.shape[-1]
        found, place = total.flatten(1).topk(2 * beams)  # K may end, so 2K leave enough that go on
        beam, token = place // words, place % words
        grown = torch.cat([_take(ids, beam), token[..., None]], dim=-1)  # (Q, 2K, length + 1)
        ended = token == end

        finished = ended & (torch.arange(2 * beams, device=device) < beams) & ~done[:, None]
        finished_scores = torch.where(finished, found / length, -torch.inf)
        best_scores, best_ids = _best(best_scores, best_ids, finished_scores, grown, pad)
        done |= best_scores[:, -1].isfinite() & (best_scores[:, -1] >= found[:, 0] / length)

        going_on = ended.int().argsort(dim=1, stable=True)[:, :beams]
        ids, scores = _take(grown, going_on), found.gather(1, going_on)
        if done.all():
            break
    open_scores = torch.where(done[:, None], -torch.inf, scores / ids.shape[-1])
    best_scores, best_ids = _best(best_scores, best_ids, open_scores, ids, pad)
    return Beams(best_ids, best_scores)


def _take(ids: Tensor, rows: Tensor) -> Tensor:
    """Sequences (Q, K, n) at rows (Q, R): (Q, R, n)."""
    return ids.gather(1, rows[..., None].expand(-1, -1, ids.shape[-1]))


def _best(scores: Tensor, ids: Tensor, new_scores: Tensor, new_ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """The K best of K sequences and new ones, best first; of equal ones those that were there."""
    padded = F.pad(new_ids, (0, ids.shape[-1] - new_ids.shape[-1]), value=pad)
    every = torch.cat([scores, new_scores], dim=1)
    order = every.argsort(dim=1, descending=True, stable=True)[:, : scores.shape[1]]
    return every.gather(1, order), _take(torch.cat([ids, padded], dim=1), order)
