"""What jsonargparse says about a configuration, in one line: the option, what is wanted, what was given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from petl_bench.formats import shown

_KEY = re.compile(r'(?:- )?Parser key "([^"]+)"')
_CLASS = re.compile(r"(?:- )?Problem with given class_path '([^']+)'")
#: of the constructors of classes and the parser alike
_REQUIRED = re.compile(r"the following arguments are required: (.+)")
#: lines that say nothing by themselves
_EMPTY = re.compile(
    r"Does not validate|Errors:|Given value|Subclass types expect|Not a valid subclass|Expected a path but"
    r"|a (class path|dict)"
)
#: lines that say something without a key above them
_TELLING = re.compile(r"[Uu]nrecognized arguments|Key '|Subcommand '|Option '")


class _Complaint(NamedTuple):
    """One of the reasons that a message gives.

    Attributes:
        rank: the lowest one tells most.
        depth: how many keys and classes it is below.
        text: for the user.
    """

    rank: int
    depth: int
    text: str


def readable(
    message: str, known_words: Callable[[], Iterable[str]], where: Callable[[Sequence[str]], str] = lambda words: ""
) -> str:
    """A message of jsonargparse in one line, with a suggestion for a misspelt class or option.

    Args:
        message: of several lines, whose indentation shows what is below what.
        known_words: gives the names of classes and arguments that a configuration may hold.
        where: says in which file the first of some words stands, for the end of the line.
    """
    if required := _REQUIRED.match(message):
        names = re.sub(r"\b\w+\.(?=\w+(, |$))", "", required[1])  # without the command
        return f"no configuration gives {names}: add --config NAME (`petl-bench list configs` shows the packaged ones)"
    complaints = list(_complaints(message))
    told = min(complaints, key=lambda one: (one.rank, -one.depth)).text if complaints else shown(message, 400)
    words = _unknown_words(message)
    keys = [key.rsplit(".", 1)[-1] for key in _KEY.findall(message)]
    told += where(words or keys[::-1])  # an unknown option that stands in no file came from the command line
    for word in words:
        close = get_close_matches(word, known_words(), 1, 0.7)
        if close and close[0] != word:
            return f"{told}: did you mean '{close[0]}'?"
    return told


def is_about_configuration(message: str) -> bool:
    """Whether a text is one of jsonargparse's, which it also raises where it makes objects of a configuration."""
    return message.startswith(("Does not validate", "Problem with given class_path", "Parser key", "Not of type"))


def nothing_found(text: str, names: Sequence[str]) -> str:
    """What to say of a text that occurs in nothing."""
    close = get_close_matches(text.lower(), [name.lower() for name in names], 1)
    known = {name.lower(): name for name in names}
    return f"nothing here has {shown(text, 60)!r} in it" + (f": did you mean {known[close[0]]}?" if close else "")


def _complaints(message: str) -> Iterator[_Complaint]:
    above: list[tuple[int, str, bool]] = []  # indentation and name of keys and classes, and whether it is a key
    wanted: dict[int, str] = {}  # types by indentation, until the value follows
    for line in message.splitlines():
        indent, text = len(line) - len(line.lstrip(" ")), line.strip()
        if not text:
            continue
        key, kind = _KEY.match(text), _CLASS.match(text)
        above = [one for one in above if one[0] < indent or (one[0] == indent and not key)]
        if key or kind:
            above.append((indent, (key or kind)[1], bool(key)))  # type: ignore[index]  # one of them matched
            text = text.partition(":")[2].strip() if key else ""
        option = _path(above)
        classes = [name.rsplit(".", 1)[-1] for _, name, is_key in above if not is_key]
        if text.startswith("Subtypes: "):
            wanted[indent] = _types(text.removeprefix("Subtypes: "))
        elif text.startswith("Given value:") and indent in wanted:
            value = text.removeprefix("Given value:").strip()
            if not value.startswith("NestedArg("):
                yield _Complaint(3, len(above), _at(option, f"expected {wanted[indent]}, got {shown(value)}"))
        elif text and not _EMPTY.match(text.removeprefix("- ")) and (above or _TELLING.match(text)):
            found = _complaint(text.removeprefix("- "), option, classes, len(above))
            one_of_several = text.startswith("- Expected a")  # types, which are told together below
            yield found._replace(rank=5) if one_of_several and "import path" not in text else found


def _complaint(text: str, option: str, classes: list[str], depth: int) -> _Complaint:
    if found := re.match(r"Option '([^']+)' is not accepted", text):
        return _Complaint(0, depth, _at(option, f"unknown option '{found[1]}'"))
    if found := re.match(r"Not of type Path", text):
        return _Complaint(2, depth, _at(option, "expected a path"))
    if found := re.match(r"Not of type \w+: (.+)", text):
        return _Complaint(0, depth, _at(option, found[1]))
    if found := re.match(r"Expected a dot import path string: ?(.*)", text):
        return _Complaint(2, depth, _at(option, f"unknown class '{shown(found[1])}'"))
    if found := re.match(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
        return _Complaint(1, depth, _at(option, f"{found[1]} is no {found[2]}"))
    if (found := _REQUIRED.match(text)) and classes:
        return _Complaint(1, depth, _at(option, f"{classes[-1]} needs {found[1]}"))
    if re.match(r"Unable to load config|'\w+' object has no attribute 'keys'", text):
        return _Complaint(2, depth, _at(option, "expected keys with values, or a file that holds them"))
    if found := re.match(r"Expected an? (.+?)\. Got value: (.*)", text):
        return _Complaint(2, depth, _at(option, f"expected {_types(found[1])}, got {shown(found[2])}"))
    if found := re.match(r"[Uu]nrecognized arguments: (.+)", text):
        return _Complaint(0, depth, f"unknown option {shown(found[1])}")
    if found := re.match(r"(?:Key '([^']+)' is not expected|Subcommand '\w+' does not accept option '([^']+)')", text):
        return _Complaint(0, depth, _at(option, f"unknown key '{found[1] or found[2]}'"))
    if found := re.match(r"Expected an? (.+)", text):
        return _Complaint(4, depth, _at(option, f"expected {_types(found[1])}"))
    if re.match(r"Expected <", text):
        return _Complaint(4, depth, _at(option, text.lower()))
    if classes:  # what a constructor raised
        return _Complaint(1, depth, _at(option, f"{classes[-1]}: {shown(text, 300)}"))
    return _Complaint(2, depth, _at(option, shown(text, 300)))


def _path(above: Iterable[tuple[int, str, bool]]) -> str:
    """The full name of an option: keys joined by dots, those of classes by `.init_args.`."""
    path, of_class = "", False
    for _, name, is_key in above:
        if not is_key:
            of_class = True
        elif name != path:  # some messages say the same key twice
            path += f"{'.init_args' * of_class}.{name}" if path else name
            of_class = False
    return path


def _at(option: str, text: str) -> str:
    return f"{option}: {text}" if option else text


def _types(text: str) -> str:
    """Types as a user writes them: `int, float or null`."""
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text)
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"(Literal|Union|Optional|List)\[([^\[\]]*)\]", r"\2", text)
    first, comma, last = text.removeprefix("[").removesuffix("]").rpartition(", ")
    return shown(f"{first} or {last}" if comma else last, 200)


def _unknown_words(message: str) -> list[str]:
    """The words a message of jsonargparse complains about."""
    patterns = (r"[Oo]ption '([\w.]+)'", r"import path string: ([\w.]+)", r"Key '([\w.]+)'", r"arguments: --([\w.]+)")
    return [word.rsplit(".", 1)[-1] for pattern in patterns for word in re.findall(pattern, message)]
