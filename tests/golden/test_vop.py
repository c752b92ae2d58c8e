"""VoP (basic) against its released code: modelscope's, which only infers.

Our method departs from it in what its docstring lists (`methods.vop.VoP`). Here the released behaviour is put around
our blocks, one departure at a time: with all of them the vectors agree, without any one of them they do not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from methods.vop import VoP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.nn.adapter_blocks import PromptedBlock
from petl_bench.nn.transformer import Context, select_row
from petl_bench.tasks.retrieval import Retrieval
from tests.golden.helpers import Case, assert_gradient, assert_output, golden_files
from tests.golden.official_retrieval import CLIP_OPTIONS, Inputs, clip_of, inputs_of, normalised
from tests.golden.official_vit import backward, fill
from tests.inputs import clips_of

SUFFIX = "part of the text prompts stands before the last place of the text"
END_PLACE = "the feature is read as many places behind the end token as prompts stand behind the words"
SHIFTED_WORDS = "words get the positions of the longer sequence, and the first block's prompts the ones between"
PROMPTS_BEFORE_NORM = "the first vision block's prompts are inserted before the norm of the embeddings"
UNNORMALISED_MEAN = "the mean over frames is not normalised again"

OPTIONS = ("vp_token_num", "tp_prefix_token_num", "tp_suffix_token_num")
VISUAL, TEXT = "visual_prompt_learner.visual_prompts", "text_prompt_learner.text_prompts"


class Changed(nn.Module):
    """A parametrisation: what stands in the place of a parameter is a function of it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def change(block: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
    parametrize.register_parametrization(block, "prompts", Changed(function))


def prompted(clip: CLIP, kind: str) -> list[PromptedBlock]:
    return [block for block in clip.towers[kind].blocks if isinstance(block, PromptedBlock)]


def parameters(clip: CLIP, kind: str) -> list[Tensor]:
    """The prompts of each block as they are trained."""
    return [
        b.parametrizations["prompts"].original if parametrize.is_parametrized(b) else b.prompts  # type: ignore[index]
        for b in prompted(clip, kind)
    ]


class Text:
    """Encodes captions with our prompted blocks, as far as asked the way that the released code does.

    Args:
        clip: with as many text prompts per block as the released code has in front.
        suffix: what it has behind, of each block (s, d); none where `SUFFIX` is not among `departures`.
        count: how many prompts the released code has behind.
        departures: what to do as the released code does.
    """

    def __init__(self, clip: CLIP, suffix: list[Tensor], count: int, departures: set[str]) -> None:
        self.clip, self.suffix, self.count, self.departures = clip, suffix, count, departures
        self.blocks = prompted(clip, "text")
        self.front, self.behind = len(self.blocks[0].prompts), len(suffix[0])
        if SHIFTED_WORDS in departures:
            own = clip.text.positional_embedding[1 : 1 + self.front]
            change(self.blocks[0], lambda prompts: prompts + own)

    def __call__(self, ids: Tensor) -> Tensor:
        """(M, N) -> normalised features (M, E)."""
        x = self.embed(ids)
        for index, block in enumerate(self.blocks):
            x = block(self.with_suffix(x, index), Context())
        # The blocks' own prompts are not in x: a place behind the end token is that much nearer.
        end, last = ids.argmax(-1), ids.shape[1] - 1
        place = torch.where(end == last, end + self.behind, end)
        if END_PLACE in self.departures:
            place = (end + self.count).clamp(max=last + self.behind)
        return normalised(self.clip.text.head(select_row(x, place))[:, 0])

    def embed(self, ids: Tensor) -> Tensor:
        """Words at their places of the sequence with all prompts, and places for those before the last one."""
        text, last, behind = self.clip.text, ids.shape[1] - 1, self.behind
        words = text.token_embedding(ids)
        places = torch.arange(len(ids[0]) + behind)
        if SHIFTED_WORDS in self.departures:
            places = torch.where(places > 0, places + self.front, places)
        blank = words.new_zeros(len(words), behind, words.shape[-1])
        return torch.cat([words[:, :last], blank, words[:, last:]], 1) + text.positional_embedding[places]

    def with_suffix(self, x: Tensor, index: int) -> Tensor:
        """The tokens with this block's suffix; the first block's are added to their positions."""
        if not self.behind:
            return x
        first, last = x.shape[1] - 1 - self.behind, x.shape[1] - 1
        own = self.suffix[index].expand(len(x), -1, -1)
        if index == 0 and SHIFTED_WORDS in self.departures:
            own = own + x[:, first:last]
        return torch.cat([x[:, :first], own, x[:, last:]], 1)


def departures_of(case: Case, inputs: Inputs) -> set[str]:
    """Those that the captions and options of a case can show."""
    options = case.json["kwargs"]
    front, behind = options["tp_prefix_token_num"], options["tp_suffix_token_num"]
    found = {PROMPTS_BEFORE_NORM, UNNORMALISED_MEAN}
    found |= {SHIFTED_WORDS} if front else set()
    found |= {END_PLACE, SUFFIX} if behind else set()
    return found


def check(case: Case, folder: Path, departures: set[str]) -> None:
    options = case.options(*CLIP_OPTIONS, *OPTIONS)
    front = options["tp_prefix_token_num"]
    clip, found = clip_of(case, folder)
    official = case.group("param")
    fill(found, {name: tensor for name, tensor in official.items() if name in found})
    assert official.keys() - found.keys() == {VISUAL, TEXT} == set(case.json["official_trainable"])
    text_prompts = official[TEXT]
    if SUFFIX not in departures:
        front = text_prompts.shape[1]
    method = VoP(options["vp_token_num"], front, backbone=clip, task=Retrieval()).adapt()
    suffix = [prompts[front:].clone().requires_grad_() for prompts in text_prompts]
    with torch.no_grad():
        for block, prompts in zip(prompted(clip, "vision"), official[VISUAL], strict=True):
            block.prompts.copy_(prompts[0])
        for block, prompts in zip(prompted(clip, "text"), text_prompts, strict=True):
            block.prompts.copy_(prompts[:front])
    if PROMPTS_BEFORE_NORM in departures:
        change(prompted(clip, "vision")[0], clip.vision.ln_pre)

    frames, mask, ids, _ = inputs_of(case)
    video = clip.encode_video(clips_of(frames, mask))
    per_frame = normalised(video.frames)
    pooled = per_frame.mean(1) if UNNORMALISED_MEAN in departures else video.pooled
    text = Text(clip, suffix, options["tp_suffix_token_num"], departures)(ids)
    assert_output(per_frame, case.tensors["out.frame_features"], "frame_features")
    assert_output(text, case.tensors["out.text_features"], "text_features")
    assert_output(pooled, case.tensors["out.video_features"], "video_features")
    assert_output(text @ pooled.T, case.tensors["out.cosine"], "ranking scores")

    backward(case, text_features=text, video_features=pooled)
    expected = case.group("grad")
    assert case.json["grad_none"] == []
    visual = torch.stack([gradient_of(prompts) for prompts in parameters(clip, "vision")])
    assert_gradient(visual[:, None], expected[VISUAL], VISUAL)
    both = [torch.cat([gradient_of(a), gradient_of(b)]) for a, b in zip(parameters(clip, "text"), suffix, strict=True)]
    assert_gradient(torch.stack(both), expected[TEXT], TEXT)
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert trained + sum(prompts.numel() for prompts in suffix) == case.json["trainable_count"]


def gradient_of(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


@pytest.mark.parametrize("path", golden_files("vop_clip__*"))
def test_model(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    departures = departures_of(case, inputs_of(case))
    check(case, tmp_path, departures)
    for departure in departures:
        with pytest.raises(AssertionError):
            check(case, tmp_path, departures - {departure})
