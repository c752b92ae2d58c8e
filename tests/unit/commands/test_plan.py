"""`petl-bench plan`: what it measures and how it scales that to a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.fixture import write_fixture
from petl_bench.main import main
from petl_bench.method import Method
from petl_bench.runs.cost import synthetic_batch
from petl_bench.runs.planning import memory_bytes
from petl_bench.storage.spill import OnDisk
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.reranking import Reranking, SecondStage
from petl_bench.tasks.retrieval import Retrieval

CONFIG = ("plan", "--config=fixture_adaptformer", "--model.init_args.backbone=backbone/clip_tiny.yaml", "--steps=1")


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def plan(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*CONFIG, *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_steps_and_hours_follow_from_rows_and_batch(capsys: pytest.CaptureFixture[str]) -> None:
    figures = plan(capsys, "--rows=1000", "--trainer.max_epochs=3", "--data.init_args.batch_size=64")
    assert figures["steps"] == 3 * (1000 // 64)
    assert figures["clips_per_process"] == 64
    assert figures["hours"] == pytest.approx(figures["steps"] * 64 / figures["clips_per_s"] / 3600)
    # 4 vision blocks of width 96 and 4 text blocks of width 64, bottleneck 64
    assert figures["adapter_bytes"] == 4 * 4 * (2 * 96 * 64 + 64 + 96 + 2 * 64 * 64 + 64 + 64)


def test_the_global_batch_is_shared_by_processes(capsys: pytest.CaptureFixture[str]) -> None:
    one = plan(capsys, "--rows=640")
    four = plan(capsys, "--rows=640", "--trainer.devices=2", "--trainer.num_nodes=2")
    assert (four["processes"], four["clips_per_process"]) == (4, one["clips_per_process"] // 4)
    assert four["steps"] == one["steps"]
    assert four["memory_bytes"] < one["memory_bytes"]
    assert main([*CONFIG, "--rows=6"]) == 2
    assert "exceeds the 6 rows" in capsys.readouterr().err
    assert main([*CONFIG, "--rows=640", "--trainer.devices=3"]) == 2
    assert "multiple of 3 processes" in capsys.readouterr().err


def test_rows_come_from_the_annotation_files(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("lists")
    sentences = [{"video_id": f"video{n}", "caption": "a"} for n in range(6) for _ in range(10)]
    (root / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences}))
    (root / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(f"video{n}\n" for n in range(5)))
    (root / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\nret0,msr5,video5,a\n")
    given = (f"--data.init_args.root={root}", "--data.init_args.batch_size=4")
    assert plan(capsys, *given)["rows"] == 50
    assert plan(capsys, *given, "--data.init_args.train_captions=one")["rows"] == 5


def test_without_files_the_number_of_rows_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(CONFIG)) == 2
    assert "--rows" in capsys.readouterr().err


def test_a_method_that_trains_nothing_has_no_plan(capsys: pytest.CaptureFixture[str]) -> None:
    zeroshot = [CONFIG[0], "--config=fixture_zeroshot", CONFIG[2]]
    assert main([*zeroshot, "--rows=640"]) == 2
    assert "trains nothing" in capsys.readouterr().err


def test_memory_scales_what_depends_on_the_batch() -> None:
    from methods.linear import Linear

    method: Method = Linear(backbone=CLIP("tiny", None), task=Retrieval()).adapt()
    counts = method.parameter_counts()
    weights = 4 * (counts["total"] - counts["trainable"]) + 16 * counts["trainable"]
    measured = {
        **{"clips_per_step": 2, "clips_kept": 2, "saved_activation_bytes": 1000},
        **{"weight_bytes": 4 * counts["total"], "peak_allocated_bytes": None},
    }
    assert memory_bytes(method, measured, 8) == 4000 + weights
    assert memory_bytes(method, measured | {"peak_allocated_bytes": 77}, 8) == 4000 + weights
    assert memory_bytes(method, measured | {"peak_allocated_bytes": 77}, 2) == 77
    method.task.chunk = 3
    assert memory_bytes(method, measured | {"clips_kept": 1}, 8) == 3000 + weights
    assert memory_bytes(method, measured | {"clips_kept": 1}, 2) == 2000 + weights


MATCHING = ("plan", "--config=fixture_blip_uniadapter", CONFIG[2].replace("clip", "blip"), "--steps=1")
IN_MEMORY = "--model.init_args.task.init_args.reranking.init_args.tokens_in_memory"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 6 seconds."""
    root = tmp_path_factory.mktemp("data") / "fixture"
    write_fixture(root, train_videos=8, test_videos=5, captions_per_video=1, seconds=6)
    return root


