"""`--log`: tools that a training is watched in, beside its own `metrics.csv`.

A tool is for looking on: what it cannot take is handed over later, and no run ends by it. Whatever else one may set
about a tool (address, account, project, offline) is set by its own environment variables.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_warn

from petl_bench.errors import UsageError
from petl_bench.formats import shown
from petl_bench.machine.signals import Stopped
from petl_bench.runs.record import leaves
from petl_bench.storage.files import FileError, write_atomically
from petl_bench.storage.untrusted import UnreadableError, parse_json, read_text

#: of a run: under which id each tool has its log
LOGS_NAME = "logs.json"
#: the project, or experiment, unless the tool's environment variable names another one
_PROJECT = "petl_bench"
#: seconds from a failure to the next try, at least; and how many times as long as the failed one took
_PAUSE, _TIMES = 60.0, 20.0


@dataclass(frozen=True)
class Place:
    """What the log of a run is opened with.

    Attributes:
        folder: of the run.
        runs: below which all runs are.
        steps: where the run goes on; 0 of a new one.
        figure: the test figure that runs are compared by.
        key: id of the log in the tool from the first start of the run on; None of a new one.
    """

    folder: Path
    runs: Path
    steps: int
    figure: str
    key: str | None = None

    @property
    def name(self) -> str:
        """Of the run, for people: where its folder is below the others."""
        return "/".join(self.folder.parts[-5:])

    @property
    def group(self) -> str:
        """What runs that differ in their seed alone have in common."""
        return "/".join(self.folder.parts[-5:-1])


# --- the tools --------------------------------------------------------------------------------------------------------


class _TensorBoard(TensorBoardLogger):
    """Event files in the run's folder; what a killed run logged after its last checkpoint is hidden by a mark."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.folder, name="", version="tensorboard", purge_step=place.steps)
        began = any(Path(self.log_dir).glob("events*"))
        self.key, self.reached, self._figure = "tensorboard", place.steps - 1 if began else -1, place.figure

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(params, {"loss": math.nan, self._figure: math.nan}):  # the names count
            self.experiment._get_file_writer().add_summary(summary)

    def save(self) -> None:
        self.experiment.flush()  # and no second file of options beside config.yaml


class _Wandb(WandbLogger):
    """W&B takes steps in their order only: those that it has are not logged twice."""

    def __init__(self, place: Place) -> None:
        self.key = place.key or secrets.token_hex(4)
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        super().__init__(
            place.name, place.folder, self.key, project=project, group=place.group, reinit="finish_previous"
        )
        self.reached = int(self.experiment.starting_step) - 1

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log({**metrics, "trainer/global_step": step}, step=step)

    def finalize(self, status: str) -> None:
        self.experiment.finish(exit_code=int(status != "success"))


class _MLflow(MLFlowLogger):
    """MLflow keeps whatever it is given: what it has of a run that goes on is asked for."""

    def __init__(self, place: Place) -> None:
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else place.runs.absolute() / "mlflow.db"
        if local:
            local.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(
            os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
            run_name=place.name,
            tracking_uri=f"sqlite:///{local}" if local else os.environ["MLFLOW_TRACKING_URI"],
            tags={"group": place.group},
            artifact_location=local.with_name("mlflow").as_uri() if local else None,
            run_id=place.key,
        )
        self._goes_on, self._last, self.reached = place.key is not None, dict[str, int](), -1
        self.key = self.run_id
        if self._goes_on:
            self.experiment.update_run(self.run_id, status="RUNNING")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        new = {name: value for name, value in metrics.items() if (step or 0) > self._last_step(name)}
        if new:
            super().log_metrics(new, step)

    def _last_step(self, name: str) -> int:
        """The last step of a metric that MLflow has from before this process."""
        if self._goes_on and name not in self._last:
            history = self.experiment.get_metric_history(self.run_id, name)
            self._last[name] = max((metric.step for metric in history), default=-1)
        return self._last.get(name, -1)


