"""MSR-VTT: the field's files as they are, their counts, what is missing, and loaders over a small fixture."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.msrvtt import MSRVTT
from petl_bench.data.batch import Batch
from petl_bench.data.samples import Sample
from petl_bench.errors import DataError, UsageError
from petl_bench.fixture import MARK, write_fixture
from petl_bench.inputs import InputSpec

NUM_TRAIN, NUM_TEST, CAPTIONS = 16, 4, 2


def count_letters(captions: Sequence[str], max_words: int) -> tuple[Tensor, Tensor]:
    """Stands for a tokenizer: the lengths of the words, 1 before and 2 after them."""
    ids = torch.zeros(len(captions), max_words, dtype=torch.long)
    for row, caption in enumerate(captions):
        words = [1, *[3 + len(word) for word in caption.split()][: max_words - 2], 2]
        ids[row, : len(words)] = torch.tensor(words)
    return ids, ids > 0


SPEC = InputSpec(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "shorter_side_crop", 77, count_letters)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "msrvtt"
    sizes = {"train_videos": NUM_TRAIN, "test_videos": NUM_TEST, "captions_per_video": CAPTIONS}
    write_fixture(folder, **sizes, size=32, seconds=1)
    return folder


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "msrvtt"))


def module(root: Path, **options: Any) -> MSRVTT:
    defaults = {"batch_size": 8, "frames": 3, "frame_rate": None, "max_words": 12, "num_workers": 0, "partial": True}
    return MSRVTT(root, spec=SPEC, **{**defaults, **options})


def listed(root: Path, name: str) -> list[str]:
    with (root / name).open(encoding="utf-8", newline="") as file:
        return [row["video_id"] for row in csv.DictReader(file)]


def ids(samples: Sequence[Sample]) -> list[str]:
    return [sample.video for sample in samples]


def change_json(root: Path, change: Callable[[Any], Any]) -> None:
    path = root / "MSRVTT_data.json"
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def split_of(name: str) -> str:
    """The split that an annotation file is for."""
    return "test" if "test" in name else "train"


def refusal(error: type[Exception], function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(error) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "train", "val", "test"),
    [
        ("1kA-9k", "MSRVTT_train.9k.csv", None, "MSRVTT_JSFUSION_test.csv"),
        ("1kA-7k", "MSRVTT_train.7k.csv", None, "MSRVTT_JSFUSION_test.csv"),
        ("full", "MSRVTT_train.full.csv", "MSRVTT_val.full.csv", "MSRVTT_test.full.csv"),
    ],
)
def test_splits_follow_the_lists(protocol: Any, train: str, val: str | None, test: str, written: Path) -> None:
    data = module(written, split_protocol=protocol)
    assert ids(data.samples("train")) == listed(written, train)
    assert ids(data.samples("val")) == (listed(written, val) if val else [])
    assert ids(data.samples("test")) == listed(written, test)
    assert {len(sample.captions) for sample in data.samples("train")} == {CAPTIONS}
    assert {len(sample.captions) for sample in data.samples("test")} == {CAPTIONS if protocol == "full" else 1}
    names = {path.name for path in data.annotation_files().values()}
    assert names == {"MSRVTT_data.json", train, test, val} - {None}


def test_test_captions_of_1ka_are_those_of_its_list(written: Path) -> None:
    with (written / "MSRVTT_JSFUSION_test.csv").open(encoding="utf-8", newline="") as file:
        expected = [(row["video_id"], (row["sentence"],)) for row in csv.DictReader(file)]
    assert [(sample.video, sample.captions) for sample in module(written).samples("test")] == expected


def test_frozen_in_times_json_gives_the_same(root: Path) -> None:
    expected = module(root).samples("train")
    assert all(len(sample.caption_ids) == CAPTIONS for sample in expected)
    change_json(
        root,
        lambda data: {"annotations": [{"image_id": s["video_id"], "caption": s["caption"]} for s in data["sentences"]]},
    )
    nameless = [replace(sample, caption_ids=("",) * CAPTIONS) for sample in expected]
    assert module(root).samples("train") == nameless


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _data: {"videos": []}, "neither 'sentences'"),
        (lambda _data: [1], "neither 'sentences'"),
        (lambda _data: {"sentences": 3}, "sentences"),
        (lambda data: {"sentences": [*data["sentences"], {"video_id": "video0"}]}, f"sentences[{20 * CAPTIONS}]"),
        (lambda data: {"sentences": [s for s in data["sentences"] if s["video_id"] != "video3"]}, "video3"),
        (lambda data: {"sentences": [*data["sentences"], {"video_id": "video3", "caption": " "}]}, "video3"),
    ],
)
def test_wrong_json(change: Callable[[Any], Any], words: str, root: Path) -> None:
    change_json(root, change)
    assert words in refusal(DataError, module(root).samples, "train")


@pytest.mark.parametrize("video", ["../video0", "a/b", "a\\b", ".", "..", "a\x07b", "/etc/passwd"])
def test_ids_that_are_no_file_names(video: str, root: Path) -> None:
    append(root / "MSRVTT_JSFUSION_test.csv", f"ret,msr,{video},a cat\n")
    assert "is no file name" in refusal(DataError, module(root).samples, "test")


@pytest.mark.parametrize("name", ["MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"])
def test_duplicates(name: str, root: Path) -> None:
    last = (root / name).read_text(encoding="utf-8").splitlines()[-1]
    append(root / name, last + "\n")
    assert "listed 2 times" in refusal(DataError, module(root).samples, split_of(name))


@pytest.mark.parametrize("name", ["MSRVTT_data.json", "MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"])
def test_missing_annotation_file(name: str, root: Path) -> None:
    (root / name).unlink()
    assert name in refusal(DataError, module(root).samples, split_of(name))


def test_counts_are_asserted_unless_partial(written: Path) -> None:
    message = refusal(DataError, module(written, partial=False).samples, "train")
    assert f"train split has {NUM_TRAIN} videos, expected 9000" in message
    assert "data.partial" in message


# --- the real lists -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """The field's lists, with one made caption per video, because the file of all captions is not at hand."""
    source = shared / "data" / "annotations" / "msrvtt"
    if not source.is_dir():
        pytest.skip(f"no lists of MSR-VTT at {source}")
    folder = tmp_path_factory.mktemp("real")
    for path in source.glob("*.csv"):
        (folder / path.name).symlink_to(path)
    sentences = [{"video_id": f"video{number}", "caption": "a clip"} for number in range(10_000)]
    (folder / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("protocol", "counts"),
    [("1kA-9k", (9000, 0, 1000)), ("1kA-7k", (7010, 0, 1000)), ("full", (6513, 497, 2990))],
)
def test_real_lists_have_their_counts(protocol: Any, counts: tuple[int, int, int], real: Path) -> None:
    data = module(real, split_protocol=protocol, partial=False)
    assert tuple(len(data.samples(split)) for split in ("train", "val", "test")) == counts
    train, val, test = (set(ids(data.samples(split))) for split in ("train", "val", "test"))
    assert not test & val
    assert not test & train
    assert not train & val
    record = data.protocol_record()
    assert (record["n_gallery"], record["n_expected"], record["partial"]) == (counts[2], counts[2], False)


