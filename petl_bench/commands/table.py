"""The table of commands, from which help, dispatch and suggestions follow."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from itertools import groupby
from typing import NamedTuple

from petl_bench.errors import UsageError
from petl_bench.machine.launch import require_one_process
from petl_bench.machine.limits import prepare
from petl_bench.machine.signals import STOP

_RUNS = "run a configuration (a file, or the bare name of a packaged one)"
_USES = "use a trained adapter"
_LOOKS = "look at a configuration, without weights and data"
_DATA = "prepare a dataset (`petl-bench data COMMAND --config data/msrvtt.yaml --data.root DIR`)"
_REST = "look and report"


class Command(NamedTuple):
    """One command.

    Attributes:
        name: as it is typed.
        heading: that it stands under in the help.
        summary: lines of the help.
        torch: whether it imports torch, which it may take this machine some preparation to do.
        several: whether several processes of a launcher may run it.
        plugins: whether it takes `--plugins`.
        stopped: what a signal leaves of it before it knows better.
        function: `module:function` in `petl_bench.commands` of arguments and plug-ins (if it takes them), which gives
            the exit code; `run` of the module of its name if empty.
    """

    name: str
    heading: str
    summary: tuple[str, ...]
    torch: bool = True
    several: bool = False
    plugins: bool = True
    stopped: str = ""
    function: str = ""

    def run(self, arguments: Sequence[str], plugins: Sequence[str]) -> int:
        """Runs it; its exit code.

        Raises:
            UsageError: it takes no plug-ins, or several processes were started for what one does.
            PetlBenchError: whatever ends it.
        """
        if plugins and not self.plugins:
            raise UsageError(f"{self.name} has no option --plugins: it reads neither methods nor data modules")
        STOP.advice = self.stopped.__str__
        if self.torch:
            prepare()
        if not self.several:
            require_one_process(self.name)
        module, _, name = (self.function or f"{self.name}:run").partition(":")
        function = getattr(import_module(f"petl_bench.commands.{module}"), name)
        return function(arguments, plugins) if self.plugins else function(arguments)


COMMANDS = (
    Command(
        "fit",
        _RUNS,
        ("train, then test the result:  petl-bench fit --config msrvtt_adaptformer --data.root ~/msrvtt",),
        several=True,
        stopped="; no step was made, so nothing is lost",
        function="run:fit",
    ),
    Command(
        "test",
        _RUNS,
        ("test an adapter:              petl-bench test --ckpt_path runs/.../adapter.safetensors",),
        several=True,
        stopped="; no figures were written: give the same command again",
        function="run:test",
    ),
    Command(
        "validate",
        _RUNS,
        ("the same on the validation split",),
        several=True,
        stopped="; nothing is kept of it: give the same command again",
        function="run:validate",
    ),
    Command(
        "predict",
        _RUNS,
        ("write features of the test split, or answers to its questions",),
        several=True,
        stopped="; nothing was written: give the same command again",
        function="run:predict",
    ),
    Command(
        "sweep",
        _RUNS,
        ("many of them:                 petl-bench sweep --configs msrvtt_lora msrvtt_full --seeds 0 1 2 --jobs 2",),
        stopped="; nothing was begun, so nothing is lost",
    ),
    Command(
        "ask",
        _USES,
        ('a question about a video:     petl-bench ask --adapter runs/.../seed0 --video a.mp4 "what is he playing?"',),
    ),
    Command(
        "search",
        _USES,
        ('videos that a text describes: petl-bench search --adapter runs/.../seed0 --videos DIR "a man plays guitar"',),
    ),
    Command(
        "export",
        _USES,
        (
            "features or towers, for other programs:",
            "petl-bench export --adapter runs/.../seed0 --what embeddings --videos DIR --output videos.npz",
            "petl-bench export --adapter runs/.../seed0 --what model --format onnx --output towers",
        ),
        stopped="; nothing was written but what an index holds: give the same command again",
    ),
    Command(
        "merge",
        _USES,
        ("a backbone with LoRA in it:   petl-bench merge --adapter runs/.../seed0 --output DIR",),
        stopped="; nothing was written: give the same command again",
    ),
    Command(
        "push",
        _USES,
        ("share a run on the Hugging Face Hub: petl-bench push runs/.../seed0 --repo someone/name",),
    ),
    Command(
        "doctor",
        _LOOKS,
        ("what a run would stumble over: petl-bench doctor --config msrvtt_lora --data.root ~/msrvtt",),
    ),
    Command("params", _LOOKS, ("trainable parameters by component",)),
    Command("profile", _LOOKS, ("GMACs, memory and speed of training steps",)),
    Command("plan", _LOOKS, ("memory, steps, hours and disk of a run",)),
    Command(
        "data",
        _DATA,
        (
            "info NAME: which files it needs and where they come from, counts, licence, what is often wrong",
            "describe: what its annotation files hold",
            "verify: decode every clip and say which are bad or missing",
            "cache: decode its clips once into a frame cache that all runs share",
        ),
    ),
    Command(
        "list",
        _REST,
        (
            "methods, backbones, tasks, datamodules, readers, configs, or the matrix of what runs on what",
            "narrowed down by a text, as JSON for programs:  petl-bench list methods lora --json",
        ),
        torch=False,
        several=True,
    ),
    Command(
        "report",
        _REST,
        ("collect the runs below a folder into a leaderboard",),
        torch=False,
        several=True,
        plugins=False,
    ),
    Command(
        "compare",
        _REST,
        ("two runs on the same queries, and those that changed:  petl-bench compare RUN_A RUN_B",),
        torch=False,
        several=True,
        plugins=False,
    ),
    Command(
        "record",
        _REST,
        ("write the record of a run that was killed before it did:  petl-bench record runs/.../seed0",),
        several=True,
    ),
    Command(
        "fixture", _REST, ("write a small generated dataset in the layout of a real one",), torch=False, plugins=False
    ),
    Command(
        "pretrain-fixture",
        _REST,
        ("train the small backbones of the package anew",),
        plugins=False,
        function="pretrain_fixture:run",
    ),
    Command(
        "demo",
        _REST,
        ("all of it in minutes on a CPU: generated clips, a small CLIP, several methods, the leaderboard",),
    ),
)
_EPILOGUE = """
options:
  --plugins PACKAGE  import methods, backbones, tasks and data modules of your own first (repeatable; not of report,
                     compare and fixture); installed packages with the entry point petl_bench.plugins are known without
  --debug            show the traceback of an error
  --version, --help

