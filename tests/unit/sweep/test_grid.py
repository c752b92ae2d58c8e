"""Which runs a sweep has, and which options it refuses."""

from __future__ import annotations

import pytest

from petl_bench.errors import UsageError
from petl_bench.sweep.grid import Point, points_of, require_of_fit


def test_every_configuration_at_every_point() -> None:
    points = points_of(["a", "configs/b.yaml"], ["model.rank=2,4", "--data.sizes=[1, 2],[3]"])
    assert len(points) == 8
    assert points[1] == Point("a", (("model.rank", "2"), ("data.sizes", "[3]")))
    assert str(points[4]) == "configs/b.yaml model.rank=2 data.sizes=[1, 2]"
    assert points[4].slug == "b"
    assert points[1].arguments(7, ["--data.root=x"]) == [
        *("fit", "--config=a", "--seed_everything=7", "--data.root=x", "--model.rank=2", "--data.sizes=[3]"),
    ]


def test_values_stay_as_they_are_written() -> None:
    (one, two) = (point.choices for point in points_of(["a"], ["trainer.precision=bf16-mixed,'16-mixed'"]))
    assert (one[0][1], two[0][1]) == ("bf16-mixed", "'16-mixed'")
    assert [point.choices[0][1] for point in points_of(["a"], ["k=1e-3,null,1e-3"])] == ["1e-3", "null"]


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (["model.rank"], "give an option and its values"),
        (["=3"], "give an option and its values"),
        (["model.rank="], "give an option and its values"),
        (["model.rank=[2"], "no list in YAML"),
        (["model.rank=2,,3"], "no list in YAML"),
        (["k=1", "k=2"], "has k twice"),
        (["seed_everything=1,2"], "--grid: --seed_everything is not for a sweep: give --seeds"),
    ],
)
def test_no_grid(grid: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        points_of(["a"], grid)


@pytest.mark.parametrize("option", ["--config=b", "--overwrite=true", "--ckpt_path", "--print_config", "b"])
def test_options_that_are_not_for_all_runs(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        require_of_fit([option])
    require_of_fit(["--data.root", "x", "--trainer.max_epochs=3"])