def test_real_test_queries(real: Path) -> None:
    first, *_, last = module(real, partial=False).samples("test")
    assert first == Sample("video9770", ("a person is connecting something to system",), caption_ids=("ret0",))
    assert last.video.startswith("video")
    assert len(last.captions) == 1


@pytest.mark.parametrize("name", ["MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"])
def test_a_real_list_that_lost_its_last_line(name: str, real: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(real, tmp_path / "cut"))
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    (folder / name).unlink()
    (folder / name).write_text("\n".join(lines[:-1]), encoding="utf-8")
    message = refusal(DataError, module(folder, partial=False).samples, split_of(name))
    assert f"{len(lines) - 2} videos, expected {len(lines) - 1}" in message


# --- hold-out -------------------------------------------------------------------------------------------------------


def test_held_out_videos_follow_from_their_ids(root: Path) -> None:
    data = module(root, val_videos=5)
    held, train = ids(data.samples("val")), ids(data.samples("train"))
    everything = listed(root, "MSRVTT_train.9k.csv")
    assert len(held) == 5
    assert sorted(held + train) == sorted(everything)
    assert held == [video for video in everything if video in held]  # both stay in file order
    assert ids(module(root, val_videos=5, seed=9).samples("val")) == held
    assert set(ids(module(root, val_videos=4).samples("val"))) < set(held)
    (root / "MSRVTT_train.9k.csv").write_text("\n".join(["video_id", *reversed(everything)]), encoding="utf-8")
    assert set(ids(module(root, val_videos=5).samples("val"))) == set(held)
    assert ids(data.samples("test")) == listed(root, "MSRVTT_JSFUSION_test.csv")


