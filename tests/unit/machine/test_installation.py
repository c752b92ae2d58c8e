"""What an installation lacks, and what stands in the place of its parts, is told in one line that helps."""

from __future__ import annotations

import configparser
import importlib
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from petl_bench.errors import UsageError
from petl_bench.machine import installation
from petl_bench.machine.installation import lacking
from petl_bench.main import main
from petl_bench.runs import record as results
from petl_bench.runs.rehearsal import rehearse
from tests.shared import REPOSITORY


class Blocked:
    """Has some modules not be found."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if any(f"{name}.".startswith(f"{blocked}.") for blocked in self.names):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def block(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for loaded in [module for module in sys.modules if any(f"{module}.".startswith(f"{name}.") for name in names)]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setattr(sys, "meta_path", [Blocked(*names), *sys.meta_path])


def told_of(module: str) -> str:
    with pytest.raises(ImportError) as caught:
        importlib.import_module(module)
    return lacking(caught.value)


def test_rehearsal_of_a_whole_installation() -> None:
    rehearse()


@pytest.mark.parametrize("module", ["rich.table", "safetensors.torch", "jsonschema", "jsonschema.exceptions"])
def test_the_end_is_rehearsed(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block(monkeypatch, module)
    results._validator.cache_clear()
    package = module.partition(".")[0]
    with pytest.raises(UsageError, match=rf"package {package} is .*: pip install .*{package}") as caught:
        rehearse()
    assert "the results of a run need it" in str(caught.value)


def test_a_package_that_is_there_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console.Console.print", lambda *arguments: None + 1)  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"package rich does not work .TypeError: .*--force-reinstall --no-deps rich"):
        rehearse()


def test_the_remedy_fits_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    block(monkeypatch, "open_clip")
    assert told_of("open_clip").endswith(
        "package open_clip is missing: pip install --force-reinstall --no-deps open_clip_torch"
    )  # pip believes that it is there

    def unknown(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", unknown)
    assert told_of("open_clip") == "package open_clip is missing: pip install open_clip_torch"
    assert told_of("petl_bench.no_such_part").endswith("install petl_bench again")


def test_the_first_error_that_names_a_module_counts() -> None:
    def inner() -> None:
        try:
            importlib.import_module("no_such_optional_module")
        except ImportError:
            importlib.import_module("no_such_module")

    def outer() -> None:
        try:
            inner()
        except ImportError as error:
            raise ModuleNotFoundError("Could not import module 'Auto'") from error

    with pytest.raises(ImportError) as caught:
        outer()
    assert lacking(caught.value) == "package no_such_module is missing: pip install no_such_module"
    assert lacking(ValueError("of something else")) == ""
    assert lacking(ImportError("libtorch.so: failed to map segment")) == ""


@pytest.mark.parametrize(("name", "content"), [("ftfy.py", "x = 1"), ("ftfy/__init__.py", "import no_such_part")])
def test_a_file_of_the_current_folder_is_named(
    name: str, content: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own_folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "ftfy", raising=False)
    monkeypatch.syspath_prepend(str(own_folder))
    with pytest.raises(ImportError) as caught:
        exec("from ftfy import fix_text")
    module = "no_such_part" if "part" in content else "ftfy"
    told = lacking(caught.value)
    assert (str(file.resolve()) in told) == (module == "ftfy")
    assert module in told


def test_commands_end_with_2_and_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    block(monkeypatch, "open_clip")
    backbone = "--model.init_args.backbone=backbone/clip_tiny.yaml"
    assert main(["params", "--config=fixture_linear", backbone]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        "petl-bench: error: package open_clip is missing: pip install --force-reinstall --no-deps open_clip_torch"
    )


@pytest.mark.parametrize(
    "option",
    [
        "--model=methods.no_such_file.Foo",
        "--model.init_args.task=petl_bench.tasks.no_such_file.Foo",
        '--trainer.callbacks=[{"class_path": "pytorch_lightning.no_such_file.Foo"}]',
    ],
)
def test_a_class_path_with_a_typing_error_is_no_missing_package(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["params", "--config=fixture_linear", option]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "Foo" in error
    assert "pip install" not in error


def test_names_of_distributions_are_those_that_are_declared() -> None:
    declared = configparser.ConfigParser()
    declared.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    names = {Requirement(line).name for line in declared["options"]["install_requires"].split("\n") if line}
    named = {"PIL", "jsonargparse", "open_clip", "pytorch_lightning", "yaml"}
    assert {installation._DISTRIBUTIONS[module].partition("[")[0] for module in named} <= names


def test_an_unexpected_error_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: list[str]) -> int:
        raise KeyError("of ours")

    monkeypatch.setattr("petl_bench.commands.report.run", fail)
    assert main(["report"]) == 1
    assert capsys.readouterr().err == "petl-bench: unexpected error: KeyError: 'of ours' (--debug shows where)\n"
