"""`make bench-perf`: how fast petl_bench is against its goals, as ratios of two sides that take turns."""
