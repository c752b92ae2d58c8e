"""F160, F161: an index whose building is killed, or whose disk is full."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults.trials import HELD, PETL_BENCH, Bench, Ended, Trial, completed, first_problem, refused
from petl_bench.search.shards import ABOUT_NAME

KILLS = 3
#: a folder, and a LanceDB database
_INDEXES = ("index", "index.lance")
#: times that a trial kills, at most
_KILLED = 3
_QUERY = "a red circle moves left"


def trials() -> Iterator[Trial]:
    """All of them."""
    for name in _INDEXES:
        for number in range(KILLS):
            told = f"kill -9 at random moment {number + 1} of making {name}, search again"
            yield Trial("F160", told, partial(_killed, name, number))
    yield Trial("F161", "disk full while an index is made", _full)


def _killed(name: str, number: int, bench: Bench) -> str:
    """Kills until the index is whole, or a few times; then it finds what one finds that nothing happened to."""
    expected = bench.run(_search(bench, bench.new("whole"), number % 2))
    moments, index, kills, longest = random.Random(number), bench.new(name), 0, expected.seconds
    while kills < _KILLED:
        process = bench.start(_search(bench, index, number % 2))
        time.sleep(longest * moments.uniform(0.3, 1.0))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        elif kills:
            break
        else:  # it was faster than the first
            index, longest = bench.new(name), longest / 2
    again = bench.run(_search(bench, index, number % 2))
    same = HELD if _hits(again) == _hits(expected) else "it finds something else than an index that was not killed"
    return first_problem(completed(expected), completed(again), same)


def _full(bench: Bench) -> str:
    """The one line, and the same command on a disk with room."""
    index, kept = bench.new("index"), bench.new("kept")
    copied = ["sh", "-c", '"$@"; code=$?; cp -r "$0"/. ' + str(kept) + "; exit $code", str(index)]
    command = bench.mounted("-t tmpfs -o size=300k none", index, [*copied, *_search(bench, index, 0)])
    ended = bench.run(command)
    there = HELD if not (kept / ABOUT_NAME).exists() else "half an index counts as one"
    return first_problem(refused(ended, 5, "index"), there, completed(bench.run(_search(bench, kept, 0))))


def _search(bench: Bench, index: Path, workers: int) -> list[str]:
    given = (f"--videos={bench.data / 'videos'}", f"--index={index}", f"--workers={workers}", "--json", "--top-k=100")
    return [*PETL_BENCH, "search", _QUERY, "--adapter=fixture_zeroshot", *given]


def _hits(ended: Ended) -> object:
    """What a search printed; None if it is no JSON."""
    start = ended.text.find("{\n")
    try:
        return json.loads(ended.text[start:])["hits"]
    except (ValueError, KeyError):
        return None
