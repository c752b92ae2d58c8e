"""The small BLIP: trained to contrast, to match and to answer, written as transformers writes weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.blip.towers import BLIPDecoder, BLIPTextTower, BLIPVisionTower
from petl_bench.inputs import Words
from petl_bench.nn.transformer import Memory
from petl_bench.pretraining.looks import Looks
from petl_bench.pretraining.motions import Motions
from petl_bench.pretraining.recipe import Recipe, as_clips, percent, projected, recall, tokenized, train, worded
from petl_bench.pretraining.stills import TRAINING, Stills, stills
from petl_bench.tasks.answering import generate
from petl_bench.tasks.losses import answer_losses, contrastive_loss, hard_negatives

RECIPE = Recipe(steps=4_000, batch=96)
ARCHITECTURE = "small"
#: how often a still is asked for its caption
_CAPTIONED = 0.2
_DESCRIBE = "what does the picture show?"


class _Both(nn.Module):
    """A BLIP for retrieval and one for answers with the same encoders."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.retrieval = BLIP(ARCHITECTURE, None, dropout=0.0, init_seed=seed)
        self.answers = BLIPVQA(ARCHITECTURE, None, dropout=0.0, init_seed=seed)
        self.answers.vision, self.answers.text = self.retrieval.vision, self.retrieval.text


