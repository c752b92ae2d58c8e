"""What decides the last bit of results on a CPU, beside what is calculated: sums are split among threads."""

from __future__ import annotations

from typing import Any

import torch

#: how to have it again, by name
RESTORED_BY = {"threads": "OMP_NUM_THREADS", "cpu_capability": "another CPU, or ATEN_CPU_CAPABILITY"}


def cpu_arithmetic() -> dict[str, Any]:
    """Threads that torch spreads one operation over, and the vector instructions it uses."""
    return {"threads": torch.get_num_threads(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
