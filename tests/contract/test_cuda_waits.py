"""A training step on a real GPU waits where it does on the pretended one, for the losses of the step, and nowhere else.

torch tells of waits (`torch.cuda.set_sync_debug_mode`), but for those for an event and those of collectives.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch
from petl_bench.lightning_seams import leave_signals
from petl_bench.runs.frozen import FrozenInBf16
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing import samples
from tests.contract import battery, on_cuda
from tests.contract.on_cuda import FIXTURE, RECIPES, Case

#: what torch says of each wait
SAID = "called a synchronizing CUDA operation"


class _Watched(Callback):
    """Has torch tell of waits from the beginning of the second step to that of the third (`waits_in_a_run`)."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("warn" if batch_idx == 1 else "default")


def waits_of_a_step(case: Case) -> list[str]:
    """Files of the innermost Python code that waited, once for each wait."""
    method = battery.builder(case.config, case.backbone, case.task)()
    method.recipe = RECIPES[case.recipe]()
    batch = samples.asked(samples.make_batch(method.backbone))
    trainer = Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        callbacks=[FrozenInBf16(), _Watched(), *on_cuda.added_by_a_run()],
        max_epochs=1,
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    leave_signals(trainer)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            trainer.fit(method, datamodule=on_cuda.Data(batch, batch, batch))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 3
    return [one.filename for one in said if SAID in str(one.message)]


@pytest.mark.needs_cuda
@pytest.mark.parametrize("case", [case for case in on_cuda.runs() if not case.twin], ids=str)
def test_a_step_waits_for_nothing_but_its_report(case: Case) -> None:
    """`StepReport.read` waits for an event, of which torch does not tell."""
    assert not waits_of_a_step(case)


@pytest.mark.needs_cuda
def test_a_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Retrieval.loss

    def looked_at(task: Retrieval, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        found = loss(task, backbone, batch)
        found[0].item()
        return found

    monkeypatch.setattr(Retrieval, "loss", looked_at)
    assert [Path(file) for file in waits_of_a_step(Case(FIXTURE, "clip", "retrieval"))] == [Path(__file__)]
