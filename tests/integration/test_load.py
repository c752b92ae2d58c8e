"""`petl_bench.load`: a model from an adapter file that was moved, equal to what `petl-bench predict` writes."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import petl_bench
from petl_bench.backbones.clip.model import create_open_clip, find_architecture
from petl_bench.errors import CheckpointError, DataError, PetlBenchError, UsageError
from petl_bench.main import main
from petl_bench.storage.adapters import read_adapter, write_adapter
from petl_bench.storage.descriptions import video_hash
from tests.integration.fixture_run import only_record, run
from tests.integration.test_old_files import MV_ADAPTER, QUESTIONS
from tests.integration.test_plugin import CONFIG
from tests.shared import REPOSITORY

#: weights that the package carries
PACKAGED = REPOSITORY / "petl_bench" / "backbones" / "small"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("load")


@pytest.fixture(scope="module")
def weights(place: Path) -> Path:
    """A small CLIP whose weights are in a file."""
    _, name = find_architecture("tiny")
    state = create_open_clip(name, None, init_seed=3).state_dict()
    path = place / "weights" / "tiny.safetensors"
    path.parent.mkdir()
    save_file({key: tensor.contiguous() for key, tensor in state.items() if key != "attn_mask"}, path)
    return path


@pytest.fixture(scope="module")
def trained(place: Path, weights: Path, dataset: Path) -> Path:
    """The folder of a run of MV-Adapter, moved away from where it was trained, with `predict`'s features in it."""
    backbone = f"--model.init_args.backbone.init_args.pretrained={weights}"
    assert run("fit", "fixture_mvadapter", dataset, place / "runs", backbone) == 0
    folder, _ = only_record(place / "runs")
    two = "--data.init_args.eval_batch_size=2"
    assert main(["predict", f"--ckpt_path={folder / 'adapter.safetensors'}", two]) == 0
    return Path(shutil.move(folder, place / "moved"))


@pytest.fixture
def alone(trained: Path, tmp_path: Path) -> Path:
    """The adapter file, and nothing else."""
    return Path(shutil.copy(trained / "adapter.safetensors", tmp_path / "mine.safetensors"))


