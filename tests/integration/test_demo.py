"""`petl-bench demo` on little data: one command from nothing to a leaderboard, and what it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from petl_bench.cli.named_configs import list_configs
from petl_bench.commands.demo import METHODS, available_methods
from petl_bench.fixture import WRITERS
from petl_bench.main import main
from petl_bench.runs.record import read_result

QUICK = (
    *("--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"),
    *("--data.num_workers=0", "--data.batch_size=16"),
)


@pytest.fixture
def little_data(monkeypatch: pytest.MonkeyPatch) -> None:
    for layout in ("msrvtt", "stills"):
        small = partial(WRITERS[layout], train_videos=16, test_videos=4, captions_per_video=2)
        monkeypatch.setitem(WRITERS, layout, small)


@pytest.mark.usefixtures("little_data")
def test_from_nothing_to_a_leaderboard(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "shown", "--methods", "zeroshot", "lora", *QUICK]) == 0
    records = [read_result(path) for path in own_folder.rglob("shown/runs/**/result.json")]
    assert {record["model"]["method"] for record in records} == {"ZeroShot", "LoRA"}
    (pretrained,) = {record["model"]["weights_sha256"] for record in records}
    assert pretrained is not None, "the methods adapt the CLIP that the demo pretrained"
    page = (own_folder / "shown" / "report" / "leaderboard.md").read_text(encoding="utf-8")
    assert "| ZeroShot |" in page
    assert "| LoRA |" in page
    assert "data:image/jpeg" in (own_folder / "shown" / "report" / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in own_folder.iterdir()] == ["shown"]
    shown = capsys.readouterr().out
    assert "$ petl-bench fit --config=fixture_lora --data.root=shown/fixture" in shown

    assert main(["demo", "shown"]) == 2
    assert "shown holds something already: remove it, or give another folder" in capsys.readouterr().err


@pytest.mark.usefixtures("little_data")
def test_a_failing_step_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--methods", "linear", "--trainer.max_epoch=1", *QUICK]) == 2
    output = capsys.readouterr()
    assert "max_epochs" in output.err
    assert "--config=fixture_linear" not in output.out


@pytest.mark.usefixtures("little_data")
def test_options_that_leave_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--methods", "linear", "--trainer.fast_dev_run=1", *QUICK]) == 2
    assert "left 0 adapters below demo/pretrain: leave out --trainer.fast_dev_run=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--methods", "liner"], "did you mean linear?"),
        (["--methods", "xyz"], "choose of adaptformer"),
        (["one", "two"], "leave out 'two'"),
    ],
)
def test_wrong_arguments(arguments: list[str], told: str, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not list(own_folder.iterdir())


def test_what_can_be_shown_is_what_is_packaged() -> None:
    assert set(METHODS) < set(available_methods())
    assert {f"fixture_{method}.yaml" for method in available_methods()} < set(list_configs())
    assert not [method for method in available_methods() if "pretrain" in method or "blip" in method]