def test_tokens_of_reranking_are_those_that_an_evaluation_keeps(
    capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """To the byte, in memory and on disk."""
    given = (f"--data.init_args.root={dataset}", "--data.init_args.partial=true", "--trainer.precision=32-true")
    frames = ("--data.init_args.frames=3", "--data.init_args.batch_size=8")

    def planned(gigabytes: float, *more: str) -> dict[str, Any]:
        assert main([*MATCHING, *given, *frames, f"{IN_MEMORY}={gigabytes}", *more, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    whole = planned(1)
    assert (whole["evaluation_clips"], whole["evaluation_disk_bytes"]) == (5, 0)
    backbone = BLIP("tiny", None)
    task = MatchingRetrieval(queue_size=8, reranking=Reranking(k=4))
    batch = synthetic_batch(backbone.spec, 5, 3, 32)
    for gigabytes in (1.0, 2.5 * backbone.encode_video_tokens(batch.clips).memory.tokens[:1].nbytes / 1e9):
        second = SecondStage(Reranking(k=4, tokens_in_memory=gigabytes))
        with torch.no_grad():
            second.update(backbone, batch)
        parts = [part for clip in second._clips.values() for part in clip]
        disk = [part for part in parts if isinstance(part, OnDisk)]
        figures = planned(gigabytes)
        assert figures["evaluation_memory_bytes"] == sum(p.nbytes for p in parts if isinstance(p, Tensor))
        assert figures["evaluation_disk_bytes"] == sum(p.dtype.itemsize * p.shape.numel() for p in disk)
        assert len(disk) == (0 if gigabytes == 1 else 3)
    assert task.kept_by_evaluation(backbone, batch, 0) == (0, 0)
    spread = planned(0, "--trainer.devices=2", "--trainer.num_nodes=2")
    assert spread["evaluation_disk_bytes"] == 2 * 2 * figures["evaluation_disk_bytes"] // 3, "two clips a process"
    assert main([*MATCHING, *given, *frames, f"{IN_MEMORY}=0"]) == 0
    assert "of temporary files of a machine" in capsys.readouterr().out


def test_without_reranking_nothing_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MATCHING, "--rows=640", "--model.init_args.task.init_args.reranking=null", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation_memory_bytes"] == 0
    assert plan(capsys, "--rows=640")["evaluation_disk_bytes"] == 0


@pytest.mark.parametrize("kind", ["grid", "chosen", "jpeg_grid", "jpeg_chosen"])
def test_a_cache_is_as_large_as_planned(
    kind: str, capsys: pytest.CaptureFixture[str], dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """But for descriptions, at most 2 kB a clip; of JPEG within a fifth."""
    options = ("frames=3", "frame_rate=2", "partial=true", f"root={dataset}", "batch_size=8")
    given = [f"--data.init_args.{option}" for option in options]
    figures = plan(capsys, *given)
    assert (figures["cache_clips"], figures["cache_clips_found"], figures["cache_jpeg_quality"]) == (13, True, 95)
    folder = tmp_path_factory.mktemp("cache")
    more = ["--data.init_args.jpeg_quality=95"] * kind.startswith("jpeg") + ["--keep=chosen"] * kind.endswith("chosen")
    backbone = CONFIG[2].replace("model.init_args.", "")
    command = ["data", "cache", CONFIG[1], backbone, f"--cache={folder}", "--workers=0", *given, *more]
    assert main(command) == 0
    capsys.readouterr()
    written = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    expected = figures["cache_bytes"][kind]
    off = 0.2 * expected if kind.startswith("jpeg") else 0
    assert expected - off < written < expected + off + 13 * 2000
    assert figures["cache_bytes"]["grid"] == 4 * figures["cache_bytes"]["chosen"]


def test_a_cache_of_clips_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The protocol says how many they are, and a fixed sampling how many frames it reads at most."""
    given = ("--rows=640", "--data.init_args.frames=3")
    figures = plan(capsys, *given, "--data.init_args.frame_rate=1")
    assert figures["cache_clips_found"] is False
    sizes = figures["cache_bytes"]
    assert sizes["chosen"] % (3 * 3 * figures["cache_clips"]) == 0
    assert [kind for kind, size in sizes.items() if size is None] == ["grid", "jpeg_grid", "jpeg_chosen"]
    drawn = plan(capsys, "--rows=640", "--data.init_args.sampling=segment_random")
    assert set(drawn["cache_bytes"].values()) == {None}
    every = plan(capsys, *given, "--data.init_args.frame_rate=null")["cache_bytes"]
    assert every["grid"] == every["chosen"] == sizes["chosen"]
    assert main([*CONFIG, "--rows=640"]) == 0
    assert "frame cache, at most" in capsys.readouterr().out


def test_savers_of_memory_are_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Each takes less than what is before it; a chunk of a fourth keeps a fourth of the activations."""
    checkpointing = "--model.init_args.backbone.init_args.gradient_checkpointing"
    given = ("--rows=640", "--data.init_args.batch_size=64", "--clips=4", "--trainer.precision=32-true")
    nothing, activations, blocks = (
        plan(capsys, *given, *option)["memory_bytes"]
        for option in ((), (f"{checkpointing}=activations",), (f"{checkpointing}=true",))
    )
    assert blocks < activations < nothing
    chunk = plan(capsys, *given, "--model.init_args.task.init_args.chunk=16")["memory_bytes"]
    halves = plan(capsys, *given, "--model.init_args.task.init_args.chunk=32")["memory_bytes"]
    assert nothing - halves == pytest.approx(2 * (halves - chunk), rel=0.05)
    low = plan(capsys, *given[:-1], "--trainer.precision=bf16-mixed")["memory_bytes"]
    assert low < nothing
