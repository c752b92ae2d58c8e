"""The checks of `petl_bench.testing` over every method, with the options of each fixture configuration."""

from pathlib import Path

import pytest

from petl_bench.errors import UsageError
from petl_bench.testing import methods
from tests.contract.battery import BACKBONES, CASES, HOLES, TASKS, Case, builder

COMBINATIONS = [
    pytest.param(case, backbone, task, id=f"{case}-{backbone}-{task}")
    for case in CASES
    for backbone in BACKBONES
    for task in TASKS
    if (case.name, backbone, task) not in HOLES
]
#: where features are looked at
PLACES = [
    pytest.param(case, backbone, id=f"{case}-{backbone}")
    for case in CASES
    for backbone in BACKBONES
    if (case.name, backbone, "retrieval") not in HOLES
]
_CASES = {case.name: case for case in CASES}


@pytest.mark.parametrize(("name", "backbone", "task"), HOLES)
def test_what_does_not_fit_is_refused_in_these_words(name: str, backbone: str, task: str) -> None:
    with pytest.raises(UsageError) as refused:
        builder(_CASES[name], backbone, task)()
    assert str(refused.value).startswith(HOLES[name, backbone, task])
    assert "\n" not in str(refused.value)


def test_what_is_known_not_to_fit() -> None:
    """The holes follow from what classes declare; these were found by hand."""
    for place, words in {
        ("uniadapter", "clip", "retrieval"): "differ in width",
        ("linear", "blipvqa", "qa_generation"): "into a joint space",
        ("zeroshot", "blip", "qa_classifier"): "trains nothing",
        ("lora", "clip", "matching"): "text reads video",
        ("lora", "blip", "qa_generation"): "an answer decoder",
        ("lora", "blipvqa", "retrieval"): "a joint space",
    }.items():
        assert words in HOLES[place]


@pytest.mark.parametrize(("case", "backbone"), PLACES)
def test_identity_at_init(case: Case, backbone: str) -> None:
    methods.check_identity_at_init(builder(case, backbone))


@pytest.mark.parametrize(("case", "backbone", "task"), COMBINATIONS)
def test_gradients(case: Case, backbone: str, task: str) -> None:
    methods.check_gradients(builder(case, backbone, task))


@pytest.mark.parametrize(("case", "backbone"), PLACES)
def test_reload(case: Case, backbone: str, tmp_path: Path) -> None:
    methods.check_reload(builder(case, backbone), tmp_path)


@pytest.mark.parametrize(("case", "backbone"), PLACES)
def test_refusals(case: Case, backbone: str) -> None:
    methods.check_refusals(builder(case, backbone), builder(case, backbone, init_seed=1))


@pytest.mark.parametrize(("case", "backbone"), PLACES)
def test_padding(case: Case, backbone: str) -> None:
    methods.check_padding(builder(case, backbone))


@pytest.mark.parametrize(("case", "backbone"), PLACES)
def test_memory_savers(case: Case, backbone: str) -> None:
    methods.check_memory_savers(builder(case, backbone))
