"""A mapping says its differences to a file that it names; what is no difference takes the place of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from petl_bench.cli.config_safety import ClassPathGuard
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.errors import UsageError

MODEL = "base: method/lora.yaml\ninit_args: {backbone: backbone/clip_tiny.yaml, optimizer: optimizer/tempme.yaml}\n"


@pytest.fixture
def included(tmp_path: Path) -> Any:
    """What a configuration holds once the files it includes are in their places, `model.yaml` among them."""
    (tmp_path / "model.yaml").write_text(MODEL, encoding="utf-8")

    def read(text: str) -> Any:
        path = tmp_path / "own.yaml"
        path.write_text(text, encoding="utf-8")
        return yaml.safe_load(ClassPathGuard().read(path))

    return read


def test_a_value_takes_the_place_of_one(included: Any) -> None:
    options = included("model: {base: model.yaml, init_args: {rank: 4, targets: null}}")["model"]["init_args"]
    assert (options["rank"], options["targets"], options["scale"]) == (4, None, 1.0)
    assert options["backbone"] == composed(config_folder() / "backbone" / "clip_tiny.yaml")


def test_mappings_are_merged_however_deep(included: Any) -> None:
    model = included("model: {base: model.yaml, init_args: {backbone: {init_args: {image_size: 48}}}}")["model"]
    assert model["class_path"] == "methods.lora.LoRA"
    backbone = model["init_args"]["backbone"]
    assert backbone["init_args"] == {"architecture": "tiny", "pretrained": None, "image_size": 48, "init_seed": 0}


def test_a_file_takes_the_place_of_the_whole(included: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("class_path: petl_bench.optimizers.AdamWCosine\ninit_args: {lr: 0.5}\n")
    for named in ("mine.yaml", "{base: mine.yaml}", "{base: mine.yaml, init_args: {lr: 0.5}}"):
        model = included(f"model: {{base: model.yaml, init_args: {{optimizer: {named}}}}}")["model"]
        kept = model["init_args"]["optimizer"]["init_args"]
        assert kept["lr"] == 0.5
        assert ("warmup" in kept) == (named != "mine.yaml")


def test_another_class_takes_the_place_of_the_whole(included: Any) -> None:
    other = "{class_path: methods.mv_adapter.OfficialMVAdapter, init_args: {lr: 0.5}}"
    model = included(f"model: {{base: model.yaml, init_args: {{optimizer: {other}}}}}")["model"]
    assert model["init_args"]["optimizer"] == yaml.safe_load(other)
    same = "{class_path: petl_bench.optimizers.AdamWCosine, init_args: {lr: 0.5}}"
    model = included(f"model: {{base: model.yaml, init_args: {{optimizer: {same}}}}}")["model"]
    assert model["init_args"]["optimizer"]["init_args"]["betas"] == [0.9, 0.999]


def test_groups_data_and_whole_configurations_have_a_base(included: Any) -> None:
    assert included("trainer: {base: trainer/default.yaml, max_epochs: 9}")["trainer"]["max_epochs"] == 9
    data = included("data: {base: data/msrvtt_blip.yaml, init_args: {train_list: os.system.yaml}}")["data"]
    assert (data["init_args"]["train_list"], data["init_args"]["frames"]) == ("os.system.yaml", 8)
    whole = included("base: msrvtt_lora.yaml\nmodel: {init_args: {rank: 2}}\n")
    before = composed(config_folder() / "msrvtt_lora.yaml")
    assert whole["model"]["init_args"].pop("rank") == 2
    assert before["model"]["init_args"].pop("rank") == 8
    assert whole == before


def test_a_base_in_an_argument(included: Any, tmp_path: Path) -> None:
    included("a: 1")
    (found,) = ClassPathGuard().with_fragments([f"--model={tmp_path / 'model.yaml'}"])
    assert yaml.safe_load(found.removeprefix("--model="))["class_path"] == "methods.lora.LoRA"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: {base: none.yaml}", "own.yaml: base of model: no file 'none.yaml'"),
        ("model: {base: method/lorra.yaml}", "did you mean method/lora.yaml"),
        ("model: {base: 3}", "own.yaml: base of model is no file"),
        ("model: {base: {a: b}}", "own.yaml: base of model is no file"),
        ("base: own.yaml", "includes itself"),
        ("model: {base: list.yaml, a: 1}", "holds a list"),
        ("model: {base: outside.yaml}", "outside.yaml: class path 'unknown_package.Method' is from outside"),
    ],
)
def test_what_is_no_base(text: str, told: str, included: Any, tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a: 1\n", encoding="utf-8")
    (tmp_path / "outside.yaml").write_text("class_path: unknown_package.Method\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        included(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
