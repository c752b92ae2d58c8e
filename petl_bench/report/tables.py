"""Comparable runs, one table each: seeds aggregated, rows ordered, cells as text.

Only runs with the same comparability key share a table.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from petl_bench.formats import decimals_of
from petl_bench.report.collect import UNKNOWN, Key, Run, comparability_key, unknown_fields

Record = dict[str, Any]

MISSING = "-"
#: with more question types than these, a table shows only the accuracy over all questions
MOST_TYPES = 8
FIXTURE_STAMP = "FIXTURE - not benchmark results"

PINNED_METHODS = {"full": 0, "fullfinetuning": 0, "zeroshot": 1, "linear": 2, "linearprobe": 2}
"""Reference methods and their order at the top; names are compared without case, `-`, `_` and spaces."""


class Summary(NamedTuple):
    """Mean and sample standard deviation (None with a single value) over n seeds."""

    mean: float
    sd: float | None
    n: int


class Column(NamedTuple):
    """A numeric column: how to read it from a record, and how to print it.

    Attributes:
        title: of the column.
        decimals: that are shown.
        value: of a record; None if it is unknown.
        spread: whether the deviation over seeds is shown.
        cost: whether small values get more decimals.
    """

    title: str
    decimals: int
    value: Callable[[Record], float | None]
    spread: bool = True
    cost: bool = False


class Row(NamedTuple):
    """All seeds of one configuration."""

    method: str
    backbone: str
    config_hash: str
    runs: list[Run]
    summaries: dict[str, Summary | None]
    state: str
    commit: str


class Table(NamedTuple):
    """Runs that may be compared with each other.

    Attributes:
        title: dataset and protocol, stamped when the data are a fixture.
        notes: one line each: what all rows share, other tables of the dataset, hardware.
        header: column titles.
        body: cells as text, one list per row, aligned with `header`.
        rows: the rows before formatting, in the order of `body`.
        key: the comparability key.
    """

    title: str
    notes: list[str]
    header: list[str]
    body: list[list[str]]
    rows: list[Row]
    key: Key


def build_tables(runs: Iterable[Run]) -> list[Table]:
    """Groups runs by comparability key; sorted by origin (measured first), dataset and protocol."""
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        groups.setdefault(comparability_key(run.record), []).append(run)
    keys = sorted(groups, key=_table_order)
    return [_table(key, groups[key], keys) for key in keys]


def summarise(values: Iterable[float | None]) -> Summary | None:
    """The values that are known, aggregated; None if none is."""
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    return Summary(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def _table(key: Key, runs: list[Run], keys: list[Key]) -> Table:
    metric_columns = _metric_columns(runs)
    columns = (*_MODEL_COLUMNS, *metric_columns, *_COST_COLUMNS)
    rows = sorted(_rows(runs, columns), key=lambda row: _row_order(row, metric_columns[0].title))
    fields = dict(key)
    stamp = f"{FIXTURE_STAMP}: " if fields["origin"] == "fixture" else ""
    return Table(
        title=f"{stamp}{fields['protocol.dataset']}, {fields['protocol.id']}",
        notes=[
            _shared_note(fields, runs),
            *_vocabulary_notes(runs),
            *_unknown_notes(key),
            *_difference_notes(key, keys),
            *_hardware_notes(runs),
        ],
        header=["Method", "Backbone", *(column.title for column in columns), "Seeds", "State", "Commit"],
        body=[_cells(row, columns, rows) for row in rows],
        rows=rows,
        key=key,
    )


def _rows(runs: list[Run], columns: Iterable[Column]) -> list[Row]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.record["id"]["config_hash"], []).append(run)
    most = max(len(group) for group in groups.values())
    hardware = _all_hardware(runs)
    return [_row(config, group, columns, most, hardware) for config, group in groups.items()]


def _row(config: str, runs: list[Run], columns: Iterable[Column], most: int, hardware: list[str]) -> Row:
    records = [run.record for run in runs]
    used = _all_hardware(runs)
    # A mean over different machines is the cost of none of them.
    hidden = {column.title for column in _COST_COLUMNS} if len(used) > 1 else set()
    commits = sorted({record["env"]["commit"][:8] for record in records if record["env"]["commit"]})
    model = records[0]["model"]
    return Row(
        method=model["method"],
        backbone=model["backbone"],
        config_hash=config,
        runs=runs,
        summaries={
            column.title: None if column.title in hidden else summarise(map(column.value, records))
            for column in columns
        },
        state=", ".join(_marks(records, most, used, hardware)) or "ok",
        commit=", ".join(commits) or MISSING,
    )


def _marks(records: list[Record], most: int, used: list[str], hardware: list[str]) -> list[str]:
    """What a reader must know before using a row."""
    marks = sorted({mark for record in records if (mark := _partial_mark(record["protocol"]))})
    if any(record["env"]["dirty"] for record in records):
        marks.append("dirty")
    if any(record.get("reconstructed") for record in records):
        marks.append("record reconstructed")
    trained = records[0]["model"]["trainable_params"] > 0
    marks += sorted({mark for record in records for mark in _training_marks(record)}) if trained else []
    if trained and len(records) < most:
        marks.append("fewer seeds")
    if len(used) > 1:
        marks.append("mixed hardware")
    elif used and len(hardware) > 1:
        marks.append(f"hardware {hardware.index(used[0]) + 1}")
    return marks


def _training_marks(record: Record) -> list[str]:
    """How the training was not the one that its configuration, or the packaged one, describes; its augmentation."""
    train = record["model"].get("trained") if record["kind"] == "test" else record["train"]
    if train is None:
        return ["training unknown" if record["kind"] == "test" else "untrained"]
    marks = ["changed on resuming"] if train.get("changed") else []
    marks += [f"augmentation {train['augmentation']}"] if train.get("augmentation") else []
    recipe = train.get("recipe")
    if train["epochs"] is None:
        marks.append("training unknown")
    elif recipe and train["epochs"] < recipe["max_epochs"]:
        done = math.floor(100 * train["epochs"]) / 100  # 4.999 are not 5
        marks.append(f"{done:g} of {recipe['max_epochs']} epochs")
    marks += [f"{name} {value}" for name, value in train.get("limits", {}).items()]
    return marks + [f"callback {path}" for path in train.get("callbacks", [])]


def _partial_mark(protocol: dict[str, Any]) -> str | None:
    found, expected = protocol["n_found"], protocol["n_expected"]
    if found is None or expected is None:
        return "partial" if protocol["partial"] else None
    return f"partial {found}/{expected}" if protocol["partial"] or found < expected else None


def _cells(row: Row, columns: Iterable[Column], rows: list[Row]) -> list[str]:
    names = Counter((other.method, other.backbone) for other in rows)
    method = row.method
    if names[row.method, row.backbone] > 1:
        method += f" ({row.config_hash[:8]})"
    numbers = [_number(row.summaries[column.title], column) for column in columns]
    return [method, row.backbone, *numbers, str(len(row.runs)), row.state, row.commit]


def _number(summary: Summary | None, column: Column) -> str:
    if summary is None:
        return MISSING
    decimals = decimals_of(summary.mean, column.decimals) if column.cost else column.decimals
    mean = f"{summary.mean:.{decimals}f}"
    if summary.sd is None or not column.spread:
        return mean
    return f"{mean} ± {summary.sd:.{decimals}f}"


def _row_order(row: Row, first_metric: str) -> tuple[int, float, str, str]:
    plain = "".join(character for character in row.method.lower() if character.isalnum())
    summary = row.summaries[first_metric]
    score = summary.mean if summary else 0.0
    return PINNED_METHODS.get(plain, len(PINNED_METHODS)), -score, row.method, row.config_hash


def _table_order(key: Key) -> tuple[bool, str]:
    fields = dict(key)
    return fields.pop("origin") == "fixture", json.dumps(list(fields.items()))


def _shared_note(fields: dict[str, Any], runs: list[Run]) -> str:
    backbones = " or ".join(sorted({run.record["model"]["backbone"] for run in runs}))
    answers = "accuracy" in runs[0].record["eval"]
    parts = [
        f"split {_short(fields['protocol.split_sha256'])}",
        f"{_counts(runs, 'n_queries')} {'questions' if answers else 'queries'}",
        f"{_counts(runs, 'n_gallery')} {'videos' if answers else 'in the gallery'}",
        f"metric version {fields['protocol.metric_version']}",
        f"backbone {backbones} with weights {_short(fields['model.weights_sha256'])}",
        f"checkpoint {fields['protocol.selection']}",
        f"preprocessing: {_settings(fields, 'protocol.preprocess.')}",
        f"inference: {_settings(fields, 'protocol.inference.')}",
    ]
    return "Shared by all rows: " + "; ".join(parts) + "."


def _settings(fields: dict[str, Any], prefix: str) -> str:
    """What is set of a block, but for the mean and deviation of pixels, which are long."""
    block = {name.removeprefix(prefix): value for name, value in fields.items() if name.startswith(prefix)}
    shown = {name: value for name, value in block.items() if value not in (None, False) and name not in ("mean", "std")}
    return ", ".join(f"{name} {_short(value)}" for name, value in shown.items()) or MISSING


def _unknown_notes(key: Key) -> list[str]:
    names = unknown_fields(key)
    if not names:
        return []
    return [f"Compared with no other configuration: the record does not say {', '.join(names)}."]


def _vocabulary_notes(runs: list[Run]) -> list[str]:
    """Which answers can be given: what is not among them counts as wrong, so the coverage limits the accuracy."""
    found = [run.record["eval"]["vocabulary"] for run in runs if "vocabulary" in run.record["eval"]]
    lists = sorted({f"{v['size']} from {v['file']} (coverage {v['coverage']:.1f} %)" for v in found})
    return [f"Answers that can be given: {' or '.join(lists)}."] if lists else []


def _counts(runs: list[Run], name: str) -> str:
    counts = {run.record["protocol"][name] for run in runs} - {None}
    return " or ".join(str(count) for count in sorted(counts)) or "unknown number of"


def _difference_notes(key: Key, keys: list[Key]) -> list[str]:
    fields = dict(key)
    others = [dict(k) for k in keys if k != key and dict(k)["protocol.dataset"] == fields["protocol.dataset"]]
    if not others:
        return []
    differences = []
    for name in dict.fromkeys(name for one in (fields, *others) for name in one):
        here = fields.get(name, UNKNOWN)
        elsewhere = sorted({_short(there) for other in others if (there := other.get(name, UNKNOWN)) != here})
        if elsewhere:
            differences.append(f"{name} (here {_short(here)}, there {' or '.join(elsewhere)})")
    noun = "table" if len(others) == 1 else f"{len(others)} tables"
    return [f"Not comparable with the other {noun} of this dataset, which differ in {', '.join(differences)}."]


def _hardware_notes(runs: list[Run]) -> list[str]:
    hardware = _all_hardware(runs)
    if not hardware:
        return []
    if len(hardware) == 1:
        return [f"Costs measured on {hardware[0]}.", *_memory_notes(runs)]
    numbered = "; ".join(f"({number}) {name}" for number, name in enumerate(hardware, 1))
    return [f"Compare costs only between rows of the same hardware: {numbered}.", *_memory_notes(runs)]


def _memory_notes(runs: list[Run]) -> list[str]:
    """Of a GPU, peak memory is what its allocator gave out, as everybody reports it."""
    if not any(_peak_gigabytes(run.record) is not None and run.record["env"]["gpu"] is None for run in runs):
        return []
    return ["Peak GB of a CPU: what training added to the memory of the process, weights and libraries not included."]


def _all_hardware(runs: list[Run]) -> list[str]:
    return sorted({_hardware(run.record["env"]) for run in runs if run.record["train"] is not None})


def _hardware(env: dict[str, Any]) -> str:
    if env["platform"] is None:
        return "unknown hardware"  # of a record that was reconstructed
    if env["gpu"] is None:
        return f"CPU {env['cpu'] or 'unknown'}"
    return f"{env['gpu_count'] or 'unknown number of'} x {env['gpu']}"


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:  # a SHA-256
        return value[:12]
    return "none" if value is None else str(value)


def _megabytes(record: Record) -> float | None:
    size = record["model"]["adapter_bytes"]
    return None if size is None else size / 1e6


def _peak_gigabytes(record: Record) -> float | None:
    peaks = record["train"] and record["train"]["peak_allocated_bytes"]
    return max(peaks) / 1e9 if peaks else None


def _train_value(name: str) -> Callable[[Record], float | None]:
    return lambda record: record["train"] and record["train"][name]


def _direction_value(direction: str, name: str) -> Callable[[Record], float]:
    return lambda record: record["eval"][direction][name]


def _type_value(name: str) -> Callable[[Record], float | None]:
    return lambda record: record["eval"]["per_type"].get(name)


def _metric_columns(runs: list[Run]) -> tuple[Column, ...]:
    """A protocol is either retrieval or question answering, so one record tells for the whole table."""
    if "accuracy" not in runs[0].record["eval"]:
        return _RETRIEVAL_COLUMNS
    types = sorted({name for run in runs for name in run.record["eval"]["per_type"]})
    shown = types if len(types) <= MOST_TYPES else []
    return (_ACCURACY, *(Column(f"Accuracy {name}", 1, _type_value(name)) for name in shown))


_MODEL_COLUMNS = (
    Column("Trainable M", 3, lambda record: record["model"]["trainable_params"] / 1e6, spread=False, cost=True),
    Column(
        "%",
        3,
        lambda record: 100 * record["model"]["trainable_params"] / record["model"]["total_params"],
        spread=False,
        cost=True,
    ),
    Column("Adapter MB", 2, _megabytes, spread=False, cost=True),
    Column("GMACs", 1, lambda record: record["model"]["gmacs_vision"], spread=False, cost=True),
)
_RETRIEVAL_COLUMNS = (
    *(
        Column(f"{direction} {title}", 1, _direction_value(direction, name))
        for direction in ("t2v", "v2t")
        for title, name in (("R@1", "R1"), ("R@5", "R5"), ("R@10", "R10"), ("MdR", "MdR"), ("MnR", "MnR"))
    ),
    Column("Rsum", 1, lambda record: record["eval"]["rsum"]),
)
_ACCURACY = Column("Accuracy", 1, lambda record: record["eval"]["accuracy"])
_COST_COLUMNS = (
    Column("Peak GB", 2, _peak_gigabytes, cost=True),
    Column("wall s", 0, _train_value("wall_s"), cost=True),
    Column("clips/s train", 1, _train_value("clips_per_s"), cost=True),
)
