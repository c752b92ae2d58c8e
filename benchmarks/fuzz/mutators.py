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
import string
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import yaml

from petl_bench.data.plain_pickle import plain_value
from petl_bench.storage.untrusted import UnreadableError

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
    *('"', '""', '"a" b', '"a', "a\nb"),
)
DELIMITERS = (",", ";", "\t", "|")
_YAML = ("&a", "*a", "!!int", "!!python/name:os.system", "<<: *a", "? ", "- ", "{", "[", ": ", "2001-99-99", "|\n")
#: in C where there are such ones; what is tested is in Python
_LOADER, _DUMPER = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
#: how often a constant of the reader's code is taken in the place of a value from above
_CONSTANT = 0.3


class Mutator:
    """Makes damaged copies of files.

    Args:
        rng: decides what happens.
        constants: texts and numbers that the code of the reader compares with.
        words: of JSON, values by key that mean something to the reader.
    """

    def __init__(self, rng: Random, constants: Sequence[Any] = (), words: Mapping[str, Any] | None = None) -> None:
        self.rng, self.words = rng, words
        self.constants = constants
        self.texts = [constant for constant in constants if isinstance(constant, str)]
        #: how a file is damaged, by what it holds
        self.kinds: dict[str, Callable[[bytes], bytes]] = {
            "json": self.json,
            "jsonl": self.jsonl,
            "table": self.table,
            "lines": self.lines,
            "pickle": self.pickle,
            "safetensors": self.safetensors,
            "yaml": self.yaml,
            "archive": self.archive,
            "arrays": self.arrays,
            "bytes": self.bytes,
        }

    def damaged(self, content: bytes, kind: str) -> bytes:
        """A damaged copy of a file that holds what `kind`, a key of `kinds`, says."""
        for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3, 5))):
            if self.words and self.rng.random() < 0.2:
                content = self.with_word(content, self.words)
            else:
                content = self.rng.choice((self.kinds[kind],) * 6 + (self.text, self.bytes))(content)
        return content

    def value(self) -> Any:
        """Something that JSON can hold."""
        if self.constants and self.rng.random() < _CONSTANT:
            return self.rng.choice(self.constants)
        return copy.deepcopy(self.rng.choice(VALUES))

    def cell(self) -> str:
        """Something that a cell of a table can hold."""
        if self.texts and self.rng.random() < _CONSTANT:
            return self.rng.choice(self.texts)
        return self.rng.choice(CELLS)

    def varied(self, text: str) -> str:
        """A text that is nearly the same: another number, more at its start or end, less of it."""
        if re.fullmatch(r"-?[0-9]{1,9}", text) and self.rng.random() < 0.7:
            number = int(text)
            return str(self.rng.choice((number + 1, number - 1, -number, 10 * number, self.rng.randrange(20))))
        other = self.rng.choice((self.cell(), self.rng.choice(string.printable)))
        changed = (other + text, text + other, text[:-1], text[1:], f" {text} ", text.upper(), text.swapcase())
        return self.rng.choice(changed)

    # --- any file -----------------------------------------------------------------------------------------------------

    def bytes(self, content: bytes) -> bytes:
        """Flips, cuts, repeats or inserts bytes."""
        place = self.rng.randrange(len(content) + 1)
        end = min(len(content), place + self.rng.choice((1, 2, 4, 8, 64)))
        made = self.rng.choice((b"\0", b"\xff", b"\n", b"\r", b"{", b"[", b'"', self.rng.randbytes(1)))
        before, cut, after = content[:place], content[place:end], content[end:]
        changed = (before + made + after, before + made + cut + after, before, cut + after, before + after)
        return self.rng.choice((*changed, before + cut + cut + after))

    def text(self, content: bytes) -> bytes:
        """Another encoding, other ends of lines, blank lines, nothing."""
        text = content.decode("utf-8", "replace")
        lines = text.split("\n")
        blank = self.rng.choice(("", " ", ",", "\t\t", ";;", "#", "\r", "[" * 3000))
        lines.insert(self.rng.randrange(len(lines) + 1), blank)
        return self.rng.choice(
            (
                b"\xef\xbb\xbf" + content,
                text.encode("utf-16"),
                text.encode("utf-16-le"),
                text.encode("latin-1", "replace"),
                text.replace("\n", "\r\n").encode(),
                text.replace("\n", "\r\r\n").encode(),
                text.replace("\n", "\r").encode(),
                "\n".join(lines).encode(),
                (text + "\n\n").encode(),
                content + content,
                b"",
            )
        )

    def with_word(self, content: bytes, words: Mapping[str, Any]) -> bytes:
        """Gives a key of JSON or YAML the value that means something to the reader."""
        key = self.rng.choice(list(words))
        value = json.dumps(words[key]).encode()
        place = rf'((?<!\w)"?{key}"?: *)("[^"]*"|[\w./+-]+)'.encode()
        return re.sub(place, lambda found: found[1] + value, content, count=1)

    # --- JSON ---------------------------------------------------------------------------------------------------------

    def json(self, content: bytes) -> bytes:
        """Edits a value, or gives a key twice."""
        try:
            value = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return self.bytes(content)
        separators = self.rng.choice(((",", ":"), None))
        text = json.dumps(self.edited(value), ensure_ascii=self.rng.random() < 0.8, separators=separators)
        if self.rng.random() < 0.05 and (keys := re.findall(r'"(\w+)":', text)):
            text = text.replace("{", '{"' + self.rng.choice(keys) + '":"x",', 1)
        return text.encode("utf-8", "backslashreplace")

    def jsonl(self, content: bytes) -> bytes:
        """Edits a line, leaves it out, repeats it, or makes it blank."""
        lines = content.split(b"\n")
        place = self.rng.randrange(len(lines))
        line = lines[place]
        new = self.rng.choice(([], [b""], [line] * 2)) if self.rng.random() < 0.2 else [self.json(line)]
        return b"\n".join([*lines[:place], *new, *lines[place + 1 :]])

    def edited(self, value: Any) -> Any:
        """A copy of a value of JSON with one thing in it changed."""
        root = [copy.deepcopy(value)]
        places = _places(root)
        holder, key = self.rng.choice(places)
        old, (other_holder, other_key) = holder[key], self.rng.choice(places)
        what = self.rng.randrange(20)
        if what < 2:
            del holder[key]
        elif what < 3 and isinstance(holder, dict):
            holder[self.rng.choice((str(self.value()), f" {key}", str(key).upper(), str(other_key)))] = holder.pop(key)
        elif what < 5:
            copied = copy.deepcopy(old)
            holder.insert(key, copied) if isinstance(holder, list) else holder.update({f"{key}2": copied})
        elif what < 8:
            holder[key] = copy.deepcopy(other_holder[other_key])
        elif what < 9:
            holder[key] = self.rng.choice(([old], {str(key): old}, json.dumps(old, default=str)[:100]))
        elif what < 10:
            for _ in range(self.rng.choice((1, 2, 50))):
                holder[key] = [holder[key]]
        elif what < 13 and isinstance(old, str):
            holder[key] = self.varied(old)
        elif what < 13 and isinstance(old, (int, float)) and -(2**53) < old < 2**53:
            holder[key] = self.rng.choice((old + 1, -old, old + 0.5, float(old), str(old), self.rng.randrange(20)))
        else:
            holder[key] = self.value()
        return root[0] if root else None

    # --- tables and lists ---------------------------------------------------------------------------------------------

    def table(self, content: bytes) -> bytes:
        """Edits cells, rows, columns, the header, or what stands between."""
        text = content.decode("utf-8", "replace")
        delimiter = max(DELIMITERS, key=text.count)
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) or [[]]
        except csv.Error:
            return self.bytes(content)
        row = self.rng.choice(rows)
        place = self.rng.randrange(len(row)) if row else None
        cell = self.cell()
        if (what := self.rng.randrange(14)) < 7 and place is not None:
            row[place] = self.rng.choice(
                (cell, self.varied(row[place]), self.rng.choice(self.rng.choice(rows) or [cell]))
            )
        elif what == 7:
            column = self.rng.randrange(max(map(len, rows)) or 1)
            rows = [[value for index, value in enumerate(values) if index != column] for values in rows]
        elif what == 8:
            made = self.rng.choice(([], [""], [cell], list(row), [""] * len(row)))
            rows.insert(self.rng.randrange(len(rows) + 1), made)
        elif what == 9:
            rows.remove(row)
        elif what == 10:
            row.append(self.rng.choice((cell, "")))
        elif what == 11 and place is not None:
            del row[place]
        elif what == 12:
            rows[0] = [self.rng.choice((name.upper(), name.title(), f" {name}")) for name in rows[0]]
        else:
            delimiter = self.rng.choice(DELIMITERS)
        if self.rng.random() < 0.3:  # as people write it, without a thought of quotes
            return "\n".join(delimiter.join(values) for values in rows).encode("utf-8", "replace")
        out = io.StringIO()
        style = self.rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        csv.writer(out, delimiter=delimiter, quoting=style, lineterminator="\n").writerows(rows)
        return out.getvalue().encode("utf-8", "replace")

    def lines(self, content: bytes) -> bytes:
        """Edits a line, leaves it out, repeats it."""
        lines = content.decode("utf-8", "replace").split("\n")
        place = self.rng.randrange(len(lines))
        line, made = lines[place], self.cell()
        new = self.rng.choice(([], [line, line], [made], [self.varied(line)], [line, ""], [f"{line} {made}"]))
        return "\n".join([*lines[:place], *new, *lines[place + 1 :]]).encode("utf-8", "replace")

    # --- other formats ------------------------------------------------------------------------------------------------

    def pickle(self, content: bytes) -> bytes:
        """Edits the value of a pickle of plain values, or gives it parts that stand in several places."""
        try:
            value = json.loads(json.dumps(plain_value(content), default=str))  # of plain types again
        except (UnreadableError, TypeError, ValueError, RecursionError):
            return self.bytes(content)
        new = self.edited(value)
        if self.rng.random() < 0.2:
            shared = ([new] * 3, {"a": new, "b": new}, (new, new), {1: new}, {(1,): 2}, {"a": (new,)}, {1}, print)
            new = self.rng.choice(shared)
        return pickle.dumps(new, protocol=self.rng.randrange(6))

    def safetensors(self, content: bytes) -> bytes:
        """Edits the header, what it says of itself included, or the length before it."""
        if len(content) < 8:
            return self.bytes(content)
        (length,) = struct.unpack("<Q", content[:8])
        header, tensors = content[8 : 8 + length], content[8 + length :]
        if self.rng.random() < 0.1:
            length = self.rng.choice((0, 1, (length + 1) % 2**64, 2**31, 2**62, 2**64 - 1))
            return struct.pack("<Q", length) + header + tensors
        header = self._with_edited_description(header) if self.rng.random() < 0.5 else self.json(header)
        tensors = self.rng.choice((tensors, tensors, tensors, tensors[:-1], tensors * 2))
        return struct.pack("<Q", len(header)) + header + tensors

    def _with_edited_description(self, header: bytes) -> bytes:
        try:
            value = json.loads(header)
            described = value["__metadata__"]["petl_bench"].encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return self.json(header)
        value["__metadata__"]["petl_bench"] = self.json(described).decode("utf-8", "replace")
        return json.dumps(value).encode()

    def archive(self, content: bytes) -> bytes:
        """Edits, leaves out or renames a member of a ZIP archive."""
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            name = self.rng.choice(list(members))
        except Exception:  # zipfile lets through what damaged archives make Python raise
            return self.bytes(content)
        member = members.pop(name)
        if (what := self.rng.randrange(10)) < 7:
            members[name] = self.bytes(member)
        elif what < 9:
            members[self.rng.choice((*members, "archive/code/a.py", "a.npy", self.cell()))] = member
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, member in members.items():
                archive.writestr(zipfile.ZipInfo(name), member)
        return out.getvalue()

    def arrays(self, content: bytes) -> bytes:
        """Edits a value or the shape of an array, makes another type of it, or leaves it out."""
        if self.rng.random() < 0.2:
            return self.archive(content)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: np.array(file[name]) for name in file.files}
            name = self.rng.choice(list(arrays))
            arrays[name] = self._array(arrays[name])
            if self.rng.random() < 0.1:
                arrays[self.rng.choice((*arrays, "v2t_captions", "correct", "words", "a"))] = arrays.pop(name)
            out = io.BytesIO()
            np.savez(out, allow_pickle=True, **arrays)
        except Exception:  # numpy lets through what damaged archives make Python raise
            return self.bytes(content)
        return out.getvalue()

    def _array(self, array: np.ndarray) -> np.ndarray:
        kinds = (np.int8, np.uint64, np.float32, np.bool_, np.str_, np.object_, np.complex64, ">i4", "S3")
        what = self.rng.randrange(6)
        if what == 0:
            return array.astype(self.rng.choice(kinds))
        if what == 1:
            return self.rng.choice((array[:-1], array[:0], array[None], array.T, np.concatenate([array, array])))
        flat = array.ravel().copy()
        numbers = (-1, 0, 1, 2, 3, 7, 2**31 - 1, 0.5, -0.5, np.nan, np.inf)
        flat[self.rng.randrange(len(flat))] = self.rng.choice(numbers if array.dtype.kind != "U" else CELLS)
        return flat.reshape(array.shape)

    def yaml(self, content: bytes) -> bytes:
        """Edits a value, or puts some of YAML's own signs between."""
        text = content.decode("utf-8", "replace")
        if self.rng.random() < 0.4:
            place = self.rng.randrange(len(text) + 1)
            return (text[:place] + self.rng.choice(_YAML) + text[place:]).encode("utf-8", "replace")
        try:
            value = self.edited(yaml.load(text, Loader=_LOADER))
            return yaml.dump(value, Dumper=_DUMPER, allow_unicode=True).encode("utf-8", "backslashreplace")
        # PyYAML lets through what damaged texts make Python raise.
        except Exception:
            return self.bytes(content)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Where values stand in a value of JSON: the container and the key or index in it."""
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack and len(found) < 10_000:
        item = stack.pop()
        keys = list(item) if isinstance(item, dict) else list(range(len(item))) if isinstance(item, list) else []
        found += [(item, key) for key in keys]
        stack += [item[key] for key in keys]
    return found
