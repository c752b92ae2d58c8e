"""BLIP weights from every source give the same model as in transformers; everything else is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.blip.weights import Purpose
from petl_bench.errors import CheckpointError, PetlBenchError, UsageError
from petl_bench.inputs import Words
from petl_bench.nn.transformer import Memory
from petl_bench.storage.adapters import Adapter, write_adapter
from petl_bench.storage.files import file_sha256
from tests.inputs import clips_of, memory_of, tokens_of
from tests.unit.backbones.blip_reference import Reference, captions, clips, make_reference, real_frames, to_original

PURPOSES: tuple[Purpose, ...] = ("retrieval", "qa")


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[Purpose, Reference]:
    return {purpose: make_reference(tmp_path_factory.mktemp(purpose), purpose) for purpose in PURPOSES}


@pytest.fixture
def retrieval(references: dict[Purpose, Reference]) -> Reference:
    return references["retrieval"]


@pytest.fixture
def state(retrieval: Reference) -> dict[str, Tensor]:
    """A fresh state dict with transformers' names."""
    return {key: value.clone() for key, value in retrieval.model.state_dict().items()}


def outputs(model: BLIP) -> Tensor:
    """Something that depends on all weights of a purpose."""
    ids, words = captions(model)
    tokens = tokens_of(model, clips_of(clips(model), real_frames()))
    if model.purpose == "qa":
        return model.decode(
            Words(ids, words), Memory(model.fuse(Words(ids, words), memory_of(tokens, real_frames())), words)
        )
    joint = (
        model.encode_video(clips_of(clips(model), real_frames())).pooled @ model.encode_text(Words(ids, words)).pooled.T
    )
    return torch.cat([joint, model.match(Words(ids, words), memory_of(tokens, real_frames()))], 1)


def saved(path: Path, tensors: Any) -> Path:
    torch.save(tensors, path)
    return path


def load(reference: Reference, path: Path, purpose: Purpose = "retrieval") -> BLIP:
    return BLIP(reference.architecture, str(path), purpose).eval()


def refusal(kind: type[PetlBenchError], reference: Reference, path: Path, purpose: Purpose = "retrieval") -> str:
    """The message, which is one line and names the file."""
    with pytest.raises(kind) as caught:
        load(reference, path, purpose)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# --- what can be loaded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", PURPOSES)
def test_every_source_gives_the_same_outputs(
    purpose: Purpose, references: dict[Purpose, Reference], tmp_path: Path
) -> None:
    reference = references[purpose]
    expected = outputs(reference.ours(purpose))
    state = reference.model.state_dict()
    folder = tmp_path / "folder"
    folder.mkdir()
    saved(folder / "pytorch_model.bin", state)
    sources = (
        saved(tmp_path / "official.pth", {"model": to_original(reference.model), "epoch": 3}),
        saved(tmp_path / "bare.pth", to_original(reference.model)),
        saved(tmp_path / "half.pth", {key: value.double() for key, value in state.items()}),
        reference.folder / "model.safetensors",
        folder,
    )
    for source in sources:
        torch.testing.assert_close(outputs(load(reference, source, purpose)), expected, rtol=0, atol=0)


def test_provenance_and_temperature(retrieval: Reference, tmp_path: Path) -> None:
    path = saved(tmp_path / "official.pth", {"model": to_original(retrieval.model)})
    model = load(retrieval, path)
    assert model.weights == {
        "source": str(path),
        "file": path.name,
        "sha256": file_sha256(path),
        "described_by": None,
        "assumed": "activation gelu, mean 0.481 0.458 0.408, deviation 0.269 0.261 0.276, resize squash, "
        "tokenizer of blip_tiny_vocab.txt",
    }
    assert model.temp.item() == pytest.approx(0.05)
    assert retrieval.ours("retrieval").temp.item() == pytest.approx(0.07)


def test_pretraining_checkpoint_serves_both_purposes(references: dict[Purpose, Reference], tmp_path: Path) -> None:
    """model_base.pth has projections, matching head and decoder."""
    both = to_original(references["retrieval"].model)
    answering = references["qa"]
    both |= {key: value for key, value in to_original(answering.model).items() if key.startswith("text_decoder")}
    path = saved(tmp_path / "model_base.pth", {"model": both})
    expected = outputs(references["retrieval"].ours("retrieval"))
    torch.testing.assert_close(outputs(load(references["retrieval"], path)), expected, rtol=0, atol=0)
    assert load(references["retrieval"], path, "qa").towers["decoder"].width == 16


@pytest.mark.parametrize("purpose", PURPOSES)
def test_adapter_of_full(purpose: Purpose, references: dict[Purpose, Reference], tmp_path: Path) -> None:
    reference = references[purpose]
    trained = reference.ours(purpose)
    tensors = {f"backbone.{name}": parameter.detach() for name, parameter in trained.named_parameters()}
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, Adapter(tensors, {"method": "methods.full.Full", "backbone": trained.name}))
    model = load(reference, path, purpose)
    torch.testing.assert_close(outputs(model), outputs(trained), rtol=0, atol=0)
    assert model.weights["source"] == str(path)
    assert model.weights["sha256"] == file_sha256(path)
    assert "deviation" in str(model.weights["assumed"])  # the adapter is of a time before it was written down
    other: Purpose = "qa" if purpose == "retrieval" else "retrieval"
    assert "not all weights of blip-other" in refusal(CheckpointError, reference, path, other)


def test_loading_leaves_the_global_generator(retrieval: Reference) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    retrieval.ours("retrieval")
    assert torch.equal(torch.get_rng_state(), before)


# --- what was trained for something else ----------------------------------------------------------------------------


