"""Content decides which runs are the same, not paths; what changes no result decides nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from datamodules.custom import Custom
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.cli.named_configs import config_folder
from petl_bench.data import base
from petl_bench.data.manifest import Entry, write_manifest
from petl_bench.runs import session
from petl_bench.runs.experiment import Experiment
from petl_bench.runs.record import config_hash
from petl_bench.storage.files import file_sha256
from tests.integration.fixture_run import run

BACKBONE = "--model.init_args.backbone.init_args."
DATA = "--data.init_args."
TASK = "--model.init_args.task.init_args."
Hashed = Callable[..., str]


@pytest.fixture
def hashed(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hashed:
    """The hash of what a command would train: the name of the folder that it opens."""

    def opened(experiment: Experiment) -> None:
        with session.session("fit", experiment):
            pass

    monkeypatch.setattr(session, "fit", opened)
    count = iter(range(100))

    def hashed(*options: str, config: str = "fixture_linear", root: Path = dataset) -> str:
        runs = tmp_path / f"runs{next(count)}"
        assert run("fit", config, root, runs, *options) == 0
        (folder,) = runs.glob("*/*/*/*/seed0")
        return folder.parent.name

    return hashed


def places(path: Path, folder: Path) -> list[str]:
    """Other paths of the same content: relative, through a link, copied and renamed."""
    folder.mkdir(exist_ok=True)
    copied, linked = folder / f"copied{path.suffix}", folder / f"linked{path.suffix}"
    shutil.copy(path, copied)
    linked.symlink_to(path)
    return [os.path.relpath(path), str(copied), str(linked)]


# --- annotation files -----------------------------------------------------------------------------------------------


def test_annotation_files(hashed: Hashed, dataset: Path, tmp_path: Path) -> None:
    usual = hashed()
    name = "MSRVTT_data.json"
    for place in places(dataset / name, tmp_path / "other"):
        assert hashed(f"{DATA}captions_file={Path(place).absolute()}") == usual
    assert hashed(f"{DATA}train_list=MSRVTT_train.9k.csv") == usual  # which null stands for
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    assert hashed(root=copy) == usual
    sentences = json.loads((copy / name).read_text(encoding="utf-8"))
    sentences["sentences"][0]["caption"] += "s"
    (copy / name).write_text(json.dumps(sentences), encoding="utf-8")
    assert hashed(root=copy) != usual


def test_annotation_files_are_hashed_once(hashed: Hashed, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have a hundred megabytes."""
    asked: list[str] = []
    original = file_sha256

    def counted(path: Path) -> str:
        asked.append(path.name)
        return original(path)

    monkeypatch.setattr(base, "file_sha256", counted)
    hashed()
    assert sorted(asked) == ["MSRVTT_JSFUSION_test.csv", "MSRVTT_data.json", "MSRVTT_train.9k.csv"]


def test_own_files_of_other_names(hashed: Hashed, dataset: Path, tmp_path: Path) -> None:
    """A configuration of one's own, beside the data and copied with it."""
    rows = {"train": [f"video{i}.mp4,caption {i}" for i in range(8)], "test": ["video16.mp4,one", "video17.mp4,two"]}

    def write(folder: Path, train: str) -> Path:
        folder.mkdir()
        (folder / "videos").symlink_to(dataset / "videos")
        for name, split in ((train, "train"), ("test.csv", "test")):
            (folder / name).write_text("\n".join(["video,caption", *rows[split]]) + "\n", encoding="utf-8")
        data = {"class_path": "datamodules.custom.Custom", "init_args": {"root": str(folder), "train_file": train}}
        whole = {"data": data}
        (folder / "own.yaml").write_text(json.dumps(whole), encoding="utf-8")
        return folder

    found = {
        hashed(f"--config={folder / 'own.yaml'}", root=folder)
        for folder in (write(tmp_path / "first", "train.csv"), write(tmp_path / "second", "other.csv"))
    }
    assert len(found) == 1
    rows["train"][0] += " more"
    third = write(tmp_path / "third", "train.csv")
    assert hashed(f"--config={third / 'own.yaml'}", root=third) not in found
    assert Custom(root=third).file_option("train") == "train_file"


def test_manifest(hashed: Hashed, dataset: Path, tmp_path: Path) -> None:
    """Its verdicts count, where a run goes on without the clips that it refuses."""

    def write(name: str, bad: str | None) -> str:
        entries = []
        for path in sorted((dataset / "videos").glob("*.mp4")):
            status = path.stat()
            entries.append(
                Entry(
                    path.stem,
                    f"videos/{path.name}",
                    "bad" if path.stem == bad else "ok",
                    bytes=status.st_size,
                    mtime_ns=status.st_mtime_ns,
                    codec="h264",
                )
            )
        write_manifest(tmp_path / name, entries)
        return f"{DATA}manifest={tmp_path / name}"

    tolerate = f"{DATA}bad_videos=tolerate"
    one = hashed(write("one.jsonl", "video3"), tolerate)
    assert hashed(write("two.jsonl", "video3"), tolerate) == one
    assert hashed(write("three.jsonl", "video4"), tolerate) != one
    assert hashed(write("four.jsonl", None)) == hashed()


# --- weights --------------------------------------------------------------------------------------------------------


