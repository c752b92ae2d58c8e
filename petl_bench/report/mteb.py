"""Result files of MTEB beside run records: a table of its own, for its test sets are not those of the papers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from petl_bench.report.collect import Rejected, walk
from petl_bench.storage.untrusted import UnreadableError, parse_json, read_text, shown

META_NAME = "model_meta.json"
#: where results lie that were made with arguments of the user's
_EXPERIMENTS = "experiments"
TITLE = "MTEB: own test sets, not those of the papers"
NOTE = (
    "From result files of MTEB: none of its retrieval tests is one of the papers', so no figure here may be held "
    "against one of another table. R@K is 100 times its `hit_rate_at_k`; ties are decided by its rule."
)
#: of that table, see `petl_bench.report.cells.of_mteb`
COLUMNS = ("Task", "Model", "Revision", "R@1", "R@5", "R@10", "Main score", "State", "MTEB")
#: what a main score may be, by its name in a file
_MAIN = {"ndcg_at_10": "nDCG@10", "accuracy": "accuracy", "max_ap": "max AP", "v_measure": "V-measure"}


class MtebResult(NamedTuple):
    """A split and subset of a result file.

    Attributes:
        task: of MTEB.
        dataset_revision: of its data.
        split: of them.
        subset: of them.
        model: name.
        revision: of the model, with the experiment's name if there is one.
        recall: R@1, R@5 and R@10 in percent; None of what is no retrieval.
        main: its main score, in percent.
        main_title: what that is.
        state: `trained on it`, `not trained on it`, or empty where nobody says.
        version: of MTEB.
        path: of the file.
    """

    task: str
    dataset_revision: str
    split: str
    subset: str
    model: str
    revision: str
    recall: tuple[float, float, float] | None
    main: float
    main_title: str
    state: str
    version: str
    path: Path

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**self._asdict(), "recall": self.recall and list(self.recall), "path": self.path.as_posix()}


class Found(NamedTuple):
    """Results by task, the best first, and files that are none."""

    results: tuple[MtebResult, ...]
    rejected: list[Rejected]


def collect_mteb(folders: Iterable[Path]) -> Found:
    """Reads every result file of MTEB below some folders: they lie beside what it says of the model."""
    paths: dict[Path, Path] = {}
    for folder in folders:
        for place, names in walk(folder, lambda _: None):  # what cannot be listed, `collect` tells
            for path in _results_in(Path(place), names):
                paths.setdefault(path.resolve(), path)
    results: list[MtebResult] = []
    rejected: list[Rejected] = []
    for path in sorted(paths.values()):
        try:
            results += _read(path)
        except UnreadableError as error:
            rejected.append(Rejected(path, str(error)))
    return Found(_in_order(results), rejected)


def _results_in(place: Path, names: Sequence[str]) -> list[Path]:
    beside = META_NAME in names or (place.parent.name == _EXPERIMENTS and _meta(place).is_file())
    return [place / name for name in names if name.endswith(".json") and name != META_NAME] if beside else []


def _read(path: Path) -> list[MtebResult]:
    """The entries of a result file.

    Raises:
        UnreadableError: it is none, or the file about the model beside it is none.
    """
    content = parse_json(read_text(path))
    try:
        meta = parse_json(read_text(_meta(path.parent)))
    except UnreadableError as error:
        raise UnreadableError(f"{META_NAME} beside it cannot be read: {error}") from error
    try:
        return [
            _result(path, content, meta, split, entry)
            for split, entries in content["scores"].items()
            for entry in entries
        ]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        told = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UnreadableError(f"no result of MTEB: {told}") from error


def _in_order(results: Iterable[MtebResult]) -> tuple[MtebResult, ...]:
    """By task, the best first; the same result found twice counts once."""
    kept = {result[:-1]: result for result in sorted(results, key=lambda result: result.path)}
    order = sorted(kept.values(), key=lambda one: (one.task, one.split, one.subset, -one.main, one.model, one.revision))
    return tuple(order)


def _meta(folder: Path) -> Path:
    own = folder / META_NAME
    return own if folder.parent.name != _EXPERIMENTS or own.is_file() else folder.parent.parent / META_NAME


def _result(
    path: Path, content: Mapping[str, Any], meta: Mapping[str, Any], split: str, entry: Mapping[str, Any]
) -> MtebResult:
    task, trained_on = _text(content["task_name"], "task_name"), meta.get("training_datasets")
    state = ""
    if isinstance(trained_on, list):
        state = "trained on it" if task in trained_on else "not trained on it"
    experiment = path.parent.name if path.parent.parent.name == _EXPERIMENTS else ""
    main = _share(entry["main_score"], "main_score", least=-1)
    return MtebResult(
        task,
        _text(content.get("dataset_revision") or "", "dataset_revision"),
        _text(split, "split"),
        _text(entry.get("hf_subset") or "default", "hf_subset"),
        _text(meta["name"], "name"),
        " ".join(filter(None, (_text(meta.get("revision") or "", "revision"), experiment))),
        _recall(entry),
        main,
        next((title for name, title in _MAIN.items() if entry.get(name) == entry["main_score"]), "main score"),
        state,
        _text(content.get("mteb_version") or "", "mteb_version"),
        path,
    )


def _recall(entry: Mapping[str, Any]) -> tuple[float, float, float] | None:
    names = [f"hit_rate_at_{k}" for k in (1, 5, 10)]
    if not all(name in entry for name in names):
        return None
    first, second, third = (_share(entry[name], name) for name in names)
    return first, second, third


def _share(value: Any, name: str, least: int = 0) -> float:
    """In percent."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {shown(value)}, no number")
    if not least <= value <= 1:
        raise ValueError(f"{name} is {shown(value)}, no share")
    return 100.0 * value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > 500:
        raise ValueError(f"{name} is {shown(value)}, no name")
    return value
