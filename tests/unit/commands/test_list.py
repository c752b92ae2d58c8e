"""`petl-bench list`: columns for people, JSON for programs, and what a text occurs in. Plug-ins: `test_plugin.py`."""

from __future__ import annotations

import json

import pytest

from petl_bench.data.video import READERS
from petl_bench.main import main


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["list", *arguments]) == 0
    return capsys.readouterr().out


def test_a_text_is_looked_for_in_all_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in listed(capsys, "methods", "lora").splitlines()] == ["LoRA", "TempMe"]
    assert listed(capsys, "methods", "no such thing") == ""
    assert listed(capsys, "configs", "tempme").splitlines()[0] == "Diagnostic clips:"


def test_json_has_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = json.loads(listed(capsys, "tasks", "queue", "--json"))
    assert (found["name"], found["module"]) == ("MatchingRetrieval", "petl_bench.tasks.matching")
    configs = json.loads(listed(capsys, "configs", "--json"))
    assert {"name": "msvd_lora.yaml", "dataset": "MSVD"}.items() <= next(
        c for c in configs if "d_lora" in c["name"]
    ).items()
    assert listed(capsys, "configs", "nothing of this name", "--json") == "[]\n"


def test_readers(capsys: pytest.CaptureFixture[str]) -> None:
    found = {entry["name"]: entry for entry in json.loads(listed(capsys, "readers", "--json"))}
    assert found.keys() == READERS.keys()
    assert all(entry["summary"] for entry in found.values())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("methods", "lroa"), "nothing here has 'lroa' in it: did you mean LoRA?\n"),
        (("matrix", "lroa"), "nothing here has 'lroa' in it: did you mean LoRA?\n"),
        (("datamodules", "no such thing"), "nothing here has 'no such thing' in it\n"),
    ],
)
def test_a_text_that_occurs_nowhere(arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", *arguments]) == 0
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", told)
