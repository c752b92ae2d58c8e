"""What a run ran on: the `env` block of its record."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petl_bench.machine.installation import package_version

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

_PACKAGES = (
    "torch",
    "pytorch-lightning",
    "open_clip_torch",
    "transformers",
    "torchvision",
    "av",
    "decord",
    "pillow",
    "timm",
)
#: what decides the figures of a checkout, from the package on; notes, links and results beside it do not
_CODE = (".", "../methods", "../datamodules", "../configs")


def environment() -> dict[str, Any]:
    """The `env` block of a record as far as this process can tell without importing heavy packages.

    What a GPU and its libraries are, `threads`, `cpu_capability`, `decoder` and `deterministic` are null: the caller
    knows them.
    """
    return {
        **_checkout(Path(__file__).parents[1]),
        "lock_sha256": _installed_sha256(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "threads": None,
        "cpu_capability": None,
        "versions": {name: package_version(name) for name in _PACKAGES},
        "cuda": None,
        "driver": None,
        "cudnn": None,
        "nccl": None,
        "gpu": None,
        "gpu_count": None,
        "decoder": None,
        "deterministic": None,
    }


def hardware(trainer: Trainer) -> dict[str, Any]:
    """What of the `env` block a trainer knows: arithmetic, the GPU and its libraries."""
    import torch

    from petl_bench.machine.arithmetic import cpu_arithmetic

    found: dict[str, Any] = {"deterministic": torch.are_deterministic_algorithms_enabled(), **cpu_arithmetic()}
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return found
    return found | {
        "cuda": torch.version.cuda,
        "driver": _driver(Path("/proc/driver/nvidia/version")),
        "cudnn": _dotted(torch.backends.cudnn.version()),
        "nccl": _nccl(),
        "gpu": torch.cuda.get_device_name(device),
        "gpu_count": trainer.world_size,
    }


def _checkout(package: Path) -> dict[str, Any]:
    unknown = {"commit": None, "dirty": None, "diff_sha256": None}
    # A package installed into an environment below someone's repository is not part of that repository.
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(package, "rev-parse", "HEAD")
    status = _git(package, "status", "--porcelain", "--", *_CODE)
    if tracked is None or commit is None or status is None:
        return unknown
    diff = _git(package, "diff", "HEAD", "--", *_CODE)
    return {
        "commit": commit.decode().strip(),
        "dirty": bool(status),
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
    }


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        # Without the lock, runs that start together do not fight over the index.
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


@cache  # to read what some hundred packages say takes a few tenths of a second
def _installed_sha256() -> str:
    lines = set()
    for package in importlib.metadata.distributions():
        with suppress(Exception):  # of metadata that is there in part, anything may come
            metadata = package.metadata
            lines.add(f"{metadata['Name']}=={metadata['Version']}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _cpu_model() -> str | None:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _dotted(version: int | None) -> str | None:
    """cuDNN's version from the number that it gives, 90100 for 9.1.0."""
    return None if version is None else f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _nccl() -> str | None:
    import torch

    if not torch.distributed.is_nccl_available():
        return None
    from torch.cuda import nccl

    return ".".join(map(str, nccl.version()))


def _driver(version: Path) -> str | None:
    """The version of NVIDIA's kernel driver, as the driver itself writes it into a file."""
    with suppress(OSError):
        found = re.search(r"NVRM version:.*?\s(\d+\.[\d.]+)\s", version.read_text(encoding="utf-8", errors="replace"))
        return found[1] if found else None
    return None
