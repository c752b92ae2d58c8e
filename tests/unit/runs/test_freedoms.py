"""Classes of Lightning that a run may name, and why the others are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from jsonargparse import Namespace
from pytorch_lightning import callbacks, loggers, plugins, profilers, strategies
from pytorch_lightning.callbacks.timer import Interval

from petl_bench.errors import UsageError
from petl_bench.runs import course, freedoms
from petl_bench.runs.freedoms import ALLOWED, foreign_classes, plain_defaults, refusal, refused_class, require_allowed
from petl_bench.runs.record import config_hash
from tests.shared import REPOSITORY
from tests.unit.runs.test_trainer_options import options

MODULES = {"callbacks": callbacks, "logger": loggers, "profiler": profilers, "plugins": plugins, "strategy": strategies}
NAMES = [(option, module, name) for option, module in MODULES.items() for name in module.__all__]


def given(name: str, **arguments: Any) -> Namespace:
    return Namespace(class_path=name, init_args=Namespace(**arguments))


@pytest.mark.parametrize(("option", "module", "name"), NAMES, ids=lambda value: str(value)[-40:])
def test_every_class_of_lightning_is_allowed_or_refused_by_name(option: str, module: Any, name: str) -> None:
    found = refusal(option, f"{module.__name__}.{name}", ())
    if getattr(module, name) in ALLOWED[option]:
        assert found is None
        return
    assert found is not None
    assert found.startswith(f"trainer.{option}: {name} is not a")
    assert len(found) < 500


def test_the_readme_says_what_is_allowed_and_what_it_changes() -> None:
    """The table's columns: callbacks, what they change, in State, hashed, resumable."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.partition("### Callbacks, loggers and profilers")[2].partition("\n### ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| `")]
    said = {name: row[2:] for row in rows[1:] for name in re.findall(r"`(\w+)`", row[0])}
    assert said == {
        kind.__name__: ["yes" if answer else "no" for answer in (_shortens(kind), _is_hashed(kind), _keeps_state(kind))]
        for kind in ALLOWED["callbacks"]
    }
    told = section[section.index("`trainer.logger` takes") :]
    assert all(f"`{kind.__name__}`" in told for option in ("logger", "profiler") for kind in ALLOWED[option])


def _shortens(kind: Any) -> bool:
    """Whether the record's `limits` name a callback that ended the training."""
    stopped: Any = kind.__new__(kind)
    stopped.__dict__ |= {"stopping_reason": "something", "monitor": "loss"}
    if kind is callbacks.Timer:
        stopped = callbacks.Timer(duration={"seconds": 0})
    return course._cause(stopped) is not None


def _is_hashed(kind: type) -> bool:
    without = config_hash({"trainer": {"callbacks": None}})
    return without != config_hash(
        {"trainer": {"callbacks": [{"class_path": f"pytorch_lightning.callbacks.{kind.__name__}"}]}}
    )


def _keeps_state(kind: Any) -> bool:
    return kind.state_dict is not callbacks.Callback.state_dict


def test_a_class_is_known_by_itself_and_not_by_its_path() -> None:
    assert refusal("callbacks", "pytorch_lightning.callbacks.early_stopping.EarlyStopping", ()) is None
    assert refusal("callbacks", "pytorch_lightning.callbacks.pruning.ModelPruning", ()) is not None
    assert refusal("callbacks", "pytorch_lightning.Callback", ()) is not None
    assert refusal("callbacks", "petl_bench.runs.cost.CostMeter", ()) is not None


def test_a_user_s_own_classes_are_theirs_to_vouch_for() -> None:
    path = "tests.unit.runs.test_freedoms.Own"
    assert refusal("callbacks", path, ()) is not None
    assert refusal("callbacks", path, ("tests",)) is None
    assert refusal("strategy", path, ("tests",)) is not None, "runs are spread by DDP only"
    mixed = options(callbacks=[given(path), given("pytorch_lightning.callbacks.Timer")], logger=given(path))
    assert foreign_classes(mixed, ("tests",)) == [path]
    require_allowed(options(callbacks=given(path)), ("tests",))


class Own(callbacks.ModelPruning):
    """Of a user."""


@pytest.mark.parametrize(
    ("option", "name", "arguments", "told"),
    [
        ("callbacks", "DeviceStatsMonitor", {"cpu_stats": None}, "needs psutil, which is not installed: pip install"),
        ("callbacks", "DeviceStatsMonitor", {"cpu_stats": True}, "needs psutil"),
        ("logger", "TensorBoardLogger", {}, "needs tensorboard or tensorboardX, which is not installed"),
        ("logger", "WandbLogger", {}, "needs wandb, which is not installed: pip install wandb"),
    ],
)
def test_a_package_that_is_not_there(
    option: str, name: str, arguments: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freedoms, "find_spec", lambda package: None)
    with pytest.raises(UsageError, match=rf"trainer\.{option}: {name} {told}"):
        require_allowed(options(**{option: given(f"{MODULES[option].__name__}.{name}", **arguments)}), ())
    monkeypatch.setattr(freedoms, "find_spec", lambda package: object())
    require_allowed(options(**{option: given(f"{MODULES[option].__name__}.{name}", **arguments)}), ())


def test_statistics_of_a_cpu_that_are_not_asked_for_need_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freedoms, "find_spec", lambda package: None)
    require_allowed(options(callbacks=[given("pytorch_lightning.callbacks.DeviceStatsMonitor", cpu_stats=False)]), ())


def test_a_monitor_needs_a_logger() -> None:
    monitor = given("pytorch_lightning.callbacks.LearningRateMonitor")
    require_allowed(options(callbacks=[monitor]), ())
    with pytest.raises(UsageError, match=r"LearningRateMonitor writes to loggers, and trainer\.logger is false"):
        require_allowed(options(callbacks=[monitor], logger=False), ())


def test_a_refused_class_is_named_where_its_arguments_are_wrong_too() -> None:
    message = (
        'Parser key "trainer.callbacks":\n  Does not validate\n  Errors:\n'
        "    - Problem with given class_path 'pytorch_lightning.callbacks.ModelPruning':\n"
        "        the following arguments are required: pruning_fn\n"
    )
    assert "ModelPruning is not allowed" in str(refused_class(message, ()))
    assert refused_class(message.replace("ModelPruning", "EarlyStopping"), ()) is None
    assert refused_class(message.replace("trainer.callbacks", "model"), ()) is None


def test_enumerations_become_text() -> None:
    timer = given("pytorch_lightning.callbacks.Timer", interval=Interval.step, duration=None)
    plain_defaults(options(callbacks=[timer]))
    assert timer.init_args.interval == "step"
    assert type(timer.init_args.interval) is str
