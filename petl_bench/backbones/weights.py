"""What loading weights has in common for all backbones: finding files, reading them, telling what is wrong with them.

A file may be one of several shards, wrapped by a training script, or no weights at all (a pointer of Git LFS, a web
page, an archive, half a download): each is recognised and named, whatever the file is called. Nothing in a file is
executed.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from petl_bench.backbones.described import Pixels, pixels_of_adapter
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.hub import answers
from petl_bench.hub.names import HubName, hub_name
from petl_bench.hub.snapshots import snapshot
from petl_bench.machine.resources import exhausted, exhausted_by_parser
from petl_bench.storage.adapters import is_adapter_file, read_adapter
from petl_bench.storage.files import file_sha256
from petl_bench.storage.untrusted import expanded, is_file, shown_all

_PACKAGED = Path(__file__).with_name("small")
#: suffixes of files that hold weights of any library
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz", ".onnx", ".gguf")
#: what describes weights of a repository, and how texts are cut into tokens
_BESIDE = (
    *("open_clip_config.json", "config.json", "preprocessor_config.json", "processor_config.json"),
    "vocab.txt",
)
_SHARD = re.compile(r"(?P<name>.+)-[0-9]{5}-of-(?P<count>[0-9]{5})(?P<suffix>\.\w+)")
_INDEX = ".index.json"
#: where training scripts put the tensors of a model, in the order of preference, and where their moving average
_PARTS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_state_dict_ema", "ema_model", "ema")
#: what a model is called inside another one, as first parts of names, and inside itself, anywhere in them
_OWNERS = frozenset({"module", "model", "clip", "blip", "net", "network", "backbone", "student"})
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: first bytes of what is put, or left, in the place of weights
_NO_WEIGHTS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file: run git lfs pull in its folder, or download it"),
    (b"/annex/objects/", "a pointer of git-annex, not the file: run git annex get"),
    (b"\x1f\x8b", "a gzip archive: unpack it and give the file in it"),
    (b"\xfd7zXZ", "an xz archive: unpack it and give the file in it"),
    (b"BZh", "a bzip2 archive: unpack it and give the file in it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it and give the file in it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it and give the file in it"),
    (b"Rar!", "a RAR archive: unpack it and give the file in it"),
    (b"\x89HDF", "an HDF5 file of TensorFlow: give the weights for PyTorch"),
    (b"GGUF", "a GGUF file: give the weights for PyTorch"),
    (b"\x93NUMPY", "a NumPy array: give the weights for PyTorch"),
)
_TEXTS = (
    ((b"<!doctype html", b"<html", b"<head"), "a web page (HTML), not the file: download it again"),
    ((b"<",), "a message of a server (XML), not the file: download it again"),
    ((b"{", b"["), "JSON text, not weights"),
)
#: bytes that are looked at
_HEAD = 600


@dataclass(frozen=True)
class WeightFiles:
    """Local files that hold the tensors of one model.

    Attributes:
        source: as the user gave it.
        files: one, or all shards in the order of their names.
    """

    source: str
    files: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        return self.files[0].parent

    @property
    def name(self) -> str:
        """The file's name, or of shards the first one's."""
        return self.files[0].name

    @property
    def shown(self) -> str:
        """For messages."""
        return str(self.files[0]) + (f" and {len(self.files) - 1} more shards" if len(self.files) > 1 else "")

    @cached_property
    def sha256(self) -> str:
        """Of the file, or of the digests of all shards; read once, as files of gigabytes take their time."""
        digests = [file_sha256(path) for path in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def require_weights(self) -> None:
        """Refuses what is no weights, with a look at the beginning of each file.

        Raises:
            CheckpointError: naming the file, what it is, and what to do.
        """
        for path in self.files:
            if told := what_else(path):
                raise CheckpointError(f"{path} ({path.stat().st_size} bytes) is {told}")


# --- finding --------------------------------------------------------------------------------------------------------


@cache
def packaged_weights() -> tuple[str, ...]:
    """What `pretrained` calls the weights that lie in the package."""
    return tuple(sorted(path.name for path in _PACKAGED.iterdir()))


def packaged() -> str:
    """`packaged_weights` in a message."""
    return f"one of the package ({', '.join(packaged_weights())})"


def local_files(pretrained: str, names: Sequence[str]) -> WeightFiles | None:
    """The file, shards or folder that `pretrained` is the path of; None if nothing is there.

    `hf-hub:owner/name`, with `@revision` or without, is a repository of the Hugging Face Hub.

    Args:
        pretrained: a path, or a repository.
        names: what the weights in a folder may be called, the best first; shards have an index of that name.

    Raises:
        CheckpointError: a folder or repository has no weights, a shard is missing, or a link leads nowhere.
    """
    if (hub := hub_name(pretrained)) is not None:
        return _of_hub(hub, names)
    path = _path(pretrained)
    if path is None:
        return None
    if path.is_dir():
        return WeightFiles(pretrained, _in_folder(path, names))
    if path.is_file():
        return WeightFiles(pretrained, _shards_of(path))
    if path.is_symlink():
        raise CheckpointError(
            f"{path} is a link to {path.readlink()}, which is not there: get that file (git annex get, or download it)"
        )
    if path.exists():
        raise CheckpointError(f"backbone.pretrained: {path} is no file of weights, but a pipe or a device")
    return None


def place_of(pretrained: str, names: Sequence[str]) -> str | None:
    """Where `local_files` would find weights, in a few words; None if nothing of this machine or the Hub is called so.

    Raises:
        CheckpointError: as `local_files`, or nobody answers.
    """
    if (hub := hub_name(pretrained)) is not None:
        try:
            return f"{pretrained}: {answers.whereabouts(partial(_of_hub, hub, names), hub.repository)}"
        except CheckpointError as error:
            raise CheckpointError(f"{pretrained}: {error}") from error
    found = local_files(pretrained, names)
    if found is None:
        return None
    found.require_weights()
    return f"{pretrained}: {sum(file.stat().st_size for file in found.files) / 1e6:,.1f} MB on this machine"


def _of_hub(hub: HubName, names: Sequence[str]) -> WeightFiles:
    """The weights of a repository, which are safetensors, with what describes them beside; named by their commit."""
    safe = [name for name in names if name.endswith(".safetensors")]
    shards = [f"{Path(name).stem}-?????-of-?????.safetensors" for name in safe]
    needed = [file for name in safe for file in (name, f"{name}{_INDEX}")]
    folder, at = snapshot(hub, needed, [*_BESIDE, *shards])
    return WeightFiles(str(at), _in_folder(folder, safe))


def _path(pretrained: str) -> Path | None:
    """The path that a text is; None for one that no file can have.

    Raises:
        CheckpointError: its folder may not be looked into.
    """
    path = _PACKAGED / pretrained if pretrained in packaged_weights() else expanded(pretrained)
    try:
        path.exists()
    except PermissionError as error:
        raise CheckpointError(f"weights {path} cannot be looked at: {error.strerror}") from error
    except OSError as error:  # too long, for one
        if lacking := exhausted(error, path):
            raise lacking from error
        return None
    except ValueError:  # with a zero byte
        return None
    return path


def _in_folder(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    for name in names:
        if (folder / name).is_file():
            return (folder / name,)
        if (folder / name).is_symlink():
            raise CheckpointError(f"{folder / name} is a link to a file that is not there: get it (git annex get)")
        if (folder / f"{name}{_INDEX}").is_file():
            return _listed(folder / f"{name}{_INDEX}")
        stem, suffix = Path(name).stem, Path(name).suffix
        if first := sorted(folder.glob(f"{stem}-?????-of-?????{suffix}")):
            return _shards_of(first[0])
    others = sorted(path.name for path in folder.iterdir() if path.suffix in _WEIGHT_SUFFIXES)
    found = f"; it holds {', '.join(others[:5])}: give the file itself if it is the one" if others else ""
    raise CheckpointError(f"backbone.pretrained: {folder} has no weights: expected one of {', '.join(names)}{found}")


def _shards_of(path: Path) -> tuple[Path, ...]:
    """All shards that a file is one of, or that it lists; else the file alone."""
    if path.name.endswith(_INDEX):
        return _listed(path)
    if not (match := _SHARD.fullmatch(path.name)):
        return (path,)
    name, count, suffix = match["name"], int(match["count"]), match["suffix"]
    shards = [path.with_name(f"{name}-{i:05d}-of-{count:05d}{suffix}") for i in range(1, count + 1)]
    if path not in shards:  # named like one
        return (path,)
    return _all_there(shards, f"{path.name} is one of {count} shards")


def _listed(index: Path) -> tuple[Path, ...]:
    """The shards that an index of transformers lists."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
        plain = bool(names) and all(name and Path(name).name == name for name in names)  # none of another folder
    except OSError as error:
        raise exhausted(error, index) or CheckpointError(f"cannot read {index}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of shards: {what_else(index) or 'no weight_map'}") from error
    if not plain:
        raise CheckpointError(f"{index} names files that are not beside it: {shown_all(names)}")
    return _all_there([index.with_name(name) for name in names], f"{index.name} lists {len(names)} shards")


