"""`petl-bench data cache` on the command line, and runs that read what it wrote."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from petl_bench.data.cache import FrameCache
from petl_bench.main import main
from petl_bench.report.collect import comparability_key
from petl_bench.runs.record import read_result
from tests.integration.fixture_run import only_record, run
from tests.stops import group_trap, in_child

CACHE = ("data", "cache", "--workers=0", "--backbone=backbone/clip_tiny.yaml")
#: the frames that `fixture_run.TINY` reads
FRAMES = ("--data.init_args.frames=8", "--data.init_args.frame_rate=2", "--data.init_args.partial=true")


def cache(root: Path, folder: Path, *more: str) -> int:
    return main([*CACHE, "--config=data/fixture.yaml", f"--data.root={root}", f"--cache={folder}", *FRAMES, *more])


def figures(record: dict[str, Any]) -> dict[str, Any]:
    """What a record says of the figures, not of when and how fast they came about."""
    return {
        "id": record["id"]["config_hash"],
        "protocol": record["protocol"],
        "eval": {key: value for key, value in record["eval"].items() if key != "cost"},
        "ranks": record["integrity"]["ranks_sha256"],
    }


def losses(folder: Path) -> list[str]:
    rows = csv.DictReader((folder / "metrics.csv").open(encoding="utf-8"))
    return [row["loss"] for row in rows if row["loss"]]


@pytest.mark.parametrize("sampling", ["uniform", "segment_random"])
def test_a_run_on_cached_frames_is_the_run_on_decoded_ones(sampling: str, dataset: Path, tmp_path: Path) -> None:
    sampled = f"--data.init_args.sampling={sampling}"
    each_step = "--trainer.log_every_n_steps=1"
    assert cache(dataset, tmp_path / "cache", sampled) == 0
    fit = ("fit", "fixture_adaptformer", dataset)
    assert run(*fit, tmp_path / "decoded", sampled, each_step) == 0
    assert run(*fit, tmp_path / "cached", sampled, each_step, f"--data.init_args.cache={tmp_path / 'cache'}") == 0
    decoded_folder, decoded = only_record(tmp_path / "decoded")
    cached_folder, cached = only_record(tmp_path / "cached")
    profile = next((tmp_path / "cache").iterdir()).name
    assert decoded["env"]["frame_cache"] is None
    assert cached["env"]["frame_cache"]["profile_sha256"].startswith(profile)
    assert cached["env"]["frame_cache"]["clips_decoded"] == 0
    assert len(losses(cached_folder)) == 4
    assert losses(cached_folder) == losses(decoded_folder)
    assert figures(cached) == figures(decoded)
    trained, again = (load_file(folder / "adapter.safetensors") for folder in (decoded_folder, cached_folder))
    assert all(trained[name].equal(again[name]) for name in trained)


def test_a_cache_that_lacks_clips(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache"
    test = ("test", "fixture_zeroshot", dataset, tmp_path / "runs", f"--data.init_args.cache={folder}")
    assert run(*test) == 4
    error = capsys.readouterr().err
    assert "4 of 4 clips" in error
    assert "run petl-bench data cache, or set data.on_cache_miss decode" in error

    assert cache(dataset, folder) == 0
    shutil.rmtree(next(path for path in folder.glob("*/*") if path.is_dir()))
    lenient = (*test, "--data.init_args.on_cache_miss=decode")
    assert run(*lenient) == 0
    _, record = only_record(tmp_path / "runs")
    assert record["env"]["frame_cache"]["clips_decoded"] <= 4


def test_the_configuration_of_a_run_names_data_and_cache(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*CACHE, "--config=fixture_adaptformer", f"--data.root={dataset}", f"--data.cache={tmp_path}", *FRAMES]
    assert main(command) == 0
    assert "20 decoded, 0 found" in capsys.readouterr().out
    assert main([*command, "--recheck"]) == 0
    assert "0 decoded, 20 found" in capsys.readouterr().out
    profile = json.loads(next(tmp_path.glob("*/profile.json")).read_text(encoding="utf-8"))
    assert (profile["rate"], profile["sampling"]) == (2, None)


def test_runs_find_chosen_frames(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache"
    test = ("test", "fixture_zeroshot", dataset, tmp_path / "runs", f"--data.init_args.cache={folder}")
    assert cache(dataset, folder, "--keep=chosen", "--data.init_args.frames=3") == 0
    assert run(*test) == 4
    assert "only those that sampling uniform chooses for 3 frames a clip" in capsys.readouterr().err
    assert run(*test, "--data.init_args.frames=3") == 0
    _, record = only_record(tmp_path / "runs")
    (kept,) = folder.iterdir()
    assert record["env"]["frame_cache"]["profile_sha256"].startswith(kept.name)
    assert cache(dataset, folder, "--data.init_args.frames=3") == 0  # the grid, beside it
    assert len(list(folder.iterdir())) == 2
    drawn = "--data.init_args.sampling=segment_random"
    assert cache(dataset, folder, "--keep=chosen", drawn) == 2
    assert "segment_random chooses other frames each time" in capsys.readouterr().err


def test_a_run_on_jpeg_says_so_and_needs_no_cache(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, jpeg = tmp_path / "cache", "--data.init_args.jpeg_quality=95"
    assert cache(dataset, folder, jpeg) == 0
    assert "other pixels: runs read them with data.jpeg_quality 95" in capsys.readouterr().out
    test, cached = ("test", "fixture_zeroshot", dataset), f"--data.init_args.cache={folder}"
    assert run(*test, tmp_path / "pixels", cached) == 4
    assert "JPEG, other pixels; data.jpeg_quality 95 reads them" in capsys.readouterr().err
    for runs, options in (("pixels", ()), ("decoded", (jpeg,)), ("cached", (jpeg, cached))):
        assert run(*test, tmp_path / runs, *options) == 0
    pixels, decoded, read = (only_record(tmp_path / runs)[1] for runs in ("pixels", "decoded", "cached"))
    assert figures(read) == figures(decoded)
    assert read["env"]["frame_cache"]["clips_decoded"] == 0
    assert read["protocol"]["preprocess"] == pixels["protocol"]["preprocess"] | {"jpeg_quality": 95}
    assert comparability_key(read) == comparability_key(decoded)
    assert comparability_key(read) != comparability_key(pixels)


def test_a_test_on_pixels_says_that_training_was_on_jpeg(dataset: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert run("fit", "fixture_linear", dataset, runs, "--data.init_args.jpeg_quality=90") == 0
    folder, _ = only_record(runs)
    adapter = folder / "adapter.safetensors"
    assert run("test", "fixture_linear", dataset, runs, f"--ckpt_path={adapter}") == 0
    tested = read_result(folder / "test.json")
    assert tested["model"]["trained"]["jpeg_quality"] == 90
    assert "jpeg_quality" not in tested["protocol"]["preprocess"]


@pytest.mark.parametrize("policy", ["error", "tolerate"])
def test_a_clip_that_cannot_be_decoded(
    policy: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(dataset, root)
    broken = min((root / "videos").iterdir())
    broken.write_text("no video", encoding="utf-8")
    code = cache(root, tmp_path / "cache", f"--data.init_args.bad_videos={policy}")
    output = capsys.readouterr()
    assert "19 decoded, 0 found, 0 mended, 1 unreadable" in output.out
    assert code == (4 if policy == "error" else 0)
    assert (f"1 of 20 clips cannot be cached: {broken.name}" in output.err) == (policy == "error")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=data/fixture.yaml"], "no folder for the cache: give --cache DIR"),
        (["--config=data/fixtur.yaml"], "did you mean data/fixture.yaml"),
        (["--config=data/fixture.yaml", "--data.rot=x"], "rot"),
    ],
)
def test_usage(arguments: list[str], message: str, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "cache", "--backbone=backbone/clip_tiny.yaml", f"--data.root={dataset}", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_record_of_a_cached_run_can_be_read(dataset: Path, tmp_path: Path) -> None:
    assert cache(dataset, tmp_path / "cache") == 0
    option = f"--data.init_args.cache={tmp_path / 'cache'}"
    assert run("test", "fixture_zeroshot", dataset, tmp_path / "runs", option) == 0
    folder, _ = only_record(tmp_path / "runs")
    assert set(read_result(folder / "result.json")["env"]["frame_cache"]) == {"profile_sha256", "clips_decoded"}


def test_a_signal_to_the_whole_group_keeps_what_is_cached(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"

    def work() -> int:
        return cache(dataset, folder, "--workers=2")

    # Two processes decode; the sixth clip takes its time.
    assert in_child(work, group_trap(FrameCache, "store", 6, signal.SIGHUP, 600.0)) == 129
    (frames,) = folder.iterdir()
    told = f"petl-bench: stopped by SIGHUP; what is cached in {frames} is kept: the same command goes on from there\n"
    assert told in capfd.readouterr().err
    assert work() == 0
    assert re.search(r"1\d decoded, [45] found", capfd.readouterr().out)
