"""A package of others: a method, a backbone, a dataset and a task; `test_plugin.py` installs a copy."""

from . import backbone, datamodule, method, task

__all__ = ["backbone", "datamodule", "method", "task"]