def _all_there(shards: Sequence[Path], told: str) -> tuple[Path, ...]:
    missing = [path.name for path in shards if not is_file(path)]
    if missing:
        raise CheckpointError(f"{shards[0].parent}: {told}, and {shown_all(missing)} is missing: download it, too")
    return tuple(shards)


# --- reading --------------------------------------------------------------------------------------------------------


def read_tensors(found: WeightFiles) -> dict[str, Tensor]:
    """Tensors in fp32 by their names in the model, without what training scripts put around them; nothing is executed.

    Raises:
        CheckpointError: naming the file that is damaged or holds more than tensors.
    """
    whole: dict[str, Tensor] = {}
    for path in found.files:
        tensors = _read(path)
        if twice := whole.keys() & tensors.keys():
            raise CheckpointError(f"{path}: {min(twice)} occurs in another shard, too")
        whole |= tensors
    return {name: tensor.float() for name, tensor in without_prefixes(whole, found.shown).items()}


def _read(path: Path) -> dict[str, Tensor]:
    with reading(path):
        if _is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        if is_torchscript(path):
            state = torch.jit.load(path, map_location="cpu").state_dict()
            return {k: v for k, v in state.items() if k not in ("input_resolution", "context_length", "vocab_size")}
        with path.open("rb") as file:  # of a path, torch goes by the suffix
            content = torch.load(file, map_location="cpu", weights_only=True)
    return _unwrapped(content, path)


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a model in what a training script saved."""
    while isinstance(content, dict) and not all(isinstance(value, Tensor) for value in content.values()):
        parts = [name for name in _PARTS if isinstance(content.get(name), dict)]
        averages = [name for name in _AVERAGES if isinstance(content.get(name), dict)]
        if not parts and not averages:
            break
        taken = (parts or averages)[0]
        if averages:
            rank_zero_info(f"{path}: the weights in '{taken}' are taken; it holds {', '.join(parts + averages)}")
        content = content[taken]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        shown = f"a mapping of {list(map(str, content))[:4]}" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} holds {shown}, not tensors by name: give the weights of the model alone")
    return tensors


def without_prefixes(tensors: Mapping[str, Tensor], shown: str) -> dict[str, Tensor]:
    """Tensors without what DDP, FSDP, torch.compile and modules that own the model put before their names.

    Where a moving average is there beside the weights, it is left out.

    Raises:
        CheckpointError: if two tensors have one name then.
    """
    split = {name: _split(name) for name in tensors}
    plain = {name for name, (average, _) in split.items() if not average}
    taken = plain or set(tensors)
    if plain and len(plain) < len(tensors):
        rank_zero_info(f"{shown}: {len(tensors) - len(plain)} tensors of a moving average (EMA) are left out")
    owners: dict[str, str] = {}
    for name in tensors:
        if name in taken and (other := owners.setdefault(split[name][1], name)) != name:
            raise CheckpointError(f"{shown} holds two models: {other} and {name}; give the weights of one alone")
    return {short: tensors[name] for short, name in owners.items()}


def _split(name: str) -> tuple[bool, str]:
    """Whether a name is that of a moving average, and the name inside the model."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    average = False
    while len(parts) > 1 and (parts[0] in _OWNERS or parts[0] in _AVERAGES):
        average |= parts.pop(0) in _AVERAGES
    return average, ".".join(parts)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever reading a weight file raises into one line.

    Raises:
        CheckpointError: if the file is damaged, or a pickle that asks for more than tensors.
    """
    try:
        yield
    except UnpicklingError as error:  # torch's own advice here is to execute the pickle
        raise CheckpointError(
            f"cannot read weights {path} ({path.stat().st_size} bytes): damaged, or a pickle that holds more than "
            "tensors, which is never executed; give safetensors"
        ) from error
    except Exception as error:  # torch, zipfile, pickle and safetensors each raise their own kinds
        if lacking := exhausted_by_parser(error, path):
            raise lacking from error
        raise CheckpointError(
            f"cannot read weights {path} ({path.stat().st_size} bytes): {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'empty or damaged file'}"
        ) from error


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of TorchScript, as OpenAI's are."""
    if not zipfile.is_zipfile(path):
        return False
    with reading(path), zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


