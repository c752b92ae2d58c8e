"""The report as a web page: `index.html`, one file that asks for no other, and above 50 runs a page for each of them.

Names, captions and notes come from records and are foreign text: jinja2 escapes every one of them, and the page's
content security policy lets nothing run but the script that belongs to it.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from petl_bench.formats import number as measure
from petl_bench.report.best import Standing, best_of, standing
from petl_bench.report.cells import doubted, mean_and_deviation, number
from petl_bench.report.collect import Key, Run
from petl_bench.report.details import Beside, Curve, HardQuery
from petl_bench.report.figures import curve_lines, is_reference, plots_of
from petl_bench.report.labels import MISSING, anchor, interval, one_line, setting, signed
from petl_bench.report.model import Column, Difference, PublishedFigure, Report, Row, SummaryRow, Table, Value
from petl_bench.report.owned import OwnedFolder, code_sha256, write_if_new
from petl_bench.report.queries import ranks_beside
from petl_bench.report.summary import other_rows
from petl_bench.report.svg import svg
from petl_bench.report.thumbnails import Clips
from petl_bench.runs.record import METRICS_NAME
from petl_bench.storage.files import known_sha256

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
#: runs whose details are sections of the page; of more, each gets a page of its own
MOST_ON_PAGE = 50
#: hardest queries that are shown with pictures
_PICTURED = 8
_METRICS = ("R1", "R5", "R10", "R50", "MdR", "MnR", "n")
#: an address that a page may link to
_HTTPS = re.compile(r"https://[A-Za-z0-9.-]+/[A-Za-z0-9./_~%?&=#+:-]*")
_MARKS = {Standing.BEST: "best", Standing.CLOSE: "tied", Standing.UNTESTED: "untested"}
_LABELS = {"reproduced": "●", "within band": "◐", "off": "○", "not comparable": "–", "not run": "·"}


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


class Cell(NamedTuple):
    """A figure as a page shows it.

    Attributes:
        text: the figure.
        sort: the number that rows are sorted by; empty if there is none.
        spread: what stands small beside it.
        tip: what is shown when it is pointed at.
        mark: `best`, `tied` with the best, `untested` against it; `doubtful` of what is not comparable; `state` of a
            state.
    """

    text: str = MISSING
    sort: str = ""
    spread: str = ""
    tip: str = ""
    mark: str = ""


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
        tables = [_table(table, self.beside, self._links(table, ids)) for table in self.report.tables]
        details = [] if self.paged else [self._details(entry) for entry in self.entries]
        return _render(
            "page.html.jinja",
            report=self.report,
            datasets=_datasets(self.report.tables, tables),
            summary=_summary(self.report),
            published=_published(self.report.published, self.report.tables),
            chips=_chips(self.report.tables, tables),
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
        return _render("run.html.jinja", run=self._details(entry), fixture=entry.table.fixture)

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
            "row": _row_details(entry.row, entry.table.quality),
            "marks": entry.row.marks,
            "command": entry.row.command,
            "figures": _figures(record["eval"]),
            "costs": _costs(record),
            "environment": _environment(record),
            "settings": _settings(record),
            "plots": _run_plots(found.curves, entry.id),
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
        folder.put(f"{entry.id}.html", pages.input_of(entry), functools.partial(_encoded_page, pages, entry))
    return folder.close()


def _encoded_page(pages: Pages, entry: Entry) -> bytes:
    return pages.run_page(entry).encode()


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


# --- tables


class Shown(NamedTuple):
    """A column of a page.

    Attributes:
        kind: `quality`, `published`, `state`, `cost` or `seeds`.
        group: heading over neighbouring columns, by which they are hidden and shown; empty without.
        title: below it.
        about: title with unit.
        sort: what a first click puts on top: the `high` end, the `low` end, or `text` by the alphabet.
        column: of the table; None of what is none.
        main: rows are in its order.
        first: of its group.
    """

    kind: str
    group: str
    title: str
    about: str = ""
    sort: str = "high"
    column: Column | None = None
    main: bool = False
    first: bool = False


def _table(table: Table, beside: Beside, links: dict[Path, str]) -> dict[str, Any]:
    columns = [*_quality_columns(table), *_published_columns(table), *_cost_columns(table), Shown("seeds", "", "Seeds")]
    groups = [(name, list(members)) for name, members in groupby(columns, lambda column: column.group)]
    columns = [column._replace(first=not place) for _, members in groups for place, column in enumerate(members)]
    best = best_of(table)
    return {
        "table": table,
        "columns": columns,
        "groups": [{"name": name, "span": len(members)} for name, members in groups],
        "several_backbones": len({row.backbone for row in table.rows}) > 1,
        "rows": _aligned([_row(table, row, columns, best, links) for row in table.rows]),
        "plots": [
            {"plot": plot, "svg": _markup(svg(plot, f"{table.id}-{plot.name}"))} for plot in plots_of(table, beside)
        ],
        "settings": [(name, setting(value)) for name, value in table.key],
    }


def _shown(column: Column, kind: str, group: str, title: str, main: bool = False) -> Shown:
    about = f"{column.title}, {column.unit}" if column.unit else column.title
    return Shown(kind, group, title, about, "high" if column.higher_is_better else "low", column, main)


def _quality_columns(table: Table) -> list[Shown]:
    """Those whose titles begin alike (t2v, v2t, Accuracy) in a group."""
    first = Counter(column.title.split(" ", 1)[0] for column in table.quality)
    columns = []
    for column in table.quality:
        word, _, rest = column.title.partition(" ")
        group, title = (word, rest or "all") if first[word] > 1 else ("Overall", column.title)
        columns.append(_shown(column, "quality", group, title, column.title == table.main))
    return columns


def _published_columns(table: Table) -> list[Shown]:
    published = [column for column in table.columns if any(column.title in row.published for row in table.rows)]
    states = [Shown("state", "Published", "State", sort="text")] if any(row.state for row in table.rows) else []
    return [*(_shown(column, "published", "Published", column.title) for column in published), *states]


def _cost_columns(table: Table) -> list[Shown]:
    """Costs that nobody measured have no column."""
    costs = [c for c in table.columns if c.kind == "cost" and any(row.values.get(c.title) for row in table.rows)]
    return [_shown(column, "cost", "Costs", column.title) for column in costs]


def _row(
    table: Table, row: Row, columns: list[Shown], best: dict[str, float], links: dict[Path, str]
) -> dict[str, Any]:
    return {
        "row": row,
        "id": f"{table.id}-{row.config_hash[:12]}",
        "reference": is_reference(row),
        "cells": [_cell(row, shown, best) for shown in columns],
        "details": _row_details(row, table.quality),
        "badge": _LABELS.get(row.state, ""),
        "runs": [(run.record["id"]["seed"], links[run.path]) for run in row.runs],
        "words": one_line(" ".join((row.name, row.method, row.backbone, row.state, *row.marks, *row.hardware))).lower(),
    }


def _aligned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures stand below each other also where only some have something small beside them."""
    spread = [any(cell.spread for cell in cells) for cells in zip(*(row["cells"] for row in rows), strict=True)]
    for row in rows:
        row["cells"] = [
            cell._replace(spread=" ") if wanted and not cell.spread else cell
            for cell, wanted in zip(row["cells"], spread, strict=True)
        ]
    return rows


