"""`petl-bench push`: a finished run to a repository of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence

from petl_bench.cli.arguments import Parser, possible_path


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Uploads a run and prints where it is, or writes what would be uploaded.

    Raises:
        UsageError: there is no complete run, no token, or the repository is something else's.
        FileError: a file of the run is missing or was changed, or the dry run cannot be written.
        CheckpointError: the adapter cannot be read, or the Hub does not answer or says no.
    """
    options = _parser().parse_args(arguments)
    from petl_bench.sharing.push import push

    done = push(
        options.run,
        options.repo,
        public=options.public,
        dry_run=options.dry_run,
        license=options.license,
        words=options.words,
        benchmark=options.benchmark,
        replace=options.replace,
        plugins=plugins,
    )
    for name, how in sorted(done.changed.items()):
        print(f"{name}: {how}")
    if done.commit is None:
        print(f"{len(done.files)} files that would be uploaded to {options.repo}: {done.place}")
        return 0
    if done.kept:
        print("README.md was edited on the Hub and stays as it is there (--replace writes over it)")
    told = f"commit {done.commit}" if done.is_new else f"nothing has changed since commit {done.commit}"
    print(f"{done.place} ({'public' if options.public else 'private'}): {told}")
    print(f"load it: petl_bench.load('hf-hub:{options.repo}@{done.commit}')")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="petl-bench push",
        description="Uploads adapter, configuration, record, ranks and a card of a run to the Hugging Face Hub, in one "
        "commit. What is shared names no folder of this machine. `hf auth login` says who you are.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=possible_path, metavar="RUN", help="runs/.../seed0, or its result.json")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="made if it is not there")
    parser.add_argument("--public", action="store_true", help="anybody may read it (a new one is private)")
    parser.add_argument(
        "--dry-run", type=possible_path, metavar="DIR", help="write the files to a new folder, and upload nothing"
    )
    parser.add_argument(
        *("--license", "--licence"), metavar="ID", help="of the adapter, as the Hub calls it: mit, cc-by-nc-4.0, ..."
    )
    parser.add_argument(
        "--words", action="store_true", help="share what captions, questions and answers say, if their licence lets you"
    )
    parser.add_argument(
        "--benchmark",
        metavar="OWNER/DATASET:TASK",
        help="of the Hub that the main figure counts for (.eval_results); the task as the dataset's eval.yaml names it",
    )
    parser.add_argument(
        "--replace", action="store_true", help="write into a repository of another run, or over an edited card"
    )
    return parser
