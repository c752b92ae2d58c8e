"""One table of commands: what it names is there, and help and suggestions follow from it."""

from __future__ import annotations

from importlib import import_module

import pytest

from petl_bench.commands.table import COMMANDS, Command, help_text, run_command
from petl_bench.errors import UsageError
from petl_bench.main import main


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_is_a_function(command: Command) -> None:
    module, _, name = (command.function or f"{command.name}:run").partition(":")
    assert callable(getattr(import_module(f"petl_bench.commands.{module}"), name))


def test_help_has_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == help_text()
    for command in COMMANDS:
        assert help_text().count(f"\n  {command.name:<9} {command.summary[0]}\n") == 1


def test_no_command_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out == help_text()


@pytest.mark.parametrize(
    ("name", "told"), [("fti", "unknown command 'fti': did you mean fit?"), ("x", "unknown command 'x': one of fit, ")]
)
def test_an_unknown_command(name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        run_command(name, [], [])


@pytest.mark.parametrize("name", [command.name for command in COMMANDS if not command.several])
def test_what_one_process_does_is_not_done_by_several(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=f"{name} runs as one process, but srun started 2"):
        run_command(name, [], [])


@pytest.mark.parametrize("name", ["report", "compare", "fixture"])
def test_commands_without_plugins(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} has no option --plugins"):
        run_command(name, [], ["json"])
