"""Reads annotation files; every error names the file and the record."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from petl_bench.errors import DataError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file (a byte order mark is dropped).

    Raises:
        DataError: if it is missing, unreadable, empty or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read annotation file {path.absolute()}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; the file is damaged or of another kind") from error
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not whole JSON: {error}; cut, or of another kind?") from error


def read_records(path: Path) -> list[Any]:
    """The records of a JSON list, or of a file with one JSON value per line (`.jsonl`).

    Raises:
        DataError: if the file is cut, or holds no list.
    """
    if path.suffix != ".jsonl":
        records = read_json(path)
        if not isinstance(records, list) or not records:
            raise DataError(f"{path}: expected a list of records, found {type(records).__name__}; wrong file?")
        return records
    records = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        try:
            records += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is not whole JSON: {error}; cut, or of another kind?") from error
    return records


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without surrounding white space, empty ones left out: one id each."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_column(path: Path, column: str) -> list[str]:
    """One column of a CSV file with a header, in file order, without surrounding white space.

    Raises:
        DataError: if the column is absent, or a line has more or fewer fields than the header, as a cut file has.
    """
    lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(lines)]
        if column not in header:
            raise DataError(f"{path}: no column '{column}' in its header ({', '.join(header)})")
        place = header.index(column)
        values = []
        for fields in lines:
            if len(fields) != len(header):
                raise DataError(f"{path}, line {lines.line_num}: {len(fields)} fields, the header has {len(header)}")
            if not fields[place].strip():
                raise DataError(f"{path}, line {lines.line_num}: '{column}' is empty")
            values.append(fields[place].strip())
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: {error}; the file is cut or damaged") from error
    if not values:
        raise DataError(f"{path} has a header and no records")
    return values


def read_table(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The records of a CSV file with a header, or of JSON or jsonl, each with its place for messages.

    Values of a CSV file are text without surrounding white space; an empty field is left out of its record.

    Raises:
        DataError: if the file is cut, or a record is no object.
    """
    if path.suffix in (".json", ".jsonl"):
        records = [(f"{path}, record {place}", record) for place, record in enumerate(read_records(path))]
        wrong = next((where for where, record in records if not isinstance(record, dict)), None)
        if wrong:
            raise DataError(f"{wrong}: expected an object with named values")
        return records
    lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    records = []
    try:
        header = [name.strip() for name in next(lines)]
        for fields in lines:
            where = f"{path}, line {lines.line_num}"
            if len(fields) != len(header):
                raise DataError(f"{where}: {len(fields)} fields, the header has {len(header)}")
            values = zip(header, (field.strip() for field in fields), strict=True)
            records.append((where, {name: value for name, value in values if value}))
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: {error}; the file is cut or damaged") from error
    return records


def require_keys(record: Any, keys: Sequence[str], where: str) -> list[str]:
    """The string values of `keys` in a JSON record.

    Raises:
        DataError: if the record is no object, or a value is missing or no string.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, found {type(record).__name__}")
    for key in keys:
        if not isinstance(record.get(key), str):
            raise DataError(f"{where}: '{key}' is missing or not text")
    return [record[key] for key in keys]
