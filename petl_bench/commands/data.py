"""`petl-bench data`: what can be done with a dataset without training on it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from types import ModuleType

from petl_bench.cli.arguments import Parser
from petl_bench.cli.fragments import composed
from petl_bench.cli.named_configs import SUFFIXES, find_config
from petl_bench.commands import data_cache, data_describe, data_info, data_verify
from petl_bench.commands.inspection import on_configuration
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.machine.signals import STOP
from petl_bench.method import Method
from petl_bench.registry import load_plugins
from petl_bench.storage.untrusted import shown

#: modules with `add_arguments(parser)` and `run(data module, options) -> exit code`
COMMANDS: dict[str, ModuleType] = {"describe": data_describe, "verify": data_verify, "cache": data_cache}
#: the configuration around a data fragment, which alone says neither size nor resize of frames
_AROUND = "msrvtt_zeroshot"


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Runs a command of `petl-bench data`; the model, which it needs for its `spec` alone, takes no memory.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    if arguments[:1] == ["info"]:  # which reads no configuration
        return data_info.run(arguments[1:], plugins)
    options, rest = _parser().parse_known_args(arguments)
    if options.backbone and not options.backbone.endswith(SUFFIXES):
        raise UsageError(f"--backbone {shown(options.backbone)} is no file: give backbone/NAME.yaml")
    load_plugins(plugins)  # a configuration may be theirs
    backbone = [f"--model.init_args.backbone={options.backbone}"] if options.backbone else []
    configuration = [*_configuration(options.config), *backbone, *rest]
    return on_configuration(_on_data, options, configuration, plugins, device="meta")


def _on_data(method: Method, data: VideoTextDataModule, options: argparse.Namespace) -> int:
    STOP.unwinds = True  # a progress bar has hidden the cursor
    return options.command.run(data, options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="petl-bench data", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("info", help=data_info.SUMMARY)
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
        command.set_defaults(command=module)
    return parser


def _configuration(name: str) -> list[str]:
    """The options that make a data fragment, or the configuration of a run, a whole configuration."""
    path = find_config(name)
    content = composed(path)
    if isinstance(content, dict) and "class_path" in content:
        return [f"--config={_AROUND}", f"--data={path}"]
    return [f"--config={path}"]
