"""Values that the types of options let pass, and nothing can be done with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from petl_bench.cli.values import LONGEST, require_possible
from petl_bench.errors import UsageError
from tests.unit.runs.test_trainer_options import options

LORA = {"rank": 8, "targets": "in_proj", "scale": 1.0, "optimizer": None}
MSRVTT = {"root": Path("data"), "train_list": None, "frame_rate": None, "spec": None, "batch_size": 8}


def parsed(model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **changed: Any) -> Namespace:
    task = Namespace(class_path="petl_bench.tasks.retrieval.Retrieval", init_args=Namespace(temperature=None))
    lora = Namespace(**{**LORA, "task": task, **(model or {})})
    run = {"seed_everything": 0, "runs_dir": "runs", "overwrite": False, "allow_change": [], "collective_timeout": 1}
    run["record_words"] = True
    return Namespace(
        **{**run, "zero_shot": False, "best_on_val": False, "save_every_n_steps": None, "ckpt_path": None, **changed},
        trainer=options(),
        model=Namespace(class_path="methods.lora.LoRA", init_args=lora),
        data=Namespace(class_path="datamodules.msrvtt.MSRVTT", init_args=Namespace(**{**MSRVTT, **(data or {})})),
    )


def refused(value: Namespace) -> str:
    with pytest.raises(UsageError) as caught:
        require_possible(value)
    return str(caught.value)


def test_a_null_that_is_meant() -> None:
    require_possible(parsed())


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"model": {"rank": None}}, "model.init_args.rank"),
        ({"model": {"targets": None}}, "model.init_args.targets"),
        ({"data": {"batch_size": None}}, "data.init_args.batch_size"),
        ({"data": {"root": None}}, "data.init_args.root"),
        ({"seed_everything": None}, "seed_everything"),
        ({"runs_dir": None}, "runs_dir"),
        ({"collective_timeout": None}, "collective_timeout"),
    ],
)
def test_a_null_that_nothing_takes(changed: dict[str, Any], name: str) -> None:
    assert refused(parsed(**changed)) == f"{name} is null: give a value, or leave it out"


def test_a_null_of_a_nested_class() -> None:
    task = Namespace(class_path="petl_bench.tasks.retrieval.Retrieval", init_args=Namespace(mask_duplicates=None))
    assert refused(parsed({"task": task})).startswith("model.init_args.task.init_args.mask_duplicates is null")
    stopping = Namespace(
        class_path="pytorch_lightning.callbacks.EarlyStopping", init_args=Namespace(monitor="loss", patience=None)
    )
    value = parsed()
    value.trainer.callbacks = [stopping]
    assert refused(value).startswith("trainer.callbacks.init_args.patience is null")
    value.trainer.callbacks, value.trainer.max_steps = None, None
    assert refused(value).startswith("trainer.max_steps is null")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\0b", "holds a NUL character"),
        ("\ud800", "holds letters that no file name has here"),
        ("x" * (LONGEST + 1), f"has {LONGEST + 1} letters"),
        ("中" * LONGEST, f"has {3 * LONGEST} letters"),
    ],
)
def test_text_that_no_file_can_be_called_by(text: str, told: str) -> None:
    assert refused(parsed(runs_dir=text)).startswith(f"runs_dir {told}")
    assert refused(parsed(data={"train_list": text})).startswith(f"data.init_args.train_list {told}")
    assert refused(parsed(allow_change=[text])).startswith(f"allow_change {told}")


def test_names_that_are_not_utf_8_are_names() -> None:
    require_possible(parsed(runs_dir="runs\udcff", data={"root": Path("数据\udcff")}))
