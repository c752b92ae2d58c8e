"""What this CPU multiplies slowly is said."""

from __future__ import annotations

import warnings

import pytest

from petl_bench.machine import arithmetic


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_products_without_fast_kernels_are_warned_of(
    precision: str, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(arithmetic._KERNELS, precision, lambda: here)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arithmetic.warn_of_slow_products(precision)
        arithmetic.warn_of_slow_products("32-true")
    assert [precision in str(one.message) and "32-true" in str(one.message) for one in caught] == [True] * (not here)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_torch_without_onednn_is_not_asked(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(arithmetic._KERNELS, precision, lambda: pytest.fail("there is no such operation"))
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    arithmetic.warn_of_slow_products(precision)


def test_torch_is_asked() -> None:
    assert all(isinstance(asked(), bool) for asked in arithmetic._KERNELS.values())
