"""Adapters that are evaluated on other data, or for another task, than they were trained on."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import DataError
from petl_bench.method import Method
from petl_bench.storage.adapters import Adapter
from petl_bench.storage.descriptions import TrainingData, read_description

#: digits of the SHA-256 of annotation files that tell two evaluations under one protocol apart
_DIGITS = 8


class Elsewhere(NamedTuple):
    """A training that was of something else than is evaluated.

    Attributes:
        task: that it was for.
        data: that it was on; None of an adapter of an earlier version, which does not say.
    """

    task: str
    data: TrainingData | None


def trained_elsewhere(method: Method, data: VideoTextDataModule, path: Path) -> Elsewhere | None:
    """What the adapter of a method was trained for and on, where that is not the task and the data at hand.

    An adapter of an earlier version tells its task only. None where no adapter was loaded.

    Args:
        method: its adapter loaded.
        data: to evaluate on.
        path: of the adapter, for messages.

    Raises:
        CheckpointError: what the adapter says of its training cannot be, or is of a later version.
    """
    described = read_description(Adapter({}, method.adapter_metadata), path)
    on = None if described is None else described.trained_on
    same_data = on is None or _is_of(data, on)
    return None if same_data and method.trained_for == method.task.identity else Elsewhere(method.trained_for, on)


def _is_of(data: VideoTextDataModule, on: TrainingData) -> bool:
    if data.protocol.id != on.protocol:
        return False
    with suppress(DataError):  # a file is missing; who needs it says so
        return data.annotations_sha256() == on.split_sha256
    return True


def transfer_name(method: Method, data: VideoTextDataModule) -> str:
    """The record of a test elsewhere: `test_<protocol>_<task>.json`, one for each protocol and task.

    Files that are not known to be the whole of a protocol (generated, partial, one's own) add the first digits of their
    SHA-256.
    """
    pinned = data.protocol.videos.get("test") or data.protocol.captions.get("test")
    parts = [data.protocol.id, method.task.name]
    if not pinned or data.partial or data.is_fixture():
        with suppress(DataError):  # predictions need no file but that of the test split
            parts.append(data.annotations_sha256()[:_DIGITS])
    return f"test_{'_'.join(map(_slug, parts))}.json"


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)
