"""Numbers of constructors say their range: whatever else a configuration gives is refused while it is parsed."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from argparse import ArgumentTypeError
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from methods.lora import LoRA
from methods.mv_adapter import OfficialMVAdapter
from petl_bench import ranges
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.backbones.clip.whole import WholeCLIP
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.optimizers import AdamWCosine
from petl_bench.ranges import (
    Checked,
    Count,
    Finite,
    NonNegative,
    NonNegativeSize,
    OddSize,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
    Size,
    TextLength,
    argument,
)
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


class Holder(Checked):
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
        none_or_size: NonNegativeSize = 0,
        odd: OddSize = 1,
        length: TextLength = 3,
        mode: Literal["one", "two"] = "one",
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
        ("none_or_size", ["0", "65536"], ["-1", "65537"]),
        ("odd", ["1", "3", "65535"], ["0", "2", "65537", "-1", "1.0"]),
        ("length", ["3", "65536"], ["2", "0", "3.5"]),
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


# --- constructors that are called by other code -----------------------------------------------------------------------


class Heir(Holder):
    """Hands on what it does not know."""

    def __init__(self, own: Size, *, path: Path | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.own = own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"own": 0}, "Heir.own: expected a whole number from 1 to 65536, got 0"),
        ({"own": "4"}, "Heir.own: expected a whole number from 1 to 65536, got 4"),
        ({"count": True}, "Heir.count: expected a whole number from 1 to 2147483647, got True"),
        ({"share": float("nan")}, "Heir.share: expected a share from 0 to 1, got nan"),
        ({"maybe": 0}, "Heir.maybe: expected a whole number from 1 to 2147483647 or null, got 0"),
        ({"two": (1, 0)}, "Heir.two: expected a whole number from 1 to 65536, got (1, 0)"),
        ({"mode": "three"}, "Heir.mode: expected one or two, got three"),
        ({"size": None}, "Heir.size: expected a whole number from 1 to 65536, got None"),
    ],
)
def test_other_code_is_refused_what_a_parser_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Heir(**{"own": 1} | arguments)  # type: ignore[arg-type]  # on purpose
    assert str(caught.value) == message


def test_values_by_position_are_looked_at() -> None:
    with pytest.raises(UsageError, match=r"Heir\.own"):
        Heir(-1)
    with pytest.raises(UsageError, match=r"Holder\.size"):
        Holder(1, 0)


def test_what_is_allowed_is_passed_on_untouched() -> None:
    kernel = (np.int64(3), 5)
    two: Any = np.int64(2)
    heir = Heir(two, path=Path("x"), maybe=None, finite=1, two=kernel, mode="two", share=np.float32(0.5))
    assert heir.values["two"] is kernel
    assert (heir.own, heir.values["maybe"], heir.values["finite"]) == (2, None, 1)
    copied = copy.deepcopy(heir)
    assert copied.own == 2
    assert pickle.loads(pickle.dumps(copied)).own == 2


def test_a_missing_argument_is_told_by_python() -> None:
    with pytest.raises(TypeError, match="own"):
        Heir()  # type: ignore[call-arg]  # on purpose


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_what_a_configuration_names_is_checked(kind: type) -> None:
    assert issubclass(kind, Checked)
