"""`petl-bench data`: what can be done with a dataset without training on it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

from petl_bench.cli import lightning as cli
from petl_bench.cli.arguments import Parser
from petl_bench.cli.fragments import BASE
from petl_bench.cli.named_configs import SUFFIXES, find_config, read_text
from petl_bench.commands import data_cache, data_describe, data_verify
from petl_bench.commands.inspect import Params
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.machine.signals import STOP
from petl_bench.method import Method
from petl_bench.storage.plain_yaml import parse_yaml
from petl_bench.storage.untrusted import shown

#: modules with `add_arguments(parser)` and `run(data module, options) -> exit code`
COMMANDS: dict[str, ModuleType] = {"describe": data_describe, "verify": data_verify, "cache": data_cache}
#: the configuration around a data fragment, which alone says neither size nor resize of frames
_AROUND = "msrvtt_zeroshot"


class DataCommand(Params):
    """Takes what `fit` takes, builds the model without memory for its `spec`, and hands over the data module."""

    def fit(self, model: Method, datamodule: VideoTextDataModule, **kwargs: Any) -> None:
        STOP.unwinds = True  # a progress bar has hidden the cursor
        self.inspection.exit_code = self.inspection.command.run(datamodule, self.inspection)


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Runs a command of `petl-bench data`.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    options, rest = _parser().parse_known_args(arguments)
    if options.backbone and not options.backbone.endswith(SUFFIXES):
        raise UsageError(f"--backbone {shown(options.backbone)} is no file: give backbone/NAME.yaml")
    backbone = [f"--model.init_args.backbone={options.backbone}"] if options.backbone else []
    configuration = [*_configuration(options.config), *backbone, *rest]
    stopped = cli.run("fit", configuration, plugins, partial(DataCommand, options=options))
    return stopped or options.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="petl-bench data", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name,
            usage=f"petl-bench data {name} --config NAME --data.root DIR [options] [any option of `petl-bench fit`]",
            description=summary,
            help=summary,
            allow_abbrev=False,
        )
        command.add_argument("--config", required=True, help="data/NAME.yaml, or the configuration of a run")
        command.add_argument("--backbone", help="backbone/NAME.yaml that frames are made for (ViT-B/16 at 224 pixels)")
        module.add_arguments(command)
        command.set_defaults(command=module, exit_code=0)
    return parser


def _configuration(name: str) -> list[str]:
    """The options that make a data fragment, or the configuration of a run, a whole configuration."""
    path = find_config(name)
    content = parse_yaml(read_text(path), f"configuration {path}")
    if isinstance(content, dict) and content.keys() & {"class_path", BASE}:
        return [f"--config={_AROUND}", f"--data={path}"]
    return [f"--config={path}"]
