"""What can be told of a training before it begins: whether validation runs, and whether monitors see a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from petl_bench.errors import UsageError
from petl_bench.runs.course import course_of, require_monitored, require_own_folder, require_validation
from tests.unit.runs.test_trainer_options import options

VALIDATION = ("val_t2v_R1", "val_t2v_MdR", "val_rsum")


@pytest.mark.parametrize(
    ("changed", "batches", "total", "first"),
    [
        ({}, 4, 12, 4),
        ({"max_epochs": 0}, 4, 0, None),
        ({"limit_train_batches": 0}, 0, 0, None),
        ({"limit_train_batches": 3}, 3, 9, 3),
        ({"limit_train_batches": 0.5}, 2, 6, 2),
        ({"limit_train_batches": 100}, 4, 12, 4),
        ({"overfit_batches": 2, "limit_val_batches": 0}, 2, 6, None),
        ({"limit_val_batches": 0}, 4, 12, None),
        ({"val_check_interval": 0.5}, 4, 12, 2),
        ({"val_check_interval": 0.01}, 4, 12, 1),
        ({"val_check_interval": 3}, 4, 12, 3),
        ({"val_check_interval": 10, "check_val_every_n_epoch": None}, 4, 12, 10),
        ({"val_check_interval": 13, "check_val_every_n_epoch": None}, 4, 12, None),
        ({"check_val_every_n_epoch": 3}, 4, 12, 12),
        ({"check_val_every_n_epoch": 4}, 4, 12, None),
        ({"max_steps": 3}, 4, 3, None),
        ({"max_steps": 4}, 4, 4, 4),
        ({"max_steps": 100}, 4, 12, 4),
        ({"max_steps": 5, "max_epochs": -1}, 4, 5, 4),
        ({"max_steps": 2, "accumulate_grad_batches": 2}, 4, 4, 4),
        ({"max_steps": 1, "accumulate_grad_batches": 2}, 4, 2, None),
        ({"max_steps": 2, "accumulate_grad_batches": 3}, 4, 4, 4),  # the last step of an epoch is a smaller one
    ],
    ids=str,
)
def test_course(changed: dict[str, Any], batches: int, total: int, first: int | None) -> None:
    course = course_of(options(**changed), 4, validates=True)
    assert (course.batches, course.total, course.first_validation) == (batches, total, first)


def test_without_a_validation_split_nothing_is_validated() -> None:
    assert course_of(options(), 4, validates=False).first_validation is None
    assert course_of(options(overfit_batches=1), 4, validates=False).batches == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"val_check_interval": 1000}, r"val_check_interval is 1000, but an epoch has 4 batches"),
        ({"val_check_interval": 3, "limit_train_batches": 2}, r"val_check_interval is 3, but .* 2 batches of 4"),
        ({"limit_train_batches": 0.1}, r"limit_train_batches is 0\.1: that is less than one of the 4 batches"),
        ({"overfit_batches": 1}, r"overfit_batches is 1: it would validate on some samples only"),
    ],
)
def test_options_that_do_not_fit_the_epochs(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        course_of(options(**changed), 4, validates=True)


def test_an_interval_does_not_matter_where_nothing_is_validated() -> None:
    assert course_of(options(val_check_interval=1000, limit_val_batches=0), 4, validates=True).first_validation is None


def test_choosing_by_figures_that_never_come() -> None:
    require_validation(course_of(options(), 4, validates=True), "best_on_val is true")
    with pytest.raises(UsageError, match=r"best_on_val is true, but validation never runs: 12 batches are trained"):
        require_validation(course_of(options(check_val_every_n_epoch=4), 4, validates=True), "best_on_val is true")


def check(callback: Callback, validates: bool = True, **changed: Any) -> None:
    names = VALIDATION if validates else ()
    require_monitored([callback], course_of(options(**changed), 4, validates), ("loss", "logit_scale"), names)


@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_a_value_that_nobody_logs(kind: type) -> None:
    check(kind(monitor="val_rsum", mode="max"))
    check(kind(monitor="loss"))
    with pytest.raises(UsageError, match=r"monitors nope, which is not logged: use one of .*loss.*val_rsum"):
        check(kind(monitor="nope"))
    with pytest.raises(UsageError, match=r"monitors val_rsum, which is not logged: use one of logit_scale, loss$"):
        check(kind(monitor="val_rsum"), validates=False)
    with pytest.raises(UsageError, match=r"monitors val_rsum, but validation never runs"):
        check(kind(monitor="val_rsum"), check_val_every_n_epoch=5)


def test_early_stopping_that_looks_when_there_is_nothing_to_see() -> None:
    with pytest.raises(UsageError, match="set its check_on_train_epoch_end false"):
        check(EarlyStopping("val_rsum", mode="max", check_on_train_epoch_end=True), check_val_every_n_epoch=2)
    with pytest.raises(UsageError, match="set its check_on_train_epoch_end true"):
        check(EarlyStopping("loss", check_on_train_epoch_end=False), validates=False)
    with pytest.raises(UsageError, match="set its check_on_train_epoch_end true"):
        check(EarlyStopping("loss"), validates=False, check_val_every_n_epoch=2)
    check(EarlyStopping("val_rsum", mode="max"), check_val_every_n_epoch=2)
    check(EarlyStopping("val_rsum", mode="max"), val_check_interval=0.5)


@pytest.mark.parametrize(
    ("monitor", "mode", "right"),
    [
        ("val_rsum", "max", True),
        ("val_rsum", "min", False),
        ("val_t2v_MdR", "min", True),
        ("val_t2v_MdR", "max", False),
    ],
)
def test_a_direction_that_gets_worse_is_told(
    monitor: str, mode: str, right: bool, recwarn: pytest.WarningsRecorder
) -> None:
    check(EarlyStopping(monitor, mode=mode))
    assert (not [warning for warning in recwarn if "is better there" in str(warning.message)]) == right


def test_checkpoints_among_the_run_s_own(tmp_path: Path) -> None:
    require_own_folder([ModelCheckpoint(tmp_path / "mine"), ModelCheckpoint(), EarlyStopping("loss")], tmp_path)
    with pytest.raises(UsageError, match="give it another dirpath"):
        require_own_folder([ModelCheckpoint(tmp_path / "mine" / "..")], tmp_path)
