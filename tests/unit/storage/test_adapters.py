"""Adapter files: exact round trips, atomic writes, damaged and foreign files refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from petl_bench.errors import CheckpointError
from petl_bench.storage.adapters import FORMAT, Adapter, is_adapter_file, read_adapter, write_adapter

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "half": torch.tensor([1.5, -2.0]).half(),
    "brain": torch.tensor([0.1]).bfloat16(),
    "scale": torch.tensor(3.0),
    "count": torch.tensor([7]),
    "empty": torch.zeros(0, 4),
}
METADATA = {"method": "methods.lora.LoRA", "backbone": "clip-tiny", "note": "ü"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, Adapter(TENSORS, METADATA))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_adapter(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_round_trip(path: Path) -> None:
    adapter = read_adapter(path)
    assert adapter.metadata == METADATA | {"format": FORMAT}
    assert adapter.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert adapter.tensors[name].dtype == tensor.dtype
        assert torch.equal(adapter.tensors[name], tensor)
    assert is_adapter_file(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.touch()
    write_adapter(tmp_path / "adapter.safetensors", Adapter(TENSORS, METADATA))
    assert (tmp_path / "adapter.safetensors").stat().st_mode == usual.stat().st_mode


def test_views_and_parameters(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    tensors = {"transposed": base.T, "row": base[1], "parameter": torch.nn.Parameter(torch.ones(2))}
    write_adapter(tmp_path / "adapter.safetensors", Adapter(tensors, {}))
    found = read_adapter(tmp_path / "adapter.safetensors").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_an_adapter_takes_the_place_of_another(path: Path) -> None:
    write_adapter(path, Adapter({"x": torch.ones(1)}, {}))
    assert list(read_adapter(path).tensors) == ["x"]


def test_failed_write_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full_disk(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_adapter(path, Adapter(TENSORS, METADATA))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_folder_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "adapter.safetensors"
    with pytest.raises(CheckpointError) as caught:
        write_adapter(path, Adapter(TENSORS, METADATA))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text\n" * 50, b"\x10\x00\x00\x00\x00\x00\x00\x00{"])
def test_other_content(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert "is not a whole safetensors file" in refusal(path)
    assert not is_adapter_file(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"), (b"<html>", "web page")],
)
def test_what_a_download_leaves(content: bytes, told: str, path: Path) -> None:
    path.write_bytes(content)
    assert told in refusal(path)


@pytest.mark.parametrize("described", ["[" * 100_000, '{"format": 1, "format": 2}', "[]", "3", "\ud800", ""])
def test_what_no_adapter_says_of_itself(described: str, path: Path) -> None:
    save_file(TENSORS, path, {"petl_bench": described.encode("utf-8", "replace").decode()})
    assert "is not a petl_bench adapter" in refusal(path)
    assert not is_adapter_file(path)


def test_what_a_file_says_of_itself_is_told_in_one_line(path: Path) -> None:
    save_file(TENSORS, path, {"petl_bench": '{"format": "a\\nb\\u001b[31m"}'})
    assert r"(format 'a\nb\x1b[31m')" in refusal(path)


def test_a_pipe_is_no_adapter(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "adapter.safetensors")
    assert "no adapter file" in refusal(tmp_path / "adapter.safetensors")
    assert not is_adapter_file(tmp_path / "adapter.safetensors")


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_truncated(kept: int, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    refusal(path)
    assert not is_adapter_file(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": f"{FORMAT}0"}])
def test_safetensors_of_another_kind(metadata: dict[str, str] | None, path: Path) -> None:
    save_file(TENSORS, path, metadata)
    assert "is not a petl_bench adapter" in refusal(path)
    assert not is_adapter_file(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        assert "no adapter file" in refusal(path)
        assert not is_adapter_file(path)


def test_other_suffix_is_no_adapter_file(path: Path) -> None:
    assert not is_adapter_file(path.rename(path.with_suffix(".bin")))


def test_the_same_adapter_is_the_same_file(path: Path) -> None:
    first = path.read_bytes()
    for _ in range(10):
        write_adapter(path, Adapter(TENSORS, METADATA))
        assert path.read_bytes() == first


def test_a_checkpoint_of_training_is_no_adapter(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.touch()
    assert "adapter.safetensors beside it" in refusal(path)
