"""The report's page in a real browser: what a reader clicks, types and sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from petl_bench.report.model import Report
from petl_bench.report.page import write_pages
from tests.browser import Browser, browser
from tests.made_up_reports import HOSTILE, make_report

pytestmark = pytest.mark.needs_chromium

BOARD = 'document.querySelector("section.table table.board")'
NAMES = f'[...{BOARD}.tBodies].filter((b) => !b.hidden).map((b) => b.querySelector(".name").textContent)'


@dataclass
class Reader:
    """Somebody in front of the page."""

    browser: Browser
    page: Path
    report: Report

    def opens(self, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True) -> None:
        self.browser.show(width, height, dark)
        self.browser.open(self.page, script)

    def sees(self, expression: str) -> Any:
        return self.browser.run(expression)

    def names(self) -> list[str]:
        return self.sees(NAMES)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("page")
    report = make_report(folder / "runs", seeds=1)
    write_pages(report, folder)
    with browser() as opened:
        yield Reader(opened, folder / "index.html", report)


@pytest.fixture(autouse=True)
def _nothing_else_is_asked_for(reader: Reader) -> Iterator[None]:
    """No request but for the page itself, no error on the console, no breach of the policy, no dialog."""
    yield
    assert set(reader.browser.requests) <= {reader.page.as_uri()}
    assert reader.browser.complaints == []


def shown(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def test_rows_sort_by_a_click_and_references_stay_on_top(reader: Reader) -> None:
    reader.opens()
    rows = reader.report.tables[0].rows
    names = [shown(row.name) for row in rows]
    assert reader.names() == names
    references, others = names[:3], rows[3:]
    costs = {shown(row.name): value.mean for row in others if (value := row.values["Trainable M"])}
    head = f'[...{BOARD}.querySelectorAll("th")].find((h) => h.textContent === "Trainable M")'
    click = f'{head}.querySelector("button").click()'
    reader.sees(click)
    assert reader.sees(f'{head}.getAttribute("aria-sort")') == "ascending"
    found = reader.names()
    assert set(found[:3]) == set(references)
    assert [costs[name] for name in found[3:]] == sorted(costs.values())
    reader.sees(click)
    assert reader.sees(f'{head}.getAttribute("aria-sort")') == "descending"
    assert [costs[name] for name in reader.names()[3:]] == sorted(costs.values(), reverse=True)
    reader.sees(click)
    assert reader.sees(f'{head}.getAttribute("aria-sort")') == "none"
    assert reader.names() == names


def test_a_keyboard_is_enough(reader: Reader) -> None:
    reader.opens()
    reader.browser.press("Tab", 9)
    assert reader.sees("document.activeElement.className") == "skip"
    assert reader.sees("document.activeElement.getBoundingClientRect().top") >= 0
    reader.sees(f'{BOARD}.querySelectorAll("thead button")[0].focus()')
    assert reader.sees("getComputedStyle(document.activeElement).outlineStyle") != "none"
    reader.browser.press("Enter", 13, "\r")
    assert reader.sees('document.activeElement.closest("th").getAttribute("aria-sort")') == "ascending"
    others = reader.names()[3:]
    assert others == sorted(others, key=str.lower)

    reader.sees(f'{BOARD}.tBodies[3].querySelector("button.open").focus()')
    reader.browser.press("ArrowRight", 39)
    tip = reader.sees('document.getElementById("tip").hidden ? "" : document.getElementById("tip").textContent')
    assert "95 % interval [" in tip
    assert reader.sees('document.activeElement.getAttribute("aria-describedby")') == "tip"
    reader.browser.press("Escape", 27)
    assert reader.sees('document.getElementById("tip").hidden')
    reader.browser.press("ArrowDown", 40)
    assert reader.sees(f"document.activeElement.closest('tbody') === {BOARD}.tBodies[4]")
    reader.browser.press("ArrowLeft", 37)
    reader.browser.press("Enter", 13, "\r")
    assert reader.sees('document.activeElement.getAttribute("aria-expanded")') == "true"
    assert reader.sees(f'{BOARD}.tBodies[4].querySelector(".more").getBoundingClientRect().height') > 100


def test_rows_are_filtered_by_words_and_chips(reader: Reader) -> None:
    reader.opens()
    rows = reader.report.tables[0].rows
    reader.sees('document.getElementById("find").focus()')
    reader.browser.send("Input.insertText", text="ADAPTER")
    expected = [row.name for row in rows if "adapter" in row.name.lower()]
    assert reader.names() == expected
    everywhere = [row for table in reader.report.tables for row in table.rows]
    left = sum("adapter" in row.name.lower() for row in everywhere)
    assert reader.sees('document.querySelector(".count").textContent') == f"{left} of {len(everywhere)} rows"
    reader.sees('const find = document.getElementById("find"); find.value = ""; find.dispatchEvent(new Event("input"))')
    off = """[...document.querySelectorAll(".chip")].find((c) => c.dataset.value === "off")"""
    reader.sees(f"{off}.click()")
    assert reader.sees(f'{off}.getAttribute("aria-pressed")') == "true"
    assert reader.names() == [shown(row.name) for row in rows if row.state == "off"]
    none = reader.sees('[...document.querySelectorAll("section.table p.none")].filter((n) => !n.hidden).length')
    assert none == sum(not any(row.state == "off" for row in table.rows) for table in reader.report.tables)
    reader.sees(f"{off}.click()")
    assert len(reader.names()) == len(rows)

    costs = """[...document.querySelectorAll(".chip")].find((c) => c.dataset.group === "Costs")"""
    count = f"[...{BOARD}.tBodies[0].rows[0].cells].filter((c) => !c.hidden).length"
    before = reader.sees(count)
    reader.sees(f"{costs}.click()")
    hidden = reader.sees(f'[...{BOARD}.querySelectorAll("tr.heads th")].filter((h) => h.hidden).length')
    assert hidden >= 5
    assert reader.sees(count) == before - hidden


def test_a_link_to_a_run_opens_it(reader: Reader) -> None:
    reader.opens()
    reader.sees(f'{BOARD}.tBodies[1].querySelector("button.open").click()')
    reader.sees(f"""{BOARD}.tBodies[1].querySelector('.more a[href^="#run-"]').click()""")
    opened = "[...document.querySelectorAll('details.run')].filter((d) => d.open)"
    assert reader.sees(f"{opened}.length") == 1
    assert reader.sees(f"{opened}[0].querySelector('summary').textContent").startswith("ZeroShot")
    reader.sees("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    reader.sees(f"{opened}[0].querySelector('.copy').click()")
    assert reader.sees("window.copied").startswith("petl-bench fit --config=msrvtt_zeroshot")


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast(dark: bool, reader: Reader) -> None:
    """WCAG 2.2, level AA: 4.5 to 1."""
    reader.opens(dark=dark)
    worst = reader.sees(
        """(() => {
          const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
          const rgb = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data]; };
          const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92
            : ((c + 0.055) / 1.055) ** 2.4); return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
          const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (rgb(c)[3] === 255) return c; } return "white"; };
          let worst = [99, ""];
          for (const e of document.querySelectorAll("body *")) {
            const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            const svg = e instanceof SVGTextElement;
            if (!own || e.closest("script, .skip, desc, title") || !e.getClientRects().length) continue;
            const style = getComputedStyle(e);
            const [a, b] = [light(rgb(svg ? style.fill : style.color)), light(rgb(ground(e)))].sort((x, y) => y - x);
            const ratio = (a + 0.05) / (b + 0.05);
            if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 200)];
          }
          return worst;
        })()"""
    )
    assert worst[0] >= 4.5, worst
    background = reader.sees("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(21, 23, 26)") == dark


def test_a_phone_scrolls_in_one_direction(reader: Reader) -> None:
    reader.opens(360, 740)
    reader.sees(f'{BOARD}.tBodies[4].querySelector("button.open").click()')
    reader.sees('[...document.querySelectorAll("details")].forEach((d) => { d.open = true; })')
    assert reader.sees("document.documentElement.scrollWidth") == 360
    wide = """[...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > 361
        && !e.closest(".scroll, .fit, .sr")).map((e) => e.outerHTML.slice(0, 100))"""
    assert reader.sees(wide) == []
    assert reader.sees(f"{BOARD}.closest('.scroll').scrollWidth") > 360
    sheet = f"{BOARD}.tBodies[4].querySelector('.sheet').getBoundingClientRect().width"
    assert reader.sees(sheet) <= 360


def test_without_scripts_everything_can_be_read(reader: Reader) -> None:
    reader.opens(script=False)
    reader.browser.send("Emulation.setScriptExecutionDisabled", value=False)  # for the questions below
    assert reader.sees('getComputedStyle(document.querySelector(".more")).display') == "table-row"
    assert reader.sees('[...document.querySelectorAll(".tools, .open, .copy")].every((e) => e.hidden)')


def test_hostile_names_do_nothing(reader: Reader) -> None:
    reader.opens()
    assert shown(HOSTILE) in reader.names()
    assert reader.sees("document.scripts.length") == 1
    assert reader.sees("document.images.length") == 0


def test_print_shows_tables_without_tools(reader: Reader) -> None:
    reader.browser.show(1000, 800, media="print")
    reader.browser.open(reader.page)
    assert reader.sees('getComputedStyle(document.querySelector(".tools")).display') == "none"
    assert reader.sees("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
