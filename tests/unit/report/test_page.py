from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from petl_bench.report.model import Report
from petl_bench.report.page import MOST_ON_PAGE, write_pages
from tests.made_up_reports import HOSTILE, METHODS, make_report

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of each cell of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report(tmp_path_factory.mktemp("runs"), seeds=1)


@pytest.fixture(scope="module")
def index(report: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    assert [path.name for path in write_pages(report, folder)] == ["index.html"]
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(index: str) -> Page:
    return Page(index)


def test_a_doubtful_state_has_a_question_mark_and_its_reason(report: Report, tmp_path: Path) -> None:
    first, *others = report.tables
    doubted, *rest = first.rows
    row = replace(doubted, state="off", doubt="pixels are <not> said")
    write_pages(replace(report, tables=[replace(first, rows=[row, *rest]), *others]), tmp_path)
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert {"class": "state", "data-state": "off", "title": "pixels are <not> said"} in page.all("span")
    assert "off?" in page.text


def test_it_is_one_well_formed_file_that_asks_for_no_other(page: Page, index: str) -> None:
    assert not page.open
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(name) or "#"
            # A link asks for nothing before a reader follows it.
            followed = tag == "a" and value == "https://arxiv.org/abs/2301.07868"
            assert followed or value.startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in index
    assert "url(" not in index
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "javascript:" not in index
    targets = {href[1:] for a in page.all("a") if (href := a["href"] or "").startswith("#")}
    assert targets <= set(ids)


def test_only_its_own_style_and_script_may_run(page: Page, index: str) -> None:
    policy = next(str(m["content"]) for m in page.all("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", index, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_hostile_names_are_inert(page: Page, index: str) -> None:
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith("on") or name == "style"
    ]
    shown = "".join(character if character.isprintable() else " " for character in HOSTILE)
    assert page.text.count(shown) > 5  # name, mark, source, caption, path, reason
    assert "\u202e" not in index
    assert "\x1b" not in index


def test_every_figure_of_every_table_is_on_it(report: Report, index: str) -> None:
    bodies = dict(re.findall(r'<tbody id="([^"]+)"[^>]*>\n<tr>(.*?)</tr>', index, re.DOTALL))
    for table in report.tables:
        for row in table.rows:
            body = bodies[f"{table.id}-{row.config_hash[:12]}"]
            cells = re.findall(
                r'<td[^>]*?(?: data-v="([^"]+)")?(?: data-tip="([^"]+)")?>(?:<b>|<span class="u">)?([^<]*)', body
            )
            quality = [column for column in table.columns if column.kind == "quality"]
            costs = [c for c in table.columns if c.kind == "cost" and any(r.values[c.title] for r in table.rows)]
            *cells, (seeds, _, _) = cells
            assert int(seeds) == len(row.runs)
            shown = [*zip(quality, cells, strict=False), *zip(costs[::-1], cells[::-1], strict=False)]
            for column, (exact, tip, text) in shown:
                value = row.values[column.title]
                if value is None:
                    assert (exact, text) == ("", "–")
                    continue
                assert float(exact) == pytest.approx(value.mean, rel=1e-7)
                assert float(text) == pytest.approx(value.mean, abs=0.51 * 10**-column.decimals), column
                if value.interval is not None:
                    low, high = f"{value.interval.low:.1f}", f"{value.interval.high:.1f}"
                    assert tip == f"{column.title}: 95 % interval [{low}, {high}]".replace("-", "−")


def test_best_and_not_distinguishable_are_marked(report: Report, index: str) -> None:
    table = report.tables[0]
    main = next(column for column in table.columns if column.title == table.main)
    means = {row.config_hash: value.mean for row in table.rows if (value := row.values[main.title])}
    best = max(means, key=means.__getitem__)
    for row in table.rows:
        body = index.split(f'<tbody id="{table.id}-{row.config_hash[:12]}"')[1]
        cell = body.split('<td class="n', 1)[1].split("</td>")[0]
        difference = row.from_best[main.title]
        expected = "<b>" if row.config_hash == best else '"u"' if difference and difference.p_holm > 0.05 else ""
        assert ("<b>" in cell, '"u"' in cell) == (expected == "<b>", expected == '"u"')


def test_the_same_report_gives_the_same_bytes(index: str, tmp_path: Path) -> None:
    again = make_report(tmp_path / "runs", seeds=1)
    write_pages(again, tmp_path)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert _without_folders(text) == _without_folders(index)


def _without_folders(text: str) -> str:
    """The folders of two tests have different names."""
    return re.sub(r"[^ >]*/(msrvtt|&lt;script)", r"\1", text)


def test_a_page_of_50_runs_is_bounded(tmp_path: Path) -> None:
    report = make_report(tmp_path / "runs", seeds=1)
    tables = [replace(table, rows=table.rows[:17]) for table in report.tables]
    report = replace(report, tables=tables)
    runs = sum(len(row.runs) for table in tables for row in table.rows)
    assert 35 <= runs <= MOST_ON_PAGE
    write_pages(report, tmp_path)
    assert (tmp_path / "index.html").stat().st_size < 25_000 * MOST_ON_PAGE


def test_more_runs_get_pages_of_their_own_and_only_those_that_change_are_written(tmp_path: Path) -> None:
    report = make_report(tmp_path / "runs", seeds=2, methods=METHODS[:11])
    output = tmp_path / "output"
    output.mkdir()
    files = write_pages(report, output)
    runs = sum(len(row.runs) for table in report.tables for row in table.rows)
    assert runs > MOST_ON_PAGE
    folder = output / "runs"
    pages = sorted(folder.glob("*.html"))
    assert len(pages) == runs == len(files) - 1
    index = Page((output / "index.html").read_text(encoding="utf-8"))
    linked = {str(a["href"]) for a in index.all("a") if not str(a["href"]).startswith(("#", "https:"))}
    assert linked == {f"runs/{page.name}" for page in pages}
    for page in pages[:3]:
        assert not Page(page.read_text(encoding="utf-8")).open

    (folder / "theirs.html").write_text("somebody else's", encoding="utf-8")
    before = {page: page.stat().st_mtime_ns for page in pages}
    pages[0].write_text("changed by hand", encoding="utf-8")
    first = report.tables[0].rows[-1].runs[0]
    with first.path.with_name("metrics.csv").open("a") as file:
        file.write("9,0.1,9000,\n")
    write_pages(report, output)
    changed = {page for page in pages if page.stat().st_mtime_ns != before[page]}
    assert len(changed) == 2
    assert pages[0] in changed
    assert "changed by hand" not in pages[0].read_text(encoding="utf-8")

    fewer = replace(report, tables=[replace(report.tables[0], rows=report.tables[0].rows[:3])])
    write_pages(fewer, output)
    assert [path.name for path in folder.iterdir()] == ["theirs.html"]


def test_a_report_of_one_row(tmp_path: Path) -> None:
    report = make_report(tmp_path / "runs", seeds=1, methods=METHODS[:1], hostile=False)
    one = Report([report.tables[-1]], [], [])
    write_pages(one, tmp_path)
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert not page.open
    assert "1 configurations" not in page.text
    assert "Left out" not in page.text
    assert "made-up clips, not benchmark results" in page.text


@pytest.mark.parametrize("most", [0, MOST_ON_PAGE])
def test_folders_whose_names_are_no_utf_8(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petl_bench.report.page.MOST_ON_PAGE", most)
    report = make_report(tmp_path / "数据\udcff", seeds=1, methods=METHODS[:2], hostile=False)
    write_pages(report, tmp_path)
    files = write_pages(report, tmp_path)
    assert all("数据" in path.read_text(encoding="utf-8") for path in files)
