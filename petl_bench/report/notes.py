"""The lines above a table: what its rows share, how other tables of the dataset differ, what the costs are worth."""

from __future__ import annotations

from typing import Any

from petl_bench.report.cells import MISSING
from petl_bench.report.collect import UNKNOWN, Key, Run, unknown_fields
from petl_bench.report.columns import peak_gigabytes
from petl_bench.report.marks import all_hardware


def notes_of(key: Key, runs: list[Run], keys: list[Key]) -> list[str]:
    """Of the table of a comparability key.

    Args:
        key: of the table.
        runs: in it.
        keys: of all tables.
    """
    return [
        _shared_note(dict(key), runs),
        *_vocabulary_notes(runs),
        *_unknown_notes(key),
        *_difference_notes(key, keys),
        *_hardware_notes(runs),
    ]


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
