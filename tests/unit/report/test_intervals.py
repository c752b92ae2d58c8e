"""What rows get is what `statistics` says of their ranks, whatever is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from petl_bench.report import configurations, statistics
from petl_bench.report.collect import Run
from petl_bench.report.compare import compare
from petl_bench.report.configurations import RECALL_AT, UnpairedError
from petl_bench.report.intervals import RULES, Statistics
from petl_bench.report.kept import Kept
from petl_bench.report.queries import Queries, _retrieval
from petl_bench.report.statistics import Paired, paired, recall
from petl_bench.runs.record import ranks_beside
from petl_bench.storage.files import FileError
from tests.answered import answers, retrieval
from tests.bootstrap import bootstrap

VIDEOS = 30
ALL = [f"{way} {name}" for way in ("t2v", "v2t") for name in (*(f"R@{k}" for k in RECALL_AT), "MnR", "MdR")] + ["Rsum"]


def ranks(seed: int, count: int = VIDEOS) -> list[int]:
    return np.minimum(VIDEOS, 1 + np.random.default_rng(seed).geometric(0.2, count) // 2).tolist()


def some_run(folder: Path, seed: int, several: bool = False, named: bool = True) -> Run:
    text_video = [video for video in range(VIDEOS) for _ in range(1 + video % 3)] if several else None
    texts = len(text_video) if text_video else VIDEOS
    names = [f"video{number}" for number in range(VIDEOS)] if named else None
    return retrieval(folder, ranks(seed, texts), ranks(seed + 1), text_video, names, id__seed=seed)


def unread(run: Run) -> Mapping[str, Queries]:
    raise AssertionError("what is kept is not calculated again")


def one(found: dict[str, Paired] | UnpairedError) -> dict[str, Paired]:
    assert not isinstance(found, UnpairedError), found
    return found


def arrays_of(run: Run) -> Mapping[str, np.ndarray]:
    return dict(np.load(ranks_beside(run.path)))


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("several", [False, True])
def test_intervals_are_those_of_the_bootstrap(tmp_path: Path, several: bool, seeds: int) -> None:
    runs = [some_run(tmp_path / str(seed), 10 * seed, several) for seed in range(seeds)]
    found = Statistics(None).intervals(runs)
    assert found.keys() == set(ALL)
    files = [arrays_of(run) for run in runs]
    for way, clusters in (("t2v", files[0]["text_video"]), ("v2t", np.arange(VIDEOS))):
        expected = {f"R@{k}": bootstrap([recall(file[way], k) for file in files], clusters, "mean") for k in RECALL_AT}
        expected["MnR"] = bootstrap([file[way] for file in files], clusters, "mean")
        expected["MdR"] = bootstrap([file[way] for file in files], clusters, "median")
        for title, (low, high) in expected.items():
            least, most = (0, 100) if title.startswith("R@") else (1, np.inf)
            # Three seeds of a few queries leave more open than a figure can be.
            assert found[f"{way} {title}"] == pytest.approx((max(low, least), min(high, most)), abs=1e-6)
            assert seeds > 1 or least <= low <= high <= most


def test_the_interval_of_rsum_is_of_whole_videos(tmp_path: Path) -> None:
    """A plain loop: the captions of a drawn video count in one direction, the video itself in the other."""
    run = some_run(tmp_path / "run", 1, several=True)
    file, draw = arrays_of(run), np.random.default_rng(0)
    of = {way: np.sum([recall(file[way], k) for k in (1, 5, 10)], axis=0) for way in ("t2v", "v2t")}
    found = []
    for _ in range(10_000):
        videos = draw.integers(0, VIDEOS, VIDEOS)
        captions = np.concatenate([of["t2v"][file["text_video"] == video] for video in videos])
        found.append(captions.mean() + of["v2t"][videos].mean())
    assert Statistics(None).intervals([run])["Rsum"] == pytest.approx(np.percentile(found, [2.5, 97.5]), abs=2)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("several", [False, True])
def test_differences_are_the_paired_ones(tmp_path: Path, several: bool, seeds: int) -> None:
    ours, theirs = (
        [some_run(tmp_path / f"{side}{seed}", 10 * seed + 5 * side, several) for seed in range(seeds)]
        for side in (0, 1)
    )
    found = one(Statistics(None).differences(ours, [(theirs, ALL)])[0])
    assert found.keys() == {title for title in ALL if "MdR" not in title}
    files = [[arrays_of(run) for run in side] for side in (ours, theirs)]
    for way in ("t2v", "v2t"):
        clusters = files[0][0]["text_video"] if way == "t2v" else np.arange(VIDEOS)
        for k in RECALL_AT:
            own, other = ([recall(file[way], k) for file in side] for side in files)
            assert found[f"{way} R@{k}"] == pytest.approx(paired(own, other, clusters, "hit"))
        own, other = ([file[way] for file in side] for side in files)
        assert found[f"{way} MnR"] == pytest.approx(paired(own, other, clusters, "rank"))
    tests = {title: pair.test for title, pair in found.items()}
    assert tests["v2t R@1"] == ("mcnemar" if seeds == 1 else "sign-flip")
    assert tests["t2v R@1"] == ("mcnemar" if seeds == 1 and not several else "sign-flip")
    assert tests["Rsum"] == tests["t2v MnR"] == "sign-flip"


def test_the_test_of_rsum_flips_whole_videos(tmp_path: Path) -> None:
    ours, theirs = (some_run(tmp_path / str(side), side, several=True) for side in (1, 7))
    of_video = np.zeros(VIDEOS)
    for run, sign in ((ours, 1), (theirs, -1)):
        file = arrays_of(run)
        for way, video in (("t2v", file["text_video"]), ("v2t", np.arange(VIDEOS))):
            points = np.sum([recall(file[way], k) for k in (1, 5, 10)], axis=0)
            np.add.at(of_video, video, sign * points / len(points))
    found = one(Statistics(None).differences([ours], [([theirs], ["Rsum"])])[0])["Rsum"]
    assert found.delta == pytest.approx(of_video.sum(), abs=1e-6)
    assert found.delta == pytest.approx(ours.record["eval"]["rsum"] - theirs.record["eval"]["rsum"], abs=1e-6)
    assert found.p == pytest.approx(float(statistics.sign_flip(of_video)[0]))


def test_queries_are_paired_by_their_ids(tmp_path: Path) -> None:
    order = np.random.default_rng(2).permutation(VIDEOS)
    names = np.array([f"video{number}" for number in range(VIDEOS)])
    t2v, v2t = np.array(ranks(3)), np.array(ranks(4))
    ours = some_run(tmp_path / "ours", 1)
    same = retrieval(tmp_path / "same", t2v.tolist(), v2t.tolist(), None, names.tolist())
    moved = retrieval(tmp_path / "moved", t2v[order].tolist(), v2t[order].tolist(), None, names[order].tolist())
    found = Statistics(None).differences([ours], [([same], ALL), ([moved], ALL)])
    assert one(found[0]) == one(found[1])
    assert one(found[0])["t2v MnR"].delta != 0
    assert Statistics(None).intervals([ours, moved]) == Statistics(None).intervals([ours, same])


def test_queries_without_ids_are_paired_in_their_order_if_all_are_there(tmp_path: Path) -> None:
    named, unnamed, other = (
        some_run(tmp_path / "named", 1),
        some_run(tmp_path / "unnamed", 3, named=False),
        some_run(tmp_path / "other", 3),
    )
    found = Statistics(None).differences([named], [([unnamed], ALL), ([other], ALL)])
    assert one(found[0]) == one(found[1])


@pytest.mark.parametrize("case", ["ids", "count", "partial", "videos"])
def test_other_queries_are_not_compared(tmp_path: Path, case: str) -> None:
    names = [f"video{number}" for number in range(VIDEOS)]
    ours = some_run(tmp_path / "ours", 1, named=case != "partial")
    theirs, reason = {
        "ids": (lambda: retrieval(tmp_path / "b", ranks(2), ranks(3), None, [*names[1:], "new"]), "ids differ"),
        "count": (
            lambda: retrieval(tmp_path / "b", ranks(2, 9), ranks(3, 9), None, names[:9]),
            "number differs (30 and 9)",
        ),
        "partial": (
            lambda: retrieval(tmp_path / "b", ranks(2), ranks(3), protocol__partial=True, protocol__n_found=990),
            "nothing says which",
        ),
        "videos": (
            lambda: retrieval(tmp_path / "b", ranks(2), ranks(3), [*range(VIDEOS)][::-1], names),
            "ids differ",
        ),
    }[case]
    (found,) = Statistics(None).differences([ours], [([theirs()], ALL)])
    assert isinstance(found, UnpairedError)
    assert reason in str(found)


def test_seeds_of_different_queries_have_no_interval(tmp_path: Path) -> None:
    runs = [retrieval(tmp_path / str(n), ranks(n, n), ranks(n, n), None, [f"v{i}" for i in range(n)]) for n in (5, 6)]
    with pytest.raises(UnpairedError, match="its seeds had different queries"):
        Statistics(None).intervals(runs)


def test_answers_are_resampled_by_video(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    video, types = np.repeat(np.arange(20), 4), draw.choice(["what", "who"], 80)
    scores = [draw.choice([0.0, 0.3, 1.0], 80) for _ in range(2)]
    runs = [
        answers(tmp_path / str(n), score.tolist(), types.tolist(), video.tolist()) for n, score in enumerate(scores)
    ]
    found = Statistics(None).intervals(runs[:1])
    assert found["Accuracy"] == pytest.approx(bootstrap([100 * scores[0]], video, "mean"))
    assert found["Accuracy"][0] < 100 * scores[0].mean() < found["Accuracy"][1]
    of_type = scores[0][types == "what"]
    assert found["Accuracy what"][0] < 100 * of_type.mean() < found["Accuracy what"][1]
    titles = ["Accuracy", "Accuracy what"]
    pairs = one(Statistics(None).differences(runs[:1], [(runs[1:], titles)])[0])
    assert pairs["Accuracy"] == pytest.approx(paired([100 * scores[0]], [100 * scores[1]], video, "score"))
    assert pairs["Accuracy what"].delta == pytest.approx(100 * (of_type - scores[1][types == "what"]).mean(), abs=1e-6)


def test_a_clip_and_its_reverse_are_resampled_together(tmp_path: Path) -> None:
    """Where both have the same ranks they tell no more than one, and hits of them are no independent pairs."""
    names, half = [f"v{row}" for row in range(40)], np.repeat(np.arange(0, 40, 2), 2).tolist()
    runs = []
    for seed in (1, 2):
        t2v, v2t = (np.repeat(ranks(10 * seed + way, 20), 2).tolist() for way in (0, 1))
        runs.append(retrieval(tmp_path / str(seed), t2v, v2t, None, names, half, id__seed=seed))
    found, files = Statistics(None).intervals(runs[:1]), arrays_of(runs[0])
    for way in ("t2v", "v2t"):
        hits = recall(files[way], 1)
        assert found[f"{way} R@1"] == pytest.approx(bootstrap([hits], np.array(half), "mean"))
        assert found[f"{way} R@1"] != pytest.approx(bootstrap([hits], np.arange(40), "mean"))
    assert "Rsum" in found
    pairs = one(Statistics(None).differences(runs[:1], [(runs[1:], ["t2v R@1", "v2t R@1", "Rsum"])])[0])
    assert {pair.test for pair in pairs.values()} == {"sign-flip"}
    compared = compare(*(run.path.parent for run in runs))
    assert {figure.test for figure in compared.figures if figure.p is not None} == {"sign-flip"}
    of_t2v = next(figure for figure in compared.figures if (figure.direction, figure.name) == ("t2v", "R@1"))
    assert (-of_t2v.delta, -of_t2v.high, -of_t2v.low, of_t2v.p) == pytest.approx(pairs["t2v R@1"][:4])


def test_answers_about_a_video_each_are_tested_exactly(tmp_path: Path) -> None:
    types, video = ["what", "who"] * 10, list(range(20))
    first, second = ([0.0, 1.0, 1.0, 1.0] * 5, [0.0, 0.0, 1.0, 0.0] * 5)
    runs = [answers(tmp_path / str(n), scores, types, video) for n, scores in enumerate((first, second))]
    found = one(Statistics(None).differences(runs[:1], [(runs[1:], ["Accuracy", "Accuracy who", "Accuracy what"])])[0])
    assert {title: (pair.delta, pair.p, pair.test) for title, pair in found.items()} == {
        "Accuracy": (50.0, 2 / 2**10, "mcnemar"),
        "Accuracy who": (100.0, 2 / 2**10, "mcnemar"),
        "Accuracy what": (0.0, 1.0, "mcnemar"),
    }


def test_questions_of_unknown_videos_have_no_interval(tmp_path: Path) -> None:
    """One by one they would be too sure of themselves."""
    with pytest.raises(UnpairedError, match="same video"):
        Statistics(None).intervals([answers(tmp_path / "run", [0.0, 1.0], ["what", "who"], None)])


def test_captions_of_unknown_videos_have_no_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on its own they would be resampled as if captions of a video were independent."""
    run = some_run(tmp_path / "run", 0, several=True, named=False)

    def unnamed(run: Run) -> Mapping[str, Queries]:
        arrays = {name: values for name, values in arrays_of(run).items() if name != "text_video"}
        return _retrieval(arrays)

    assert Statistics(None).intervals([run])
    monkeypatch.setattr(configurations, "read_queries", unnamed)
    with pytest.raises(UnpairedError, match="nothing says which captions are of the same video"):
        Statistics(None).intervals([run])


