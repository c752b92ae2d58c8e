"""What the server that `petl-bench data verify` forks its processes from imports first: it ends with who started it."""

from petl_bench.signals import as_helper

as_helper()