def pretrain(recipe: Recipe) -> dict[str, Tensor]:
    """Trains a small BLIP; its tensors by the names of transformers, for retrieval and for answers."""
    shown = stills(recipe.stills, recipe.seed, TRAINING)
    both = _Both(recipe.seed)
    with torch.no_grad():  # so that places count beside patches
        both.retrieval.vision.positional_embedding.mul_(8)
    looks = Looks(both.retrieval.embed_dim, shown.looks.shape[1], recipe.seed)
    motions = Motions(both.retrieval.embed_dim, recipe.seed)

    def loss(rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        captions = worded(shown.captions, rows, rng)
        words = tokenized(both.retrieval, captions)
        video, memory = both.retrieval.encode_video_tokens(as_clips(shown.pixels[rows]))
        text = both.retrieval.encode_text(words)
        scale = both.retrieval.logit_scale.exp()
        contrast = contrastive_loss(text.pooled, video.pooled, scale)
        logits = (scale * text.pooled.float() @ video.pooled.float().T).detach()
        matching = _matching(both.retrieval, words, memory, logits, rng)
        answering = _answering(both.answers, memory, shown.questions, captions, rows, rng)
        seen = looks.of_both(video, text, shown.looks[rows])
        return contrast + matching + answering + seen + motions.loss(partial(projected, both.retrieval), rng)

    train(nn.ModuleList([both, looks, motions]), loss, recipe, both.retrieval.limit_logit_scale)
    return _tensors(both)


def _matching(backbone: BLIP, words: Words, memory: Memory, logits: Tensor, rng: np.random.Generator) -> Tensor:
    """ITM of the pairs, of each text with a wrong still, and of each still with a wrong text."""
    count = len(logits)
    pairs, same = torch.arange(count), torch.eye(count, dtype=torch.bool)
    noise = torch.from_numpy(rng.gumbel(size=(2, count, count))).float()
    stills_of_texts, _ = hard_negatives(logits, same, noise[0])
    texts_of_stills, _ = hard_negatives(logits.T, same, noise[1])
    texts = torch.cat([pairs, pairs, texts_of_stills])
    found = backbone.match(words.select(texts), memory.select(torch.cat([pairs, stills_of_texts, pairs])))
    return F.cross_entropy(found, torch.repeat_interleave(torch.tensor([1, 0, 0]), count))


def _answering(
    backbone: BLIPVQA,
    memory: Memory,
    questions: list[list[tuple[str, str]]],
    captions: list[str],
    rows: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """Cross-entropy of the tokens of an answer to one question about each still, or of its caption."""
    asked = [
        (_DESCRIBE, caption) if rng.random() < _CAPTIONED else questions[row][int(rng.integers(len(questions[row])))]
        for row, caption in zip(rows, captions, strict=True)
    ]
    words = tokenized(backbone, [question for question, _ in asked])
    states = Memory(backbone.fuse(words, memory), words.mask)
    answers = backbone.answer_words([answer for _, answer in asked])
    return answer_losses(backbone.decode(answers, states), answers.ids, answers.mask, label_smoothing=0.0).mean()


def _tensors(both: _Both) -> dict[str, Tensor]:
    retrieval, answers = both.retrieval, both.answers
    matching: Any = BLIP.native(retrieval.config)
    answering: Any = BLIPVQA.native(retrieval.config)
    BLIPVisionTower(matching.vision_model).load_state_dict(retrieval.vision.state_dict())  # which are the native parts
    _fill(matching.text_encoder, BLIPTextTower, retrieval.text)
    _fill(answering.text_decoder, BLIPDecoder, answers.decoder)
    heads = {"vision_proj": retrieval.vision_proj, "text_proj": retrieval.text_proj, "itm_head": retrieval.itm_head}
    for name, head in heads.items():
        getattr(matching, name).load_state_dict(head.state_dict())
    decoder = {name: value for name, value in answering.state_dict().items() if name.startswith("text_decoder.")}
    return matching.state_dict() | decoder | {"temp": retrieval.temp.detach()}


def _fill(native: Any, kind: type[BLIPTextTower], trained: BLIPTextTower) -> None:
    """Gives a text tower of transformers the weights of ours, which has queries, keys and values in one layer."""
    tower = kind(native, 0.0)
    tower.load_state_dict(trained.state_dict())
    bert = native.bert if kind is BLIPDecoder else native
    blocks: Any = tower.blocks  # torch leaves attributes untyped
    for block, layer in zip(blocks, bert.encoder.layer, strict=True):
        own, cross = layer.attention.self, layer.crossattention.self
        _split(block.self_attention.qkv, own.query, own.key, own.value)
        _split(block.memory_attention.key_value, cross.key, cross.value)


def _split(fused: nn.Linear, *layers: nn.Linear) -> None:
    for layer, weight, bias in zip(layers, fused.weight.chunk(len(layers)), fused.bias.chunk(len(layers)), strict=True):
        layer.weight.data, layer.bias.data = weight.detach(), bias.detach()


@torch.no_grad()
def examine(retrieval: BLIP, answers: BLIPVQA, shown: Stills) -> dict[str, float]:
    """What they know of stills that they have not seen, in percent."""
    words = tokenized(retrieval, [captions[0] for captions in shown.captions])
    video, memory = retrieval.encode_video_tokens(as_clips(shown.pixels))
    found = recall(video.pooled, retrieval.encode_text(words).pooled)
    twins = torch.arange(len(shown.captions)) ^ 1
    own, other = (
        retrieval.match(words, memory.select(rows)).diff()[:, 0] for rows in (torch.arange(len(twins)), twins)
    )
    found["twins by matching"] = percent(own > other)
    return found | {"answers": _answered(answers, memory, shown)}


def _answered(backbone: BLIPVQA, memory: Memory, shown: Stills) -> float:
    """Answers that are right to the last letter, of all questions."""
    asked = [(row, question, answer) for row, own in enumerate(shown.questions) for question, answer in own]
    right = 0
    for start in range(0, len(asked), 1000):
        part = asked[start : start + 1000]
        words = tokenized(backbone, [question for _, question, _ in part])
        states = Memory(backbone.fuse(words, memory.select(torch.tensor([row for row, _, _ in part]))), words.mask)
        texts = backbone.answer_texts(generate(backbone, states, num_beams=1, max_length=10).ids[:, 0])
        right += sum(text == answer for text, (_, _, answer) in zip(texts, part, strict=True))
    return round(100 * right / len(asked), 1)
