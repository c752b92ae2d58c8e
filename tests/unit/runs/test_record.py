import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

import datamodules.msrvtt  # noqa: F401  # what is operational is looked up in classes that are loaded
from petl_bench.errors import UsageError
from petl_bench.runs import environment as environments
from petl_bench.runs import record as results
from petl_bench.runs.environment import environment
from petl_bench.runs.record import (
    config_hash,
    measured_settings,
    operational_options,
    read_result,
    run_directory,
    write_result,
)
from petl_bench.storage.files import FileError, file_sha256
from tests.records import make_record

CONFIG = {
    "seed_everything": 1,
    "trainer": {
        "devices": 2,
        "max_epochs": 5,
        "callbacks": [
            {"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {"monitor": "r1"}},
            {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": {"dirpath": "a"}},
        ],
    },
    "data": {"class_path": "datamodules.msrvtt.MSRVTT", "init_args": {"root": "/a", "num_workers": 4, "frames": 12}},
}


def changed(path: str, value: object) -> dict:
    config = json.loads(json.dumps(CONFIG))
    *parents, name = path.split(".")
    block = config
    for parent in parents:
        block = block[int(parent) if isinstance(block, list) else parent]
    block[int(name) if isinstance(block, list) else name] = value
    return config


def test_round_trip(tmp_path: Path) -> None:
    record = make_record(model__method="μ|method", eval__t2v__R1=100 / 3)
    write_result(tmp_path / "result.json", record)
    assert read_result(tmp_path / "result.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_zero_shot_optional_parts_and_question_answering_are_valid(tmp_path: Path) -> None:
    cost = {"clips_per_s": None}
    published = {
        "published": {"t2v_R1": 42.0},
        "source": {"paper": "paper", "table": "1", "row": None},
        "protocol_note": None,
        "comparable": "unknown",
    }
    zero_shot = make_record(train=None, model__adapter_bytes=None, integrity__adapter_sha256=None)
    captions = make_record(eval__v2t_captions=make_record()["eval"]["t2v"], reference=published)
    answers = make_record(eval={"accuracy": 41.5, "per_type": {"what": 33.0}, "n": 10, "cost": cost})
    failed = make_record(status="failed", eval=None)
    for record in (zero_shot, captions, answers, failed):
        write_result(tmp_path / "result.json", record)
        assert read_result(tmp_path / "result.json") == record


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"extra": 1}, "extra"),
        ({"id__seeed": 1}, "seeed"),
        ({"schema": "other/1"}, "schema is 'other/1'"),
        ({"status": "done"}, "status"),
        ({"eval__t2v__R1": math.nan}, "eval.t2v.R1 is nan"),
        ({"train__peak_allocated_bytes": [1, math.inf]}, "train.peak_allocated_bytes.1 is inf"),
        ({"eval__t2v__R1": 100.1}, "eval.t2v.R1"),
        ({"eval__t2v__MdR": 0}, "eval.t2v.MdR"),
        ({"eval__t2v": None}, "eval.t2v"),
        ({"eval": None}, "eval"),
        ({"eval": {"accuracy": 12.0}}, "'per_type' is a required property"),
        ({"integrity__ranks_sha256": "abc"}, "integrity.ranks_sha256"),
        ({"id__seed": True}, "id.seed"),
        ({"model__total_params": 0}, "model.total_params"),
        ({"model__trainable_params": 10**400}, "model.trainable_params"),
    ],
)
def test_invalid_record_is_neither_written_nor_read(tmp_path: Path, overrides: dict, reason: str) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(FileError) as written:
        write_result(path, make_record(**overrides))
    assert reason in written.value.reason
    assert list(tmp_path.iterdir()) == []

    path.write_text(json.dumps(make_record(**overrides)))
    with pytest.raises(FileError) as read:
        read_result(path)
    assert str(path) in str(read.value)
    assert reason in read.value.reason
    assert read.value.exit_code == 5


@pytest.mark.parametrize("key", sorted(make_record()))
def test_every_block_is_required(tmp_path: Path, key: str) -> None:
    record = make_record()
    del record[key]
    with pytest.raises(FileError, match=key):
        write_result(tmp_path / "result.json", record)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    whole = json.dumps(make_record())
    overflow = whole.replace('"R1": 40.0', '"R1": 1e999')
    assert overflow != whole
    damaged = (b"", whole[:-20].encode(), b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000, overflow.encode())
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(FileError):
            read_result(path)


def test_what_no_run_writes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    whole = json.dumps(make_record())
    huge = whole.replace('"bottleneck": 64', f'"bottleneck": {2**70}')
    twice = whole.replace('"kind": "fit"', '"kind": "fit", "kind": "fit"')
    for content, told in ((huge, "beyond"), (twice, "occurs twice"), (whole + "x", "Extra data")):
        assert content != whole
        path.write_text(content)
        with pytest.raises(FileError, match=told):
            read_result(path)


def test_names_that_are_no_text_are_read_as_some(tmp_path: Path) -> None:
    record = make_record()
    record["model"]["backbone"] = "文\udcff"
    record["model"]["method_config"]["\ud800"] = ["\udcff"]
    write_result(tmp_path / "result.json", record)
    found = read_result(tmp_path / "result.json")
    assert found["model"]["backbone"] == "文\ufffd"
    assert found["model"]["method_config"]["\ufffd"] == ["\ufffd"]


def test_missing_file_directory_and_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe"):
        with pytest.raises(FileError, match="missing or not a file"):
            read_result(path)


