"""Training on a GPU; waits of a step there are in `tests/contract/test_cuda_waits.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.fixture_run import only_record, run


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_on_a_gpu(precision: str, dataset: Path, tmp_path: Path) -> None:
    on_gpu = ("--trainer.accelerator=gpu", "--trainer.devices=1", f"--trainer.precision={precision}")
    assert run("fit", "fixture_mvadapter", dataset, tmp_path, *on_gpu) == 0
    folder, record = only_record(tmp_path)
    assert record["env"]["gpu"]
    assert record["env"]["cuda"]
    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    assert run("test", "fixture_mvadapter", dataset, tmp_path, adapter) == 0, "a CPU reads what a GPU wrote"
