"""A made-up report with everything that one can hold, for tests of what shows it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petl_bench.report.collect import Rejected, Run, comparability_key
from petl_bench.report.columns import MACHINE_SOURCES, MODEL_SOURCES, quality_sources
from petl_bench.report.model import (
    Column,
    Difference,
    Interval,
    PublishedFigure,
    Report,
    Row,
    SummaryRow,
    Table,
    Value,
)
from petl_bench.report.tables import PINNED_METHODS, summarise
from petl_bench.storage.files import file_sha256
from tests.records import make_record

#: name, backbone's share that is trained (millions), t2v R@1, GB, MB
METHODS = (
    ("Full", 149.6, 45.0, 38.2, 598.0),
    ("ZeroShot", 0.0, 31.2, 0.0, 0.0),
    ("Linear", 0.53, 36.4, 6.1, 2.1),
    ("BitFit", 0.10, 39.7, 21.5, 0.42),
    ("LNTune", 0.066, 39.1, 21.1, 0.27),
    ("Partial-1", 14.2, 40.6, 9.8, 56.7),
    ("LoRA", 0.59, 44.1, 24.0, 2.36),
    ("LoRA-qv", 0.29, 43.2, 23.6, 1.18),
    ("AdaptFormer", 3.55, 45.4, 24.9, 14.2),
    ("ST-Adapter", 7.1, 45.1, 29.3, 28.4),
    ("Convpass", 0.36, 43.9, 25.4, 1.4),
    ("VPT-deep", 0.17, 42.0, 33.0, 0.7),
    ("VoP", 0.1, 42.7, 30.9, 0.4),
    ("VoP-F+C", 14.1, 44.6, 34.4, 56.4),
    ("Cross-Modal-Adapter", 0.52, 45.4, 26.6, 2.1),
    ("TempMe", 0.5, 46.1, 15.9, 2.0),
    ("MV-Adapter", 3.6, 46.2, 27.7, 14.4),
    ("UniAdapter", 4.78, 45.9, 31.0, 19.1),
    ("DGL", 0.83, 45.8, 30.1, 3.3),
    ("STOP", 7.53, 46.6, 31.7, 30.1),
)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202e\x1b[31m=cmd|'/c'!A1"
QUESTIONS = ("what", "who", "how many")


def make_report(folder: Path, seeds: int = 2, methods: Sequence[tuple] = METHODS, hostile: bool = True) -> Report:
    """Three datasets, two tables of the first; records are not written, learning curves are, below a folder."""
    tables = [
        _table("msrvtt", "msrvtt-1kA-9k/v1", folder, methods, seeds, 0.0, hostile, n=1000),
        _table("msrvtt", "msrvtt-1kA-9k+dsl/v1", folder, methods[:8], 1, 3.0, False, n=1000, dual_softmax=True),
        _table("msrvttqa", "msrvttqa/v1", folder, methods[:9], seeds, -4.0, False, n=72_821, answers=True),
        _table("msrvtt-fixture", "msrvtt-1kA-9k/v1", folder, methods[:5], 1, -20.0, False, n=72, origin="fixture"),
    ]
    rejected = [
        Rejected(folder / "msrvtt/lora/broken/result.json", "cannot be read as JSON: Expecting value: line 1 column 1"),
        Rejected(folder / f"{HOSTILE.replace('/', '_')}/result.json", f"status is {HOSTILE!r}, not 'complete'"),
        Rejected(
            folder / "msrvtt/vop/old/result.json", "2 runs of configuration 60d7b55a with seed 0 have different metrics"
        ),
    ]
    published = [
        {
            "source": figure.source,
            "citation": f"{figure.source}, arXiv 2301.07868v2",
            "url": ("https://arxiv.org/abs/2301.07868", "javascript:alert(1)")[row.method == "VoP"],
            "read": "table",
            "where": figure.where,
            "method": row.name,
            "backbone": row.backbone,
            "dataset": table.dataset,
            "protocol": table.protocol,
            "direction": "t2v",
            "metrics": {"R1": figure.value, "R5": figure.value + 26},
            "sd": [0.2],
            "trainable": None,
            "state": row.state,
            "comparable": figure.comparable,
            "why": figure.why,
            "table": table.id,
            "row": row.name,
            "remarks": "",
        }
        for table in tables
        for row in table.rows
        for title, figure in row.published.items()
    ]
    return Report(tables, _summary(tables), rejected, published)


def _summary(tables: list[Table]) -> list[SummaryRow]:
    found = {}
    for table in (table for table in tables if not table.fixture):
        for row in table.rows:
            found.setdefault((row.method, row.backbone), {})[table.id] = row.values[table.main]
    full = found["Full", "clip-vit-b-16"]
    return [
        SummaryRow(
            method,
            backbone,
            values,
            sum(value.mean / full[table].mean for table, value in values.items()) / len(values),
            1 + number / 2,
            len(found),
        )
        for number, ((method, backbone), values) in enumerate(found.items())
    ]


def _table(
    dataset: str,
    protocol: str,
    folder: Path,
    methods: Sequence[tuple],
    seeds: int,
    shift: float,
    hostile: bool,
    n: int,
    answers: bool = False,
    dual_softmax: bool = False,
    origin: str = "measured",
) -> Table:
    chance = random.Random(protocol + dataset)
    runs = [
        [
            _run(folder, dataset, protocol, method, seed, chance, shift, n, answers, dual_softmax, origin)
            for seed in range(seeds if method[0] != "ZeroShot" else 1)
        ]
        for method in methods
    ]
    sources = [*quality_sources(runs[0]), *MODEL_SOURCES, *MACHINE_SOURCES]
    main = sources[0].column.title
    rows = []
    for (name, *_), group in zip(methods, runs, strict=True):
        records = [run.record for run in group]
        values = {source.column.title: summarise(map(source.read, records)) for source in sources}
        rows.append(
            Row(
                name=HOSTILE if hostile and name == "VoP" else name,
                method=name,
                backbone="clip-vit-b-16",
                config_hash=records[0]["id"]["config_hash"],
                runs=group,
                values={
                    source.column.title: _with_interval(values[source.column.title], source.column, n)
                    for source in sources
                },
                marks=_marks(name, hostile),
                commit="0123456a",
                command=f"petl-bench fit --config=msrvtt_{name.lower()} --seed_everything=0",
            )
        )
    rows.sort(key=lambda row: (PINNED_METHODS.get(row.method.lower(), 9), -_mean(row, main)))
    rows = [_compared(row, rows, [source.column for source in sources], main, n) for row in rows]
    key = comparability_key(rows[0].runs[0].record)
    stamp = "FIXTURE - not benchmark results: " if origin == "fixture" else ""
    return Table(
        id=f"{dataset}-{protocol.replace('/', '-').replace('+', '-').lower()}",
        title=f"{stamp}{dataset}, {protocol}",
        dataset=dataset,
        protocol=protocol,
        fixture=origin == "fixture",
        notes=[
            f"Shared by all rows: split 111111111111; {n} queries; backbone clip-vit-b-16 with weights 333333333333.",
            f"95 % intervals of {main} reach about {_half(45, n):.1f} points up and down ({n} queries).",
            "Costs measured on 1 x NVIDIA H200.",
        ],
        columns=[source.column for source in sources],
        rows=rows,
        key=key,
        main=main,
    )


def _run(
    folder: Path,
    dataset: str,
    protocol: str,
    method: tuple[str, float, float, float, float],
    seed: int,
    chance: random.Random,
    shift: float,
    n: int,
    answers: bool,
    dual_softmax: bool,
    origin: str,
) -> Run:
    name, trainable, recall, memory, size = method
    recall = round(max(1.0, recall + shift + chance.gauss(0, 0.3)), 1)
    hash = f"{random.Random(dataset + protocol + name).getrandbits(256):064x}"
    directions = {
        way: {
            "R1": recall - away,
            "R5": min(99.0, recall + 26.5 - away),
            "R10": min(99.9, recall + 36.1 - away),
            "R50": min(100.0, recall + 50.0 - away),
            "MdR": 2.0,
            "MnR": round(15.5 + chance.random(), 1),
            "n": n,
        }
        for way, away in (("t2v", 0.0), ("v2t", 0.4))
    }
    figures: dict[str, Any] = {
        **directions,
        "rsum": sum(d[k] for d in directions.values() for k in ("R1", "R5", "R10")),
    }
    if answers:
        figures = {
            "accuracy": recall,
            "n": n,
            "per_type": {kind: recall - 3 + 2 * place for place, kind in enumerate(QUESTIONS)},
            "n_per_type": dict.fromkeys(QUESTIONS, n // 3),
        }
    record = make_record(
        origin=origin,
        id__config_hash=hash,
        id__seed=seed,
        protocol__dataset=dataset,
        protocol__id=protocol,
        protocol__inference__dual_softmax=dual_softmax,
        model__method=name,
        model__trainable_params=round(trainable * 1e6),
        model__adapter_bytes=round(size * 1e6),
        eval={**figures, "cost": {"clips_per_s": round(310 + chance.random(), 1)}},
    )
    if trainable:
        record["train"] |= {
            "peak_allocated_bytes": [round(memory * 1e9)],
            "gpu_hours": round(1.5 + memory / 30, 2),
            "clips_per_s": round(400 - 6 * memory, 1),
        }
    else:
        record["train"] = None
    path = folder / dataset / protocol.replace("/", "-") / name.lower() / f"seed{seed}" / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not answers:
        record["integrity"]["ranks_sha256"] = _write_ranks(path.with_name("ranks.npz"), recall, n, hash)
    if trainable:
        path.with_name("metrics.csv").write_text(_course(chance, recall, answers), encoding="utf-8")
    return Run(path, record)


def _course(chance: random.Random, recall: float, answers: bool) -> str:
    """A `metrics.csv` of 300 logged steps and five validations."""
    validated = "val_accuracy" if answers else "val_t2v_R1"
    lines = [f"epoch,loss,step,{validated}"]
    for step in range(0, 3000, 10):
        lines.append(f"{step // 600},{0.6 + 2.4 * math.exp(-step / 700) + chance.gauss(0, 0.06):.4f},{step},")
        if step % 600 == 590:
            lines.append(f"{step // 600},,{step},{recall * (1 - 0.25 * math.exp(-step / 800)):.2f}")
    return "\n".join(lines) + "\n"


def _write_ranks(path: Path, recall: float, n: int, seed: str) -> str:
    """Ranks of n captions, of which the last says something hostile; gives their digest."""
    chance = np.random.default_rng(int(seed[:8], 16))
    ranks = np.where(chance.random(n) < recall / 100, 1, chance.integers(2, n, n)).astype(np.int32)
    ranks[-1] = n
    words = [f"a {('cat', 'dog', 'band', 'cook')[i % 4]} is doing thing number {i}" for i in range(n)]
    np.savez_compressed(
        path,
        t2v=ranks,
        v2t=ranks,
        text_video=np.arange(n),
        video_id=np.array([f"video{7010 + i}" for i in range(n)]),
        text_id=np.array([f"caption{i}" for i in range(n)]),
        words=np.array([*words[:-1], HOSTILE]),
        t2v_hits=chance.integers(0, n, (n, 3)),
        v2t_hits=chance.integers(0, n, (n, 3)),
    )
    return file_sha256(path)


def _half(percent: float, n: int) -> float:
    share = percent / 100
    return 196 * math.sqrt(share * (1 - share) / n)


def _with_interval(value: Value | None, column: Column, n: int) -> Value | None:
    if value is None or column.kind != "quality":
        return value
    half = _half(min(max(value.mean, 1), 99), n) if column.unit == "%" else value.mean * 0.06
    return Value(value.mean, value.sd, value.n, Interval(value.mean - half, value.mean + half))


def _marks(name: str, hostile: bool) -> list[str]:
    if hostile and name == "VoP":
        return [HOSTILE]
    return {"ST-Adapter": ["fewer seeds"], "DGL": ["4.5 of 5 epochs"], "VPT-deep": ["partial 980/1000", "dirty"]}.get(
        name, []
    )


def _mean(row: Row, title: str) -> float:
    value = row.values[title]
    assert value is not None
    return value.mean


def _compared(row: Row, rows: list[Row], columns: list[Column], main: str, n: int) -> Row:
    full = next(other for other in rows if other.method == "Full")
    from_best: dict[str, Difference | None] = {}
    from_full: dict[str, Difference | None] = {}
    for column in columns:
        if column.kind != "quality":
            continue
        title = column.title
        means = [_mean(other, title) for other in rows]
        best = max(means) if column.higher_is_better else min(means)
        half = 0.7 * _half(45, n)
        ours = _mean(row, title)
        from_best[title] = None if ours == best else _difference(ours - best, half)
        from_full[title] = None if row is full else _difference(ours - _mean(full, title), half)
    published: dict[str, PublishedFigure] = {}
    state = ""
    if row.method not in ("ZeroShot", "Linear", "LNTune") and main != "Accuracy":
        place = len(row.method)
        value = round(_mean(row, main) + (place % 5 - 2) * 0.7, 1)
        comparable = ("yes", "yes", "no", "unknown")[place % 4]
        why = {"no": "12 frames there, 8 here", "unknown": "the source does not say how captions were cut"}.get(
            comparable, ""
        )
        published[main] = PublishedFigure(
            value,
            HOSTILE if row.method == "VoP" else "MV-Adapter v2 (CVPR 2024)",
            "Table 1",
            _mean(row, main) - value,
            comparable,
            why,
        )
        apart = abs(_mean(row, main) - value)
        state = "not comparable" if comparable != "yes" else "reproduced" if apart < 1 else "off"
    return Row(**{**vars(row), "from_best": from_best, "from_full": from_full, "published": published, "state": state})


def _difference(delta: float, half: float) -> Difference:
    p = min(1.0, math.exp(-((delta / max(half, 0.1)) ** 2) * 1.9))
    return Difference(delta, Interval(delta - half, delta + half), p, min(1.0, 3 * p), "mcnemar")
