"""Which packaged configuration a training is compared with, and how long that one trains."""

from __future__ import annotations

from collections.abc import Iterable

from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder, found_config, list_configs
from petl_bench.errors import UsageError
from petl_bench.runs.recipe import Recipe
from petl_bench.storage.untrusted import shown


def recipe_name(values: Iterable[str]) -> str | None:
    """The bare name of the last packaged configuration among `--config` values; fragments are no recipes."""
    folder = config_folder().resolve()
    paths = [path.resolve() for path in map(found_config, values) if path is not None]
    return next((path.stem for path in reversed(paths) if path.parent == folder), None)


def read_recipe(name: str) -> Recipe:
    """The recipe of a packaged configuration.

    Raises:
        UsageError: there is none of that name, or it does not say how long it trains.
    """
    if f"{name}.yaml" not in list_configs():
        raise UsageError(
            f"recipe {shown(name)} is no packaged configuration: `petl-bench list configs` shows them, or null"
        )
    trainer = composed(config_folder() / f"{name}.yaml").get("trainer")
    epochs = trainer.get("max_epochs") if isinstance(trainer, dict) else None
    if not isinstance(epochs, int):
        raise UsageError(f"recipe {shown(name)} does not say trainer.max_epochs: set recipe null")
    return Recipe(name, epochs)
