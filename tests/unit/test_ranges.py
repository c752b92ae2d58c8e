"""Numbers of constructors say their range: whatever else a configuration gives is refused while it is parsed."""

from __future__ import annotations

import inspect
import pickle
import typing
from argparse import ArgumentTypeError
from importlib import import_module
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from methods.lora import LoRA
from petl_bench import ranges
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.backbones.clip.whole import WholeCLIP
from petl_bench.data.base import VideoTextDataModule
from petl_bench.optimizers import AdamWCosine, OfficialMVAdapter
from petl_bench.ranges import Count, Finite, NonNegative, Positive, Seed, Share, ShareBelowOne, Size, argument
from petl_bench.registry import list_entries
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.qa_classifier import AnswerClassifier
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.tasks.retrieval import Retrieval

PARTS = [CLIP, BLIP, WholeCLIP, Retrieval, MatchingRetrieval, AnswerClassifier, AnswerGeneration]
CLASSES = [
    *(getattr(import_module(e.module), e.name) for kind in ("methods", "datamodules") for e in list_entries(kind)),
    *PARTS,
    AdamWCosine,
    OfficialMVAdapter,
    VideoTextDataModule,
]
#: numbers that no range can be given for: layers count from the end, too, and the seed is linked from one with a range
FREE = {"merge_layers", "seed"}
NO_NUMBERS = ["a", "", "nan", ".nan", "1e999", ".inf", "-.inf", "true", "[1]", "{a: 1}", "None", "1_", "0x", "--1"]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_number_says_its_range(kind: type) -> None:
    hints = typing.get_type_hints(kind.__init__)
    names = [name for name in inspect.signature(kind.__init__).parameters if name not in FREE]
    plain = [name for name in names if {int, float} & set(_flat(hints.get(name)))]
    assert not plain, "use petl_bench.ranges, so that an impossible number is refused by its name"


def _flat(hint: Any) -> list[Any]:
    return [hint, *(part for inner in typing.get_args(hint) for part in _flat(inner))]


class Holder:
    """Has one argument of every kind."""

    def __init__(
        self,
        count: Count = 1,
        size: Size = 1,
        seed: Seed = 0,
        finite: Finite = 0.0,
        positive: Positive = 1.0,
        nonnegative: NonNegative = 0.0,
        share: Share = 0.0,
        below: ShareBelowOne = 0.0,
        maybe: Count | None = None,
        two: tuple[Size, Size] = (1, 1),
    ) -> None:
        self.values = dict(locals())


def parsed(name: str, text: str) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Holder, "holder")
    options = parser.parse_args(["--holder=Holder", f"--holder.{name}={text}"])
    dumped = yaml.safe_load(parser.dump(options))["holder"]["init_args"][name]
    value = parser.instantiate(options).holder.values[name]
    assert dumped == (list(value) if isinstance(value, tuple) else value)
    return value


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("count", ["1", "2147483647"], ["0", "-1", "1.5", "2147483648", "1e3", str(10**30), "9" * 4000]),
        ("size", ["1", "65536"], ["0", "-1", "0.5", "65537", str(10**30)]),
        ("seed", ["0", "4294967295"], ["-1", "4294967296", "0.5", str(2**64)]),
        ("finite", ["0", "-1.5", "1e300"], ["1e309"]),
        ("positive", ["1e-300", "3"], ["0", "-1e-9"]),
        ("nonnegative", ["0", "0.0", "3"], ["-1e-9"]),
        ("share", ["0", "1", "0.5"], ["-0.1", "1.1"]),
        ("below", ["0", "0.999"], ["1", "1.0", "-0.1"]),
        ("maybe", ["3"], ["0", "-1"]),
        ("two", ["[1, 2]"], ["[0, 1]", "[1]", "[1, 2, 3]", "[1, a]", "3"]),
    ],
)
def test_bounds(name: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        value = parsed(name, text)
        assert type(value) in (int, float, tuple), "a checkpoint of plain values must be able to hold it"
    for text in [*bad, *NO_NUMBERS]:
        with pytest.raises(ArgumentError, match=rf'Parser key "{name}"'):
            parsed(name, text)


@pytest.mark.parametrize("value", [True, "a", [1], {"a": 1}, float("nan"), float("inf"), 0, -1, 1.5])
def test_values_of_a_file(value: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Holder, "holder")
    with pytest.raises(ArgumentError, match="count"):
        parser.parse_object({"holder": {"class_path": f"{__name__}.Holder", "init_args": {"count": value}}})


def test_a_message_shows_what_was_given_in_a_few_letters() -> None:
    with pytest.raises(ArgumentTypeError, match=r"^expected a whole number from 1 to 65536, got x{57}\.\.\.$"):
        argument(Size)("x" * 100_000)
    assert argument(Count)("3") == 3
    assert argument(Positive)("2") == 2.0


def test_values_need_no_class_of_ours_to_be_read() -> None:
    """Optimisers put them into checkpoints, loaders send them to other processes."""
    recipe = AdamWCosine(lr=parsed("positive", "0.1"), betas=(0.9, 0.98))
    assert b"ranges" not in pickle.dumps(recipe.lr)
    assert isinstance(LoRA.__init__.__annotations__["rank"], str)  # in `--help` by its name
    assert ranges.Size.__doc__ == "a whole number from 1 to 65536."
