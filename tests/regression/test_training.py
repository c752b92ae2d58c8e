"""Every method trains as it did when its figures were recorded."""

import json
from pathlib import Path

import pytest

from tests.regression.training import FIGURES, configurations, train

RECORDED = json.loads(FIGURES.read_text(encoding="utf-8"))["figures"]


@pytest.mark.parametrize("config", configurations(), ids=lambda path: path.stem)
def test_figures(config: Path) -> None:
    assert config.stem in RECORDED, "new configuration: python -m tests.regression.training records its figures"
    figures = train(config)
    # Other processors and torch versions round differently, and a dozen steps amplify it a little.
    assert figures == pytest.approx(RECORDED[config.stem], rel=5e-3, abs=5e-3)
    assert figures[2] < figures[0], "training lowers the loss"
