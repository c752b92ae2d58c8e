import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.clip.model import CLIP
from petl_bench.commands.params import Component, components
from petl_bench.main import main
from petl_bench.method import Method
from petl_bench.nn.transformer import Block, Context, WrappedBlock
from petl_bench.tasks.retrieval import Retrieval

TINY = 3_900_545
PRETRAINED = "--model.init_args.backbone.init_args.pretrained"
RANDOM = "--model.init_args.backbone=backbone/clip_tiny.yaml"


class Gate(nn.Module):
    def __init__(self, width: int, shared: nn.Parameter) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 2), nn.Linear(2, width))
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * (1 + self.shared.sum())


class GatedBlock(WrappedBlock):
    def __init__(self, inner: Block, gate: Gate, prompts: int) -> None:
        super().__init__(inner)
        self.gates = nn.Sequential(gate)
        self.prompts = nn.ParameterList([nn.Parameter(torch.zeros(prompts, 3))])

    def feed_forward(self, x: Tensor, context: Context) -> Tensor:
        return self.inner.feed_forward(x, context) + self.gates(x)


class Gated(Method):
    """One gate in the first block of each tower, with a shared parameter, prompts, and an unfrozen norm."""

    def inject(self, backbone: Backbone) -> None:
        shared = nn.Parameter(torch.zeros(7))
        for tower in backbone.towers.values():
            tower.replace(0, GatedBlock(tower.blocks[0], Gate(tower.width, shared), prompts=4))
        backbone.towers["vision"].blocks[1].attention.out.requires_grad_(True)
        backbone.logit_scale.requires_grad_(True)


def test_components_by_part_and_kind() -> None:
    method = Gated(backbone=CLIP("tiny", None), task=Retrieval()).adapt()
    vision, text = (tower.width for tower in method.backbone.towers.values())
    expected = {
        Component("other", "CLIP.logit_scale", True, 1, 1),
        Component("vision+text", "Gate", False, 1, 7),
        Component("vision", "Gate", False, 4, 2 * 2 * vision + 2 + vision),
        Component("text", "Gate", False, 4, 2 * 2 * text + 2 + text),
        Component("vision", "GatedBlock.prompts.0", False, 1, 12),
        Component("text", "GatedBlock.prompts.0", False, 1, 12),
        Component("vision", "Attention.out.weight", True, 1, vision**2),
        Component("vision", "Attention.out.bias", True, 1, vision),
    }
    assert set(components(method)) == expected
    assert sum(component.parameters for component in components(method)) == method.parameter_counts()["trainable"]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def test_params_at_full_size_need_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "params", "--config", "msrvtt_adaptformer", PRETRAINED, "absent.safetensors")
    assert found["trainable"] == 1_982_976
    assert found["pretrained"] == 149_620_737
    assert found["total"] == 151_603_713
    assert [(c["part"], c["parameters"]) for c in found["components"]] == [("vision", 1_189_632), ("text", 793_344)]


def test_params_follow_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "params", "--config", "fixture_adaptformer", "--model.init_args.bottleneck_dim", "3")
    towers = CLIP("small", None).towers.values()
    assert found["trainable"] == sum(len(t.blocks) * (2 * 3 * t.width + 3 + t.width) for t in towers)


def test_params_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "--config", "fixture_linear", RANDOM]) == 0
    out = capsys.readouterr().out
    assert "unfrozen CLIPVisionTower.proj" in out
    assert f"10,240 of {TINY:,} parameters are trained" in out


def test_profile_measures_training_steps(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("profile", "--config", "fixture_adaptformer", RANDOM, "--trainer.devices", "4")
    found = answer(capsys, *command, "--steps", "2", "--clips", "3")
    train = found["train"]
    assert (found["frames"], found["max_words"]) == (8, 40)
    assert found["total_params"] == TINY + found["trainable_params"]
    assert found["gmacs_total"] > found["gmacs_vision"] > 0
    assert (train["device"], train["clips_per_step"], train["timed_steps"]) == ("cpu", 3, 2)
    assert train["clips_per_s"] > 0
    assert train["saved_activation_bytes"] > 0
    assert 0 <= train["peak_added_bytes"] < 500e6  # torch and the libraries alone take more
    assert train["peak_allocated_bytes"] is None


def test_profile_saves_in_proportion_to_clips_and_less_when_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    precision = "--trainer.precision=32-true"  # autocast keeps weights in bf16, too, however many clips there are

    def saved(config: str, clips: str) -> int:
        found = answer(capsys, "profile", "--config", config, precision, "--steps", "1", "--clips", clips)
        return found["train"]["saved_activation_bytes"]

    assert saved("fixture_adaptformer", "4") == pytest.approx(2 * saved("fixture_adaptformer", "2"), rel=0.02)
    assert saved("fixture_adaptformer", "2") < saved("fixture_full", "2")


def test_profile_of_a_method_that_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "profile", "--config", "fixture_zeroshot")["train"] is None
    assert main(["profile", "--config", "fixture_zeroshot"]) == 0
    assert "gmacs_vision" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["params", "profile"])
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--ckpt_path", "adapter.safetensors"], "ckpt_path"),
        (["--model.init_args.bottleneck_dimm", "3"], "bottleneck_dim"),
        (["--nonsense", "3"], "nonsense"),
    ],
)
def test_mistakes_are_told_in_one_line(
    command: str, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--config", "fixture_adaptformer", *extra]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("petl-bench: error: ")
    assert message in error


def test_steps_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["profile", "--config", "fixture_adaptformer", "--steps", "0"])
    assert stop.value.code == 2
    assert "expected a whole number from 1" in capsys.readouterr().err
