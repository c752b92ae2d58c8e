"""Memory that is not enough is told in one line, on a GPU and on a CPU; other errors pass."""

from __future__ import annotations

import pytest
import torch

from petl_bench.errors import UsageError
from petl_bench.machine.memory import reporting_exhaustion

CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is "
    "free. Including non-PyTorch memory, this process has 77.90 GiB memory in use. Of the allocated memory ..."
)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), MemoryError()])
def test_what_to_change_is_said(error: Exception) -> None:
    with (
        pytest.raises(UsageError, match=r"out of (GPU )?memory: less of it \(") as caught,
        reporting_exhaustion("less of it"),
    ):
        raise error
    assert "\n" not in str(caught.value)
    assert ("79.10 GiB" in str(caught.value)) == (str(error) == CUDA)
    assert "non-PyTorch" not in str(caught.value)


def test_the_memory_of_a_cpu() -> None:
    with (
        pytest.raises(UsageError, match=r"out of memory: less of it .*4000000000000000 bytes"),
        reporting_exhaustion("less of it"),
    ):
        torch.empty(10**15)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), reporting_exhaustion("less of it"):
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))
