"""README's "Add a method", in a file of its own, runs through `fit` and the battery; nothing else is touched."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from petl_bench.main import main
from tests.contract import battery
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


def test_the_matrix_has_plugins(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petl_bench.commands.matrix.list_entries", lambda what: [])  # which take their time
    config.with_name("scratch_bare.py").write_text(BARE, encoding="utf-8")
    assert main(["list", "matrix", "--plugins=scratch_gain", "--plugins=scratch_bare", "--json"]) == 0
    sys.modules.pop("scratch_bare")
    reasons: dict[str, set[str | None]] = {}
    for cell in json.loads(capsys.readouterr().out):
        reasons.setdefault(cell["method"], set()).add(cell["reason"])
    assert None in reasons["Gain"]
    assert reasons["Bare"] == {"Bare has no default for towers, and no fixture configuration"}


def test_a_scratch_method_passes_the_battery(config: Path, tmp_path: Path) -> None:
    build = battery.builder(config)
    battery.check_identity_at_init(build)
    battery.check_gradients(build)
    battery.check_reload(build, tmp_path)
    battery.check_refusals(build, battery.builder(config, init_seed=1))
    battery.check_padding(build)
    battery.check_memory_savers(build)
