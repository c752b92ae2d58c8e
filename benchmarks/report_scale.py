"""`petl-bench report` over many runs: the first time, again, after one more run, and how much memory it takes.

    python -m benchmarks.report_scale --runs 2000

Makes runs in a temporary folder: methods x datasets x settings x seeds of text-video retrieval with 1,000 queries in
both directions, whose ranks differ between methods and, less, between seeds, as `petl-bench fit` writes them; adapters
are small. Prints seconds, those of the
processor, and peak memory as JSON. With `--parts` it tells the parts of the first time and the second
one, in this process.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from petl_bench.report.collect import collect
from petl_bench.report.comparison import with_statistics
from petl_bench.report.duplicates import settled
from petl_bench.report.memo import fingerprint
from petl_bench.report.queries import Queries
from petl_bench.report.tables import build_tables
from petl_bench.report.verification import figures_of, verified
from petl_bench.runs.record import read_result, write_result

ROOT = Path(__file__).parents[1]
TEMPLATE = "tests/files_of_3e531d0/runs/msrvtt-fixture/adaptformer/clip-tiny/60d7b55a/seed0/result.json"
QUERIES, METHODS, DATASETS, SEEDS = 1000, 20, 5, 5
WORDS = "a man in a red shirt is talking about how to fold the dough while the camera moves around the table"


def make_runs(folder: Path, count: int) -> None:
    """Writes `count` runs below a folder."""
    template = read_result(ROOT / TEMPLATE)
    names = {"video_id": [f"video{7000 + number}" for number in range(QUERIES)]}
    names["text_id"] = [f"{video}#0" for video in names["video_id"]]
    names["words"] = [f"{number} {WORDS[: 40 + number % 60]}" for number in range(QUERIES)]
    texts = {name: np.array(column) for name, column in names.items()}
    for place in range(count):
        make_run(folder, copy.deepcopy(template), place, texts)


def make_run(folder: Path, record: dict[str, Any], place: int, texts: dict[str, np.ndarray]) -> None:
    """Writes one run; its place says which one it is."""
    seed, rest = place % SEEDS, place // SEEDS
    dataset, rest = rest % DATASETS, rest // DATASETS
    method, setting = rest % METHODS, rest // METHODS
    path = folder / f"dataset{dataset}/method{method}/{setting}/seed{seed}/result.json"
    path.parent.mkdir(parents=True)
    ranks = npz({**made_ranks(dataset, method, setting, seed), **texts, "text_video": np.arange(QUERIES)})
    parts = {"ranks": ranks, "adapter": np.random.default_rng(place).bytes(2**16), "config": f"seed: {place}".encode()}
    names = {"ranks": "ranks.npz", "adapter": "adapter.safetensors", "config": "config.yaml"}
    for part, content in parts.items():
        path.with_name(names[part]).write_bytes(content)
    described = f"{dataset} {method} {setting}"
    record["id"] = {"config_hash": sha256(described.encode()), "run_id": f"{described} {seed}", "seed": seed}
    record["origin"] = "measured"
    record["protocol"] |= {
        **{"dataset": f"dataset{dataset}", "n_queries": QUERIES, "n_gallery": QUERIES},
        **{"n_found": QUERIES, "n_expected": QUERIES, "partial": False},
    }
    record["model"] |= {"method": "Full" if method == 0 else f"Method{method}"}
    record["integrity"] = {f"{part}_sha256": sha256(content) for part, content in parts.items()}
    record["eval"] = figures(np.load(io.BytesIO(ranks))) | {"cost": record["eval"]["cost"]}
    write_result(path, record)


def made_ranks(dataset: int, method: int, setting: int, seed: int) -> dict[str, np.ndarray]:
    """Ranks of queries that are as hard for all methods, in part; and the first three hits."""
    hardness = np.random.default_rng(dataset).normal(0.8, 1.3, QUERIES)
    own = np.random.default_rng([dataset, method, setting]).normal(0.02 * method, 0.7, QUERIES)
    made: dict[str, np.ndarray] = {}
    for way in ("t2v", "v2t"):
        chance = np.random.default_rng([dataset, method, setting, seed, len(made)])
        ranks = np.floor(np.exp(hardness + own + chance.normal(0, 0.4, QUERIES)))
        made[way] = np.clip(ranks, 1, QUERIES).astype(np.int32)
        made[f"{way}_hits"] = chance.integers(0, QUERIES, (QUERIES, 3), dtype=np.int32)
    return made


def figures(arrays: Any) -> dict[str, Any]:
    """The `eval` block of a record."""
    queries = {way: Queries(np.arange(QUERIES), ranks=arrays[way]) for way in ("t2v", "v2t")}
    block: dict[str, Any] = {"t2v": {"n": QUERIES}, "v2t": {"n": QUERIES}}
    for name, value in figures_of(queries).items():
        way, _, figure = name.rpartition(".")
        (block[way] if way else block)[figure] = value
    return block


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """A file as a run writes it."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def sha256(content: bytes) -> str:
    """As hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def reported(runs: Path, output: Path, checkout: Path = ROOT) -> dict[str, float]:
    """Seconds and peak memory of the command, in a process of its own with one thread."""
    command = [sys.executable, "-m", "petl_bench", "report", str(runs), f"--output={output}"]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"petl-bench report ended with {process.returncode}")
    worked = usage.ru_utime + usage.ru_stime
    seconds = {"seconds": time.perf_counter() - began, "processor_seconds": worked}
    return {**{name: round(value, 2) for name, value in seconds.items()}, "peak_mb": round(usage.ru_maxrss / 1e3)}


def parts(runs: Path, cache: Path) -> Iterator[tuple[str, float]]:
    """Seconds of the processor for what is there beside formats."""
    began = time.process_time()
    found = collect([runs], cache=cache)
    yield "collect", (first := time.process_time()) - began
    found = settled(verified(found, cache), cache)
    yield "verify", (second := time.process_time()) - first
    tables = build_tables(found.runs)
    third = time.process_time()
    with_statistics(tables, cache)
    yield "statistics", (fourth := time.process_time()) - third
    fingerprint(found.runs, found.rejected, None, cache)
    yield "fingerprint", time.process_time() - fourth
    yield "tables", third - second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--parts", action="store_true", help="tell the parts, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs, output = Path(temporary, "runs"), Path(temporary, "report")
        make_runs(runs, options.runs)
        found: dict[str, Any] = {"first": reported(runs, output), "again": reported(runs, output)}
        if options.parts:
            for when in ("first", "again"):
                seconds = {name: round(value, 2) for name, value in parts(runs, Path(temporary, "cache"))}
                found[f"parts, {when}"] = seconds
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
