"""One input in the place of a file, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from petl_bench.errors import DataError


@dataclass(frozen=True)
class Form:
    """One way of reading a target's folder.

    Attributes:
        file: the one that is damaged, relative to the folder.
        kind: what it holds, a key of `benchmarks.fuzz.mutators.KINDS`.
        read: reads the folder, and checks what it gets.
        words: of JSON and YAML, values by key that mean something to the reader and do not stand in the valid file.
        seeds: other contents to begin from, damaged ones among them, which chance takes long to come upon.
    """

    file: str
    kind: str
    read: Callable[[Path], object]
    words: Mapping[str, Any] | None = None
    seeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """Readers that belong together.

    Attributes:
        name: on the command line.
        prepare: writes valid files into an empty folder, and says how they are read.
        readers: the functions whose lines are counted.
        refusal: what damaged files may raise.
        longest: bytes of an input, to keep slow readers quick.
    """

    name: str
    prepare: Callable[[Path], list[Form]]
    readers: Callable[[], Iterable[Any]]
    refusal: type[Exception] | tuple[type[Exception], ...] = DataError
    longest: int = 20_000


class UnclearError(Exception):
    """An error does not name the file that it is about, or is no line that a user could read."""


class Trial:
    """Tries inputs on a target.

    Args:
        target: what is tried.
        folder: an empty folder for its files.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.folder = target, folder
        self.forms = target.prepare(folder)
        self.valid = {form.file: (folder / form.file).read_bytes() for form in self.forms}

    def seeds(self) -> list[bytes]:
        """The valid files as inputs, and what else to begin from."""
        contents = [
            (place, content)
            for place, form in enumerate(self.forms)
            for content in (self.valid[form.file], *map(str.encode, form.seeds))
        ]
        return [bytes([place]) + content for place, content in contents]

    def form_of(self, data: bytes) -> Form:
        """The form that an input is for: its first byte says which."""
        return self.forms[data[0] % len(self.forms)]

    def run(self, data: bytes) -> None:
        """Reads an input in the place of the file that it damages.

        Raises:
            Exception: whatever is neither a result nor an error that names the file.
        """
        if not data:
            return
        form = self.form_of(data)
        path = self.folder / form.file
        path.write_bytes(data[1:])
        try:
            form.read(self.folder)
        except self.target.refusal as error:
            told = str(error)
            if not any(Path(other.file).name in told for other in self.forms):
                raise UnclearError(f"names no file: {told}") from error
            if "\n" in told or len(told) > 1500:
                raise UnclearError(f"{len(told)} characters, line feeds {told.count(chr(10))}: {told}") from error
        finally:
            path.write_bytes(self.valid[form.file])


def functions(*readers: Any) -> list[FunctionType]:
    """The plain functions behind functions, methods and cached properties."""
    return [reader if isinstance(reader, FunctionType) else reader.func for reader in readers]
