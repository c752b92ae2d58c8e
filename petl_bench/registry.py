"""Finds methods, backbones, tasks and data modules: ours by their folders, and those of plug-ins.

Plug-ins are modules that a user names with `--plugins`, and those that installed packages name as entry points of the
group `petl_bench.plugins`. What a class is follows from its bases: no list is to be edited for a new one.

A checkout has the folders `methods` and `datamodules` at its root, an installation within `petl_bench`, so that it
owns no other name in site-packages. Their modules are `methods.x` and `datamodules.x` in either case, as in every
configuration and adapter file; `petl_bench.methods.x` is the same module. They are loaded from where they lie and not
searched for, so that a folder or an installed package of their name does not get in the way.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from petl_bench.errors import UsageError
from petl_bench.storage.untrusted import shown

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
FOLDERS = ("methods", "datamodules")
#: where plug-ins that were imported may have configurations, in the order in which they were
_CONFIG_FOLDERS: dict[Path, None] = {}
#: what installed packages name their plug-ins by
GROUP = "petl_bench.plugins"


class Kind(NamedTuple):
    """What a configuration can name: the package that ours are in, and the class path of what all of them are."""

    package: str
    base: str


KINDS = {
    "methods": Kind("methods", "petl_bench.method.Method"),
    "backbones": Kind("petl_bench.backbones", "petl_bench.backbones.base.Backbone"),
    "tasks": Kind("petl_bench.tasks", "petl_bench.tasks.base.Task"),
    "datamodules": Kind("datamodules", "petl_bench.data.base.VideoTextDataModule"),
}


class Entry(NamedTuple):
    """One class a configuration can name."""

    name: str
    module: str
    summary: str

    @property
    def class_path(self) -> str:
        """As a configuration names it."""
        return f"{self.module}.{self.name}"

    def load(self) -> Any:
        """The class itself."""
        return named_class(self.class_path)


def named_class(class_path: str) -> Any:
    """The class of a path; those of our two folders are known before anything was imported from them."""
    for folder in FOLDERS:
        _package(folder)
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def import_plugins(extra: Iterable[str] = ()) -> None:
    """Imports all that configurations can name, ours and plug-ins', so that short names resolve.

    Args:
        extra: packages that a user named; installed plug-ins are known without.

    Raises:
        UsageError: if a package is missing or broken, or was imported in the place of ours.
    """
    for kind in KINDS.values():
        _import_all(kind.package)
    load_plugins(extra)


def load_plugins(extra: Iterable[str] = ()) -> list[ModuleType]:
    """Imports plug-ins alone, and so no torch where they need none.

    Args:
        extra: packages that a user named; installed plug-ins are known without.

    Raises:
        UsageError: if a package is missing or broken.
    """
    return [_import_plugin(name) for name in plugin_modules(extra)]


def config_folders() -> list[Path]:
    """The folders `configs` in the packages of the plug-ins that were imported."""
    return [folder for folder in _CONFIG_FOLDERS if folder.is_dir()]


def installed_plugins() -> dict[str, str]:
    """The modules that installed packages name as plug-ins, each with the name of its distribution."""
    return {point.module: point.dist.name if point.dist else point.name for point in entry_points(group=GROUP)}


def plugin_modules(extra: Iterable[str] = ()) -> list[str]:
    """All plug-ins: those of installed packages, and those that a user named."""
    return list(dict.fromkeys([*installed_plugins(), *extra]))


def _import_plugin(name: str) -> ModuleType:
    try:
        module = _import(name)
    except UsageError as error:
        if (distribution := installed_plugins().get(name)) is None:
            raise
        raise _broken_installation(name, distribution, str(error)) from error
    except Exception as error:  # whatever somebody else's module does when it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if (distribution := installed_plugins().get(name)) is not None:
            raise _broken_installation(name, distribution, reason) from error
        raise UsageError(
            f"--plugins {name}: it cannot be imported ({reason}); give the name of a module that `import` takes"
        ) from error

    if module.__file__ and module.__package__:  # what lies beside a module in no package may be anybody's
        _CONFIG_FOLDERS[Path(module.__file__).resolve().parent / "configs"] = None
        _warn_of_unimported(module)
    return module


def _warn_of_unimported(package: ModuleType) -> None:
    """Says that a package's classes stay unknown, since its `__init__` imports none of its modules."""
    beside = sorted(path.stem for path in Path(str(package.__file__)).parent.glob("*.py") if path.stem[:2] != "__")
    imported = any(name.startswith(f"{package.__name__}.") for name in sys.modules)
    own = any(isinstance(value, type) for value in vars(package).values())
    if beside and not imported and not own:
        warnings.warn(
            f"plug-in {package.__name__} defines nothing that can be named: its __init__.py imports none of its "
            f"modules ({', '.join(beside[:3])}{', ...' if len(beside) > 3 else ''})",
            stacklevel=2,
        )


