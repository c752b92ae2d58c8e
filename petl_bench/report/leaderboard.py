"""The leaderboard of the runs below some folders: collected, written in every format, printed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from petl_bench.errors import DataError
from petl_bench.report.cells import one_line
from petl_bench.report.collect import HOW_TO_GET_RUNS, Collection, collect
from petl_bench.report.comparison import with_statistics
from petl_bench.report.details import Beside
from petl_bench.report.document import render_document
from petl_bench.report.duplicates import settled
from petl_bench.report.kept import FOLDER
from petl_bench.report.latex import render_second, render_table
from petl_bench.report.markdown import render_markdown
from petl_bench.report.memo import fingerprint, remember, unchanged
from petl_bench.report.model import Report
from petl_bench.report.mteb import MtebResult, collect_mteb
from petl_bench.report.output import require_own, writing_to
from petl_bench.report.owned import OwnedFolder, write_if_new
from petl_bench.report.page import write_pages
from petl_bench.report.plots import HOW_TO_GET as HOW_TO_GET_PLOTS
from petl_bench.report.plots import write_plots
from petl_bench.report.reproduction import with_published
from petl_bench.report.sheets import render_tidy, render_wide
from petl_bench.report.site import publish as write_site
from petl_bench.report.summary import summarise_tables
from petl_bench.report.tables import build_tables
from petl_bench.report.terminal import print_mteb, print_rejected, print_tables
from petl_bench.report.thumbnails import Clips
from petl_bench.report.verification import verified

#: folder of LaTeX files, one per table
_TABLES = "tables"


def leaderboard(
    folders: Sequence[Path],
    output: Path,
    strict: bool = False,
    publish: Path | None = None,
    thumbnails: Path | None = None,
) -> Collection:
    """Writes the report in every format, and prints the tables.

    Args:
        folders: with run records, at any depth.
        output: folder to write: missing, empty, or a report's.
        strict: reject runs of a dirty checkout.
        publish: folder to write a web site to.
        thumbnails: folder of clips that the pages show pictures of; None: they show none.

    Returns:
        The runs in the tables, and what was left out and why.

    Raises:
        DataError: no folder, or no valid run in it.
        UsageError: a folder to write holds files of others, or another process writes there.
        FileError: the report cannot be written.
    """
    require_own(output, folders)
    cache = output / FOLDER
    found = settled(verified(collect(folders, strict, cache), cache), cache)
    mteb = collect_mteb(folders)
    found = found._replace(rejected=sorted([*found.rejected, *mteb.rejected]))
    if not found.runs:
        print_rejected(found.rejected)
        names = ", ".join(str(folder) for folder in folders)
        rejected = f" ({len(found.rejected)} rejected)" if found.rejected else ""
        raise DataError(f"no valid run below {names}{rejected}. {HOW_TO_GET_RUNS}")

    with writing_to(output):
        report = build_report(found, cache, mteb.results)
        made_from = fingerprint(found.runs, found.rejected, thumbnails, cache, mteb.results)
        # Of pictures nothing says whether their clips are those of before.
        if thumbnails or not unchanged(output, made_from):
            remember(output, made_from, _write_all(report, output, Clips(thumbnails)))
    print_tables(report.tables)
    print_mteb(report.mteb)
    print_rejected(found.rejected)
    if find_spec("matplotlib") is None:
        print(HOW_TO_GET_PLOTS)
    print(f"page: {one_line(str(output / 'index.html'))}")
    if publish is not None:
        write_site(report, publish, folders, rendered, thumbnails)
        print(f"site: {one_line(str(publish))}")
    return found


def build_report(found: Collection, cache: Path | None = None, mteb: tuple[MtebResult, ...] = ()) -> Report:
    """What is shown of some runs and results of MTEB, by every format; `cache` is the folder of the report's cache."""
    tables = with_statistics(build_tables(found.runs), cache)
    tables, figures = with_published(tables)
    return Report(tables, summarise_tables(tables), found.rejected, figures, mteb)


def rendered(report: Report) -> dict[str, str]:
    """Every text file of a report, by its path in the folder."""
    return {
        "leaderboard.md": render_markdown(report),
        "leaderboard.csv": render_tidy(report.tables),
        "wide.csv": render_wide(report.tables),
        "report.json": render_document(report),
        **{f"{_TABLES}/{table.id}.tex": render_table(table) for table in report.tables},
        **{f"{_TABLES}/{t.id}-second.tex": text for t in report.tables if (text := render_second(t)) is not None},
    }


def _write_all(report: Report, output: Path, clips: Clips) -> list[Path]:
    """Writes every format, pages and plots; the files."""
    texts, tables = rendered(report), OwnedFolder(output / _TABLES)
    for name, text in texts.items():
        folder, _, file = name.rpartition("/")
        if folder:
            tables.put(file, None, text.encode)
        else:
            write_if_new(output / name, text)
    beside = Beside()
    pages, plots = write_pages(report, output, beside, clips), write_plots(report, output / "plots", beside) or []
    return [*(output / name for name in texts if "/" not in name), *tables.close(), *pages, *plots]
