"""Methods and data modules are found by their folder; plug-ins by name; shadows and gaps are named."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import methods
from petl_bench import registry
from petl_bench.cli.config_safety import ClassPathGuard
from petl_bench.errors import UsageError
from petl_bench.registry import (
    FOLDERS,
    GROUP,
    KINDS,
    PACKAGE,
    ROOT,
    all_entries,
    import_plugins,
    installed_plugins,
    list_entries,
    named_class,
    plugin_entries,
)


def test_lists_what_a_configuration_can_name() -> None:
    entries = {entry.name: entry for entry in list_entries("methods")}
    assert {"AdaptFormer", "Full", "ZeroShot"} <= entries.keys()
    assert "ParallelBlock" not in entries
    assert entries["Full"].module == "methods.full"
    assert entries["Full"].summary.startswith("Full fine-tuning")
    assert [entry.name for entry in list_entries("datamodules")].count("MSRVTT") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_can_be_imported_and_has_a_summary(kind: str) -> None:
    import_plugins()
    entries = list_entries(kind)
    assert len({entry.name for entry in entries}) == len(entries) > 0
    for entry in entries:
        assert hasattr(sys.modules[entry.module], entry.name)
        assert entry.load().__name__ == entry.name
        assert entry.summary
        assert "\n" not in entry.summary


@pytest.mark.parametrize("kind", KINDS)
def test_listing_misses_no_class(kind: str) -> None:
    """The list is read from source; it equals what the classes themselves say."""
    import_plugins()
    base, package = named_class(KINDS[kind].base), KINDS[kind].package
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(f"{package}.")]
    classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
    own = {c for c in classes if issubclass(c, base) and c.__module__.startswith(f"{package}.")}
    concrete = {c.__name__ for c in own if not any(getattr(getattr(c, n), "__isabstractmethod__", 0) for n in dir(c))}
    assert concrete == {entry.name for entry in list_entries(kind)}


def test_a_backbone_is_listed_by_the_package_that_configurations_name() -> None:
    assert "petl_bench.backbones.clip.CLIP" in {entry.class_path for entry in list_entries("backbones")}


def plugin(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def test_plugin_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = plugin(tmp_path, "registry_plugin", "loaded = True\n", monkeypatch)
    import_plugins([name])
    assert sys.modules[name].loaded
    monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("name", ["no_such_plugin", "no_such_plugin.part", "petl_bench.no_such_part"])
def test_missing_plugin(name: str) -> None:
    with pytest.raises(UsageError, match=f"no module '{name}': is it installed"):
        import_plugins([name])


@pytest.mark.parametrize("needed", ["no_such_package", "registry"])
def test_plugin_that_needs_a_missing_package(needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = plugin(tmp_path, "registry_needy", f"import {needed}\n", monkeypatch)
    with pytest.raises(UsageError, match=f"'{name}' needs '{needed}', which is not installed"):
        import_plugins([name])


BROKEN = {
    "raises": "raise RuntimeError('on purpose')",
    "no Python": "def",
    "half an import": "from petl_bench.method import Methd",
    "leaves": "1 / 0",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_plugin(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = plugin(tmp_path, "registry_broken", text, monkeypatch)
    for use in (import_plugins, lambda names: plugin_entries("methods", names)):
        with pytest.raises(UsageError, match="--plugins registry_broken: it cannot be imported") as caught:
            use([name])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "./methods/mine.py", ".hidden", "a..b", "é", "a\0b"])
def test_what_is_no_name_of_a_module(name: str) -> None:
    with pytest.raises(UsageError):
        import_plugins([name])


OWN = '''
from abc import abstractmethod
from datamodules.msrvtt import MSRVTT
from methods.lora import LoRA
from petl_bench.method import Method

class Base(Method):
    """Not to be named."""
    @abstractmethod
    def part(self): ...

class Mine(Base):
    """First line,
    second.

    More.
    """
    def part(self): ...
    def inject(self, backbone): ...

class Other(LoRA): ...

class Clips(MSRVTT):
    """Clips of mine."""

class Neither: ...
'''


def test_classes_of_plugins_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = plugin(tmp_path, "registry_own", OWN, monkeypatch)
    found = plugin_entries("methods", [name])
    assert [(entry.name, entry.module) for entry in found] == [("Mine", name), ("Other", name)]
    assert found[0].summary == "First line, second."
    assert plugin_entries("datamodules", [name]) == [("Clips", name, "Clips of mine.")]
    assert plugin_entries("methods", []) == []
    assert plugin_entries("tasks", [name]) == []
    monkeypatch.delitem(sys.modules, name)


def install(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution `<name>-dist` that names the module as a plug-in, as `pip install` leaves it."""
    plugin(folder, name, text, monkeypatch)
    info = folder / f"{name}_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nmine = {name}\n", encoding="utf-8")


def test_plugins_of_installed_packages_need_no_naming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "registry_installed", OWN, monkeypatch)
    assert installed_plugins() == {"registry_installed": "registry_installed-dist"}
    assert ("Mine", "registry_installed") in {entry[:2] for entry in all_entries("methods")}
    import_plugins()
    assert "registry_installed" in ClassPathGuard().plugins
    monkeypatch.delitem(sys.modules, "registry_installed")


