"""Where golden vectors and real clips lie: beside the checkout, never part of it."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# Absolute, since every test has a current folder of its own.
SHARED = Path(os.environ.get("PETL_BENCH_SHARED", REPOSITORY.parent / "shared")).resolve()
