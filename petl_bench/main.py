"""The console entry. `--help`, `--version`, `list`, `report` and `fixture` answer without importing torch."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from petl_bench.cli.arguments import Parser
from petl_bench.errors import PetlBenchError, UsageError
from petl_bench.machine.installation import restore_own_package, stand_ins
from petl_bench.machine.launch import require_one_process
from petl_bench.machine.limits import fault_of_machine, prepare
from petl_bench.machine.output import READER_GONE, Output, printable
from petl_bench.machine.resources import warn_of_limits
from petl_bench.machine.signals import STOP, Stopped, exit_on_signals, handled, take_over

_HELP = """\
usage: petl-bench COMMAND ...

Benchmark of parameter-efficient transfer learning on video and text.

run a configuration (a file, or the bare name of a packaged one):
  fit       train, then test the result:  petl-bench fit --config msrvtt_adaptformer --data.init_args.root ~/msrvtt
  test      test an adapter:              petl-bench test --ckpt_path runs/.../adapter.safetensors
  validate  the same on the validation split
  predict   write features of the test split, or answers to its questions

look at a configuration, without weights and data:
  params    trainable parameters by component
  profile   GMACs, memory and speed of training steps
  plan      memory, steps, hours and disk of a run

prepare a dataset (`petl-bench data COMMAND --config data/msrvtt.yaml --data.root DIR`):
  data      describe: what its annotation files hold
            verify: decode every clip and say which are bad or missing
            cache: decode its clips once into a frame cache that all runs share

look and report:
  list      methods, datamodules, configs, or the matrix of methods, backbones and tasks
  report    collect the runs below a folder into a leaderboard
  record    write the record of a run that was killed before it did:  petl-bench record runs/.../seed0
  fixture   write a small generated dataset in the layout of a real one
  demo      all of it in minutes on a CPU: generated clips, a small CLIP, several methods, the leaderboard

options:
  --plugins PACKAGE  import your own methods and data modules first (repeatable; not of report and fixture)
  --debug            show the traceback of an error
  --version, --help

`petl-bench COMMAND --help` explains a command. Exit codes: 0 done, 2 usage or configuration, 3 non-finite,
4 data, 5 checkpoint or storage, 6 distributed, 130 and 143 signals.
"""

#: and what a signal leaves of each before it knows better
_RUN_COMMANDS = {
    "fit": "; no step was made, so nothing is lost",
    "validate": "; nothing is kept of it: give the same command again",
    "test": "; no figures were written: give the same command again",
    "predict": "; nothing was written: give the same command again",
}
_INSPECT_COMMANDS = ("params", "profile")
#: what several processes would do several times over
_ALONE = (*_INSPECT_COMMANDS, "plan", "data", "demo", "fixture")
#: commands that import torch
_HEAVY_COMMANDS = (*_RUN_COMMANDS, *_INSPECT_COMMANDS, "plan", "data", "demo")
#: seeds, signals and the standard streams are the process's own
_ONE_AT_A_TIME = threading.RLock()


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; `args` defaults to the process's own.

    Any thread may call it; commands of several threads run one after the other.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    with _ONE_AT_A_TIME, printable() as output:
        try:
            return output.code(_ended(arguments, debug, output), STOP.leads)
        except SystemExit as stop:  # argparse ends this way
            raise SystemExit(output.code(int(stop.code or 0), STOP.leads)) from stop


def _ended(arguments: list[str], debug: bool, output: Output) -> int:
    """Runs one command, says what ended it before its time, and returns its exit code."""
    try:
        restore_own_package()
        with handled():
            return _dispatch(arguments)
    except Stopped as stopped:
        _tell_stopped()
        return stopped.exit_code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not output.streams:  # who read a stream that is no file has gone
            return READER_GONE
        if debug:
            raise
        known = error if isinstance(error, PetlBenchError) else fault_of_machine(error)
        if known is not None:
            print(f"petl-bench: error: {_one_line(known)}", file=sys.stderr)
            return known.exit_code
        # a fault of ours, or of a library: say so in one line, too
        text = f"{type(error).__name__}: {_one_line(error)}"[:500] + stand_ins()
        print(f"petl-bench: unexpected error: {text} (--debug shows where)", file=sys.stderr)
        return 1


def console() -> None:
    """Entry of the installed `petl-bench` script."""
    take_over()
    code = main()
    exit_on_signals()
    if not STOP.number:
        sys.exit(code)
    # Who is asked to end waits neither for threads nor for what other libraries do at the end.
    with suppress(OSError):
        sys.stdout.flush()
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def _dispatch(arguments: list[str]) -> int:
    plugins, arguments = _take_plugins(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if arguments else UsageError.exit_code
    command, rest = arguments[0], arguments[1:]
    if command in ("--version", "-V"):
        from petl_bench import __version__

        print(f"petl-bench {__version__}")
        return 0
    if command in _HEAVY_COMMANDS or rest[:1] == ["matrix"]:
        _prepare()
    if command in _RUN_COMMANDS:
        return _run_command(command, rest, plugins)
    if command in _ALONE:
        require_one_process(command)
    if command in _INSPECT_COMMANDS:
        from petl_bench.commands.inspect import run

        return run(command, rest, plugins)
    if command == "plan":
        from petl_bench.commands.plan import run

        return run(rest, plugins)
    if command == "data":
        from petl_bench.commands.data import run

        return run(rest, plugins)
    if command == "record":
        from petl_bench.commands.record import run

        return run(rest, plugins)
    if command == "demo":
        from petl_bench.commands import demo

        return demo.run(rest, partial(_with_plugins, plugins))
    if command == "list":
        return _list(rest, plugins)
    if command in _LIGHT_COMMANDS:
        if plugins:
            raise UsageError(f"{command} has no option --plugins: it reads neither methods nor data modules")
        return _LIGHT_COMMANDS[command](rest)
    known = [*_RUN_COMMANDS, *_INSPECT_COMMANDS, "plan", "data", "record", "demo", "list", *_LIGHT_COMMANDS]
    raise UsageError(_unknown("command", command, known))


def _run_command(command: str, arguments: list[str], plugins: list[str]) -> int:
    """One of Lightning's subcommands."""
    STOP.advice = _RUN_COMMANDS[command].__str__
    from petl_bench.cli.lightning import run

    return run(command, arguments, plugins)


