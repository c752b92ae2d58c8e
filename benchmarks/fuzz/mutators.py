"""Damages files the way people and programs do: values of another type, missing columns, cut lines, other encodings.

Bytes changed at random rarely get past a parser; these edits keep a file what it is and change what it says.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import pickle
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import yaml

from petl_bench.data.plain_pickle import plain_value
from petl_bench.untrusted import UnreadableError

#: values that JSON can hold where another one is expected
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 1.5, 3.0, -0.0, 1e300, float("inf"), float("-inf"), float("nan")),
    *(2**31, 2**53, 2**63, -(2**64), 10**30, 10**400),
    *("", " ", "\t", "a", "7", "007", "1e3", "12_34", "1.9", "-1", "Infinity", "nan", "null", "true", "é", "e\u0301"),
    *("\ud800", "\ud83d\ude00", "\x00", "\x1b[31m", "\u2028", "\u202e", "a\nb", "a\r\nb", 'a"b', "a,b", "a;b", "a\tb"),
    *("../a", "/etc/passwd", "a/b", ".", "..", "a.mp4", "a.MP4", ".mp4", "a" * 300, "word " * 40),
    *([], {}, [[]], [None], [1], ["a"], ["a", 1], {"a": 1}, [{}], [1, 2, 3], [5, 4]),
)
#: texts that a cell of a table can hold
CELLS = (
    *(value for value in VALUES if isinstance(value, str) and value.isprintable()),
    '"',
    '""',
    '"a" b',
    '"a',
    "a\nb",
)
DELIMITERS = (",", ";", "\t", "|")


def mutated(content: bytes, kind: str, rng: Random) -> bytes:
    """A damaged copy of a file.

    Args:
        content: of the file.
        kind: a key of `KINDS`.
        rng: decides what happens to it.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        content = rng.choice((KINDS[kind],) * 6 + (_as_text, _as_bytes))(content, rng)
    return content


# --- any file ---------------------------------------------------------------------------------------------------------


def _as_bytes(content: bytes, rng: Random) -> bytes:
    """Flips, cuts, repeats or inserts bytes."""
    place = rng.randrange(len(content) + 1)
    end = min(len(content), place + rng.choice((1, 2, 4, 8, 64)))
    made = rng.choice((b"\0", b"\xff", b"\n", b"\r", b"{", b"[", b'"', rng.randbytes(1), rng.randbytes(4)))
    return rng.choice(
        (
            content[:place] + made + content[end:],
            content[:place] + made + content[place:],
            content[:place],
            content[place:],
            content[:place] + content[end:],
            content[:end] + content[place:],
        )
    )


def _as_text(content: bytes, rng: Random) -> bytes:
    """Another encoding, other ends of lines, blank lines, nothing."""
    text = content.decode("utf-8", "replace")
    lines = text.split("\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(("", " ", ",", "\t\t", ";;", "#", "\r", "[" * 3000)))
    return rng.choice(
        (
            lambda: b"\xef\xbb\xbf" + content,
            lambda: text.encode("utf-16"),
            lambda: text.encode("utf-16-le", "replace"),
            lambda: text.encode("latin-1", "replace"),
            lambda: text.replace("\n", "\r\n").encode(),
            lambda: text.replace("\n", "\r\r\n").encode(),
            lambda: text.replace("\n", "\r").encode(),
            lambda: "\n".join(lines).encode(),
            lambda: (text + "\n\n").encode(),
            lambda: content + content,
            lambda: b"",
        )
    )()


# --- JSON -------------------------------------------------------------------------------------------------------------

#: where a value stands: the container and the key or index in it
Place = tuple[Any, Any]


def _places(value: Any) -> list[Place]:
    found: list[Place] = []
    stack = [value]
    while stack and len(found) < 10_000:
        item = stack.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item))) if isinstance(item, list) else []
        found += [(item, key) for key in keys]
        stack += [item[key] for key in keys]
    return found


