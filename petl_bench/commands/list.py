"""`petl-bench list`: what configurations can name, read from source without importing it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby

from petl_bench.cli.arguments import Parser
from petl_bench.cli.named_configs import list_configs, summary_of
from petl_bench.errors import UsageError
from petl_bench.machine.limits import prepare
from petl_bench.registry import list_entries, plugin_entries


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Prints methods, data modules, configurations, or the matrix of what runs on what.

    Raises:
        UsageError: an option that does not belong to what is listed, or a plug-in that cannot be imported.
    """
    parser = Parser(prog="petl-bench list", description="Shows what configurations can name.")
    parser.add_argument("what", choices=["methods", "datamodules", "configs", "matrix"])
    parser.add_argument("--json", action="store_true", help="of the matrix: print JSON")
    options = parser.parse_args(arguments)
    what = options.what
    if options.json and what != "matrix":
        raise UsageError(f"list {what} has no option --json: it is of list matrix")
    if plugins and what == "configs":
        raise UsageError("list configs has no option --plugins: it shows the packaged configurations")
    if what == "matrix":
        prepare()
        from petl_bench.commands import matrix

        return matrix.run(options.json, plugins)
    if what == "configs":
        _print_configs()
    else:
        _print_entries(what, plugins)
    return 0


def _print_entries(what: str, plugins: Sequence[str]) -> None:
    entries = [*list_entries(what), *plugin_entries(what, plugins)]
    name, module = (max(len(entry[place]) for entry in entries) for place in (0, 1))
    for entry in entries:
        print(f"{entry.name:<{name}} {entry.module:<{module}} {entry.summary}".rstrip())


def _print_configs() -> None:
    """Configurations that `--config` can name, by dataset."""
    leaves = [name for name in list_configs() if os.sep not in name]
    width = max(map(len, leaves))
    told = {name: summary_of(name) for name in leaves}
    # By what they say of themselves: names of one dataset may be spelt in two ways.
    for dataset, names in groupby(sorted(leaves, key=lambda name: _dataset(told[name])), lambda n: _dataset(told[n])):
        print(f"{dataset}:")
        for name in names:
            print(f"  {name:<{width}}  {told[name].removeprefix(dataset).lstrip(', ')}")


def _dataset(summary: str) -> str:
    return summary.split(",")[0].split(". ")[0]
