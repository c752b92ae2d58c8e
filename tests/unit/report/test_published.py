"""The packaged table of published figures is consistent, complete where that can be told, and compared fairly."""

from __future__ import annotations

import csv
import hashlib
import importlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder, list_configs
from petl_bench.report import published as module
from petl_bench.report import reproduction
from petl_bench.report.cells import state
from petl_bench.report.collect import Collection, Run, collect
from petl_bench.report.details import Beside
from petl_bench.report.document import as_document
from petl_bench.report.leaderboard import build_report
from petl_bench.report.markdown import render_markdown
from petl_bench.report.model import Interval, Report, Row, Table, Value
from petl_bench.report.page import Pages
from petl_bench.report.published import Figure, published
from petl_bench.report.recipes import departures
from petl_bench.report.reproduction import Comparison, compare, matches, state_of, with_published
from petl_bench.report.sheets import render_wide
from petl_bench.report.tables import build_tables
from petl_bench.report.thumbnails import Clips
from petl_bench.runs.record import leaves
from petl_bench.storage.dotted import put
from tests.records import make_record
from tests.reports import report_of, tables_of

FIGURES = published().figures
PERCENT = {"R1", "R5", "R10", "R50", "accuracy", "wups"}
OTHER = {"MdR", "MnR", "sum", "mse", "change_R1"}
ENTRY = {"method", "recipes", "t2v", "v2t", "answers", "remarks", *module._COSTS}
TABLE = {"source", "where", "remarks", "figures", *module._SHARED}
FACTOR = "MV-Adapter (CVPR'24 factor)"
PUBLISHED = 46.2  # of MV-Adapter on MSR-VTT, t2v R@1, in table 1


def loaded() -> dict[str, Any]:
    return yaml.safe_load(Path(module.__file__).with_name("published.yaml").read_text(encoding="utf-8"))


# --- the table


def test_names_are_known_and_used() -> None:
    table = loaded()
    assert {figure.source for figure in FIGURES} == set(published().sources)
    assert {name for figure in FIGURES for name in figure.recipes} == set(published().recipes)
    assert {source.read for source in published().sources.values()} <= {
        *("table", "image", "digitised", "abstract", "README", "third party", "data")
    }
    for group in table["tables"]:
        assert group.keys() <= TABLE, group.keys() - TABLE
        for entry in group["figures"]:
            assert entry.keys() <= ENTRY, entry
            assert {"t2v", "v2t", "answers"} & entry.keys(), entry
            for direction in ("t2v", "v2t", "answers"):
                assert entry.get(direction, {}).keys() <= PERCENT | OTHER | {"sd"}, entry


def test_figures_are_possible() -> None:
    for figure in FIGURES:
        require_possible(figure)


def require_possible(figure: Figure) -> None:
    metrics = figure.metrics
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert all(0 <= value <= 100 for name, value in metrics.items() if name in PERCENT)
    assert metrics or figure.costs or figure.remarks, "it says something"
    recalls = [metrics[name] for name in ("R1", "R5", "R10", "R50") if name in metrics]
    assert recalls == sorted(recalls)
    if {"R1", "R5", "R10", "sum"} <= metrics.keys():
        total = metrics["R1"] + metrics["R5"] + metrics["R10"]
        assert abs(total - metrics["sum"]) <= 0.15 + 1e-9, "each of them is rounded"
    assert all(metrics.get(name, 1) >= 1 for name in ("MdR", "MnR"))
    assert len(figure.sd) in (0, 3)
    assert not re.search(
        r"recall|unverified|\bmem\b|memory of|guess", f"{figure.remarks} {figure.where}", re.IGNORECASE
    )


def test_no_figure_is_there_twice() -> None:
    keys = Counter(
        (f.source, f.where, f.method, f.backbone, f.dataset, f.protocol, f.direction, tuple(f.metrics.items()))
        for f in FIGURES
    )
    assert [key for key, times in keys.items() if times > 1] == []


def test_no_source_is_somebody_s_memory() -> None:
    told = " ".join(f"{name} {source.citation}" for name, source in published().sources.items())
    assert not re.search(r"recall|unverified|\[L\]|\[mem\]|guess", told, re.IGNORECASE)


