"""Arguments that constructors declare operational exist, are documented, and change no result."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import petl_bench
from datamodules.msrvtt import MSRVTT
from methods.full import Full
from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.base import VideoTextDataModule
from petl_bench.fixture import write_fixture
from petl_bench.method import Method
from petl_bench.optimizers import OptimizerRecipe
from petl_bench.registry import FOLDERS, ROOT, list_entries
from petl_bench.runs.cost import synthetic_batch
from petl_bench.runs.record import operational_options
from petl_bench.tasks.base import Task
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.samples import make_batch
from tests.inputs import with_frames

BASES = (VideoTextDataModule, Method, Backbone, Task, OptimizerRecipe)
#: what is proved below, by argument
PROVED = {"eval_batch_size", "num_workers", "root", "gradient_checkpointing", "chunk"}
#: what other tests prove, and where
PROVED_ELSEWHERE = {
    "cache": "tests/integration/test_cache.py",
    "second_figures": "tests/integration/test_second_figures.py",
    "wordnet": "tests/integration/test_wups.py",
}
#: what acts only where a run would end with an error
ENDS_A_RUN = {"loader_timeout", "on_cache_miss"}


def constructors() -> list[type]:
    """All classes that a configuration can name: methods, data modules, backbones, tasks, optimiser recipes."""
    for module in pkgutil.walk_packages(petl_bench.__path__, "petl_bench."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for folder in FOLDERS:
        for entry in list_entries(folder):
            importlib.import_module(entry.module)

    def below(kind: type) -> Iterator[type]:
        for child in kind.__subclasses__():
            if child.__module__.split(".")[0] in ("petl_bench", *FOLDERS):
                yield child
            yield from below(child)

    return sorted({kind for base in BASES for kind in below(base)}, key=lambda kind: kind.__qualname__)


@pytest.mark.parametrize("kind", constructors(), ids=lambda kind: kind.__name__)
def test_what_is_declared_exists_is_documented_and_proved(kind: type) -> None:
    arguments = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
    documented = "\n".join(inspect.getdoc(base) or "" for base in kind.__mro__)
    for name in operational_options(kind):
        assert name in arguments
        assert f"{name}: " in documented
        assert name in PROVED | PROVED_ELSEWHERE.keys() | ENDS_A_RUN


def test_the_walk_finds_all() -> None:
    found = {kind.__name__ for kind in constructors()}
    assert {entry.name for folder in FOLDERS for entry in list_entries(folder)} <= found
    assert {"CLIP", "WholeCLIP", "BLIP", "Retrieval", "MatchingRetrieval", "AnswerGeneration", "AdamWCosine"} <= found
    declared = set().union(*(operational_options(kind) for kind in constructors()))
    assert declared == PROVED | PROVED_ELSEWHERE.keys() | ENDS_A_RUN
    for name, path in PROVED_ELSEWHERE.items():
        assert f"init_args.{name}=" in (ROOT / path).read_text(encoding="utf-8")


def test_plugins_declare_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(MSRVTT):
        operational = frozenset({"download_to"})

    assert operational_options(Mine) == operational_options(MSRVTT) | {"download_to"}


# --- proofs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "fixture"
    write_fixture(folder, train_videos=8, test_videos=5, captions_per_video=1)
    return folder


def outcome(root: Path, **options: Any) -> tuple[list[Tensor], Any]:
    """What a method is trained on in one epoch, and the ranks that it has then."""
    backbone = CLIP("tiny", None)
    chosen = {"batch_size": 4, "num_workers": 0, "frames": 4, "frame_rate": 2, "partial": True, **options}
    data = MSRVTT(root=root, spec=backbone.spec, **chosen)
    data.setup("fit")
    seen = [
        tensor
        for batch in data.train_dataloader()
        for tensor in (batch.clips.frames, batch.words.ids, batch.video_index)
    ]
    task, loader = Retrieval(), data.test_dataloader()
    task.expect(*loader.dataset.counts)  # type: ignore[attr-defined]  # a dataset of ours
    with torch.no_grad():
        for batch in loader:
            task.update(backbone.eval(), batch)
    return seen, task.compute().ranks


@pytest.mark.parametrize(("name", "value"), [("eval_batch_size", 1), ("eval_batch_size", 2), ("num_workers", 2)])
def test_loading(name: str, value: int, written: Path) -> None:
    assert_same(outcome(written), outcome(written, **{name: value}))


def test_root(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "elsewhere")
    assert_same(outcome(written), outcome(tmp_path / "elsewhere"))


def assert_same(one: tuple[list[Tensor], Any], other: tuple[list[Tensor], Any]) -> None:
    assert len(one[0]) == len(other[0]) > 0
    assert all(a.equal(b) for a, b in zip(one[0], other[0], strict=True))
    assert one[1].keys() == other[1].keys()
    assert all((one[1][key] == other[1][key]).all() for key in one[1])


@pytest.mark.parametrize("what", [True, "activations"])
@pytest.mark.parametrize("build", [CLIP, BLIP], ids=lambda kind: kind.__name__)
def test_gradient_checkpointing(build: Callable[..., Backbone], what: bool | str) -> None:
    """Also with dropout, as in BLIP: to the last bit."""
    found = []
    for checkpointing in (False, what):
        method = (
            Full(backbone=build("tiny", None, gradient_checkpointing=checkpointing), task=Retrieval()).adapt().train()
        )
        torch.manual_seed(0)
        loss, _ = method.task.loss(method.backbone, synthetic_batch(method.backbone.spec, 2, 2, 8))
        loss.backward()
        found.append({name: p.grad for name, p in method.named_parameters() if p.grad is not None} | {"loss": loss})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 20
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 9])
def test_chunk(chunk: int) -> None:
    """Without dropout: to rounding."""
    found = []
    for size in (None, chunk):
        method = Full(backbone=CLIP("tiny", None), task=Retrieval(chunk=size)).adapt().double().train()
        batch = make_batch(method.backbone)
        frames = method.backbone.normalise(batch.clips.frames).double()
        loss, _ = method.task.loss(method.backbone, with_frames(batch, frames))
        loss.backward()
        found.append({name: p.grad for name, p in method.named_parameters() if p.grad is not None} | {"loss": loss})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 20
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12)
