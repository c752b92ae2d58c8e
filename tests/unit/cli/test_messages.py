"""What jsonargparse says in a screen of text, in one line."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from jsonargparse import ArgumentError

from petl_bench.cli.config_safety import ClassPathGuard
from petl_bench.cli.configuration import Configuration, known_words
from petl_bench.cli.messages import is_about_configuration, readable
from petl_bench.registry import import_plugins


def told(argument: str) -> str:
    guard = ClassPathGuard()
    import_plugins()
    with pytest.raises(ArgumentError) as caught:
        Configuration("fit", ["--config=fixture_lora", argument], guard)
    return readable(str(caught.value), known_words)


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--trainer.max_epochs=a", "trainer.max_epochs: expected int or null, got a"),
        (
            "--trainer.limit_train_batches=a",
            "trainer.limit_train_batches: neither batches (1, 2, ...) nor their share (0.0 to 1.0): 'a'",
        ),
        ("--trainer.fast_dev_run=", "trainer.fast_dev_run: expected int or bool, got ''"),
        ("--trainer.callbacks=3", "trainer.callbacks: unknown class '3'"),
        ("--trainer.callbacks+=EarlyStopping", "trainer.callbacks: EarlyStopping needs monitor"),
        (
            "--trainer.callbacks=[{class_path: EarlyStopping, init_args: {monitor: 3}}]",
            "trainer.callbacks.init_args.monitor: expected str, got 3",
        ),
        ("--trainer.logger=CSVLogger", "trainer.logger: CSVLogger needs save_dir"),
        ("--trainer.max_epoch=1", "unknown option --trainer.max_epoch=1: did you mean 'max_epochs'?"),
        ("--trainer=3", "trainer: expected keys with values, or a file that holds them"),
        ("--model.init_args=3", "model: expected keys with values, or a file that holds them"),
        ("--model=LoRa", "model: unknown class 'LoRa': did you mean 'LoRA'?"),
        ("--model.init_args.rank=0", "model.init_args.rank: expected a whole number from 1 to 65536, got 0"),
        ("--model.init_args.targets=q", "model.init_args.targets: expected 'in_proj' or 'q_v', got q"),
        ("--model.init_args.rnk=1", "model: unknown option 'rnk': did you mean 'rank'?"),
        (
            "--model.init_args.backbone.init_args.pretrained=[1]",
            "model.init_args.backbone.init_args.pretrained: expected str or null, got [1]",
        ),
        (
            "--model.init_args.optimizer.init_args.lr=a",
            "model.init_args.optimizer.init_args.lr: expected a finite number above 0, got a",
        ),
        (
            "--model.init_args.optimizer.class_path=petl_bench.tasks.retrieval.Retrieval",
            "model.init_args.optimizer: petl_bench.tasks.retrieval.Retrieval is no OptimizerRecipe",
        ),
        ("--data.init_args.root=[1]", "data.init_args.root: expected a path"),
        ("--seed_everything=-1", "seed_everything: expected a whole number from 0 to 4294967295, got -1"),
        (f"--seed_everything={2**32}", "seed_everything: expected a whole number from 0 to 4294967295, got 4294967296"),
        ("--overwrite=x", "overwrite: expected bool, got x"),
        ("--trainer.max_epochs", "argument --trainer.max_epochs: expected one argument"),
    ],
)
def test_one_line(argument: str, line: str) -> None:
    assert told(argument) == line


def test_a_long_value_is_cut_and_stays_in_one_line() -> None:
    line = told("--trainer.max_epochs=" + "x x\n" * 1000)
    assert line.startswith("trainer.max_epochs: ")
    assert len(line) < 200
    assert "\n" not in line


def test_an_unknown_message_is_shown_as_it_is() -> None:
    assert readable("something\n  new", list) == "something new"


def test_what_is_raised_while_objects_are_made() -> None:
    message = (
        "Does not validate against any of the Union subtypes\nSubtypes: [<class 'int'>, <class 'NoneType'>]\n"
        "Errors:\n  - Problem with given class_path 'a.b.EarlyStopping':\n      `mode` can be min, max, got x\n"
        "  - Expected a <class 'NoneType'>\nGiven value type: <class 'str'>\nGiven value: Namespace(...)"
    )
    assert is_about_configuration(message)
    assert readable(message, list) == "EarlyStopping: `mode` can be min, max, got x"
    assert not is_about_configuration("shapes do not match")


def test_only_what_stands_in_a_file_is_blamed_on_it() -> None:
    def where(words: Sequence[str]) -> str:
        return " in own.yaml" if "model" in words else ""

    unknown = "Parser key \"model\":\n  Problem with given class_path 'a.LoRA':\n    Option 'rnk' is not accepted"
    assert readable(unknown, list, where) == "model: unknown option 'rnk'"
    wrong = 'Parser key "model":\n  Not of type int: expected a number'
    assert readable(wrong, list, where) == "model: expected a number in own.yaml"
