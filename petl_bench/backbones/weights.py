"""What loading weights has in common for all backbones: reading without executing, and telling what does not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from petl_bench.adapters import read_adapter
from petl_bench.errors import CheckpointError
from petl_bench.results import file_sha256


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
        raise CheckpointError(
            f"cannot read weights {path} ({path.stat().st_size} bytes): {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'empty or damaged file'}"
        ) from error


def require_match(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    path: Path,
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
            f"{path} does not fit this architecture: {len(missing)} tensors missing (first: {missing[:2]}), "
            f"{len(foreign)} unknown (first: {foreign[:2]})"
        )
    for key, value in state.items():
        if not fits(key, value.shape, own[key].shape):
            raise CheckpointError(
                f"{path} does not fit this architecture: {key} is {tuple(value.shape)}, not {tuple(own[key].shape)}"
            )
    require_finite(state, path)


def require_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuses weights with NaN or infinite values.

    Raises:
        CheckpointError: naming the file and the first such tensor.
    """
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {key} has NaN or infinite values; the file is damaged")


def load_full(backbone: nn.Module, name: str, path: Path) -> dict[str, str | None]:
    """Weights that the method `Full` trained, to start from (post-pretraining).

    Returns:
        Provenance for the run record.

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
    require_finite(state, path)
    backbone.load_state_dict(state)
    return {"source": str(path), "file": path.name, "sha256": file_sha256(path)}


def parameters_sha256(module: nn.Module) -> str:
    """SHA-256 over names and values of all parameters: the identity of weights that come from no file."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
