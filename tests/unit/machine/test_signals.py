"""Signals to a process and its helpers, without torch: each case is a small interpreter of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from petl_bench.machine import signals
from petl_bench.machine.signals import ASKED, Stopped, StopRequest, When

#: what comes before each case
BEFORE = """
import multiprocessing, os, signal, subprocess, sys, time
from pathlib import Path
from petl_bench.machine.signals import STOP, Stopped, When, as_helper, end_helpers, handled, starting_helpers

def helper(path=None):
    as_helper()
    if path:
        Path(path).write_text(str(os.getpid()))
    time.sleep(600)

def started(path=None):
    with starting_helpers():
        process = multiprocessing.get_context("fork").Process(target=helper, args=(path,))
        process.start()
    return process

def ask(number=signal.SIGTERM):
    os.killpg(os.getpgrp(), number)
"""


def ended(code: str, *arguments: object, timeout: float = 60) -> tuple[int, str]:
    """Exit code and errors of an interpreter in a process group of its own, which is signalled as a whole."""
    command = [sys.executable, "-c", BEFORE + textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=timeout, start_new_session=True)
    return done.returncode, done.stderr


def gone(process: int) -> bool:
    """Whether a process ends within seconds."""
    for _ in range(500):
        if not Path(f"/proc/{process}").exists() or ") Z " in Path(f"/proc/{process}/stat").read_text():
            return True
        time.sleep(0.02)
    return False


def test_helpers_leave_signals_to_their_parent() -> None:
    code = """
    process = started()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(process.pid, number)
    time.sleep(0.3)
    assert process.is_alive()
    end_helpers()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    """
    assert ended(code) == (0, "")


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "sys.exit(0)"])
def test_helpers_do_not_outlive_their_parent(end: str, tmp_path: Path) -> None:
    path = tmp_path / "helper"
    code = f"""
    started({str(path)!r})
    while not Path({str(path)!r}).is_file() or not Path({str(path)!r}).read_text():
        time.sleep(0.01)
    {end}
    """
    ended(code)
    assert gone(int(path.read_text()))


def test_a_signal_raises_at_once_soon_or_afterwards() -> None:
    request = StopRequest()
    request.when = When.SOON
    request.receive(signal.SIGTERM, None)
    with pytest.raises(Stopped) as found, request.waiting():
        pytest.fail("the wait for a batch has begun")
    assert found.value.exit_code == 143

    request = StopRequest()
    done: list[str] = []
    with pytest.raises(Stopped):
        _asked_afterwards(request, done)
    assert done == ["whole"]

    request = StopRequest()
    with pytest.raises(Stopped):
        request.receive(signal.SIGUSR1, None)


def _asked_afterwards(request: StopRequest, done: list[str]) -> None:
    with request.at(When.AFTERWARDS):
        request.receive(signal.SIGHUP, None)
        done.append("whole")


def test_another_signal_changes_nothing() -> None:
    request = StopRequest()
    request.when = When.SOON
    request.receive(signal.SIGTERM, None)
    request.receive(signal.SIGINT, None)
    assert request.number == signal.SIGTERM


def test_what_is_not_saved_is_saved_once() -> None:
    saved: list[int] = []
    request = StopRequest()
    request.rescue = lambda: saved.append(1)
    request.save()
    request.save()
    assert saved == [1]
    request.rescue = lambda: saved.append(2)
    request.change()  # half of it must not be saved
    request.save()
    assert saved == [1]


def test_one_of_several_processes_waits_for_the_others() -> None:
    request = StopRequest()
    request.when, request.alone = When.SOON, False
    request.receive(signal.SIGTERM, None)
    with request.waiting():
        pass
    request.agree(signal.SIGTERM)
    with pytest.raises(Stopped), request.waiting():
        pass


def test_the_one_that_ends_the_others_waits_until_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(signals, "end_helpers", lambda: ended.append(True))
    request = StopRequest()
    request.when, request.alone, request.ends_others = When.SOON, False, True
    request.receive(signal.SIGTERM, None)
    with request.waiting():  # for the batch of another step, in which the others hear of it
        assert not ended
    request._overdue = True
    with pytest.raises(Stopped):
        request.look()
    assert ended


@pytest.mark.parametrize("number", ASKED)
def test_signals_have_their_exit_code(number: signal.Signals) -> None:
    code = f"""
    try:
        with handled():
            process = started()
            ask({int(number)})
            time.sleep(600)
    except Stopped as stopped:
        process.join(60)
        sys.exit(stopped.exit_code)
    """
    assert ended(code) == (128 + number, "")


def test_a_lost_exception_is_raised_again() -> None:
    """Python drops what is raised in a destructor."""
    code = """
    class Swallowing:
        def __del__(self):
            ask()
            time.sleep(0.1)

    sys.unraisablehook = lambda _: None
    try:
        with handled():
            Swallowing()
            time.sleep(600)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    """
    assert ended(code) == (143, "")


def test_a_main_thread_that_does_not_answer_is_saved_and_ended(tmp_path: Path) -> None:
    """Handlers wait for C code to return, which a long backward pass or a lost process may never do."""
    path = tmp_path / "saved"
    code = """
    import hashlib, threading
    with handled():
        STOP.when = When.SOON
        STOP.rescue = Path(sys.argv[1]).touch
        STOP.advice = lambda: "; saved"
        threading.Timer(0.3, ask).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000_000)
    """
    assert ended(code, path) == (143, "\npetl-bench: stopped by SIGTERM; saved\n")
    assert path.is_file()


def test_nohup_is_heeded() -> None:
    code = """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with handled():
        ask(signal.SIGHUP)
        time.sleep(0.2)
    """
    assert ended(code) == (0, "")


def test_a_terminal_that_hung_up_takes_no_words() -> None:
    code = """
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    os.close(read)
    from petl_bench import main
    def work(_):
        STOP.when = When.SOON
        ask(signal.SIGHUP)
        with STOP.waiting():
            pass
    import petl_bench.commands.report
    petl_bench.commands.report.run = work
    sys.argv = ["petl-bench", "report"]
    main.console()
    """
    assert ended(code)[0] == 129


def test_signals_that_are_blocked_at_the_start_are_heeded() -> None:
    """A launcher starts its ranks so."""
    code = """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        with handled():
            time.sleep(600)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)
    """
    assert ended(code) == (143, "")


def test_a_rank_ends_with_its_launcher(tmp_path: Path) -> None:
    """Whatever it is doing: it is stopped here, and can do as little for itself as one that waits in NCCL."""
    path = tmp_path / "rank"
    rank = f"""