def _cell(row: Row, shown: Shown, best: dict[str, float]) -> Cell:
    column = shown.column
    if column is None:
        return (
            Cell(row.state, tip=row.doubt, mark="state")
            if shown.kind == "state"
            else Cell(f"{len(row.runs)}", f"{len(row.runs)}")
        )
    if shown.kind == "published":
        return _published_cell(row.published.get(column.title), column)
    value = row.values.get(column.title)
    if shown.kind == "cost":
        return Cell() if value is None else Cell(number(value.mean, column), f"{value.mean:.8g}")
    return _quality_cell(value, column, _MARKS.get(standing(row, column, best), ""))


def _quality_cell(value: Value | None, column: Column, mark: str = "") -> Cell:
    if value is None:
        return Cell()
    return Cell(
        number(value.mean, column),
        f"{value.mean:.8g}",
        spread="" if value.sd is None else f"± {value.sd:.{column.decimals}f}",
        tip=f"{column.title}: 95 % interval {interval(value.interval, column.decimals)}" if value.interval else "",
        mark=mark,
    )


def _published_cell(figure: PublishedFigure | None, column: Column) -> Cell:
    if figure is None:
        return Cell()
    return Cell(
        f"{figure.value:.{column.decimals}f}",
        f"{figure.value:.8g}",
        spread="" if figure.difference is None else signed(figure.difference, column.decimals),
        tip=_published_tip(figure, column),
        mark="" if figure.comparable == "yes" else "doubtful",
    )