def test_ranks_that_are_not_there_or_damaged_give_no_interval(tmp_path: Path) -> None:
    runs = [some_run(tmp_path / str(seed), seed) for seed in (1, 2)]
    kept = Statistics(tmp_path / "cache")
    kept.intervals(runs)
    kept.save()
    ranks_beside(runs[1].path).unlink()
    for cache in (None, tmp_path / "cache"):  # what is kept changes nothing
        with pytest.raises(UnpairedError, match=r"no ranks\.npz of seed 2"):
            Statistics(cache).intervals(runs)
        assert isinstance(Statistics(cache).differences(runs, [(runs[:1], ALL)])[0], UnpairedError)
    ranks_beside(runs[0].path).write_bytes(b"PK")
    with pytest.raises(UnpairedError, match=r"ranks\.npz of seed 1: is not the file the run wrote"):
        Statistics(None).intervals(runs[:1])


def test_what_is_kept_is_not_calculated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs, third = (some_run(tmp_path / str(seed), seed) for seed in (1, 2, 3))
    first = Statistics(tmp_path / "cache")
    calculated = first.intervals([ours]), one(first.differences([ours], [([theirs], ALL)])[0])
    first.intervals([third])
    first.save()
    with monkeypatch.context() as patch:
        patch.setattr(configurations, "read_queries", unread)
        again = Statistics(tmp_path / "cache")
        assert (again.intervals([ours]), one(again.differences([ours], [([theirs], ALL)])[0])) == calculated
        again.save()
        with pytest.raises(AssertionError, match="not calculated again"):  # nobody asked for it last time
            Statistics(tmp_path / "cache").intervals([third])
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes().replace(b"4", b"5"))
    assert Statistics(tmp_path / "cache").intervals([ours]) == calculated[0]


