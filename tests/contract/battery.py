"""What every method must do, as functions that take a builder: for ours, and for methods others write."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.cli.named_configs import find_config
from petl_bench.data.batch import Batch, Question
from petl_bench.errors import CheckpointError
from petl_bench.method import Method
from petl_bench.storage.adapters import Adapter, read_adapter, write_adapter
from petl_bench.tasks.base import Task
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.qa_classifier import AnswerClassifier
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.tasks.retrieval import Retrieval
from tests.contract.gated import Gated
from tests.inputs import clips_of, with_frames

Build = Callable[[], Method]

#: what adapts to methods in the package
BACKBONES: dict[str, type[Backbone]] = {"clip": CLIP, "blip": BLIP}
#: and those of another make
FOREIGN: dict[str, type[Backbone]] = {"gated": Gated}


def _answer_classifier() -> Task:
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.json"
        answers.write_text('["red", "blue"]', encoding="utf-8")
        return AnswerClassifier(answers)


TASKS: dict[str, Callable[[], Task]] = {
    "retrieval": Retrieval,
    "matching": lambda: MatchingRetrieval(queue_size=8, momentum=0.9),
    "qa_classifier": _answer_classifier,
    "qa_generation": AnswerGeneration,
}

CAPTIONS = ("a red circle moves left, then up", "a blue square", "first down, then right: a green triangle", "it")

#: what the captions ask, for tasks that answer
QUESTIONS = tuple(Question(clip, "what", ("red", "blue")[clip % 2 :]) for clip in range(len(CAPTIONS)))


def method_of(config: Path) -> str:
    """The class path of the method that a packaged configuration names."""
    return yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["class_path"]


def own_backbone(config: Path) -> str:
    """The kind of backbone that a packaged configuration names."""
    named = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["init_args"]["backbone"]
    if isinstance(named, str):
        named = yaml.safe_load(find_config(named).read_text(encoding="utf-8"))
    return str(named["class_path"]).rsplit(".", 1)[1].lower()


def tiny_backbone(kind: str, task: str, init_seed: int = 0) -> Backbone:
    """One of `BACKBONES` or `FOREIGN` with random weights, fit for a task."""
    return (BACKBONES | FOREIGN)[kind].tiny(answers=task == "qa_generation", init_seed=init_seed)


def builder(config: Path, backbone: str = "clip", task: str = "retrieval", init_seed: int = 0) -> Build:
    """Builds the method of a packaged configuration on a tiny backbone with random weights."""
    model: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    module, name = model["class_path"].rsplit(".", 1)
    method_class = getattr(importlib.import_module(module), name)
    options = {key: value for key, value in model["init_args"].items() if key not in ("backbone", "task", "optimizer")}

    def build() -> Method:
        torch.manual_seed(0)
        tiny = tiny_backbone(backbone, task, init_seed)
        return method_class(backbone=tiny, task=TASKS[task](), **options).adapt()

    return build


def make_batch(backbone: Any, frames: int = 8, clips: int = 4) -> Batch:
    """Random clips; the last one is two frames shorter than the rest."""
    generator = torch.Generator().manual_seed(1)
    size = backbone.spec.image_size
    pixels = torch.randint(0, 256, (clips, frames, 3, size, size), dtype=torch.uint8, generator=generator)
    frame_mask = torch.ones(clips, frames, dtype=torch.bool)
    frame_mask[-1, -2:] = False
    words = backbone.spec.tokenize(CAPTIONS[:clips], 32)
    index = torch.arange(clips)
    decoded = torch.ones(clips, dtype=torch.bool)
    return Batch(clips_of(pixels, frame_mask), words, index, index, index, decoded)


def features(method: Method, batch: Batch) -> tuple[Tensor, Tensor]:
    """Pooled video and text features without gradient."""
    method.eval()
    with torch.no_grad():
        video = method.backbone.encode_video(batch.clips).pooled
        text = method.backbone.encode_text(batch.words).pooled
    return video, text


def train(method: Method, batch: Batch, steps: int, rate: float = 0.1) -> list[set[str]]:
    """Trains with plain gradient descent; returns the names of tensors with a non-zero gradient, by step."""
    method.train()
    parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(parameters.values(), lr=rate)
    moved = []
    for step in range(steps):
        method.task.before_step(1.0, step)
        optimizer.zero_grad()
        loss, _ = method.task.loss(method.backbone, batch)
        loss.backward()
        moved.append({name for name, p in parameters.items() if p.grad is not None and p.grad.abs().max() > 0})
        optimizer.step()
        method.task.after_step(method.backbone)
    return moved


def plain_backbone(method: Method) -> Backbone:
    """The tiny backbone that a method of `builder` adapted, as it was before."""
    return type(method.backbone).tiny()


def check_identity_at_init(build: Build) -> None:
    """Before training the outputs are those of the plain backbone, if and only if the method says so."""
    method = build()
    batch = make_batch(method.backbone)
    plain = plain_backbone(method).eval()
    with torch.no_grad():
        video = plain.encode_video(batch.clips).pooled
        text = plain.encode_text(batch.words).pooled
    mine = features(method, batch)
    same = torch.allclose(mine[0], video, atol=1e-5) and torch.allclose(mine[1], text, atol=1e-5)
    assert same == method.identity_at_init


def check_gradients(build: Build) -> None:
    """One step gives every trainable tensor a gradient (DDP), a few give each a non-zero one, none to the frozen."""
    method = build()
    if not method.trainable:
        return
    batch = make_batch(method.backbone)._replace(questions=QUESTIONS)
    frozen = {name: p.detach().clone() for name, p in method.named_parameters() if not p.requires_grad}
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    moved = train(method, batch, 4)
    unused = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, f"without gradient: {unused}"
    dead = trainable - set().union(*moved)
    assert not {name for name in dead if not _is_unread_embedding(name)}, f"gradient always zero: {sorted(dead)}"
    touched = [name for name, p in method.named_parameters() if not p.requires_grad and p.grad is not None]
    assert not touched, f"frozen, but with a gradient: {touched}"
    changed = [name for name, p in method.named_parameters() if name in frozen and not p.equal(frozen[name])]
    assert not changed, f"frozen, but changed: {changed}"


def _is_unread_embedding(name: str) -> bool:
    return "token_embedding" in name  # rows of words that the batch does not hold, never all of them


def check_reload(build: Build, folder: Path) -> None:
    """Saved names are the trained ones; a fresh method that loads them gives the same outputs bit for bit."""
    method = build()
    if not method.trainable:
        assert not method.trained_state()
        return
    batch = make_batch(method.backbone)
    train(method, batch, 2)
    path = folder / "adapter.safetensors"
    write_adapter(path, Adapter(method.trained_state(), method.identity()))
    adapter = read_adapter(path)
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert trained <= adapter.tensors.keys() <= trained | {name for name, _ in method.named_buffers()}
    elements = sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert sum(adapter.tensors[name].numel() for name in trained) == elements == method.parameter_counts()["trainable"]
    fresh = build()
    fresh.load_trained_state(adapter, str(path))
    for mine, theirs in zip(features(fresh, batch), features(method, batch), strict=True):
        assert mine.equal(theirs)


def check_refusals(build: Build, build_elsewhere: Build) -> None:
    """Foreign, missing and misshapen tensors, and another backbone, are refused."""
    method = build()
    if not method.trainable:
        return
    state, identity = method.trained_state(), method.identity()
    name, tensor = next(iter(state.items()))
    wrong = [
        Adapter({**state, "backbone.foreign": tensor}, identity),
        Adapter({key: value for key, value in state.items() if key != name}, identity),
        Adapter({**state, name: tensor.new_zeros(*tensor.shape, 2)}, identity),
        Adapter(state, {**identity, "method": "methods.other.Other"}),
        Adapter(state, build_elsewhere().identity()),
    ]
    for adapter in wrong:
        with pytest.raises(CheckpointError):
            method.load_trained_state(adapter, "adapter.safetensors")


def check_padding(build: Build) -> None:
    """The content of padded frames changes nothing."""
    method = build()
    batch = make_batch(method.backbone)
    if method.trainable:
        train(method, batch, 2)
    before = features(method, batch)[0]
    frames = batch.clips.frames.clone()
    frames[~batch.clips.mask] = 255 - frames[~batch.clips.mask]
    after = features(method, with_frames(batch, frames))[0]
    assert after.equal(before) or torch.allclose(after, before, atol=1e-6)


def check_memory_savers(build: Build) -> None:
    """bf16 autocast gives finite gradients; gradient checkpointing gives the same ones as without."""
    method = build()
    if not method.trainable:
        return
    batch = make_batch(method.backbone)
    train(method, batch, 1)
    plain = _gradients(method, batch)
    method.backbone.set_gradient_checkpointing(True)
    for name, gradient in _gradients(method, batch).items():
        assert torch.allclose(gradient, plain[name], rtol=1e-4, atol=1e-6), name
    method.backbone.set_gradient_checkpointing(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = _gradients(method, batch)
    assert all(gradient.isfinite().all() for gradient in low.values())


def _gradients(method: Method, batch: Batch) -> dict[str, Tensor]:
    method.train()
    method.zero_grad()
    torch.manual_seed(0)
    loss, _ = method.task.loss(method.backbone, batch)
    loss.backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
