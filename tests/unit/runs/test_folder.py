"""What lies in the folder of a run need not be ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from petl_bench.runs.folder import Run, earlier_metrics

CONFIG = {"model": {"init_args": {"rank": 4, "backbone": {}}}, "trainer": {}}


def run(folder: Path) -> Run:
    return Run(folder, "test", CONFIG, "0" * 64, 0, "test.json")


@pytest.mark.parametrize("content", [b"\xff", b"[1, 2]", b"a: [", b"3", b"", b"model: 3", b"a: &a [*a]", b"[" * 5000])
def test_a_config_that_is_none_tells_of_no_changes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    assert run(tmp_path).changed_options() == {}


def test_changed_options(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {init_args: {rank: 8, scale: 2}}")
    assert run(tmp_path).changed_options() == {"rank": (8, 4)}


def test_rows_of_a_log(tmp_path: Path) -> None:
    assert earlier_metrics(tmp_path, 2) == []
    (tmp_path / "metrics.csv").write_text("step,loss\n0,1\n1,2\n2,3\n,4\n²,5\n")
    assert [row["loss"] for row in earlier_metrics(tmp_path, 2)] == ["1", "2"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"step,loss\n0,\xe9\n", b"step,loss\n0,1\0\n", b""])
def test_a_log_that_is_none_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.warns(UserWarning, match=r"metrics.csv cannot be continued"):
        assert earlier_metrics(tmp_path, 9) == []