@pytest.mark.parametrize("value", [[1], [1.0], ["a", "b", "c", "d", "e"], [0.0, 0.0, 0.0, 0.0, None], {}, "text", 1.0])
def test_what_is_kept_in_another_shape_is_calculated_again(value: object, tmp_path: Path) -> None:
    runs = [some_run(tmp_path / str(seed), seed) for seed in (1, 2)]

    def calculated() -> object:
        found = Statistics(tmp_path / "cache")
        result = found.intervals(runs[:1]), found.differences(runs[:1], [(runs[1:], ALL)])
        found.save()
        return result

    first = calculated()
    kept = Kept(tmp_path / "cache", "statistics", f"{RULES}, numpy {np.__version__}")
    keys = [*kept._found]
    assert len(keys) == 2
    for whole in (False, True):
        for key in keys:
            kept[key] = value if whole else dict.fromkeys(ALL, value)
        kept.save()
        assert calculated() == first


def test_what_cannot_be_read_any_more_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(run: Run) -> Mapping[str, Queries]:
        raise FileError(ranks_beside(run.path), "is damaged")

    monkeypatch.setattr(configurations, "read_queries", damaged)
    with pytest.raises(UnpairedError, match=r"ranks\.npz of seed 1: is damaged"):
        Statistics(None).intervals([some_run(tmp_path / "run", 1)])
