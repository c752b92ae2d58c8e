"""The battery over every packaged method configuration."""

from pathlib import Path

import pytest

from petl_bench.cli.named_configs import config_folder
from petl_bench.errors import UsageError
from petl_bench.registry import list_entries
from tests.contract import battery

CONFIGS = sorted(config_folder().glob("fixture_*.yaml"))

#: tasks that no method can do on a backbone, and what they say
MISSING = {
    ("clip", "matching"): "text reads video",
    **{(backbone, "qa_generation"): "an answer decoder" for backbone in ("clip", "blip")},
    **{("blipvqa", task): "a joint space" for task in ("retrieval", "matching", "qa_classifier")},
}
#: configuration, backbone and task that do not run together, and what they say
HOLES = {(path.stem, *place): words for path in CONFIGS for place, words in MISSING.items()} | {
    ("fixture_uniadapter", "clip", "retrieval"): "differ in width",
    ("fixture_uniadapter", "clip", "qa_classifier"): "differ in width",
    ("fixture_linear", "blipvqa", "qa_generation"): "into a joint space",
    ("fixture_zeroshot", "clip", "qa_classifier"): "trains nothing",
    ("fixture_zeroshot", "blip", "qa_classifier"): "trains nothing",
}

COMBINATIONS = [
    pytest.param(path, backbone, task, id=f"{path.stem.removeprefix('fixture_')}-{backbone}-{task}")
    for path in CONFIGS
    for backbone in battery.BACKBONES
    for task in battery.TASKS
    if (path.stem, backbone, task) not in HOLES
]
CASES = [
    pytest.param(path, backbone, id=f"{path.stem.removeprefix('fixture_')}-{backbone}")
    for path in CONFIGS
    for backbone in battery.BACKBONES
    if (path.stem, backbone, "retrieval") not in HOLES
]


@pytest.mark.parametrize(("name", "backbone", "task", "words"), [(*place, words) for place, words in HOLES.items()])
def test_what_does_not_run_is_refused(name: str, backbone: str, task: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        battery.builder(config_folder() / f"{name}.yaml", backbone, task)()


@pytest.mark.parametrize(("config", "backbone"), CASES)
def test_identity_at_init(config: Path, backbone: str) -> None:
    battery.check_identity_at_init(battery.builder(config, backbone))


@pytest.mark.parametrize(("config", "backbone", "task"), COMBINATIONS)
def test_gradients(config: Path, backbone: str, task: str) -> None:
    battery.check_gradients(battery.builder(config, backbone, task))


@pytest.mark.parametrize(("config", "backbone"), CASES)
def test_reload(config: Path, backbone: str, tmp_path: Path) -> None:
    battery.check_reload(battery.builder(config, backbone), tmp_path)


@pytest.mark.parametrize(("config", "backbone"), CASES)
def test_refusals(config: Path, backbone: str) -> None:
    battery.check_refusals(battery.builder(config, backbone), battery.builder(config, backbone, init_seed=1))


@pytest.mark.parametrize(("config", "backbone"), CASES)
def test_padding(config: Path, backbone: str) -> None:
    battery.check_padding(battery.builder(config, backbone))


@pytest.mark.parametrize(("config", "backbone"), CASES)
def test_memory_savers(config: Path, backbone: str) -> None:
    battery.check_memory_savers(battery.builder(config, backbone))


def test_every_method_has_a_fixture_configuration() -> None:
    named = set(map(battery.method_of, CONFIGS))
    missing = [entry for entry in list_entries("methods") if f"{entry.module}.{entry.name}" not in named]
    assert not missing