@pytest.mark.parametrize("name", published().recipes)
def test_a_recipe_is_a_packaged_configuration_of_that_method(name: str) -> None:
    recipe = published().recipes[name]
    assert f"{name}.yaml" in list_configs()
    config = composed(config_folder() / f"{name}.yaml")
    options = config["model"]["init_args"]
    for option, value in recipe.options.items():
        found: Any = options
        for part in option.split("."):
            found = found[part]
        assert found == value, option
    backbone = options["backbone"]["init_args"]["architecture"].removesuffix("-quickgelu").lower()
    family = "blip" if "BLIP" in options["backbone"]["class_path"] else "clip"
    assert recipe.backbone == f"{family}-{backbone}"
    assert recipe.method == label(config["model"])
    package, _, data = config["data"]["class_path"].rpartition(".")
    dataset = getattr(importlib.import_module(package), data).name
    for figure in FIGURES:
        if name in figure.recipes:
            assert (figure.backbone, figure.dataset) == (recipe.backbone, dataset)


def label(model: dict[str, Any]) -> str:
    """What records call a method, which its options decide; here on a tiny backbone."""
    from petl_bench.tasks.retrieval import Retrieval

    options = {name: made(value) for name, value in model["init_args"].items() if name not in ("task", "optimizer")}
    return made({**model, "init_args": {**options, "task": Retrieval()}}).label


def made(value: Any) -> Any:
    """What a class path and its arguments stand for; of a backbone the tiny one."""
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    package, _, name = value["class_path"].rpartition(".")
    kind = getattr(importlib.import_module(package), name)
    if package.startswith("petl_bench.backbones"):
        return kind("tiny", None)
    return kind(**{name: made(item) for name, item in value["init_args"].items()})


# --- what the specifications hold

#: how a source is called there -> here
SOURCES = {
    "MV-Adapter v2": "mv-adapter",
    "STOP (CVPR": "stop",
    "Cross-Modal Adapter (Pattern": "cross-modal-adapter-2025",
    "Cross-Modal Adapter arXiv": "cross-modal-adapter",
    "TempMe (ICLR": "tempme",
    "TempMe review": "tempme-review",
    "DiscoVLA": "discovla",
    "DGL README": "dgl",
    "VoP teaser": "vop",
    "wizwand.com page of the RAP": "rap",
    "Token Mixing": "token-mixing",
    "paperswithcode": "papers-with-code",
    "two third-party": "clip4clip-quoted",
    "mmaction2": "mmaction2",
    "DRL README": "drl",
    "arXiv 2302.06605": "uniadapter",
    "UniAdapter.png": "uniadapter-figure",
    "wizwand.com page for the paper": "uniadapter-quoted",
    "ICLR 2024 review": "uniadapter-review",
    "LAVIS": "lavis",
    "github.com/MikeWangWZHL": "vidil",
}
DIRECTIONS = {"t2v": "t2v", "t2i": "t2v", "v2t": "v2t", "i2t": "v2t", "qa": "answers", "": "answers"}
METRICS = ("R1", "R5", "R10", "MdR", "MnR", "accuracy")


def known(row: dict[str, str]) -> tuple[Any, ...]:
    source = next(ours for theirs, ours in SOURCES.items() if row["source"].startswith(theirs))
    values = tuple(float(row[name]) if row.get(name) else None for name in METRICS)
    size = re.fullmatch(r"([\d.]+)(%|M)", row["trainable_params"] or "")
    return source, dataset(row["dataset"]), DIRECTIONS[row["direction"].lower()], values, size and size.groups()


def dataset(name: str) -> str:
    plain = re.sub("[^a-z0-9]", "", name.lower())
    names = (
        "msrvttqa",
        "msvdqa",
        "msrvtt",
        "msvd",
        "lsmdc",
        "didemo",
        "activitynet",
        "vatex",
        "flickr30k",
        "coco",
        "vqav2",
    )
    return next((known for known in names if plain.startswith(known)), "other")


def ours(figure: Figure) -> tuple[Any, ...]:
    values = tuple(figure.metrics.get(name) for name in METRICS)
    size = re.fullmatch(r"([\d.]+) (%|M)", figure.costs.get("trainable", ""))
    return figure.source, dataset(figure.dataset), figure.direction, values, size and size.groups()


