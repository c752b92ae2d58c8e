"""The control groups around this process, by which containers and jobs limit what it may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def folders(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Version and folder of each control group around this process that may limit something: all limits hold.

    Args:
        controller: what is limited, such as `cpu` or `pids`.
        root: of the file system with `proc` and the mounted control groups.
    """
    for version, group in _groups(root, controller):
        for mount, top in _mounts(root, version, controller):
            yield from ((version, folder) for folder in _upwards(mount, top, group))


def _groups(root: Path, controller: str) -> Iterator[tuple[int, str]]:
    """The groups of this process, by version."""
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if (number, controllers) == ("0", ""):
            yield 2, group
        elif controller in controllers.split(","):
            yield 1, group


def _mounts(root: Path, version: int, controller: str) -> Iterator[tuple[Path, str]]:
    """Where the groups are mounted, and which of them is on top there (a container often sees its own one only)."""
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, kind = line.partition(" - ")
        name, _, options = kind.partition(" ")
        if name == "cgroup2" if version == 2 else name == "cgroup" and controller in options.split()[-1].split(","):
            _, _, _, top, mount, *_ = fields.split()
            yield root / mount.lstrip("/"), top


def _upwards(mount: Path, top: str, group: str) -> Iterator[Path]:
    """A group's folder and those above it."""
    path = PurePosixPath(group)
    if path.is_relative_to(top):
        path = path.relative_to(top)
    names = [part for part in path.parts if part not in ("/", "..")]
    yield from (mount.joinpath(*names[:count]) for count in range(len(names), -1, -1))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
