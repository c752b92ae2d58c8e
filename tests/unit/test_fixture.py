"""The generated dataset: MSR-VTT layout, disjoint combinations, repeatable bytes, true captions."""

import argparse
import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError

from petl_bench import fixture
from petl_bench.errors import UsageError
from petl_bench.fixture import scenes as drawn

NUM_TRAIN, NUM_TEST, CAPTIONS = 32, 12, 2


def write(folder: Path, **options) -> fixture.FixtureSummary:
    sizes = {
        "train_videos": NUM_TRAIN,
        "test_videos": NUM_TEST,
        "captions_per_video": CAPTIONS,
        "size": 48,
        "seconds": 2,
        "fps": 8,
    }
    return fixture.write_fixture(folder, **{**sizes, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fixture") / "shapes"
    assert write(path) == (path, NUM_TRAIN, NUM_TEST, CAPTIONS * (NUM_TRAIN + NUM_TEST))
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ids(folder: Path, name: str) -> list[str]:
    return [row["video_id"] for row in read_csv(folder / name)]


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def parse(caption: str) -> drawn.Scene:
    """Reads colour, shape and both motions, in order, out of any of the wordings."""
    words = re.findall(r"[a-z]+", caption)
    (colour,) = set(words) & set(drawn.COLOURS)
    (shape,) = set(words) & set(drawn.SHAPES)
    first, second = [word for word in words if word in drawn.DIRECTIONS]
    return drawn.Scene(colour, shape, first, second)


def scenes(folder: Path) -> dict[str, drawn.Scene]:
    document = json.loads((folder / "MSRVTT_data.json").read_text(encoding="utf-8"))
    return {row["video_id"]: parse(row["caption"]) for row in document["sentences"]}


def test_annotation_layout(folder):
    document = json.loads((folder / "MSRVTT_data.json").read_text(encoding="utf-8"))
    assert set(document) == {"info", "videos", "sentences"}
    assert set(document["videos"][0]) == {
        "id",
        "video_id",
        "category",
        "url",
        "start time",
        "end time",
        "split",
    }
    assert [row["video_id"] for row in document["videos"]] == [f"video{n}" for n in range(NUM_TRAIN + NUM_TEST)]
    assert [row["sen_id"] for row in document["sentences"]] == list(range(CAPTIONS * (NUM_TRAIN + NUM_TEST)))
    for video in document["videos"]:
        texts = [row["caption"] for row in document["sentences"] if row["video_id"] == video["video_id"]]
        assert len(set(texts)) == CAPTIONS
        assert len({parse(text) for text in texts}) == 1


def test_split_files(folder):
    header = (folder / "MSRVTT_JSFUSION_test.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "key,vid_key,video_id,sentence"
    test = read_csv(folder / "MSRVTT_JSFUSION_test.csv")
    document = json.loads((folder / "MSRVTT_data.json").read_text(encoding="utf-8"))
    split = {row["video_id"]: row["split"] for row in document["videos"]}
    train_9k, train_7k = ids(folder, "MSRVTT_train.9k.csv"), ids(folder, "MSRVTT_train.7k.csv")
    full = {name: ids(folder, f"MSRVTT_{name}.full.csv") for name in ("train", "val", "test")}

    assert [row["key"] for row in test] == [f"ret{n}" for n in range(NUM_TEST)]
    assert all(row["vid_key"] == row["video_id"].replace("video", "msr") for row in test)
    assert train_9k == [f"video{n}" for n in range(NUM_TRAIN)]
    assert [row["video_id"] for row in test] == [f"video{n}" for n in range(NUM_TRAIN, NUM_TRAIN + NUM_TEST)]
    assert set(train_7k) < set(train_9k)
    assert train_7k == full["train"] + full["val"]
    assert sorted(full["train"] + full["val"] + full["test"]) == sorted(split)
    for name, label in (("train", "train"), ("val", "validate"), ("test", "test")):
        assert full[name]
        assert {split[video] for video in full[name]} == {label}


def test_combinations_are_disjoint_and_their_parts_are_seen_in_training(folder):
    by_video = scenes(folder)
    train = {by_video[video] for video in ids(folder, "MSRVTT_train.9k.csv")}
    test = [by_video[video] for video in ids(folder, "MSRVTT_JSFUSION_test.csv")]
    assert not train & set(test)
    assert len(set(test)) == len(test)
    assert {scene.colour for scene in test} <= {scene.colour for scene in train}
    assert {scene.shape for scene in test} <= {scene.shape for scene in train}
    assert {scene[2:] for scene in test} <= {scene[2:] for scene in train}
    sentences = [row["sentence"] for row in read_csv(folder / "MSRVTT_JSFUSION_test.csv")]
    assert len(set(sentences)) == len(sentences)


def test_most_test_videos_have_a_partner_that_differs_only_in_the_order_of_motions(folder):
    by_video = scenes(folder)
    test = {by_video[video] for video in ids(folder, "MSRVTT_JSFUSION_test.csv")}
    swapped = {scene for scene in test if scene._replace(first=scene.second, second=scene.first) in test}
    assert len(swapped) >= len(test) * 3 // 4


def centres(frames: np.ndarray) -> np.ndarray:
    """Centre (x, y) of the shape in every frame, by its difference from the clip's median colour, the background's."""
    change = np.abs(frames.astype(int) - np.median(frames, axis=(0, 1, 2))).sum(axis=-1)
    change = np.where(change > 120, change, 0)  # (F, H, W)
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    total = change.sum(axis=(1, 2))
    return np.stack([(change * x).sum(axis=(1, 2)) / total, (change * y).sum(axis=(1, 2)) / total], axis=1)


def test_clips_show_what_their_captions_say(folder):
    for video, scene in scenes(folder).items():
        frames = decode(folder / "videos" / f"{video}.mp4")
        assert frames.shape == (16, 48, 48, 3)
        path = centres(frames)
        for direction, start, end in ((scene.first, 0, 7), (scene.second, 8, 15)):
            moved = path[end] - path[start]
            assert moved @ np.array(drawn.DIRECTIONS[direction]) > 8, (video, scene, moved)
        x, y = path[0].round().astype(int)
        shown = frames[0, y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0)
        distances = {name: np.abs(shown - rgb).sum() for name, rgb in drawn.COLOURS.items()}
        assert min(distances, key=lambda name: distances[name]) == scene.colour, video


def test_a_test_clip_and_its_reversal_hold_the_same_frames(folder):
    by_video = scenes(folder)
    videos = {by_video[video]: video for video in ids(folder, "MSRVTT_JSFUSION_test.csv")}
    turns = [scene for scene in videos if drawn.OPPOSITE[scene.first] != scene.second]
    pairs = [
        (scene, partner)
        for scene in turns
        if (partner := scene._replace(first=drawn.OPPOSITE[scene.second], second=drawn.OPPOSITE[scene.first])) in videos
    ]
    assert pairs
    for scene, partner in pairs:
        frames, backwards = (decode(folder / "videos" / f"{videos[own]}.mp4").astype(int) for own in (scene, partner))
        assert np.abs(frames - backwards[::-1]).mean() < 4  # compression is not symmetric in time
        assert np.abs(frames - backwards).mean() > 6


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes(folder, tmp_path):
    write(tmp_path / "again")
    write(tmp_path / "other", seed=1)
    assert files(folder) == files(tmp_path / "again")
    assert files(folder)["MSRVTT_data.json"] != files(tmp_path / "other")["MSRVTT_data.json"]


def test_training_scenes_repeat_when_there_are_more_videos_than_combinations():
    rng = np.random.default_rng(0)
    test = drawn.held_out_scenes(rng, 144)
    train = drawn.train_scenes(rng, test, 100)
    assert len(train) == 100
    assert len(set(train)) == 216 - 144
    assert not set(train) & set(test)


@pytest.mark.parametrize("seed", range(5))
def test_the_test_set_has_all_motions_of_a_colour_and_shape_and_leaves_each_colour_to_train_on(seed):
    test = drawn.held_out_scenes(np.random.default_rng(seed), 144)
    looks = [(scene.colour, scene.shape) for scene in test]
    assert looks == [looks[12 * (number // 12)] for number in range(144)]
    assert len(set(test)) == 144
    assert {looks.count(look) for look in looks} == {12}
    assert {colour for colour in drawn.COLOURS if len({shape for own, shape in looks if own == colour}) > 2} == set()


@pytest.fixture(scope="module")
def stills(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("stills") / "shapes"
    summary = fixture.write_stills(path, train_videos=20, test_videos=30, captions_per_video=CAPTIONS, size=48)
    assert summary == (path, 20, 30, CAPTIONS * 50)
    return path


def parse_still(caption: str) -> drawn.Still:
    words = re.findall(r"[a-z]+", caption)
    (colour,) = set(words) & set(drawn.COLOURS)
    (shape,) = set(words) & set(drawn.SHAPES)
    places = {phrase: place for place, (_, phrases) in drawn.PLACES.items() for phrase in phrases}
    longest = max((phrase for phrase in places if caption.endswith(phrase)), key=len)  # "on the left" ends others
    return drawn.Still(colour, shape, places[longest])


def test_stills_have_the_files_of_msrvtt(stills, folder):
    expected = [path.name for path in sorted(folder.iterdir()) if not path.name.endswith("_qa.json")]
    assert [path.name for path in sorted(stills.iterdir())] == expected
    assert ids(stills, "MSRVTT_train.9k.csv") == [f"video{n}" for n in range(20)]
    test = read_csv(stills / "MSRVTT_JSFUSION_test.csv")
    assert len({parse_still(row["sentence"]) for row in test}) == 30


def test_stills_show_what_their_captions_say(stills):
    document = json.loads((stills / "MSRVTT_data.json").read_text(encoding="utf-8"))
    y, x = np.mgrid[:48, :48]
    for number in range(50):
        texts = [row["caption"] for row in document["sentences"] if row["video_id"] == f"video{number}"]
        (still,) = {parse_still(text) for text in texts}
        assert len(set(texts)) == CAPTIONS
        frames = decode(stills / "videos" / f"video{number}.mp4")
        assert frames.shape == (1, 48, 48, 3)
        frame = frames[0].astype(int)
        shown = np.abs(frame - np.median(frame, axis=(0, 1))).sum(axis=-1) > 120  # (H, W), the shape
        centre = np.array([x[shown].mean(), y[shown].mean()])
        third = (centre // 16 - 1).astype(int)
        assert tuple(third) == drawn.PLACES[still.place][0], (number, still, centre)
        colour = frame[shown].mean(axis=0)
        distances = {name: np.abs(colour - rgb).sum() for name, rgb in drawn.COLOURS.items()}
        assert min(distances, key=lambda name: distances[name]) == still.colour, (number, still)


def test_stills_name_the_directions_that_moving_captions_use():
    phrases = " ".join(phrase for _, own in drawn.PLACES.values() for phrase in own)
    assert set(drawn.DIRECTIONS) <= set(phrases.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_videos": 3}, "--train-videos must be"),
        ({"test_videos": 163}, "--test-videos 163: there are 162 different stills"),
        ({"captions_per_video": 9}, "choose 1 to 8"),
        ({"size": 33}, "even number"),
    ],
)
def test_arguments_of_stills_out_of_range(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        fixture.write_stills(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_every_still_can_be_captioned_the_most_often_allowed():
    rng = np.random.default_rng(0)
    for place in drawn.PLACES:
        assert len(set(drawn.still_captions(rng, drawn.Still("red", "circle", place), 8))) == 8


def test_refuses_a_folder_with_content(tmp_path):
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    for path in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(UsageError, match="not an empty folder"):
            write(path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_videos": 3}, "--train-videos must be"),
        ({"test_videos": 0}, "--test-videos at least 1"),
        ({"train_videos": 5, "test_videos": 40}, "--train-videos 5: the test set needs at least"),
        ({"test_videos": 216}, "--test-videos 216 leaves no combination"),
        ({"captions_per_video": 7}, "choose 1 to 6"),
        ({"size": 33}, "even number"),
        ({"seconds": 0.1}, "at least 4 frames"),
    ],
)
def test_arguments_out_of_range(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        write(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def test_encoder_missing(tmp_path, monkeypatch):
    def no_codec(name: str, mode: str) -> None:
        raise UnknownCodecError(name)

    monkeypatch.setattr(drawn, "Codec", no_codec)
    with pytest.raises(UsageError, match="no libx264 encoder"):
        write(tmp_path / "new")


def test_command_line(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    fixture.add_arguments(parser)
    arguments = [
        "--train-videos",
        "16",
        "--test-videos",
        "2",
        "--size",
        "32",
        "--seconds",
        "1",
        "--seed",
        "3",
    ]
    assert fixture.run(parser.parse_args([str(tmp_path / "new"), *arguments])) == 0
    assert capsys.readouterr().out == f"wrote 16 training and 2 test videos with 54 captions to {tmp_path / 'new'}\n"
    assert len(list((tmp_path / "new/videos").glob("video*.mp4"))) == 18


def test_command_line_writes_stills_and_knows_which_options_they_have(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    fixture.add_arguments(parser)
    layout = [str(tmp_path / "new"), "--layout", "stills"]
    with pytest.raises(UsageError, match="--fps: layout stills has no such option"):
        fixture.run(parser.parse_args([*layout, "--fps", "6"]))
    assert fixture.run(parser.parse_args([*layout, "--train-videos", "4", "--test-videos", "2", "--size", "32"])) == 0
    assert capsys.readouterr().out == f"wrote 4 training and 2 test videos with 18 captions to {tmp_path / 'new'}\n"


def test_does_not_import_torch():
    code = "import sys, petl_bench.fixture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
