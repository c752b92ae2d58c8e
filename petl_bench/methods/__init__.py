"""One file per method; `petl_bench.registry` finds them: `petl_bench.methods.x` is the same module."""

from petl_bench.registry import make_alias

make_alias(__name__)
