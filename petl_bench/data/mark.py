"""How generated data is distinguished from real data."""

#: file that marks a folder as generated, so that its figures are never taken for a benchmark
MARK = "GENERATED_BY_PETL_BENCH"
