"""Two runs on the same queries: what differs, how sure that is, and which queries changed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from petl_bench.errors import DataError, UsageError
from petl_bench.machine.limits import explaining_machine_faults
from petl_bench.machine.output import print_table
from petl_bench.metrics.table import FIGURES, figure_titled
from petl_bench.report.cells import one_line
from petl_bench.report.collect import Run, comparability_key
from petl_bench.report.configurations import ERRORS
from petl_bench.report.overlap import Keys, keys_of, overlap_of, right, rows_in_common
from petl_bench.report.queries import Queries, read_queries
from petl_bench.report.sheets import csv_cell
from petl_bench.report.statistics import holm, interval, paired, recall, resampled_medians
from petl_bench.report.tables import FIXTURE_STAMP
from petl_bench.runs.record import ADAPTER_NAME, FILE_NAME, ranks_beside, read_result
from petl_bench.storage.files import write_atomically
from petl_bench.storage.untrusted import expanded, is_file, is_folder, plain_text, shown, shown_all

SCHEMA = "petl_bench.comparison/1"
_RECALL_AT = (1, 5, 10)
#: of which the terminal shows queries; those of `v2t_captions` are those of `v2t`
_SHOWN = ("t2v", "v2t", "answers", "counts")
#: directions in which something is answered, with what each query has and when it is right
_ASKED = {"answers": ("score", "answered rightly"), "counts": ("squared error", "counted exactly")}
#: what scores are called that are accuracy in one run, and WUPS in the other
_ANY_SCORE = "Score"
#: scores of answers of which most are neither right nor wrong
_PARTLY_RIGHT = (FIGURES["wups"].title, _ANY_SCORE)
_TESTS = {"mcnemar": "exact McNemar test", "sign-flip": "permutation test by sign flips"}
#: letters of a caption on the terminal
_LETTERS = 60


@dataclass(frozen=True)
class Figure:
    """A figure of both runs, over the same queries.

    Attributes:
        direction: `t2v`, `v2t`, `v2t_captions`, `answers` or `counts`.
        name: `R@1`, `R@5`, `R@10`, `MdR`, `MnR`, `Accuracy`, `Accuracy <type of question>`, likewise `WUPS@0`, `MSE` or
            `MSE raw`.
        n: queries.
        a: of the first run.
        b: of the second.
        delta: b - a.
        low: of the 95 % interval of delta, queries of one video, or of parts of one file, resampled together.
        high: of it.
        p: two-sided; None of a median, for which there is no test.
        p_holm: the same, adjusted for all tests of the comparison (Holm 1979).
        test: `mcnemar` (exact) or `sign-flip` (permutation).
    """

    direction: str
    name: str
    n: int
    a: float
    b: float
    delta: float
    low: float
    high: float
    p: float | None = None
    p_holm: float | None = None
    test: str | None = None


@dataclass(frozen=True)
class Change:
    """A query that one run ranks, answers or counts better than the other.

    Attributes:
        direction: as of `Figure`.
        query: its id.
        words: what it says; None where a run kept no words.
        target: id of what it looks for, or the expected answers.
        a: rank in the first run, from 1; of answers the score, 0 to 1; of counts the squared error.
        b: in the second.
        hit_a: what the first run puts first, or answers; None where there is nothing.
        hit_b: the same of the second.
        hit_words_a: what that says, of a video its first caption.
        hit_words_b: the same of the second.
    """

    direction: str
    query: str
    words: str | None
    target: str | None
    a: float
    b: float
    hit_a: str | None
    hit_b: str | None
    hit_words_a: str | None
    hit_words_b: str | None

    @property
    def gain(self) -> tuple[float, float]:
        """How much better the second run is: by how often the rank was divided, then by how many places it rose."""
        if self.direction == "answers":
            return self.b - self.a, 0.0
        if self.direction == "counts":
            return self.a - self.b, 0.0
        return self.a / self.b, self.a - self.b


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds.

    Attributes:
        a: the first run.
        b: the second.
        differing: of what must be equal before two runs may be compared, what is not: its value in both, as text.
        left_out: queries of either run that the other does not have, by direction; empty where all are the same.
        figures: in the order of directions.
        overlap: by direction, how many queries both runs get right (rank 1, a score above one half, no error), only the
            first, only the second, and none.
        changed: the most gained first, by direction.
    """

    a: Run
    b: Run
    differing: dict[str, tuple[str, str]]
    left_out: dict[str, int]
    figures: list[Figure]
    overlap: dict[str, dict[str, int]]
    changed: list[Change]


