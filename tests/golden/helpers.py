"""Finds golden cases (vectors computed by the official implementations) and compares with them."""

import json
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.shared import SHARED

#: found while tests are collected, before each of them gets a current folder of its own
GOLDEN = Path(os.environ.get("PETL_BENCH_GOLDEN", SHARED / "golden")).resolve()


class Case:
    """One golden case: its json and, where it has one, its tensors by prefix (`param.`, `in.`, `out.`, ...)."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.json: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tensors = path.with_suffix(".safetensors")
        self.tensors = load_file(tensors) if tensors.exists() else {}

    def options(self, *known: str) -> dict[str, Any]:
        """The json's `kwargs`, which must be among those that a test reads: one it does not know is no case for it."""
        options: dict[str, Any] = self.json["kwargs"]
        assert options.keys() <= set(known), f"{self.name}: this test reads no {sorted(options.keys() - set(known))}"
        return options

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        """All tensors below `prefix.`, with the prefix removed."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(prefix + ".")}


def golden_files(pattern: str) -> list[Any]:
    """pytest parameters, one per golden json that matches; one skipped parameter when there is none."""
    folder = GOLDEN
    files = sorted(p for p in folder.glob("*.json") if fnmatch(p.stem, pattern)) if folder.is_dir() else []
    if not files:
        reason = f"no golden case {pattern} in {folder}; set PETL_BENCH_GOLDEN"
        return [pytest.param(None, id=f"{pattern}-absent", marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(p, id=p.stem) for p in files]


def assert_output(actual: torch.Tensor, expected: torch.Tensor, name: str = "") -> None:
    """Outputs and losses: within 1e-5 of the largest magnitude (golden/README.md section 2)."""
    _assert_close(actual, expected, 1e-5 * expected.abs().max().item() + 1e-12, name)


def assert_gradient(actual: torch.Tensor | None, expected: torch.Tensor, name: str = "") -> None:
    """Gradients: within 1e-4 of the largest magnitude, plus 1e-6 (golden/README.md section 2)."""
    assert actual is not None, f"{name}: no gradient"
    _assert_close(actual, expected, 1e-4 * expected.abs().max().item() + 1e-6, name)


def _assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, name: str) -> None:
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    error = (actual.detach().to(expected.dtype) - expected).abs().max().item()
    assert error <= tolerance, f"{name}: error {error:.3g} above {tolerance:.3g}"
