"""The second stage of retrieval: pairs that the cosine brought near are read together, and ranked again."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone, VideoFeatures, memory_of
from petl_bench.configurable import Configurable
from petl_bench.data.batch import Batch
from petl_bench.inputs import Words
from petl_bench.metrics.reranking import RerankedRetrievalMetric
from petl_bench.nn.transformer import Memory
from petl_bench.ranges import Count, NonNegative
from petl_bench.storage.spill import OnDisk, Spill
from petl_bench.tasks.base import KeptBytes, present

#: captions that are matched with one video at once, those of like length together: few tokens are padding
_CHUNK = 64


class Reranking(Configurable):
    """The `k` nearest of each query rank by `match logit + beta * cosine`; the others keep their order below them.

    Source: BLIP (Li et al. 2022) and UniAdapter (Lu et al. 2024), released code.

    Args:
        k: candidates of each query.
        beta: weight of the cosine. UniAdapter's released configurations (images): 0; BLIP and Aurora (video): 1.
        tokens_in_memory: GB (10⁹ bytes) of clips' tokens that a process keeps in memory until they are matched; further
            ones go into a temporary file (in TMPDIR), which takes time and changes no score.
    """

    operational = frozenset({"tokens_in_memory"})

    def __init__(self, k: Count = 128, beta: NonNegative = 1.0, tokens_in_memory: NonNegative = 16.0) -> None:
        self.k, self.beta, self.tokens_in_memory = k, beta, tokens_in_memory


class _Clip(NamedTuple):
    """What is kept of a clip, on the CPU or on disk: tokens (1, T * L, D), frames (1, T, E), mask (1, T)."""

    tokens: Tensor | OnDisk
    frames: Tensor
    mask: Tensor


class SecondStage:
    """Matches the videos of this process with all captions that they are candidates of, or for.

    A video is matched by the process that encoded it, so that its keys and values are computed once.

    Args:
        options: how queries are ranked again.

    Attributes:
        metric: of both stages (`RerankedRetrievalMetric`).
    """

    def __init__(self, options: Reranking) -> None:
        self.metric = RerankedRetrievalMetric(options.k, options.beta)
        self._clips: dict[int, _Clip] = {}
        advice = "raise task.reranking.init_args.tokens_in_memory"
        self._tokens = Spill(options.tokens_in_memory * 1e9, advice)

    def record(self) -> dict[str, Any]:
        """Test-time choices that are part of the protocol."""
        return {"rerank_k": self.metric.k, "rerank_beta": float(self.metric.beta)}

    def update(self, backbone: Backbone, batch: Batch) -> None:
        """Takes one evaluation batch in."""
        video, memory = backbone.encode_video_tokens(batch.clips)
        text = backbone.encode_text(batch.words)
        self.metric.update_clips(video.pooled, video.frames, batch.clips.mask, batch.video_index, batch.decoded)
        self.metric.update_captions(text.pooled, text.projected, batch.text_index, batch.text_video)
        self.metric.update_tokens(batch.words.ids, batch.words.mask)
        tokens, frames, mask = map(_on_the_host, _kept(video, memory, batch))
        for row in batch.decoded.nonzero().flatten().tolist():
            one = slice(row, row + 1)
            self._clips[int(batch.video_index[row])] = _Clip(self._tokens.put(tokens[one]), frames[one], mask[one])

    def planned(self, backbone: Backbone, batch: Batch, clips: int) -> KeptBytes:
        """What would be kept of so many clips like those of a batch, which is not taken in."""
        tokens, *others = (part[:1] for part in _kept(*backbone.encode_video_tokens(batch.clips), batch))
        inside = self._tokens.fitting(tokens.nbytes, clips)
        memory = inside * tokens.nbytes + clips * sum(part.nbytes for part in others)
        return KeptBytes(memory, (clips - inside) * tokens.nbytes)

    def finish(self, backbone: Backbone) -> None:
        """Scores all pairs of candidates, after the last batch."""
        fusion, matching = present(backbone.fusion), present(backbone.matching)
        candidates = self.metric.candidates()
        device = next(backbone.parameters()).device
        lengths = candidates.mask.sum(dim=1)
        for index, clip in self._clips.items():
            kept = self._tokens.get(clip.tokens), clip.frames, clip.mask
            tokens, frames, mask = (part.to(device, non_blocking=True) for part in kept)
            memory, texts = memory_of(tokens, mask), candidates.texts_of(index)
            by_length = texts[lengths[texts].argsort(stable=True)]
            for own in by_length.split(_CHUNK) if len(texts) else ():
                text, ids, text_mask = (
                    rows[own].to(device) for rows in (candidates.text, candidates.ids, candidates.mask)
                )
                logits = matching.match(Words(ids, text_mask), fusion.weigh_frames(memory, text, frames, mask))
                self.metric.update_pairs(own, index, logits[:, 1])
        self.reset()

    def reset(self) -> None:
        """Forgets the clips; the metric is its owner's to reset."""
        self._clips = {}
        self._tokens.clear()


def _kept(video: VideoFeatures, memory: Memory, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the second stage reads of clips: tokens (B, T * L, D), frames (B, T, E), mask (B, T)."""
    return memory.tokens.to(precision_of_readers(memory.tokens)), video.by_frame(), batch.clips.mask


def precision_of_readers(tokens: Tensor) -> torch.dtype:
    """In which attention reads tokens: its layers of keys and values cast them to it anyway."""
    kind = tokens.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tokens.dtype


def _on_the_host(part: Tensor) -> Tensor:
    """A copy on the CPU, in memory that a GPU can read from beside its work."""
    return part.cpu().pin_memory() if part.is_cuda else part
