"""A report as a static web site: the same files without a trace of this machine, put in place all at once."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from petl_bench.errors import UsageError
from petl_bench.machine.resources import exhausted
from petl_bench.report.details import Beside
from petl_bench.report.model import Report
from petl_bench.report.owned import make_folder
from petl_bench.report.page import write_pages
from petl_bench.report.plots import write_plots
from petl_bench.report.thumbnails import Clips
from petl_bench.storage.files import FileError, temporary_of, write_atomically
from petl_bench.storage.locks import HeldError, passing_lock
from petl_bench.storage.untrusted import UnreadableError, parse_json, read_text

#: by which a site is known again, with the files that belong to it
MARKER = ".petl_bench_site.json"
_PART = r"""[^\s/'"=,;:<>|)\]]+"""
#: an absolute path of two parts or more, which says how somebody's disk is arranged: in quotation marks whatever is in
#: it, else with one blank in a folder's name; `…` and `~` begin what was one before
_ABSOLUTE = re.compile(
    rf"""(?P<mark>['"])(?:file://)?(?P<quoted>/[^'"\n]+/[^'"\n]*)(?P=mark)"""
    rf"""|(?<![\w./~…])(?P<option>-[A-Za-z])?(?:file://[\w.-]*)?"""
    rf"""(?P<path>(?:/{_PART}(?:[ ]{_PART}(?=/))?)+/(?:{_PART})?)"""
)
_WINDOWS = re.compile(r"""(?<!\w)[A-Za-z]:(?P<path>(?:\\[^\\\n'"<>|:*?]+)+\\[^\\\s'"<>|:*?]*)""")
#: what stands before a path; where its first characters, `/` among them, are not those of a longer one
_BEFORE = r"(?:(?<![\w./~…])|(?<=//)|(?<=-[A-Za-z]))"
#: in the place of a folder of this machine, as a path that is hidden with whatever follows it
_HIDDEN = "/\0"
#: where the folders of users are
_HOMES = ("home", "Users")


def publish(
    report: Report,
    site: Path,
    folders: Sequence[Path],
    render: Callable[[Report], Mapping[str, str]],
    thumbnails: Path | None = None,
) -> None:
    """Writes a site; one that was there is replaced at once, and files of others in its folder stay.

    Args:
        report: what is shown.
        site: its folder: missing, empty, or a site of an earlier report.
        folders: that the runs were found in.
        render: what else belongs to it, such as `report.json`: text by name of the file.
        thumbnails: folder with the clips that pictures are shown of; nothing is published of them unasked.

    Raises:
        UsageError: the folder holds files and is no site, or another process writes there.
        FileError: the site cannot be written.
    """
    site = site.resolve()
    _owned(site)
    new = temporary_of(site)
    try:
        make_folder(site.parent)
        # Beside the site, which is replaced as a whole.
        with passing_lock(site.with_name(f".{site.name}.lock")):
            owned = _owned(site)
            make_folder(new)
            _reuse(site, new, owned)
            _write(report, new, folders, render, thumbnails)
            _require_no_clash(site, new, owned)
            _swap(site, new, owned)
    except HeldError as error:
        raise UsageError(f"another process writes the site {site}: wait for it, or set --publish") from error
    except OSError as error:
        raise exhausted(error, site) or FileError(site, f"cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def portable(report: Report, folders: Sequence[Path]) -> tuple[Report, dict[Path, Path]]:
    """A report that names no folder of this machine.

    Returns:
        The report, whose runs are named from the folder that they were found in; and where each of them really lies.
    """
    names = _names_of(folders)
    places: dict[Path, Path] = {}

    def moved(path: Path) -> Path:
        for folder, name in names.items():
            if path.is_relative_to(folder):
                short = Path(name) / path.relative_to(folder)
                break
        else:
            short = Path(path.name)
        places[short] = path
        return short

    known = {str(path): name for folder, name in names.items() for path in (folder, folder.resolve())}
    # A name as short as `runs` may be part of any other word; it tells nothing, either.
    known = {path: name for path, name in known.items() if path.startswith("/") and path != "/"}

    named = [
        (re.compile(_BEFORE + re.escape(path) + r"(?![\w.-])"), name)
        for names_of in (known, dict.fromkeys(_places(), _HIDDEN))
        # The longer first: one folder may lie in another.
        for path, name in sorted(names_of.items(), key=lambda item: len(item[0]), reverse=True)
    ]

    def hidden(text: str) -> str:
        if "/" not in text and "\\" not in text:
            return text
        for path, name in named:
            text = path.sub(lambda _, name=name: name, text)
        text = _WINDOWS.sub(_last_part, _ABSOLUTE.sub(_last_part, text))
        return text.replace(_HIDDEN, "…")

    return _mapped(report, hidden, moved), places


def _last_part(found: re.Match[str]) -> str:
    """Of an absolute path; nothing of the folder of a user."""
    groups = found.groupdict("")
    mark, option = groups.get("mark", ""), groups.get("option", "")
    parts = re.split(r"[/\\]+", (groups.get("quoted") or groups["path"]).strip("/\\"))
    last = "~" if len(parts) == 2 and parts[0] in _HOMES else f"…/{parts[-1]}"
    return f"{mark}{option}{last}{mark}"


def _places() -> set[str]:
    """Where this process is at work, by names that may have blanks in them; `/tmp` and the like tell nothing."""
    found = {Path(tempfile.gettempdir()), Path.cwd(), *filter(None, [_home()])}
    return {str(path) for place in found for path in (place, place.resolve()) if len(path.parts) > 2}


def _names_of(folders: Iterable[Path]) -> dict[Path, str]:
    names: dict[Path, str] = {}
    for folder in folders:
        # The home folder has the name of its user.
        name = "runs" if folder.resolve() == _home() else folder.resolve().name or "runs"
        taken = [*names.values()].count(name)
        names[folder] = f"{name}-{len(names) + 1}" if taken else name
    return names


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _mapped(value: Any, text: Callable[[str], str], path: Callable[[Path], Path]) -> Any:
    """A copy of nested data with every text and path replaced."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Path):
        return path(value)
    if isinstance(value, dict):
        return {_mapped(key, text, path): _mapped(item, text, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, text, path) for item in value]
    if isinstance(value, tuple):
        items = [_mapped(item, text, path) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _mapped(getattr(value, field.name), text, path) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def _write(
    report: Report,
    folder: Path,
    folders: Sequence[Path],
    render: Callable[[Report], Mapping[str, str]],
    thumbnails: Path | None,
) -> None:
    shown, places = portable(report, folders)
    beside = Beside(lambda path: places.get(path, path))
    files = write_pages(shown, folder, beside, Clips(thumbnails))
    files += write_plots(shown, folder / "plots", beside) or []
    for name, text in {**render(shown), ".nojekyll": ""}.items():
        make_folder((folder / name).parent)
        write_atomically(folder / name, text)
        files.append(folder / name)
    files += [path for path in folder.glob("*/.*.json") if path.is_file()]
    listed = sorted({path.relative_to(folder).as_posix() for path in files})
    write_atomically(folder / MARKER, json.dumps({"files": listed}, indent=0) + "\n")


# --- the folder


def _owned(site: Path) -> set[str]:
    """The files of an earlier site, by their path in it.

    Raises:
        UsageError: there are files, and nothing says that they are of a site.
    """
    if not site.exists() or (site.is_dir() and not any(site.iterdir())):
        return set()
    refusal = UsageError(
        f"--publish {site}: this holds files and was not made by petl-bench report: name a new or an empty folder"
    )
    try:
        found = parse_json(read_text(site / MARKER))
    except UnreadableError as error:
        raise refusal from error
    names = found.get("files") if isinstance(found, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_inside(name) for name in names):
        raise refusal
    return {*names, MARKER}


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _reuse(site: Path, new: Path, owned: set[str]) -> None:
    """Gives the new folder the pages and plots of the old one, so that those which would not change are not made again.

    Files are replaced by new ones, never written into: links are as good as copies.
    """
    for name in sorted(owned):
        if "/" in name and (site / name).is_file() and not (site / name).is_symlink():
            make_folder((new / name).parent)
            try:
                (new / name).hardlink_to(site / name)
            except OSError:
                shutil.copyfile(site / name, new / name)


def _foreign(site: Path, owned: set[str]) -> Iterator[str]:
    """What others keep in the folder: whole folders where nothing of the site is in them."""
    folders = {parent.as_posix() for name in owned for parent in PurePosixPath(name).parents}
    for place, below, names in os.walk(site):
        here = Path(place).relative_to(site)
        for name in [*below]:
            path = (here / name).as_posix()
            if path not in folders or (site / path).is_symlink():
                below.remove(name)
                yield path
        yield from (path for name in names if (path := (here / name).as_posix()) not in owned)


def _require_no_clash(site: Path, new: Path, owned: set[str]) -> None:
    if not site.is_dir():
        return
    for path in _foreign(site, owned):
        if os.path.lexists(new / path):
            raise UsageError(f"{site / path} is not a file of the site, and in the way of one: move it elsewhere")


def _swap(site: Path, new: Path, owned: set[str]) -> None:
    """Puts the new folder in the place of the old one, then moves what is foreign over to it."""
    if not os.path.lexists(site):
        new.rename(site)
        return
    # What is empty was nobody's; the mode of the folder is its owner's.
    new.chmod(site.stat().st_mode & 0o7777)
    aside = temporary_of(site)
    site.rename(aside)
    try:
        new.rename(site)
    except OSError:
        aside.rename(site)
        raise
    for path in [*_foreign(aside, owned)]:
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (aside / path).rename(site / path)
    # Only folders and files of the earlier site are left.
    shutil.rmtree(aside, ignore_errors=True)
