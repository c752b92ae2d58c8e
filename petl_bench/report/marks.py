"""What a reader must know of a row before using it: how its training was not the recipe, what its costs are worth."""

from __future__ import annotations

import math
from typing import Any

from petl_bench.report.collect import Run

Record = dict[str, Any]


def marks_of(records: list[Record], most: int, hardware: list[str]) -> list[str]:
    """Of one configuration.

    Args:
        records: one a seed.
        most: seeds that a row of the table has.
        hardware: on which the rows of the table were measured.
    """
    marks = sorted({mark for record in records if (mark := _partial_mark(record["protocol"]))})
    if any(record["env"]["dirty"] for record in records):
        marks.append("dirty")
    if any(record.get("reconstructed") for record in records):
        marks.append("record reconstructed")
    if records[0]["model"]["trainable_params"] > 0:
        marks += sorted({mark for record in records for mark in _elsewhere_marks(record)})
        marks += sorted({mark for record in records for mark in _training_marks(record)})
        marks += ["fewer seeds"] if len(records) < most else []
    return marks + _hardware_marks(hardware_of(records), hardware)


def is_partial(record: Record) -> bool:
    """Whether the test lacked videos."""
    return _partial_mark(record["protocol"]) is not None


def hardware_of(records: list[Record]) -> list[str]:
    """Every machine that costs were measured on, once."""
    return sorted({_hardware(record["env"]) for record in records if _has_costs(record)})


def all_hardware(runs: list[Run]) -> list[str]:
    """The same of runs."""
    return hardware_of([run.record for run in runs])


def training_of(record: Record) -> dict[str, Any] | None:
    """What is known of the training: of a test of an adapter, what the record beside that says."""
    return record["model"].get("trained") if record["kind"] == "test" else record["train"]


def _hardware_marks(used: list[str], hardware: list[str]) -> list[str]:
    if len(used) > 1:
        return ["mixed hardware"]
    return [f"hardware {hardware.index(used[0]) + 1}"] if used and len(hardware) > 1 else []


def cuts_of(record: Record) -> list[str]:
    """How the training was not the one that its configuration, or the packaged one, describes."""
    if not record["model"]["trainable_params"]:
        return []
    train = training_of(record)
    if train is None:
        return ["training unknown" if record["kind"] == "test" else "untrained"]
    marks = ["changed on resuming"] if train.get("changed") else []
    recipe = train.get("recipe")
    if train["epochs"] is None:
        marks.append("training unknown")
    elif recipe and train["epochs"] < recipe["max_epochs"]:
        done = math.floor(100 * train["epochs"]) / 100  # 4.999 are not 5
        marks.append(f"{done:g} of {recipe['max_epochs']} epochs")
    marks += [f"{name} {value}" for name, value in train.get("limits", {}).items()]
    return marks + [f"callback {path}" for path in train.get("callbacks", [])]


def _training_marks(record: Record) -> list[str]:
    name = (training_of(record) or {}).get("augmentation")
    return [*cuts_of(record), *([f"augmentation {name}"] if name else []), *_pixel_marks(record)]


def _pixel_marks(record: Record) -> list[str]:
    """Whether what is tested was trained on other pixels: JPEG, or JPEG of another quality, or none."""
    trained = training_of(record)
    if record["kind"] != "test" or trained is None:
        return []
    quality = trained.get("jpeg_quality")
    same = quality == record["protocol"]["preprocess"].get("jpeg_quality")
    return [] if same else ["trained on pixels" if quality is None else f"trained on JPEG {quality}"]


def _elsewhere_marks(record: Record) -> list[str]:
    on = record["model"].get("trained_on")
    return [f"trained on {on['protocol']}"] if on else []


def _partial_mark(protocol: dict[str, Any]) -> str | None:
    found, expected = protocol["n_found"], protocol["n_expected"]
    if found is None or expected is None:
        return "partial" if protocol["partial"] else None
    return f"partial {found}/{expected}" if protocol["partial"] or found != expected else None


def _has_costs(record: Record) -> bool:
    return record["train"] is not None or record["eval"]["cost"]["clips_per_s"] is not None


def _hardware(env: dict[str, Any]) -> str:
    if env["platform"] is None:
        return "unknown hardware"  # of a record that was reconstructed
    if env["gpu"] is None:
        return f"CPU {env['cpu'] or 'unknown'}"
    return f"{env['gpu_count'] or 'unknown number of'} x {env['gpu']}"