def edited(value: Any, rng: Random) -> Any:
    """A copy of a value of JSON with one thing in it changed."""
    root = [copy.deepcopy(value)]
    places = _places(root)
    holder, key = rng.choice(places)
    old, (other_holder, other_key) = holder[key], rng.choice(places)
    made = copy.deepcopy(rng.choice(VALUES))

    def remove() -> None:
        del holder[key]

    def rename() -> None:
        if isinstance(holder, dict):
            holder[rng.choice((str(made), f" {key}", f"{key}".upper(), f"{other_key}"))] = holder.pop(key)

    def repeat() -> None:
        if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(old))
        else:
            holder[f"{key}2"] = copy.deepcopy(old)

    def change(new: Any) -> Callable[[], None]:
        return lambda: holder.__setitem__(key, new)

    as_text = str(old) if isinstance(old, (int, float, str)) else json.dumps(old, default=str)[:100]
    nested: Any = made
    for _ in range(rng.choice((1, 2, 50))):
        nested = [nested]
    edits = [change(made)] * 8 + [remove, rename, repeat, remove, repeat]
    edits += [change([old]), change({str(key): old}), change(as_text), change(nested)]
    edits += [change(copy.deepcopy(other_holder[other_key]))] * 2
    if isinstance(old, str):
        edits += [
            change(old[: len(old) // 2]),
            change(f" {old} "),
            change(old + made if isinstance(made, str) else old),
        ]
        edits += [change(int(old))] if re.fullmatch(r"[0-9]{1,9}", old) else []
    if isinstance(old, (int, float)) and old == old and abs(old) < 2**53:
        edits += [change(old + 1), change(-old), change(old + 0.5), change(float(old))]
    rng.choice(edits)()
    return root[0] if root else None


def _as_json(content: bytes, rng: Random) -> bytes:
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return _as_bytes(content, rng)
    text = json.dumps(edited(value, rng), ensure_ascii=rng.random() < 0.8, separators=rng.choice(((",", ":"), None)))
    if rng.random() < 0.05 and (keys := re.findall(r'"(\w+)":', text)):  # a key twice
        text = text.replace("{", '{"' + rng.choice(keys) + '":"x",', 1)
    return text.encode("utf-8", "backslashreplace")


def _as_jsonl(content: bytes, rng: Random) -> bytes:
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    if rng.random() < 0.2:
        return b"\n".join([*lines[:place], *rng.choice(([], [b""], [lines[place]] * 2)), *lines[place + 1 :]])
    lines[place] = _as_json(lines[place], rng)
    return b"\n".join(lines)


# --- tables and lists -------------------------------------------------------------------------------------------------


def _as_table(content: bytes, rng: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    delimiter = max(DELIMITERS, key=text.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) or [[]]
    except csv.Error:
        return _as_bytes(content, rng)
    row = rng.choice(rows)
    place = rng.randrange(len(row)) if row else None
    column = rng.randrange(max(map(len, rows)) or 1)
    cell = rng.choice(CELLS)
    if (what := rng.randrange(12)) < 5 and place is not None:
        row[place] = rng.choice((cell, cell, f" {row[place]} ", rng.choice(rng.choice(rows) or [cell])))
    elif what == 5:
        rows = [[value for index, value in enumerate(values) if index != column] for values in rows]
    elif what == 6:
        rows.insert(rng.randrange(len(rows) + 1), rng.choice(([], [""], [cell], list(row), [""] * len(row))))
    elif what == 7:
        rows.remove(row)
    elif what == 8:
        row.append(rng.choice((cell, "")))
    elif what == 9 and place is not None:
        del row[place]
    elif what == 10:
        rows[0] = [rng.choice((str.upper, str.title, lambda name: f" {name}"))(name) for name in rows[0]]
    else:
        delimiter = rng.choice(DELIMITERS)
    if rng.random() < 0.3:  # as people write it, without a thought of quotes
        return "\n".join(delimiter.join(values) for values in rows).encode("utf-8", "replace")
    out = io.StringIO()
    style = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    csv.writer(out, delimiter=delimiter, quoting=style, lineterminator="\n").writerows(rows)
    return out.getvalue().encode("utf-8", "replace")


def _as_lines(content: bytes, rng: Random) -> bytes:
    lines = content.decode("utf-8", "replace").split("\n")
    place = rng.randrange(len(lines))
    line, made = lines[place], rng.choice(CELLS)
    new = (
        [],
        [line, line],
        [made],
        [f" {line}\t"],
        [line, ""],
        [f"{line} {made}"],
        [line[: len(line) // 2]],
        [line.upper()],
    )
    return "\n".join([*lines[:place], *rng.choice(new), *lines[place + 1 :]]).encode("utf-8", "replace")


# --- other formats ----------------------------------------------------------------------------------------------------


def _as_pickle(content: bytes, rng: Random) -> bytes:
    try:
        value = json.loads(json.dumps(plain_value(content), default=str))  # of plain types again
    except (UnreadableError, TypeError, ValueError, RecursionError):
        return _as_bytes(content, rng)
    new = edited(value, rng)
    if rng.random() < 0.2:
        new = rng.choice(
            ([new] * 3, {"a": new, "b": new}, (new, new), {1: new}, {(1,): 2}, {"a": (new,)}, {"a"}, print)
        )
    return pickle.dumps(new, protocol=rng.randrange(6))


def _as_safetensors(content: bytes, rng: Random) -> bytes:
    """Edits the header, what it says of itself included, or the length before it."""
    if len(content) < 8:
        return _as_bytes(content, rng)
    (length,) = struct.unpack("<Q", content[:8])
    header, tensors = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.1:
        length = rng.choice((0, 1, length + 1, 2**31, 2**62, 2**64 - 1))
        return struct.pack("<Q", length) + header + tensors
    header = _with_edited_description(header, rng) if rng.random() < 0.5 else _as_json(header, rng)
    return struct.pack("<Q", len(header)) + header + rng.choice((tensors, tensors, tensors, tensors[:-1], tensors * 2))


def _with_edited_description(header: bytes, rng: Random) -> bytes:
    try:
        value = json.loads(header)
        value["__metadata__"]["petl_bench"] = _as_json(value["__metadata__"]["petl_bench"].encode(), rng).decode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return _as_json(header, rng)
    return json.dumps(value).encode()


def _as_yaml(content: bytes, rng: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    if rng.random() < 0.4:
        parts = (
            "&a",
            "*a",
            "!!int",
            "!!python/name:os.system",
            "<<: *a",
            "? ",
            "- ",
            "{",
            "[",
            ": ",
            "2001-99-99",
            "|\n",
        )
        place = rng.randrange(len(text) + 1)
        return (text[:place] + rng.choice(parts) + text[place:]).encode("utf-8", "replace")
    try:
        value = yaml.safe_load(text)
        return yaml.safe_dump(edited(value, rng), allow_unicode=True).encode("utf-8", "backslashreplace")
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, IndexError, KeyError, RecursionError, OverflowError):
        return _as_bytes(content, rng)


#: how a file is damaged, by what it holds
KINDS: dict[str, Callable[[bytes, Random], bytes]] = {
    "json": _as_json,
    "jsonl": _as_jsonl,
    "table": _as_table,
    "lines": _as_lines,
    "pickle": _as_pickle,
    "safetensors": _as_safetensors,
    "yaml": _as_yaml,
}
