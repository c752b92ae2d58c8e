"""The wheel is whole: built, installed where nothing but what it declares is found, and used in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from petl_bench import __version__
from tests.shared import REPOSITORY

#: folders at the root of a checkout, and where an installation has them
PLACES = {
    "petl_bench": "petl_bench",
    "configs": "petl_bench/configs",
    "methods": "petl_bench/methods",
    "datamodules": "petl_bench/datamodules",
}
QUIET = ("--data.num_workers=0", "--trainer.enable_progress_bar=false")
TINY = ("--model.backbone=backbone/clip_tiny.yaml", "--data.batch_size=8", "--trainer.max_epochs=1", *QUIET)
#: a port where nobody listens: what asks the network fails
NO_NETWORK = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")


class Installation(NamedTuple):
    """The wheel, and an environment that has it."""

    wheel: Path
    environment: Path

    def run(self, program: str, *arguments: str, folder: Path) -> str:
        """The output of a program of the environment that knows nothing of this process, and has no network."""
        command = [str(self.environment / "bin" / program), *arguments]
        variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1", **NO_NETWORK}
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


def git_files() -> list[str]:
    """What a commit of the working tree would hold."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in listed if name and (REPOSITORY / name).is_file()]


def copy_repository(folder: Path) -> Path:
    """What a fresh clone would hold, without what lies about in this checkout."""
    for name in git_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    return folder


def build(source: Path, folder: Path) -> Path:
    """The wheel, made of the source distribution as `python -m build` does, with the tools that are installed."""
    run_quietly(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_quietly(*command: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def closure(lines: Sequence[str], extras: Sequence[str] = (), seen: set[str] | None = None) -> Iterator[Distribution]:
    """Everything that must be installed for some requirements, as it is installed here."""
    seen = set() if seen is None else seen
    for requirement in map(Requirement, lines):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key not in seen:
            seen.add(key)
            found = distribution(name)
            yield found
            yield from closure(found.requires or [], sorted(requirement.extras), seen)


def link(found: Distribution, site_packages: Path) -> None:
    """Shows the environment a distribution of this one, without copying gigabytes."""
    for name in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
        if not (site_packages / name).exists():
            (site_packages / name).symlink_to(str(found.locate_file(name)))


def install(environment: Path, beside: Sequence[str], *what: str) -> Path:
    """Makes an environment with some requirements and installs us in it, without downloads; gives its site-packages."""
    venv.create(environment, symlinks=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    for needed in closure(beside):
        link(needed, site_packages)
    pip = (sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"))
    run_quietly(*pip, "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", *what)
    return site_packages


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with its usual name, below a folder with a blank in its name."""
    return copy_repository(tmp_path_factory.mktemp("all clones") / "petl_bench")


@pytest.fixture(scope="module")
def installation(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel in an environment where only what it declares can be imported, and a foreign package `methods`."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel, environment = build(source, folder / "dist"), folder / "environment"
    site_packages = install(environment, [], str(wheel))
    (installed,) = site_packages.glob("petl_bench-*.dist-info")
    for needed in closure(Distribution.at(installed).requires or []):
        link(needed, site_packages)
    add_foreign(site_packages)
    return Installation(wheel, environment)


def add_foreign(site_packages: Path) -> None:
    """Installs packages of others that have the names of our two folders."""
    for name in ("methods", "datamodules"):
        (site_packages / name).mkdir()  # fails, with a message, if the wheel owns such a folder
        (site_packages / name / "__init__.py").write_text("raise ImportError('foreign')\n", encoding="utf-8")


def test_the_wheel_holds_the_files_of_the_repository_and_no_other(installation: Installation) -> None:
    expected = {
        f"{PLACES[folder]}/{rest}"
        for folder, _, rest in (name.partition("/") for name in git_files())
        if folder in PLACES
    }
    with ZipFile(installation.wheel) as file:
        found = {name for name in file.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_what_it_declares_is_all_that_is_there_and_fits(installation: Installation, own_folder: Path) -> None:
    python = str(installation.environment / "bin" / "python")
    assert "No broken requirements" in run_quietly(sys.executable, "-m", "pip", "--python", python, "check")
    code = "from importlib.util import find_spec; print(*(find_spec(n) for n in ('pytest', 'decord', 'hypothesis')))"
    assert installation.run("python", "-c", code, folder=own_folder).split() == ["None"] * 3


@pytest.mark.timeout(600)  # five processes that import torch
def test_commands_in_an_empty_folder(installation: Installation, own_folder: Path) -> None:
    def petl_bench(*arguments: str) -> str:
        return installation.run("petl-bench", *arguments, folder=own_folder)

    code = "import petl_bench; print(petl_bench.__file__)"
    assert str(installation.environment) in installation.run("python", "-c", code, folder=own_folder)
    assert petl_bench("--version").split() == ["petl-bench", __version__]
    assert "msrvtt_mvadapter" in petl_bench("list", "configs")
    assert "MVAdapter" in petl_bench("list", "methods")
    assert "MSRVTT" in petl_bench("list", "datamodules")
    shown = petl_bench("demo", "--methods", "zeroshot", "--train-videos=16", "--test-videos=4", *QUIET)
    assert "wrote 16 training and 4 test videos" in shown
    assert "record: demo/runs/msrvtt-fixture/zeroshot/clip-small/" in shown
    assert (own_folder / "demo" / "report" / "leaderboard.md").is_file()
    by_new_name = "--model=petl_bench.methods.lora.LoRA"
    assert "LoRA on clip-tiny" in petl_bench("params", "--config=fixture_linear", *TINY, by_new_name)
    assert "record: runs/" in petl_bench("fit", "--config=fixture_mvadapter", *TINY)
    (adapter,) = own_folder.rglob("adapter.safetensors")
    # The names of classes are those of a checkout, and of earlier versions.
    assert "class_path: methods.mv_adapter.MVAdapter" in adapter.with_name("config.yaml").read_text(encoding="utf-8")
    assert "test.json" in petl_bench("test", f"--ckpt_path={adapter}")
    assert "MV-Adapter" in petl_bench("report")
    assert (own_folder / "report" / "leaderboard.md").is_file()


@pytest.mark.parametrize("mode", ["lenient", "strict", "compat"])
def test_editable_installations_find_all_parts(mode: str, source: Path, own_folder: Path) -> None:
    environment = own_folder / "environment"
    editable = ("--editable", str(source), f"--config-settings=editable_mode={mode}")
    add_foreign(install(environment, ["pyyaml", "setuptools"], *editable))
    installation = Installation(source, environment)
    for folder in (own_folder, source, source.parent):  # the last holds a folder `petl_bench`, which is the clone
        assert "MVAdapter" in installation.run("petl-bench", "list", "methods", folder=folder)
        assert "msrvtt_mvadapter" in installation.run("petl-bench", "list", "configs", folder=folder)
        assert "MSRVTT" in installation.run("python", "-m", "petl_bench", "list", "datamodules", folder=folder)
