"""Names of files that not every library takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """A path to a file that libraries in Rust open, too: they refuse names that are not UTF-8, which Linux allows.

    Args:
        path: of a file that is there.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield Path(f"/dev/fd/{file.fileno()}")
        return
    yield path
