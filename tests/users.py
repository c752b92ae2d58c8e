"""Another user of this machine, for tests: a forked child with another uid and umask."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: ids that own nothing here
OWNER, COLLEAGUE, GROUP = 44_321, 44_322, 44_320


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that both users reach and their group may write to, with the group's bit (setgid)."""
    with tempfile.TemporaryDirectory(prefix="petl_bench_shared_") as name:
        folder = Path(name)
        os.chown(folder, OWNER, GROUP)
        folder.chmod(0o2775)
        yield folder


def as_user(uid: int, work: Callable[[], Any], umask: int = 0o022) -> Any:
    """What a function gives, or raises, that runs as another user; whatever it imports must be imported before."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(uid)
            os.umask(umask)
            answer: tuple[bool, Any] = (True, work())
        except BaseException as error:
            answer = (False, error)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    done, value = pickle.loads(told)
    if not done:
        raise value
    return value