def split(dataset: Path) -> tuple[list[Path], list[str]]:
    """Clips and captions of the test split, in order."""
    with (dataset / "MSRVTT_JSFUSION_test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [dataset / "videos" / f"{row['video_id']}.mp4" for row in rows], [row["sentence"] for row in rows]


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The adapter with another description."""
    adapter = read_adapter(path)
    change(adapter.metadata["model"])
    write_adapter(path, adapter)
    return path


def refusal(error: type[PetlBenchError], path: str | Path, **options: Any) -> str:
    with pytest.raises(error) as caught:
        petl_bench.load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- retrieval


def test_similarities_of_two_clips_and_two_captions(alone: Path, trained: Path, dataset: Path) -> None:
    clips, captions = split(dataset)
    clips, captions = clips[:2], captions[:2]
    model = petl_bench.load(alone)
    video, text = model.encode_video(clips), model.encode_text(captions)
    similarity = model.similarity(text, video)

    # Copied, since a product of tensors that begin at an odd place in memory is rounded otherwise.
    features = {name: rows.clone() for name, rows in load_file(trained / "features.safetensors").items()}
    assert torch.equal(video, features["video"][:2])
    assert torch.equal(text, features["text"][:2])
    assert torch.equal(similarity, features["text"][:2] @ features["video"][:2].T)
    assert similarity.shape == (2, 2)


def test_batches_and_the_run_s_folder(trained: Path, dataset: Path) -> None:
    clips, captions = split(dataset)
    model, features = petl_bench.load(trained), load_file(trained / "features.safetensors")
    assert torch.equal(model.encode_video(list(map(str, clips)), batch_size=2), features["video"])
    assert torch.equal(model.encode_text(captions, batch_size=2), features["text"])
    assert torch.allclose(model.encode_video(clips), features["video"], atol=1e-5)
    assert model.encode_video([]).shape == (0, model.method.backbone.embed_dim)
    weight = torch.ones(model.method.backbone.embed_dim, requires_grad=True)
    (model.encode_video(clips[:1]) * weight).sum().backward()  # features may be trained on
    assert not any(module.training for module in model.method.modules())


def test_moments(alone: Path, dataset: Path) -> None:
    model, clip = petl_bench.load(alone), split(dataset)[0][0]
    whole, beginning, end = model.encode_video([clip, (clip, 0, 1), (clip, 1, None)])
    assert not torch.equal(whole, beginning)
    assert not torch.equal(beginning, end)
    for wrong in [(clip, 2, 1), (clip, -1, 2), (clip, 0.5, 2), (clip, 1), 3]:
        with pytest.raises(UsageError):
            model.encode_video([wrong])
    with pytest.raises(UsageError, match="give a list"):
        model.encode_video(str(clip))
    with pytest.raises(UsageError, match="is none"):
        model.encode_text([3])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="answers no questions"):
        model.answer(clip, "what is it?")


def test_bad_videos(alone: Path, tmp_path: Path) -> None:
    model, bad = petl_bench.load(alone), tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video")
    for path in (bad, tmp_path / "none.mp4"):
        with pytest.raises(DataError, match=path.name):
            model.encode_video([path])


def test_what_it_was_trained_on(trained: Path, alone: Path, dataset: Path) -> None:
    record = json.loads((trained / "result.json").read_text(encoding="utf-8"))
    data = petl_bench.load(alone).trained_on
    assert data is not None
    assert (data.data_module, data.protocol) == ("datamodules.msrvtt.MSRVTT", record["protocol"]["id"])
    assert data.split_sha256 == record["protocol"]["split_sha256"]
    assert len(data.video_hashes) == 16
    assert video_hash("video0") in data.video_hashes
    assert video_hash(split(dataset)[0][0].stem) not in data.video_hashes


def test_the_readme_s_session(
    trained: Path, dataset: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (session,) = re.findall(r"^## Use it from Python\n.*?^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(list(filter(None, session.splitlines()))) == 4
    shutil.copy(trained / "adapter.safetensors", own_folder)
    for name, clip in zip(("a.mp4", "b.mp4"), split(dataset)[0], strict=False):
        shutil.copy(clip, own_folder / name)
    found: dict[str, Any] = {}
    exec(session, found)
    features = load_file(trained / "features.safetensors")
    assert torch.allclose(found["video"][0], features["video"][0], atol=1e-5)
    assert capsys.readouterr().out.startswith("tensor([[")


# --- answers


@pytest.mark.parametrize("config", ["fixtureqa_adaptformer", "fixtureqa_blip_adaptformer"])
def test_answers_are_those_of_predict(config: str, dataset: Path, tmp_path: Path) -> None:
    """A classifier, whose list of answers is in the file, and a decoder."""
    assert run("fit", config, dataset, tmp_path / "runs") == 0
    (adapter,) = (tmp_path / "runs").rglob("adapter.safetensors")
    assert main(["predict", f"--ckpt_path={adapter}"]) == 0
    answers = json.loads(adapter.with_name("answers.json").read_text(encoding="utf-8"))
    questions = json.loads((dataset / "test_qa.json").read_text(encoding="utf-8"))
    model = petl_bench.load(adapter.rename(tmp_path / "alone.safetensors"))
    found = [model.answer(dataset / "videos" / _file(asked), asked["question"]) for asked in questions]
    assert found == [answer["answer"] for answer in answers]
    with pytest.raises(UsageError, match="takes a question"):
        model.answer(dataset / "videos" / _file(questions[0]), " ")


def _file(asked: dict[str, Any]) -> str:
    return f"video{asked['video_id']}.mp4" if isinstance(asked["video_id"], int) else f"{asked['video_id']}.mp4"


# --- old adapters and configurations


@pytest.mark.parametrize("folder", [MV_ADAPTER, QUESTIONS], ids=["retrieval", "questions"])
def test_an_old_adapter_loads_through_the_configuration_beside_it(folder: Path, dataset: Path, tmp_path: Path) -> None:
    for name in ("adapter.safetensors", "config.yaml"):
        shutil.copy(folder / name, tmp_path)
    model = petl_bench.load(tmp_path)
    assert model.trained_on is None
    clip = split(dataset)[0][0]
    assert model.encode_video([clip]).isfinite().all()
    if folder == QUESTIONS:
        assert isinstance(model.answer(clip, "what moves?"), str)
    (tmp_path / "config.yaml").unlink()
    assert "config.yaml of their run beside" in refusal(CheckpointError, tmp_path)


def test_a_configuration(dataset: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model = petl_bench.load("fixture_zeroshot")
    clips, captions = split(dataset)
    found = model.similarity(model.encode_text(captions), model.encode_video(clips))
    assert found.shape == (4, 4)
    path = tmp_path / "weights.safetensors"
    shutil.copyfile(PACKAGED / "clip_small" / "open_clip_model.safetensors", path)
    other = petl_bench.load("fixture_zeroshot", weights=path)
    assert torch.equal(other.similarity(other.encode_text(captions), other.encode_video(clips)), found)
    assert "did you mean" in refusal(UsageError, "fixture_zeroshoot")


# --- weights


def test_weights_that_moved(alone: Path, trained: Path, weights: Path, dataset: Path, tmp_path: Path) -> None:
    elsewhere = weights.rename(weights.with_name("elsewhere.safetensors"))
    try:
        told = refusal(CheckpointError, alone)
        assert str(weights) in told
        assert read_adapter(alone).metadata["backbone_sha256"] in told
        features = load_file(trained / "features.safetensors")
        model = petl_bench.load(alone, weights=elsewhere)
        assert torch.equal(model.encode_video(split(dataset)[0][:2]), features["video"][:2])
        shutil.copy(elsewhere, alone.with_name(weights.name))
        petl_bench.load(alone)  # beside it
    finally:
        elsewhere.rename(weights)


def test_wrong_weights(alone: Path, weights: Path, tmp_path: Path) -> None:
    other = {name: tensor + 0.1 for name, tensor in load_file(weights).items()}
    save_file(other, tmp_path / "other.safetensors")
    wanted = read_adapter(alone).metadata["backbone_sha256"]
    for name in ("other.safetensors", "none.safetensors"):
        told = refusal(CheckpointError, alone, weights=tmp_path / name)
        assert wanted in told
        assert name in told
    (tmp_path / "text.safetensors").write_text("text", encoding="utf-8")
    assert "cannot be used" in refusal(CheckpointError, alone, weights=tmp_path / "text.safetensors")


# --- what cannot be


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", ""])
def test_devices(device: str, alone: Path) -> None:
    assert "give cpu, cuda, or cuda:1" in refusal(UsageError, alone, device=device)


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(said: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            said = said[parent]
        said[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("version", 2, "update petl_bench"),
        ("version", "x", "damaged"),
        ("method", None, "damaged"),
        ("frames.count", 0, "damaged"),
        ("frames.sampling", "none", "cannot be made"),
        ("frames.reader", "none", "no reader"),
        ("max_words", 60_000, "max_words"),
        ("inputs.mean", [float("nan"), 0, 0], "mean"),
        ("inputs.std", [0, 1, 1], "std"),
        ("inputs.image_size", 3, "image_size"),
        ("inputs.tokens", [1], "tokens"),
        ("trained_on.videos", 3, "sorted hashes"),
        ("trained_on.video_hashes", "?", "sorted hashes"),
        ("method.class_path", "methods.mv_adapter.Gone", "cannot be made"),
        ("method.class_path", "petl_bench.tasks.retrieval.Retrieval", "cannot be made"),
        ("method.init_args", {"bottleneck_dim": "x"}, "cannot be made"),
        ("method.init_args", {"a": [0] * 20_000}, "more than any class"),
        ("task.files", {"answer_list": {"name": "../a", "text": ""}}, "damaged"),
        ("task.files", {"mask_duplicates": {"name": "\ud800", "text": ""}}, "damaged"),
        ("weights.sha256", "0" * 64, "0" * 64),
        ("weights.place", "\0", "weights=PATH"),
    ],
)
def test_damaged_descriptions(path: str, value: Any, told: str, alone: Path) -> None:
    if path == "weights.place":
        changed(alone, lambda said: said["weights"].pop("from_here"))
    message = refusal(CheckpointError, changed(alone, _set(path, value)))
    assert told in message
    assert str(alone) in message


@pytest.mark.parametrize("class_path", ["os.system", "torch.nn.Linear", "pytorch_lightning.Trainer"])
@pytest.mark.parametrize("key", ["method.class_path", "task.class_path", "method.init_args.tying"])
def test_nothing_from_outside_is_imported(key: str, class_path: str, alone: Path) -> None:
    value = {"class_path": class_path} if key.endswith("tying") else class_path
    assert "is from outside" in refusal(UsageError, changed(alone, _set(key, value)))


def test_a_file_that_is_no_adapter(tmp_path: Path) -> None:
    assert "no adapter file" in refusal(CheckpointError, tmp_path / "none.safetensors")
    assert "no adapter file" in refusal(CheckpointError, tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    assert "is not a petl_bench adapter" in refusal(CheckpointError, tmp_path / "x.safetensors")


# --- plug-ins


def test_a_method_from_outside(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    (example,) = re.findall(r"^## Add a method\n.*?^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "scratch_gain.py").write_text(example, encoding="utf-8")
    (tmp_path / "gain.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    request.addfinalizer(lambda: sys.modules.pop("scratch_gain", None))
    assert run("fit", str(tmp_path / "gain.yaml"), dataset, tmp_path / "runs", "--plugins=scratch_gain") == 0
    (adapter,) = (tmp_path / "runs").rglob("adapter.safetensors")
    assert "--plugins scratch_gain" in refusal(UsageError, adapter)
    model = petl_bench.load(adapter, plugins=["scratch_gain"])
    assert type(model.method).__name__ == "Gain"
