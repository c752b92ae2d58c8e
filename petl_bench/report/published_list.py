"""The published figures at the end of a page, each with whether ours may be held against it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from petl_bench.report.boards import row_id
from petl_bench.report.cells import doubted
from petl_bench.report.labels import COMPARABLE, MISSING, metric_title, plain
from petl_bench.report.model import Table

#: an address that a page may link to
_HTTPS = re.compile(r"https://[A-Za-z0-9.-]+/[A-Za-z0-9./_~%?&=#+:-]*")


def published_list(figures: list[dict[str, Any]], tables: list[Table]) -> list[dict[str, Any]]:
    """By source, each with its figures; those that are ours to reproduce link to the row that does."""
    rows = {(table.id, row.name): row_id(table, row) for table in tables for row in table.rows}
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
        f"{metric_title(name)} {value}{'' if spread is None else f' ± {spread}'}"
        for (name, value), spread in zip(metrics.items(), sd, strict=False)
    ]
    setting_of = [figure.get(name) for name in ("dataset", "protocol", "direction")]
    doubt = [COMPARABLE.get(figure.get("comparable") or "", ""), figure.get("why")]
    return {
        "where": plain(figure.get("where")),
        "method": plain(figure.get("method")),
        "backbone": plain(figure.get("backbone")),
        "setting": " · ".join(str(part) for part in setting_of if part) or MISSING,
        "metrics": ", ".join(values) or MISSING,
        "trainable": plain(figure.get("trainable")),
        "state": doubted(plain(figure.get("state")), figure.get("comparable") == "unknown"),
        "doubt": ": ".join(str(part) for part in doubt if part),
        "link": rows.get((figure.get("table") or "", figure.get("row") or ""), ""),
        "remarks": plain(figure.get("remarks")),
    }
