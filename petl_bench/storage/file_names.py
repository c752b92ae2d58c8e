"""Files that not every library opens: names that it does not take, and errors that it does not tell apart."""

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
    path.open("rb").close()  # safetensors takes any file that it cannot open for one that is not there
    yield path