def test_no_hold_out_beside_a_validation_split(written: Path) -> None:
    data = module(written, split_protocol="full", val_videos=2)
    assert "validation split of its own" in refusal(UsageError, data.samples, "train")


@pytest.mark.parametrize("val_videos", [-1, NUM_TRAIN, NUM_TRAIN + 1])
def test_hold_out_that_leaves_nothing_or_makes_no_sense(val_videos: int, written: Path) -> None:
    message = refusal(UsageError, lambda: module(written, val_videos=val_videos).samples("train"))
    assert "val_videos" in message


# --- clips ----------------------------------------------------------------------------------------------------------


def remove(root: Path, split: str) -> list[str]:
    names = listed(root, {"train": "MSRVTT_train.9k.csv", "test": "MSRVTT_JSFUSION_test.csv"}[split])[1:3]
    for name in names:
        (root / "videos" / f"{name}.mp4").unlink()
    return names


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_clips_are_listed(split: str, root: Path) -> None:
    names = remove(root, split)
    message = refusal(DataError, module(root).setup, "fit")
    assert f"{split} split: 2 of" in message
    assert ", ".join(map(repr, names)) in message
    assert "data.bad_videos tolerate" in message


def test_tolerated_gaps_shrink_training_but_never_the_test_split(root: Path) -> None:
    gone = remove(root, "train")
    missing = remove(root, "test")
    data = module(root, bad_videos="tolerate")
    with pytest.warns(UserWarning, match="videos are not below"):
        data.setup("fit")
    assert len(data._datasets["train"]) == (NUM_TRAIN - len(gone)) * CAPTIONS
    batches = list(data.test_dataloader())
    assert sum(len(batch.video_index) for batch in batches) == NUM_TEST
    decoded = torch.cat([batch.decoded for batch in batches]).tolist()
    assert decoded == [sample.video not in missing for sample in data.samples("test")]
    record = data.protocol_record()
    assert record["partial"]
    assert (record["n_found"], record["n_gallery"]) == (NUM_TEST - 2, NUM_TEST)


def test_clips_in_sub_folders_and_with_other_suffixes(root: Path) -> None:
    (root / "videos" / "deep" / "er").mkdir(parents=True)
    (root / "videos" / "video0.mp4").rename(root / "videos" / "deep" / "er" / "video0.MKV")
    (root / "videos" / "video2.txt").write_bytes(b"no clip")
    data = module(root)
    found = data._find("train", data.samples("train"))
    assert {path.name for path in found if path} >= {"video0.MKV", "video2.mp4"}


@pytest.mark.parametrize("other", ["video1.webm", "copy/video1.mp4"])
def test_two_clips_of_one_id_are_refused(other: str, root: Path) -> None:
    path = root / "videos" / other
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"which of them?")
    message = refusal(DataError, module(root, bad_videos="tolerate").setup, "fit")
    assert message.startswith("train split: 'video1' may be ")
    assert str(path) in message
    assert str(root / "videos" / "video1.mp4") in message


def test_where_missing_clips_were_looked_for_and_what_there_is_like_them(root: Path) -> None:
    (root / "videos" / "video0.mp4").rename(root / "videos" / "Video0.mp4")
    (root / "videos" / "video1.mp4").rename(root / "videos" / "video1.mp4.part")
    message = refusal(DataError, module(root).setup, "fit")
    assert f"are not below {root / 'videos'} (" in message
    assert "in place of 'video0' there is 'Video0.mp4', in other letters" in message
    assert "in place of 'video1' there is 'video1.mp4.part', no clip by its suffix" in message


def test_no_folder_of_clips(root: Path) -> None:
    message = refusal(DataError, module(root, videos="clips").setup, "fit")
    assert str(root / "clips") in message


# --- loaders --------------------------------------------------------------------------------------------------------


