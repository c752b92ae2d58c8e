"""The figures of an evaluation as a table."""

from __future__ import annotations

from typing import Any

from petl_bench.machine.output import print_table
from petl_bench.metrics.table import in_words, score_of


def print_figures(title: str, record: dict[str, Any], headline: str = "accuracy") -> None:
    """Prints what an evaluation found as a table; of questions the official figure, by its name in records, first."""
    header, *rows = _figures(record, headline)
    print_table(title, header, rows, left=1)
    for second in record.get("second_figures", []):
        header, *rows = _second_figures(second)
        print_table(f"beside these: {second['title']}", header, rows, left=1)


def _figures(record: dict[str, Any], headline: str) -> list[list[str]]:
    """What an evaluation found, as rows of text below a header."""
    if "accuracy" in record:
        figures = [("all", record["accuracy"], record["n"])]
        for level in ("group", "type"):
            counts = record.get(f"n_per_{level}", {})
            told = record.get("per_group", {}) if level == "type" else {}  # a type may be a group of its own
            found = record.get(f"per_{level}", {}).items()
            figures += [(name, value, counts[name]) for name, value in found if name not in told]
        whole = {"mean_of_types": "mean of types", "chance": "chance", "exact_match": "exact match"}
        beside = {key: (name, record[key], record["n"]) for key, name in whole.items() if key in record}
        official = [beside.pop(headline)] if headline in beside else []
        figures = [*official, *figures, *beside.values()]
        score = in_words(score_of(record))
        return [["questions", score, "n"], *([name, f"{value:.1f}", str(n)] for name, value, n in figures)]
    if "mse" in record:
        errors = {"mse": "answers from 1", "mse_raw": "answers as they are"}
        rows = [[about, f"{record[name]:.3f}", str(record["n"])] for name, about in errors.items()]
        return [["counts", "mean squared error", "n"], *rows]
    names = ("R1", "R5", "R10", "R50", "MdR", "MnR")
    directions = {key: value for key, value in record.items() if isinstance(value, dict) and "R1" in value}
    rows = [[key, *(f"{values[n]:.1f}" for n in names), str(values["n"])] for key, values in directions.items()]
    return [["direction", *names, "n"], *rows]


def _second_figures(second: dict[str, Any]) -> list[list[str]]:
    """The same of an item of `second_figures`."""
    directions = second["directions"]
    names = [name for name in next(iter(directions.values())) if name != "n"]
    rows = [[way, *(f"{values[n]:.1f}" for n in names), str(values["n"])] for way, values in directions.items()]
    return [["direction", *names, "n"], *rows]