def _published_tip(figure: PublishedFigure, column: Column) -> str:
    ends = "" if figure.interval is None else f" Difference: {interval(figure.interval, column.decimals)}."
    return f"{figure.source}, {figure.where}.{ends} Comparable: {figure.comparable}. {figure.why}".strip()


def _row_details(row: Row, columns: list[Column]) -> list[dict[str, str]]:
    found = []
    for column in columns:
        value = row.values.get(column.title)
        if value is None:
            continue
        published = row.published.get(column.title)
        found.append(
            {
                "title": column.title,
                "value": mean_and_deviation(value, column),
                "interval": interval(value.interval, column.decimals) if value.interval else MISSING,
                "best": _difference(row.from_best.get(column.title), column),
                "full": _difference(row.from_full.get(column.title), column),
                "published": _published_words(published, column) if published else MISSING,
            }
        )
    return found


def _difference(found: Difference | None, column: Column) -> str:
    if found is None:
        return MISSING
    p = "p < 0.001" if found.p_holm < 0.001 else f"p = {found.p_holm:.3f}"
    return f"{signed(found.delta, column.decimals)} {interval(found.interval, column.decimals)}, {p}"


def _published_words(figure: PublishedFigure, column: Column) -> str:
    value = f"{figure.value:.{column.decimals}f}"
    ends = "" if figure.interval is None else f" {interval(figure.interval, column.decimals)}"
    ours = "" if figure.difference is None else f" (ours {signed(figure.difference, column.decimals)}{ends})"
    doubt = {"yes": "comparable", "no": "not comparable"}.get(figure.comparable, "not known to be comparable")
    why = f": {figure.why}" if figure.why else ""
    return f"{value}{ours}, {figure.source}, {figure.where}; {doubt}{why}"


# --- what is above and below the tables