`petl-bench COMMAND --help` explains a command. Exit codes: 0 done, 2 usage or configuration, 3 non-finite,
4 data, 5 checkpoint or storage, 6 distributed, 128 and its number a signal (130 Ctrl-C, 141 a reader that has gone,
143 SIGTERM), 1 a fault of petl-bench or of a plug-in.
"""


def help_text() -> str:
    """What `petl-bench --help` prints."""
    lines = [
        "usage: petl-bench COMMAND ...",
        "",
        "Benchmark of parameter-efficient transfer learning on video and text.",
    ]
    for heading, commands in groupby(COMMANDS, key=lambda command: command.heading):
        lines += ["", f"{heading}:"]
        for command in commands:
            first, *others = command.summary
            lines += [f"  {command.name:<9} {first}", *(f"{'':<12}{line}" for line in others)]
    return "\n".join(lines) + "\n" + _EPILOGUE


def run_command(name: str, arguments: Sequence[str], plugins: Sequence[str]) -> int:
    """Runs one command; its exit code.

    Raises:
        UsageError: there is none of that name; it suggests one.
        PetlBenchError: whatever ends it.
    """
    known = {command.name: command for command in COMMANDS}
    if name in known:
        return known[name].run(arguments, plugins)
    close = get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(known)}"
    raise UsageError(f"unknown command '{name}': {hint}")
