"""Every packaged configuration spells out its method and runs on generated data."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from petl_bench.cli.named_configs import config_folder, find_config, list_configs
from petl_bench.data.base import VideoTextDataModule
from petl_bench.main import main
from petl_bench.registry import import_plugins
from tests.integration.fixture_run import layout_of, only_record, run, tiny_backbone

LEAVES = [name for name in list_configs() if "/" not in name]


def _class(path: str) -> type:
    import_plugins()
    module, name = path.rsplit(".", 1)
    return getattr(__import__(module, fromlist=[name]), name)


def _arguments(kind: type) -> set[str]:
    """Constructor arguments, those passed on by **kwargs included."""
    found: set[str] = set()
    for parent in kind.__mro__:
        if "__init__" not in vars(parent):
            continue
        parameters = inspect.signature(parent.__init__).parameters.values()
        found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found - {"self"}


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_spells_out_every_argument(name: str) -> None:
    """Switching a class on the command line keeps arguments of the same name: only spelt-out leaves are safe."""
    model = yaml.safe_load((config_folder() / name).read_text(encoding="utf-8"))["model"]
    assert set(model["init_args"]) == _arguments(_class(model["class_path"]))


@pytest.mark.parametrize("name", [name for name in list_configs() if name.startswith(("data/", "backbone/", "task/"))])
def test_a_fragment_spells_out_every_argument(name: str) -> None:
    fragment = yaml.safe_load((config_folder() / name).read_text(encoding="utf-8"))
    linked = {"root"} if name.startswith("task/") else {"spec", "seed"}
    assert set(fragment["init_args"]) == _arguments(_class(fragment["class_path"])) - linked


#: the optimiser that TempMe and DiscoVLA release for adapters on CLIP
TEMPME = {
    "class_path": "petl_bench.optimizers.AdamWCosine",
    "init_args": {
        **{"lr": 6e-4, "weight_decay": 0.2, "warmup": 0.1},
        **{"betas": [0.9, 0.999], "eps": 1e-6, "clip_norm": 1.0},
    },
}


def _comment(name: str) -> str:
    lines = (config_folder() / name).read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def _optimizer(name: str) -> dict[str, Any]:
    return yaml.safe_load((config_folder() / name).read_text(encoding="utf-8"))["model"]["init_args"]["optimizer"]


def test_a_recipe_is_the_one_that_the_comment_names() -> None:
    """`that of X` has the optimiser of X, and `TempMe's` the released one."""
    named = {name: re.search(r"ecipe is (?:ours: )?that of (\w+)", _comment(name)) for name in LEAVES}
    copies = {name: match[1] for name, match in named.items() if match}
    assert len(copies) > 40
    for name, other in copies.items():
        assert _optimizer(name) == _optimizer(f"{other}.yaml"), name
    released = [name for name in LEAVES if re.search("Recipe: (?:the released one.*TempMe|TempMe's)", _comment(name))]
    assert {"msrvtt_tempme.yaml", "msrvtt_lora.yaml", "msrvtt_adaptformer.yaml"} <= set(released)
    for name in released:
        assert _optimizer(name) == TEMPME, name


@pytest.mark.parametrize("name", ["msrvtt_tempme", "msrvtt_lora"])
def test_the_released_augmentation_is_the_only_thing_that_its_data_change(name: str) -> None:
    leaf = yaml.safe_load(find_config(name).read_text(encoding="utf-8"))
    plain, augmented = (
        yaml.safe_load(find_config(data).read_text(encoding="utf-8")) for data in ("data/msrvtt.yaml", leaf["data"])
    )
    assert augmented["init_args"].pop("augmentation") == "rand-m7-n4-mstd0.5-inc1"
    assert plain["init_args"].pop("augmentation") is None
    assert augmented == plain


#: a thin CLIP as deep as the real one, and as many frames, since configurations name layers and merge frames
DEEP = (
    f"--model.init_args.backbone.init_args.architecture={Path(__file__).parent / 'deep.json'}",
    "--data.init_args.frames=12",
    "--data.init_args.frame_rate=null",
)


#: the layouts whose clips are still images
IMAGES = ("vqav2", "coco", "flickr30k")
ONE_FRAME = ("--data.init_args.frames=1", "--data.init_args.frame_rate=null")


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_runs(name: str, written: Callable[[str], Path], tmp_path: Path) -> None:
    layout = layout_of(name)
    root = written(layout)
    more = () if name.startswith("fixture") or "blip" in tiny_backbone(name) else DEEP
    more += ONE_FRAME if layout in IMAGES else ()
    assert run("fit", name, root, tmp_path, "--trainer.fast_dev_run=2", *more) == 0
    assert not list(tmp_path.rglob("result.json"))


def test_list_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "configs"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in LEAVES)


def test_an_override_reaches_the_run(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    setup = VideoTextDataModule.setup

    def spy(self: VideoTextDataModule, stage: str) -> None:
        assert self.spec is not None
        seen.append((self.seed, self.spec.image_size))  # a link to a wrong name would silently do nothing
        setup(self, stage)

    monkeypatch.setattr(VideoTextDataModule, "setup", spy)
    more = ("--model.init_args.bottleneck_dim=4", "--seed_everything=7")
    assert run("fit", "fixture_adaptformer", dataset, tmp_path, *more) == 0
    folder, record = only_record(tmp_path)
    assert record["model"]["method_config"]["bottleneck_dim"] == 4
    assert (record["id"]["seed"], folder.name) == (7, "seed7")
    assert set(seen) == {(7, 64)}
