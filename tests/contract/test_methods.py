"""The battery over every packaged method configuration."""

from pathlib import Path

import pytest

from petl_bench.errors import UsageError
from petl_bench.named_configs import config_folder
from petl_bench.registry import list_entries
from tests.contract import battery

#: methods that do not run on a backbone, and what they say
HOLES = {("fixture_uniadapter", "clip"): "differ in width"}

CASES = [
    pytest.param(path, backbone, id=f"{path.stem.removeprefix('fixture_')}-{backbone}")
    for path in sorted(config_folder().glob("fixture_*.yaml"))
    for backbone in battery.BACKBONES
    if (path.stem, backbone) not in HOLES
]


@pytest.mark.parametrize(("name", "backbone", "words"), [(*place, words) for place, words in HOLES.items()])
def test_what_does_not_run_is_refused(name: str, backbone: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        battery.builder(config_folder() / f"{name}.yaml", backbone)()


@pytest.mark.parametrize(("config", "backbone"), CASES)
def test_identity_at_init(config: Path, backbone: str) -> None:
    battery.check_identity_at_init(battery.builder(config, backbone))


@pytest.mark.parametrize(("config", "backbone"), CASES)
def test_gradients(config: Path, backbone: str) -> None:
    battery.check_gradients(battery.builder(config, backbone))


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
    named = "\n".join(path.read_text(encoding="utf-8") for path in config_folder().glob("fixture_*.yaml"))
    missing = [entry for entry in list_entries("methods") if f"{entry.module}.{entry.name}\n" not in named]
    assert not missing
