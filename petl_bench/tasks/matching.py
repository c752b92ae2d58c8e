"""Text-video retrieval in two stages: two encoders find candidates, one that reads both ranks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petl_bench.backbones.base import Backbone, VideoFeatures, memory_of
from petl_bench.data.batch import Batch
from petl_bench.inputs import Words, sent
from petl_bench.nn.transformer import Memory
from petl_bench.ranges import Count, Share
from petl_bench.tasks.base import KeptBytes, present
from petl_bench.tasks.choice_matching import ChoiceMatching
from petl_bench.tasks.losses import gather_index, gather_with_grad, hard_negatives, momentum_contrastive_loss, own_rows
from petl_bench.tasks.momentum import FeatureQueue, MomentumCopy
from petl_bench.tasks.reranking import Reranking, SecondStage, precision_of_readers
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.tasks.second_figures import SecondFigure, require_one_stage


class _GlobalBatch(NamedTuple):
    """What the processes know of each other's samples: G = W * B rows in rank order, without gradient.

    Attributes:
        video: (G, E), L2-normalised.
        text: (G, E), L2-normalised.
        slow_video: as the momentum encoder sees them (G, E).
        slow_text: as the momentum encoder sees them (G, E).
        words: (G, N).
        frame_mask: (G, T) bool.
        video_index: (G,).
    """

    video: Tensor
    text: Tensor
    slow_video: Tensor
    slow_text: Tensor
    words: Words
    frame_mask: Tensor
    video_index: Tensor

    def select(self, rows: slice) -> _GlobalBatch:
        """Some of the samples."""
        kept = {name: part[rows] for name, part in self._asdict().items() if name != "words"}
        return self._replace(words=self.words.select(rows)._replace(most=self.words.most), **kept)


class _Negatives(NamedTuple):
    """Rows among the candidates.

    Attributes:
        videos: one for each caption (B,).
        texts: one for each video (B,).
        exist: (B,) bool, False where all candidates are positives.
    """

    videos: Tensor
    texts: Tensor
    exist: Tensor


class _Encoders(nn.Module):
    """Both encoders of a backbone as one function, which is what a momentum copy can call."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pooled features of videos and texts, (B, E) each."""
        video = self.backbone.encode_video(batch.clips)
        return video.pooled, self.backbone.encode_text(batch.words).pooled


