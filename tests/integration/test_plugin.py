"""Classes of others, and nothing else is touched.

README's "Add a method" is in a file of its own; `toybench` is an installed package with a method, a backbone, a dataset
and a task.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from petl_bench.cli.tiny_parts import default_options
from petl_bench.errors import UsageError
from petl_bench.main import main
from petl_bench.registry import GROUP, named_class
from petl_bench.testing import check_backbone, check_datamodule, check_method, check_task
from tests.integration.fixture_run import only_record, run
from tests.shared import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

BARE = '''
from petl_bench.method import Method


class Bare(Method):
    """Has an option without a default."""

    def __init__(self, towers: str, **kwargs):
        super().__init__(**kwargs)

    def inject(self, backbone): ...
'''

CONFIG = """
seed_everything: 0
trainer: trainer/fixture.yaml
data: data/fixture.yaml
model:
  class_path: scratch_gain.Gain
  init_args:
    backbone: backbone/clip_tiny.yaml
    task: task/retrieval.yaml
    optimizer:
      class_path: petl_bench.optimizers.AdamWCosine
      init_args:
        lr: 0.01
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (example,) = re.findall(r"^## Add a method\n.*?^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "scratch_gain.py").write_text(example, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "msrvtt_gain.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    yield path
    sys.modules.pop("scratch_gain", None)


def test_a_scratch_method_runs(config: Path, dataset: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert run("fit", str(config), dataset, runs) == 2, "class paths from outside need --plugins"
    assert run("fit", str(config), dataset, runs, "--plugins=scratch_gain") == 0
    _, record = only_record(runs)
    assert record["model"]["method"] == "Gain"
    assert record["model"]["trainable_params"] == 4 * 96 + 4 * 64


def test_a_scratch_method_is_listed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods"]) == 0
    assert "Gain" not in capsys.readouterr().out
    assert main(["list", "methods", "--plugins=scratch_gain"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Gain"))
    assert line.split(maxsplit=2)[1:] == ["scratch_gain", "Learns one factor per channel of every feed-forward branch."]


def test_an_option_without_a_default_is_named(config: Path) -> None:
    config.with_name("scratch_bare.py").write_text(BARE, encoding="utf-8")
    with pytest.raises(UsageError, match=r"^Bare has no default for towers, and no packaged configuration$"):
        default_options(named_class("scratch_bare.Bare"))
    sys.modules.pop("scratch_bare")


# --- the promise ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toybench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package as `pip install` leaves it: a folder on the path, and beside it what names it as a plug-in."""
    folder = tmp_path_factory.mktemp("site-packages")
    shutil.copytree(Path(__file__).with_name("toybench"), folder / "toybench")
    info = folder / "toybench-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toybench\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ntoybench = toybench\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "toybench"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """The toy dataset: generated clips, 8 to train on and 4 to test on."""
    folder = tmp_path_factory.mktemp("lines")
    videos = sorted(dataset.rglob("*.mp4"))[:12]
    (folder / "videos").mkdir()
    for video in videos:
        shutil.copy(video, folder / "videos")
    for split, part in (("train", videos[:8]), ("test", videos[8:])):
        text = "".join(f"{video.stem}\tclip {video.stem}\n" for video in part)
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def test_toys_are_listed(toybench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what, name in {
        "methods": "Shift",
        "backbones": "Bag",
        "tasks": "Ranking",
        "datamodules": "Lines",
        "configs": "toy.yaml",
    }.items():
        assert main(["list", what, name, "--json"]) == 0
        (found,) = (item for item in json.loads(capsys.readouterr().out) if item["name"] == name)
        assert found["summary"]
        assert what == "configs" or found["module"].startswith("toybench.")


def test_toys_are_in_the_matrix(toybench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "matrix", "shift", "--json"]) == 0
    reasons = {(c["backbone"], c["task"]): c["reason"] for c in json.loads(capsys.readouterr().out)}
    assert reasons["Bag", "ranking"] is reasons["CLIP", "ranking"] is reasons["BLIP", "matching"] is None
    assert "needs towers whose blocks can be replaced" in (reasons["WholeCLIP", "ranking"] or "")
    assert "Bag (bag) does not have that" in (reasons["Bag", "matching"] or "")


def test_toys_are_trained_and_tested(
    toybench: Path, lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--data.init_args.num_workers=0")
    assert main(["fit", "--config=toy", f"--data.init_args.root={lines}", f"--runs_dir={tmp_path}", *options]) == 0
    folder, record = only_record(tmp_path)
    assert (record["model"]["method"], record["model"]["backbone"]) == ("Shift", "bag")
    assert record["model"]["trainable_params"] == 2 * 3 * 32
    assert main(["test", f"--ckpt_path={folder / 'adapter.safetensors'}"]) == 0
    _, again = only_record(tmp_path, "test.json")
    assert again["eval"]["t2v"] == record["eval"]["t2v"]


def test_toys_pass_the_checks(toybench: Path, lines: Path) -> None:
    check_method("Shift", "toy")
    check_backbone("Bag")
    check_task("Ranking")
    check_datamodule("Lines", lines, "data/lines.yaml")


# --- the fair test ----------------------------------------------------------------------------------------------------


def test_a_demanding_method_moves_out_of_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (REPOSITORY / "methods" / "tempme.py").read_text(encoding="utf-8")
    (tmp_path / "scratch_tempme.py").write_text(source.replace("class TempMe(", "class Moved("), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    check_method("scratch_tempme.Moved", "fixture_tempme")
    monkeypatch.delitem(sys.modules, "scratch_tempme")
