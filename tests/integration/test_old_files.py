"""Files that commit 3e531d0 wrote (tests/files_of_3e531d0) are read, or refused by name."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from petl_bench.fixture import write_fixture
from petl_bench.main import main
from petl_bench.renamed import CLASSES, REWRITTEN, argument
from petl_bench.report.cells import state
from petl_bench.report.collect import collect
from petl_bench.report.tables import build_tables
from petl_bench.storage.checkpoints import SafeCheckpointIO
from tests.conftest import REPOSITORY
from tests.integration.fixture_run import only_record

OLD = REPOSITORY / "tests" / "files_of_3e531d0"
ADAPTFORMER, MV_ADAPTER, CROSS_MODAL, ZERO_SHOT, QUESTIONS = (
    OLD / "runs" / name / "seed0"
    for name in (
        "msrvtt-fixture/adaptformer/clip-tiny/60d7b55a",
        "msrvtt-fixture/mv-adapter-kronecker-frozen-biases/clip-tiny/acb3a4b9",
        "msrvtt-fixture/cross-modal-adapter/clip-tiny/520cd9c2",
        "msrvtt-fixture/zeroshot/clip-tiny/04e8bd54",
        "msrvttqa-fixture/adaptformer/blip-tiny/48b084a5",
    )
)
TRAINED = {"AdaptFormer": ADAPTFORMER, "MV-Adapter": MV_ADAPTER, "question answering": QUESTIONS}
STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the old runs were trained on, generated again."""
    folder = tmp_path_factory.mktemp("old") / "data"
    write_fixture(folder, train_videos=16, test_videos=8, captions_per_video=2)
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies an old folder to where a test may write."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / folder.relative_to(OLD)))

    return copy


def record_of(folder: Path, name: str = "result.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def figures(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record["eval"].items() if name != "cost"}


def fit(folder: Path, runs: Path, data: Path, *more: str) -> int:
    """Repeats a run from its `config.yaml`."""
    where = (f"--runs_dir={runs}", f"--data.init_args.root={data}")
    return main(["fit", f"--config={folder / 'config.yaml'}", *where, *more])


def assert_trained_alike(folder: Path, expected: Path) -> None:
    found, before = load_file(folder / "adapter.safetensors"), load_file(expected / "adapter.safetensors")
    assert found.keys() == before.keys()
    for name, tensor in before.items():
        # Other processors than the one that wrote the files compute other last digits.
        np.testing.assert_allclose(found[name], tensor, rtol=1e-3, atol=1e-5, err_msg=name)


# --- records


def test_old_records_are_reported() -> None:
    runs, rejected = collect([OLD / "runs"])
    assert rejected == []
    tables = build_tables(runs)
    states = {table.title.split(": ")[1]: {row.method: state(row) for row in table.rows} for table in tables}
    assert sum(len(table.rows) for table in tables) == 5
    assert set().union(*(state.values() for state in states.values())) == {"ok"}
    assert not [note for table in tables for note in table.notes if "does not say" in note]
    pooled = {row.method: table for table in tables for row in table.rows if "msrvtt-1kA" in table.title}
    assert pooled["Cross-Modal Adapter"] is not pooled["AdaptFormer"] is pooled["ZeroShot"]
    (note,) = (note for note in pooled["AdaptFormer"].notes if "Not comparable" in note)
    assert "protocol.inference.temperature (here none, there 5.0)" in note


def test_the_command_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(OLD / "runs"), "--strict", f"--output={tmp_path}"]) == 0
    page = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert page.count("\n| AdaptFormer |") == 6, "quality and costs of two tables, and twice over datasets"
    # The memory of a whole process with its libraries is not what training added.
    costs = (part for part in page.split("\n\n") if part.startswith("| Method | Trainable %"))
    header, _, *lines = next(part for part in costs if "| AdaptFormer" in part).splitlines()
    line = next(line for line in lines if line.startswith("| AdaptFormer"))
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert (cells.get("Peak GB"), cells["GMACs"]) == (None, "0.0537")


def test_what_an_old_record_does_not_say_is_compared_with_nothing(old: Callable[[Path], Path]) -> None:
    """Without the configuration beside it nobody knows how BLIP cut its questions."""
    copy = old(QUESTIONS)
    (copy / "config.yaml").unlink()
    runs, _ = collect([copy, QUESTIONS])
    tables = build_tables(runs)
    assert [len(table.rows) for table in tables] == [1, 1]
    notes = [note for table in tables for note in table.notes if "does not say" in note]
    assert len(notes) == 1
    assert "protocol.preprocess.text_words" in notes[0]