class _Trackio(Logger):
    """Trackio, which has no logger for Lightning of its own."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.key = place.key or secrets.token_hex(4)
        self._trackio = import_module("trackio")
        with redirect_stdout(io.StringIO()):  # it prints in colours, also where nothing shows them
            self._run = self._trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
                name=f"{place.name} {self.key}",  # a run is known by its name alone, in all folders of the user
                group=place.group,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.reached = self._run._next_step - 1

    @property
    def name(self) -> str:
        return self._run.project

    @property
    def version(self) -> str:
        return self._run.name

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._run.config |= params

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._run.log(dict(metrics), step)

    def finalize(self, status: str) -> None:
        with redirect_stdout(io.StringIO()):
            self._trackio.finish()


class _Tool(NamedTuple):
    """A tool: the packages of which one must be there, and what opens a log in it."""

    packages: tuple[str, ...]
    open: Callable[[Place], Any]


TOOLS = {
    "tensorboard": _Tool(("tensorboard",), _TensorBoard),
    "wandb": _Tool(("wandb",), _Wandb),
    "mlflow": _Tool(("mlflow",), _MLflow),
    "trackio": _Tool(("trackio",), _Trackio),
}


# --- which ones -------------------------------------------------------------------------------------------------------


def log_names(given: str | None) -> list[str]:
    """The tools that `--log` names, each once.

    Raises:
        UsageError: there is no tool of a name; it suggests one.
    """
    names = list(dict.fromkeys(name.strip() for name in (given or "").split(",")))
    if given is None:
        return []
    for name in names:
        if name not in TOOLS:
            close = get_close_matches(name, TOOLS, 1)
            hint = f"did you mean {close[0]}?" if close else f"names are {', '.join(TOOLS)}, with commas in between"
            raise UsageError(
                f"log is {shown(given)}: there is no {shown(name) if name else 'tool without name'}; {hint}"
            )
    return names


def require_logs(given: str | None, logger: Any) -> None:
    """Refuses tools that are not there.

    Args:
        given: `--log`.
        logger: `trainer.logger`, which may turn all logs off.

    Raises:
        UsageError: naming the tool and the command that installs it.
    """
    names = log_names(given)
    for name in names:
        if not any(map(find_spec, TOOLS[name].packages)):
            raise UsageError(f"log is {given}: {name} is not installed: pip install 'petl-bench[{name}]'")
    if names and logger is False:
        raise UsageError(f"log is {given}, and trainer.logger is false: leave out one of them")


# --- a log ------------------------------------------------------------------------------------------------------------


class Log(Logger):
    """The log of a run in one tool; while the tool takes nothing, what it should have is kept.

    Args:
        tool: its name.
        logger: Lightning's, or one like it, whose `reached` is the last step that the tool has already.
    """

    def __init__(self, tool: str, logger: Any) -> None:
        super().__init__()
        self.tool, self._logger = tool, logger
        self._kept: deque[tuple[dict[str, float], int]] = deque()
        self._again_at, self._failing = 0.0, False

    @property
    def name(self) -> str | None:
        return self.tool

    @property
    def version(self) -> str | None:
        return self._logger.key

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `open_logs` has logged the configuration."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if (step or 0) > self._logger.reached:
            self._kept.append((dict(metrics), step or 0))
        if time.monotonic() >= self._again_at:
            self._hand_over()

    def finalize(self, status: str) -> None:
        """Nothing: a fit is not over with its training. See `close`."""

    def close(self, status: str) -> None:
        """Ends the log.

        Args:
            status: `success`, `failed` or `KILLED`.
        """
        if status != "KILLED" or not self._failing:  # who is asked to end waits for nothing
            self._hand_over()
        try:
            self._logger.finalize(status)
        except Exception as error:
            rank_zero_warn(f"the log in {self.tool} was not ended: {_one_line(error)}")
        if self._kept:
            rank_zero_warn(f"{len(self._kept)} rows are missing in {self.tool}; metrics.csv has all")

    def _hand_over(self) -> None:
        started = time.monotonic()
        try:
            while self._kept:
                self._logger.log_metrics(*self._kept[0])
                self._kept.popleft()
            self._logger.save()
            self._failing = False
        except Exception as error:
            now = time.monotonic()
            self._again_at = now + max(_PAUSE, _TIMES * (now - started))
            if not self._failing:
                rank_zero_warn(f"{self.tool} takes nothing: {_one_line(error)}; the run goes on, and tries again later")
            self._failing = True


def open_logs(
    names: Sequence[str], place: Place, config: dict[str, Any], before: Path, earlier: Sequence[Mapping[str, str]]
) -> list[Log]:
    """The logs of a run in tools; what an earlier part of it has logged is completed.

    Args:
        names: of the tools.
        place: of the run.
        config: of the run, resolved.
        before: folder of the part of the run that is continued, or of this one.
        earlier: rows of `metrics.csv` that are kept.

    Raises:
        UsageError: a tool cannot begin the log of a new run.
    """
    keys, logs = _keys(before), []
    for name in names:
        if (log := _opened(name, replace(place, key=keys.get(name)), config)) is None:
            continue
        logs.append(log)
        for row in earlier:
            log.log_metrics(_figures(row), int(row["step"]))
    keys |= {log.tool: log.version for log in logs if log.version}
    try:
        write_atomically(place.folder / LOGS_NAME, json.dumps(keys, indent=1, sort_keys=True) + "\n")
    except FileError as error:
        rank_zero_warn(f"{error}; if the run is interrupted, it goes on in new logs")
    return logs


def status_of(kind: type[BaseException] | None) -> str:
    """How a run ended, from what ended it: `success`, `KILLED` or `failed`."""
    if kind is None:
        return "success"
    return "KILLED" if issubclass(kind, (Stopped, KeyboardInterrupt, SystemExit)) else "failed"


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as tools show it: one value for each option, by its name on the command line."""
    found = {re.sub(r"\.(init_args|class_path)(?=\.|$)", "", key): value for key, value in leaves(config)}
    return {key: "null" if value is None else value for key, value in found.items()}


def _opened(name: str, place: Place, config: dict[str, Any]) -> Log | None:
    """The log in a tool; None if a run that goes on has to do without."""
    try:
        logger = TOOLS[name].open(place)
        logger.log_hyperparams(settings_of(config))
    except Exception as error:
        told = f"log: {name} cannot begin: {_one_line(error)}"
        if not place.steps:
            raise UsageError(told) from error
        rank_zero_warn(f"{told}; the run goes on without")
        return None
    return Log(name, logger)


def _keys(folder: Path) -> dict[str, str]:
    """Ids of a run's logs; of a file that is not there, or is none of ours, none."""
    try:
        found = parse_json(read_text(folder / LOGS_NAME)) if (folder / LOGS_NAME).is_file() else {}
    except (UnreadableError, RecursionError) as error:
        rank_zero_warn(f"{folder / LOGS_NAME} cannot be read, the run goes on in new logs: {error}")
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {tool: str(key) for tool, key in pairs if tool in TOOLS and re.fullmatch(r"[\w-]{1,64}", str(key))}


def _figures(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if value and name != "step"}


def _one_line(error: Exception) -> str:
    return shown(f"{type(error).__name__}: {error}", 300)