def test_every_figure_that_was_read_is_here(shared: Any) -> None:
    folder = shared / "specs" / "published"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    rows = [row for path in sorted(folder.glob("*.csv")) for row in csv.DictReader(path.open(encoding="utf-8"))]
    read = [row for row in rows if not row["source"].startswith("RECALLED") and "copied from" not in row["notes"]]
    assert len(read) > 300
    have = Counter(map(ours, FIGURES))
    lacking = [row for row in read if not fits(known(row), have)]
    assert lacking == []


def test_nothing_that_was_only_recalled_is_here(shared: Any) -> None:
    folder = shared / "specs" / "published"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    rows = [row for path in sorted(folder.glob("*.csv")) for row in csv.DictReader(path.open(encoding="utf-8"))]
    recalled = {known({**row, "source": "LAVIS"})[1:4] for row in rows if row["source"].startswith("RECALLED")}
    read = {known(row)[1:4] for row in rows if not row["source"].startswith("RECALLED")}
    assert recalled - read
    assert not {ours(figure)[1:4] for figure in FIGURES} & (recalled - read)


def fits(row: tuple[Any, ...], have: Counter[tuple[Any, ...]]) -> bool:
    """Takes a figure of the row out of those that are there; some sizes were computed, and are not a source's."""
    for found in (row, (*row[:4], None), (*row[:4], ("2.2", "%")), (*row[:4], ("0", "M"))):
        if have[found]:
            have[found] -= 1
            return True
    return False


# --- measured rows beside it


#: by the packaged recipe, as far as a record knows
TRAINED = make_record()["train"] | {
    "augmentation": None,
    "optimizer": "AdamWCosine",
    "recipe": {"name": "msrvtt_mvadapter_factor", "max_epochs": 5},
}


def factor(**overrides: Any) -> dict[str, Any]:
    """A run of MV-Adapter as published, on MSR-VTT."""
    usual: dict[str, Any] = {
        "model__method": FACTOR,
        "model__backbone": "clip-vit-b-16-quickgelu",
        "model__method_config": {"bottleneck_dim": 64, "tying": {"init_args": {"layers": 2}}},
        "model__trainable_params": 3_572_736,
        "model__total_params": 149_620_737,
        "protocol__id": "msrvtt-1kA-9k/v1",
        "protocol__selection": "last",
        "train": TRAINED,
        "eval__t2v__R1": 46.0,
    }
    return make_record(**{**usual, **overrides})


#: all that is to be known of a figure, in a source that says it
SAID = replace(
    next(figure for figure in FIGURES if "msrvtt_mvadapter_factor" in figure.recipes), selection="last", pixels=224
)


def trained(folder: Path, changes: Mapping[str, Any] | None = None, **overrides: Any) -> Run:
    """A run with its configuration: the packaged one of MV-Adapter on MSR-VTT, and what differs by dotted key."""
    config = composed(config_folder() / "msrvtt_mvadapter_factor.yaml")
    resolved = {"trainer.accumulate_grad_batches": 1, "trainer.gradient_clip_val": None}
    for key, value in {**resolved, **(changes or {})}.items():
        put(config, key, value)
    text = yaml.safe_dump(config)
    digest = hashlib.sha256(text.encode()).hexdigest()
    record = factor(**{"integrity__config_sha256": digest, **overrides})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return Run(folder / "result.json", record)


def table_of(run: Run) -> Table:
    (table,) = build_tables([run])
    return table


def held(record: dict[str, Any]) -> Comparison:
    """How the row of a record alone stands to a figure of which all is known."""
    (table,) = tables_of(record)
    return compare(table.rows[0], table, SAID)


def row_of(*records: dict[str, Any]) -> tuple[Row, Table]:
    tables, _ = with_published(tables_of(*records))
    (table,) = tables
    return table.rows[0], table


def test_a_recipe_stands_beside_its_figures() -> None:
    row, _ = row_of(factor())
    figure = row.published["t2v R@1"]
    assert (figure.value, figure.source, figure.where) == (PUBLISHED, "mv-adapter", "Table 1")
    assert figure.difference == pytest.approx(-0.2)
    assert row.published["v2t R@10"].value == 83.9
    assert "t2v MdR" not in row.published, "the source has none"
    assert (figure.comparable, figure.why) == ("no", "the paper chose the epoch on test, here last")
    assert row.state == "not comparable"