import os, pathlib, signal
from petl_bench.machine.signals import handled
with handled():
    pathlib.Path({str(path)!r}).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    code = f"""
    environment = dict(os.environ, PETL_BENCH_LAUNCHED_BY=str(os.getpid()))
    subprocess.Popen([sys.executable, "-c", {rank!r}], env=environment)
    while not Path({str(path)!r}).is_file() or not Path({str(path)!r}).read_text():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    ended(code)
    assert gone(int(path.read_text()))


def test_a_signal_before_any_command_says_how_it_is() -> None:
    request = StopRequest()
    request.number = signal.SIGTERM
    assert request.farewell() == "petl-bench: stopped by SIGTERM; nothing was begun, so nothing is lost"


def test_a_helper_that_dies_as_it_is_ended_is_no_word() -> None:
    # Python tells of a signal that was caught by a function and is handled when there is none any more.
    code, errors = ended("""
        from petl_bench.machine.signals import ignore_worker_deaths
        signal.signal(signal.SIGCHLD, lambda number, frame: sys.exit(7))
        ignore_worker_deaths()
        os.kill(os.getpid(), signal.SIGCHLD)
        sys.exit(0 if callable(signal.getsignal(signal.SIGCHLD)) else 8)
    """)
    assert (code, errors) == (0, "")
