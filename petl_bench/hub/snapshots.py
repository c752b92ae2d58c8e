"""Copies of some files of a repository, as they were at one commit, in the local cache of the Hub's client."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from petl_bench.errors import CheckpointError
from petl_bench.hub.answers import answered, cause
from petl_bench.hub.names import HubName
from petl_bench.machine.launch import this_launch


class Snapshot(NamedTuple):
    """Files of a repository at a commit.

    Attributes:
        folder: in the local cache; nothing is written there.
        name: with the commit as its revision.
    """

    folder: Path
    name: HubName


def snapshot(name: HubName, needed: Sequence[str], beside: Sequence[str] = ()) -> Snapshot:
    """Some files of a repository; of others nothing is fetched or opened.

    A commit that is in the local cache is not asked for again. Of a branch the Hub is asked where it is now; where
    there is no answer, the commit that it was at last is taken.

    Args:
        name: of the repository.
        needed: names of files, the best first; the first that the repository has is fetched.
        beside: patterns of names of files that are fetched with it, where they are.

    Raises:
        CheckpointError: the repository or such a file is not there, or it is not in the cache and there is no answer.
    """
    from huggingface_hub import constants

    cached = _cached(name, needed, beside)
    if cached is not None and (name.is_pinned or constants.HF_HUB_OFFLINE):
        return cached
    try:
        if constants.HF_HUB_OFFLINE:
            raise _NoAnswer("HF_HUB_OFFLINE is set")
        return _fetched(name, needed, beside)
    except _NoAnswer as error:
        if cached is None:
            raise CheckpointError(f"{name} is not in the local cache, and cannot be downloaded: {error}") from error
        tell(f"{name} is taken from the local cache, which may be behind: {error}")
        return cached
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error


def tell(text: str) -> None:
    """Prints a line beside the output, in the first process; without Lightning, which a search does not import."""
    if this_launch().rank == 0:
        print(text, file=sys.stderr)


class _NoAnswer(CheckpointError):
    """Nobody answered, which says nothing about what is there."""


def _cached(name: HubName, needed: Sequence[str], beside: Sequence[str]) -> Snapshot | None:
    """What is in the local cache, if it is all there: a download may have been cut, or have been another program's."""
    from huggingface_hub import get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        there = [file.path for file in get_cached_repo_tree(name.repository, revision=name.revision)]
        wanted = _wanted(there, needed, beside)
    except (CachedRepoTreeNotFoundError, OSError):
        return None
    except CheckpointError:  # the Hub may know better
        return None
    places = [try_to_load_from_cache(name.repository, file, revision=name.revision) for file in wanted]
    if not all(isinstance(place, str) for place in places):
        return None
    folder = Path(str(places[0])).parent
    return Snapshot(folder, name.at(folder.name))


def _fetched(name: HubName, needed: Sequence[str], beside: Sequence[str]) -> Snapshot:
    from huggingface_hub import snapshot_download

    wanted = _wanted(_files_of(name), needed, beside)
    try:
        with bars_on_terminals_only():
            folder = snapshot_download(name.repository, revision=name.revision, allow_patterns=wanted)
    except Exception as error:  # whatever the client raises
        raise CheckpointError(cause(error)) from error
    return Snapshot(Path(folder), name.at(Path(folder).name))


def _wanted(there: Sequence[str], needed: Sequence[str], beside: Sequence[str]) -> list[str]:
    first = next((file for file in needed if file in there), None)
    if first is None:
        raise CheckpointError(f"it holds no {' or '.join(needed)}")
    return [first, *(file for file in there if any(fnmatch.fnmatchcase(file, pattern) for pattern in beside))]


def _files_of(name: HubName) -> list[str]:
    """The files of a repository, by their paths in it.

    Raises:
        CheckpointError: the Hub says no, or nothing.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        info = answered(
            lambda seconds: api.model_info(name.repository, revision=name.revision, timeout=seconds), api.endpoint
        )
    except CheckpointError as error:
        refused = isinstance(error.__cause__, HfHubHTTPError) and error.__cause__.response.status_code < 500
        raise error if refused else _NoAnswer(str(error)) from error
    return [file.rfilename for file in info.siblings or ()]


@contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    """Keeps the bars of the Hub's client out of logs."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
