"""What the Hub answers, if it answers at all: soon, asked once, and with the cause where it does not."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from petl_bench.errors import CheckpointError, chain

#: seconds that the hub has to answer, unless the variable says otherwise
_SECONDS, _SECONDS_SET_BY = 4, "HF_HUB_ETAG_TIMEOUT"
_UNKNOWN_NAME = re.compile(
    r"name or service not known|name resolution|getaddrinfo|nodename nor servname|No address", re.I
)
_CERTIFICATE = re.compile(r"certificate", re.I)
_TIMEOUT = re.compile(r"Timeout|timed out", re.I)
#: for whoever has no token
HOW_TO_LOG_IN = "`hf auth login`, or set HF_TOKEN"

Answer = TypeVar("Answer")


def from_hub(get: Callable[[], Any], repository: str) -> Any:
    """What `get` makes of files of a hub repository.

    The hub's own client tries each file six times, whatever is wrong, which takes minutes where nobody answers.

    Args:
        get: reads the files, downloading those that are not in the local cache.
        repository: `owner/name`; empty where the files are not of the hub.

    Raises:
        CheckpointError: the files are not in the cache and cannot be downloaded; it says why, in half a line.
    """
    from huggingface_hub import constants

    if repository and not constants.HF_HUB_OFFLINE:
        with _offline():
            try:
                return get()
            except Exception:  # whatever the libraries raise where a file is not in the cache
                pass
        _require_answer(repository)
    try:
        return get()
    except Exception as error:
        raise CheckpointError(cause(error)) from error


def whereabouts(get: Callable[[], Any], repository: str) -> str:
    """Where files of a hub repository are, in a few words; nothing is fetched.

    Args:
        get: reads the files where they are in the local cache.
        repository: `owner/name`.

    Raises:
        CheckpointError: they are not in the cache and could not be downloaded; it says why, in half a line.
    """
    from huggingface_hub import constants

    with _offline():
        try:
            get()
            return "in the local cache"
        except Exception:  # whatever the libraries raise where a file is not in the cache
            pass
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError("not in the local cache, and HF_HUB_OFFLINE is set")
    try:
        _require_answer(repository)
    except CheckpointError as error:
        raise CheckpointError(f"not in the local cache, and cannot be downloaded: {error}") from error
    return f"not in the local cache, fetched from {repository} when the run begins"


def cause(error: BaseException) -> str:
    """Why a file could not be downloaded: what was wrong first, and not what libraries made of it."""
    errors = list(chain(error))
    if any(type(one).__name__ == "OfflineModeIsEnabled" for one in errors):
        return "HF_HUB_OFFLINE is set"
    for one in errors:
        if known := refusal(one) or _known(one):
            return known
    first = errors[-1]
    if isinstance(first, OSError) and first.strerror:
        return f"{first.strerror}{f': {name}' if (name := first.filename) else ''}"
    text = " ".join(str(first).split())[:200]
    return f"{type(first).__name__}: {text}" if text else type(first).__name__


def refusal(error: BaseException) -> str:
    """What the hub says no with; empty of any other error."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if not isinstance(error, HfHubHTTPError):
        return ""
    status, told = error.response.status_code, " ".join((error.server_message or "").split())[:200]
    if isinstance(error, GatedRepoError):
        return "its owner has to let you in: ask for access on its page"
    if isinstance(error, RepositoryNotFoundError):
        return f"no such repository, or a private one that {_whose()} may not read"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    if status == 401:
        return f"it does not take the token: {HOW_TO_LOG_IN}"
    return f"it answers with status {status}{f': {told}' if told else ''}"


def _whose() -> str:
    from huggingface_hub import get_token

    return "this token" if get_token() else f"nobody without a token ({HOW_TO_LOG_IN})"


def _known(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError) or _CERTIFICATE.search(text):
        return "its certificate is not trusted; SSL_CERT_FILE names a file of those that are"
    if isinstance(error, socket.gaierror) or _UNKNOWN_NAME.search(text):
        return "its name cannot be resolved"
    if isinstance(error, ConnectionRefusedError) or "Connection refused" in text:
        return "the connection is refused"
    if isinstance(error, ConnectionResetError) or "Connection reset" in text:
        return "the connection is cut"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return "there is no route to it"
    if isinstance(error, TimeoutError) or _TIMEOUT.search(f"{type(error).__name__} {text}"):
        return "there is no answer"
    return ""


@contextmanager
def _offline() -> Iterator[None]:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _require_answer(repository: str) -> None:
    """Asks the hub for a small file of the repository, once.

    Raises:
        CheckpointError: there is no answer, or one that says that there will be none.
    """
    from huggingface_hub import get_session, hf_hub_url

    url = hf_hub_url(repository, "config.json")
    answer = answered(lambda seconds: get_session().head(url, timeout=seconds, follow_redirects=False), url)
    status = answer.status_code
    # Also of a file that is not there, or not for us: the hub says so.
    if status not in range(100, 500) or status == 407:
        raise CheckpointError(f"{_asked(url)}: it answers with status {status}")


def answered(ask: Callable[[float], Answer], url: str) -> Answer:
    """What one request gives, if there is an answer in time.

    In a thread: the resolver of names, and a server that answers by the byte, know no limit.

    Args:
        ask: makes the request; it is given the seconds that it may take.
        url: that it asks, for messages.

    Raises:
        CheckpointError: there is no answer, or one that says no; it says why, in half a line.
    """
    seconds, answers, errors = _seconds(), [], []

    def work() -> None:
        try:
            answers.append(ask(seconds))
        except Exception as error:  # whatever the client raises
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds + 0.5)
    if answers:
        return answers[0]
    error = errors[0] if errors else TimeoutError()
    told = cause(error)
    limit = f" within {seconds} s ({_SECONDS_SET_BY} sets another limit)" if told.endswith("no answer") else ""
    raise CheckpointError(f"{_asked(url)}: {told}{limit}") from error


def _seconds() -> int:
    from huggingface_hub import constants

    return constants.HF_HUB_ETAG_TIMEOUT if os.environ.get(_SECONDS_SET_BY) else _SECONDS


def _asked(url: str) -> str:
    """Who was asked, and through whom, without passwords."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    through = f" through the proxy {urlsplit(proxy).netloc.rpartition('@')[2] or 'that is set'}" if proxy else ""
    return f"{parts.hostname}, asked{through}" if through else str(parts.hostname)