# --- what is no weights ---------------------------------------------------------------------------------------------


def what_else(path: Path) -> str | None:
    """What a file is that holds no weights, and what to do; None for one that may hold them.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise exhausted(error, path) or CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not size:
        return "empty: download it again"
    for magic, told in _NO_WEIGHTS:
        if head.startswith(magic):
            return told
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it and give the file in it"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _what_zip(path)
    return _what_text(head) or _what_is_missing(path, head, size)


def _what_zip(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return "cut or damaged: it begins as an archive of PyTorch, and has no end; download it again"
    with reading(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") or "/code/" in name for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays: give the weights for PyTorch"
    return f"a zip archive of {shown_all(names) or 'nothing'}: unpack it and give the file in it"


def _what_text(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").strip()
    if not text:
        return None
    for beginnings, told in _TEXTS:
        if text.lower().startswith(beginnings):
            return f"{told}; it begins with {_quoted(text)}"
    cut = text[: text.rfind(b" ")] if len(head) == _HEAD and b" " in text else text  # its last letter may be cut
    readable = cut.decode("utf-8", errors="replace").replace("\n", "").replace("\r", "").replace("\t", "")
    return (
        f"text, not weights; it begins with {_quoted(text)}" if readable.isprintable() and "�" not in readable else None
    )


def _quoted(text: bytes) -> str:
    shown = " ".join(text.decode("utf-8", errors="replace").split())
    return repr(shown if len(shown) <= 60 else f"{shown[:60]}...")


def _what_is_missing(path: Path, head: bytes, size: int) -> str | None:
    if not any(head) and size >= 8:
        return "zeros where weights should begin: the download was not finished; download it again"
    if not _is_safetensors(path):
        return None
    length = int.from_bytes(head[:8], "little")
    end = 8 + length
    if size >= end:
        with path.open("rb") as file:
            file.seek(8)
            header = file.read(length)
        try:
            entries = [value for key, value in json.loads(header).items() if key != "__metadata__"]
            end += max((int(entry["data_offsets"][1]) for entry in entries), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError):
            return "damaged: its header is no header of safetensors; download it again"
    return f"cut: {size} of {end} bytes are there; download it again" if size < end else None


def _is_safetensors(path: Path) -> bool:
    """By its content: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


