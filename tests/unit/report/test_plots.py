"""The plots: their numbers, the page's SVG, and matplotlib's files."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from petl_bench.report import plots
from petl_bench.report.details import Beside
from petl_bench.report.figures import Forest, Lines, Plot, Scatter, Shares, plots_of
from petl_bench.report.model import Report
from petl_bench.report.placing import Box, linear_axis, log_axis, place_labels, spread
from petl_bench.report.svg import svg
from tests.made_up_reports import HOSTILE, make_report

NAMES = ["parameters", "memory", "size", "forest", "published", "curves", "overlap"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report(tmp_path_factory.mktemp("runs"), seeds=1)


@pytest.fixture(scope="module")
def drawings(report: Report) -> dict[str, Plot]:
    return {plot.name: plot for plot in plots_of(report.tables[0], Beside())}


def test_a_table_has_every_plot_that_it_has_numbers_for(report: Report, drawings: dict[str, Plot]) -> None:
    assert list(drawings) == NAMES
    answers = {plot.name for plot in plots_of(report.tables[2], Beside())}
    assert answers == {"parameters", "memory", "size", "forest", "curves"}


def test_points_are_the_figures_of_the_table(report: Report, drawings: dict[str, Plot]) -> None:
    plot, table = drawings["parameters"], report.tables[0]
    assert isinstance(plot, Scatter)
    zero_shot = next(row for row in table.rows if row.method == "ZeroShot")
    assert [level.label for level in plot.levels] == ["ZeroShot"]  # no place on a logarithmic axis
    others = [row for row in table.rows if row is not zero_shot]
    for row, point in zip(others, plot.points, strict=True):
        x, y = row.values["Trainable M"], row.values["t2v R@1"]
        assert x is not None
        assert y is not None
        assert y.interval is not None
        assert (point.x, point.y, point.low, point.high) == (x.mean, y.mean, *y.interval)
    for point in plot.points:
        beaten = any((p.x <= point.x and p.y >= point.y) and (p.x < point.x or p.y > point.y) for p in plot.points)
        assert point.front == (not beaten)


def test_the_forest_and_the_overlap_are_those_of_the_table(report: Report, drawings: dict[str, Plot]) -> None:
    forest, overlap = drawings["forest"], drawings["overlap"]
    assert isinstance(forest, Forest)
    assert isinstance(overlap, Shares)
    deltas = [d.delta for row in report.tables[0].rows if (d := row.from_full["t2v R@1"]) is not None]
    assert [bar.delta for bar in forest.bars] == sorted(deltas, reverse=True)
    assert sum(count for _, count in overlap.parts) == overlap.total == 1000


@pytest.mark.parametrize("name", NAMES)
def test_svg_is_well_formed_accessible_and_the_same_every_time(name: str, drawings: dict[str, Plot]) -> None:
    text = svg(drawings[name], "some-id")
    assert text == svg(drawings[name], "some-id")
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img"
    title, description = root[0], root[1]
    assert (title.tag, title.text, title.attrib["id"]) == ("title", drawings[name].title, "some-id-t")
    assert description.tag == "desc"
    assert root.attrib["aria-labelledby"] == "some-id-t some-id-d"
    allowed = {"svg", "title", "desc", "g", "line", "polyline", "circle", "rect", "text"}
    assert {element.tag for element in root.iter()} <= allowed
    attributes = {attribute for element in root.iter() for attribute in element.attrib}
    assert not [attribute for attribute in attributes if attribute.startswith("on") or attribute == "style"]
    numbers = [float(n) for n in re.findall(r' (?:x|y|cx|cy|x1|x2|y1|y2)="([^"]+)"', text)]
    assert all(-1 <= number <= 800 for number in numbers)


def test_hostile_names_are_text_of_a_plot(drawings: dict[str, Plot]) -> None:
    text = svg(drawings["forest"], "id")
    assert "<script" not in text
    shown = "".join(character if character.isprintable() else " " for character in HOSTILE)
    assert any(shown in (element.text or "") for element in ElementTree.fromstring(text).iter("title"))


def test_labels_cover_neither_each_other_nor_a_point() -> None:
    points = [(100 + 7.0 * n % 120, 100 + 11.0 * n % 60) for n in range(18)]
    frame = Box(0, 0, 400, 300)
    boxes = place_labels(points, [(70, 12)] * len(points), frame)
    placed = [box for box in boxes if box is not None]
    assert len(placed) > 12
    assert not [pair for pair in combinations(placed, 2) if pair[0].meets(pair[1])]
    assert all(box.within(frame) for box in placed)
    assert not [box for box in placed for x, y in points if box.meets(Box(x - 4, y - 4, x + 4, y + 4))]


def test_lines_ends_are_apart_and_in_order() -> None:
    wanted = [50.0, 51.0, 49.0, 90.0, 90.5]
    places = spread(wanted, 12, 0, 100)
    assert sorted(range(5), key=places.__getitem__) == sorted(range(5), key=wanted.__getitem__)
    ordered = sorted(places)
    assert all(b - a >= 12 - 1e-9 for a, b in pairwise(ordered))
    assert max(places) <= 100


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-9, 1e9], [-3.0, 2.0], [99.99, 100.0]])
def test_axes_hold_their_values_and_have_ticks(values: list[float]) -> None:
    axis = linear_axis(values)
    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert 2 <= len(axis.ticks) <= 12
    assert len({text for _, text in axis.ticks}) == len(axis.ticks)
    if min(values) > 0:
        axis = log_axis(values)
        assert all(0 <= axis.place(value) <= 1 for value in values)
        assert axis.ticks


def test_files_are_the_same_bytes_and_say_no_date(drawings: dict[str, Plot]) -> None:
    first, second = plots.drawn(drawings["parameters"]), plots.drawn(drawings["parameters"])
    assert first == second
    assert b"dc:date" not in first["svg"]
    assert first["png"].startswith(b"\x89PNG")
    assert ElementTree.fromstring(first["svg"]).tag.endswith("svg")


@pytest.mark.parametrize("name", ["forest", "curves", "overlap"])
def test_the_other_files_are_drawn(name: str, drawings: dict[str, Plot]) -> None:
    assert isinstance(drawings[name], Forest | Lines | Shares)
    assert {kind for kind, content in plots.drawn(drawings[name]).items() if len(content) > 2000} == {"svg", "png"}


def test_files_that_would_not_change_stay(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Report([report.tables[3]], [], [])
    monkeypatch.setattr(plots, "drawn", lambda plot: {"svg": plot.title.encode(), "png": b"png"})
    files = plots.write_plots(one, tmp_path / "plots")
    assert files is not None
    assert {path.suffix for path in files} == {".svg", ".png"}
    times = {path: path.stat().st_mtime_ns for path in files}

    def fails(plot: Plot) -> dict[str, bytes]:
        raise AssertionError(f"{plot.name} is drawn again")

    monkeypatch.setattr(plots, "drawn", fails)
    assert plots.write_plots(one, tmp_path / "plots") == files
    assert {path: path.stat().st_mtime_ns for path in files} == times
    assert plots.write_plots(Report([], [], []), tmp_path / "plots") == []
    assert not (tmp_path / "plots").exists()


def test_without_matplotlib_there_are_none(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert plots.write_plots(report, tmp_path / "plots") is None
    assert not (tmp_path / "plots").exists()
    assert "petl-bench[report]" in plots.HOW_TO_GET
