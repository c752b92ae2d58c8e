"""What a tool cannot take is kept for it, and what it has already is not sent again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from petl_bench.errors import UsageError
from petl_bench.machine.signals import Stopped
from petl_bench.runs import logs
from petl_bench.runs.logs import Log, Place, log_names, open_logs, settings_of, status_of


class Tool:
    """A tool that can be turned off."""

    key, reached, works = "k1", -1, True

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, float], int]] = []
        self.ended: list[str] = []

    def log_hyperparams(self, params: Mapping[str, object]) -> None:
        self.params = dict(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if not self.works:
            raise ConnectionError("gone")
        self.rows.append((dict(metrics), step))

    def save(self) -> None: ...

    def finalize(self, status: str) -> None:
        self.ended.append(status)


def test_rows_wait_until_the_tool_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    tool, now = Tool(), [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    log = Log("mlflow", tool)
    log.log_metrics({"loss": 3.0}, 0)
    tool.works = False
    with pytest.warns(UserWarning, match="mlflow takes nothing: ConnectionError: gone"):
        log.log_metrics({"loss": 2.0}, 1)
    tool.works = True
    log.log_metrics({"loss": 1.0}, 2)
    assert [step for _, step in tool.rows] == [0], "it is not asked again at once"
    now[0] = 60.0
    log.log_metrics({"loss": 0.5}, 3)
    assert [(row["loss"], step) for row, step in tool.rows] == [(3.0, 0), (2.0, 1), (1.0, 2), (0.5, 3)]
    log.finalize("success")
    assert not tool.ended, "a test follows the training"
    log.close("success")
    assert tool.ended == ["success"]


def test_rows_that_never_arrive_are_counted() -> None:
    tool = Tool()
    tool.works = False
    log = Log("mlflow", tool)
    with pytest.warns(UserWarning, match="gone"):
        log.log_metrics({"loss": 2.0}, 1)
    with pytest.warns(UserWarning, match=r"1 rows are missing in mlflow; metrics\.csv has all"):
        log.close("failed")


def test_a_log_that_goes_on_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of the tools are kept beside the run; steps that a tool has are not logged twice."""
    tool, places = Tool(), []
    monkeypatch.setitem(logs.TOOLS, "mlflow", logs._Tool((), lambda place: places.append(place) or tool))
    place = Place(tmp_path / "d" / "m" / "b" / "h" / "seed0", tmp_path, 0, "test_rsum")
    place.folder.mkdir(parents=True)
    open_logs(["mlflow"], place, {"model": {"class_path": "a.B"}}, place.folder, [])
    tool.reached = 1
    earlier = [{"step": str(step), "loss": f"{step}.5", "rsum": ""} for step in range(3)]
    (log,) = open_logs(["mlflow"], place, {"model": {"class_path": "a.B"}}, place.folder, earlier)
    assert [place.key for place in places] == [None, "k1"]
    assert tool.rows == [({"loss": 2.5}, 2)]
    assert (log.name, log.version, places[0].name) == ("mlflow", "k1", "d/m/b/h/seed0")
    (place.folder / logs.LOGS_NAME).write_text('{"mlflow": "../x", "other": "k", "wandb": 3}', encoding="utf-8")
    assert logs._keys(place.folder) == {"wandb": "3"}
    (place.folder / logs.LOGS_NAME).write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match="goes on in new logs"):
        assert logs._keys(place.folder) == {}


def test_settings_have_the_names_of_the_command_line() -> None:
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "m.M",
            "init_args": {"rank": 4, "task": {"class_path": "t.T", "init_args": {"k": None}}},
        },
        "trainer": {"callbacks": [{"class_path": "c.C"}]},
    }
    assert settings_of(config) == {
        "seed_everything": 0,
        "model": "m.M",
        "model.rank": 4,
        "model.task": "t.T",
        "model.task.k": "null",
        "trainer.callbacks.0": "c.C",
    }


def test_names_and_ends() -> None:
    assert log_names(None) == []
    assert log_names("wandb, mlflow,wandb") == ["wandb", "mlflow"]
    with pytest.raises(UsageError, match="did you mean wandb"):
        log_names("wanbd")
    ends = [None, Stopped, KeyboardInterrupt, ValueError]
    assert [status_of(end) for end in ends] == ["success", "KILLED", "KILLED", "failed"]
