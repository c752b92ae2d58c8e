"""Every method trains as it did when its figures were recorded."""

import json
import re
from pathlib import Path

import pytest

from tests.regression import training
from tests.regression.training import FIGURES, configurations, train

FILE = json.loads(FIGURES.read_text(encoding="utf-8"))
RECORDED = FILE["figures"]


@pytest.mark.parametrize("config", configurations(), ids=lambda path: path.stem)
def test_figures(config: Path) -> None:
    """A configuration without figures has to learn all the same; `python -m tests.regression.training` records them."""
    figures = train(config)
    # Other processors and torch versions round differently, and a dozen steps amplify it a little.
    assert figures == pytest.approx(RECORDED.get(config.stem, figures), rel=5e-3, abs=5e-3)
    assert figures[2] < figures[0], "training lowers the loss"


def test_no_figures_are_lost() -> None:
    assert RECORDED.keys() <= {path.stem for path in configurations()}
    assert len(RECORDED) > 20


def test_figures_name_their_commit() -> None:
    assert re.fullmatch("[0-9a-f]{40}", FILE["commit"])


@pytest.mark.parametrize("code", [{"commit": "0" * 40, "dirty": True}, {"commit": None, "dirty": None}])
def test_figures_of_no_commit_are_not_recorded(code: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    before = FIGURES.read_bytes()
    monkeypatch.setattr(training, "environment", lambda: code)
    with pytest.raises(SystemExit, match="commit your changes first"):
        training.record()
    assert FIGURES.read_bytes() == before
