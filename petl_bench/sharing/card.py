"""The card of a shared run: metadata for the Hub, and a page for people. Texts of a record are foreign, and escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petl_bench import __version__
from petl_bench.cli.dataset_descriptions import described
from petl_bench.errors import UsageError
from petl_bench.hub.names import hub_name
from petl_bench.metrics.table import kind_of
from petl_bench.registry import Entry
from petl_bench.report.cells import MISSING, mean_and_deviation, number, one_line, signed, state
from petl_bench.report.markdown import Marked, escape_markdown, grid
from petl_bench.report.model import Column, Row, Table
from petl_bench.report.run_facts import facts_of
from petl_bench.sharing.evaluation import card_results, task_of
from petl_bench.sharing.files import Shared
from petl_bench.storage.descriptions import ModelDescription

CARD_NAME = "README.md"
_TEMPLATES = Path(__file__).with_name("templates")


def card_of(shared: Shared, table: Table, row: Row, repository: str, licence: str | None) -> str:
    """The card, as `README.md` holds it.

    Args:
        shared: what it stands beside.
        table: of a report, with the run alone.
        row: the run.
        repository: `owner/name`, where it will be.
        licence: of the adapter, as the Hub calls it; None: nothing is said of it.
    """
    from huggingface_hub import ModelCard

    page = f"---\n{_metadata(shared.description, table, row, repository, licence)}\n---\n\n"
    page += _page(shared, table, row, repository, licence)
    return str(ModelCard(page))


def _metadata(description: ModelDescription, table: Table, row: Row, repository: str, licence: str | None) -> str:
    from huggingface_hub import ModelCardData

    results = card_results(table, row)
    base = hub_name(description.weights.tag or "")
    data = ModelCardData(
        library_name="petl_bench",
        license=licence,
        base_model=None if base is None else base.repository,
        tags=["petl-bench", "parameter-efficient-transfer-learning", task_of(row), one_line(row.method)],
        model_name=repository.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _page(shared: Shared, table: Table, row: Row, repository: str, licence: str | None) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=False,  # this is no HTML: `finalize` makes every text inert in Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Marked) else escape_markdown(str(value)),
    )
    record, facts = row.runs[0].record, facts_of(row.runs[0].record)
    return environment.get_template("card.md.jinja").render(
        record=record,
        table=table,
        repository=Marked(repository),
        licence=licence,
        version=__version__,
        state=state(row),
        doubt=row.doubt,
        figures=Marked(grid(*_figures(table, row))),
        facts=Marked(grid(["What", "Value"], [list(pair) for pair in facts["costs"]])),
        settings=facts["settings"],
        environment=facts["environment"],
        description=shared.description,
        data_licence=_licence_of_data(shared.description.trained_on.data_module),
        asks=kind_of(record["eval"]) != "ranks",
        digests=shared.run.record["integrity"],
        changed=shared.changed,
    )


def _figures(table: Table, row: Row) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            column.title,
            mean_and_deviation(row.values.get(column.title), column),
            _interval(row, column),
            *_published(row, column),
        ]
        for column in table.quality
    ]
    return ["Figure", "Value", "95 % interval", "Published", "Source"], rows


def _interval(row: Row, column: Column) -> str:
    value = row.values.get(column.title)
    if value is None or value.interval is None:
        return MISSING
    return " to ".join(number(end, column) for end in value.interval)


def _published(row: Row, column: Column) -> tuple[str, str]:
    """A published figure and ours minus it, and where it stands."""
    found = row.published.get(column.title)
    if found is None:
        return MISSING, MISSING
    beside = "" if found.difference is None else f" ({signed(found.difference, column)})"
    return f"{number(found.value, column)}{beside}", f"{found.source}, {found.where}"


def _licence_of_data(class_path: str) -> str:
    """What is known of the licence of a dataset."""
    module, _, name = class_path.rpartition(".")
    try:
        found: dict[str, Any] = described(Entry(name, module, ""))
    except (UsageError, ImportError, ValueError):  # of a plug-in that is not here
        return ""
    return str(found.get("licence", ""))
