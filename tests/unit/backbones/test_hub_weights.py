"""Weights of a backbone by the name of a repository of the Hub, read from a stand-in for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from petl_bench.backbones import weights
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP
from petl_bench.errors import CheckpointError
from petl_bench.runs.description import _weights
from tests.hub_server import StandIn, stand_in

SMALL = Path(weights.__file__).with_name("small")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    with stand_in(monkeypatch, tmp_path / "cache") as server:
        for name in ("clip_small", "blip_small"):
            server.holds(f"someone/{name}", SMALL / name)
        yield server


@pytest.mark.parametrize(("kind", "name"), [(CLIP, "clip_small"), (BLIP, "blip_small")])
def test_weights_of_the_hub_are_those_of_a_folder(
    kind: type[CLIP] | type[BLIP], name: str, hub: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = hub.repositories[f"someone/{name}"].commits[-1][0]
    of_hub = kind("small", f"hf-hub:someone/{name}")
    local = kind("small", str(SMALL / name))
    assert of_hub.weights == local.weights | {"source": f"hf-hub:someone/{name}@{commit}"}
    assert of_hub.spec.record() == local.spec.record()
    assert not [path for _, path in hub.requests if path.endswith("card.json")]
    described = _weights(f"hf-hub:someone/{name}", of_hub, tmp_path)
    assert (described.tag, described.place) == (f"hf-hub:someone/{name}@{commit}", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert kind("small", f"hf-hub:someone/{name}@{commit}").weights["sha256"] == local.weights["sha256"]


def test_a_repository_without_safetensors_is_refused(hub: StandIn, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    hub.holds("someone/old", tmp_path / "old")
    with pytest.raises(
        CheckpointError, match=r"hf-hub:someone/old: it holds no open_clip_model.safetensors or .* or model"
    ):
        CLIP("small", "hf-hub:someone/old")


def test_another_architecture_is_refused_by_what_lies_beside(hub: StandIn) -> None:
    with pytest.raises(Exception, match=r"someone/clip_small@"):
        CLIP("tiny", "hf-hub:someone/clip_small")
