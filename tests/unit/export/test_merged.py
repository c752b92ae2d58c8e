"""Merged backbones are what open_clip and transformers take them for, and what the adapted model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from petl_bench.errors import PetlBenchError, UsageError
from petl_bench.export import merged
from petl_bench.export.merged import write_merged
from petl_bench.testing import samples
from tests.contract.traced import model_of


@pytest.mark.parametrize("config", ["fixture_lora", "fixture_bitfit", "fixture_full", "fixture_zeroshot"])
def test_open_clip_reads_a_clip(config: str, tmp_path: Path) -> None:
    import open_clip

    model = model_of(config)
    batch = samples.make_batch(model.method.backbone)
    expected = model.encode_words(batch.words).projected, model.encode_clips(batch.clips).frames
    merged = write_merged(model, tmp_path / "merged", "a run")
    assert merged.architecture == "tiny"
    read: Any = open_clip.create_model(f"local-dir:{tmp_path / 'merged'}").eval()
    with torch.inference_mode():
        texts = read.encode_text(torch.nn.functional.pad(batch.words.ids, (0, 77 - batch.words.ids.shape[1])))
        frames = read.encode_image(model.method.backbone.normalise(batch.clips.frames).flatten(0, 1))
    torch.testing.assert_close(texts, expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(frames.view_as(expected[1]), expected[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("backbone", "task"), [("blip", "matching"), ("blipvqa", "qa_generation")])
@pytest.mark.parametrize("config", ["fixture_lora", "fixture_full"])
def test_transformers_reads_a_blip(config: str, backbone: str, task: str, tmp_path: Path) -> None:
    model = model_of(config, backbone, task)
    batch = samples.make_batch(model.method.backbone)
    expected = model.encode_clips(batch.clips).pooled
    write_merged(model, tmp_path / "merged", "a run")
    from transformers import BlipForImageTextRetrieval, BlipForQuestionAnswering

    kind: Any = {"blip": BlipForImageTextRetrieval, "blipvqa": BlipForQuestionAnswering}[backbone]
    read, told = kind.from_pretrained(tmp_path / "merged", output_loading_info=True, ignore_mismatched_sizes=False)
    assert not told["missing_keys"]
    kind_of_ours: Any = type(model.method.backbone)
    again = kind_of_ours("tiny", str(tmp_path / "merged")).eval()
    with torch.inference_mode():
        torch.testing.assert_close(again.encode_video(batch.clips).pooled, expected, atol=1e-5, rtol=1e-4)
    own = again.vision.state_dict()["ln_post.weight"]
    assert torch.equal(read.state_dict()["vision_model.post_layernorm.weight"], own)


@pytest.mark.parametrize(("config", "task"), [("fixture_adaptformer", "retrieval"), ("fixture_lora", "qa_classifier")])
def test_what_cannot_be_merged(config: str, task: str, tmp_path: Path) -> None:
    """Modules that a plain backbone has not, also those of a task."""
    with pytest.raises(UsageError, match="adds modules that no plain clip-tiny has"):
        write_merged(model_of(config, task=task), tmp_path / "merged", "a run")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merged, "write_bytes_atomically", full)
    with pytest.raises(PetlBenchError, match="no space left"):
        write_merged(model_of("fixture_lora"), tmp_path / "merged", "a run")
    assert not list(tmp_path.iterdir())
