"""The battery over every packaged method configuration."""

from pathlib import Path

import pytest

from petl_bench.named_configs import config_folder
from petl_bench.registry import list_entries
from tests.contract import battery

CONFIGS = [
    pytest.param(path, id=path.stem.removeprefix("fixture_")) for path in sorted(config_folder().glob("fixture_*.yaml"))
]


@pytest.mark.parametrize("config", CONFIGS)
def test_identity_at_init(config: Path) -> None:
    battery.check_identity_at_init(battery.builder(config))


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients(config: Path) -> None:
    battery.check_gradients(battery.builder(config))


@pytest.mark.parametrize("config", CONFIGS)
def test_reload(config: Path, tmp_path: Path) -> None:
    battery.check_reload(battery.builder(config), tmp_path)


@pytest.mark.parametrize("config", CONFIGS)
def test_refusals(config: Path) -> None:
    battery.check_refusals(battery.builder(config), battery.builder(config, init_seed=1))


@pytest.mark.parametrize("config", CONFIGS)
def test_padding(config: Path) -> None:
    battery.check_padding(battery.builder(config))


@pytest.mark.parametrize("config", CONFIGS)
def test_memory_savers(config: Path) -> None:
    battery.check_memory_savers(battery.builder(config))


def test_every_method_has_a_fixture_configuration() -> None:
    named = "\n".join(path.read_text(encoding="utf-8") for path in config_folder().glob("fixture_*.yaml"))
    missing = [entry for entry in list_entries("methods") if f"{entry.module}.{entry.name}\n" not in named]
    assert not missing
