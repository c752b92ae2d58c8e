"""The small CLIP: trained by its contrastive loss, written as open_clip writes weights."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from petl_bench.backbones.clip.model import CLIP, CLIPTextTower, CLIPVisionTower, create_open_clip
from petl_bench.pretraining.looks import Looks
from petl_bench.pretraining.motions import Motions
from petl_bench.pretraining.recipe import Recipe, as_clips, projected, recall, tokenized, train, worded
from petl_bench.pretraining.stills import TRAINING, Stills, stills
from petl_bench.tasks.losses import contrastive_loss

RECIPE = Recipe(steps=8_000, lr=2e-3)
ARCHITECTURE = "small"


def pretrain(recipe: Recipe) -> dict[str, Tensor]:
    """Trains a small CLIP; its tensors by open_clip's names."""
    shown = stills(recipe.stills, recipe.seed, TRAINING)
    model = CLIP(ARCHITECTURE, None, init_seed=recipe.seed)
    _enlarge(model)
    looks = Looks(model.embed_dim, shown.looks.shape[1], recipe.seed)
    motions = Motions(model.embed_dim, recipe.seed)

    def loss(rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        words = tokenized(model, worded(shown.captions, rows, rng))
        video = model.encode_video(as_clips(shown.pixels[rows]))
        text = model.encode_text(words)
        contrast = contrastive_loss(text.pooled, video.pooled, model.logit_scale.exp())
        seen = looks.of_both(video, text, shown.looks[rows])
        return contrast + seen + motions.loss(partial(projected, model), rng)

    train(nn.ModuleList([model, looks, motions]), loss, recipe, model.limit_logit_scale)
    return _tensors(model)


@torch.no_grad()
def _enlarge(model: CLIP) -> None:
    """First embeddings of places and words that count beside patches: open_clip's are made for long training."""
    model.vision.positional_embedding.mul_(4)
    model.text.token_embedding.weight.mul_(3)
    model.text.positional_embedding.mul_(3)


def _tensors(model: CLIP) -> dict[str, Tensor]:
    native = create_open_clip(ARCHITECTURE, None, 0)
    towers = CLIPVisionTower(native.visual), CLIPTextTower(native)  # whose parameters are the native model's
    for own, trained in zip(towers, (model.vision, model.text), strict=True):
        own.load_state_dict(trained.state_dict())
    return native.state_dict() | {"logit_scale": model.logit_scale.detach()}


@torch.no_grad()
def examine(backbone: CLIP, shown: Stills) -> dict[str, float]:
    """What it knows of stills that it has not seen, in percent."""
    video = backbone.encode_video(as_clips(shown.pixels)).pooled
    text = backbone.encode_text(tokenized(backbone, [captions[0] for captions in shown.captions])).pooled
    return recall(video, text)
