"""Parameter groups of the released MV-Adapter configurations at ViT-B/16 size (`mv_adapter_param_groups.json`)."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from methods.mv_adapter import Factor, MVAdapter, OfficialMVAdapter
from petl_bench.backbones.clip.model import CLIP
from petl_bench.tasks.retrieval import Retrieval
from tests.golden.helpers import Case, golden_files


@pytest.mark.parametrize("path", golden_files("mv_adapter_param_groups"))
def test_groups_hold_what_the_official_optimiser_gets(path: Path) -> None:
    for name, official in Case(path).json["configs"].items():
        with torch.device("meta"):
            method = MVAdapter(
                backbone=CLIP("ViT-B-16-quickgelu", None),
                task=Retrieval(),
                tying=Factor(
                    official["modal_dynamic"]["position"].replace(" ", "_"),
                    len(official["modal_dynamic"]["adapter_idx"]),
                    official["modal_dynamic"]["factor_dim"],
                ),
                ln_in=any(".ln_in." in example for group in official["groups"] for example in group["examples"]),
                max_frames=official["max_frames"],
                max_words=official["max_words"],
            )
            method.configure_model()
        assert sum(p.numel() for p in method.pretrained_parameters()) == official["clip_params"], name

        recipe = OfficialMVAdapter(warmup=official["warmup_proportion"])
        optimizer, schedule = recipe.build(method.trainable_parameters(), steps=100)
        elements: Counter[tuple[float, float]] = Counter()
        for group, peak in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
            elements[float(peak), group["weight_decay"]] += sum(p.numel() for p in group["params"])
        # Tensors are fewer here: queries, keys and values are one layer.
        expected = {(g["lr"], g["weight_decay"]): g["n_params"] for g in official["groups"] if g["n_params"]}
        assert dict(elements) == expected, name
        assert method.parameter_counts()["trainable"] == official["trainable_params_total"], name
