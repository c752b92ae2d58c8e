"""Whether an adapter was trained elsewhere, and what its record is called then."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petl_bench.data.samples import Protocol
from petl_bench.errors import CheckpointError, DataError
from petl_bench.runs.transfer import Elsewhere, trained_elsewhere, transfer_name
from petl_bench.storage.descriptions import KEY, VERSION, FrameOptions, ModelDescription, Part, TrainingData, WeightFile

ADAPTER = Path("adapter.safetensors")
INPUTS = {
    **{"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "resize": "squash", "context_length": 8},
    **{"text_words": None, "sentence": "a", "tokens": [1]},
}
TRAINED = TrainingData("datamodules.rtime.RTime", "rtime-origin/v1", "a" * 64, (b"12345678",))


def data(id: str = "rtime-origin/v1", digest: str = "a" * 64, **given: Any) -> Any:
    own = {"partial": False, "fixture": False, "videos": {"test": 1000}} | given
    return SimpleNamespace(
        protocol=Protocol(id, own["videos"], {}),
        partial=own["partial"],
        is_fixture=lambda: own["fixture"],
        annotations_sha256=lambda: digest,
    )


def method(task: str = "retrieval", trained_for: str | None = "retrieval", described: bool = True) -> Any:
    part = Part("a.B", {})
    said = ModelDescription(
        *(part, part, part, WeightFile("b" * 64), INPUTS, FrameOptions(4, "uniform", 1, "pyav"), 32, TRAINED)
    )
    metadata = {KEY: said.as_metadata()} if described else {}
    return SimpleNamespace(
        adapter_metadata=metadata, trained_for=trained_for or task, task=SimpleNamespace(identity=task, name=task)
    )


def test_the_same_data_and_task_are_not_elsewhere() -> None:
    assert trained_elsewhere(method(), data(), ADAPTER) is None
    assert trained_elsewhere(method(trained_for=None, described=False), data(), ADAPTER) is None  # nothing was loaded


@pytest.mark.parametrize(
    ("task", "at_hand"),
    [
        ("retrieval", data("rtime-hard/v1")),
        ("retrieval", data(digest="c" * 64)),
        ("choice", data()),
    ],
)
def test_another_protocol_other_files_or_another_task_are(task: str, at_hand: Any) -> None:
    assert trained_elsewhere(method(task), at_hand, ADAPTER) == Elsewhere("retrieval", TRAINED)


def test_an_adapter_of_an_earlier_version_tells_its_task_only() -> None:
    assert trained_elsewhere(method(described=False), data("rtime-hard/v1"), ADAPTER) is None
    assert trained_elsewhere(method("choice", described=False), data(), ADAPTER) == Elsewhere("retrieval", None)


def test_files_that_are_missing_tell_nothing() -> None:
    at_hand = data()

    def missing() -> str:
        raise DataError("train.json is missing")

    at_hand.annotations_sha256 = missing
    assert trained_elsewhere(method(), at_hand, ADAPTER) is None


def test_a_description_of_a_later_version_is_refused() -> None:
    adapted = method()
    adapted.adapter_metadata[KEY]["version"] = VERSION + 1
    with pytest.raises(CheckpointError, match=f"in version {VERSION + 1}: update petl_bench"):
        trained_elsewhere(adapted, data(), ADAPTER)


def test_each_protocol_and_task_has_a_name_of_its_own() -> None:
    assert transfer_name(method(), data("rtime-hard/v1")) == "test_rtime-hard-v1_retrieval.json"
    assert transfer_name(method("choice"), data("rtime-binary/v1")) == "test_rtime-binary-v1_choice.json"
    assert transfer_name(method("choice_matching"), data("msrvtt-mc/v1")) == "test_msrvtt-mc-v1_choice_matching.json"


@pytest.mark.parametrize("given", [{"partial": True}, {"fixture": True}, {"videos": {}}])
def test_files_that_no_protocol_pins_are_named_by_their_digest(given: dict[str, Any]) -> None:
    ours, others = (transfer_name(method(), data("my data/own", digest, **given)) for digest in ("0f" * 32, "1f" * 32))
    assert (ours, others) == ("test_my-data-own_retrieval_0f0f0f0f.json", "test_my-data-own_retrieval_1f1f1f1f.json")
