"""One batch is not all of them, whichever library named `Union[float, int]` first."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning import Trainer

from petl_bench.cli.configuration import configured
from petl_bench.runs.trainer import CountingTrainer, Share

OPTIONS = [
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
    *("overfit_batches", "val_check_interval"),
]


class Reversed:
    """As if `typing` had turned the members of our unions round."""

    def __init__(
        self,
        limit_train_batches: Share | int | None = None,
        limit_val_batches: Share | int | None = None,
        limit_test_batches: Share | int | None = None,
        limit_predict_batches: Share | int | None = None,
        overfit_batches: Share | int = 0,
        val_check_interval: Share | int | None = None,
    ) -> None: ...


def parsed(parser: ArgumentParser, text: str, file: Path) -> list[Any]:
    """All options of the kind, set to a text on the command line and in a file."""
    file.write_text("trainer:\n" + "".join(f"  {name}: {text}\n" for name in OPTIONS), encoding="utf-8")
    given = ([f"--trainer.{name}={text}" for name in OPTIONS], [f"--config={file}"])
    return [parser.parse_args(arguments)["trainer"][name] for arguments in given for name in OPTIONS]


@pytest.mark.parametrize("kind", [CountingTrainer, Reversed])
def test_a_number_of_batches_or_a_share(kind: type, tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(kind, "trainer", fail_untyped=False, sub_configs=True)
    for text, expected in (("1", int), ("0", int), ("3", int), ("1.0", Share), ("0.5", Share), ("1.0e-1", Share)):
        found = parsed(parser, text, tmp_path / "a.yaml")
        assert {type(value) for value in found} == {expected}, text
        assert set(found) == {float(text)}
    for text in ("nan", "inf", "1.5", "-0.5", "true", "[1]"):
        with pytest.raises(ArgumentError, match="limit_train_batches"):
            parser.parse_args([f"--trainer.limit_train_batches={text}"])


def test_all_of_the_kind_are_declared() -> None:
    """Options of Lightning that are a number or a share of batches."""
    declared = inspect.signature(Trainer.__init__).parameters
    counts = {name for name in declared if name.endswith("_batches") and "float" in str(declared[name].annotation)}
    assert counts | {"val_check_interval"} == set(OPTIONS)
    ours = inspect.signature(CountingTrainer.__init__).parameters
    assert all(ours[name].default == declared[name].default for name in OPTIONS)


def test_a_resolved_configuration_keeps_the_difference(tmp_path: Path) -> None:
    def resolved(*given: str) -> dict[str, Any]:
        with configured("fit", ["--config=fixture_linear", *given]) as configuration:
            return configuration.dumped(configuration.options)["trainer"]

    first = resolved("--trainer.limit_train_batches=1", "--trainer.overfit_batches=1.0")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({"trainer": first}), encoding="utf-8")
    for trainer in (first, resolved(f"--config={tmp_path / 'again.yaml'}")):
        assert repr([trainer["limit_train_batches"], trainer["overfit_batches"]]) == "[1, 1.0]"
