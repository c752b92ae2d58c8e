"""Exported towers compute what the model computes, for any number of texts and clips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from petl_bench.errors import CheckpointError, UsageError
from petl_bench.export import model as export
from tests.contract import battery, traced
from tests.contract.traced import inputs_of, model_of


def test_programs_of_torch(tmp_path: Path) -> None:
    model = model_of("fixture_blip_adaptformer", "blip")
    expected = {}
    for count in (1, 5):
        words, clips = inputs_of(model, count)
        expected[count] = words, clips, model.encode_words(words).pooled, model.encode_clips(clips).pooled
    told = export.export_model(model, tmp_path / "towers", "torch-export")
    assert told == json.loads((tmp_path / "towers" / "model.json").read_text(encoding="utf-8"))
    assert not told["folded"]
    assert (tmp_path / "towers" / "vocab.txt").is_file()
    read = {name: torch.export.load(tmp_path / "towers" / told[name]["file"]).module() for name in ("text", "video")}
    for words, clips, text, video in expected.values():
        torch.testing.assert_close(read["text"](*words[:2])[0], text, atol=1e-5, rtol=0)
        torch.testing.assert_close(read["video"](*clips)[0], video, atol=1e-5, rtol=0)


def test_onnx(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    model = model_of("fixture_zeroshot")
    words, clips = inputs_of(model, 1)
    expected = {"text": model.encode_words(words).pooled, "video": model.encode_clips(clips).pooled}
    told = export.export_model(model, tmp_path / "towers", "onnx")
    for name, given in (("text", words), ("video", clips)):
        onnx.checker.check_model(tmp_path / "towers" / told[name]["file"])
        session = onnxruntime.InferenceSession(tmp_path / "towers" / told[name]["file"])
        feeds = {key: value.numpy() for key, value in given._asdict().items() if key in told[name]["inputs"]}
        found = dict(zip(told[name]["outputs"], session.run(None, feeds), strict=True))
        torch.testing.assert_close(torch.from_numpy(found["features"]), expected[name], atol=1e-5, rtol=0)


class _Order(torch.nn.Module):
    """What TempMe sorts by."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.argsort(dim=-1, descending=True, stable=True), x.argsort(dim=1, stable=True)


def test_a_stable_sort_in_onnx(tmp_path: Path) -> None:
    """Torch's exporter lacks it; of equal values the first one comes first."""
    x = torch.randint(3, (3, 40, 50), generator=torch.Generator().manual_seed(0)).float()
    run = export._write_onnx(export.Graph("order", _Order(), {"x": x}, ("down", "up")), tmp_path)
    for found, expected in zip(run({"x": x}), _Order()(x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("config", ["fixture_vop", "fixture_st_adapter", "fixture_blip_cross_modal_adapter"])
def test_methods_can_be_traced(config: str) -> None:
    """`python -m tests.contract.traced` tries all of them."""
    assert traced.tried(battery.case_of(config), "blip" if "blip" in config else "clip") <= 1e-6


def test_a_graph_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = export._write_program
    monkeypatch.setattr(
        export, "_write_program", lambda *given: lambda inputs: tuple(1.001 * x for x in write(*given)(inputs))
    )
    with pytest.raises(CheckpointError, match="the text tower as a graph differs from the model by"):
        export.export_model(model_of("fixture_zeroshot"), tmp_path / "towers", "torch-export")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else True)
    with pytest.raises(UsageError, match=r"takes onnxscript: pip install 'petl-bench\[onnx\]'"):
        export.export_model(model_of("fixture_zeroshot"), tmp_path / "towers", "onnx")


def test_a_model_of_questions_has_no_towers_to_compare(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compares no texts with videos"):
        export.export_model(model_of("fixture_lora", "clip", "qa_classifier"), tmp_path / "towers", "onnx")