def test_checkpoint_for_answers_is_no_start_for_retrieval(references: dict[Purpose, Reference], tmp_path: Path) -> None:
    path = saved(tmp_path / "model_vqa.pth", {"model": to_original(references["qa"].model)})
    message = refusal(CheckpointError, references["qa"], path)
    assert "fine-tuned for question answering, without vision_proj, text_proj, itm_head" in message
    assert "model_base.pth" in message


def test_checkpoint_for_retrieval_is_no_start_for_answers(retrieval: Reference, tmp_path: Path) -> None:
    path = saved(tmp_path / "model_retrieval.pth", {"model": to_original(retrieval.model)})
    assert "fine-tuned for retrieval, without text_decoder" in refusal(CheckpointError, retrieval, path, "qa")


@pytest.mark.parametrize("purpose", PURPOSES)
def test_captioner(purpose: Purpose, references: dict[Purpose, Reference], tmp_path: Path) -> None:
    official = to_original(references["qa"].model)
    captioner = {key: value for key, value in official.items() if not key.startswith("text_encoder")}
    message = refusal(CheckpointError, references["qa"], saved(tmp_path / "caption.pth", captioner), purpose)
    assert "fine-tuned for captioning, without text_encoder" in message


def test_other_model(retrieval: Reference, tmp_path: Path) -> None:
    path = saved(tmp_path / "clip.pt", {"visual.proj": torch.zeros(2, 2)})
    assert "no BLIP checkpoint" in refusal(CheckpointError, retrieval, path)


# --- what cannot be loaded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights\n" * 40, b"<html>404</html>", b"\x80\x02}q\x00."])
def test_other_content(content: bytes, suffix: str, retrieval: Reference, tmp_path: Path) -> None:
    path = (tmp_path / "weights").with_suffix(suffix)
    path.write_bytes(content)
    refusal(CheckpointError, retrieval, path)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"model": 3}, {"model": {"a": 1}}])
def test_other_objects(content: Any, retrieval: Reference, tmp_path: Path) -> None:
    refusal(CheckpointError, retrieval, saved(tmp_path / "weights.pth", content))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_truncated(share: float, retrieval: Reference, state: dict[str, Tensor], tmp_path: Path) -> None:
    for path in (saved(tmp_path / "weights.pth", state), tmp_path / "weights.safetensors"):
        content = (retrieval.folder / "model.safetensors" if not path.exists() else path).read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        refusal(CheckpointError, retrieval, path)


class Executed:
    """Creates a file when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_pickle_is_not_executed(retrieval: Reference, state: dict[str, Tensor], tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    path = saved(tmp_path / "weights.pth", {"model": state, "config": Executed(trace)})
    assert "never executed" in refusal(CheckpointError, retrieval, path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(
    value: float, retrieval: Reference, state: dict[str, Tensor], tmp_path: Path
) -> None:
    state["itm_head.bias"][1] = value
    message = refusal(CheckpointError, retrieval, saved(tmp_path / "weights.pth", state))
    assert "itm_head.bias has NaN or infinite values" in message


@pytest.mark.parametrize("value", [-0.07, 0.0, float("nan"), float("inf"), [0.07, 0.07], []])
def test_temperature_that_is_none(value: Any, retrieval: Reference, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.pth", state | {"temp": torch.tensor(value)})
    assert "temp is" in refusal(CheckpointError, retrieval, path)


_QKV = "vision_model.encoder.layers.1.self_attn.qkv.weight"
_POSITIONS = "vision_model.embeddings.position_embedding"
CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda s: s.pop(_QKV), f"1 tensors missing (first: ['{_QKV}'])"),
    "unknown": (
        lambda s: s.update({"text_encoder.pooler.weight": torch.zeros(1)}),
        "1 unknown (first: ['text_encoder.pooler.weight'])",
    ),
    "shape": (lambda s: s.update({_QKV: torch.zeros(72, 23)}), f"{_QKV} is (72, 23), not (72, 24)"),
    "grid": (lambda s: s.update({_POSITIONS: torch.zeros(1, 16, 24)}), f"{_POSITIONS} is (1, 16, 24)"),
    "positions": (lambda s: s.update({_POSITIONS: torch.zeros(17, 24)}), f"{_POSITIONS} is (17, 24)"),
    "width": (lambda s: s.update({_POSITIONS: torch.zeros(1, 17, 23)}), f"{_POSITIONS} is (1, 17, 23)"),
    "only_cls": (lambda s: s.update({_POSITIONS: torch.zeros(1, 1, 24)}), f"{_POSITIONS} is (1, 1, 24)"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_other_tensors(
    change: Callable[[dict[str, Tensor]], Any],
    words: str,
    retrieval: Reference,
    state: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    change(state)
    assert words in refusal(CheckpointError, retrieval, saved(tmp_path / "weights.pth", state))


def test_safetensors_with_original_names(retrieval: Reference, tmp_path: Path) -> None:
    path = tmp_path / "official.safetensors"
    save_file({k: v.contiguous() for k, v in to_original(retrieval.model).items()}, path)
    assert "temp" in load_file(path)
    torch.testing.assert_close(outputs(load(retrieval, path)), outputs(retrieval.ours("retrieval")), rtol=0, atol=0)


def test_folder_without_weights(retrieval: Reference, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}), encoding="utf-8")
    assert "model.safetensors" in refusal(CheckpointError, retrieval, tmp_path)


def test_what_is_not_there(retrieval: Reference, tmp_path: Path) -> None:
    message = refusal(UsageError, retrieval, tmp_path / "none.pth")
    assert "null gives random weights" in message