@pytest.mark.parametrize("text", [*BROKEN.values(), "import no_such_package"])
def test_a_broken_installed_plugin_is_named_with_its_distribution(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "registry_broken", text, monkeypatch)
    words = "plug-in registry_broken of the installed package registry_broken-dist cannot be imported .*: repair or"
    with pytest.raises(UsageError, match=words) as caught:
        import_plugins()
    assert "\n" not in str(caught.value)


def test_a_plugin_of_several_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "registry_package"
    package.mkdir()
    (package / "__init__.py").write_text("from registry_package.part import Mine\n", encoding="utf-8")
    (package / "part.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert ("Mine", "registry_package.part") in {e[:2] for e in plugin_entries("methods", ["registry_package"])}
    for name in ("registry_package", "registry_package.part"):
        monkeypatch.delitem(sys.modules, name)


def test_a_plugin_whose_modules_nobody_imports_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "registry_silent"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "part.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match=r"registry_silent .*__init__\.py imports none of its modules \(part\)"):
        assert plugin_entries("methods", ["registry_silent"]) == []
    monkeypatch.delitem(sys.modules, "registry_silent")


@pytest.mark.filterwarnings("error")
def test_a_plugin_of_configurations_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registry_files" / "configs").mkdir(parents=True)
    (tmp_path / "registry_files" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert plugin_entries("methods", ["registry_files"]) == []
    monkeypatch.delitem(sys.modules, "registry_files")


def test_another_package_of_our_name_is_refused_where_it_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "__path__", [str(tmp_path)])
    with pytest.raises(UsageError) as caught:
        import_plugins()
    assert str(tmp_path) in str(caught.value)
    assert str(ROOT) in str(caught.value)


@pytest.mark.parametrize("first", ["registry", "petl_bench.methods"])
@pytest.mark.parametrize("kind", ["package", "module", "empty folder"])
def test_another_package_of_our_name_does_not_get_in_the_way(kind: str, first: str, own_folder: Path) -> None:
    """Ours are loaded from where they are, in the current folder or not, and by both names."""
    for name in FOLDERS:
        if kind == "module":
            (own_folder / f"{name}.py").write_text("raise ImportError('foreign')\n", encoding="utf-8")
            continue
        (own_folder / name).mkdir()
        if kind == "package":
            (own_folder / name / "__init__.py").write_text("raise ImportError('foreign')\n", encoding="utf-8")
            (own_folder / name / "lora.py").write_text("raise ImportError('foreign')\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", BY_BOTH_NAMES, first], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# In the modules' place a stand-in: loading the real ones takes seconds, and nothing here depends on what they hold.
BY_BOTH_NAMES = """
import sys, tempfile
from pathlib import Path

sys.path.insert(0, "")
from petl_bench import registry

registry.ROOT = registry.PACKAGE = Path(tempfile.mkdtemp())
for folder in registry.FOLDERS:
    (registry.ROOT / folder).mkdir()
    (registry.ROOT / folder / "lora.py").write_text("class LoRA: pass")
if sys.argv[1] == "registry":
    registry.import_plugins()
    import methods.lora, datamodules.lora
import petl_bench.methods, petl_bench.datamodules.lora, petl_bench.methods.lora as other
from petl_bench.methods.lora import LoRA

registry.import_plugins()
import methods.lora, datamodules.lora

assert other is methods.lora is petl_bench.methods.lora
assert petl_bench.methods is methods and petl_bench.datamodules is datamodules
assert LoRA is methods.lora.LoRA and LoRA.__module__ == "methods.lora"
"""


def test_a_module_is_one_by_either_name() -> None:
    within = import_module("petl_bench.methods.linear")  # type checkers look for a file of that name
    assert import_module("petl_bench.methods") is methods
    assert within is import_module("methods.linear")
    assert within.Linear.__module__ == "methods.linear"


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_installation_has_the_same_first_file(folder: str) -> None:
    """Either of them is `petl_bench/<folder>/__init__.py` in a wheel, whichever setuptools copies last."""
    first, second = (parent / folder / "__init__.py" for parent in (ROOT, PACKAGE))
    assert first.read_bytes() == second.read_bytes()


SOURCES = {
    "mine": "raise RuntimeError\nfrom petl_bench import method as base\n\nclass Mine(base.Method):\n"
    '    """First line,\n    second.\n\n    More."""\n    def inject(self): ...\n',
    "family": "from petl_bench.method import Method\nclass Family(Method):\n    rank = 1\nclass _Own(Family):\n"
    "    def inject(self): ...\n",
    "member": "from methods.family import Family as F\nclass Member(F):\n    def inject(self): ...\n",
    "other": "from torch.nn import Module\nclass Other(Module):\n    def inject(self): ...\n",
}


def test_listing_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "methods").mkdir()
    for name, source in SOURCES.items():
        (tmp_path / "methods" / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    found = [("Member", "methods.member", ""), ("Mine", "methods.mine", "First line, second.")]
    assert list_entries("methods") == found


def test_a_file_that_is_no_python_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "half.py").write_text("class", encoding="utf-8")
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    with pytest.raises(UsageError, match=r"methods/half\.py is no Python: invalid syntax"):
        list_entries("methods")