def test_old_and_new_runs_stand_in_one_table(data: Path, tmp_path: Path) -> None:
    assert fit(ADAPTFORMER, tmp_path / "runs", data, "--seed_everything=1") == 0
    runs, rejected = collect([ADAPTFORMER, ZERO_SHOT, tmp_path / "runs"])
    assert (len(runs), rejected) == (3, [])
    tables = build_tables(runs)
    assert len(tables) == 1, [note for table in tables for note in table.notes if "Not comparable" in note]


# --- adapters and configurations


@pytest.mark.parametrize("folder", TRAINED.values(), ids=list(TRAINED))
def test_an_old_adapter_gives_the_figures_of_its_record(
    folder: Path, old: Callable[[Path], Path], data: Path, recwarn: pytest.WarningsRecorder
) -> None:
    copy = old(folder)
    assert main(["test", f"--ckpt_path={copy / 'adapter.safetensors'}", f"--data.init_args.root={data}"]) == 0
    again, before = record_of(copy, "test.json"), record_of(folder)
    assert figures(again) == figures(before)
    assert again["protocol"]["split_sha256"] == before["protocol"]["split_sha256"]
    assert again["model"]["weights_sha256"] == before["model"]["weights_sha256"]
    assert again["model"]["trained"]["steps"] == before["train"]["steps"]
    assert not [warning for warning in recwarn if "was trained with" in str(warning.message)]


@pytest.mark.parametrize("folder", TRAINED.values(), ids=list(TRAINED))
def test_an_old_configuration_repeats_its_run(folder: Path, data: Path, tmp_path: Path) -> None:
    assert fit(folder, tmp_path, data) == 0
    again, record = only_record(tmp_path)
    assert_trained_alike(again, folder)
    assert record["train"]["steps"] == record_of(folder)["train"]["steps"]
    assert figures(record).keys() == figures(record_of(folder)).keys()


def test_an_old_zero_shot_configuration(data: Path, tmp_path: Path) -> None:
    where = (f"--runs_dir={tmp_path}", f"--data.init_args.root={data}")
    assert main(["test", f"--config={ZERO_SHOT / 'config.yaml'}", *where]) == 0
    assert figures(only_record(tmp_path)[1]) == figures(record_of(ZERO_SHOT))


