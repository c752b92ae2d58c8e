"""The lines above a table: what its rows share, how other tables of the dataset differ, what the costs are worth."""

from __future__ import annotations

from typing import Any, NamedTuple

from petl_bench.metrics.table import kind_of
from petl_bench.report.cells import MISSING
from petl_bench.report.collect import Key, Run, field_of, unknown_fields
from petl_bench.report.columns import peak_gigabytes
from petl_bench.report.groups import grouped
from petl_bench.report.marks import all_hardware

#: of a field in other tables that a note tells one by one
MOST_VALUES = 5

_OF_COUNTS = (
    "Mean squared errors: less is better. MSE takes an answer of 0 as 1, as the figures of the literature do; MSE raw "
    "takes answers as they are."
)


class Dataset(NamedTuple):
    """The tables of a dataset.

    Attributes:
        tables: how many they are.
        values: that the fields of their keys have, by name, as they are shown, sorted; what one lacks is unknown there.
    """

    tables: int
    values: dict[str, list[str]]


def datasets_of(keys: list[Key]) -> dict[str, Dataset]:
    """By name, from the keys of all tables."""
    groups = grouped(map(dict, keys), lambda fields: fields["protocol.dataset"])
    return {name: Dataset(len(group), _values(group)) for name, group in groups.items()}


def _values(group: list[dict[str, Any]]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for fields in group for name in fields)
    return {name: sorted({_short(field_of(fields, name)) for fields in group}) for name in names}


def notes_of(key: Key, runs: list[Run], dataset: Dataset) -> list[str]:
    """Of the table of a comparability key.

    Args:
        key: of the table.
        runs: in it.
        dataset: that the table is one of.
    """
    return [
        _shared_note(dict(key), runs),
        *_vocabulary_notes(runs),
        *([_OF_COUNTS] if kind_of(runs[0].record["eval"]) == "errors" else []),
        *_unknown_notes(key),
        *_difference_notes(key, dataset),
        *_hardware_notes(runs),
    ]


def _shared_note(fields: dict[str, Any], runs: list[Run]) -> str:
    backbones = " or ".join(sorted({run.record["model"]["backbone"] for run in runs}))
    answers = kind_of(runs[0].record["eval"]) != "ranks"
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


def _difference_notes(key: Key, dataset: Dataset) -> list[str]:
    others = dataset.tables - 1
    if not others:
        return []
    fields = dict(key)
    differences = []
    for name, values in dataset.values.items():
        here = _short(field_of(fields, name))
        if len(values) > 1:
            differences.append(f"{name} (here {here}, there {_others(values, here)})")
    noun = "table" if others == 1 else f"{others} tables"
    return [f"Not comparable with the other {noun} of this dataset, which differ in {', '.join(differences)}."]


def _others(values: list[str], here: str) -> str:
    some = [value for value in values[: MOST_VALUES + 1] if value != here][:MOST_VALUES]
    more = len(values) - 1 - len(some)
    return " or ".join([*some, *([f"{more} more"] if more else [])])


def _hardware_notes(runs: list[Run]) -> list[str]:
    hardware = all_hardware(runs)
    if not hardware:
        return []
    if len(hardware) == 1:
        return [f"Costs measured on {hardware[0]}.", *_memory_notes(runs)]
    numbered = "; ".join(f"({number}) {name}" for number, name in enumerate(hardware, 1))
    return [f"Compare costs only between rows of the same hardware: {numbered}.", *_memory_notes(runs)]


def _memory_notes(runs: list[Run]) -> list[str]:
    """Of a GPU, peak memory is what its allocator gave out, as everybody reports it."""
    if not any(peak_gigabytes(run.record) is not None and run.record["env"]["gpu"] is None for run in runs):
        return []
    return ["Peak GB of a CPU: what training added to the memory of the process, weights and libraries not included."]


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:  # a SHA-256
        return value[:12]
    return "none" if value is None else str(value)
