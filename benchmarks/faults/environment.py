"""F135 to F142: machines that lack or forbid something, readers that go away, and who is asked for weights."""

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.faults.trials import HELD, PETL_BENCH, Bench, Ended, Trial, completed, first_problem, loadable, refused

#: mounts everything read-only but `$1`, which is a new disk in memory
_READ_ONLY = """
folder=$1; shift; mount --make-rprivate / && mount -t tmpfs none "$folder" || exit 99
for place in $(awk '{print $5}' /proc/self/mountinfo | sort -u); do
    case $place in /proc*|/sys*|"$folder") ;; *) mount -o remount,ro,bind "$place" 2>/dev/null ;; esac
done
cd /; "$@"; code=$?; find "$folder" -name result.json; exit $code
"""
_IN_A_THREAD = """
import json, sys, threading
from petl_bench.main import main
codes = []
thread = threading.Thread(target=lambda: codes.append(main(json.loads(sys.argv[1]))))
thread.start(); thread.join(); sys.exit(codes[0])
"""
_WEIGHTS = ("--model.init_args.backbone=backbone/clip_vit_b16.yaml",)


def trials() -> Iterator[Trial]:
    """All of them."""
    yield Trial("F135", "U3b read-only root, no temporary folder", _no_temporary_folder)
    yield Trial("F136", "L3 1 GB of address space", _address_space)
    yield Trial("F137", "J1b a command in a thread, loaders", _thread)
    yield Trial("F139", "O1b reader that is gone, fit", partial(_piped, "| true", 141))
    yield Trial("F139", "O1b reader of one byte of output and messages", partial(_piped, "2>&1 | head -c1", 141))
    yield Trial("F139", "O2b output on a full disk", partial(_piped, "> /dev/full", 5))
    yield Trial("F140", "C2b continued with another number of threads", _threads)
    yield Trial("F141", "C1 one CPU allowed, data cache", _one_cpu)
    yield Trial("F142", "N1a proxy that refuses", partial(_proxy, False, "the connection is refused"))
    yield Trial("F142", "N1b proxy that never answers", partial(_proxy, True, "there is no answer"))


def _no_temporary_folder(bench: Bench) -> str:
    runs = bench.new()
    ended = bench.run(["unshare", "--mount", "sh", "-c", _READ_ONLY, "sh", str(runs), *bench.fit(runs)])
    return first_problem(completed(ended), HELD if "result.json" in ended.text else "there is no record")


def _address_space(bench: Bench) -> str:
    ended = bench.run(["sh", "-c", 'ulimit -v 1000000; exec "$@"', "sh", *bench.fit(bench.new())])
    return refused(ended, 2, "out of memory (ulimit -v is 1000000)")


def _thread(bench: Bench) -> str:
    _, _, _, *arguments = bench.fit(bench.new(), "--data.init_args.num_workers=2")
    return completed(bench.run([sys.executable, "-c", _IN_A_THREAD, json.dumps(arguments)]))


def _piped(redirection: str, code: int, bench: Bench) -> str:
    runs = bench.new()
    command = f"set -o pipefail; {shlex.join(map(str, bench.fit(runs)))} {redirection}"
    ended = bench.run(["bash", "-c", command])
    if ended.code != code:
        return f"exit code {ended.code}, expected {code}: {ended.text[-300:]}"
    return HELD if list(runs.rglob("result.json")) else "there is no record"


def _threads(bench: Bench) -> str:
    """Interrupted under one number of threads, refused under another, continued under that one when it is allowed."""
    runs = bench.new()
    bench.run(bench.fit(runs), FAULT="kill")
    if problem := loadable(runs):
        return problem
    told = refused(bench.run(bench.fit(runs), OMP_NUM_THREADS="2"), 5, "threads was 1, is 2 (OMP_NUM_THREADS)")
    allowed = bench.run(bench.fit(runs, "--allow_change=threads"), OMP_NUM_THREADS="2")
    if problem := first_problem(told, completed(allowed)):
        return problem
    record = json.loads(next(runs.rglob("result.json")).read_text())
    found = (record["env"]["threads"], record["train"]["changed"].get("threads"))
    return HELD if found == (2, ["1", "2"]) else f"the record says {found}"


def _one_cpu(bench: Bench) -> str:
    """Whatever the machine has, the default is what may be used."""
    options = ["--config=data/msrvtt.yaml", f"--data.root={bench.data}", "--help"]
    cpu = str(min(os.sched_getaffinity(0)))
    ended = bench.run(["taskset", "-c", cpu, *PETL_BENCH, "data", "cache", *options])
    told = "decoding processes (default: 1)" in " ".join(ended.text.split())
    return first_problem(completed(ended), HELD if told else ended.text[-300:])


def _proxy(answers: bool, told: str, bench: Bench) -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:  # takes connections, and says nothing
            server.listen(20)
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        home = str(bench.new("home"))
        command = bench.fit(bench.new(), *_WEIGHTS)
        ended: Ended = bench.run(command, HTTPS_PROXY=proxy, HF_HOME=home, HOME=home, HF_ENDPOINT="https://hub.invalid")
    problem = refused(ended, 5, told)
    return problem or (HELD if ended.seconds < 40 else f"it took {ended.seconds:.0f} s")
