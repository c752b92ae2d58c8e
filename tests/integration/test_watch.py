"""A run is watched: in plain lines where there is no terminal, and in tools beside `metrics.csv` (`--log`)."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from petl_bench.fixture import write_fixture
from petl_bench.method import Method
from petl_bench.runs import logs, progress
from petl_bench.runs.record import leaves
from tests.integration.fixture_run import only_record, run
from tests.stops import in_child, trap

MORE = (
    *("--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--save_every_n_steps=3"),
    *("--data.init_args.frames=3", "--data.init_args.batch_size=4"),
)
STEPS = 8
#: of a record, what the clock says, and what follows from `config.yaml` as a whole
TIMES = ("wall_s", "clips_per_s", "_bytes", "config_sha256", "env.", "resumed")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "fixture"
    write_fixture(folder, train_videos=8, test_videos=4, captions_per_video=2)
    return folder


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of one that nobody watched and nothing happened to."""
    runs = tmp_path_factory.mktemp("whole")
    assert run("fit", "fixture_linear", small, runs, *MORE) == 0
    return runs


def rows_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What `metrics.csv` holds, as tools have it: steps and values by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step":
                    found.setdefault(name, []).append((int(row["step"]), float(value)))
    return found


def same_record(folder: Path, other: Path) -> bool:
    both = [dict(leaves(only_record(runs)[1])) for runs in (folder, other)]
    kept = [{key: value for key, value in one.items() if not any(name in key for name in TIMES)} for one in both]
    return kept[0] == kept[1]


def test_plain_lines_without_a_terminal(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    assert run("fit", "fixture_linear", small, tmp_path, *MORE, "--trainer.enable_progress_bar=true") == 0
    told = capfd.readouterr()
    assert not {"\x1b", "\r", "\b"} & set(told.out + told.err)
    lines = [line.split("  ") for line in told.err.splitlines() if line.startswith("epoch ")]
    assert [line[:2] for line in lines] == [
        [f"epoch {1 + step // 4}/2", f"step {step + 1}/{STEPS}"] for step in range(STEPS)
    ]
    assert [line[2] for line in lines] == [f"loss {loss:.4g}" for _, loss in rows_of(only_record(tmp_path)[0])["loss"]]
    assert lines[0][3].startswith("lr ")
    assert (lines[3][-2].endswith(" s/step"), lines[3][-1].endswith(" left")) == (True, True)
    assert any(line.startswith("test  batch 1/1  0:00 left") for line in told.err.splitlines())


def test_a_run_in_tensorboard_is_killed_and_goes_on(small: Path, tmp_path: Path, whole: Path) -> None:
    arguments = ("fit", "fixture_linear", small, tmp_path, *MORE, "--log=tensorboard")
    killed = in_child(lambda: run(*arguments), trap(Method, "on_train_batch_start", 6))
    assert killed == -signal.SIGKILL  # after the step that was saved, and one that was logged only
    assert run(*arguments) == 0
    folder, _ = only_record(tmp_path)
    assert folder.relative_to(tmp_path) == only_record(whole)[0].relative_to(whole)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert len(list((folder / "tensorboard").iterdir())) == 2
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    expected = rows_of(only_record(whole)[0])
    assert rows_of(folder) == expected
    assert found == {name: [(step, pytest.approx(value)) for step, value in rows] for name, rows in expected.items()}
    assert same_record(tmp_path, whole)
    shown = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"model.backbone" in shown


class Broken:
    """A tool that takes nothing."""

    key, reached = "0", -1

    def __init__(self, place: logs.Place) -> None:
        """Begins."""

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        assert params["model.backbone"] == "petl_bench.backbones.clip.CLIP"

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        raise ConnectionError("the network is gone")

    def finalize(self, status: str) -> None:
        raise ConnectionError("the network is gone")


def test_a_tool_that_fails_ends_no_run(
    small: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(logs.TOOLS, "trackio", logs._Tool(("json",), Broken))
    with pytest.warns(
        UserWarning, match="trackio takes nothing: ConnectionError: the network is gone; the run goes on"
    ):
        assert run("fit", "fixture_linear", small, tmp_path, *MORE, "--log=trackio") == 0
    assert rows_of(only_record(tmp_path)[0]) == rows_of(only_record(whole)[0])
    assert same_record(tmp_path, whole)


def refused(place: logs.Place) -> None:
    raise ConnectionError("nobody is logged in")


def test_a_tool_that_cannot_begin(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new run is not begun, which is told at once; one that goes on does without."""
    monkeypatch.setitem(logs.TOOLS, "wandb", logs._Tool(("json",), refused))
    arguments = ("fit", "fixture_linear", small, tmp_path, *MORE)
    assert run(*arguments, "--log=wandb") == 2
    told = "log: wandb cannot begin: ConnectionError: nobody is logged in"
    assert f"petl-bench: error: {told}" in capsys.readouterr().err
    assert in_child(lambda: run(*arguments), trap(Method, "on_train_batch_start", 5)) == -signal.SIGKILL
    with pytest.warns(UserWarning, match=f"{told}; the run goes on without"):
        assert run(*arguments, "--log=wandb") == 0


REFUSED = [
    ("tensorbord,wandb", (), "there is no tensorbord; did you mean tensorboard?"),
    ("csv", (), "there is no csv; names are tensorboard, wandb, mlflow, trackio, with commas in between"),
    ("mlflow,", (), "there is no tool without name"),
    ("wandb", (), "log is wandb: wandb is not installed: pip install 'petl-bench[wandb]'"),
    ("tensorboard", ("--trainer.logger=false",), "and trainer.logger is false: leave out one of them"),
]


@pytest.mark.parametrize(("names", "more", "told"), REFUSED)
def test_refused_in_one_line(
    names: str,
    more: tuple[str, ...],
    told: str,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found: Callable[[str], object] = logs.find_spec
    monkeypatch.setattr(logs, "find_spec", lambda package: None if package == "wandb" else found(package))
    assert run("fit", "fixture_linear", small, tmp_path, f"--log={names}", *more) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("petl-bench"))
    assert told in line
    assert not list(tmp_path.iterdir())
