"""A page of what was found: one file with pictures and times, which asks for nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from petl_bench.report.templating import render
from petl_bench.report.thumbnails import still
from petl_bench.search.index import Hit
from petl_bench.search.session import Found
from petl_bench.storage.files import write_atomically

#: pixels of a picture, at most
_SIDE = 320
#: bytes of pictures in the page, about; what comes after them has none
_MOST_BYTES = 30_000_000


def write_sheet(path: Path, query: str, found: Found, hits: Sequence[Hit]) -> None:
    """Writes the page.

    Raises:
        FileError: it cannot be written.
    """
    videos = found.search.videos
    pictures = _pictures(videos, hits)
    rows = [
        {
            "rank": hit.rank,
            "score": f"{hit.score:.4f}",
            "video": hit.place.file.path,
            "from": clock(hit.place.span[0]),
            "to": clock(hit.place.span[1]),
            "picture": next(pictures),
        }
        for hit in hits
    ]
    skipped = [{"video": file.path, "reason": file.reason} for file in found.skipped]
    context = {"hits": rows, "skipped": skipped, "windows": found.windows, "videos": videos}
    page = render("found.html.jinja", query=query, adapter=found.search.adapter, **context)
    write_atomically(path, page)


def _pictures(videos: Path, hits: Sequence[Hit]) -> Iterator[str | None]:
    """Of each hit its middle, as long as the page does not become too large."""
    spent = 0
    for hit in hits:
        found = still(videos / hit.place.file.path, sum(hit.place.span) / 2, _SIDE) if spent < _MOST_BYTES else None
        spent += len(found or "")
        yield found


def clock(seconds: float) -> str:
    """Seconds as a player shows them: 1:02:03.5."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:04.1f}".removesuffix(".0")
    return f"{hours}:{minutes:02}:{tail}" if hours else f"{minutes}:{tail}"
