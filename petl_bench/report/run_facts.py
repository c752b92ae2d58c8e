"""What a page says of one run: its record in words, and its curves."""

from __future__ import annotations

import dataclasses
from typing import Any

from petl_bench.formats import number as measure
from petl_bench.metrics.table import FIGURES, in_words, score_of
from petl_bench.report.collect import second_figures
from petl_bench.report.columns import in_order
from petl_bench.report.details import Curve
from petl_bench.report.figures import curve_lines
from petl_bench.report.labels import MISSING, metric_title, plain, setting
from petl_bench.report.svg import svg
from petl_bench.report.templating import markup

_METRICS = ("R1", "R5", "R10", "R50", "MdR", "MnR", "n")


def facts_of(record: dict[str, Any]) -> dict[str, Any]:
    """A record as the template takes it."""
    return {
        "figures": _figures(record["eval"]),
        "second_figures": [_second(item) for item in second_figures(record).values()],
        "costs": _costs(record),
        "environment": _environment(record),
        "settings": _settings(record),
    }


def run_plots(record: dict[str, Any], curves: list[Curve], id: str) -> list[dict[str, Any]]:
    """Its learning curves; `id` is that of its page or section."""
    wanted = (
        ("loss", "Training loss", "Means of neighbouring steps.", "loss", {"loss": "loss"}),
        (
            "validation",
            "Validation",
            "As logged while training.",
            "%",
            {
                **{"val_t2v_R1": "t2v R@1", "val_t2v_R5": "t2v R@5", "val_t2v_R10": "t2v R@10"},
                **{"val_v2t_R1": "v2t R@1", "val_accuracy": in_words(score_of(record["eval"]))},
            },
        ),
        (
            "validation-error",
            "Validation",
            "As logged while training; less is better.",
            "mean squared error",
            {"val_mse": "MSE", "val_mse_raw": "MSE raw"},
        ),
    )
    found = []
    for name, title, caption, unit, names in wanted:
        mine = [dataclasses.replace(c, name=names[c.name]) for c in curves if c.name in names and len(c.steps) > 1]
        plot = curve_lines(mine, name, title, caption, unit)
        if plot is not None:
            found.append({"plot": plot, "svg": markup(svg(plot, f"{id}-{name}"))})
    return found


def _figures(figures: dict[str, Any]) -> dict[str, Any]:
    """The eval block as a table: directions by metric, or the score by type of question."""
    blocks = {name: block for name, block in figures.items() if isinstance(block, dict) and "R1" in block}
    if blocks:
        return _blocks(blocks)
    if "mse" in figures:
        rows = [(FIGURES[name].title, [f"{figures[name]:.3f}", str(figures["n"])]) for name in ("mse", "mse_raw")]
        return {"columns": ["mean squared error", "n"], "rows": rows}
    types = {"all": figures.get("accuracy"), **figures.get("per_group", {}), **figures.get("per_type", {})}
    counts = {"all": figures.get("n"), **figures.get("n_per_group", {}), **figures.get("n_per_type", {})}
    if "chance" in figures:
        types |= {"mean of types": figures.get("mean_of_types"), "chance": figures["chance"]}
    if "exact_match" in figures:
        types["exact match"] = figures["exact_match"]
    rows = [(name, [_plain_number(value), _plain_number(counts.get(name))]) for name, value in types.items()]
    return {"columns": [in_words(score_of(figures)), "n"], "rows": rows}


def _blocks(blocks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Directions by metric."""
    known = {name for block in blocks.values() for name in block}
    names = [*sorted(known - {*_METRICS}, key=in_order), *(name for name in _METRICS if name in known)]
    rows = [(name, [_plain_number(block.get(metric)) for metric in names]) for name, block in blocks.items()]
    return {"columns": [metric_title(name) for name in names], "rows": rows}


def _second(item: dict[str, Any]) -> dict[str, Any]:
    """A figure beside the plain ones, with what decides it."""
    settings = [(name, setting(plain(value))) for name, value in item["settings"].items()]
    return {"title": item["title"], "settings": settings, **_blocks(item["directions"])}


def _plain_number(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _costs(record: dict[str, Any]) -> list[tuple[str, str]]:
    model, train, cost = record["model"], record["train"] or {}, record["eval"].get("cost") or {}
    share = 100 * model["trainable_params"] / max(model["total_params"], 1)
    found = [
        ("trainable parameters", f"{model['trainable_params']:,} ({share:.3g} %)"),
        ("by modality", _counts(model.get("trainable_by_modality"))),
        ("adapter on disk", _bytes(model.get("adapter_bytes"))),
        ("GMACs, vision tower", _measure(model.get("gmacs_vision"))),
        ("epochs", plain(train.get("epochs"))),
        ("steps", plain(train.get("steps"))),
        ("global batch", plain(train.get("global_batch"))),
        ("processes", plain(train.get("world_size"))),
        ("precision", plain(train.get("precision"))),
        ("optimizer", plain(train.get("optimizer"))),
        ("wall time", _time(train.get("wall_s"))),
        ("GPU-hours", _measure(train.get("gpu_hours"))),
        ("peak memory", " + ".join(_bytes(peak) for peak in train.get("peak_allocated_bytes") or ())),
        ("clips/s, training", _measure(train.get("clips_per_s"))),
        ("clips/s, inference", _measure(cost.get("clips_per_s"))),
        ("resumed", plain(train.get("resumed"))),
    ]
    return [(name, text) for name, text in found if text not in ("", MISSING)]


def _environment(record: dict[str, Any]) -> list[tuple[str, str]]:
    env, model = record["env"], record["model"]
    commit = env.get("commit")
    gpu = env.get("gpu")
    found = [
        ("commit", f"{commit}{' with uncommitted changes' if env.get('dirty') else ''}" if commit else ""),
        ("GPU", f"{plain(env.get('gpu_count'))} × {gpu}" if gpu else "none"),
        ("CPU", plain(env.get("cpu"))),
        ("platform", plain(env.get("platform"))),
        ("Python", plain(env.get("python"))),
        ("CUDA", plain(env.get("cuda"))),
        ("driver", plain(env.get("driver"))),
        ("decoder", plain(env.get("decoder"))),
        ("deterministic", plain(env.get("deterministic"))),
        ("packages", plain(env.get("versions"))),
        ("pretraining", plain(model.get("pretraining_data"))),
        ("weights, SHA-256", plain(model.get("weights_sha256"))[:16]),
        ("configuration, SHA-256", plain(record["id"]["config_hash"])[:16]),
    ]
    return [(name, text) for name, text in found if text not in ("", MISSING)]


def _settings(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, plain(value)) for name, value in (record["model"].get("method_config") or {}).items()]


def _counts(by_name: dict[str, int] | None) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in (by_name or {}).items() if count)


def _measure(value: float | None) -> str:
    return MISSING if value is None else measure(value)


def _bytes(size: float | None) -> str:
    if size is None:
        return MISSING
    return next(
        f"{size / unit:.3g} {name}"
        for name, unit in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1))
        if size >= unit or unit == 1
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