def _prepare() -> None:
    """For what imports torch."""
    prepare()
    warn_of_limits()


def _tell_stopped() -> None:
    if STOP.leads:
        with suppress(OSError):  # of a terminal that hung up
            print(STOP.farewell(), file=sys.stderr, flush=True)


def _with_plugins(plugins: list[str], arguments: list[str]) -> int:
    """One command of those that `demo` consists of; errors pass to who called the demo."""
    return _dispatch([*arguments, *(f"--plugins={plugin}" for plugin in plugins)])


def _take_plugins(arguments: list[str]) -> tuple[list[str], list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plugins", action="append", default=[])
    known, rest = parser.parse_known_args(arguments)
    return known.plugins, rest


def _list(arguments: list[str], plugins: list[str]) -> int:
    parser = Parser(prog="petl-bench list", description="Shows what configurations can name.")
    parser.add_argument("what", choices=["methods", "datamodules", "configs", "matrix"])
    parser.add_argument("--json", action="store_true", help="of the matrix: print JSON")
    options = parser.parse_args(arguments)
    what = options.what
    if options.json and what != "matrix":
        raise UsageError(f"list {what} has no option --json: it is of list matrix")
    if plugins and what == "configs":
        raise UsageError("list configs has no option --plugins: it shows the packaged configurations")
    if what == "configs":
        _list_configs()
        return 0
    if what == "matrix":
        from petl_bench.commands import matrix

        return matrix.run(options.json, plugins)
    from petl_bench.registry import list_entries, plugin_entries

    entries = [*list_entries(what), *plugin_entries(what, plugins)]
    name, module = (max(len(entry[place]) for entry in entries) for place in (0, 1))
    for entry in entries:
        print(f"{entry.name:<{name}} {entry.module:<{module}} {entry.summary}".rstrip())
    return 0


def _list_configs() -> None:
    """Configurations that `--config` can name, by dataset."""
    from itertools import groupby

    from petl_bench.cli.named_configs import list_configs, summary_of

    leaves = [name for name in list_configs() if os.sep not in name]
    width = max(map(len, leaves))
    told = {name: summary_of(name) for name in leaves}
    # By what they say of themselves: names of one dataset may be spelt in two ways.
    for dataset, names in groupby(sorted(leaves, key=lambda name: _dataset(told[name])), lambda n: _dataset(told[n])):
        print(f"{dataset}:")
        for name in names:
            print(f"  {name:<{width}}  {told[name].removeprefix(dataset).lstrip(', ')}")


def _dataset(summary: str) -> str:
    return summary.split(",")[0].split(". ")[0]


def _report(arguments: list[str]) -> int:
    from petl_bench.commands import report

    parser = Parser(prog="petl-bench report", description="Collects runs into a leaderboard.")
    report.add_arguments(parser)
    return report.run(parser.parse_args(arguments))


def _fixture(arguments: list[str]) -> int:
    from petl_bench.commands import fixture

    parser = Parser(
        prog="petl-bench fixture", description="Writes a small generated dataset in the layout of a real one."
    )
    fixture.add_arguments(parser)
    return fixture.run(parser.parse_args(arguments))


_LIGHT_COMMANDS: dict[str, Callable[[list[str]], int]] = {"report": _report, "fixture": _fixture}


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, 1)
    return f"unknown {what} '{name}': " + (f"did you mean {close[0]}?" if close else f"one of {', '.join(known)}")


def _one_line(error: Exception) -> str:
    """The message in one line; of an error raised in a loader worker, the last line of its traceback."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if len(lines) > 1 and lines[0].startswith("Caught "):
        return lines[-1].split(": ", 1)[-1]
    return " ".join(lines)


if __name__ == "__main__":
    console()
