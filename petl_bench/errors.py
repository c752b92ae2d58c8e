"""Errors a user can act on. Each carries the exit code of the command that meets it."""

from collections.abc import Iterator


class PetlBenchError(Exception):
    """One line for the user: what happened, which file or key, what to do."""

    exit_code = 1


class UsageError(PetlBenchError):
    """The command line or a configuration is wrong."""

    exit_code = 2


class ResourceError(PetlBenchError):
    """This machine has no more threads, files or memory to give; that says nothing about the data at hand."""

    exit_code = 2


class StorageError(ResourceError):
    """A disk is full, or does not answer."""

    exit_code = 5


class NonFiniteError(PetlBenchError):
    """A loss, feature or similarity is NaN or infinite."""

    exit_code = 3


class DataError(PetlBenchError):
    """An annotation file, video or split is missing, damaged or inconsistent."""

    exit_code = 4


class MissingFileError(DataError):
    """An annotation file is not there; what others say can still be counted."""


class CheckpointError(PetlBenchError):
    """A checkpoint, adapter or weight file cannot be read, written or used here."""

    exit_code = 5


class DistributedError(PetlBenchError):
    """Processes disagree, or one of them is gone."""

    exit_code = 6


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from, each once: an error that is raised again may be among its own causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
