"""`petl-bench record`: the record of a run that was stopped before it wrote one, from what lies in its folder."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import petl_bench.runs.draft
from petl_bench.main import main
from petl_bench.report.collect import Run
from petl_bench.report.tables import build_tables
from petl_bench.runs.record import read_result
from petl_bench.storage.files import FileError
from tests.integration.fixture_run import only_record, run

#: what only the process knew
UNKNOWN = ("wall_s", "peak_allocated_bytes", "peak_reserved_bytes")


@pytest.fixture(scope="module")
def complete(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with its record, and the draft that was there before (`draft`)."""
    runs, written = tmp_path_factory.mktemp("complete"), []
    write = petl_bench.runs.draft.write_result

    def watched(path: Path, record: dict[str, Any]) -> None:
        written.append((path.name, copy.deepcopy(record)))
        write(path, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(petl_bench.runs.draft, "write_result", watched)
        assert run("fit", "fixture_linear", dataset, runs) == 0
    folder, _ = only_record(runs)
    assert [name for name, _ in written] == ["record.draft.json", "record.draft.json", "result.json"]
    assert not (folder / "record.draft.json").exists()
    (folder.parent / "draft.json").write_text(json.dumps(written[1][1]), encoding="utf-8")
    return folder


@pytest.fixture
def killed(complete: Path, tmp_path: Path) -> Path:
    """What a kill before the record leaves."""
    folder = tmp_path / "seed0"
    shutil.copytree(complete, folder)
    (folder / "result.json").unlink()
    shutil.copy(complete.parent / "draft.json", folder / "record.draft.json")
    return folder


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    """A record whose fields of some names, wherever they are, are left out."""
    return {
        key: without(value, *names) if isinstance(value, dict) else value
        for key, value in record.items()
        if key not in names
    }


def test_with_the_draft_only_costs_are_lost(complete: Path, killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", str(killed)]) == 0
    assert "t2v" in capsys.readouterr().out
    found, expected = read_result(killed / "result.json"), read_result(complete / "result.json")
    assert found.pop("reconstructed") == ["record.draft.json", "ranks.npz"]
    costs = ("gmacs_vision", "gmacs_total", "cost")
    assert without(found, *costs) == without(expected, *costs)
    assert found["train"]["wall_s"] == expected["train"]["wall_s"]
    assert not (killed / "record.draft.json").exists()
    assert main(["record", str(killed)]) == 2
    assert "has its record" in capsys.readouterr().err


def test_without_the_draft_the_machine_is_unknown(complete: Path, killed: Path) -> None:
    (killed / "record.draft.json").unlink()
    assert main(["record", str(killed)]) == 0
    found, expected = read_result(killed / "result.json"), read_result(complete / "result.json")
    assert found["reconstructed"] == ["config.yaml", "ranks.npz", "adapter.safetensors", "last.ckpt"]
    assert without(found, "reconstructed", "env", "cost", *UNKNOWN) == without(expected, "env", "cost", *UNKNOWN)
    assert {key for key, value in found["env"].items() if value not in (None, {})} == set()
    (table,) = build_tables([Run(killed / "result.json", found)])
    assert "record reconstructed" in table.rows[0].marks
    assert "unknown hardware" in " ".join(table.notes)


def test_without_a_checkpoint_the_training_is_unknown(killed: Path) -> None:
    for name in ("record.draft.json", "last.ckpt"):
        (killed / name).unlink()
    assert main(["record", str(killed)]) == 0
    found = read_result(killed / "result.json")
    assert found["train"]["epochs"] is found["train"]["steps"] is None
    (table,) = build_tables([Run(killed / "result.json", found)])
    assert "training unknown" in table.rows[0].marks
    assert main(["test", f"--ckpt_path={killed / 'adapter.safetensors'}"]) == 0  # it says the same of its training


def damaged(folder: Path) -> None:
    (folder / "ranks.npz").write_bytes((folder / "ranks.npz").read_bytes()[:100])


def of_other_queries(folder: Path) -> None:
    np.savez(folder / "ranks.npz", t2v=np.ones(7, dtype=np.int32), v2t=np.ones(7, dtype=np.int32))


def of_no_ranks(folder: Path) -> None:
    np.savez(folder / "ranks.npz", t2v=np.zeros(4), v2t=np.zeros(4))


def pickled(folder: Path) -> None:
    np.savez(folder / "ranks.npz", t2v=np.array([{}], dtype=object))


def edited(folder: Path) -> None:
    (folder / "config.yaml").write_text("seed_everything: 1\n", encoding="utf-8")


def foreign_adapter(folder: Path) -> None:
    (folder / "adapter.safetensors").write_bytes(b"other")


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (lambda folder: (folder / "ranks.npz").unlink(), 5, "ranks.npz is missing, so no figures are known"),
        (damaged, 5, "ranks.npz is damaged"),
        (of_other_queries, 5, "is of 7 queries, the test split has 4"),
        (of_no_ranks, 5, "t2v holds no ranks"),
        (pickled, 5, "petl-bench test --ckpt_path"),
        (edited, 5, "config.yaml is missing, or not the file that the run wrote"),
        (foreign_adapter, 5, "adapter.safetensors is missing, or not the file that the run wrote"),
        (lambda folder: (folder / "result.json").write_text("{"), 2, "move it away"),
        (lambda folder: shutil.rmtree(folder), 2, "no such folder"),
        (lambda folder: (folder / "config.yaml").unlink(), 2, "it holds no config.yaml"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    change: Callable[[Path], object], code: int, told: str, killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(killed)
    assert main(["record", str(killed)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_changed_annotations_are_refused(
    dataset: Path, killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (killed / "record.draft.json").unlink()
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    captions = data / "MSRVTT_data.json"
    captions.write_text(captions.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    config = killed / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace(str(dataset), str(data)), encoding="utf-8")
    assert main(["record", str(killed)]) == 5
    assert "the run was of another data.init_args.captions_file" in capsys.readouterr().err


def test_a_record_that_the_schema_refuses_is_found_before_training(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = petl_bench.runs.draft.environment
    monkeypatch.setattr(petl_bench.runs.draft, "environment", lambda: environment() | {"python": 3})
    assert run("fit", "fixture_linear", dataset, tmp_path) == 5
    assert "env.python: 3 is not valid" in capsys.readouterr().err
    assert not list(tmp_path.rglob("last.ckpt"))
    assert not list(tmp_path.rglob("metrics.csv"))


def test_answers_to_questions(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = petl_bench.runs.draft.write_result

    def full(path: Path, record: dict[str, Any]) -> None:
        if path.name == "result.json":
            records.append(record)
            raise FileError(path, "cannot be written: No space left on device")
        write(path, record)

    records: list[dict[str, Any]] = []
    with monkeypatch.context() as disk:
        disk.setattr(petl_bench.runs.draft, "write_result", full)
        assert run("fit", "fixtureqa_adaptformer.yaml", dataset, tmp_path) == 5
    (draft,) = tmp_path.rglob("record.draft.json")
    assert main(["record", str(draft.parent)]) == 0
    found = read_result(draft.with_name("result.json"))
    assert without(found["eval"], "cost") == without(records[0]["eval"], "cost", "vocabulary")


def test_the_report_takes_it(killed: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", str(killed)]) == 0
    assert main(["report", str(killed), "--output", "report"]) == 0
    assert "record reconstructed" in (own_folder / "report" / "leaderboard.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "told"), [("~nobody-of-this-name/runs", "no such folder"), ("x" * 300, "no path")])
def test_names_that_no_folder_has(name: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["record", name])
    except SystemExit as stop:  # argparse ends this way
        code = stop.code
    assert code == 2
    assert told in capsys.readouterr().err
