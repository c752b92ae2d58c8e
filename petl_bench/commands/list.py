"""`petl-bench list`: what configurations can name, read from source without importing it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from petl_bench.cli.arguments import Parser
from petl_bench.cli.messages import nothing_found
from petl_bench.cli.named_configs import config_folder, list_configs, plugin_configs, summary_of
from petl_bench.machine.limits import prepare
from petl_bench.registry import KINDS, Entry, all_entries, load_plugins


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Prints methods, backbones, tasks, data modules, readers, configurations, or the matrix of what runs on what.

    Raises:
        UsageError: a plug-in that cannot be imported.
    """
    parser = Parser(prog="petl-bench list", description="Shows what configurations can name, plug-ins included.")
    parser.add_argument("what", choices=[*KINDS, "readers", "configs", "matrix"])
    parser.add_argument(
        "text", nargs="?", default="", help="only what this occurs in, summaries included, in capital letters or small"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.what == "matrix":
        prepare()
        from petl_bench.commands import matrix

        return matrix.run(options.json, plugins, options.text)
    found = _listed(options.what, plugins)
    chosen = [item for item in found if any(options.text.lower() in str(word).lower() for word in item.values())]
    if found and not chosen:
        print(nothing_found(options.text, [item["name"] for item in found]), file=sys.stderr)
    if options.json:
        print(json.dumps(chosen, indent=2))
    elif options.what == "configs":
        _print_configs(chosen)
    else:
        _print_columns(chosen)
    return 0


def _listed(what: str, plugins: Sequence[str]) -> list[dict[str, Any]]:
    """What is listed, as JSON has it."""
    if what == "readers":
        load_plugins(plugins)
        return [entry._asdict() for entry in _readers()]
    if what == "configs":
        load_plugins(plugins)  # which may have some beside them
        paths = {name: config_folder() / name for name in list_configs()}
        return [_configuration(name, path) for name, path in (plugin_configs() | paths).items() if os.sep not in name]
    return [entry._asdict() for entry in all_entries(what, plugins)]


def _readers() -> list[Entry]:
    prepare()
    from petl_bench.data.video import READERS

    return [
        Entry(name, kind.__module__, " ".join((kind.__doc__ or "").split("\n\n")[0].split()))
        for name, kind in READERS.items()
    ]


def _configuration(name: str, path: Path) -> dict[str, Any]:
    """A configuration by what it says of itself: names of one dataset may be spelt in two ways."""
    summary = summary_of(path)
    dataset = summary.split(",")[0].split(". ")[0]
    return {"name": name, "dataset": dataset, "summary": summary.removeprefix(dataset).lstrip(", ")}


def _print_columns(items: Sequence[dict[str, Any]]) -> None:
    name, module = (max((len(item[key]) for item in items), default=0) for key in ("name", "module"))
    for item in items:
        print(f"{item['name']:<{name}} {item['module']:<{module}} {item['summary']}".rstrip())


def _print_configs(items: Sequence[dict[str, Any]]) -> None:
    """Configurations that `--config` can name, by dataset."""
    width = max((len(item["name"]) for item in items), default=0)
    for dataset, group in groupby(sorted(items, key=lambda item: item["dataset"]), lambda item: item["dataset"]):
        print(f"{dataset}:")
        for item in group:
            print(f"  {item['name']:<{width}}  {item['summary']}".rstrip())
