"""One file per dataset; `petl_bench.registry` finds them: `petl_bench.datamodules.x` is the same module."""

from petl_bench.registry import make_alias

make_alias(__name__)
