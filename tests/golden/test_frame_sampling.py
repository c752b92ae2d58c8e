"""Frame selection against the released code of CLIP4Clip, MV-Adapter and BLIP."""

import random
from typing import Any

import pytest

from petl_bench.data import sampling
from petl_bench.errors import DataError
from petl_bench.inputs import Moment
from tests.golden.helpers import Case, golden_files

SLICES = {0: sampling.head, 1: sampling.tail, 2: sampling.uniform}
MV_ADAPTER = {**SLICES, 2: sampling.left_edge}
BLIP_RANDOM = {"rand": sampling.blip_random, "headtail": sampling.blip_headtail}


def rows(section: str) -> list[Any]:
    """One parameter per golden file that has the section, so that further files are compared as well."""
    files = [file for file in golden_files("frame_sampling*") if file.marks or load(file.values[0], section)]
    return [pytest.param(file.values[0], section, id=f"{file.id}-{section}", marks=file.marks) for file in files]


def load(path: Any, section: str) -> list[dict[str, Any]]:
    return Case(path).json.get(section, [])


def padded_mask(num_real: int, count: int) -> list[int]:
    return [1] * num_real + [0] * (count - num_real)


@pytest.mark.parametrize(("path", "section"), rows("clip4clip_slice"))
def test_clip4clip_slices(path: Any, section: str) -> None:
    for row in load(path, section):
        frames = SLICES[row["slice_framepos"]](row["available"], row["max_frames"]).tolist()
        # frame_order 1 is CLIP4Clip's option to reverse whatever was selected.
        assert (frames[::-1] if row["frame_order"] == 1 else frames) == row["frames"], row
        assert padded_mask(len(frames), row["max_frames"]) == row["mask"], row


@pytest.mark.parametrize(("path", "section"), rows("clip4clip_extract"))
def test_clip4clip_extraction(path: Any, section: str) -> None:
    for row in load(path, section):
        arguments = (row["frame_count"], row["fps"], row["sample_fp"], Moment(row["start"], row["end"]))
        if "error" in row:
            with pytest.raises(DataError):
                sampling.seconds_grid(*arguments)
        else:
            assert sampling.seconds_grid(*arguments).tolist() == row["frames"], row


@pytest.mark.parametrize(("path", "section"), rows("mv_adapter"))
def test_mv_adapter(path: Any, section: str) -> None:
    for row in load(path, section):
        frames = MV_ADAPTER[row["slice_framepos"]](row["available"], row["max_frames"]).tolist()
        assert frames == row["frames"], row
        assert padded_mask(len(frames), row["max_frames"]) == row["v_mask"], row


@pytest.mark.parametrize(("path", "section"), rows("blip_uniform"))
def test_blip_uniform(path: Any, section: str) -> None:
    for row in load(path, section):
        assert sampling.blip_uniform(row["vlen"], row["num_frm"]).tolist() == row["frames"], row


@pytest.mark.parametrize(("path", "section"), rows("blip_uniform_clip"))
def test_blip_uniform_within_a_clip(path: Any, section: str) -> None:
    for row in load(path, section):
        start, end = int(row["start_time"] * row["fps"]), int(row["end_time"] * row["fps"])
        frames = sampling.blip_uniform(row["vlen"], row["num_frm"], start, end).tolist()
        assert frames == row["frames"], row


@pytest.mark.parametrize(("path", "section"), rows("blip_rand"))
def test_blip_random(path: Any, section: str) -> None:
    for row in load(path, section):
        rng = random.Random(row["python_random_seed"])
        frames = BLIP_RANDOM[row["strategy"]](row["vlen"], row["num_frm"], rng).tolist()
        # Where the released sampler raises and its loader drops the clip (null), ours reads every frame.
        expected = row["frames"] if row["frames"] is not None else list(range(row["vlen"]))
        assert frames == expected, row