class MatchingRetrieval(Retrieval):
    """Contrastive training with a momentum encoder and a queue, matching with hard negatives, ranks in two stages.

    Loss: ITC + ITM. ITC: cross-entropy of online features against momentum features of the global batch and the queue;
    all captions and videos with the same video index are positives; a share `alpha` of the targets is what the
    momentum encoder predicts, rising over the first epoch. ITM: each pair, a hard negative video for its caption, and a
    hard negative caption for its video, drawn by their likeness; a sample that has no negative in the batch has no
    negative pair. In several processes both are those of one process with the whole batch; the released code takes the
    momentum features of the own process only.

    Ranks: by cosine, then as `Reranking` says.

    Source: BLIP (Li et al., arXiv 2201.12086), `models/blip_retrieval.py` of its official code, and UniAdapter's.

    Args:
        negatives: hard negatives from the batch of all processes, or of the own `rank`. Released: `all` for COCO and
            video, `rank` for Flickr30K.
        alpha: share of soft targets after the first epoch.
        momentum: m of the momentum encoder.
        double_ema: move what the method added twice per step, as the released code of UniAdapter does by accident.
        queue_size: Q, pairs of momentum features.
        reranking: the second stage; null ranks by cosine alone.
        second_figures: see `Retrieval`; those that rank anew need `reranking` null.
    """

    name = "matching"
    logs = ("loss_itc", "loss_itm")
    needs = ("joint", "fusion", "matching")
    needs_frames = True

    def __init__(
        self,
        negatives: Literal["rank", "all"] = "all",
        alpha: Share = 0.4,
        momentum: Share = 0.995,
        double_ema: bool = False,
        queue_size: Count = 57600,
        reranking: Reranking | None = Reranking(k=128, beta=1.0),  # noqa: B008  # which never changes
        second_figures: Sequence[SecondFigure] = (),
    ) -> None:
        super().__init__(second_figures=second_figures)
        require_one_stage(self.second_figures, reranking is not None)
        self.negatives = negatives
        self.alpha, self.momentum_rate, self.double_ema = alpha, momentum, double_ema
        self.queue_size = queue_size
        self.second = None if reranking is None else SecondStage(reranking)
        if self.second is not None:
            self.metric = self.second.metric
        self._alpha, self._seed = 0.0, 0
        self._to_push: _GlobalBatch | None = None
        self._times: dict[str, int] = {}

    @classmethod
    def tiny(cls) -> MatchingRetrieval:
        """With a short queue, and a momentum encoder that follows within a few steps."""
        return cls(queue_size=8, momentum=0.9)

    def chooser(self) -> ChoiceMatching:
        return ChoiceMatching()

    def untaught(self, batch: int, processes: int, videos: int) -> str | None:
        if self.negatives == "rank" and batch // processes < 2 <= batch:
            return (
                f"data.batch_size is {batch} in {processes} processes: with task.negatives rank each needs at least 2 "
                "samples to match; set negatives all"
            )
        return super().untaught(batch, processes, videos)

    # --- momentum encoder and queue -------------------------------------------------------------------------------

    def prepare(self, backbone: Backbone) -> None:
        self.queue = FeatureQueue(self.queue_size, backbone.embed_dim)

    def on_injected(self, backbone: Backbone, pretrained: Sequence[nn.Parameter]) -> None:
        unread = {id(parameter) for parameter in present(backbone.fusion).fusion_parameters()}
        trained = {
            name: parameter
            for name, parameter in _Encoders(backbone).named_parameters()
            if parameter.requires_grad and id(parameter) not in unread
        }
        self.momentum = MomentumCopy(trained, self.momentum_rate)
        if self.double_ema:
            before = {id(parameter) for parameter in pretrained}
            self._times = {name: 2 for name, parameter in trained.items() if id(parameter) not in before}

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        return []

    def training_state(self) -> dict[str, Tensor]:
        return {name: buffer for name, buffer in self.named_buffers() if name.startswith(("queue.", "momentum."))}

    def before_step(self, epochs: float, seed: int) -> None:
        self._alpha, self._seed = self.alpha * min(1.0, epochs), seed

    def after_step(self, backbone: Backbone) -> None:
        super().after_step(backbone)
        if (batch := self._to_push) is not None:
            self.queue.push(batch.slow_video, batch.slow_text, batch.video_index)
        self._to_push = None
        self.momentum.update(_Encoders(backbone), self._times)

    # --- loss -----------------------------------------------------------------------------------------------------

    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        slow = self.momentum.call(_Encoders(backbone), batch)
        video, memory = backbone.encode_video_tokens(batch.clips)
        text = backbone.encode_text(batch.words)
        scale = present(backbone.joint).logit_scale.exp()
        everyone = _gather(batch, video.pooled, text.pooled, *slow)
        self._to_push = everyone
        with torch.autocast(video.pooled.device.type, enabled=False):
            contrast = self._contrast(video.pooled, text.pooled, everyone, scale)
            negatives = self._draw(everyone, scale.detach(), len(text.pooled))
        match = self._match(backbone, video, memory, everyone, negatives)
        return contrast + match, {"loss_itc": contrast.detach(), "loss_itm": match.detach()}

    def _contrast(self, video: Tensor, text: Tensor, everyone: _GlobalBatch, scale: Tensor) -> Tensor:
        """ITC of the own rows against all of the global batch and the queue."""
        own, queue, dtype = own_rows(len(video)), self.queue, everyone.slow_video.dtype
        videos = torch.cat([everyone.slow_video, queue.video.to(dtype)])  # (G + Q, E)
        texts = torch.cat([everyone.slow_text, queue.text.to(dtype)])
        index = everyone.video_index
        positives = index[own, None] == torch.cat([index, queue.video_index])  # (B, G + Q)
        scale = scale.to(dtype)
        video_to_text = momentum_contrastive_loss(
            video.to(dtype), everyone.slow_video[own], texts, positives, scale, self._alpha
        )
        text_to_video = momentum_contrastive_loss(
            text.to(dtype), everyone.slow_text[own], videos, positives, scale, self._alpha
        )
        return (video_to_text + text_to_video) / 2

    def _draw(self, everyone: _GlobalBatch, scale: Tensor, count: int) -> _Negatives:
        """Hard negatives of the own rows among the candidates, the same for any number of processes."""
        own = own_rows(count)
        candidates = slice(None) if self.negatives == "all" else own
        text, video, index = everyone.text, everyone.video, everyone.video_index
        noise = sent(self._noise(len(index)), text.device).to(text.dtype)[:, own, candidates]
        same = index[own, None] == index[candidates]
        scale = scale.to(text.dtype)
        videos, exist = hard_negatives(scale * text[own] @ video[candidates].T, same, noise[0])
        texts, _ = hard_negatives(scale * video[own] @ text[candidates].T, same, noise[1])
        return _Negatives(videos, texts, exist)

    def _noise(self, count: int) -> Tensor:
        """Gumbel noise of the step for both directions, (2, G, G)."""
        generator = torch.Generator().manual_seed(self._seed)
        return -torch.empty(2, count, count).exponential_(generator=generator).log()

    def _match(
        self,
        backbone: Backbone,
        video: VideoFeatures,
        memory: Memory,
        everyone: _GlobalBatch,
        negatives: _Negatives,
    ) -> Tensor:
        """ITM: the own pairs, own captions with negative videos, negative captions with own videos."""
        count, device = len(video.pooled), video.pooled.device
        own = own_rows(count)
        if self.negatives == "all":
            tokens = gather_with_grad(memory.tokens, sent_as=precision_of_readers(memory.tokens))
            frames = gather_index(video.by_frame().detach())
            candidates, first = everyone, own.start
        else:
            tokens, frames = memory.tokens, video.by_frame().detach()
            candidates, first = everyone.select(own), 0
        pairs = torch.arange(first, first + count, device=device)
        t = torch.cat([pairs, pairs, negatives.texts])
        v = torch.cat([pairs, negatives.videos, pairs])
        mask = candidates.frame_mask[v]  # (3B, T)
        of_pairs = _read_by(tokens, candidates.frame_mask, v, distinct=2 * count)
        of_pairs = present(backbone.fusion).weigh_frames(of_pairs, candidates.text[t], frames[v], mask)
        words = candidates.words.select(t)._replace(most=candidates.words.most)
        logits = present(backbone.matching).match(words, of_pairs)  # (3B, 2)
        negative = torch.where(negatives.exist, 0, -100)  # the latter is ignored
        labels = torch.cat([torch.ones_like(negative), negative, negative])
        # Divided by what all processes have the same number of, so that the mean over processes is the global one.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, labels, reduction="sum") / len(labels)

    # --- evaluation -----------------------------------------------------------------------------------------------

    def update(self, backbone: Backbone, batch: Batch) -> None:
        if self.second is None:
            super().update(backbone, batch)
        else:
            self.second.update(backbone, batch)

    def finish(self, backbone: Backbone) -> None:
        super().finish(backbone)
        if self.second is not None:
            self.second.finish(backbone)

    def kept_by_evaluation(self, backbone: Backbone, batch: Batch, clips: int) -> KeptBytes | None:
        return None if self.second is None else self.second.planned(backbone, batch, clips)

    def after_vision(self, backbone: Backbone, batch: Batch, memory: Memory | None) -> None:
        super().after_vision(backbone, batch, memory)
        if self.second is not None and memory is not None:
            present(backbone.fusion).fuse(batch.words, memory)

    def inference(self) -> dict[str, Any]:
        return super().inference() | ({} if self.second is None else self.second.record())

    def reset(self) -> None:
        super().reset()
        if self.second is not None:
            self.second.reset()


