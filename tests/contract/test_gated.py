"""What every method does on a backbone of another make: it trains, or refuses it with one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from methods.bitfit import BitFit
from methods.ln_tune import LNTune
from methods.lora import LoRA
from methods.vop import VoP
from petl_bench.cli.named_configs import config_folder
from petl_bench.errors import UsageError
from petl_bench.nn.adapter_blocks import PromptedBlock
from petl_bench.tasks.pooling import TextConditionedPooling
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.gated import Gated, GatedBlock
from petl_bench.testing.methods import check_gradients, check_identity_at_init, check_padding
from petl_bench.testing.samples import features, make_batch, train
from tests.contract.battery import CASES, HOLES, Case, builder, case_of

#: what of ours is not defined on it, and why; everything else of ours trains
REFUSALS = {
    "methods.mv_adapter.MVAdapter": "MVAdapter needs a class token in front of the patches: the vision tower of "
    "gated-tiny has none",
    "methods.tempme.TempMe": "TempMe needs a class token in front of the patches: the vision tower of gated-tiny has "
    "none",
    "methods.uniadapter.UniAdapter": "UniAdapter needs towers of one width, whose projections it shares: those of "
    "gated-tiny differ in width (video 32, language 48)",
}
TRAINED = [case for case in CASES if (case.name, "gated", "retrieval") not in HOLES]


@pytest.mark.parametrize("case", [case for case in CASES if case.class_path in REFUSALS], ids=str)
def test_refusals(case: Case) -> None:
    with pytest.raises(UsageError) as refused:
        builder(case, "gated")()
    assert str(refused.value) == REFUSALS[case.class_path]


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_what_is_trained(case: Case) -> None:
    build = builder(case, "gated")
    check_gradients(build)
    check_identity_at_init(build)
    check_padding(build)


def test_nothing_else_of_ours_refuses() -> None:
    """Newcomers may refuse it; those that are pinned are those of packaged configurations."""
    ours = {case_of(path).class_path for path in config_folder().glob("fixture_*.yaml")}
    assert len(ours) > 15
    refused = {case.class_path for case in CASES if (case.name, "gated", "retrieval") in HOLES}
    assert REFUSALS.keys() == refused & ours
    assert {case.class_path for case in TRAINED} >= ours - REFUSALS.keys()


def test_a_task_that_weighs_frames_refuses_it_before_anything_is_trained() -> None:
    with pytest.raises(UsageError, match=r"task retrieval needs a feature of each frame: Gated \(gated-tiny\)"):
        BitFit(backbone=Gated(), task=Retrieval(pooling=TextConditionedPooling())).adapt()


def trained(method: LNTune | BitFit) -> set[str]:
    return {name.removeprefix("backbone.") for name, p in method.adapt().named_parameters() if p.requires_grad}


def test_ln_tune_finds_all_rms_norms() -> None:
    norms = {f"{name}.weight" for name, module in Gated().named_modules() if isinstance(module, nn.RMSNorm)}
    assert len(norms) == 2 * (3 + 2) + 2
    assert trained(LNTune(backbone=Gated(), task=Retrieval())) == norms


def test_bitfit_trains_the_tower_that_has_biases(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        names = trained(BitFit(backbone=Gated(), task=Retrieval()))
    assert names == {name for name, _ in Gated().named_parameters() if name.endswith("bias")}
    assert all(name.startswith("video.") for name in names)
    assert "BitFit: the language tower of gated-tiny has no biases" in caplog.text


@pytest.mark.parametrize("targets", ["in_proj", "q_v"])
def test_lora_works_with_keys_and_values_narrower_than_queries(targets: str) -> None:
    method = LoRA(backbone=Gated(), task=Retrieval(), targets=targets).adapt()  # type: ignore[arg-type]  # as named
    assert isinstance(method, LoRA)
    batch = make_batch(method.backbone)
    train(method, batch, 2)
    before = features(method, batch)
    method.merge()
    for mine, merged in zip(before, features(method, batch), strict=True):
        torch.testing.assert_close(mine, merged, atol=1e-5, rtol=1e-5)


def test_prompts_are_inserted_without_moving_the_others() -> None:
    """In front of all tokens, which keep their angles; as in the longer sequence that the paper describes."""
    backbone = VoP(backbone=Gated(), task=Retrieval(), vision_prompts=3, text_prompts=2).adapt().backbone
    words = backbone.spec.tokenize(["a cat", "rain"], 8)
    pooled = backbone.encode_text(words).pooled
    tower = backbone.towers["language"]
    x, context = backbone._embed(words)  # type: ignore[operator]  # of the backbone above
    for block in tower.blocks:
        assert isinstance(block, PromptedBlock)
        assert isinstance(block.inner, GatedBlock)
        longer = torch.cat([block.prompts.expand(2, -1, -1), x], dim=1)
        x = block.inner(longer, context.insert(0, 2))[:, 2:]
    expected = backbone._text_features(x[torch.arange(2), words.mask.sum(1) - 1][:, None]).pooled  # type: ignore[operator]
    torch.testing.assert_close(pooled, expected, atol=1e-6, rtol=1e-5)
