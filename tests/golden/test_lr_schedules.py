"""Learning-rate schedules against the official ones (golden `lr_schedules.json`)."""

from pathlib import Path

import pytest
import torch
from torch import nn

from methods.mv_adapter import OfficialMVAdapter
from petl_bench.optimizers import TrainableParameter
from tests.golden.helpers import Case, golden_files

#: schedules that no recipe here uses, and why
LEFT_OUT = {
    "bert_adam.warmup_constant": "BertAdam offers it; no released MV-Adapter or CLIP4Clip configuration names it",
    "bert_adam.warmup_linear": "BertAdam offers it; no released MV-Adapter or CLIP4Clip configuration names it",
    "uniadapter_cosine_lr_schedule_per_epoch": "UniAdapter's, changes once per epoch; there is no recipe of it",
    "mv_adapter_logit_scale_clamp": "a bound on the logit scale, see tests/golden/test_contrastive.py",
}


@pytest.mark.parametrize("path", golden_files("lr_schedules"))
def test_official_mv_adapter_schedule(path: Path) -> None:
    for case in Case(path).json["bert_adam"]["warmup_cosine"]:
        recipe = OfficialMVAdapter(warmup=case["warmup"])
        weight = TrainableParameter("weight", nn.Parameter(torch.zeros(2, 2)), pretrained=False, bias=False)
        unfrozen = TrainableParameter("unfrozen", nn.Parameter(torch.zeros(2)), pretrained=True, bias=True)
        optimizer, schedule = recipe.build([weight, unfrozen], case["t_total"])
        for step, factor in enumerate(case["factors"]):
            rates = [group["lr"] for group in optimizer.param_groups]
            expected = [recipe.lr * factor, recipe.pretrained_lr * factor]
            assert rates == pytest.approx(expected, rel=1e-9, abs=1e-20), f"step {step} of {case['t_total']}"
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize("path", golden_files("lr_schedules"))
def test_every_official_schedule_is_shipped_or_left_out_for_a_reason(path: Path) -> None:
    json = Case(path).json
    official = {f"bert_adam.{name}" for name in json.pop("bert_adam")} | (json.keys() - {"sources"})
    assert official - {"bert_adam.warmup_cosine"} <= LEFT_OUT.keys()
