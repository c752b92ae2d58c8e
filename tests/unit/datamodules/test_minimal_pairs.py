"""Minimal pairs: what is asked, exactly half for frames without order, and what is wrong with a record."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.minimal_pairs import AXES, MinimalPairs
from methods.full import Full
from petl_bench.backbones.clip.model import CLIP
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.errors import DataError, MissingFileError
from petl_bench.fixture import WRITERS
from petl_bench.fixture.diagnostic import clips
from petl_bench.tasks.choice import Choice
from tests.unit.datamodules.test_msrvtt_qa import SPEC

IN_REVERSE = [axis for axis, backwards in clips.AXES.items() if backwards]
FORWARD = {"video": "a", "reverse": False, "axis": "direction", "caption": " it goes\nup ", "foil": "it goes down"}
BACK = FORWARD | {"reverse": True, "caption": "it goes down", "foil": "it goes up"}
#: frames as data/minimal_pairs.yaml has them
FRAMES = {
    name: value
    for name, value in composed(config_folder() / "data/minimal_pairs.yaml")["init_args"].items()
    if name in ("frames", "frame_rate", "sampling")
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minimal") / "pairs"
    WRITERS["pairs"](folder, test_videos=3)
    return folder


def read(folder: Path, *records: Any, **options: Any) -> MinimalPairs:
    (folder / "pairs.json").write_text(json.dumps(list(records)), encoding="utf-8")
    return MinimalPairs(folder, **{"partial": True, "spec": SPEC, "max_words": 12, **options})


def test_a_pair(tmp_path: Path) -> None:
    data = read(tmp_path, FORWARD, BACK)
    first, second = data.samples("test")
    assert [(s.video, s.file, s.reverse) for s in (first, second)] == [("a", "a", False), ("a_reversed", "a", True)]
    (question,) = first.questions
    assert (question.id, question.type, question.correct) == ("a", "direction", 0)
    assert question.options == ("it goes up", "it goes down")
    assert second.questions[0].options == ("it goes down", "it goes up")
    assert data.samples("train") == data.samples("val") == []


def test_axes_are_those_of_the_generator() -> None:
    assert set(AXES) == set(clips.AXES)
    assert list(AXES[:3]) == IN_REVERSE


def test_counts(root: Path, tmp_path: Path) -> None:
    data = MinimalPairs(root, partial=True, spec=SPEC, max_words=12)
    samples = data.samples("test")
    assert Counter(q.type for s in samples for q in s.questions) == dict.fromkeys(AXES, 6)
    assert (len(samples), len({sample.file for sample in samples})) == (42, 33)
    expected = data.protocol
    each = 150  # as the layout's default has it
    assert expected.videos == expected.captions == {"test": 2 * each * len(AXES)}
    assert expected.files == {"test": each * (2 * len(AXES) - len(IN_REVERSE))}
    with pytest.raises(DataError, match="minimal-pairs/v1: test split has 2 clips, expected 2100"):
        read(tmp_path, FORWARD, BACK, partial=False).samples("test")


def test_a_clip_and_its_reverse_have_the_same_frames_in_opposite_order(root: Path) -> None:
    data = MinimalPairs(root, partial=True, spec=SPEC, max_words=12, num_workers=0, **FRAMES)
    data.setup("test")
    batches = list(data.test_dataloader())
    videos = [sample.video for sample in data.samples("test")]
    order = [video for batch in batches for video in batch.video_index.tolist()]
    shown = dict(zip((videos[row] for row in order), torch.cat([b.clips.frames for b in batches]), strict=True))
    turned = [video for video in shown if video.endswith("_reversed")]
    assert len(turned) == 3 * len(IN_REVERSE)
    for video in turned:
        forward, back = shown[video.removesuffix("_reversed")], shown[video]
        assert len(forward) == 8
        assert back.equal(forward.flip(0))
        assert not back.equal(forward)


def test_frames_without_order_get_exactly_half_where_that_is_claimed(root: Path) -> None:
    """Mean pooling of a CLIP with random weights; of the other axes nothing follows."""
    torch.manual_seed(0)
    method = Full(backbone=CLIP.tiny(), task=Choice()).adapt().eval()
    options = {"partial": True, "max_words": 40, "num_workers": 0, "eval_batch_size": 5, **FRAMES}
    data = MinimalPairs(root, spec=method.backbone.spec, **options)
    data.setup("test")
    method.task.expect(42, 42)
    with torch.no_grad():
        for batch in data.test_dataloader():
            method.task.update(method.backbone, batch)
    found = method.task.compute()
    assert {axis: found.metrics[f"accuracy_{axis}"] for axis in IN_REVERSE} == dict.fromkeys(IN_REVERSE, 50.0)
    assert found.record["n_per_type"] == dict.fromkeys(AXES, 6)
    assert set(found.metrics) == {"accuracy", "mean_of_types", *(f"accuracy_{axis}" for axis in AXES)}


# --- wrong records ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"video": None}, "'video' is missing or blank; there is video, reverse, axis, caption, foil"),
        ({"video": " "}, "'video' is blank"),
        ({"video": "a_reversed"}, "an id that ends with _reversed is that of a clip in reverse"),
        ({"reverse": None}, "'reverse' is missing"),
        ({"reverse": 1}, "'reverse' is 1, not true or false"),
        ({"reverse": "false"}, "'reverse' is 'false', not true or false"),
        ({"axis": None}, "'axis' is missing"),
        ({"axis": "colour"}, "'axis' is 'colour', not one of direction, order, relation, appearance, binding, speed"),
        ({"caption": None}, "'caption' is missing"),
        ({"foil": None}, "'foil' is missing"),
        ({"foil": ["it goes down"]}, "'foil' is"),
        ({"foil": "it  goes down"}, "option 'it goes down' is given twice, so no answer is the right one"),
    ],
)
def test_what_is_wrong_with_a_record_is_told_with_its_place(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"pairs.json, record 1: .*{told}"):
        read(tmp_path, FORWARD, BACK | {"video": "b"} | changed).samples("test")


def test_a_clip_that_is_asked_about_twice(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"pairs\.json, record 2: question id 'a' is given twice \(see pairs\.json, record 0"
    ):
        read(tmp_path, FORWARD, BACK, FORWARD).samples("test")


def test_other_shapes_and_encodings(tmp_path: Path) -> None:
    for wrong in ({"a": FORWARD}, [3], []):
        data = read(tmp_path)
        (tmp_path / "pairs.json").write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(DataError, match=r"pairs\.json"):
            data.checked("test")
    text = json.dumps([FORWARD, BACK])
    (tmp_path / "pairs.json").write_bytes(f"\ufeff{text}".encode())
    assert len(data.checked("test")) == 2
    (tmp_path / "pairs.json").write_text(text, encoding="utf-16")
    with pytest.raises(DataError, match=r"pairs\.json.*UTF-8"):
        data.checked("test")
    (tmp_path / "pairs.json").unlink()
    with pytest.raises(MissingFileError, match=r"pairs\.json"):
        data.checked("test")


def test_a_clip_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/b.mp4").write_bytes(b"")
    data = read(tmp_path, FORWARD, BACK, partial=True)
    with pytest.raises(DataError, match=r"test split: 2 of 2 videos are not below .*: 'a'; get them"):
        data.setup("test")
