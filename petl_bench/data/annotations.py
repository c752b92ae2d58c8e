"""Reads annotation files; every error names the file and the record.

This is the only place where data modules meet foreign bytes and foreign JSON: what they get from here is text that can
be encoded, whole numbers within bounds, or a `DataError`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.errors import DataError, MissingFileError
from petl_bench.storage import untrusted
from petl_bench.storage.untrusted import UnreadableError, described, plain_text, shown, whole_number

#: what may stand between the columns of a table; the header tells which
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
#: seconds beyond which a moment is no moment of a clip
MAX_SECONDS = 10**9


class Record(NamedTuple):
    """One record of an annotation file.

    Attributes:
        values: by name, as the file has them.
        where: the file and the place in it, for messages.
    """

    values: dict[str, Any]
    where: str

    def string(self, key: str) -> str:
        """A text, which may be blank.

        Raises:
            DataError: if it is missing, or no text.
        """
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.error(key, "text")
        return plain_text(value)

    def text(self, key: str) -> str:
        """A text that is not blank.

        Raises:
            DataError: if it is missing, blank, or no text.
        """
        text = self.string(key)
        if not text.strip():
            raise DataError(f"{self.where}: '{key}' is blank")
        return text

    def name(self, key: str) -> str:
        """A text that names something, without surrounding white space.

        Raises:
            DataError: if it is missing, blank, or no text.
        """
        return self.text(key).strip()

    def label(self, key: str) -> str:
        """What something is called, where it is called anything: text or a whole number; else empty, and no error."""
        return _label(self.values.get(key))

    def labels_of(self, key: str, inner: str) -> tuple[str, ...]:
        """The same of the objects of a list, which have it by the name of `inner`."""
        listed = self.values.get(key)
        return tuple(_label(item.get(inner)) for item in listed if isinstance(item, dict)) if listed else ()

    def caption(self, key: str) -> str:
        """A text that is not blank, as one line: blanks around it and line ends within are no part of it.

        Raises:
            DataError: if it is missing, blank, or no text.
        """
        return one_line(self.text(key))

    def strings(self, key: str) -> tuple[str, ...]:
        """A text, or a list of texts; they may be blank.

        Raises:
            DataError: if there is none, or something else among them.
        """
        value = self.values.get(key)
        listed = value if isinstance(value, list) else [value]
        texts = tuple(plain_text(item) for item in listed if isinstance(item, str))
        if not texts or len(texts) < len(listed):
            raise self.error(key, "text or a list of texts")
        return texts

    def strings_of(self, key: str, inner: str) -> tuple[str, ...]:
        """The texts that the objects of a list have by the name of `inner`; they may be blank.

        Raises:
            DataError: if there is no such list, or a member of it has no such text.
        """
        listed = self.items(key)
        found = [item.get(inner) for item in listed if isinstance(item, dict)]
        texts = tuple(plain_text(text) for text in found if isinstance(text, str))
        if len(texts) < len(listed):
            raise self.error(key, f"a list of objects with '{inner}'")
        return texts

    def items(self, key: str) -> list[Any]:
        """A list with at least one member.

        Raises:
            DataError: if it is missing, empty, or no list.
        """
        value = self.values.get(key)
        if not isinstance(value, list) or not value:
            raise self.error(key, "a list")
        return value

    def whole(self, key: str, least: int | None = None, most: int | None = None) -> int:
        """A whole number.

        Args:
            key: its name.
            least: the smallest that is possible; None for any.
            most: the largest that is possible; None for any.

        Raises:
            DataError: if it is missing, no whole number, or out of bounds.
        """
        number = whole_number(self.values.get(key))
        if number is None:
            raise self.error(key, "a whole number")
        if (least is not None and number < least) or (most is not None and number > most):
            bounds = f"from {least} to {most}" if most is not None else f"of at least {least}"
            raise self.error(key, f"a whole number {bounds}")
        return number

    def seconds(self, key: str) -> float:
        """A moment of a video: a number, or a text that is one (`7.7`), of at least 0.

        Raises:
            DataError: if it is missing, no number, or out of bounds.
        """
        value = self.values.get(key)
        if isinstance(value, str) and re.fullmatch(r"\+?[0-9]{1,10}(\.[0-9]{0,20})?", value.strip()):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
            raise self.error(key, "a number of seconds")
        return value

    def has(self, key: str) -> bool:
        """Whether there is a value; null, and nothing or white space as text, are none."""
        value = self.values.get(key)
        return value is not None and not (isinstance(value, str) and not value.strip())

    def error(self, key: str, wanted: str) -> DataError:
        """What to raise where a value is not what is wanted."""
        if self.values.get(key) is not None:
            return DataError(f"{self.where}: '{key}' is {shown(self.values[key])}, not {wanted}")
        return DataError(f"{self.where}: '{key}' is missing or blank; there is {_listed(self.values)}")


def one_line(text: str) -> str:
    """A text with single blanks in the place of blanks, tabs and line ends, and none around it."""
    return " ".join(text.split())


def _label(value: Any) -> str:
    if isinstance(value, str):
        return plain_text(value).strip()
    number = whole_number(value)
    return "" if number is None else str(number)


def _listed(names: Iterable[str]) -> str:
    """Names for a message: one line, short, printable."""
    return shown(", ".join(names), 200)[1:-1] or "nothing"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file (a byte order mark is dropped).

    Raises:
        MissingFileError: if it is not there.
        DataError: if it is unreadable, empty or not UTF-8.
    """
    try:
        return untrusted.read_text(path)
    except UnreadableError as error:
        kind = MissingFileError if isinstance(error.__cause__, FileNotFoundError) else DataError
        raise kind(f"cannot read annotation file {path.absolute()}: {error}") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: if it cannot be read, or is no JSON.
    """
    return _parsed(read_text(path), str(path))


def _parsed(text: str, where: str) -> Any:
    try:
        return untrusted.parse_json(text)
    except UnreadableError as error:
        if "occurs twice" in str(error):
            raise DataError(f"{where}: {error}; which of them counts?") from error
        hint = "one value per line? call it .jsonl" if "Extra data" in str(error) else "cut, or of another kind?"
        raise DataError(f"{where} is not whole JSON: {error}; {hint}") from error


def read_values(path: Path) -> list[tuple[str, Any]]:
    """The members of a JSON list, or of a file with one JSON value per line (`.jsonl`), each with its place.

    Raises:
        DataError: if the file cannot be read, is cut, or holds no list.
    """
    if path.suffix.lower() == ".jsonl":
        lines = [(f"{path}, line {number}", line) for number, line in read_numbered(path)]
        return [(where, _parsed(line, where)) for where, line in lines]
    values = read_json(path)
    if not isinstance(values, list) or not values:
        raise DataError(f"{path}: expected a list of records, found {described(values)}; wrong file?")
    return [(f"{path}, record {place}", value) for place, value in enumerate(values)]


def read_records(path: Path) -> list[Record]:
    """The records of a JSON list, or of a file with one JSON object per line (`.jsonl`).

    Raises:
        DataError: if the file cannot be read, is cut, or a record is no object.
    """
    return [_record(value, where) for where, value in read_values(path)]


def read_section(path: Path, key: str) -> list[Record]:
    """The records that a JSON object lists under a name.

    Raises:
        DataError: if the file cannot be read, has no such list, or a record is no object.
    """
    return section_of(read_json(path), key, path)


def section_of(value: Any, key: str, path: Path) -> list[Record]:
    """The same of a value that was read.

    Raises:
        DataError: see `read_section`.
    """
    listed = value.get(key) if isinstance(value, dict) else None
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{path}: no list '{key}' of records in it; wrong file?")
    return [_record(item, f"{path}: {key}[{place}]") for place, item in enumerate(listed)]


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with named values, found {described(value)}")
    return Record(value, where)


def read_numbered(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers.

    Lines end at line feeds and any carriage returns before them, or at carriage returns where there is no line feed.
    Other characters that Python takes for line ends are part of the text.
    """
    text = read_text(path)
    lines = re.split(r"\r*\n" if "\n" in text else "\r", text)
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without surrounding white space, empty ones left out: one id each."""
    return [line.strip() for _, line in read_numbered(path)]


def read_column(path: Path, column: str) -> list[str]:
    """One column of a table, in file order, without surrounding white space.

    Raises:
        DataError: as `read_table`, or if a value is missing, or all are.
    """
    values = [record.name(column) for record in read_table(path, (column,))]
    if not values:
        raise DataError(f"{path} has a header and no records")
    return values


def read_table(path: Path, columns: Sequence[str]) -> list[Record]:
    """The records of a table with a header, or of JSON or jsonl.

    A table may have commas, semicolons or tabs between its columns, whichever gives its header the columns that are
    wanted; names of columns are compared without case and surrounding white space; blank lines are left out. Its values
    are text without surrounding white space, and an empty field is left out of its record.

    Args:
        path: the file; one that ends in neither `.json` nor `.jsonl` is a table.
        columns: that every record has.

    Raises:
        DataError: if the file is cut, its header lacks a column, or a record is no object.
    """
    if path.suffix.lower() in (".json", ".jsonl"):
        return read_records(path)
    text = re.sub(r"\r+\n", "\n", read_text(path))
    text = re.sub(r'\A"?sep=."?(?=\n)', "", text)  # what Excel is told; the header tells it, too
    delimiter, header = _header(path, text, columns)
    rows = _rows(path, text, delimiter)
    next(rows)
    records = []
    for number, fields in rows:
        where = f"{path}, line {number}"
        fields = _without_last_blanks(fields, len(header))
        if len(fields) != len(header):
            raise DataError(
                f"{where}: {len(fields)} fields, the header has {len(header)} (between {_DELIMITERS[delimiter]}; a "
                "text that holds such a character needs quotes around it)"
            )
        records.append(Record({name: value for name, value in zip(header, fields, strict=True) if value}, where))
    return records


def read_unquoted(path: Path, columns: Sequence[str]) -> list[Record]:
    """The records of a table with a header whose columns are separated by tabs, in which quotes are text.

    Lines may end in carriage returns and line feeds. Values are as in `read_table`: "none", "null" and "na" are text.

    Raises:
        DataError: if the file is cut, its header lacks a column, or a row has other than its number of fields.
    """
    lines = read_numbered(path)
    header = [name.strip().lower() for name in lines[0][1].split("\t")]
    if missing := [column for column in columns if column not in header]:
        told = f"no column '{missing[0]}' in its header ({_listed(header)})"
        raise DataError(f"{path}: {told}: its first line has to name the columns, with tabs in between")
    _require_unambiguous(path, header)
    records = []
    for number, line in lines[1:]:
        fields, where = [field.strip() for field in line.split("\t")], f"{path}, line {number}"
        if len(fields) != len(header):
            raise DataError(f"{where}: {len(fields)} fields between tabs, the header has {len(header)}; it is cut")
        records.append(Record({name: value for name, value in zip(header, fields, strict=True) if value}, where))
    return records


def _header(path: Path, text: str, columns: Sequence[str]) -> tuple[str, list[str]]:
    """The delimiter of a table, and the names of its columns in lower case."""
    headers: dict[str, list[str]] = {}
    for delimiter in _DELIMITERS:
        try:
            _, first = next(_rows(path, text, delimiter), (0, []))
        except DataError:  # quotes that make sense with another delimiter
            continue
        headers[delimiter] = _without_last_blanks([name.lower() for name in first])
        if set(columns) <= set(headers[delimiter]):
            _require_unambiguous(path, headers[delimiter])
            return delimiter, headers[delimiter]
    found = max(headers.values(), key=len, default=[])
    missing = next(column for column in columns if column not in found)
    raise DataError(
        f"{path}: no column '{missing}' in its header ({_listed(found)}): its first line has to name the columns, "
        f"{', '.join(columns)} among them, with commas, semicolons or tabs in between"
    )


def _without_last_blanks(fields: list[str], wanted: int = 0) -> list[str]:
    """Fields without the empty ones that spreadsheets leave at the end of a row, but never fewer than are wanted."""
    count = len(fields)
    while count > wanted and not fields[count - 1]:
        count -= 1
    return fields[:count]


def _require_unambiguous(path: Path, header: Sequence[str]) -> None:
    twice = next((name for name, count in Counter(header).items() if name and count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: column {shown(twice)} occurs twice in its header; rename one of them")


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table that are not blank, each with the number of its last line."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for fields in lines:
            stripped = [field.strip() for field in fields]
            if any(stripped):
                yield lines.line_num, stripped
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: {_readable(error, delimiter)}") from error


def _readable(error: csv.Error, delimiter: str) -> str:
    """What the user can do about an error of the csv module."""
    if f"'{delimiter}' expected after" in str(error):
        return 'text after a closing quote: within quotes, a quote is written twice ("")'
    if "unexpected end" in str(error) or "field larger" in str(error):
        return f"{error}: a quote is opened and never closed; the file is cut or damaged"
    return f"{error}; the file is cut or damaged"
