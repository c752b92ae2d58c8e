"""Matches captions with clips in the second stage of whichever checkout PYTHONPATH names, when it is asked to.

Answers as `benchmarks.asked_steps` does: seconds of CPU per pair. 128 captions, as long as those of MSR-VTT (11 tokens
in the mean, 23 at most), are candidates of two clips. 3e531d0 has batches of other fields, and other modules.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from importlib import import_module
from typing import Any, TextIO

import torch

from methods.zero_shot import ZeroShot
from petl_bench.backbones.blip import BLIP
from petl_bench.tasks.matching import MatchingRetrieval

_CAPTIONS, _CLIPS, _FRAMES, _WORDS = 128, 2, 8, 35


def captions() -> list[str]:
    """Of one word again and again, as long as captions are; BLIP adds a start and an end."""
    draw = random.Random(0)
    return [" ".join(["a"] * round(min(21, max(3, draw.gauss(9.4, 5.0))))) for _ in range(_CAPTIONS)]


def batch_of(spec: Any) -> Any:
    """Clips of noise and the captions, half of them of each clip."""
    try:  # the old place first: where a newer one is installed, its modules are found as parts of 3e531d0
        made = import_module("petl_bench.cost").made_batch
    except ModuleNotFoundError:
        made = import_module("petl_bench.runs.cost").synthetic_batch
    batch, words = made(spec, _CLIPS, _FRAMES, _WORDS), spec.tokenize(captions(), _WORDS)
    index = torch.arange(_CAPTIONS)
    batch = batch._replace(text_index=index, text_video=index % _CLIPS, questions=())
    if hasattr(batch, "words"):
        return batch._replace(words=words, options=None)
    ids, mask = words[:2]
    return batch._replace(ids=ids, text_mask=mask)


@torch.no_grad()
def match(turns: int, vocabulary: str | None, answers: TextIO) -> None:
    """Takes all turns, with the vocabulary of BLIP base, or without one on tiny BLIP."""
    torch.set_num_threads(1)
    backbone = BLIP("base" if vocabulary else "tiny", None, vocabulary=vocabulary)
    method = ZeroShot(backbone=backbone, task=MatchingRetrieval()).adapt().eval()
    task, batch = method.task, batch_of(method.backbone.spec)
    for _ in range(turns):
        tell(answers, ready=True)
        if not sys.stdin.readline():
            sys.exit("nobody asks any more")
        task.reset()
        task.expect(_CLIPS, _CAPTIONS)
        task.update(method.backbone, batch)
        began = time.process_time()
        task.finish(method.backbone)
        tell(answers, seconds=(time.process_time() - began) / (_CAPTIONS * _CLIPS))


def tell(answers: TextIO, **what: Any) -> None:
    print(json.dumps(what), file=answers, flush=True)


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what else is printed
        match(**json.loads(sys.stdin.readline()), answers=channel)
