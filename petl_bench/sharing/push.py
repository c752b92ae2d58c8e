"""`petl_bench.push`: a finished run to a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.errors import CheckpointError, PetlBenchError, UsageError
from petl_bench.hub.answers import HOW_TO_LOG_IN, answered, cause
from petl_bench.hub.names import require_repository
from petl_bench.hub.snapshots import bars_on_terminals_only
from petl_bench.report.collect import Collection
from petl_bench.runs.hub_adapters import MANIFEST_NAME, Manifest, read_manifest
from petl_bench.sharing.files import Shared, shared_files
from petl_bench.storage.files import write_bytes_atomically
from petl_bench.storage.untrusted import expanded, is_folder, shown, shown_all

#: what the Hub puts into a repository that it makes
_THE_HUBS = {".gitattributes"}


class Pushed(NamedTuple):
    """What was done.

    Attributes:
        place: address of the repository, or the folder of a dry run.
        commit: that it is at now; None of a dry run.
        is_new: whether this push made that commit.
        files: names of what is shared.
        changed: by name, how a file differs from the run's own.
        kept: whether the card was left as somebody edited it on the Hub.
    """

    place: str
    commit: str | None
    is_new: bool
    files: tuple[str, ...]
    changed: dict[str, str]
    kept: bool = False


def push(
    run: str | Path,
    repo: str,
    *,
    public: bool = False,
    dry_run: str | Path | None = None,
    license: str | None = None,
    words: bool = False,
    benchmark: str | None = None,
    replace: bool = False,
    plugins: Sequence[str] = (),
) -> Pushed:
    """Shares a finished run, as `petl-bench push` does: adapter, configuration, record, ranks and a card.

    `petl_bench.push("runs/.../seed0", "someone/lora-msrvtt")`, and elsewhere
    `petl_bench.load("hf-hub:someone/lora-msrvtt")`. A new repository is private. What is shared names no folder of this
    machine, and `ranks.npz` no caption.

    Args:
        run: folder of a run, or its record.
        repo: `owner/name`.
        public: anybody may read the repository.
        dry_run: folder to write the files to; nothing is uploaded, and nobody is asked.
        license: of the adapter, as the Hub calls it (`mit`, `apache-2.0`, `cc-by-nc-4.0`, ...); None says nothing.
        words: share what captions, questions and answers say, too: see the licence of the dataset.
        benchmark: `owner/dataset:task` of a dataset that the Hub lists as a benchmark, which the main figure is for.
        replace: write into a repository that holds something else, or another run, and over a card that was edited.
        plugins: packages with data modules of your own.

    Raises:
        UsageError: there is no complete run, no token, or the repository is something else's.
        FileError: a file of the run is missing or was changed, or the dry run cannot be written.
        CheckpointError: the adapter cannot be read, or the Hub does not answer or says no.
    """
    from petl_bench.machine.limits import explaining_machine_faults
    from petl_bench.machine.output import printable
    from petl_bench.registry import import_plugins

    with printable(), explaining_machine_faults():
        require_repository(repo)
        if "/" not in repo:
            raise UsageError(f"{shown(repo)} names no owner: give owner/name")
        import_plugins(plugins)
        target = _Repository(repo, public, replace) if dry_run is None else _Folder(expanded(dry_run))
        shared = shared_files(expanded(run), words)
        return target.take(_all_files(shared, repo, license, benchmark), shared)


def _all_files(shared: Shared, repo: str, license: str | None, benchmark: str | None) -> dict[str, bytes]:
    """Everything that is uploaded, by its path in the repository."""
    from huggingface_hub import constants

    from petl_bench.report.leaderboard import build_report
    from petl_bench.sharing.card import CARD_NAME, card_of
    from petl_bench.sharing.evaluation import EVALUATION_NAME, benchmark_named, evaluation_file

    named = None if benchmark is None else benchmark_named(benchmark)
    (table,) = build_report(Collection([shared.run], [])).tables
    (row,) = table.rows
    card = card_of(shared, table, row, repo, license).encode()
    files = {**shared.files, CARD_NAME: card}
    if named is not None:
        record_url = f"{constants.ENDPOINT}/{repo}/blob/main/result.json"
        files[EVALUATION_NAME] = evaluation_file(table, row, named, record_url).encode()
    digests = {name: _sha256(content) for name, content in shared.files.items()}
    manifest = Manifest(shared.run.record["id"]["run_id"], digests, shared.changed, _sha256(card))
    return {**files, MANIFEST_NAME: manifest.text().encode()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Folder:
    """The folder of a dry run.

    Args:
        path: of it.

    Raises:
        UsageError: it holds something already.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and not (is_folder(path) and not any(path.iterdir())):
            raise UsageError(f"--dry-run {path}: name a folder that is empty or not there yet")
        self.path = path

    def take(self, files: Mapping[str, bytes], shared: Shared) -> Pushed:
        """Writes what would be uploaded.

        Raises:
            CheckpointError: the folder cannot be made.
            FileError: a file cannot be written.
        """
        for name, content in files.items():
            place = self.path / name
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CheckpointError(f"--dry-run {self.path} cannot be made: {error.strerror}") from error
            write_bytes_atomically(place, content)
        return Pushed(str(self.path), None, False, tuple(files), shared.changed)


