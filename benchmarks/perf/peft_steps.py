"""Takes training steps of LoRA as peft puts it into transformers' CLIP, when it is asked to: a side of `perf.steps`.

Reads and answers the lines that `benchmarks.asked_steps` reads and answers. Frames and captions are those of our own
steps: noise, and texts that fill 32 tokens; so are loss, optimiser and clipping. It is a bare loop without a trainer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from petl_bench.backbones.clip import CLIP
from petl_bench.runs.cost import SavedActivations, synthetic_batch

_WORDS = 32
_TINY: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


class Retrieval(nn.Module):
    """Contrastive loss of clips, whose frames are averaged, and captions."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        layers = _TINY if tiny else {}
        vision = CLIPVisionConfig(**layers, image_size=224, patch_size=32)
        text = CLIPTextConfig(**layers, bos_token_id=49406, eos_token_id=49407)
        clip = CLIPModel(CLIPConfig(vision_config=vision.to_dict(), text_config=text.to_dict()))
        # By its name: whoever reads or checks these files need not have the package.
        peft = import_module("peft")
        options = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"])
        self.clip = peft.get_peft_model(clip, options)

    def forward(self, frames: Tensor, ids: Tensor) -> Tensor:
        """Frames (B, T, 3, S, S) as the tower reads them, ids (B, N) -> the loss."""
        clip = self.clip.base_model.model
        clips, count = frames.shape[:2]
        pooled = clip.vision_model(pixel_values=frames.flatten(0, 1)).pooler_output
        of_frames = normalize(clip.visual_projection(pooled), dim=-1).view(clips, count, -1)
        video = normalize(of_frames.mean(1), dim=-1)
        words = clip.text_model(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output
        logits = clip.logit_scale.exp() * normalize(clip.text_projection(words), dim=-1) @ video.T
        own = torch.arange(clips)
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def steps(turns: int, steps: int, clips: int, frames: int, options: Sequence[str], answers: TextIO, **_: Any) -> None:
    """Takes all turns."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        backbone = CLIP("ViT-B-32-quickgelu", None)
    batch = synthetic_batch(backbone.spec, clips, frames, _WORDS)
    model = Retrieval("tiny" in options).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=6e-4, weight_decay=0.2, betas=(0.9, 0.98), fused=True)
    losses, saved = list[str](), 0
    for _turn in range(turns):
        tell(answers, ready=True)
        if not sys.stdin.readline():
            sys.exit("nobody asks any more")
        began = time.process_time()
        for _step in range(steps):
            hooks = SavedActivations(model)
            with nullcontext() if losses else hooks:
                loss = model(backbone.normalise(batch.clips.frames), batch.words.ids)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            saved = saved or hooks.bytes
            losses.append(float(loss.detach()).hex())
        tell(answers, seconds=time.process_time() - began)
    tell(answers, saved_and_losses=[saved, losses])


def tell(answers: TextIO, **what: Any) -> None:
    print(json.dumps(what), file=answers, flush=True)


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what else is printed
        while line := sys.stdin.readline():
            steps(**json.loads(line), answers=channel)
