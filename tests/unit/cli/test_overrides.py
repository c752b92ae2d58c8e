"""Keyword arguments of a library call, and objects, as options and configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from datamodules.msrvtt import MSRVTT
from methods.linear import Linear
from methods.lora import LoRA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.cli.config_safety import ClassPathGuard
from petl_bench.cli.objects import configuration_of
from petl_bench.cli.overrides import as_arguments, as_options
from petl_bench.configurable import given_arguments
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.method import Method
from petl_bench.optimizers import AdamWCosine
from petl_bench.registry import import_plugins
from petl_bench.tasks.retrieval import Retrieval


def arguments(**options: Any) -> list[str]:
    import_plugins()
    return as_arguments(["fixture_lora"], options, ClassPathGuard())[1:]


@pytest.mark.parametrize(
    ("name", "value", "argument"),
    [
        ("root", Path("~/x"), "--data.root=~/x"),
        ("max_epochs", 1, "--trainer.max_epochs=1"),
        ("rank", 8, "--model.rank=8"),
        ("runs_dir", "out", "--runs_dir=out"),
        ("seed_everything", 3, "--seed_everything=3"),
        ("cache", None, "--data.cache=null"),
        ("partial", True, "--data.partial=true"),
        ("backbone.pretrained", None, "--model.backbone.pretrained=null"),
        ("data.root", "a", "--data.root=a"),
        ("data.init_args.root", "a", "--data.init_args.root=a"),
        ("max_time", {"hours": 2}, '--trainer.max_time={"hours": 2}'),
        ("model", {"class_path": "Linear"}, '--model={"class_path": "Linear"}'),
        ("data", "data/msvd.yaml", "--data=data/msvd.yaml"),
    ],
)
def test_a_name_is_looked_up(name: str, value: Any, argument: str) -> None:
    assert arguments(**{name: value}) == [argument]


def test_several_keys_that_may_change() -> None:
    assert arguments(allow_change=["a", "b"]) == ["--allow_change", "a", "b"]


@pytest.mark.parametrize(("value", "expected"), [("a.b", ["--allow_change", "a.b"]), ([], [])])
def test_one_key_that_may_change_or_none(value: str | list[str], expected: list[str]) -> None:
    assert arguments(allow_change=value) == expected


@pytest.mark.parametrize("class_path", ["methods.lroa.LoRA", "methods.lora.LoAR"])
def test_a_class_that_is_not_there(class_path: str) -> None:
    with pytest.raises(UsageError, match=f"model: there is no class {class_path}"):
        arguments(model={"class_path": class_path}, rank=8)


def test_names_of_another_class_than_the_configuration_names() -> None:
    """The option `model` may replace the method, and the last one counts."""
    with pytest.raises(UsageError, match="unknown option rank"):
        arguments(model={"class_path": "methods.linear.Linear"}, rank=8)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rot": 1}, "unknown option rot: did you mean root"),
        ({"seed": 1}, "seed follows from seed_everything"),
        ({"callbacks": object()}, "callbacks is <object object at .*, which no configuration holds"),
        ({"model": {"class_path": "os.system"}}, "class path 'os.system' is from outside"),
    ],
)
def test_what_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        arguments(**options)


class Precise(Linear):
    """A method with an option that the trainer has, too."""

    def __init__(self, precision: str = "high", **kwargs: Any) -> None:
        super().__init__(**kwargs)


def test_two_owners_are_both_named() -> None:
    path = f"{__name__}.Precise"
    guard = ClassPathGuard((__name__.split(".")[0],))
    model = {"class_path": path}
    with pytest.raises(UsageError, match=r"precision is an option of trainer and of model: say which, as in \*\*\{'tr"):
        as_arguments([], {"model": model, "precision": 32}, guard)
    assert as_arguments([], {"model": model, "model.precision": "low"}, guard)[1] == "--model.precision=low"


# --- objects ----------------------------------------------------------------------------------------------------------


class Gated(Linear):
    """Its constructor hands on what it does not know."""

    operational: ClassVar[frozenset[str]] = frozenset({"scale"})

    def __init__(self, *args: Any, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@pytest.fixture
def objects(tiny_clip: CLIP) -> tuple[Method, VideoTextDataModule]:
    recipe = AdamWCosine(lr=1e-3, betas=(0.9, 0.95))
    return LoRA(2, backbone=tiny_clip, task=Retrieval(), optimizer=recipe), MSRVTT(Path("x"), frames=4, seed=3)


def test_a_configuration_of_objects(objects: tuple[Method, VideoTextDataModule]) -> None:
    found = configuration_of(*objects)
    assert found["data"] == {"class_path": "datamodules.msrvtt.MSRVTT", "init_args": {"root": "x", "frames": 4}}
    model = found["model"]
    assert model["class_path"] == "methods.lora.LoRA"
    assert model["init_args"]["rank"] == 2
    assert model["init_args"]["task"] == {"class_path": "petl_bench.tasks.retrieval.Retrieval", "init_args": {}}
    assert model["init_args"]["optimizer"]["init_args"] == {"lr": 1e-3, "betas": [0.9, 0.95]}
    assert model["init_args"]["backbone"]["init_args"] == {"architecture": "tiny", "pretrained": None}


def test_arguments_that_are_handed_on(tiny_clip: CLIP) -> None:
    task = Retrieval()
    assert given_arguments(Gated(backbone=tiny_clip, task=task, scale=2.0)) == {
        "backbone": tiny_clip,
        "task": task,
        "scale": 2.0,
    }


def test_a_class_that_nothing_can_name(tiny_clip: CLIP) -> None:
    class Local(Linear): ...

    with pytest.raises(UsageError, match="model: Local is defined inside a function"):
        configuration_of(Local(tiny_clip, Retrieval()), MSRVTT(Path("x")))


def test_options_beside_objects(objects: tuple[Method, VideoTextDataModule]) -> None:
    method, data = objects
    given = {"max_epochs": 1, "trainer.precision": 32, "runs_dir": Path("a"), "max_time": {"hours": 1}}
    assert as_options(given, method, data) == {
        "trainer": {"max_epochs": 1, "precision": 32, "max_time": {"hours": 1}},
        "runs_dir": "a",
    }
    for name, kind in (("frames", "MSRVTT"), ("rank", "LoRA"), ("data.root", "MSRVTT"), ("model", "LoRA")):
        with pytest.raises(UsageError, match=f"{name}: give it to {kind}, which is made already"):
            as_options({name: 1}, method, data)
