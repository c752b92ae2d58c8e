"""The tables in the README: those of `make bench-fixture`, from the records that are committed beside this.

python -m benchmarks.readme_leaderboard
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.fixture import table
from benchmarks.fixture.place import Place
from benchmarks.fixture.runs import finished

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"


def main() -> None:
    """Writes the block."""
    README.write_text(with_block(README.read_text(encoding="utf-8"), block()), encoding="utf-8")
    print(f"{README}: the tables of {Place().results.relative_to(REPOSITORY)}")


def block() -> str:
    """The Markdown that the records of today's recipes give."""
    return table.block(finished(Place()))


def with_block(page: str, text: str) -> str:
    """A page with a new block between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or END not in rest:
        raise RuntimeError(f"the page lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{text}{END}{after}"


if __name__ == "__main__":
    main()
