"""One file per method; `petl_bench.registry` finds them."""