def _broken_installation(name: str, distribution: str, reason: str) -> UsageError:
    return UsageError(
        f"plug-in {name} of the installed package {distribution} cannot be imported ({reason}): repair or uninstall "
        f"{distribution}"
    )


def make_alias(name: str) -> None:
    """Makes `petl_bench.methods` another name of the package `methods`, and of each of its modules.

    A module that is imported by two names runs twice, and its classes are not equal to themselves.
    """
    folder = name.removeprefix("petl_bench.")
    if folder != name:
        sys.modules[name] = _package(folder)
        sys.modules.update({f"petl_bench.{module.__name__}": module for module in _import_all(folder)})


def location(folder: str) -> Path:
    """Where the modules of one of our two folders are: within an installed package, or beside it in a checkout."""
    inside = PACKAGE / folder
    return inside if any(path.name != "__init__.py" for path in inside.glob("*.py")) else ROOT / folder


def _import_all(package: str) -> list[ModuleType]:
    if package in FOLDERS:
        _package(package)
    return [_import(name) for name in _modules(package)]


def _modules(package: str) -> dict[str, Path]:
    """The modules of one of our packages, with the files they are in; the package itself is left out."""
    top = location(package.removeprefix("petl_bench."))
    found = {}
    for path in sorted(top.rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        name = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
        if name != package:
            found[name] = path
    return found


def _package(folder: str) -> ModuleType:
    """One of our two packages, made from its place where nobody has imported it yet."""
    own = location(folder)
    if folder not in sys.modules:
        spec = ModuleSpec(folder, None, is_package=True)
        spec.submodule_search_locations = [str(own)]
        sys.modules[folder] = module_from_spec(spec)
    package = sys.modules[folder]
    found = [Path(path).resolve() for path in getattr(package, "__path__", [])]
    if own not in found:
        where = found or getattr(package, "__file__", "an unknown place")
        raise UsageError(
            f"package '{folder}' was imported from {where} before petl_bench, which has its own in {own}: "
            "two packages of one name cannot be used in one process"
        )
    return package


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(f"--plugins: no module {shown(name)}: is it installed, or on PYTHONPATH?") from error
        raise UsageError(f"module '{name}' needs '{error.name}', which is not installed") from error


def instantiate(value: Any) -> Any:
    """What a block of a configuration (`class_path`, `init_args`) stands for; blocks in its arguments come first.

    Args:
        value: a block of known classes; anything else is given back as it is.
    """
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    arguments = {key: instantiate(item) for key, item in value.get("init_args", {}).items()}
    return named_class(value["class_path"])(**arguments)


def list_entries(kind: str) -> list[Entry]:
    """Our classes of a kind, read from source without importing anything (torch alone takes two seconds).

    Args:
        kind: one of `KINDS`.
    """
    sources = _Sources()
    root = sources.find(*KINDS[kind].base.rsplit(".", 1))
    entries = []
    for module in _modules(KINDS[kind].package):
        for name, found in sources.classes(module):
            if root and issubclass(found, root) and not inspect.isabstract(found) and not name.startswith("_"):
                entries.append(Entry(name, sources.shortest(module, name), _summary(found.__doc__)))
    return entries


class _Sources:
    """Classes as their source has them: stand-ins of the same bases and abstract members; nothing is imported."""

    def __init__(self) -> None:
        self._trees: dict[str, ast.Module] = {}
        self._made: dict[tuple[str, str], type | None] = {}

    def classes(self, module: str) -> Iterator[tuple[str, type]]:
        """The classes that a module defines."""
        for node in self._tree(module).body:
            if isinstance(node, ast.ClassDef) and (found := self.find(module, node.name)):
                yield node.name, found

    def find(self, module: str, name: str) -> type | None:
        """What a name means in a module of ours; None for anything but a class of ours."""
        key = (module, name)
        if key not in self._made:
            self._made[key] = None  # for a module that imports itself
            self._made[key] = self._found(module, name)
        return self._made[key]

    def shortest(self, module: str, name: str) -> str:
        """The outermost package that has a module's class by its name, or else the module."""
        parts = module.split(".")
        packages = (".".join(parts[:length]) for length in range(1, len(parts)))
        return next((p for p in packages if self.find(p, name) is self.find(module, name)), module)

    def _tree(self, module: str) -> ast.Module:
        if module not in self._trees:
            path = _source(module)
            try:
                self._trees[module] = ast.parse(path.read_text(encoding="utf-8") if path else "")
            except (SyntaxError, UnicodeDecodeError) as error:
                raise UsageError(f"{path} is no Python: {' '.join(str(error).split())}") from error
        return self._trees[module]

    def _found(self, module: str, name: str) -> type | None:
        for node in self._tree(module).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self._stand_in(module, node)
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self.find(str(node.module), alias.name)
        return None

    def _stand_in(self, module: str, node: ast.ClassDef) -> type:
        bases = filter(None, (self._base(module, base) for base in node.bases))
        members: dict[str, Any] = {"__module__": module, "__doc__": ast.get_docstring(node)}
        for child in node.body:
            if isinstance(child, ast.FunctionDef):
                abstract = any(_name(decorator) == "abstractmethod" for decorator in child.decorator_list)
                members[child.name] = abstractmethod(lambda: None) if abstract else None
            elif isinstance(child, ast.Assign):
                members |= dict.fromkeys(map(_name, child.targets))
            elif isinstance(child, ast.AnnAssign) and child.value:
                members[_name(child.target)] = None
        own = ("__module__", "__doc__")  # of others of this kind, Python would make use
        members = {name: member for name, member in members.items() if name in own or not name.startswith("__")}
        return ABCMeta(node.name, tuple(dict.fromkeys(bases)), members)

    def _base(self, module: str, node: ast.expr) -> type | None:
        """The class that stands among the bases of another one, as `Method` or as `method.Method`."""
        node = node.value if isinstance(node, ast.Subscript) else node
        if not isinstance(node, ast.Attribute):
            return self.find(module, _name(node))
        prefix = ast.unparse(node.value)
        for found in self._tree(module).body:
            for alias in found.names if isinstance(found, ast.Import | ast.ImportFrom) else ():
                if (alias.asname or alias.name) == prefix:
                    above = f"{found.module}." if isinstance(found, ast.ImportFrom) else ""
                    return self.find(above + alias.name, node.attr)
        return None


def _source(module: str) -> Path | None:
    """The file of a module of ours; None for those of others."""
    first, *rest = module.split(".")
    if first not in ("petl_bench", *FOLDERS):
        return None
    path = (Path(__file__).parent if first == "petl_bench" else location(first)).joinpath(*rest)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def plugin_entries(kind: str, plugins: Iterable[str] = ()) -> list[Entry]:
    """The classes of a kind that plug-ins define, themselves and in the modules that they import of their own.

    Args:
        kind: one of `KINDS`.
        plugins: that a user named; installed ones are known without.

    Raises:
        UsageError: if a plug-in is missing or broken.
    """
    entries = set()
    for plugin in plugin_modules(plugins):
        _import_plugin(plugin)
        own = [module for name, module in list(sys.modules.items()) if is_within(name, plugin)]
        found = {value for module in own for value in vars(module).values() if isinstance(value, type)}
        entries |= {
            Entry(value.__name__, value.__module__, _summary(inspect.getdoc(value)))
            for value in found
            if is_within(value.__module__, plugin) and _can_be_named(value, kind)
        }
    return sorted(entries)


def all_entries(kind: str, plugins: Iterable[str] = ()) -> list[Entry]:
    """The classes of a kind, ours first.

    Raises:
        UsageError: if a plug-in is missing or broken.
    """
    return [*list_entries(kind), *plugin_entries(kind, plugins)]


def is_within(module: str, package: str) -> bool:
    """Whether a module or class path is a package's, or the package itself."""
    return f"{module}.".startswith(f"{package}.")


def _can_be_named(value: type, kind: str) -> bool:
    bases = {f"{base.__module__}.{base.__qualname__}" for base in value.__mro__[1:]}
    return KINDS[kind].base in bases and not _is_abstract(value) and not value.__name__.startswith("_")


def _is_abstract(value: type) -> bool:
    """Whether members are missing; `inspect.isabstract` knows it only of classes whose metaclass is ABCMeta."""
    return any(getattr(inspect.getattr_static(value, n, None), "__isabstractmethod__", False) for n in dir(value))


def _summary(docstring: str | None) -> str:
    return " ".join((docstring or "").split("\n\n")[0].split())


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
