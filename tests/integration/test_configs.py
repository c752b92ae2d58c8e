"""Every packaged configuration spells out its method and runs on generated data."""

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder, find_config, list_configs
from petl_bench.data.base import VideoTextDataModule
from petl_bench.fixture import WRITERS
from petl_bench.main import main
from petl_bench.registry import import_plugins
from petl_bench.renamed import as_written_today
from petl_bench.runs.record import operational_options
from tests.conftest import REPOSITORY
from tests.integration.fixture_run import TINY, layout_of, only_record, run, tiny_backbone
from tests.regression.training import recipes

LEAVES = [name for name in list_configs() if "/" not in name]
FRAGMENTS = [
    name for name in list_configs() if name.startswith(("data/", "backbone/", "task/", "optimizer/", "model/"))
]
#: what data modules have in common, which is none itself
_COMMON = "data/clips.yaml"
#: arguments that follow from others
_LINKED = ("spec", "seed", "root")


def _class(path: str) -> type:
    import_plugins()
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """Constructor arguments, those passed on by **kwargs included."""
    found: dict[str, inspect.Parameter] = {}
    for parent in kind.__mro__:
        if "__init__" not in vars(parent):
            continue
        parameters = inspect.signature(parent.__init__).parameters.values()
        named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self")
        found = {p.name: p for p in named} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _blocks(value: Any) -> Iterator[dict[str, Any]]:
    """The classes in a configuration with their arguments."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        yield from _blocks(item)
    if isinstance(value, dict) and "class_path" in value:
        yield value


@pytest.mark.parametrize("name", [*LEAVES, *(name for name in FRAGMENTS if name != _COMMON)])
def test_what_is_measured_is_spelt_out_and_defaults_of_the_rest_stand_in_code(name: str) -> None:
    """Switching a class on the command line keeps arguments of the same name: only spelt-out ones are safe."""
    blocks = list(_blocks(composed(config_folder() / name)))
    assert blocks
    for block in blocks:
        kind = _class(block["class_path"])
        parameters, given = _parameters(kind), block.get("init_args", {})
        operational = operational_options(kind)
        assert given.keys() <= parameters.keys()
        assert parameters.keys() - given.keys() <= {*operational, *_LINKED}, block["class_path"]
        repeated = [key for key in given.keys() & operational if given[key] == parameters[key].default]
        assert not repeated, f"{repeated}: the default of an operational argument stands in code only"


@pytest.mark.parametrize("name", LEAVES)
def test_a_method_has_positions_for_what_the_data_gives_it(name: str) -> None:
    """A method with too few would train on short texts, and fail at the first long one, or in the test."""
    found = composed(config_folder() / name)
    method, data = found["model"]["init_args"], found["data"]["init_args"]
    for given, most in (("frames", "max_frames"), ("max_words", "max_words")):
        assert data[given] <= method.get(most, data[given]), f"{name}: data.{given}, model.{most}"


@pytest.mark.parametrize("name", list_configs())
def test_numbers_are_numbers_to_any_reader_of_yaml(name: str) -> None:
    """PyYAML takes `1e-05` for text, jsonargparse for a number."""
    text = (config_folder() / name).read_text(encoding="utf-8")
    words = [token.value for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]
    assert not [word for word in words if re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", word) and not _is_number(word)]


def _is_number(word: str) -> bool:
    return isinstance(yaml.safe_load(word), float)


# --- the leaves of commit 1f3e211, before they were cut down to a few lines ------------------------------------------

#: those of the generated clips have other backbones and clips since; of them it holds the names
BEFORE = json.loads(Path(__file__).with_name("leaves_of_1f3e211.json").read_text(encoding="utf-8"))


def _before(name: str) -> dict[str, Any]:
    """What a leaf held when it was resolved; of the trainer, what it said itself."""
    places = BEFORE["leaves"][name]
    blocks = {key: BEFORE["blocks"][place] for key, place in places.items() if key != "seed_everything"}
    parts = {key: blocks.pop(key) for key in ("backbone", "task", "optimizer")}
    model = blocks["model"]
    model = {**model, "init_args": {**model.get("init_args", {}), **parts}}
    return {**blocks, "seed_everything": places["seed_everything"], "model": model}


def _filled(value: Any) -> Any:
    """A configuration with the defaults of arguments that it does not say."""
    if isinstance(value, list):
        return [_filled(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" not in value:
        return {key: _filled(item) for key, item in value.items()}
    found = {p.name: p.default for p in _parameters(_class(value["class_path"])).values() if p.name not in _LINKED}
    given = {key: _filled(item) for key, item in value.get("init_args", {}).items()}
    return {"class_path": value["class_path"], "init_args": {**found, **given}}


def test_no_name_is_gone() -> None:
    assert {f"{name}.yaml" for name in (*BEFORE["leaves"], *BEFORE["names"])} <= set(LEAVES)
    assert {layout_of(f"{name}.yaml") for name in BEFORE["leaves"]} <= WRITERS.keys()


@pytest.mark.parametrize("name", BEFORE["leaves"])
def test_a_leaf_holds_what_it_held_before(name: str) -> None:
    """Through the table of what was renamed. A change that an issue names is made in the json, too."""
    before, _ = as_written_today(_before(name))
    assert _filled(composed(config_folder() / f"{name}.yaml")) == _filled(before)


# --- recipes ----------------------------------------------------------------------------------------------------------


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
    return composed(config_folder() / name)["model"]["init_args"]["optimizer"]


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
    plain, augmented = composed(find_config("data/msrvtt.yaml")), composed(find_config(name))["data"]
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


#: one small batch of each split: what trainings do over steps, other tests look at with fewer configurations
ONE_BATCH = ("--trainer.fast_dev_run=1", "--data.init_args.batch_size=2")


def _parts(name: str) -> set[str]:
    """What a leaf is made of; of an optimiser its options, whatever their values."""
    content = composed(config_folder() / name)
    model, data = content["model"], content["data"]
    options = dict(model.get("init_args", {}))
    backbone, task, optimizer = (options.pop(part, None) for part in ("backbone", "task", "optimizer"))
    kind = None if backbone is None else backbone["class_path"]
    parts = [
        ["data", data],
        ["data on a backbone", data["class_path"], kind],
        ["method", model["class_path"], options, kind],
        ["task", task, data["class_path"]],
        ["optimizer", optimizer and [optimizer["class_path"], *optimizer["init_args"]]],
        ["trainer", content["trainer"]],
    ]
    return {json.dumps(part, sort_keys=True) for part in parts}


def _with_every_part(names: Sequence[str]) -> list[str]:
    """Few leaves that have every part which any leaf has."""
    parts = {name: _parts(name) for name in names}
    left, chosen = set().union(*parts.values()), []
    while left:
        chosen.append(max(names, key=lambda name: (len(parts[name] & left), not name.startswith("fixture"))))
        left -= parts[chosen[-1]]
    return chosen


#: but for those that tests/regression trains, and data that are not generated
RUN = _with_every_part(
    [name for name in LEAVES if name.removesuffix(".yaml") not in recipes() and layout_of(name) in WRITERS]
)


@pytest.mark.parametrize("name", [name for name in LEAVES if layout_of(name) not in WRITERS])
def test_a_leaf_without_generated_data_is_taken(name: str) -> None:
    assert main(["fit", f"--config={name}", "--print_config"]) == 0


@pytest.mark.parametrize("name", RUN)
def test_a_leaf_runs(name: str, written: Callable[[str], Path], tmp_path: Path) -> None:
    """Whatever is in any leaf is in one of these."""
    layout = layout_of(name)
    root = written(layout)
    if name.startswith("fixture"):  # on its own backbone, which is small enough
        place = (f"--data.init_args.root={root}", f"--runs_dir={tmp_path}")
        assert main(["fit", f"--config={name}", *TINY, *place, *ONE_BATCH]) == 0
    else:
        more = () if "blip" in tiny_backbone(name) else DEEP
        more += ONE_FRAME if layout in IMAGES else ()
        assert run("fit", name, root, tmp_path, *ONE_BATCH, *more) == 0
    assert not list(tmp_path.rglob("result.json"))


def test_the_example_of_the_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(# LoRA of rank 4 .*?)^```$", readme, re.MULTILINE | re.DOTALL)
    path = tmp_path / "own.yaml"
    path.write_text(example, encoding="utf-8")
    assert main(["fit", f"--config={path}", "--print_config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["trainer"]["max_epochs"] == 10
    assert (
        found["data"]["init_args"].items() >= {"root": "~/clips", "batch_size": 64, "train_file": "train.csv"}.items()
    )
    options = found["model"]["init_args"]
    assert (options["rank"], options["targets"]) == (4, "in_proj")
    assert options["optimizer"]["init_args"].items() >= {"lr": 1e-3, "eps": 1e-6}.items()


def test_list_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "configs"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in LEAVES)
    headings = [line for line in shown.splitlines() if not line.startswith(" ")]
    assert {"MSR-VTT:", "MSRVTT-QA:", "MSVD:", "MSVD-QA:"} <= set(headings)
    assert len(headings) == len(set(headings)) < len(LEAVES) / 5


def test_an_override_reaches_the_run(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    setup = VideoTextDataModule.setup

    def spy(self: VideoTextDataModule, stage: str) -> None:
        seen.append((self.seed, self.spec.image_size))  # a link to a wrong name would silently do nothing
        setup(self, stage)

    monkeypatch.setattr(VideoTextDataModule, "setup", spy)
    more = ("--model.init_args.bottleneck_dim=4", "--seed_everything=7")
    assert run("fit", "fixture_adaptformer", dataset, tmp_path, *more) == 0
    folder, record = only_record(tmp_path)
    assert record["model"]["method_config"]["bottleneck_dim"] == 4
    assert (record["id"]["seed"], folder.name) == (7, "seed7")
    assert set(seen) == {(7, 64)}
