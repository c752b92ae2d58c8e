"""A mean of WUPS is called that, and not accuracy, in every format of a report and of a comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from petl_bench.metrics.table import FIGURES, figure_titled
from petl_bench.report.collect import Run
from petl_bench.report.compare import compare, show
from petl_bench.report.comparison import with_statistics
from petl_bench.report.details import Beside, Curve
from petl_bench.report.figures import plots_of
from petl_bench.report.intervals import Statistics
from petl_bench.report.leaderboard import rendered
from petl_bench.report.page import Pages
from petl_bench.report.run_facts import facts_of, run_plots
from petl_bench.report.tables import build_tables
from petl_bench.report.terminal import print_tables
from petl_bench.report.thumbnails import Clips
from petl_bench.runs.record import write_result
from tests.answered import answers
from tests.reports import report_of

SCORES = np.random.default_rng(0).random(40)
TYPES = ["causal", "temporal"] * 20
VERSION = "wups-nextoe/1, WordNet 3.0"


def run(folder: Path, scores: np.ndarray, wups: bool = True, **overrides: object) -> Run:
    """A run whose answers are scored by WUPS, or, if not `wups`, by exact matches."""
    made = answers(folder, scores.tolist(), TYPES, list(range(40)), **overrides)
    if not wups:
        return made
    made.record["eval"]["exact_match"] = 12.5
    made.record["protocol"]["metric_version"] = VERSION
    write_result(made.path, made.record)
    return made


def two(tmp_path: Path, wups: bool = True) -> list[Run]:
    better = np.minimum(SCORES + 0.2, 1)
    return [
        run(tmp_path / "full", SCORES, model__method="FullFinetuning", id__config_hash="b" * 64),
        run(tmp_path / "other", better, wups, model__method="Other", id__config_hash="c" * 64),
    ]


def test_the_table_of_figures_knows_it() -> None:
    assert figure_titled("WUPS@0") is figure_titled("WUPS@0 causal") is FIGURES["wups"]
    assert figure_titled("Accuracy causal") is FIGURES["accuracy"]


def test_tables_intervals_and_plots(tmp_path: Path) -> None:
    (table,) = with_statistics(build_tables(two(tmp_path)), None)
    assert [column.title for column in table.quality] == ["WUPS@0", "WUPS@0 causal", "WUPS@0 temporal"]
    assert table.main == "WUPS@0"
    for row in table.rows:
        value = row.values["WUPS@0"]
        assert value is not None
        assert value.interval is not None
    other = next(row for row in table.rows if row.method == "Other")
    assert other.from_full["WUPS@0 causal"] is not None
    plots = {plot.name: plot for plot in plots_of(table, Beside())}
    assert "answered with a score above one half" in plots["overlap"].caption
    assert all("ccuracy" not in f"{plot.title} {plot.caption}" and "right" not in plot.title for plot in plots.values())


def test_every_format_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report_of(*(made.record for made in two(tmp_path)))
    print_tables(found.tables)
    texts = {"terminal": capsys.readouterr().out, **rendered(found), "page": Pages(found, Beside(), Clips()).index()}
    assert not [name for name, text in texts.items() if "Accuracy" in text]
    shown = {name.rpartition(".")[2] for name, text in texts.items() if "WUPS@0" in text}
    assert shown >= {"terminal", "md", "csv", "json", "tex", "page"}


def test_the_page_of_a_run(tmp_path: Path) -> None:
    record = run(tmp_path, SCORES).record
    figures = facts_of(record)["figures"]
    assert figures["columns"] == ["WUPS@0", "n"]
    assert dict(figures["rows"])["exact match"] == ["12.50", "–"]
    curve = Curve("val_accuracy", [1.0, 2.0], [10.0, 20.0])
    (plot,) = run_plots(record, [curve], "run")
    assert [line.name for line in plot["plot"].lines] == ["WUPS@0"]


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, other = two(tmp_path)
    found = compare(full.path, other.path)
    assert [figure.name for figure in found.figures] == ["WUPS@0", "WUPS@0 causal", "WUPS@0 temporal"]
    show(found, 2)
    told = capsys.readouterr().out
    assert "answered with a score above one half by both" in told
    assert "rightly" not in told


def test_wups_and_exact_matches_share_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two(tmp_path, wups=False)
    assert [table.main for table in build_tables(runs)] in (["WUPS@0", "Accuracy"], ["Accuracy", "WUPS@0"])
    found = compare(runs[0].path, runs[1].path, anyway=True)
    assert "protocol.metric_version" in found.differing
    assert found.figures[0].name == "Score"
    show(found, 0)
    assert "answered with a score above one half" in capsys.readouterr().out


def test_differences_over_seeds_have_its_name(tmp_path: Path) -> None:
    runs = two(tmp_path)
    (found,) = Statistics(None).differences(runs[:1], [(runs[1:], ["WUPS@0", "WUPS@0 temporal", "Accuracy"])])
    assert isinstance(found, dict)
    assert set(found) == {"WUPS@0", "WUPS@0 temporal"}
