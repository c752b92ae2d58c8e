"""Parameters of methods at ViT-B size against the official constructors and freezing rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from methods.cross_modal_adapter import CrossModalAdapter
from methods.lora import LoRA
from methods.tempme import TempMe
from methods.vop import VoP
from petl_bench.method import Method
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import adapt_on_meta, meta_clip
from tests.golden.helpers import Case, golden_files

#: clips joined at each of three blocks, by frames: the published settings
JOINS = {12: (2, 2, 3), 64: (4, 4, 4)}
#: rows of methods that are not here
NOT_HERE = ("DGL", "DiscoVLA", "Houlsby")


def lora(row: dict[str, Any]) -> Callable[..., Method]:
    return lambda **parts: LoRA(row["rank"], **parts)


def tempme(row: dict[str, Any]) -> Callable[..., Method]:
    return lambda **parts: TempMe(row["rank"], join_clips=JOINS[row["frames"]], **parts)


def cross_modal_adapter(row: dict[str, Any]) -> Callable[..., Method]:
    return lambda **parts: CrossModalAdapter(row["r"], row["d_s"], **parts)


def vop(row: dict[str, Any]) -> Callable[..., Method]:
    def build(**parts: Any) -> Method:
        towers = parts["backbone"].towers
        numbers = {
            kind: row[key] // (len(towers[kind].blocks) * towers[kind].width)
            for kind, key in (("vision", "visual"), ("text", "text"))
        }
        return VoP(numbers["vision"], numbers["text"], **parts)

    return build


BUILDERS: dict[str, Callable[[dict[str, Any]], Callable[..., Method]]] = {
    "LoRA": lora,
    "TempMe": tempme,
    "Cross-Modal Adapter": cross_modal_adapter,
    "VoP basic (modelscope)": vop,
}


@pytest.mark.parametrize("path", golden_files("methods_a_param_counts"))
def test_counts(path: Path) -> None:
    rows = [row for row in Case(path).json["rows"] if not row["method"].startswith(NOT_HERE)]
    assert rows
    for row in rows:
        assert row["method"] in BUILDERS, f"{row['method']}: this test knows no such method"
        backbone = meta_clip(row["architecture"].replace("/", "-") + "-quickgelu")
        counts = adapt_on_meta(BUILDERS[row["method"]](row)(backbone=backbone, task=Retrieval())).parameter_counts()
        assert (counts["trainable"], counts["total"]) == (row["trainable"], row["total"]), row
        if "visual" in row:
            assert (counts["vision"], counts["text"]) == (row["visual"], row["text"]), row