# --- what does not fit ----------------------------------------------------------------------------------------------


def require_match(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    shown: str,
    fits: Callable[[str, torch.Size, torch.Size], bool],
) -> None:
    """Refuses weights with other names, other shapes (but for what `fits` lets pass), NaN or infinite values.

    Raises:
        CheckpointError: naming the file and the first tensor that does not fit.
    """
    missing = sorted(own.keys() - state.keys())
    foreign = sorted(state.keys() - own.keys())
    if missing or foreign:
        raise CheckpointError(
            f"{shown} does not fit this architecture: {len(missing)} tensors missing (first: {missing[:2]}), "
            f"{len(foreign)} unknown (first: {foreign[:2]})"
        )
    for key, value in state.items():
        if not fits(key, value.shape, own[key].shape):
            raise CheckpointError(
                f"{shown} does not fit this architecture: {key} is {tuple(value.shape)}, not {tuple(own[key].shape)}"
            )
    require_finite(state, shown)


def require_finite(state: Mapping[str, Tensor], shown: str) -> None:
    """Refuses weights with NaN or infinite values.

    Raises:
        CheckpointError: naming the file and the first such tensor.
    """
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{shown}: {key} has NaN or infinite values; the file is damaged")


def full_adapter(pretrained: str | None) -> Path | None:
    """The adapter file that `pretrained` is the path of; None if it is something else."""
    path = None if pretrained is None else _path(pretrained)
    return path if path is not None and is_adapter_file(path) else None


def load_full(backbone: nn.Module, name: str, path: Path) -> tuple[dict[str, str | None], Pixels]:
    """Weights that the method `Full` trained, to start from (post-pretraining).

    Returns:
        Provenance for the run record, and how images were prepared.

    Raises:
        CheckpointError: if the file does not hold all weights of a backbone of this name.
    """
    adapter = read_adapter(path)
    state = {key.removeprefix("backbone."): value for key, value in adapter.tensors.items()}
    own = {key: value.shape for key, value in backbone.state_dict().items()}
    method, trained = (adapter.metadata.get(key) for key in ("method", "backbone"))
    if trained != name or {k: v.shape for k, v in state.items()} != own:
        raise CheckpointError(
            f"{path} holds {method} of {trained}, not all weights of {name}: give an adapter.safetensors of "
            "the method Full on the same architecture"
        )
    require_finite(state, str(path))
    backbone.load_state_dict(state)
    weights: dict[str, str | None] = {"source": str(path), "file": path.name, "sha256": file_sha256(path)}
    return weights, pixels_of_adapter(adapter, path)


def take_over(module: nn.Module, trained: nn.Module) -> None:
    """Copies what a tower of a backbone has learnt into a plain one.

    Raises:
        UsageError: a method has put modules into it.
    """
    try:
        module.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        told = "its method is not merged: it has modules that a plain backbone has not"
        raise UsageError(f"the weights cannot be written as those of a backbone: {told}") from error


def parameters_sha256(module: nn.Module) -> str | None:
    """SHA-256 over names and values of all parameters: the identity of weights that come from no file.

    None on the meta device, where weights have no values.
    """
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        return None
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
