"""Files of the hub without a network: soon, asked once, and with the cause."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from petl_bench.errors import CheckpointError
from petl_bench.hub import answers
from petl_bench.hub.answers import cause, from_hub

REPOSITORY = "someone/weights"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No proxy but that of a test; and the client, which remembers its proxies, is a new one."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(answers, "_SECONDS", 1)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


def endpoint(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda repository, name: f"{address}/{repository}/{name}")


@contextmanager
def listening(accepts: bool = True) -> Iterator[int]:
    """A port where nobody ever answers, or where nobody is."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if accepts:
            server.listen(5)
        yield server.getsockname()[1]


def refused(tries: list[str]) -> tuple[str, float]:
    """What `from_hub` says of a file that is not in the cache, and after how many seconds."""

    def get() -> None:
        tries.append("offline" if constants.HF_HUB_OFFLINE else "online")
        raise FileNotFoundError("a follow-up error")

    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        from_hub(get, REPOSITORY)
    return str(caught.value), time.monotonic() - started


@pytest.mark.parametrize("proxied", [True, False])
@pytest.mark.parametrize(("accepts", "told"), [(True, "there is no answer within 1 s"), (False, "refused")])
def test_who_does_not_answer(accepts: bool, told: str, proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []
    with listening(accepts) as port:
        endpoint(monkeypatch, "https://hub.invalid" if proxied else f"http://127.0.0.1:{port}")
        if proxied:
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:secret@127.0.0.1:{port}")
        message, seconds = refused(tries)
    assert told in message
    assert ("through the proxy 127.0.0.1" in message) == proxied
    assert "secret" not in message
    assert tries == ["offline"]  # there was no second try
    assert seconds < 10


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint(monkeypatch, "https://no-such-host.invalid")
    message, _ = refused([])
    assert message == "no-such-host.invalid: its name cannot be resolved"


@pytest.mark.parametrize(
    ("status", "tries", "told"), [(503, ["offline"], "status 503"), (404, ["offline", "online"], "a follow-up error")]
)
def test_what_a_server_answers(status: int, tries: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        tried: list[str] = []
        message, _ = refused(tried)
        server.shutdown()
    assert tried == tries
    assert told in message


def test_the_cache_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_require_answer", lambda repository: pytest.fail("asked the network"))
    assert from_hub(lambda: constants.HF_HUB_OFFLINE, REPOSITORY) is True
    assert constants.HF_HUB_OFFLINE is False


def test_offline_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(answers, "_require_answer", lambda repository: pytest.fail("asked the network"))
    message, _ = refused([])
    assert message == "FileNotFoundError: a follow-up error"


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set"),
        (OSError(111, "Connection refused"), "the connection is refused"),
        (RuntimeError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed"), "SSL_CERT_FILE"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(101, "Network is unreachable"), "no route"),
    ],
)
def test_the_first_cause_is_named(first: Exception, told: str) -> None:
    error = LocalEntryNotFoundError("cannot find the file in the cache")
    error.__cause__ = first
    assert told in cause(error)
