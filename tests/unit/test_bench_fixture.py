"""The benchmark's own machinery: what is finished, what is run again, how rates are chosen. Trains nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.fixture import calls, claims, rates, recipes, runs, table
from benchmarks.fixture.__main__ import main
from benchmarks.fixture.calls import FailedCallError
from benchmarks.fixture.figures import AXES, Figures
from benchmarks.fixture.place import Place
from benchmarks.fixture.recipes import Recipe, Sizes
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import config_folder
from petl_bench.fixture import WRITERS
from petl_bench.report.statistics import paired
from petl_bench.runs.record import FILE_NAME
from petl_bench.storage.files import file_sha256
from tests.records import make_ranks, make_record, write_record

CHOSEN = ("fixture_zeroshot", "fixture_full", "fixture_linear", "fixture_lora", "fixture_st_adapter", "minimal_pairs")
#: what a pretended adapter makes of the axes whose clips show the same frames
IN_ORDER = {"ST-Adapter": 0.9}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A benchmark of a few recipes whose commands are pretended, on small data that is never written."""
    kept = [recipe for recipe in recipes.recipes() if recipe.name in CHOSEN]
    for module in (recipes, rates):
        monkeypatch.setattr(module, "recipes", lambda: kept)
    monkeypatch.setattr("benchmarks.fixture.figures.recipes", lambda: kept)
    monkeypatch.setattr(runs, "petl_bench", pretended)
    return Place(tmp_path / "work", tmp_path / "results", tmp_path / "rates.json", Sizes(4, 2, 1))


def pretended(arguments: Sequence[str], folder: Path, log: Path) -> None:
    """Writes what `fit` and `test` would."""
    given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments[1:])
    method = {"full": "Full", "lora": "LoRA", "linear": "Linear", "adapter": "ST-Adapter"}.get(
        given["config"].rpartition("_")[2], "ZeroShot"
    )
    if "ckpt_path" in given:
        at = (folder / given["ckpt_path"]).parent
        method = json.loads((at / FILE_NAME).read_text())["model"]["method"]
        _write_pairs(at, "test_pairs.json", method)
        return
    at = folder / "runs" / "msrvtt-fixture" / given["config"] / f"seed{given['seed_everything']}"
    if given["config"] == "minimal_pairs":
        _write_pairs(at, FILE_NAME, method)
        return
    at.mkdir(parents=True)
    (at / "config.yaml").write_text("a: 1\n")
    (at / "adapter.safetensors").write_bytes(b"large")
    ranks = make_ranks(20, 1)
    good = {"Full": 1, "LoRA": 2, "ST-Adapter": 2, "Linear": 8, "ZeroShot": 9}[method]
    for way in ("t2v", "v2t"):
        ranks[way] = np.array([1 if place % 10 >= good else 20 for place in range(20)], dtype=np.int32)
    record = make_record(
        model__method=method,
        id__seed=int(given["seed_everything"]),
        integrity__config_sha256=file_sha256(at / "config.yaml"),
        integrity__adapter_sha256=None,
        origin="fixture",
    )
    figures = {f"R{k}": 100 * float(np.mean(ranks["t2v"] <= k)) for k in (1, 5, 10, 50)}
    figures |= {"MdR": float(np.median(ranks["t2v"])), "MnR": float(np.mean(ranks["t2v"])), "n": 20}
    record["eval"] = {"t2v": figures, "v2t": dict(figures), "rsum": 2 * sum(figures[f"R{k}"] for k in (1, 5, 10))}
    record["eval"]["cost"] = {"clips_per_s": 1.0}
    write_record(at, ranks, record)