def test_the_interval_of_the_difference_is_ours_in_every_format() -> None:
    _, table = row_of(factor())
    title = "t2v R@1"
    (row,) = table.rows
    values: dict[str, Value | None] = {**row.values, title: Value(46.0, None, 1, Interval(43.0, 49.5))}
    tables, figures = with_published([replace(table, rows=[replace(row, values=values)])])
    apart = tables[0].rows[0].published[title].interval
    assert apart is not None
    assert apart == pytest.approx((43.0 - PUBLISHED, 49.5 - PUBLISHED))
    assert tables[0].rows[0].published["v2t R@1"].interval is None, "ours has none"
    (line,) = csv.DictReader(render_wide(tables).splitlines())
    assert float(line[f"{title} minus published low"]) == apart[0]
    assert float(line[f"{title} minus published high"]) == apart[1]
    report = Report(tables, [], [], figures)
    document = as_document(report)["tables"][0]["rows"][0]
    assert document["published"][title]["interval"] == apart
    assert "(ours −0.2 [−3.2, 3.3])" in Pages(report, Beside(), Clips()).index()


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"protocol__id": "msrvtt-full/v1"}, "protocol msrvtt-1kA-9k, here msrvtt-full"),
        (
            {"protocol__inference": make_record()["protocol"]["inference"] | {"dual_softmax": True}},
            "dual_softmax none, here yes",
        ),
        ({"protocol__inference": make_record()["protocol"]["inference"] | {"rerank_k": 16}}, "rerank_k none, here 16"),
        ({"protocol__preprocess": make_record()["protocol"]["preprocess"] | {"frames": 8}}, "12 frames, here 8"),
        (
            {"protocol__preprocess": make_record()["protocol"]["preprocess"] | {"jpeg_quality": 95}},
            "frames here are JPEG of quality 95",
        ),
        ({"model__trainable_params": 1_000_000}, "2.39 % are trained, here 0.668 %"),
        ({"train": make_record()["train"] | {"augmentation": "rand-m7"}}, "augmentation none, here rand-m7"),
        ({"train": make_record()["train"] | {"limits": {"max_steps": "3"}}}, "trained here: max_steps 3"),
        ({"protocol__partial": True}, "not all videos are evaluated here"),
    ],
)
def test_what_differs_is_not_comparable(overrides: dict[str, Any], why: str) -> None:
    row, _ = row_of(factor(**overrides))
    figure = row.published["t2v R@1"]
    assert (figure.comparable, row.state) == ("no", "not comparable")
    assert why in figure.why
    assert figure.difference is not None, "the numbers stand there all the same"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"model__pretraining_data": "laion2b"}, "weights here: laion2b"),
        (
            {"train": {name: value for name, value in TRAINED.items() if name != "augmentation"}},
            "augmentation here is not known",
        ),
    ],
)
def test_what_is_not_known_here_is_said(overrides: dict[str, Any], why: str) -> None:
    assert held(factor(**overrides)).comparable == "unknown"
    assert why in held(factor(**overrides)).why


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        ({"protocol": None}, "which split is not said"),
        ({"inference": None}, "how it scores is not said"),
        ({"frames": None}, "the number of frames is not said"),
        ({"pixels": None}, "the number of pixels is not said"),
        ({"selection": None}, "the choice of the epoch is not said"),
        ({"costs": {}}, "how much is trained is not said"),
        ({"costs": {"trainable": "about 2 %"}}, "how much is trained is not said"),
        ({"augmentation": None}, "augmentation is not said"),
    ],
)
def test_what_a_source_does_not_say_is_unknown(tmp_path: Path, fact: dict[str, Any], why: str) -> None:
    table = table_of(trained(tmp_path))
    assert compare(table.rows[0], table, replace(SAID, **fact)) == ("unknown", why)


def test_all_that_is_known_and_equal_is_comparable(tmp_path: Path) -> None:
    table = table_of(trained(tmp_path))
    assert compare(table.rows[0], table, SAID) == ("yes", "")


@pytest.mark.parametrize(
    ("theirs", "ours", "why"),
    [
        ("best-test", "last", "the paper chose the epoch on test, here last"),
        ("best-test", "best-val", "the paper chose the epoch on test, here best-val"),
        ("last", "best-val", "epoch last, here best-val"),
    ],
)
def test_another_choice_of_the_epoch_is_not_comparable(tmp_path: Path, theirs: str, ours: str, why: str) -> None:
    table = table_of(trained(tmp_path, protocol__selection=ours))
    assert compare(table.rows[0], table, replace(SAID, selection=theirs)) == ("no", why)


