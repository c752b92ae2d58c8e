"""Beam search: against every sequence there is, and the rules by which a search ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from petl_bench.tasks.beam_search import beam_search

PAD, START, END = 0, 1, 2
WORDS = 6
LENGTH = 4


def chains(questions: int, seed: int) -> Tensor:
    """Logits of the next token after each token, by question: (Q, V, V)."""
    return 2 * torch.randn(questions, WORDS, WORDS, generator=torch.Generator().manual_seed(seed))


def next_logits(chains: Tensor, beams: int) -> Callable[[Tensor], Tensor]:
    question = torch.arange(len(chains)).repeat_interleave(beams)
    return lambda ids: chains[question, ids[:, -1]]


def search(chains: Tensor, beams: int, max_length: int = LENGTH) -> Tensor:
    logits = next_logits(chains, beams)
    return beam_search(logits, len(chains), START, END, PAD, beams, max_length, torch.device("cpu")).ids[:, 0]


def best_of_all(chain: Tensor) -> list[int]:
    """The sequence with the highest mean log-probability; what ends has no token after it."""
    log = chain.log_softmax(-1)
    scored = []
    for words in itertools.product(range(WORDS), repeat=LENGTH - 1):
        end = words.index(END) if END in words else None
        if end is not None and any(word != PAD for word in words[end + 1 :]):
            continue
        path = [START, *(words if end is None else words[: end + 1])]
        total = sum(float(log[a, b]) for a, b in itertools.pairwise(path))
        length = LENGTH if end is None else len(path) - 1
        scored.append((total / length, [START, *words]))
    return max(scored)[1]


def test_wide_beams_find_the_best_sequence() -> None:
    found = 0
    for seed in range(20):
        chain = chains(1, seed)
        # So many beams that nothing is cut off before it ends, and so many finished ones that none stops the search.
        first = search(torch.nn.functional.pad(chain, (0, 200, 0, 200), value=-1e4), beams=90)
        assert first.tolist() == [best_of_all(chain[0])]
        found += int(END in first)
    assert 0 < found < 20


def test_one_beam_takes_the_likeliest_token() -> None:
    for chain in chains(20, seed=0):
        (ids,) = search(chain[None], beams=1, max_length=6).tolist()
        expected = [START]
        while len(expected) < 6 and expected[-1] != END:
            expected.append(int(chain[expected[-1]].argmax()))
        assert ids == expected + [PAD] * (6 - len(expected))


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_questions_do_not_depend_on_each_other(beams: int) -> None:
    """Also not on when the others are done."""
    several = chains(12, seed=3)
    together = search(several, beams, max_length=7)
    assert together.equal(torch.cat([search(chain[None], beams, max_length=7) for chain in several]))
    ended = (together == END).any(1)
    assert ended.any()
    assert not ended.all()


def test_a_search_ends_when_nothing_open_can_win() -> None:
    """Likely to end at once: one step for the only beam, and no more are asked for."""
    chain = torch.zeros(1, WORDS, WORDS)
    chain[0, :, END] = 5.0
    asked = []
    logits = next_logits(chain, beams=1)
    found = beam_search(
        lambda ids: asked.append(ids.shape) or logits(ids), 1, START, END, PAD, 1, 9, torch.device("cpu")
    )
    assert found.ids[:, 0].tolist() == [[START, END] + [PAD] * 7]
    assert asked == [(1, 1)]
