"""Trials of faults, see `__main__`."""

import os

# Commands are forked from this process, and OpenMP counts threads when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