class _Pair(NamedTuple):
    """The queries of a direction in both runs.

    Attributes:
        ids: of those that both have (C,).
        rows_a: of these in the first run (C,).
        rows_b: in the second (C,).
        lone_a: ids that only the first has.
        lone_b: ids that only the second has.
    """

    direction: str
    a: Queries
    b: Queries
    ids: list[str]
    rows_a: np.ndarray
    rows_b: np.ndarray
    lone_a: list[str]
    lone_b: list[str]

    @property
    def left_out(self) -> int:
        """Queries that one of the runs does not have."""
        return len(self.lone_a) + len(self.lone_b)


@explaining_machine_faults()
def compare(a: str | Path, b: str | Path, anyway: bool = False) -> Comparison:
    """Compares two runs query by query, as `petl-bench compare` does, and prints nothing.

    Args:
        a: a run: its folder, its record, or its ranks.
        b: what is compared with it; differences are b - a.
        anyway: compare the queries that both have, also where the runs are not comparable.

    Raises:
        UsageError: there is no such run.
        FileError: a record or ranks are missing or damaged.
        DataError: the runs are not comparable, do not say which queries they had, or had others.
    """
    runs = _opened(expanded(a)), _opened(expanded(b))
    differing = _differing(*runs)
    if differing and not anyway:
        fields = ((one_line(name), shown(one), shown(other)) for name, (one, other) in differing.items())
        told = "; ".join(f"{name} ({one} and {other})" for name, one, other in fields)
        raise DataError(f"{runs[0].path} and {runs[1].path} are not comparable: {told} (--anyway compares them)")
    both = read_queries(runs[0]), read_queries(runs[1])
    words = _words(both), _words(both[::-1])
    pairs = [_paired(runs, way, both[0][way], both[1][way]) for way in both[0] if way in both[1]]
    if not pairs:
        raise DataError(f"{runs[0].path} is of {', '.join(both[0])}, {runs[1].path} of {', '.join(both[1])}")
    unequal = [pair for pair in pairs if pair.left_out]
    if unequal and not anyway:
        raise DataError(_told_of_others(runs, unequal[0]))
    return Comparison(
        *runs,
        differing=differing,
        left_out={pair.direction: pair.left_out for pair in unequal},
        figures=_adjusted([figure for pair in pairs for figure in _figures(pair)]),
        overlap={pair.direction: _overlap(pair) for pair in pairs},
        changed=[change for pair in pairs for change in _changes(pair, *words)],
    )


# --- the runs -----------------------------------------------------------------------------------------------------


def _opened(path: Path) -> Run:
    """The run that a folder, a record or ranks are of."""
    if is_folder(path):
        record = path / FILE_NAME
    elif path.suffix == ".npz":
        record = next((place for place in path.parent.glob("*.json") if ranks_beside(place) == path), path.parent)
    else:
        record = path
    if is_folder(path) and not is_file(record) and is_file(ranks_beside(record)):
        raise UsageError(f"{path} has ranks and no {FILE_NAME}: petl-bench record {path} writes it")
    if not is_file(record):
        raise UsageError(f"{path} is no run: give its folder (runs/.../seed0), its {FILE_NAME} or its ranks.npz")
    run = Run(record, read_result(record))
    if run.record["status"] != "complete":
        raise DataError(f"{record}: status is {run.record['status']!r}, not 'complete': the run has no figures yet")
    return run


def _differing(a: Run, b: Run) -> dict[str, tuple[str, str]]:
    ours, theirs = dict(comparability_key(a.record)), dict(comparability_key(b.record))
    names = dict.fromkeys((*ours, *theirs))
    pairs = {name: (ours.get(name, "nothing"), theirs.get(name, "nothing")) for name in names}
    return {name: (str(one), str(other)) for name, (one, other) in pairs.items() if one != other}


