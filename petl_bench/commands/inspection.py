"""What commands that look at a configuration have in common: they take the options of `fit`, and train nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from petl_bench.cli.arguments import Parser
from petl_bench.cli.configuration import configured
from petl_bench.data.base import VideoTextDataModule
from petl_bench.method import Method

#: a command: of an adapted method, its data module and options, which hold those of the `trainer`; gives the exit code
Command = Callable[[Method, VideoTextDataModule, argparse.Namespace], int]


def parser_of(name: str, description: str) -> Parser:
    """The parser of a command that has options of its own beside those of `fit`, and can print JSON."""
    parser = Parser(
        prog=f"petl-bench {name}",
        usage=f"petl-bench {name} --config NAME [options] [any option of `petl-bench fit`]",
        description=description,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def inspect(
    command: Command,
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    plugins: Sequence[str],
    device: str | None = None,
) -> int:
    """Runs a command on the model of a configuration, which has random weights; its exit code.

    Args:
        command: what is done.
        parser: of its own options; all others are those of `fit`.
        arguments: of the command line.
        plugins: packages that the user trusts.
        device: that parameters are made on; on `meta` they take no memory.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    options, rest = parser.parse_known_args(arguments)
    return on_configuration(command, options, rest, plugins, device)


def on_configuration(
    command: Command, options: argparse.Namespace, rest: list[str], plugins: Sequence[str], device: str | None
) -> int:
    """The same with options of its own that are parsed already, and the rest that is not."""
    try:
        with configured("fit", rest, plugins) as configuration:
            with torch.device(device) if device else nullcontext():
                experiment = configuration.inspected()
                experiment.method.configure_model()
            options.trainer = experiment.objects
            return command(experiment.method, experiment.data, options)
    except SystemExit as stop:  # --help and --print_config end this way
        return int(stop.code or 0)