def test_no_packaged_figure_of_a_recipe_states_all_of_it() -> None:
    """As the README says."""
    ours = [figure for figure in FIGURES if figure.recipes]
    assert {figure.selection for figure in ours} == {"best-test", None}
    assert {figure.source for figure in ours if figure.selection == "best-test"} == {"mv-adapter"}


# --- the recipe that was trained


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"trainer.max_epochs": 1}, "max_epochs 5 in msrvtt_mvadapter_factor, here 1"),
        ({"trainer.accumulate_grad_batches": 4}, "accumulate_grad_batches 1 in msrvtt_mvadapter_factor, here 4"),
        ({"data.init_args.batch_size": 4}, "batch_size 128 in msrvtt_mvadapter_factor, here 4"),
        (
            {"model.init_args.optimizer.init_args.weight_decay": 9.0},
            "optimizer.weight_decay 0.2 in msrvtt_mvadapter_factor, here 9.0",
        ),
        (
            {"model.init_args.optimizer": {"class_path": "mine.SGD", "init_args": {"lr": 0.1}}},
            "optimizer 'AdamWCosine' in msrvtt_mvadapter_factor, here 'SGD'",
        ),
        ({"model.init_args.scale": 3}, "scale 0.1 in msrvtt_mvadapter_factor, here 3"),
    ],
)
def test_another_training_is_not_comparable(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    table = table_of(trained(tmp_path, changes))
    assert compare(table.rows[0], table, SAID) == ("no", why)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"trainer.precision": "32-true"}, "precision 'bf16-mixed' in msrvtt_mvadapter_factor, here '32-true'"),
        (
            {"trainer": {"max_epochs": 5, "precision": "bf16-mixed", "accumulate_grad_batches": 1}},
            "gradient_clip_val here is not known",
        ),
        (
            {"model.init_args.backbone.init_args.architecture": "/home/me/own.json"},
            "backbone.architecture is not that of msrvtt_mvadapter_factor",
        ),
        ({"data.init_args.train_list": "/mine/list.csv"}, "train_list is not that of msrvtt_mvadapter_factor"),
    ],
)
def test_what_may_be_another_training_is_unknown(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    table = table_of(trained(tmp_path, changes))
    assert compare(table.rows[0], table, SAID) == ("unknown", why)


def test_where_files_lie_is_no_other_training(tmp_path: Path) -> None:
    changes = {"data.init_args.root": "/mine", "model.init_args.backbone.init_args.pretrained": "/mine/clip.pt"}
    table = table_of(trained(tmp_path, changes | {"trainer.devices": 8, "seed_everything": 3}))
    assert compare(table.rows[0], table, SAID) == ("yes", "")


def test_the_nearest_of_its_recipes_counts(tmp_path: Path) -> None:
    official = composed(config_folder() / "msrvtt_mvadapter_official.yaml")["model"]["init_args"]["optimizer"]
    table = table_of(trained(tmp_path, {"model.init_args.optimizer": official}))
    assert compare(table.rows[0], table, SAID) == ("yes", "")


@pytest.mark.parametrize(
    ("train", "comparable", "why"),
    [
        ({}, "unknown", "of its training only the name of msrvtt_mvadapter_factor is known"),
        ({"recipe": None}, "unknown", "its recipe is not known"),
        (
            {"recipe": {"name": "mine", "max_epochs": 5}},
            "unknown",
            "its recipe is called 'mine', not msrvtt_mvadapter_factor",
        ),
        ({"epochs": 1, "recipe": None}, "no", "epochs 5 in msrvtt_mvadapter_factor, here 1"),
        ({"epochs": 9}, "no", "epochs 5 in msrvtt_mvadapter_factor, here 9"),
        ({"epochs": 1}, "no", "trained here: 1 of 5 epochs"),
        ({"global_batch": 4}, "no", "global_batch 128 in msrvtt_mvadapter_factor, here 4"),
        ({"optimizer": "SGD"}, "no", "optimizer 'AdamWCosine' in msrvtt_mvadapter_factor, here 'SGD'"),
    ],
)
def test_a_record_without_its_configuration_knows_little(train: dict[str, Any], comparable: str, why: str) -> None:
    assert held(factor(train=TRAINED | train)) == (comparable, why)


def test_of_a_tested_adapter_little_is_known(tmp_path: Path) -> None:
    known = {name: TRAINED[name] for name in ("epochs", "steps", "recipe")}
    of_test = {"kind": "test", "train": None}
    run = trained(tmp_path, model__trained=known, **of_test)
    table = table_of(run)
    found = compare(table.rows[0], table, SAID)
    assert found.comparable == "unknown"
    assert "of its training only the name of msrvtt_mvadapter_factor is known" in found.why
    unknown = held(factor(model__trained=None, **of_test))
    assert (unknown.comparable, "training here is not known" in unknown.why) == ("unknown", True)


@pytest.mark.parametrize("text", ["", "- a list", "a: {", "x" * 1_000_001, "a: &a [1]\nb: !!python/name:os.system"])
def test_a_configuration_that_cannot_be_read_tells_nothing(tmp_path: Path, text: str) -> None:
    run = trained(tmp_path, integrity__config_sha256=hashlib.sha256(text.encode()).hexdigest())
    run.path.with_name("config.yaml").write_text(text, encoding="utf-8")
    table = table_of(run)
    assert compare(table.rows[0], table, SAID).comparable == "unknown"


def test_what_runs_wrote_is_their_packaged_recipe() -> None:
    """The records of the README: what is resolved says the same as what is packaged."""
    results = Path(__file__).parents[3] / "benchmarks" / "results" / "fixture"
    runs = collect([results]).runs if results.is_dir() else []  # until `make bench-fixture` has run
    named = [(run, run.record["train"]["recipe"]["name"]) for run in runs if run.record["train"]]
    assert bool(named) == results.is_dir()
    for run, name in named:
        assert departures([run], [name]) == ((), ())


@pytest.mark.parametrize("name", published().recipes)
def test_every_recipe_spells_out_its_training(name: str) -> None:
    settings = dict(leaves(composed(config_folder() / f"{name}.yaml")))
    assert {
        *("trainer.max_epochs", "trainer.precision", "data.init_args.batch_size", "data.init_args.train_captions"),
        *(
            "data.init_args.augmentation",
            "model.init_args.optimizer.class_path",
            "model.init_args.optimizer.init_args.lr",
        ),
    } <= settings.keys()


# --- the split


@pytest.mark.parametrize(
    ("overrides", "comparable", "why"),
    [
        ({"protocol__n_found": 900}, "no", "not all videos are evaluated here"),
        ({"protocol__n_expected": None}, "unknown", "how many videos the split has is not known here"),
    ],
)
def test_the_split_is_that_of_the_protocol(
    tmp_path: Path, overrides: dict[str, Any], comparable: str, why: str
) -> None:
    table = table_of(trained(tmp_path, **overrides))
    assert compare(table.rows[0], table, SAID) == (comparable, why)


def test_of_two_files_of_a_split_nobody_knows_which_is_the_published_one(tmp_path: Path) -> None:
    other = trained(tmp_path / "b", protocol__split_sha256="9" * 64)
    tables = build_tables([trained(tmp_path / "a"), other])
    found = [compare(table.rows[0], table, SAID, tables) for table in tables]
    assert found == [("unknown", "runs here have different files of this split")] * 2


# --- which of several rows is shown


def listed(monkeypatch: pytest.MonkeyPatch, *runs: Run) -> dict[str, Any]:
    monkeypatch.setattr(reproduction, "published", lambda: published()._replace(figures=(SAID,)))
    (one,) = with_published(build_tables(runs))[1]
    return one


def test_a_cut_training_with_more_hides_no_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole", id__config_hash="b" * 64)
    cut = trained(
        tmp_path / "cut",
        train=TRAINED | {"limits": {"max_steps": "20"}},
        eval__t2v__R1=60.0,
        id__config_hash="a" * 64,
    )
    assert listed(monkeypatch, cut, whole)["state"] == "within band"
    other = trained(tmp_path / "x", id__config_hash="0" * 64, protocol__preprocess__frames=10)
    assert listed(monkeypatch, cut, whole, other)["state"] == "within band"
    found = listed(monkeypatch, cut, other)
    assert (found["state"], found["why"]) == ("not comparable", "12 frames, here 10"), "whole before cut"


def test_of_equal_rows_the_one_with_more_seeds_is_shown_and_never_the_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, digit: str, r1: float, seed: int = 0) -> Run:
        return trained(tmp_path / name, eval__t2v__R1=r1, id__config_hash=digit * 64, id__seed=seed)

    one, better = run("one", "a", 44.0), run("better", "b", 46.0)
    assert listed(monkeypatch, better, one)["state"] == "off", "by the hash"
    seeds = [run(f"seed{seed}", "c", 40.0, seed) for seed in (0, 1)]
    assert listed(monkeypatch, better, one, *seeds)["row"] == f"{FACTOR} (cccccccc)"