def _write_pairs(at: Path, name: str, method: str) -> None:
    """Pairs of clips, two questions each: of axes in time a half is right, but for who reads order."""
    questions = 40
    types = np.repeat(AXES, questions)
    right = np.where(np.isin(types, claims.IN_TIME), IN_ORDER.get(method, 0.5), 1.0)
    if method in IN_ORDER:
        right = np.where(np.isin(types, claims.IN_TIME), np.arange(len(types)) % 10 < 9, 1).astype(float)
    arrays = {
        "video_id": np.array([f"video{place}" for place in range(len(types))]),
        "text_id": np.array([str(place) for place in range(len(types))]),
        "text_video": np.arange(len(types)),
        "words": np.array(["which"] * len(types)),
        "answers": np.array(["a"] * len(types)),
        "correct": right,
        "question_type": types,
        "prediction": np.array(["a"] * len(types)),
    }
    if name == FILE_NAME:
        at.mkdir(parents=True)
        (at / "config.yaml").write_text("a: 1\n")
    digest = file_sha256(at / "config.yaml")
    record = make_record(model__method=method, integrity__adapter_sha256=None, integrity__config_sha256=digest)
    record["eval"] = {
        "accuracy": 100 * float(right.mean()),
        "per_type": {axis: 100 * float(right[types == axis].mean()) for axis in AXES},
        "n_per_type": dict.fromkeys(AXES, questions),
        "n": len(types),
        "cost": {"clips_per_s": 1.0},
    }
    record["origin"] = "fixture"
    written = write_record(at / "new", arrays, record).path
    stem = Path(name).stem
    written.with_name("ranks.npz").rename(at / ("ranks.npz" if name == FILE_NAME else f"{stem}_ranks.npz"))
    written.rename(at / name)
    (at / "new").rmdir()


def names(place: Place) -> list[str]:
    return sorted(f"{name} {seed}" for name, seed in runs.finished(place))


def test_what_follows_the_jobs_may_call_something(tmp_path: Path) -> None:
    """As the report does, which stands behind all runs."""
    assert dict(calls.side_by_side([tmp_path / "job"], lambda log: calls.petl_bench(["--version"], tmp_path, log), 1))
    calls.petl_bench(["--version"], tmp_path, tmp_path / "after")
    assert (tmp_path / "job").read_text() == (tmp_path / "after").read_text() != ""


def test_everything_that_is_packaged_is_compared_once() -> None:
    found = [recipe.name for recipe in recipes.recipes()]
    assert len(found) == len(set(found))
    assert {"fixture_lora", "fixture_blip_lora", "fixtureqa_lora", "fixtureqa_blip_lora"} <= {*found}
    assert not [name for name in found if "choice" in name or "official" in name]
    order = [(recipe.name, seed) for recipe, seed in recipes.planned()]
    assert order.index(("fixture_lora", 0)) < order.index(("fixture_blip_lora", 0)) < order.index(("fixtureqa_lora", 0))
    assert order.index(("fixtureqa_blip_vpt", 0)) < order.index(("fixture_lora", 1))
    assert ("fixture_zeroshot", 1) not in order


def test_a_later_start_runs_what_is_missing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def counted(arguments: Sequence[str], folder: Path, log: Path) -> None:
        called.append(arguments[0])
        pretended(arguments, folder, log)

    monkeypatch.setattr(runs, "petl_bench", counted)
    assert runs.run_missing(place) == []
    assert len(names(place)) == len(called) - 4 * 3 == 2 + 4 * 3  # adapters have a test on pairs, too
    assert not list(place.results.rglob("adapter.safetensors"))
    called.clear()
    assert runs.run_missing(place) == []
    assert called == []
    next(place.results.rglob("test_pairs.json")).unlink()
    next(place.results.rglob("minimal_pairs/*/ranks.npz")).write_bytes(b"cut")
    assert runs.run_missing(place) == []
    assert called.count("fit") == 1
    assert len(names(place)) == 14