def _datasets(tables: list[Table], shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tables by dataset, and what keeps those of one dataset apart."""
    names = list(dict.fromkeys((table.fixture, table.dataset) for table in tables))
    found = []
    for fixture, dataset in names:
        mine = [t for t in shown if (t["table"].fixture, t["table"].dataset) == (fixture, dataset)]
        found.append(
            {
                "name": dataset,
                "fixture": fixture,
                "id": f"dataset-{anchor(dataset)}-{_digest(f'{fixture}{dataset}')[:4]}",
                "tables": mine,
                "differences": _differences([table["table"].key for table in mine]),
            }
        )
    return found


def _differences(keys: list[Key]) -> list[tuple[str, list[str]]]:
    """Fields of which the tables do not all say the same."""
    fields = [dict(key) for key in keys]
    names = dict.fromkeys(name for one in fields for name in one)
    found = [(name, [setting(one.get(name, "unknown")) for one in fields]) for name in names]
    return [(name, values) for name, values in found if len(set(values)) > 1]


def _summary(report: Report) -> list[dict[str, Any]]:
    """What is measured, and what is of generated data, apart."""
    found = []
    for fixture in (False, True):
        rows = [row for row in report.summary if row.fixture == fixture]
        tables = [t for t in report.tables if t.fixture == fixture]
        columns = [(t, t.main_column) for t in tables]
        if rows:
            found.append({"fixture": fixture, "columns": columns, "rows": [_summary_row(row, columns) for row in rows]})
    return found


def _summary_row(row: SummaryRow, columns: list[tuple[Table, Column]]) -> dict[str, Any]:
    cells = [_quality_cell(row.values.get(table.id), column) for table, column in columns]
    cells.append(Cell() if row.relative is None else Cell(f"{row.relative:.3f}", f"{row.relative:.8g}"))
    among = f"of {row.among}" if row.among else ""
    cells.append(Cell() if row.rank is None else Cell(f"{row.rank:.2f}", f"{row.rank:.8g}", spread=among))
    words = one_line(f"{row.method} {row.backbone}").lower()
    others = other_rows(row)
    return {"method": row.method, "others": others, "backbone": row.backbone, "cells": cells, "words": words}


def _published(figures: list[dict[str, Any]], tables: list[Table]) -> list[dict[str, Any]]:
    """By source, each with its figures; those that are ours to reproduce link to the row that does."""
    rows = {(table.id, row.name): f"{table.id}-{row.config_hash[:12]}" for table in tables for row in table.rows}
    by_source: dict[str, list[dict[str, Any]]] = {}
    for figure in figures:
        by_source.setdefault(figure["source"], []).append(figure)
    return [
        {
            "citation": group[0].get("citation") or source,
            "read": group[0].get("read"),
            "url": url if _HTTPS.fullmatch(url := group[0].get("url") or "") else "",
            "figures": [_published_line(figure, rows) for figure in group],
            "states": Counter(figure["state"] for figure in group).most_common(),
        }
        for source, group in by_source.items()
    ]


def _published_line(figure: dict[str, Any], rows: dict[tuple[str, str], str]) -> dict[str, str]:
    metrics = figure.get("metrics") or {}
    sd = [*(figure.get("sd") or []), *[None] * len(metrics)]
    values = [
        f"{_metric_title(name)} {value}{'' if spread is None else f' ± {spread}'}"
        for (name, value), spread in zip(metrics.items(), sd, strict=False)
    ]
    setting_of = [figure.get(name) for name in ("dataset", "protocol", "direction")]
    comparable = {"yes": "comparable", "no": "not comparable", "unknown": "not known to be comparable"}
    doubt = [comparable.get(figure.get("comparable") or "", ""), figure.get("why")]
    return {
        "where": _plain(figure.get("where")),
        "method": _plain(figure.get("method")),
        "backbone": _plain(figure.get("backbone")),
        "setting": " · ".join(str(part) for part in setting_of if part) or MISSING,
        "metrics": ", ".join(values) or MISSING,
        "trainable": _plain(figure.get("trainable")),
        "state": doubted(_plain(figure.get("state")), figure.get("comparable") == "unknown"),
        "doubt": ": ".join(str(part) for part in doubt if part),
        "link": rows.get((figure.get("table") or "", figure.get("row") or ""), ""),
        "remarks": _plain(figure.get("remarks")),
    }


def _metric_title(name: str) -> str:
    return re.sub(r"^R(?=\d)", "R@", name)


def _plain(value: Any) -> str:
    if value is None or value == "":
        return MISSING
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _chips(tables: list[Table], shown: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """What rows can be filtered by, where they differ in it."""
    rows = [row for table in tables for row in table.rows]
    kinds = (
        ("dataset", [table.dataset for table in tables]),
        ("backbone", sorted({row.backbone for row in rows})),
        ("state", [state for state in _LABELS if any(row.state == state for row in rows)]),
    )
    return [(kind, found) for kind, values in kinds if len(found := list(dict.fromkeys(values))) > 1]


# --- one run


def _run_plots(curves: list[Curve], id: str) -> list[dict[str, Any]]:
    wanted = (
        ("loss", "Training loss", "Means of neighbouring steps.", "loss", {"loss": "loss"}),
        (
            "validation",
            "Validation",
            "As logged while training.",
            "%",
            {
                **{"val_t2v_R1": "t2v R@1", "val_t2v_R5": "t2v R@5", "val_t2v_R10": "t2v R@10"},
                **{"val_v2t_R1": "v2t R@1", "val_accuracy": "accuracy"},
            },
        ),
    )
    found = []
    for name, title, caption, unit, names in wanted:
        mine = [dataclasses.replace(c, name=names[c.name]) for c in curves if c.name in names and len(c.steps) > 1]
        plot = curve_lines(mine, name, title, caption, unit)
        if plot is not None:
            found.append({"plot": plot, "svg": _markup(svg(plot, f"{id}-{name}"))})
    return found


def _figures(figures: dict[str, Any]) -> dict[str, Any]:
    """The eval block as a table: directions by metric, or accuracy by type of question."""
    blocks = {name: block for name, block in figures.items() if isinstance(block, dict) and "R1" in block}
    if blocks:
        known = list(dict.fromkeys(name for block in blocks.values() for name in block))
        names = sorted(known, key=lambda name: _METRICS.index(name) if name in _METRICS else len(_METRICS))
        rows = [(name, [_plain_number(block.get(metric)) for metric in names]) for name, block in blocks.items()]
        return {"columns": [_metric_title(name) for name in names], "rows": rows}
    types = {"all": figures.get("accuracy"), **figures.get("per_group", {}), **figures.get("per_type", {})}
    counts = {"all": figures.get("n"), **figures.get("n_per_group", {}), **figures.get("n_per_type", {})}
    if "chance" in figures:
        types |= {"mean of types": figures.get("mean_of_types"), "chance": figures["chance"]}
    rows = [(name, [_plain_number(value), _plain_number(counts.get(name))]) for name, value in types.items()]
    return {"columns": ["accuracy", "n"], "rows": rows}


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
        ("epochs", _plain(train.get("epochs"))),
        ("steps", _plain(train.get("steps"))),
        ("global batch", _plain(train.get("global_batch"))),
        ("processes", _plain(train.get("world_size"))),
        ("precision", _plain(train.get("precision"))),
        ("optimizer", _plain(train.get("optimizer"))),
        ("wall time", _time(train.get("wall_s"))),
        ("GPU-hours", _measure(train.get("gpu_hours"))),
        ("peak memory", " + ".join(_bytes(peak) for peak in train.get("peak_allocated_bytes") or ())),
        ("clips/s, training", _measure(train.get("clips_per_s"))),
        ("clips/s, inference", _measure(cost.get("clips_per_s"))),
        ("resumed", _plain(train.get("resumed"))),
    ]
    return [(name, text) for name, text in found if text not in ("", MISSING)]


def _environment(record: dict[str, Any]) -> list[tuple[str, str]]:
    env, model = record["env"], record["model"]
    commit = env.get("commit")
    gpu = env.get("gpu")
    found = [
        ("commit", f"{commit}{' with uncommitted changes' if env.get('dirty') else ''}" if commit else ""),
        ("GPU", f"{_plain(env.get('gpu_count'))} × {gpu}" if gpu else "none"),
        ("CPU", _plain(env.get("cpu"))),
        ("platform", _plain(env.get("platform"))),
        ("Python", _plain(env.get("python"))),
        ("CUDA", _plain(env.get("cuda"))),
        ("driver", _plain(env.get("driver"))),
        ("decoder", _plain(env.get("decoder"))),
        ("deterministic", _plain(env.get("deterministic"))),
        ("packages", _plain(env.get("versions"))),
        ("pretraining", _plain(model.get("pretraining_data"))),
        ("weights, SHA-256", _plain(model.get("weights_sha256"))[:16]),
        ("configuration, SHA-256", _plain(record["id"]["config_hash"])[:16]),
    ]
    return [(name, text) for name, text in found if text not in ("", MISSING)]


def _settings(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, _plain(value)) for name, value in (record["model"].get("method_config") or {}).items()]


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
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{minutes // 60} h {minutes % 60:02d} min"
        if minutes >= 60
        else f"{minutes} min"
    )


# --- templates


def _render(template: str, **context: Any) -> str:
    return _environment_of_templates().get_template(template).render(missing=MISSING, **_assets(), **context)


@functools.cache
def _environment_of_templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # Applied to every expression: control characters and direction marks of a name end here.
        finalize=lambda value: value if hasattr(value, "__html__") else one_line(value),
    )


@functools.cache
def _assets() -> dict[str, Any]:
    """Style and script with the hashes by which the pages' policy knows them."""
    css, js = ((TEMPLATES / name).read_text(encoding="utf-8").strip() for name in ("page.css", "page.js"))
    return {
        "css": _markup(css),
        "js": _markup(js),
        "css_hash": _source_hash(css),
        "js_hash": _source_hash(js),
    }


def _source_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)
