"""One file per dataset; `petl_bench.registry` finds them."""