def test_a_changed_recipe_is_missing_and_its_runs_go(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.run_missing(place) == []
    lora = next(recipe for recipe in rates.recipes() if recipe.name == "fixture_lora")
    digest = lora.sha256(place.sizes)
    assert digest != lora.sha256(Sizes(4, 2, 2)) != lora.sha256(Sizes(5, 2, 1))
    lora.config["seed_everything"] = 7
    lora.config["data"]["init_args"]["root"] = "elsewhere"
    assert lora.sha256(place.sizes) == digest
    lora.config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.5
    assert lora.sha256(place.sizes) != digest
    assert lora.sha256(place.sizes, with_rate=False) == lora.sha256(place.sizes, with_rate=False)
    assert [name for name in names(place) if "lora" in name] == []
    monkeypatch.setattr(runs, "petl_bench", _failing(lambda arguments: True))
    assert len(runs.run_missing(place)) == 3
    assert len(names(place)) == 11
    assert not list(place.results.rglob("fixture_lora/*/result.json"))


def test_other_weights_are_another_recipe(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = next(recipe for recipe in rates.recipes() if recipe.name == "fixture_lora")
    before = lora.sha256(place.sizes)
    monkeypatch.setattr(recipes, "_weights_sha256", lambda pretrained: "others")
    assert lora.sha256(place.sizes) != before


def test_what_fails_stops_nothing_else_and_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"--config=fixture_full", "--seed_everything=1"}
    monkeypatch.setattr(runs, "petl_bench", _failing(lambda arguments: one <= {*arguments}))
    (failed,) = runs.run_missing(place)
    assert failed.startswith("fixture_full seed 1: petl-bench fit ended with 4, see ")
    assert len(names(place)) == 13


def test_an_interrupted_run_leaves_nothing_half(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: Sequence[str], folder: Path, log: Path) -> None:
        pretended(arguments, folder, log)
        if "--config=minimal_pairs" in arguments:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs, "petl_bench", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.run_missing(place)
    assert all(len(list(path.parent.glob("test_*.json"))) for path in place.results.rglob("fixture_l*/*/result.json"))
    (place.results / "half").mkdir(parents=True)
    (place.results / "half" / FILE_NAME).write_text("{")
    monkeypatch.setattr(runs, "petl_bench", pretended)
    assert runs.run_missing(place) == []
    assert len(names(place)) == 14
    assert not (place.results / "half").exists()


def test_whoever_stops_the_benchmark_stops_its_commands(tmp_path: Path) -> None:
    def call(job: str) -> None:
        calls.petl_bench(["fixture", "--help"] if job == "quick" else ["-"], tmp_path, tmp_path / "log.txt")

    found = dict(calls.side_by_side(["quick", "wrong"], call, 2))
    assert found["quick"] is None
    error = found["wrong"]
    assert isinstance(error, FailedCallError)
    assert error.code == 2
    assert not calls._running


def test_the_search_goes_on_in_the_direction_of_the_better_rate() -> None:
    assert rates.next_rate({}) == 1e-3
    assert rates.next_rate({1e-3: 5.0}) == 3e-3
    assert rates.next_rate({1e-3: 5.0, 3e-3: 6.0}) == 1e-2
    assert rates.next_rate({1e-3: 6.0, 3e-3: 5.0}) == 3e-4
    assert rates.next_rate({1e-3: 5.0, 3e-3: 6.0, 1e-2: 7.0}) == 3e-2
    assert rates.next_rate({1e-3: 5.0, 3e-3: 7.0, 1e-2: 6.0}) is None
    assert rates.next_rate({1e-3: None, 3e-3: None}) == 3e-4
    assert rates.next_rate({3e-4: 7.0, 1e-3: 6.0, 3e-3: 5.0}) == 1e-4
    assert rates.next_rate({1e-4: 8.0, 3e-4: 7.0, 1e-3: 6.0, 3e-3: 5.0}) is None
    assert rates.best_rate({1e-3: 5.0, 3e-3: 5.0, 3e-4: 1.0}) == 1e-3
    assert rates.best_rate({3e-4: None, 1e-3: 0.0, 3e-3: None}) == 1e-3


def test_rates_are_chosen_noted_and_written(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    best = {"fixture_full": 3e-4, "fixture_lora": 1e-2, "fixture_linear": 3e-3, "fixture_st_adapter": 1e-3}
    called: list[tuple[str, float]] = []

    def scored(arguments: Sequence[str], folder: Path, log: Path) -> None:
        given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments[1:])
        rate = float(given["model.optimizer.lr"])
        called.append((given["config"], rate))
        if given["config"] == "fixture_full" and rate == 3e-3:
            raise FailedCallError(3, arguments, log)
        hit = -abs(np.log(rate) - np.log(best[given["config"]]))
        record = make_record(eval__t2v__R1=50 + hit)
        at = folder / "runs" / "a"
        write_record(at, make_ranks(2, 1), record)

    monkeypatch.setattr(rates, "petl_bench", scored)
    assert rates.search(place) == []
    assert len(called) == len(set(called)) == 4 + 4 + 3 + 3
    known = rates.read(place)
    assert {name: entry["chosen"] for name, entry in known.items()} == best
    assert known["fixture_full"]["tried"]["0.003"] == {"figure": None, "commit": None}
    assert rates.search(place) == []
    assert len(called) == 14

    copies = tmp_path / "configs"
    copies.mkdir()
    monkeypatch.setattr(Recipe, "path", property(lambda recipe: copies / f"{recipe.name}.yaml"))
    for recipe in rates.recipes():
        text = (config_folder() / f"{recipe.name}.yaml").read_text(encoding="utf-8")
        recipe.path.write_text(rates.with_rate(text, 0.5, "another") if recipe.trains else text, encoding="utf-8")
    assert rates.write_into_configurations(place) == len(best)
    assert rates.write_into_configurations(place) == 0
    for name, rate in best.items():
        text = (copies / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.count("held-out clips") == 1
        assert yaml.safe_load(text)["model"]["init_args"]["optimizer"]["init_args"] == {"lr": rate}


def test_runs_wait_for_rates(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--work={place.work}", f"--results={place.results}", f"--rates={place.rates}"]
    assert main(["runs", *given, "--train-videos=4", "--test-videos=2", "--pairs=1"]) == 1
    assert "fixture_lora: its rate is not chosen" in capsys.readouterr().out
    assert not place.results.exists()


@pytest.mark.parametrize("task", ["retrieval", "questions"])
def test_rates_are_chosen_without_test_clips(task: str, tmp_path: Path) -> None:
    """What is trained on, and what figures are of, share no clip with each other, nor with the test split."""
    from datamodules.msrvtt import MSRVTT
    from datamodules.msrvtt_qa import MSRVTTQA

    WRITERS["diagnostic"](tmp_path / "clips", train_videos=16, test_videos=2)
    given = dict(option.removeprefix("--data.").split("=") for option in rates.HELD_OUT[task])
    kind: Callable[..., Any] = {"retrieval": MSRVTT, "questions": MSRVTTQA}[task]
    data = kind(tmp_path / "clips", partial=True, **given)
    trained, examined = ({sample.video for sample in data.samples(split)} for split in ("train", "test"))
    assert trained
    assert examined
    assert not trained & examined
    training, tested, held_out = range(16), range(16, 18), range(18, 22)
    assert trained <= {f"video{clip}" for clip in training}
    examinable = {"retrieval": held_out, "questions": training}[task]
    assert examined <= {f"video{clip}" for clip in examinable}
    of_a_run = {sample.video for sample in kind(tmp_path / "clips", partial=True).samples("test")}
    assert of_a_run == {f"video{clip}" for clip in tested}
    recipe = next(one for one in recipes.recipes() if one.task == task and one.trains)
    options = [argument for argument in rates.arguments(recipe, 1e-3) if "root" not in argument]
    assert {*rates.HELD_OUT[task]} <= {*options}


def test_claims_follow_from_the_runs(place: Place) -> None:
    assert runs.run_missing(place) == []
    done = runs.finished(place)
    found = {claim.claim: claim for claim in claims.claims(Figures(done))}
    assert found["small CLIP: zero-shot is near the ceiling on appearance"].verdict == "holds"
    assert found["small CLIP: zero-shot is at chance on order"].verdict == "holds"
    assert found["small CLIP: ST-Adapter reads order"].verdict == "holds"
    assert found["small BLIP: zero-shot is at chance on order"].verdict == "not decided"
    bracket = found["small CLIP, retrieval: adapters lie between linear and full fine-tuning"]
    assert bracket.verdict == "holds", bracket.found
    shown = table.block(done)
    assert shown.startswith(table.digest(done))
    assert "All 14 runs." in shown
    assert "ST-Adapter \\*" in shown
    assert "None of the 14 runs" in table.block({})


def test_what_one_lucky_seed_has_is_not_told_apart() -> None:
    """p is of the seeds that were run; the interval knows that others would have been others."""
    clusters = np.arange(200)
    chance = [np.full(200, 50.0)] * 3
    lucky = paired([np.full(200, 100.0), *chance[1:]], chance, clusters, "score")
    assert lucky.p < 0.05
    assert not claims.told_apart(lucky, lucky.p)
    steady = paired([np.full(200, value) for value in (60.0, 61.0, 62.0)], chance, clusters, "score")
    assert claims.told_apart(steady, steady.p)
    assert not claims.told_apart(steady, 0.06)


def _failing(fails: Callable[[Sequence[str]], bool]) -> Callable[[Sequence[str], Path, Path], None]:
    def call(arguments: Sequence[str], folder: Path, log: Path) -> None:
        if fails(arguments):
            raise FailedCallError(4, arguments, log)
        pretended(arguments, folder, log)

    return call


def test_a_recipe_is_what_its_file_says() -> None:
    recipe = next(one for one in recipes.recipes() if one.name == "fixture_blip_lora")
    assert (recipe.method, recipe.backbone, recipe.task) == ("lora", "blip", "retrieval")
    assert recipe.pairs == "minimal_pairs_blip"
    assert recipe.config == composed(recipe.path)