# --- their queries ------------------------------------------------------------------------------------------------


def _paired(runs: tuple[Run, Run], direction: str, a: Queries, b: Queries) -> _Pair:
    keys = _keys(runs[0], direction, a), _keys(runs[1], direction, b)
    rows_a, rows_b = rows_in_common(*keys)
    if not len(rows_a):
        raise DataError(f"{runs[0].path} and {runs[1].path} have no query of {direction} in common")
    shared = set(keys[0]) & set(keys[1])
    lone_a, lone_b = ([key[0] for key in own if key not in shared] for own in keys)
    return _Pair(direction, a, b, [keys[0][row][0] for row in rows_a], rows_a, rows_b, lone_a, lone_b)


def _keys(run: Run, direction: str, queries: Queries) -> Keys:
    keys = keys_of(queries)
    if keys is None:
        adapter = run.path.with_name(ADAPTER_NAME)
        again = f"petl-bench test --ckpt_path {adapter}" if is_file(adapter) else "the command of the run, given again,"
        raise DataError(
            f"{ranks_beside(run.path)} is of an earlier version and does not say which queries it is of: {again} "
            "writes ranks that do"
        )
    if len(set(keys)) < len(keys):
        raise DataError(f"{ranks_beside(run.path)}: two queries of {direction} have the same id")
    return keys


def _told_of_others(runs: tuple[Run, Run], pair: _Pair) -> str:
    lone = zip((pair.lone_a, pair.lone_b), runs, strict=True)
    told = [f"{shown_all(names)} of {run.path}" for names, run in lone if names]
    return (
        f"the {pair.direction} queries differ: only {len(pair.ids)} are in both runs, not {' and not '.join(told)} "
        "(--anyway compares those)"
    )


def _words(both: Sequence[dict[str, Queries]]) -> dict[tuple[str, str], str]:
    """What captions and videos say, by direction in which they are queries and by id; of the first run that knows."""
    known: dict[tuple[str, str], str] = {}
    for found in reversed(both):
        for way, queries in found.items():
            known |= {(way, name): text for name, text in zip(queries.ids or (), queries.words or (), strict=False)}
    return known


# --- figures ------------------------------------------------------------------------------------------------------


def _figures(pair: _Pair) -> Iterator[Figure]:
    way, clusters = pair.direction, pair.a.clusters[pair.rows_a]
    if pair.a.scores is not None and pair.b.scores is not None:
        yield from _accuracies(pair, 100 * pair.a.scores[pair.rows_a], 100 * pair.b.scores[pair.rows_b], clusters)
    if pair.a.errors is not None and pair.b.errors is not None:
        for place, name in enumerate(ERRORS):
            a, b = pair.a.errors[pair.rows_a, place], pair.b.errors[pair.rows_b, place]
            yield _mean(way, FIGURES[name].title, a, b, clusters, "score")
    if pair.a.ranks is None or pair.b.ranks is None:
        return
    a, b = pair.a.ranks[pair.rows_a], pair.b.ranks[pair.rows_b]
    for k in _RECALL_AT:
        yield _mean(way, f"R@{k}", recall(a, k), recall(b, k), clusters, "hit")
    yield _median(way, "MdR", a, b, clusters)
    yield _mean(way, "MnR", a, b, clusters, "rank")


def _accuracies(pair: _Pair, a: np.ndarray, b: np.ndarray, clusters: np.ndarray) -> Iterator[Figure]:
    kind = "hit" if np.isin([a, b], (0, 100)).all() else "score"
    score = pair.a.score if pair.a.score == pair.b.score else _ANY_SCORE
    yield _mean(pair.direction, score, a, b, clusters, kind)
    types = np.array([(pair.a.types or [""] * len(pair.a))[row] for row in pair.rows_a])
    for name in sorted(set(types.tolist())):
        own = types == name
        if pair.a.types is not None:
            yield _mean(pair.direction, f"{score} {name}", a[own], b[own], clusters[own], kind)


