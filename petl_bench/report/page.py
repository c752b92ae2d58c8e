"""The report as a web page: `index.html`, one file that asks for no other, and above 50 runs a page for each of them.

Names, captions and notes come from records and are foreign text: jinja2 escapes every one of them, and the page's
content security policy lets nothing run but the script that belongs to it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.report import mteb
from petl_bench.report.boards import STATES, board_of, row_details, summary_boards
from petl_bench.report.cells import of_mteb
from petl_bench.report.collect import Key, Run, field_of
from petl_bench.report.details import Beside, HardQuery
from petl_bench.report.labels import anchor, setting
from petl_bench.report.model import Report, Row, Table
from petl_bench.report.owned import OwnedFolder, code_sha256, write_if_new
from petl_bench.report.published_list import published_list
from petl_bench.report.run_facts import facts_of, run_plots
from petl_bench.report.templating import render
from petl_bench.report.thumbnails import Clips
from petl_bench.runs.record import METRICS_NAME, ranks_beside
from petl_bench.storage.files import known_sha256

#: runs whose details are sections of the page; of more, each gets a page of its own
MOST_ON_PAGE = 50
#: hardest queries that are shown with pictures
_PICTURED = 8


def write_pages(report: Report, output: Path, beside: Beside | None = None, clips: Clips | None = None) -> list[Path]:
    """Writes `index.html`, and `runs/*.html` where it has more than 50 runs; pages that would not change stay.

    Args:
        report: what is shown.
        output: folder that is there.
        beside: reads what lies beside records.
        clips: pictures of clips; none by default.

    Returns:
        The files of the pages.

    Raises:
        FileError: a page cannot be written.
    """
    pages = Pages(report, beside or Beside(), clips or Clips())
    index = output / "index.html"
    files = _write_run_pages(pages, output / "runs")
    write_if_new(index, pages.index())
    return [index, *files]


class Entry(NamedTuple):
    """A run with its place in the report, and the name of its page or section."""

    id: str
    table: Table
    row: Row
    run: Run


class Pages:
    """The pages of a report, made one at a time.

    Args:
        report: what is shown.
        beside: reads what lies beside records.
        clips: pictures of clips.
    """

    def __init__(self, report: Report, beside: Beside, clips: Clips) -> None:
        self.report, self.beside, self.clips = report, beside, clips
        self.entries = _entries(report)
        self.paged = len(self.entries) > MOST_ON_PAGE

    def index(self) -> str:
        """The page of all tables."""
        self.clips.new_page()
        ids = {(entry.table.id, entry.run.path): entry.id for entry in self.entries}
        tables = [board_of(table, self.beside, self._links(table, ids)) for table in self.report.tables]
        details = [] if self.paged else [self._details(entry) for entry in self.entries]
        return render(
            "page.html.jinja",
            report=self.report,
            mteb=mteb,
            mteb_rows=[of_mteb(result) for result in self.report.mteb],
            datasets=_datasets(tables),
            summary=summary_boards(self.report),
            published=published_list(self.report.published, self.report.tables),
            chips=_chips(self.report.tables),
            groups=list(dict.fromkeys(group["name"] for table in tables for group in table["groups"] if group["name"])),
            details=details,
            runs=len(self.entries),
            rows=sum(len(table.rows) for table in self.report.tables),
            fixture=any(table.fixture for table in self.report.tables),
            only_fixture=all(table.fixture for table in self.report.tables),
        )

    def run_page(self, entry: Entry) -> str:
        """The page of one run."""
        self.clips.new_page()
        return render("run.html.jinja", run=self._details(entry), fixture=entry.table.fixture)

    def input_of(self, entry: Entry) -> str | None:
        """A digest of all that the page of a run is made of; None where only making it tells."""
        if self.clips.any:
            return None
        path = self.beside.path(entry.run)
        parts = (
            code_sha256(),
            json.dumps(entry.run.record, sort_keys=True),
            repr(dataclasses.replace(entry.row, runs=[])),
            f"{entry.table.title}\n{entry.table.id}\n{entry.run.path}\n{entry.table.columns}",
            str(known_sha256(path.with_name(METRICS_NAME))),
            # The record says which ranks are its own, and no other pass.
            str(ranks_beside(path).is_file()),
        )
        return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()

    def _links(self, table: Table, ids: dict[tuple[str, Path], str]) -> dict[Path, str]:
        form = "runs/{}.html" if self.paged else "#run-{}"
        return {run.path: form.format(ids[table.id, run.path]) for row in table.rows for run in row.runs}

    def _details(self, entry: Entry) -> dict[str, Any]:
        found = self.beside.details(entry.run)
        record = entry.run.record
        return {
            "id": entry.id,
            "name": entry.row.name,
            "backbone": entry.row.backbone,
            "table": entry.table,
            "seed": record["id"]["seed"],
            "path": entry.run.path.as_posix(),
            "row": row_details(entry.row, entry.table.quality),
            "marks": entry.row.marks,
            "command": entry.row.command,
            **facts_of(record),
            "plots": run_plots(record, found.curves, entry.id),
            "hardest": list(self._hardest(found.hardest)),
            "missing": found.missing,
        }

    def _hardest(self, queries: list[HardQuery]) -> Iterator[dict[str, Any]]:
        for place, query in enumerate(queries):
            hit = query.hits[0] if query.hits else ""
            pictured = place < _PICTURED
            yield {
                **dataclasses.asdict(query),
                "clip_picture": self.clips.of(query.clip) if pictured and query.clip else None,
                # What is found by words is a clip; a question is answered in words.
                "hit_picture": self.clips.of(hit) if pictured and hit and query.rank is not None else None,
            }


# --- writing


def _write_run_pages(pages: Pages, path: Path) -> list[Path]:
    """Writes the pages that are new or changed, and removes those of runs that are gone."""
    folder = OwnedFolder(path)
    for entry in pages.entries if pages.paged else []:
        folder.put(f"{entry.id}.html", pages.input_of(entry), lambda entry=entry: pages.run_page(entry).encode())
    return folder.close()


def _entries(report: Report) -> list[Entry]:
    found = [(table, row, run) for table in report.tables for row in table.rows for run in row.runs]
    names = [
        f"{anchor(row.method)[:32] or 'run'}-{row.config_hash[:8]}-seed{run.record['id']['seed']}"
        for _, row, run in found
    ]
    times = Counter(names)
    return [
        # One configuration may stand in several tables: trained once, evaluated by different protocols.
        Entry(name if times[name] == 1 else f"{name}-{_digest(f'{table.id}/{row.config_hash}')}", table, row, run)
        for name, (table, row, run) in zip(names, found, strict=True)
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


# --- what is above and below the tables


def _datasets(boards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tables by dataset, and what keeps those of one dataset apart."""
    groups: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    for board in boards:
        groups.setdefault((board["table"].fixture, board["table"].dataset), []).append(board)
    return [
        {
            "name": dataset,
            "fixture": fixture,
            "id": f"dataset-{anchor(dataset)}-{_digest(f'{fixture}{dataset}')[:4]}",
            "tables": group,
            "differences": _differences([board["table"].key for board in group]),
        }
        for (fixture, dataset), group in groups.items()
    ]


def _differences(keys: list[Key]) -> list[tuple[str, list[str]]]:
    """Fields of which the tables do not all say the same."""
    fields = [dict(key) for key in keys]
    names = dict.fromkeys(name for one in fields for name in one)
    found = [(name, [setting(field_of(one, name)) for one in fields]) for name in names]
    return [(name, values) for name, values in found if len(set(values)) > 1]


def _chips(tables: list[Table]) -> list[tuple[str, list[str]]]:
    """What rows can be filtered by, where they differ in it."""
    rows = [row for table in tables for row in table.rows]
    kinds = (
        ("dataset", [table.dataset for table in tables]),
        ("backbone", sorted({row.backbone for row in rows})),
        ("state", [state for state in STATES if any(row.state == state for row in rows)]),
    )
    return [(kind, found) for kind, values in kinds if len(found := list(dict.fromkeys(values))) > 1]
