"""The console entry: runs one command, and says in one line what ended it. `petl_bench.commands.table` has them all."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from petl_bench.cli.rewriting import Taken, taken
from petl_bench.commands.table import help_text, run_command
from petl_bench.errors import PetlBenchError, UsageError
from petl_bench.machine.installation import restore_own_package, stand_ins
from petl_bench.machine.limits import fault_of_machine
from petl_bench.machine.output import READER_GONE, Output, printable
from petl_bench.machine.signals import ONE_AT_A_TIME, STOP, Stopped, exit_on_signals, handled, take_over


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; `args` defaults to the process's own.

    Any thread may call it; commands of several threads run one after the other. In the main thread signals end the
    command, and what handled them before does so again afterwards.
    """
    given = sys.argv[1:] if args is None else args
    with ONE_AT_A_TIME, printable() as output:
        try:
            return output.code(_ended(given, output), STOP.leads)
        except SystemExit as stop:  # argparse ends this way
            raise SystemExit(output.code(int(stop.code or 0), STOP.leads)) from stop


def _ended(given: Sequence[str], output: Output) -> int:
    """Runs one command, says what ended it before its time, and returns its exit code."""
    try:
        restore_own_package()
        with handled():
            return _dispatch(taken(given))
    except Stopped as stopped:
        _tell_stopped()
        return stopped.exit_code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not output.streams:  # the reader of a closed stream has gone
            return READER_GONE
        if "--debug" in given:
            raise
        known = error if isinstance(error, PetlBenchError) else fault_of_machine(error)
        if known is not None:
            print(f"petl-bench: error: {_one_line(known)}", file=sys.stderr)
            return known.exit_code
        # a bug in petl_bench or in a library, reported in one line as well
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


def _dispatch(given: Taken) -> int:
    if not given.arguments:
        print(help_text(), end="")
        return UsageError.exit_code
    command, *rest = given.arguments
    if command in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if command in ("--version", "-V"):
        from petl_bench import __version__

        print(f"petl-bench {__version__}")
        return 0
    return run_command(command, rest, given.plugins)


def _tell_stopped() -> None:
    if STOP.leads:
        with suppress(OSError):  # of a terminal that hung up
            print(STOP.farewell(), file=sys.stderr, flush=True)


def _one_line(error: Exception) -> str:
    """The message in one line; of an error raised in a loader worker, the last line of its traceback."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if len(lines) > 1 and lines[0].startswith("Caught "):
        return lines[-1].split(": ", 1)[-1]
    return " ".join(lines)


if __name__ == "__main__":
    console()