def _mean(way: str, name: str, a: np.ndarray, b: np.ndarray, clusters: np.ndarray, kind: Any) -> Figure:
    found = paired([b], [a], clusters, kind)
    return Figure(
        *(way, name, len(a), float(a.mean()), float(b.mean()), found.delta, found.low, found.high, found.p),
        test=found.test,
    )


def _median(way: str, name: str, a: np.ndarray, b: np.ndarray, clusters: np.ndarray) -> Figure:
    low, high = interval(resampled_medians(b, clusters) - resampled_medians(a, clusters))
    ours, theirs = float(np.median(a)), float(np.median(b))
    return Figure(way, name, len(a), ours, theirs, theirs - ours, low, high)


def _adjusted(figures: list[Figure]) -> list[Figure]:
    adjusted = iter(holm([figure.p for figure in figures if figure.p is not None]))
    return [figure if figure.p is None else replace(figure, p_holm=next(adjusted)) for figure in figures]


def _overlap(pair: _Pair) -> dict[str, int]:
    found = overlap_of(right(pair.a)[pair.rows_a], right(pair.b)[pair.rows_b])
    return {"both": found.both, "only_a": found.only_a, "only_b": found.only_b, "none": found.neither}


# --- queries that changed -----------------------------------------------------------------------------------------


def _changes(pair: _Pair, words_a: dict[tuple[str, str], str], words_b: dict[tuple[str, str], str]) -> list[Change]:
    a, b = _values(pair.a)[pair.rows_a], _values(pair.b)[pair.rows_b]
    changes = []
    for place in np.flatnonzero(a != b).tolist():
        row_a, row_b = int(pair.rows_a[place]), int(pair.rows_b[place])
        hit_a, hit_b = _first(pair.a, row_a), _first(pair.b, row_b)
        query = pair.ids[place]
        changes.append(
            Change(
                direction=pair.direction,
                query=query,
                words=words_a.get((pair.direction, query)),
                target=_at(pair.a.targets, row_a) or _at(pair.b.targets, row_b),
                a=a[place].item(),
                b=b[place].item(),
                hit_a=hit_a,
                hit_b=hit_b,
                hit_words_a=_said(pair.direction, hit_a, words_a),
                hit_words_b=_said(pair.direction, hit_b, words_b),
            )
        )
    return sorted(changes, key=lambda change: change.gain, reverse=True)


def _values(queries: Queries) -> np.ndarray:
    if queries.errors is not None:
        return queries.errors[:, 0]
    values = queries.scores if queries.ranks is None else queries.ranks
    assert values is not None, "queries have ranks, scores or errors"
    return values


def _first(queries: Queries, row: int) -> str | None:
    return queries.hits[row][0] if queries.hits is not None and queries.hits[row] else None


def _at(texts: list[str] | None, row: int) -> str | None:
    return None if texts is None else texts[row]


def _said(direction: str, hit: str | None, words: dict[tuple[str, str], str]) -> str | None:
    """What a hit says: a video, or the captions of one, by the first of its captions; an answer says itself."""
    if hit is None or direction in _ASKED:
        return None
    order = ("v2t", "t2v") if direction == "t2v" else ("t2v", "v2t")
    return next((words[way, hit] for way in order if (way, hit) in words), None)


# --- what is told -------------------------------------------------------------------------------------------------


def show(found: Comparison, top: int) -> None:
    """Prints a comparison, and of the queries that changed the `top` most gained and most lost of each direction."""
    for letter, run in (("A", found.a), ("B", found.b)):
        print(f"{letter}: {_name(run)}, {one_line(run.path.as_posix())}")
    for name, (one, other) in found.differing.items():
        print(f"not comparable: {one_line(name)} is {one_line(one)} in A, {one_line(other)} in B")
    for direction, count in found.left_out.items():
        print(f"not the same queries: {count} of {direction} that only one of the runs has are left out")
    print(f"{_stamp(found)}B compared with A, on the same queries")
    for direction in found.overlap:
        _show_figures(direction, [figure for figure in found.figures if figure.direction == direction])
    for direction, counts in found.overlap.items():
        _, right = _ASKED.get(direction, ("rank", "ranked first"))
        if any(figure.name in _PARTLY_RIGHT for figure in found.figures):
            right = "answered with a score above one half"
        print(
            f"{direction}: {right} by both {counts['both']}, only by A {counts['only_a']}, only by B "
            f"{counts['only_b']}, by none {counts['none']}"
        )
    for direction in found.overlap:
        if direction in _SHOWN and top:
            _show_changes(direction, [change for change in found.changed if change.direction == direction], top)


