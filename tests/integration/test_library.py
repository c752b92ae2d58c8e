"""A program or a notebook does what the command line does, and leaves the same files."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from safetensors.torch import load_file

import petl_bench
from datamodules.msrvtt import MSRVTT
from methods.linear import Linear
from petl_bench.backbones.clip.model import CLIP
from petl_bench.optimizers import AdamWCosine
from petl_bench.runs.record import read_result
from petl_bench.tasks.retrieval import Retrieval
from tests.integration.fixture_run import only_record, run

#: as `fixture_run.TINY`
OF_TRAINER: dict[str, Any] = {
    **{"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    **{"num_sanity_val_steps": 0, "log_every_n_steps": 5, "devices": 1, "precision": "32-true"},
}
OF_DATA: dict[str, Any] = {"batch_size": 8, "frames": 8, "frame_rate": 2, "num_workers": 0, "partial": True}
NAMED: dict[str, Any] = {**OF_TRAINER, **OF_DATA, "model.backbone": "backbone/clip_tiny.yaml"}


class Stopping(Linear):
    """Somebody presses Ctrl+C at the third step, once."""

    asked = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == 2 and not type(self).asked:
            type(self).asked = True
            signal.raise_signal(signal.SIGINT)
        return super().training_step(batch, batch_idx)


class Watching(Callback):
    """A user's own, which does nothing."""


@pytest.fixture(autouse=True)
def _signals_are_left_alone() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background jobs ignore
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture(scope="module")
def by_command(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the command line."""
    runs = tmp_path_factory.mktemp("command")
    assert run("fit", "fixture_linear", dataset, runs) == 0
    return only_record(runs)[0]


def measured(record: dict[str, Any]) -> dict[str, Any]:
    """A record without times, bytes and what depends on them."""
    blocks = {name: record[name] for name in ("id", "kind", "origin", "protocol", "model", "status")}
    return blocks | {"eval": {name: value for name, value in record["eval"].items() if name != "cost"}}


def test_a_configuration_by_name(dataset: Path, by_command: Path, own_folder: Path) -> None:
    record = petl_bench.fit("fixture_linear", root=dataset, trainer="trainer/fixture.yaml", **NAMED)
    folder, written = only_record(own_folder)
    assert record == written == read_result(folder / "result.json")
    assert folder.parent.name == by_command.parent.name
    assert measured(written) == measured(read_result(by_command / "result.json"))
    assert (folder / "adapter.safetensors").read_bytes() == (by_command / "adapter.safetensors").read_bytes()


def method_and_data(dataset: Path, kind: type[Linear] = Linear) -> tuple[Linear, MSRVTT]:
    return kind(CLIP("tiny", None), Retrieval(), AdamWCosine(lr=1e-3)), MSRVTT(dataset, **OF_DATA)


def test_objects_are_the_configuration_that_names_them(dataset: Path, tmp_path: Path) -> None:
    method, data = method_and_data(dataset)
    record = petl_bench.fit(method, data, runs_dir=tmp_path / "objects", seed_everything=3, **OF_TRAINER)
    folder, written = only_record(tmp_path / "objects")
    assert record == written
    assert written["id"]["seed"] == data.seed == method.seed == 3
    again = petl_bench.fit(folder / "config.yaml", runs_dir=tmp_path / "again")
    assert again is not None
    assert measured(again) == measured(written)
    first, second = (
        load_file(only_record(tmp_path / name)[0] / "adapter.safetensors") for name in ("objects", "again")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_objects_with_a_callback_of_a_plug_in(dataset: Path, tmp_path: Path) -> None:
    method, data = method_and_data(dataset)
    own: dict[str, Any] = {"callbacks": [{"class_path": f"{__name__}.Watching"}], "runs_dir": tmp_path, **OF_TRAINER}
    with pytest.raises(petl_bench.PetlBenchError, match="--plugins"):
        petl_bench.fit(method, data, **own)
    record = petl_bench.fit(method, data, plugins=[__name__], **own)
    assert record is not None
    assert record["train"]["callbacks"] == [f"{__name__}.Watching"]


def test_evaluations(by_command: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = by_command / "adapter.safetensors"
    record = petl_bench.test(ckpt_path=adapter)
    assert record is not None
    assert record == read_result(by_command / "test.json")
    assert record["eval"]["t2v"] == read_result(by_command / "result.json")["eval"]["t2v"]

    method, data = method_and_data(dataset)
    tested = petl_bench.test(method, data, ckpt_path=adapter, **OF_TRAINER)
    assert tested is not None
    assert tested["eval"]["t2v"] == record["eval"]["t2v"]

    features = petl_bench.predict(ckpt_path=adapter)
    assert features is not None
    assert features == by_command / "features.safetensors"
    assert load_file(features)["video"].shape[0] == record["eval"]["v2t"]["n"]
    figures = petl_bench.validate(ckpt_path=adapter, val_videos=4)
    assert figures["t2v"]["n"] == 8

    (reported,) = petl_bench.report(by_command, output=by_command / "report")
    assert reported["id"] == read_result(by_command / "result.json")["id"]
    assert "Linear" in (by_command / "report" / "leaderboard.md").read_text(encoding="utf-8")
    assert "petl-bench: error" not in capsys.readouterr().err


def test_ctrl_c_is_raised_and_the_same_call_goes_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stopping, "asked", False)
    options: dict[str, Any] = {**OF_TRAINER, "max_epochs": 2, "runs_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        petl_bench.fit(*method_and_data(dataset, Stopping), **options)
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    record = petl_bench.fit(*method_and_data(dataset, Stopping), **options)
    assert record is not None
    assert record["train"]["resumed"] == 1

    options["runs_dir"] = tmp_path / "whole"
    whole = petl_bench.fit(*method_and_data(dataset, Stopping), **options)
    assert whole is not None
    adapters = [load_file(path) for path in tmp_path.rglob("adapter.safetensors")]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])


def test_errors_are_ours(by_command: Path, dataset: Path, tmp_path: Path) -> None:
    """And nothing exits."""
    method, data = method_and_data(dataset)
    with pytest.raises(petl_bench.PetlBenchError, match="no file and no packaged configuration 'fixture_lineer'"):
        petl_bench.fit("fixture_lineer")
    with pytest.raises(petl_bench.PetlBenchError, match=r"trainer.max_epochs: expected int or null, got x"):
        petl_bench.fit("fixture_linear", max_epochs="x")
    with pytest.raises(petl_bench.PetlBenchError, match="this run is complete"):
        petl_bench.fit(by_command / "config.yaml", runs_dir=by_command.parents[4])
    with pytest.raises(petl_bench.PetlBenchError, match=r"is no folder"):
        petl_bench.fit("fixture_linear", root=tmp_path / "absent", **NAMED)
    with pytest.raises(petl_bench.PetlBenchError, match="Linear needs --ckpt_path"):
        petl_bench.test(method, data, **OF_TRAINER)
    with pytest.raises(petl_bench.PetlBenchError, match="give it a data module, too"):
        petl_bench.fit(method)  # type: ignore[arg-type]
    with pytest.raises(petl_bench.PetlBenchError, match="this Linear is adapted already"):
        petl_bench.fit(method.adapt(), data, **OF_TRAINER)
    with pytest.raises(petl_bench.PetlBenchError, match="no valid run below"):
        petl_bench.report(tmp_path)


def test_public_names() -> None:
    for name in petl_bench.__all__:
        assert getattr(petl_bench, name) is not None
    assert set(petl_bench.__all__) <= set(dir(petl_bench))
    assert callable(sys.modules["petl_bench.report"])
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        petl_bench.fitt  # noqa: B018
