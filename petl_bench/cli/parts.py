"""Makes one object of what a file says of it, as a configuration is made, but with nothing else around it."""

from __future__ import annotations

from typing import Any, TypeVar

from pytorch_lightning.cli import LightningArgumentParser

from petl_bench.cli.config_safety import ClassPathGuard
from petl_bench.cli.configuration import in_one_line, open_no_files

Made = TypeVar("Made")


def made(kind: type[Made], class_path: str, arguments: dict[str, Any], guard: ClassPathGuard) -> Made:
    """An object of a class of this kind.

    Args:
        kind: base class.
        class_path: of the class; whoever calls has asked the guard whether it may be imported.
        arguments: of its constructor; plain values, or objects that were made before.
        guard: what else configurations are read with.

    Raises:
        UsageError: there is no such class of this kind, or it does not take these arguments.
    """
    with in_one_line(guard):
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(kind, kind.__name__.lower(), required=True)
        open_no_files(parser)
        options = parser.parse_object({kind.__name__.lower(): {"class_path": class_path, "init_args": arguments}})
        return parser.instantiate_classes(options)[kind.__name__.lower()]
