"""F120-F124: machines that have no more threads, files or memory to give; needs root, to become another user."""

from collections.abc import Iterator

from benchmarks.faults.shared_folders import OWNER, as_user, data, opened
from benchmarks.faults.trials import HELD, PETL_BENCH, Bench, Trial, completed, first_problem, refused
from petl_bench.data.manifest import read_manifest

_WORKERS = "--data.init_args.num_workers=2"


def trials() -> Iterator[Trial]:
    """All of them."""
    yield Trial("F120", "L5a limit of processes, data verify", _verify)
    yield Trial("F121", "L5b limit of processes, fit", _fit)
    yield Trial("F122", "L2a 32 open files, two loaders", _few_files)
    yield Trial("F123", "L3 3 GB and 1 GB of address space", _little_memory)
    yield Trial("F124", "a loader process is killed as by the kernel", _killed)


def _verify(bench: Bench) -> str:
    """Known to be good is what was good; `ulimit -u` counts processes of a user that has no others."""
    manifest = opened(bench, "verify") / "manifest.jsonl"
    command = data(bench, "verify", f"--manifest={manifest}")
    if problem := completed(bench.run(as_user(OWNER, command))):
        return problem
    before = read_manifest(manifest)
    ended = bench.run(as_user(OWNER, [*command, "--recheck"], "ulimit -u 6"))
    after = read_manifest(manifest, tolerate_cut=True)
    return first_problem(refused(ended, 2, "ulimit -u is 6"), HELD if after == before else "verdicts have changed")


def _fit(bench: Bench) -> str:
    ended = bench.run(as_user(OWNER, bench.fit(opened(bench, "runs"), _WORKERS), "ulimit -u 4"))
    return refused(ended, 2, "ulimit -u is 4")


def _few_files(bench: Bench) -> str:
    ended = bench.run(as_user(OWNER, bench.fit(opened(bench, "runs"), _WORKERS), "ulimit -n 32"))
    return refused(ended, 2, "ulimit -n is 32")


def _little_memory(bench: Bench) -> str:
    """A line that names the limit, whatever ends the process."""
    command = [*PETL_BENCH, "plan", "--config=fixture_linear"]
    for kilobytes in (3_000_000, 1_000_000):
        ended = bench.run(as_user(OWNER, command, f"ulimit -v {kilobytes}"))
        if ended.code and (f"ulimit -v is {kilobytes}" not in ended.text or "unexpected" in ended.text):
            return f"{ended.code}: {ended.text[-300:]}"
    return HELD


def _killed(bench: Bench) -> str:
    ended = bench.run(bench.fit(bench.new(), _WORKERS), FAULT="loader is killed")
    return refused(ended, 2, "memory runs out")
