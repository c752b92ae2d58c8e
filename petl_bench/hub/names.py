"""Names of repositories of the Hugging Face Hub: `hf-hub:owner/name`, or `hf-hub:owner/name@revision`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from petl_bench.errors import UsageError
from petl_bench.storage.untrusted import shown

PREFIX = "hf-hub:"
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: a branch, a tag, a commit, or a pull request (`refs/pr/1`), which is also a path in the local cache
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class HubName(NamedTuple):
    """A repository at a revision.

    Attributes:
        repository: `owner/name`, or `name` of a few old ones.
        revision: branch, tag or commit; None is the main branch.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def is_pinned(self) -> bool:
        """Whether it names a commit, which is never another one."""
        return bool(self.revision and _COMMIT.fullmatch(self.revision))

    def at(self, commit: str) -> HubName:
        """The repository at a commit."""
        return self._replace(revision=commit)


def hub_name(text: str | Path | None) -> HubName | None:
    """The repository that a text names; None of one that names none.

    Raises:
        UsageError: it begins like one and is none.
    """
    if not str(text).startswith(PREFIX):
        return None
    repository, at, revision = str(text).removeprefix(PREFIX).partition("@")
    require_repository(repository)
    if at and not (_REVISION.fullmatch(revision) and ".." not in revision):
        raise UsageError(f"{shown(text, 120)}: behind @ stands a branch, a tag or a commit")
    return HubName(repository, revision or None)


def require_repository(repository: str) -> None:
    """Refuses what no repository can be called.

    Raises:
        UsageError: saying why.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        told = f"{shown(repository, 120)} is no repository: give owner/name, of letters, digits, '-', '_' and '.'"
        raise UsageError(told) from error
