"""`petl-bench data info`: what a dataset needs: files and their sources, counts, licence, what is often wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from petl_bench.cli.arguments import Parser
from petl_bench.cli.dataset_descriptions import described
from petl_bench.cli.named_configs import config_folder
from petl_bench.errors import UsageError
from petl_bench.registry import Entry, all_entries
from petl_bench.storage.untrusted import shown

SUMMARY = (__doc__ or "").splitlines()[0]


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Prints what the YAML beside a data module says of it.

    Raises:
        UsageError: there is no such dataset, or its description cannot be read.
    """
    parser = Parser(prog="petl-bench data info", description=SUMMARY, allow_abbrev=False)
    parser.add_argument("name", help="of a data module (`petl-bench list datamodules`), in any case")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    entry = _entry(options.name, plugins)
    found = described(entry)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*_lines(found), *_others(entry, plugins), *_next(entry)]))
    return 0


def _entry(name: str, plugins: Sequence[str]) -> Entry:
    """The data module of a name, whatever its case and the signs between its letters."""
    entries = all_entries("datamodules", plugins)
    wanted = _plain(name)
    found = [e for e in entries if wanted in (_plain(e.name), _plain(e.module.rsplit(".", 1)[-1]))]
    exact = [entry for entry in found if _plain(entry.name) == wanted]
    if not found:
        names = ", ".join(entry.name for entry in entries)
        raise UsageError(f"no dataset is called {shown(name)}; there are {names}")
    return (exact or found)[0]


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _lines(found: dict[str, Any]) -> list[str]:
    """A description as text."""
    lines = [found["name"], found["summary"]]
    if found.keys() == {"name", "summary"}:
        return [*lines, "", "Nothing more is known of it here: see `petl-bench fit --data.help` and its author."]
    lines += ["", f"Licence: {found['licence']}"] if "licence" in found else []
    if files := found.get("files"):
        lines += ["", "Files, below data.root (addresses: docs/datasets.md of the source):"]
    for file in files or ():
        size = f", {file['size']}" if "size" in file else ""
        lines += [f"  {file['name']}", f"    from {file['from']}{size}: {file['holds']}"]
    lines += ["", f"Clips: {found['clips']}"] if "clips" in found else []
    if counts := found.get("counts"):
        lines += ["", "Counts that are asserted, unless data.partial is true, which marks the run:"]
    for protocol, blocks in (counts or {}).items():
        # Where a file holds several clips, a video is a clip here as everywhere, and not a file.
        names = {"videos": "clips", "files": "video files"} if "files" in blocks else {}
        parts = [f"{names.get(kind, kind)}: {_splits(splits)}" for kind, splits in blocks.items() if splits]
        lines.append(f"  {protocol}: {'; '.join(parts)}")
    if wrong := found.get("often_wrong"):
        lines += ["", "What people hold, and what happens then:"]
    for one in wrong or ():
        lines += [f"  - {one['held']}", f"    {one['then']}"]
    return lines


def _others(entry: Entry, plugins: Sequence[str]) -> list[str]:
    """What else its module reads."""
    beside = [e.name for e in all_entries("datamodules", plugins) if e.module == entry.module and e.name != entry.name]
    return ["", f"Beside it: petl-bench data info {' | '.join(beside)}"] if beside else []


def _next(entry: Entry) -> list[str]:
    """How to look at one's own files, where a packaged file names the data module."""
    named = f"class_path: {entry.module}.{entry.name}"
    paths = sorted(
        (config_folder() / "data").glob("*.yaml"), key=lambda path: (path.stem.startswith("fixture"), path.name)
    )
    path = next((path for path in paths if named in path.read_text(encoding="utf-8").splitlines()), None)
    if path is None:
        return []
    return ["", f"To count what you hold: petl-bench data describe --config data/{path.name} --data.root FOLDER"]


def _splits(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())
