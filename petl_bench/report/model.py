"""What a report says, before it is Markdown, CSV, LaTeX, JSON or a page: every format shows these numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from petl_bench.report.collect import Key, Rejected, Run
from petl_bench.report.mteb import MtebResult

#: a Holm-adjusted p above it: not distinguishable
SIGNIFICANT = 0.05


class Interval(NamedTuple):
    """95 % of what would be found with other queries, and other seeds where there are several."""

    low: float
    high: float


@dataclass(frozen=True)
class Value:
    """A figure of a row.

    Attributes:
        mean: over seeds.
        sd: sample standard deviation over seeds; None of a single one.
        n: seeds.
        interval: of the mean; None of what is no figure of queries, or of runs whose ranks are not there.
    """

    mean: float
    sd: float | None
    n: int
    interval: Interval | None = None


@dataclass(frozen=True)
class Difference:
    """A row's figure minus that of another row, on the same queries.

    Attributes:
        delta: in the figure's own unit.
        interval: of the difference, paired.
        p: of the test, two-sided.
        p_holm: the same, adjusted for all comparisons of its column with the same other row (Holm 1979).
        test: `mcnemar` (exact) or `sign-flip` (permutation).
    """

    delta: float
    interval: Interval
    p: float
    p_holm: float
    test: str

    @property
    def distinguishable(self) -> bool:
        """Whether test and interval both say so: signs are flipped by query, seeds vary in the interval only."""
        return self.p_holm <= SIGNIFICANT and not self.interval.low <= 0 <= self.interval.high


@dataclass(frozen=True)
class PublishedFigure:
    """A figure that a source states for a row's recipe, and how ours compares with it.

    Attributes:
        value: as the source states it.
        source: short name of the source, a key of the packaged table of sources.
        where: the table, figure or page of it.
        difference: ours minus it; None if ours is not known.
        comparable: `yes` if all that decides both is known and equal, `no` if something is known to differ (its epoch
            chosen on test, too), or `unknown`.
        why: what differs where it is not comparable, or what is not known; else empty.
        interval: of the difference: that of our figure, as a source has none; None where ours has none.
    """

    value: float
    source: str
    where: str
    difference: float | None
    comparable: str
    why: str
    interval: Interval | None = None


@dataclass(frozen=True)
class Column:
    """A numeric column.

    Attributes:
        title: in every format, e.g. `t2v R@1`, `Trainable M`, `Accuracy`, `WUPS@0`.
        kind: `quality` (a plain figure of queries), `second` (one beside those, by name) or `cost`.
        decimals: that are shown; small costs get more.
        higher_is_better: None of what is neither.
        unit: `%`, `MB` and the like; empty of counts and ranks.
    """

    title: str
    kind: str
    decimals: int
    higher_is_better: bool | None
    unit: str = ""


@dataclass(frozen=True)
class Row:
    """All seeds of one configuration.

    Attributes:
        name: of the method, with the beginning of the hash where two rows would be called the same.
        runs: by seed.
        values: by title of column; None if unknown.
        from_best: by title of a quality column: this row minus the best; None of the best itself, and where nothing was
            tested, as the runs of one of the two do not say which queries they had. `best.standing` tells these apart.
        from_full: the same against full fine-tuning, where the table has it.
        published: by title of a quality column.
        state: of the recipe: `reproduced`, `within band`, `off`, `not comparable` or empty where nothing is published.
        doubt: why the state is not known to be fair; empty where it is, and where nothing is compared.
        marks: what a reader must know before using the row.
        command: that reproduces it.
        hardware: every machine that its costs were measured on.
        partial: whether the test lacked videos: shown, but neither the best, nor a reference, nor ranked.
    """

    name: str
    method: str
    backbone: str
    config_hash: str
    runs: list[Run]
    values: dict[str, Value | None]
    marks: list[str]
    commit: str
    command: str = ""
    hardware: list[str] = field(default_factory=list)
    partial: bool = False
    state: str = ""
    doubt: str = ""
    from_best: dict[str, Difference | None] = field(default_factory=dict)
    from_full: dict[str, Difference | None] = field(default_factory=dict)
    published: dict[str, PublishedFigure] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Runs that may be compared with each other.

    Attributes:
        id: letters, digits and `-`; unique in a report, and the same as long as the comparability key is.
        title: dataset and protocol, stamped when the data are a fixture.
        notes: one line each: what all rows share, other tables of the dataset, hardware, half-widths of intervals.
        columns: in order; quality first.
        rows: in order; references (full fine-tuning, zero-shot, linear) first, then by the first column.
        key: the comparability key.
        main: title of the column by which rows are ordered.
    """

    id: str
    title: str
    dataset: str
    protocol: str
    fixture: bool
    notes: list[str]
    columns: list[Column]
    rows: list[Row]
    key: Key
    main: str

    @property
    def main_column(self) -> Column:
        """That by which rows are ordered."""
        return self.named([self.main])[0]

    @property
    def quality(self) -> list[Column]:
        """The figures of queries."""
        return [column for column in self.columns if column.kind == "quality"]

    def named(self, titles: Iterable[str]) -> list[Column]:
        """Columns by their titles, in that order; what the table lacks is left out."""
        columns = {column.title: column for column in self.columns}
        return [columns[title] for title in titles if title in columns]


@dataclass(frozen=True)
class SummaryRow:
    """A method on one backbone over the datasets.

    Attributes:
        values: the main figure by id of table; None where it was not run.
        relative: mean over tables of the figure divided by that of full fine-tuning; None without any such table.
        rank: mean rank among the methods that all of the same tables have.
        among: how many those are, itself included.
        fixture: whether the tables are those of generated data, which are never mixed with measured ones.
        others: rows of the same method in the tables (other epochs, other rates) that were not chosen.
    """

    method: str
    backbone: str
    values: dict[str, Value | None]
    relative: float | None
    rank: float | None
    among: int = 0
    fixture: bool = False
    others: int = 0


@dataclass(frozen=True)
class Report:
    """All of a report.

    Attributes:
        tables: measured ones first.
        summary: over datasets; empty with a single one.
        published: every published figure with the state of its recipe, `not run` included, as plain mappings.
        rejected: what was left out, and why.
        mteb: results of MTEB, which stand beside no other figure.
    """

    tables: list[Table]
    summary: list[SummaryRow]
    rejected: list[Rejected]
    published: list[dict[str, Any]] = field(default_factory=list)
    mteb: tuple[MtebResult, ...] = ()