def test_failed_write_keeps_the_previous_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_result(path, make_record())

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(FileError, match="No space left"):
        write_result(path, make_record(id__seed=1))
    assert read_result(path)["id"]["seed"] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_write_into_a_missing_folder_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"absent/result\.json: cannot be written"):
        write_result(tmp_path / "absent" / "result.json", make_record())


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180 example
    assert file_sha256(tmp_path / "file") == abc
    with pytest.raises(FileError, match="absent: cannot be read: No such file"):
        file_sha256(tmp_path / "absent")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed_everything", 2),
        ("trainer.devices", 8),
        ("trainer.logger", {"class_path": "CSVLogger"}),
        ("log", "tensorboard,wandb"),
        ("trainer.enable_progress_bar", False),
        ("trainer.callbacks.1.init_args.dirpath", "b"),
        ("trainer.callbacks.1", {"class_path": "pytorch_lightning.callbacks.LearningRateMonitor"}),
        ("trainer.callbacks.1", "TQDMProgressBar"),
        ("data.init_args.root", "/b"),
        ("data.init_args.num_workers", 0),
        ("data.init_args.eval_batch_size", 3),
        ("data.init_args.loader_timeout", 3),
        ("data.init_args.cache", "/c"),
        ("data.init_args.on_cache_miss", "decode"),
        ("ckpt_path", "last.ckpt"),
    ],
)
def test_config_hash_ignores(path: str, value: object) -> None:
    assert config_hash(changed(path, value)) == config_hash(CONFIG)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("trainer.max_epochs", 6),
        ("trainer.callbacks.0.init_args.monitor", "r5"),
        ("trainer.callbacks", []),
        ("data.init_args.frames", 8),
        ("data.class_path", "datamodules.msvd.MSVD"),
        ("trainer.callbacks.1.class_path", "mine.ModelCheckpoint"),
        ("data.init_args.grassroot", 1),
    ],
)
def test_config_hash_sees(path: str, value: object) -> None:
    assert config_hash(changed(path, value)) != config_hash(CONFIG)


def test_only_observers_are_as_good_as_no_callbacks() -> None:
    none = changed("trainer.callbacks", None)
    assert config_hash(changed("trainer.callbacks", CONFIG["trainer"]["callbacks"][1:])) == config_hash(none)


def test_content_stands_for_paths() -> None:
    contents = {"data.init_args": {"root": "sha256:1", "captions_file": "sha256:2"}, "model.init_args": {"x": 1}}
    settings = measured_settings(CONFIG, contents)
    assert settings["data.init_args.captions_file"] == "sha256:2"
    assert "model.init_args.x" not in settings  # there is no such block
    there, elsewhere = (
        changed("data.init_args.captions_file", "/a/b.json"),
        changed("data.init_args.captions_file", "c"),
    )
    assert config_hash(there, contents) == config_hash(elsewhere, contents) != config_hash(there)
    assert there == changed("data.init_args.captions_file", "/a/b.json")  # it is left as it was


def test_what_bases_declare_counts_for_a_class() -> None:
    class Base:
        operational = frozenset({"a"})

    class Derived(Base):
        operational = frozenset({"b"})

    assert operational_options(Derived) == {"a", "b"}
    assert operational_options(int) == set()


def test_config_hash_is_independent_of_order_and_refuses_what_has_no_stable_text() -> None:
    assert config_hash({"a": 1, "b": [1, 2]}) == config_hash({"b": [1, 2], "a": 1})
    assert config_hash({"a": Path("x")}) == config_hash({"a": "x"})
    assert len(config_hash({})) == 64
    for value in (math.nan, object()):
        with pytest.raises(UsageError, match="cannot be hashed"):
            config_hash({"a": value})


def test_environment_fills_the_env_block(tmp_path: Path) -> None:
    env = environment()
    write_result(tmp_path / "result.json", make_record(env=env))
    assert env["python"] == ".".join(map(str, sys.version_info[:3]))
    assert env["versions"]["pytorch-lightning"]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_checkout_of_the_package(tmp_path: Path) -> None:
    package = tmp_path / "petl_bench"
    package.mkdir()
    source = package / "__init__.py"
    source.write_text("a = 1\n")
    git(tmp_path, "init")
    (tmp_path / "other").write_text("")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-m", "other")
    assert environments._checkout(package)["commit"] is None  # someone else's repository

    git(tmp_path, "add", "petl_bench")
    git(tmp_path, "commit", "-m", "package")
    clean = environments._checkout(package)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    assert clean["diff_sha256"] is None

    source.write_text("a = 2\n")
    dirty = environments._checkout(package)
    assert dirty["dirty"] is True
    assert len(dirty["diff_sha256"]) == 64


def test_checkout_without_a_repository(tmp_path: Path) -> None:
    assert environments._checkout(tmp_path) == {"commit": None, "dirty": None, "diff_sha256": None}


def test_run_directory() -> None:
    path = run_directory(Path("runs"), "msrvtt", "MVAdapter", "clip-vit-b-16", "0123456789abcdef", 3)
    assert path == Path("runs/msrvtt/MVAdapter/clip-vit-b-16/01234567/seed3")


@pytest.mark.parametrize("part", ["", ".", "..", "../x", "a/b", "a\\b", "a\0b", "a\nb", ".hidden", "c:"])
def test_run_directory_refuses(part: str) -> None:
    with pytest.raises(UsageError, match="method"):
        run_directory(Path("runs"), "msrvtt", part, "clip", "0" * 64, 0)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\n"
        "import petl_bench.runs.record, petl_bench.report, petl_bench.report.leaderboard, petl_bench.report.tables\n"
        "from petl_bench.runs.environment import environment\n"
        "environment()\n"
        "print({'torch', 'transformers', 'jinja2', 'rich', 'jsonschema'} & set(sys.modules))\n"
    )
    root = Path(results.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