def test_a_state_of_what_may_not_be_comparable_has_a_question_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubted = replace(SAID, pixels=None)
    monkeypatch.setattr(reproduction, "published", lambda: published()._replace(figures=(doubted,)))
    found = Collection([trained(tmp_path)], [])
    report = build_report(found)
    (row,) = report.tables[0].rows
    assert (row.state, row.doubt) == ("within band", "the number of pixels is not said")
    assert state(row) == "within band?, unpaired"
    page = render_markdown(report)
    assert "within band? (msrvtt" in page
    assert "within band?, unpaired" in page
    monkeypatch.setattr(reproduction, "published", lambda: published()._replace(figures=(SAID,)))
    assert state(build_report(found).tables[0].rows[0]) == "within band, unpaired"


@pytest.mark.parametrize(
    "overrides",
    [
        {"origin": "fixture"},
        {"model__method": "MV-Adapter (Kronecker)"},
        {"model__backbone": "clip-vit-b-32-quickgelu"},
        {"model__method_config": {"tying": {"init_args": {"layers": 3}}}},
        {"model__method_config": {"tying": "anything"}},
        {"protocol__dataset": "mine"},
    ],
)
def test_what_is_something_else_has_no_published_figure(overrides: dict[str, Any]) -> None:
    row, table = row_of(factor(**overrides))
    assert (row.published, row.state) == ({}, "")
    assert not [figure for figure in FIGURES if matches(row, table, figure)]


