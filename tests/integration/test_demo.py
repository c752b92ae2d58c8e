"""`petl-bench demo` on little data: one command from nothing to a leaderboard, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from petl_bench.cli.named_configs import list_configs
from petl_bench.commands.demo import METHODS, available_methods
from petl_bench.main import main
from petl_bench.runs.record import read_result

QUICK = (
    *("--train-videos=16", "--test-videos=8", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"),
    *("--data.num_workers=0", "--data.batch_size=16"),
)


def test_from_nothing_to_a_leaderboard(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "shown", "--methods", "zeroshot", "lora", *QUICK]) == 0
    records = [read_result(path) for path in own_folder.rglob("shown/runs/**/result.json")]
    assert {record["model"]["method"] for record in records} == {"ZeroShot", "LoRA"}
    assert {record["model"]["pretraining_data"] for record in records} == {"clip_small"}
    assert {record["eval"]["t2v"]["n"] for record in records} == {8}
    page = (own_folder / "shown" / "report" / "leaderboard.md").read_text(encoding="utf-8")
    assert "| ZeroShot |" in page
    assert "| LoRA |" in page
    assert "data:image/jpeg" in (own_folder / "shown" / "report" / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in own_folder.iterdir()] == ["shown"]
    shown = capsys.readouterr().out
    assert "$ petl-bench fixture shown/fixture --layout=diagnostic --train-videos=16 --test-videos=8" in shown
    assert "$ petl-bench fit --config=fixture_lora --data.root=shown/fixture" in shown

    assert main(["demo", "shown"]) == 2
    assert "shown holds something already: remove it, or give another folder" in capsys.readouterr().err


def test_a_failing_step_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--methods", "linear", "zeroshot", "--trainer.max_epoch=1", *QUICK]) == 2
    output = capsys.readouterr()
    assert "max_epochs" in output.err
    assert "--config=fixture_linear" in output.out
    assert "--config=fixture_zeroshot" not in output.out


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


def test_a_number_that_is_none(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--train-videos=0"])
    assert "argument --train-videos: expected a whole number from 1" in capsys.readouterr().err
    assert not list(own_folder.iterdir())


def test_what_can_be_shown_is_what_is_packaged() -> None:
    assert set(METHODS) < set(available_methods())
    assert {f"fixture_{method}.yaml" for method in available_methods()} < set(list_configs())
    assert not [method for method in available_methods() if "blip" in method]