def test_training_batches(written: Path) -> None:
    data = module(written)
    data.setup("fit")
    loader = data.train_dataloader()
    batches: list[Batch] = list(loader)
    assert len(batches) == len(loader) == NUM_TRAIN * CAPTIONS // 8
    assert batches[0].clips.frames.shape == (8, 3, 3, 32, 32)
    assert batches[0].clips.frames.dtype == torch.uint8
    assert batches[0].words.ids.shape == (8, 12)
    assert sorted(int(i) for batch in batches for i in batch.text_index) == list(range(NUM_TRAIN * CAPTIONS))
    again = module(written)
    again.setup("fit")
    assert all(
        a.equal(b)
        for x, y in zip(batches, again.train_dataloader(), strict=True)
        for a, b in zip(x, y, strict=True)
        if isinstance(a, Tensor)
    )
    assert data.val_dataloader() == []


@pytest.mark.parametrize("eval_batch_size", [1, 3, 32])
def test_test_batches_hold_each_video_and_caption_once(eval_batch_size: int, written: Path) -> None:
    data = module(written, split_protocol="full", eval_batch_size=eval_batch_size)
    data.setup("test")
    batches: list[Batch] = list(data.test_dataloader())
    videos = [int(i) for batch in batches for i in batch.video_index]
    texts = [(int(t), int(v)) for batch in batches for t, v in zip(batch.text_index, batch.text_video, strict=True)]
    count = len(listed(written, "MSRVTT_test.full.csv"))
    assert videos == list(range(count))
    assert texts == [(text, text // CAPTIONS) for text in range(count * CAPTIONS)]


def test_one_caption_per_video(written: Path) -> None:
    data = module(written, train_captions="one")
    data.setup("fit")
    (first, second) = data.train_dataloader()
    assert sorted(torch.cat([first.video_index, second.video_index]).tolist()) == list(range(NUM_TRAIN))


def test_batch_larger_than_the_training_split(written: Path) -> None:
    data = module(written, batch_size=NUM_TRAIN * CAPTIONS + 1)
    data.setup("fit")
    assert "data.batch_size" in refusal(UsageError, data.train_dataloader)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("split_protocol", "1kB"),
        ("sampling", "often"),
        ("reader", "opencv"),
    ],
)
def test_options_out_of_range(option: str, value: Any, written: Path) -> None:
    assert f"MSRVTT.{option}: expected" in refusal(UsageError, lambda: module(written, **{option: value}))


def test_without_a_backbones_specification(written: Path) -> None:
    assert "data.spec" in refusal(UsageError, MSRVTT(written).setup, "fit")


# --- record ---------------------------------------------------------------------------------------------------------


def test_record_of_the_protocol(root: Path) -> None:
    data = module(root)
    record = data.protocol_record()
    assert record["id"] == "msrvtt-1kA-9k/v1"
    assert record["dataset"] == data.dataset == "msrvtt-fixture"
    assert (record["n_queries"], record["n_gallery"], record["captions_per_video"]) == (NUM_TEST, NUM_TEST, 1)
    assert not record["partial"], "generated data are no part of something larger"
    append(root / "MSRVTT_data.json", "\n")
    changed = module(root).protocol_record()
    differing = {key for key in record if changed[key] != record[key]}
    assert differing == {"split_sha256", "annotation_files"}
    other = module(root, frames=2).protocol_record()
    assert {key for key in record if other[key] != changed[key]} == {"preprocess", "preprocess_sha256"}
    (root / MARK).unlink()
    assert module(root).dataset == "msrvtt"
    assert module(root).protocol_record()["partial"]


def test_a_test_needs_no_training_files(root: Path) -> None:
    (root / "MSRVTT_train.9k.csv").unlink()
    (root / "MSRVTT_data.json").unlink()
    assert len(module(root).samples("test")) == NUM_TEST


def test_trained_test_videos_are_refused_unless_partial(root: Path) -> None:
    seen = listed(root, "MSRVTT_JSFUSION_test.csv")[0]
    append(root / "MSRVTT_train.9k.csv", f"{seen}\n")

    def add_caption(data: Any) -> Any:
        data["sentences"].append({"video_id": seen, "caption": "a", "sen_id": 0})
        return data

    change_json(root, add_caption)
    data = module(root)
    data.setup("fit")
    data.partial = False
    assert seen in refusal(DataError, data._require_unseen)
