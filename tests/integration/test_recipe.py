"""A training that was cut short of its packaged recipe says so, also when its adapter is tested, and of equal runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from petl_bench.cli.named_configs import config_folder, list_configs
from petl_bench.cli.recipes import read_recipe, recipe_name
from petl_bench.errors import UsageError
from petl_bench.main import main
from petl_bench.report.cells import state
from petl_bench.report.collect import Run
from petl_bench.report.model import Table
from petl_bench.report.tables import build_tables
from tests.integration.fixture_run import only_record, run

EPOCHS = 2  # of trainer/fixture.yaml


def states(*folders: Path) -> dict[str, str]:
    return {row.method: state(row) for table in reported(*folders) for row in table.rows}


def reported(*folders: Path) -> list[Table]:
    paths = [path for folder in folders for path in folder.rglob("*.json") if path.name in ("result.json", "test.json")]
    return build_tables(Run(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths)


def clean(state: str) -> str:
    """Without what is said of a checkout with changes."""
    return state.removeprefix("dirty, ").removeprefix("dirty")


def test_a_run_of_max_steps_says_how_far_it_came(dataset: Path, tmp_path: Path) -> None:
    cut = ("--trainer.max_steps=3", f"--trainer.max_epochs={EPOCHS}")  # 4 steps are an epoch
    assert run("fit", "fixture_adaptformer", dataset, tmp_path, *cut) == 0
    folder, record = only_record(tmp_path)
    assert record["train"]["epochs"] == 0.75
    assert record["train"]["recipe"] == {"name": "fixture_adaptformer", "max_epochs": EPOCHS}
    assert clean(states(tmp_path)["AdaptFormer"]) == "0.75 of 2 epochs, max_steps 3"

    # Its adapter, its configuration, and a continuation from it.
    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    assert main(["test", adapter]) == 0
    _, tested = only_record(tmp_path, "test.json")
    assert tested["model"]["trained"] == {
        name: record["train"][name] for name in ("epochs", "steps", "recipe", "changed", "limits")
    }
    (folder / "result.json").unlink()
    assert clean(states(tmp_path)["AdaptFormer"]) == "0.75 of 2 epochs, max_steps 3"
    assert main(["fit", f"--config={folder / 'config.yaml'}", f"--runs_dir={tmp_path / 'again'}"]) == 0
    assert clean(states(tmp_path / "again")["AdaptFormer"]) == "0.75 of 2 epochs, max_steps 3"


def test_fewer_epochs_and_none_fewer(dataset: Path, tmp_path: Path) -> None:
    for epochs, told in ((1, "1 of 2 epochs"), (EPOCHS, "")):
        runs = tmp_path / str(epochs)
        assert run("fit", "fixture_linear", dataset, runs, f"--trainer.max_epochs={epochs}") == 0
        assert clean(states(runs)["Linear"]).removeprefix("ok") == told
    # Neither epochs nor any other part of the recipe is ground for another table.
    recipe = ("--data.init_args.batch_size=16", "--model.init_args.optimizer.init_args.lr=0.5")
    assert run("fit", "fixture_linear", dataset, tmp_path / "other", *recipe) == 0
    assert len(reported(tmp_path)) == 1


def test_max_steps_that_cut_nothing(dataset: Path, tmp_path: Path) -> None:
    assert run("fit", "fixture_linear", dataset, tmp_path, "--trainer.max_steps=4") == 0
    assert only_record(tmp_path)[1]["train"]["limits"] == {}


def test_an_adapter_without_its_record(dataset: Path, tmp_path: Path) -> None:
    assert run("fit", "fixture_linear", dataset, tmp_path) == 0
    folder, _ = only_record(tmp_path)
    for content in (None, "{}", '{"schema": "petl_bench.result/1"}'):
        (folder / "result.json").unlink(missing_ok=True)
        if content is not None:
            (folder / "result.json").write_text(content, encoding="utf-8")
        assert main(["test", f"--ckpt_path={folder / 'adapter.safetensors'}"]) == 0
        _, tested = only_record(tmp_path, "test.json")
        assert tested["model"]["trained"] is None
    (folder / "result.json").unlink()
    assert clean(states(tmp_path)["Linear"]) == "training unknown"


def test_a_configuration_of_one_s_own_has_no_recipe_unless_it_names_one(dataset: Path, tmp_path: Path) -> None:
    text = (config_folder() / "fixture_linear.yaml").read_text(encoding="utf-8")
    for name, more, recipe in (
        ("mine", "", None),
        ("named", "recipe: fixture_full\n", {"name": "fixture_full", "max_epochs": EPOCHS}),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text + more, encoding="utf-8")
        runs = tmp_path / name
        shortened = ("--trainer.max_epochs=1", "--model.init_args.backbone=backbone/clip_tiny.yaml")
        small = ("--data.init_args.batch_size=8", "--data.init_args.num_workers=0", f"--data.init_args.root={dataset}")
        assert main(["fit", f"--config={path}", *shortened, *small, f"--runs_dir={runs}"]) == 0
        assert only_record(runs)[1]["train"]["recipe"] == recipe


@pytest.mark.parametrize("name", ["fixture_liner", "../setup", "3", "fixture_linear.yaml"])
def test_an_unknown_recipe_is_named_at_the_start(
    name: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "fixture_linear", dataset, tmp_path, f"--recipe={name}") == 2
    errors = capsys.readouterr().err
    assert "recipe '" in errors
    assert "is no packaged configuration" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_what_can_be_no_name_is_refused(
    name: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "fixture_linear", dataset, tmp_path, f"--recipe={name}") == 2
    assert "error: recipe" in capsys.readouterr().err


# --- names


LEAVES = [name.removesuffix(".yaml") for name in list_configs() if "/" not in name]


@pytest.mark.parametrize("name", LEAVES)
def test_every_packaged_configuration_is_a_recipe(name: str) -> None:
    assert read_recipe(name).max_epochs > 0
    assert recipe_name([name]) == recipe_name([f"{name}.yaml"]) == name


def test_which_packaged_configuration_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "msrvtt_full.yaml"  # of the same name as a packaged one
    own.write_text("seed_everything: 1\n", encoding="utf-8")
    cases: dict[tuple[str, ...], Any] = {
        (): None,
        ("msrvtt_full", "msrvtt_linear"): "msrvtt_linear",
        ("msrvtt_linear", str(own)): "msrvtt_linear",
        (str(own),): None,
        ("data/msrvtt.yaml",): None,
        (str(config_folder() / "msrvtt_lora.yaml"),): "msrvtt_lora",
        ("absent",): None,
        ("x" * 5000,): None,
        ("a\0b",): None,
    }
    for values, name in cases.items():
        assert recipe_name(values) == name, values
    monkeypatch.chdir(tmp_path)
    assert recipe_name(["msrvtt_full.yaml"]) is None
    assert recipe_name(["msrvtt_full"]) == "msrvtt_full"


def test_a_recipe_that_does_not_say_how_long_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petl_bench.cli.recipes.config_folder", lambda: tmp_path)
    monkeypatch.setattr("petl_bench.cli.recipes.list_configs", lambda: ["vague.yaml"])
    (tmp_path / "vague.yaml").write_text("seed_everything: 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"does not say trainer\.max_epochs"):
        read_recipe("vague")