@pytest.mark.parametrize(
    ("mean", "sd", "interval", "state"),
    [
        (44.0, 0.1, Interval(43.0, 46.2), "reproduced"),
        (44.0, 0.1, Interval(43.0, 46.2 - 1e-12), "reproduced"),
        (48.0, 0.1, Interval(46.2, 49.0), "reproduced"),
        (48.0, 0.1, Interval(46.2 + 1e-12, 49.0), "reproduced"),
        (44.0, 0.1, Interval(43.0, 46.1), "off"),
        (45.2, None, None, "within band"),
        (45.1, None, None, "off"),
        (47.3, 0.6, None, "within band"),
        (47.5, 0.6, None, "off"),
    ],
)
def test_states(mean: float, sd: float | None, interval: Interval | None, state: str) -> None:
    value = Value(mean, sd, 3, interval)
    assert state_of(value, PUBLISHED, "yes") == state_of(value, PUBLISHED, "unknown") == state
    assert state_of(value, PUBLISHED, "no") == "not comparable"


def test_the_edge_of_the_band_belongs_to_it() -> None:
    for tenths in range(10, 990):
        assert state_of(Value((tenths + 10) / 10, None, 1), tenths / 10, "yes") == "within band"
        assert state_of(Value((tenths + 11) / 10, None, 1), tenths / 10, "yes") == "off"


def test_every_figure_is_listed_with_the_state_of_its_recipe() -> None:
    report = report_of(factor())
    assert len(report.published) == len(FIGURES)
    found = {one["where"]: one for one in report.published if "msrvtt_mvadapter_official" in one["recipes"]}
    assert {one["state"] for one in found.values()} == {"not comparable"}
    assert {one["comparable"] for one in found.values()} == {"no"}
    assert {(one["table"], one["row"]) for one in found.values()} == {(report.tables[0].id, FACTOR)}
    others = [one for one in report.published if one["where"] not in found or one["source"] != "mv-adapter"]
    assert {one["state"] for one in others} == {"no recipe", "not run"}
    assert all((one["state"] == "not run") == bool(one["recipes"]) for one in others)


@pytest.mark.parametrize("source", published().sources)
def test_the_table_of_every_source_is_rendered(source: str) -> None:
    page = render_markdown(Report([], [], [], with_published([])[1]))
    (part,) = (text for text in page.split("<details>") if text.startswith(f"<summary>{source}: "))
    rows = [line for line in part.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == sum(figure.source == source for figure in FIGURES)
    assert f"({published().sources[source].read})</summary>" in part