def _show_figures(direction: str, figures: list[Figure]) -> None:
    header = ["", "A", "B", "B - A", "95 % interval", "p", "p (Holm)"]
    print_table(f"{direction}, {figures[0].n} queries", header, [_cells(figure) for figure in figures], left=1)
    for test in dict.fromkeys(figure.test for figure in figures if figure.test):
        print(f"p of {', '.join(one_line(figure.name) for figure in figures if figure.test == test)}: {_TESTS[test]}")


def _show_changes(direction: str, changes: list[Change], top: int) -> None:
    of_answers = direction in _ASKED
    neutral = 0.0 if of_answers else 1.0
    gained = [change for change in changes if change.gain[0] > neutral]
    lost = [change for change in reversed(changes) if change.gain[0] < neutral]
    value, _ = _ASKED.get(direction, ("rank", ""))
    hit, target = ("answer", "expected") if of_answers else ("first hit", "target")
    header = ["query", "words", target, f"{hit} A", f"{hit} B", f"{value} A", f"{value} B"]
    for what, some in (("better", gained), ("worse", lost)):
        if some:
            does = "answers" if of_answers else "ranks"
            title = f"{direction}: {min(top, len(some))} of {len(some)} queries that B {does} {what} than A"
            print_table(title, header, [_change_cells(change) for change in some[:top]], left=5)


def _cells(figure: Figure) -> list[str]:
    p, adjusted = (("-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}") for p in (figure.p, figure.p_holm))
    d = figure_titled(figure.name).decimals
    return [
        *(one_line(figure.name), f"{figure.a:.{d}f}", f"{figure.b:.{d}f}", f"{figure.delta:+.{d}f}"),
        *(f"{figure.low:+.{d}f} to {figure.high:+.{d}f}", p, adjusted),
    ]


def _change_cells(change: Change) -> list[str]:
    hits = ((change.hit_a, change.hit_words_a), (change.hit_b, change.hit_words_b))
    texts = (_cut(" ".join(filter(None, hit))) or "-" for hit in hits)
    return [
        *(_cut(change.query), _cut(change.words or "") or "-", _cut(change.target or "") or "-", *texts),
        *(f"{change.a:g}", f"{change.b:g}"),
    ]


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _LETTERS else f"{line[: _LETTERS - 1]}…"


def _name(run: Run) -> str:
    model, identity = run.record["model"], run.record["id"]
    return one_line(f"{model['method']} on {model['backbone']}, {identity['config_hash'][:8]}, seed {identity['seed']}")


def _stamp(found: Comparison) -> str:
    made = any(run.record["origin"] == "fixture" for run in (found.a, found.b))
    return f"{FIXTURE_STAMP}: " if made else ""


def write_json(found: Comparison, path: Path) -> None:
    """Writes all of a comparison.

    Raises:
        FileError: it cannot be written.
    """
    content = {
        "schema": SCHEMA,
        **{letter: _described(run) for letter, run in (("a", found.a), ("b", found.b))},
        "differing": found.differing,
        "left_out": found.left_out,
        "figures": [asdict(figure) for figure in found.figures],
        "overlap": found.overlap,
        "changed": [asdict(change) for change in found.changed],
    }
    # Names of folders may be any bytes.
    write_atomically(path, plain_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)) + "\n")


def _described(run: Run) -> dict[str, Any]:
    model = run.record["model"]
    return {
        "path": run.path.as_posix(),
        "origin": run.record["origin"],
        "method": model["method"],
        "backbone": model["backbone"],
        **{name: run.record["id"][name] for name in ("config_hash", "seed")},
    }


def write_csv(found: Comparison, path: Path) -> None:
    """Writes the queries that changed, one line each; no cell is a formula to a spreadsheet.

    Raises:
        FileError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Change.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in asdict(change).items()} for change in found.changed)
    write_atomically(path, text.getvalue())
