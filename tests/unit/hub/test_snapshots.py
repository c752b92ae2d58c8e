"""Files of a stand-in for the Hub: what is fetched, what the cache is good for, and one line where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from petl_bench.errors import CheckpointError, UsageError
from petl_bench.hub import answers
from petl_bench.hub.names import HubName, hub_name
from petl_bench.hub.snapshots import snapshot
from tests.hub_server import StandIn, stand_in

NAME = HubName("someone/thing")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    files = tmp_path / "files"
    files.mkdir()
    for name in ("model.safetensors", "config.json", "evil.py", "model-00001-of-00002.safetensors"):
        (files / name).write_bytes(name.encode())
    with stand_in(monkeypatch, tmp_path / "cache") as server:
        server.holds("someone/thing", files, private=True)
        yield server


@pytest.mark.parametrize(
    "text", ["hf-hub:", "hf-hub:a/b/c", "hf-hub:../x", "hf-hub:a/b@", "hf-hub:a/b@../c", "hf-hub:a/b@-x"]
)
def test_what_is_no_repository(text: str) -> None:
    with pytest.raises(UsageError, match=r"no repository|behind @"):
        hub_name(text)


def test_what_names_a_repository() -> None:
    assert hub_name("runs/a/adapter.safetensors") is None
    assert hub_name("hf-hub:a/b@refs/pr/1") == HubName("a/b", "refs/pr/1")
    assert str(hub_name("hf-hub:a/b")) == "hf-hub:a/b"


def test_only_what_is_wanted_is_fetched(hub: StandIn) -> None:
    folder, at = snapshot(NAME, ["none", "model.safetensors"], ["*.json"])
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert at.revision == hub.repositories["someone/thing"].commits[-1][0]
    assert not [path for _, path in hub.requests if "evil" in path]


def test_a_commit_is_asked_for_once_and_a_branch_each_time(hub: StandIn) -> None:
    _, first = snapshot(NAME, ["model.safetensors"])
    hub.requests.clear()
    assert snapshot(first, ["model.safetensors"]).name == first
    assert not hub.requests
    second = hub.repositories["someone/thing"].spoil("model.safetensors", b"new")
    folder, at = snapshot(NAME, ["model.safetensors"])
    assert (at.revision, (folder / "model.safetensors").read_bytes()) == (second, b"new")


def test_what_is_not_whole_in_the_cache_is_fetched(hub: StandIn) -> None:
    _, at = snapshot(NAME, ["model.safetensors"])
    folder, _ = snapshot(at, ["model.safetensors"], ["config.json"])
    assert (folder / "config.json").is_file()


def test_offline_the_cache_is_enough(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, at = snapshot(NAME, ["model.safetensors"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert snapshot(NAME, ["model.safetensors"]).name == at
    with pytest.raises(CheckpointError, match=r"other is not in the local cache, and .*: HF_HUB_OFFLINE is set$"):
        snapshot(HubName("someone/other"), ["model.safetensors"])
    assert capsys.readouterr().err == ""


def test_where_nobody_answers_the_cache_is_enough_and_told(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, at = snapshot(NAME, ["model.safetensors"])
    hub.shutdown()
    hub.server_close()
    started = time.monotonic()
    assert snapshot(NAME, ["model.safetensors"]).name == at
    assert "may be behind: 127.0.0.1: the connection is refused" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"other is not in the local cache.*the connection is refused$"):
        snapshot(HubName("someone/other"), ["model.safetensors"])
    assert time.monotonic() - started < 5


def test_a_hub_that_says_nothing_is_given_up(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_SECONDS", 1)
    hub.silent.set()
    with pytest.raises(CheckpointError, match=r"there is no answer within 1 s \(HF_HUB_ETAG_TIMEOUT sets"):
        snapshot(NAME, ["model.safetensors"])


@pytest.mark.parametrize(
    ("name", "token", "told"),
    [
        (HubName("someone/nothing"), True, "no such repository, or a private one that this token may not read"),
        (NAME, False, "or a private one that nobody without a token (`hf auth login`, or set HF_TOKEN) may not read"),
        (HubName("someone/thing", "v9"), True, "hf-hub:someone/thing@v9: 127.0.0.1: it has no such revision"),
        (HubName("someone/thing", "0" * 40), True, "it has no such revision"),
    ],
)
def test_what_the_hub_says_no_to(
    name: HubName, token: bool, told: str, hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not token:
        monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CheckpointError) as caught:
        snapshot(name, ["model.safetensors"])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_it_does_not_hold(hub: StandIn) -> None:
    with pytest.raises(CheckpointError, match=r"^hf-hub:someone/thing: it holds no petl_bench.json$"):
        snapshot(NAME, ["petl_bench.json"])