def _gather(batch: Batch, video: Tensor, text: Tensor, slow_video: Tensor, slow_text: Tensor) -> _GlobalBatch:
    """Two collectives: one of all features, one of all integers."""
    dtype = torch.promote_types(video.dtype, torch.float32)
    features = torch.stack([x.detach().to(dtype) for x in (video, text, slow_video, slow_text)], dim=1)  # (B, 4, E)
    integers = torch.cat([batch.words.ids, batch.words.mask, batch.clips.mask, batch.video_index[:, None]], dim=1)
    count, frames = batch.words.ids.shape[1], batch.clips.mask.shape[1]
    ids, text_mask, frame_mask, index = gather_index(integers).split([count, count, frames, 1], dim=1)
    most = batch.words.most if len(ids) == len(batch.words.ids) else None  # of other processes nobody knows
    words = Words(ids, text_mask.bool(), most)
    video, text, slow_video, slow_text = gather_index(features).unbind(1)
    return _GlobalBatch(video, text, slow_video, slow_text, words, frame_mask.bool(), index[:, 0])


def _read_by(tokens: Tensor, mask: Tensor, videos: Tensor, distinct: int) -> Memory:
    """What pairs read of G clips, whose keys and values are computed for as few of them as is known beforehand.

    Args:
        tokens: (G, T * L, D).
        mask: (G, T) bool.
        videos: the clip of each pair (P,).
        distinct: the first so many pairs read all clips that are read, the others what the first ones do, in order.
    """
    if len(tokens) <= distinct:
        return memory_of(tokens, mask).select(videos)
    read = videos[:distinct]
    places = torch.arange(len(videos), device=videos.device) % distinct
    return memory_of(tokens[read], mask[read]).select(places)