def test_weights(hashed: Hashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    import open_clip

    CLIP("tiny", None)  # makes open_clip know it
    model = open_clip.create_model("tiny")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    usual = hashed(f"{BACKBONE}pretrained={tmp_path / 'weights.pt'}")
    for place in places(tmp_path / "weights.pt", tmp_path / "other"):
        assert hashed(f"{BACKBONE}pretrained={place}") == usual
    assert hashed(f"{BACKBONE}pretrained=weights.pt", f"{BACKBONE}init_seed=7") == usual  # which nobody reads
    assert hashed(f"{BACKBONE}pretrained=weights.pt", f"{BACKBONE}image_size=64") == usual  # the architecture's own
    beside = tmp_path / "beside"
    beside.mkdir()
    shutil.copy(tmp_path / "weights.pt", beside)
    pixels = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (beside / "preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    assert hashed(f"{BACKBONE}pretrained={beside / 'weights.pt'}") != usual  # it sees other pixels
    torch.save({k: v + 0.01 for k, v in model.state_dict().items()}, tmp_path / "weights.pt")
    assert hashed(f"{BACKBONE}pretrained=weights.pt") not in (usual, hashed())


def test_architecture_and_vocabulary(hashed: Hashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = config_folder().parent / "petl_bench" / "backbones" / "architectures"
    for config, name in (("fixture_linear", "tiny.json"), ("fixture_blip_adaptformer", "blip_tiny.json")):
        usual = hashed(config=config)
        shutil.copy(folder / name, tmp_path)
        shutil.copy(folder / "blip_tiny_vocab.txt", tmp_path)
        assert hashed(f"{BACKBONE}architecture={name}", config=config) == usual
        changed = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        changed["vision_cfg" if "vision_cfg" in changed else "vision_config"]["image_size"] = 32
        (tmp_path / name).write_text(json.dumps(changed), encoding="utf-8")
        assert hashed(f"{BACKBONE}architecture={name}", f"{BACKBONE}image_size=64", config=config) != usual
    vocabulary = tmp_path / "blip_tiny_vocab.txt"
    assert hashed(f"{BACKBONE}vocabulary={vocabulary}", config="fixture_blip_adaptformer") == usual
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    (tmp_path / "swapped.txt").write_text("\n".join([*pieces[:-2], pieces[-1], pieces[-2]]), encoding="utf-8")
    assert hashed(f"{BACKBONE}vocabulary=swapped.txt", config="fixture_blip_adaptformer") != usual
    assert isinstance(BLIP("tiny", None).contents()["vocabulary"], str)


# --- answer lists ---------------------------------------------------------------------------------------------------


def test_answer_lists(hashed: Hashed, dataset: Path, tmp_path: Path) -> None:
    config = "fixtureqa_adaptformer"
    path = dataset / "train_qa.json"
    usual = hashed(config=config)
    for place in places(path, tmp_path / "other"):
        assert hashed(f"{TASK}answer_list={place}", config=config) == usual
    assert hashed(f"{TASK}answer_list={path}", f"{TASK}max_answers=100000", config=config) == usual  # all of them
    assert hashed(f"{TASK}answer_list={path}", f"{TASK}max_answers=2", config=config) != usual


# --- what changes no result -----------------------------------------------------------------------------------------

OPERATIONAL = (
    '--model.init_args.task.init_args.second_figures=[{"class_path": "petl_bench.tasks.second_figures.NDCG"}]',
    *(f"{DATA}eval_batch_size=3", f"{DATA}num_workers=1", f"{DATA}loader_timeout=7", f"{DATA}on_cache_miss=decode"),
    *(f"{BACKBONE}gradient_checkpointing=true", f"{TASK}chunk=2", "--save_every_n_steps=2", "--collective_timeout=9"),
    "--record_words=false",
    *("--trainer.num_sanity_val_steps=2", "--trainer.log_every_n_steps=9", "--trainer.enable_model_summary=true"),
    *("--trainer.profiler=simple", "--allow_change=processes", "--trainer.callbacks+=ModelSummary"),
)


def test_jpeg_is_hashed_and_pixels_keep_the_hash_that_they_had(hashed: Hashed, tmp_path: Path) -> None:
    usual = hashed()
    (path,) = tmp_path.glob(f"runs0/*/*/*/{usual}/seed0/config.yaml")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    before = config_hash(config)
    assert config["data"]["init_args"].pop("jpeg_quality") is None
    assert config_hash(config) == before
    jpeg = [hashed(f"{DATA}jpeg_quality={quality}") for quality in (90, 95)]
    assert len({usual, *jpeg}) == 3


def test_what_is_operational_is_not_hashed_and_all_else_is(hashed: Hashed, tmp_path: Path) -> None:
    usual = hashed()
    assert hashed(*OPERATIONAL) == usual
    (path,) = tmp_path.glob(f"runs0/*/*/*/{usual}/seed0/config.yaml")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    named = {option.removeprefix("--").split("=")[0].removesuffix("+") for option in OPERATIONAL}
    blocks = {
        "data.init_args": config["data"]["init_args"],
        "model.init_args.backbone.init_args": config["model"]["init_args"]["backbone"]["init_args"],
        "model.init_args.task.init_args": config["model"]["init_args"]["task"]["init_args"],
        "model.init_args.optimizer.init_args": config["model"]["init_args"]["optimizer"]["init_args"],
        "trainer": config["trainer"],
    }
    before = config_hash(config)
    for place, block in blocks.items():
        for name, value in block.items():
            block[name] = "something else"
            seen = config_hash(config) != before
            block[name] = value
            assert seen or f"{place}.{name}" in named | KNOWN, f"{place}.{name} is not hashed"


#: operational options that are not tried above: they need what is not there
KNOWN = {
    *("data.init_args.root", "data.init_args.cache"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.logger"),
    *("trainer.default_root_dir", "trainer.enable_progress_bar", "trainer.detect_anomaly"),
    *("trainer.enable_checkpointing", "trainer.barebones", "trainer.enable_autolog_hparams", "trainer.model_registry"),
    *("trainer.limit_predict_batches", "trainer.limit_test_batches", "trainer.sync_batchnorm"),
    "trainer.use_distributed_sampler",
}