def test_a_complete_old_run_is_not_trained_again(
    old: Callable[[Path], Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old(ADAPTFORMER)
    assert fit(ADAPTFORMER, tmp_path / "runs", data) == 2
    assert "this run is complete" in capsys.readouterr().err


# --- an interrupted run


@pytest.fixture
def interrupted(old: Callable[[Path], Path]) -> Path:
    (checkpoint,) = old(OLD / "interrupted").rglob("last.ckpt")
    return checkpoint.parent


def runs_of(folder: Path) -> Path:
    """The folder of all runs that a run's folder is in."""
    return folder.parents[4]


def renamed(folder: Path) -> Path:
    """A run's folder under the name that another rule of hashing would have given it."""
    return folder.parent.rename(folder.parent.with_name("00000000")) / folder.name


def rewritten(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Changes a configuration and what its checkpoint depends on, as another version would have written them."""
    path, file = folder / "config.yaml", folder / "last.ckpt"
    config, checkpoint = yaml.safe_load(path.read_text(encoding="utf-8")), torch.load(file)
    change(config, checkpoint["run"]["basis"])
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    SafeCheckpointIO().save_checkpoint(checkpoint, file)
    (folder / "last-1.ckpt").unlink()


def assert_continued(interrupted: Path) -> None:
    """The run was continued in the folder that its configuration has by today's hash."""
    (record_file,) = runs_of(interrupted).rglob("result.json")
    folder, record = record_file.parent, record_of(record_file.parent)
    assert (record["train"]["resumed"], record["train"]["steps"], record["train"]["changed"]) == (1, STEPS, {})
    assert_trained_alike(folder, ADAPTFORMER)
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        losses = {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}
    with (ADAPTFORMER / "metrics.csv").open(encoding="utf-8", newline="") as file:
        before = {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}
    assert losses.keys() == before.keys()
    assert list(losses.values()) == pytest.approx(list(before.values()), rel=1e-4)


def test_an_old_interrupted_run_goes_on(interrupted: Path, data: Path) -> None:
    assert fit(ADAPTFORMER, runs_of(interrupted), data) == 0
    assert_continued(interrupted)


def test_a_run_that_had_another_hash_goes_on(interrupted: Path, data: Path) -> None:
    folder = renamed(interrupted)
    assert fit(ADAPTFORMER, runs_of(folder), data) == 0
    assert_continued(folder)


def test_a_run_under_names_of_then_goes_on(
    interrupted: Path, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As if its backbone had been called otherwise, in the configuration and in what the checkpoint depends on."""
    folder, then, now = renamed(interrupted), "petl_bench.backbones.then.Then", "petl_bench.backbones.clip.CLIP"
    key = "model.init_args.backbone.class_path"

    def change(config: dict[str, Any], basis: dict[str, Any]) -> None:
        assert config["model"]["init_args"]["backbone"]["class_path"] == basis[key] == now
        config["model"]["init_args"]["backbone"]["class_path"] = basis[key] = then

    rewritten(folder, change)
    monkeypatch.setitem(CLASSES, then, now)
    assert fit(ADAPTFORMER, runs_of(folder), data) == 0
    assert_continued(folder)
    (told,) = (
        line for line in caplog.messages if line.startswith(f"{folder / 'config.yaml'} was written by an earlier")
    )
    assert f"{then} is read as {now}" in told


def test_a_configuration_with_names_of_then_is_told_once(
    old: Callable[[Path], Path], data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one beside an adapter, whose record says nothing of options that changed."""
    copy, then = old(ADAPTFORMER), "methods.then.Then"
    path = copy / "config.yaml"
    text = path.read_text(encoding="utf-8").replace("methods.adaptformer.AdaptFormer", then)
    path.write_text(text.replace("bottleneck_dim", "width"), encoding="utf-8")
    monkeypatch.setitem(CLASSES, then, "methods.adaptformer.AdaptFormer")
    monkeypatch.setitem(REWRITTEN, "methods.adaptformer.AdaptFormer", argument("width", "bottleneck_dim"))
    assert main(["test", f"--ckpt_path={copy / 'adapter.safetensors'}", f"--data.init_args.root={data}"]) == 0
    assert figures(record_of(copy, "test.json")) == figures(record_of(ADAPTFORMER))
    (told,) = (line for line in caplog.messages if "earlier version" in line)
    assert told.startswith(f"{path} was written by an earlier version: ")
    assert f"; {then}(width=" in told
    assert "is read as methods.adaptformer.AdaptFormer(bottleneck_dim=" in told


def test_options_that_are_new_or_count_no_more_have_not_changed(interrupted: Path, data: Path) -> None:
    """`max_words` as if it had come since, at its default; and one that was hashed and is no more."""
    folder = renamed(interrupted)

    def change(config: dict[str, Any], basis: dict[str, Any]) -> None:
        del config["data"]["init_args"]["max_words"], basis["data.init_args.max_words"]
        basis["data.init_args.num_workers"] = 2

    rewritten(folder, change)
    assert fit(ADAPTFORMER, runs_of(folder), data) == 0
    assert_continued(folder)


def test_a_new_option_that_is_set_is_another_run(interrupted: Path, data: Path) -> None:
    """As if `scale` had come since: its default is not what this run has."""

    def change(config: dict[str, Any], basis: dict[str, Any]) -> None:
        del config["model"]["init_args"]["scale"], basis["model.init_args.scale"]

    rewritten(interrupted, change)
    assert fit(ADAPTFORMER, runs_of(interrupted), data) == 0
    assert record_of(next(runs_of(interrupted).rglob("result.json")).parent)["train"]["resumed"] == 0


def test_an_option_that_is_gone_is_named(interrupted: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewritten(interrupted, lambda config, basis: basis.update({"data.init_args.gone": 3}))
    assert fit(ADAPTFORMER, runs_of(interrupted), data) == 5
    assert "data.init_args.gone was 3, is None" in capsys.readouterr().err


def test_a_run_on_other_annotation_files_is_begun_anew_with_a_word(
    interrupted: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rewritten(interrupted, lambda config, basis: basis.update(annotation_files="0" * 64))
    assert fit(ADAPTFORMER, runs_of(interrupted), data) == 0
    assert record_of(next(runs_of(interrupted).rglob("result.json")).parent)["train"]["resumed"] == 0
    assert f"{interrupted / 'last.ckpt'} has the same options, but is not continued: it was on other" in caplog.text


def test_another_configuration_is_another_run(interrupted: Path, data: Path) -> None:
    folder = renamed(interrupted)
    assert fit(ADAPTFORMER, runs_of(folder), data, "--data.init_args.max_words=20") == 0
    assert not (folder / "result.json").exists()
    assert record_of(next(runs_of(folder).rglob("result.json")).parent)["train"]["resumed"] == 0
