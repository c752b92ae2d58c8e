"""Modules that run late: with stand-ins for what others take of them, and as if imported ordinarily from then on."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from petl_bench import late_imports
from tests.unit.test_late_torchmetrics import run

#: says each time that it runs
HEAVY = """
import sys
sys.ran.append(__name__)
class Tower:
    def __init__(self, width, depth=1):
        self.size = (width, depth)
class Newer:
    pass
def double(number):
    return 2 * number
"""
TAKES = "from late_package.heavy import Tower, double\nclass Model:\n    tower = Tower\n"

CLIP = """
import sys
import petl_bench.backbones.clip
import open_clip, torch
late = {"transformers", "timm", "open_clip.hf_configs"} & set(sys.modules)
assert not late, late
timm_tower = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 32}
text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
model = open_clip.CLIP(8, open_clip.CLIPVisionCfg(**timm_tower), open_clip.CLIPTextCfg(**text))
assert "timm" in sys.modules and "transformers" not in sys.modules
assert type(model.visual) is open_clip.model.TimmModel is open_clip.timm_model.TimmModel
from open_clip import CoCa
from open_clip.coca_model import MultimodalCfg
assert "transformers" in sys.modules
assert open_clip.CoCa is open_clip.factory.CoCa is open_clip.coca_model.CoCa and isinstance(open_clip.CoCa, type)
assert "open_clip.hf_configs" not in sys.modules
assert not isinstance(model.visual, open_clip.model.HFTextEncoder)
assert issubclass(open_clip.model.HFTextEncoder, torch.nn.Module)
"""

PLOTS = """
import sys
import petl_bench
import pytorch_lightning
from torchmetrics import Metric, MetricCollection
assert "matplotlib" not in sys.modules
from torchmetrics.aggregation import MeanMetric
assert "matplotlib" not in sys.modules
import matplotlib
import torchmetrics.metric, torchmetrics.utilities.plot as plot
matplotlib.use("agg")
metric = MeanMetric()
metric.update(3.0)
figure, axes = metric.plot()
assert isinstance(axes, matplotlib.axes.Axes)
assert torchmetrics.metric.plot_single_or_multi_val is plot.plot_single_or_multi_val
assert torchmetrics.collections._AX_TYPE is matplotlib.axes.Axes
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A package with a module that takes something of a late one; the names of what has run."""
    folder = tmp_path / "late_package"
    folder.mkdir()
    folder.joinpath("__init__.py").write_text("")
    folder.joinpath("heavy.py").write_text(HEAVY)
    folder.joinpath("takes.py").write_text(TAKES)
    monkeypatch.syspath_prepend(tmp_path)
    ran: list[str] = []
    monkeypatch.setattr(sys, "ran", ran, raising=False)
    finders = list(sys.meta_path)
    late_imports.arrange("late_package.heavy", stand_ins=["Tower", "double"])
    yield ran
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.partition(".")[0] == "late_package"]:
        del sys.modules[name]


def taking() -> ModuleType:
    return importlib.import_module("late_package.takes")


def heavy() -> ModuleType:
    return sys.modules["late_package.heavy"]


def test_what_is_taken_and_not_used_does_not_run(package: list[str]) -> None:
    takes = taking()
    importlib.import_module("late_package.heavy")
    assert hasattr(takes, "Tower")
    assert package == []


def test_a_call_runs_it_once_and_who_took_a_stand_in_has_the_class(package: list[str]) -> None:
    takes = taking()
    kept = takes.Tower
    assert takes.Tower(3, depth=2).size == (3, 2)
    assert takes.Tower is heavy().Tower
    assert takes.double is heavy().double
    assert kept(4).size == (4, 1)  # in hands that nobody knows
    assert takes.Model.tower(5).size == (5, 1)
    assert package == ["late_package.heavy"]


def test_a_stand_in_is_a_base_and_what_isinstance_asks_for(package: list[str]) -> None:
    tower = taking().Tower

    class Wide(tower):
        pass

    assert issubclass(Wide, heavy().Tower)
    assert issubclass(Wide, tower)
    assert tower.__name__ == "Tower"
    assert isinstance(Wide(1), tower)
    assert not isinstance("text", tower)
    assert package == ["late_package.heavy"]


def test_another_name_has_the_module_run_at_once(package: list[str]) -> None:
    """So do other versions of a package that take more of it."""
    takes = taking()
    newer = importlib.import_module("late_package.heavy").Newer
    assert package == ["late_package.heavy"]
    assert newer is heavy().Newer
    assert isinstance(takes.Tower, type)
    assert "__getattr__" not in vars(heavy())
    assert type(heavy().__loader__).__name__ == type(vars(heavy())["__spec__"].loader).__name__ == "SourceFileLoader"
    with pytest.raises(AttributeError, match="NoSuchName"):
        heavy().NoSuchName  # noqa: B018  # asking for it is what raises


def test_threads_wait_for_the_one_that_runs_it(package: list[str]) -> None:
    tower, found = taking().Tower, []
    threads = [threading.Thread(target=lambda: found.append(tower(1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(each) for each in found] == [heavy().Tower] * 4
    assert package == ["late_package.heavy"]


def test_a_module_that_fails_tells_each_time(package: list[str], tmp_path: Path) -> None:
    tmp_path.joinpath("late_package", "heavy.py").write_text("import no_such_module_at_all\n")
    importlib.invalidate_caches()
    takes = taking()
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
            takes.Tower(1)


def test_a_module_that_is_gone_is_missed_as_ever(package: list[str], tmp_path: Path) -> None:
    tmp_path.joinpath("late_package", "heavy.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match=r"late_package\.heavy"):
        taking()


def test_what_is_there_stays(package: list[str]) -> None:
    before = list(sys.meta_path)
    late_imports.arrange("json", stand_ins=["loads"])
    assert sys.meta_path == before


def test_open_clip_comes_without_transformers_and_timm() -> None:
    run(CLIP)


def test_lightning_comes_without_matplotlib() -> None:
    pytest.importorskip("matplotlib")
    run(PLOTS)
