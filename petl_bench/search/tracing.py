"""Traces the text tower of an adapted model, see `petl_bench.search.text_tower`."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip.wordpiece import WordPiece
from petl_bench.blip_words import pre_caption
from petl_bench.bpe import VOCABULARY, clip_tokenize
from petl_bench.inputs import Tokenizer, Words
from petl_bench.search.text_tower import NoTextTower, TextTower, operation
from petl_bench.search.tokens import ROLES

#: what `torch.export` writes down to be checked at run time; they compute nothing
_CHECKS = ("aten._assert", "aten.sym_constrain_range")


def exported(backbone: Backbone, max_words: int) -> TextTower:
    """The text tower of an adapted backbone on the CPU.

    Args:
        backbone: in evaluation mode.
        max_words: tokens that are read of a text.

    Raises:
        NoTextTower: it has a tokenizer or operations that are not known here.
    """
    tokenizer = told_of(backbone.spec.tokenizer)
    if tokenizer is None:
        raise NoTextTower(f"{backbone.name}: its tokenizer is none that an index can hold")
    words = backbone.spec.tokenize(["a man walks", "a dog", "it rains and two people run"], max_words).without_padding()
    anything = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with torch.no_grad():
            traced = torch.export.export(TextFeaturesOf(backbone), words[:2], dynamic_shapes=(anything, anything))
    except Exception as error:  # torch raises many kinds; whichever it is, the model itself can be used
        told = " ".join(str(error).split())[:200]
        raise NoTextTower(f"{backbone.name}: torch.export cannot trace its text tower: {told}") from error
    signature, tensors = traced.graph_signature, {**traced.state_dict, **traced.constants}
    held = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    steps, kept = [], {}
    for node in traced.graph.nodes:
        if node.op == "placeholder" and node.name in held and node.users:
            kept[node.name] = tensors[held[node.name]].detach().clone().contiguous()
        elif node.op == "call_function" and not str(node.target).startswith(_CHECKS):
            steps.append([node.name, _name(node.target, backbone), _plain(node.args), _plain(node.kwargs)])
    program = {
        "tokenizer": tokenizer,
        "max_words": max_words,
        "steps": steps,
        "features": list(signature.user_outputs),
    }
    return TextTower(json.loads(json.dumps(program)), kept)


class TextFeaturesOf(nn.Module):
    """The text tower of a backbone, to be traced."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(M, N) each -> (M, E) each."""
        features = self.backbone.encode_text(Words(ids, mask))
        return features.pooled, features.projected


def told_of(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """A tokenizer as `petl_bench.search.tokens` reads it; None of one that it does not know."""
    if (vocabulary := vocabulary_of(tokenizer)) is not None:
        return {"kind": "clip", "vocabulary": vocabulary}
    if not isinstance(tokenizer, WordPiece):
        return None
    clean = tokenizer.clean
    if not isinstance(clean, partial) or clean.func is not pre_caption:
        return None
    rows = tokenizer.rows()
    ids = {role: getattr(rows, role) for role in ROLES}
    return {"kind": "wordpiece", "backend": rows.backend.to_str(), **ids, "caption_words": clean.keywords["max_words"]}


def vocabulary_of(tokenizer: Tokenizer) -> int | None:
    """Entries of CLIP's vocabulary that a tokenizer knows; None of another tokenizer."""
    if tokenizer is clip_tokenize:
        return VOCABULARY
    if isinstance(tokenizer, partial) and tokenizer.func is clip_tokenize:
        return tokenizer.keywords["vocabulary"]
    return None


def _name(target: Any, backbone: Backbone) -> str:
    name = str(target).removeprefix("aten.") if isinstance(target, torch._ops.OpOverload) else target.__name__
    try:
        operation(name)
    except KeyError as error:
        raise NoTextTower(f"{backbone.name}: its text tower has an operation that is not known here, {name}") from error
    return name


def _plain(value: Any) -> Any:
    """Arguments as JSON: what is no plain value is a mapping of one entry."""
    if isinstance(value, torch.fx.Node):
        return {"step": value.name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value)}
    if isinstance(value, torch.device):
        return {"device": "cpu"}
    if isinstance(value, torch.layout | torch.memory_format):
        return None
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise NoTextTower(f"its text tower has an argument that is not known here, {type(value).__name__}")
