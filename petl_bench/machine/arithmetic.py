"""What decides the last bit of results on a CPU, beside what is calculated, and what a CPU multiplies slowly."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn

#: how to have it again, by name
RESTORED_BY = {"threads": "OMP_NUM_THREADS", "cpu_capability": "another CPU, or ATEN_CPU_CAPABILITY"}
#: of mixed precisions, whether oneDNN has kernels for them here
_KERNELS = {
    "bf16-mixed": lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    "16-mixed": lambda: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}


def cpu_arithmetic() -> dict[str, Any]:
    """Threads that torch spreads one operation over, and the vector instructions it uses."""
    return {"threads": torch.get_num_threads(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}


def warn_of_slow_products(precision: str) -> None:
    """Says so where products of a precision take many times as long on this CPU as those of fp32.

    oneDNN has kernels for them where the CPU has AVX-512; elsewhere torch multiplies by a plain loop. Nothing is said
    where torch is built without oneDNN, which nobody measured.

    Args:
        precision: in Lightning's words.
    """
    has_kernels = _KERNELS.get(precision)
    if has_kernels and torch.backends.mkldnn.is_available() and not has_kernels():
        rank_zero_warn(
            f"trainer.precision is {precision}, for whose products this CPU "
            f"({torch.backends.cpu.get_cpu_capability()}) has no fast kernels: 32-true is many times faster here"
        )