class _Repository:
    """A repository of the Hub that takes a run.

    Args:
        name: `owner/name`.
        public: whether it is to be public.
        replace: whether it may hold something else.

    Raises:
        UsageError: nobody has logged in.
    """

    def __init__(self, name: str, public: bool, replace: bool) -> None:
        from huggingface_hub import HfApi, get_token

        if get_token() is None:
            raise UsageError(f"the Hub has to know who you are: {HOW_TO_LOG_IN}")
        self.api, self.name, self.public, self.replace = HfApi(), name, public, replace

    def take(self, files: Mapping[str, bytes], shared: Shared) -> Pushed:
        """Commits what is new or has changed.

        Raises:
            UsageError: it holds something else, or is not as visible as it is to be.
            CheckpointError: the Hub does not answer, or says no.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        from petl_bench.sharing.card import CARD_NAME
        from petl_bench.sharing.evaluation import EVALUATION_NAME

        try:
            info = self._info() or self._made()
            there = [file.rfilename for file in info.siblings or ()]
            run = shared.run.record["id"]["run_id"]
            kept = self._require_ours(there, info.sha, run)
            wanted = {name: content for name, content in files.items() if not (kept and name == CARD_NAME)}
            operations: list[Any] = [CommitOperationAdd(name, content) for name, content in wanted.items()]
            if EVALUATION_NAME in there and EVALUATION_NAME not in files:
                operations.append(CommitOperationDelete(EVALUATION_NAME))
            said = f"petl-bench push: run {run}"
            with bars_on_terminals_only():
                done = self.api.create_commit(self.name, operations, commit_message=said, parent_commit=info.sha)
        except PetlBenchError:
            raise
        except Exception as error:  # whatever the client raises
            raise CheckpointError(f"{self.name}: nothing was changed: {cause(error)}") from error
        place = f"{self.api.endpoint}/{self.name}"
        return Pushed(place, done.oid, done.oid != info.sha, tuple(wanted), shared.changed, kept)

    def _info(self) -> Any:
        """What the Hub says of it; None if it is not there."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            found = answered(lambda seconds: self.api.model_info(self.name, timeout=seconds), self.api.endpoint)
        except CheckpointError as error:
            refused = error.__cause__
            if isinstance(refused, RepositoryNotFoundError) and not isinstance(refused, GatedRepoError):
                return None
            raise CheckpointError(f"{self.name}: nothing was uploaded: {error}") from error
        if found.private == self.public:
            is_now, wanted = ("private", "--public") if self.public else ("public", "no --public")
            advice = "leave it out, or change that in its settings" if self.public else "add it if that is meant"
            raise UsageError(f"{self.name} is there and {is_now}, and you gave {wanted}: {advice}")
        return found

    def _made(self) -> Any:
        self.api.create_repo(self.name, private=not self.public)
        return self.api.model_info(self.name)

    def _require_ours(self, there: Sequence[str], commit: str, run: str) -> bool:
        """Refuses to write over what is something else's; whether its card was edited, and is to stay."""
        from petl_bench.sharing.card import CARD_NAME

        if self.replace:
            return False
        foreign = [name for name in there if name not in _THE_HUBS]
        if MANIFEST_NAME not in there:
            if foreign:
                raise UsageError(f"{self.name} holds something else ({shown_all(foreign)}): --replace writes over it")
            return False
        manifest = read_manifest(self._file(MANIFEST_NAME, commit))
        if manifest.run != run:
            raise UsageError(
                f"{self.name} holds run {shown(manifest.run)}, and this is {run}: --replace writes over it"
            )
        return CARD_NAME in there and _sha256(self._file(CARD_NAME, commit).read_bytes()) != manifest.card

    def _file(self, name: str, commit: str) -> Path:
        return Path(self.api.hf_hub_download(self.name, name, revision=commit))
