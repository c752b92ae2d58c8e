"""Checks for methods, backbones, data modules and tasks of your own, the same that ours have to pass.

    from petl_bench.testing import check_method

    def test_my_method():
        check_method(MyMethod)

Each raises an AssertionError that says in one sentence what does not hold. None needs pytest, weights or a GPU.
"""

from petl_bench.testing.backbones import check_backbone
from petl_bench.testing.datamodules import check_datamodule
from petl_bench.testing.methods import check_method
from petl_bench.testing.tasks import check_task

__all__ = ["check_backbone", "check_datamodule", "check_method", "check_task"]
