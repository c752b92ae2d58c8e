"""Weights from every source give the same model as in the library they come from; everything else is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip.pretrained
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.full import Full
from methods.linear import Linear
from petl_bench.backbones.clip.model import CLIP
from petl_bench.backbones.clip.weights import find_weights
from petl_bench.errors import CheckpointError, PetlBenchError, UsageError
from petl_bench.inputs import Words
from petl_bench.storage.adapters import FORMAT, Adapter, write_adapter
from petl_bench.storage.files import file_sha256
from petl_bench.tasks.retrieval import Retrieval
from tests.inputs import clips_of
from tests.unit.backbones.reference import GELU, TINY, Reference, captions, make_reference, pictures, unit
from tests.unit.backbones.reference import write_architecture as write

# OpenAI's files are TorchScript, whatever torch thinks of it by now; pickle protocol 4 is part of a test.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol 4:UserWarning"),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make_reference(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture(scope="module")
def state(reference: Reference) -> dict[str, Tensor]:
    return reference.model.state_dict()


def assert_holds(clip: CLIP, model: Any, atol: float = 1e-5) -> None:
    """Our towers give what open_clip's model gives."""
    frames = pictures(2, clip.spec.image_size)
    ids, words = captions(clip, 77)
    with torch.no_grad():
        video = clip.encode_video(clips_of(frames[:, None], torch.ones(2, 1, dtype=torch.bool))).by_frame()[:, 0]
        text = clip.encode_text(Words(ids, words)).pooled
        torch.testing.assert_close(video, model.encode_image(frames), atol=atol, rtol=1e-4)
        torch.testing.assert_close(text, model.encode_text(ids, normalize=True), atol=atol, rtol=1e-4)


def refusal(kind: type[PetlBenchError], pretrained: Path | str, architecture: str = "tiny") -> str:
    """The one line with which weights are refused."""
    with pytest.raises(kind) as caught:
        CLIP(architecture, str(pretrained))
    message = str(caught.value)
    assert "\n" not in message
    assert Path(pretrained).name in message
    return message


# --- round trips ----------------------------------------------------------------------------------------------------


def write_bin(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path.with_suffix(".bin"))
    return path.with_suffix(".bin")


def write_training_checkpoint(path: Path, state: dict[str, Tensor]) -> Path:
    """What open_clip's training script saves from a distributed run."""
    wrapped = {"epoch": 3, "name": "run", "state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(wrapped, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def write_safetensors(path: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


@pytest.mark.parametrize("writer", [write_bin, write_training_checkpoint, write_safetensors])
def test_open_clip_file(
    writer: Callable[[Path, dict[str, Tensor]], Path], reference: Reference, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = writer(tmp_path / "weights", state)
    clip = CLIP("tiny", str(path))
    assert_holds(clip, reference.model)
    assert clip.weights == {
        "source": str(path),
        "file": path.name,
        "sha256": file_sha256(path),
        "activation": "quick_gelu (not stated by the weights)",
        "described_by": None,
        "assumed": "activation quick_gelu, mean 0.481 0.458 0.408, deviation 0.269 0.261 0.276, "
        "resize shorter_side_crop, tokenizer CLIP's",
    }


class Holder(nn.Module):
    """Holds tensors under dotted names, as an OpenAI archive does."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            module: nn.Module = self
            *parents, leaf = name.split(".")
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, nn.Module())
                module = getattr(module, parent)
            module.register_buffer(leaf, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return x


def write_torchscript(path: Path, tensors: dict[str, Tensor]) -> Path:
    """An archive like OpenAI's: half precision, with three numbers beside the weights."""
    numbers = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    holder = Holder({k: v.half() for k, v in tensors.items()} | {k: torch.tensor(v) for k, v in numbers.items()})
    torch.jit.save(torch.jit.trace(holder, torch.zeros(1)), path)
    return path


def test_openai_torchscript_archive(reference: Reference, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = write_torchscript(tmp_path / "ViT.pt", state)
    clip = CLIP("tiny", str(path))
    assert {p.dtype for p in clip.parameters()} == {torch.float32}
    assert torch.equal(clip.vision.proj, state["visual.proj"].half().float())
    assert_holds(clip, reference.model, atol=2e-3)
    assert clip.weights["sha256"] == file_sha256(path)
    assert clip.weights["activation"] == "quick_gelu"


def write_transformers(folder: Path, hidden_act: str = "quick_gelu") -> Any:
    """A `CLIPModel` of the tiny architecture in a folder; returns the model."""
    from transformers import CLIPConfig, CLIPModel

    tiny = json.loads(TINY.read_text(encoding="utf-8"))

    def layers(tower: dict[str, int], heads: int) -> dict[str, Any]:
        width = tower["width"]
        shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": tower["layers"]}
        return {**shape, "num_attention_heads": heads, "hidden_act": hidden_act}

    vision, text = tiny["vision_cfg"], tiny["text_cfg"]
    torch.manual_seed(0)
    config = CLIPConfig(
        projection_dim=tiny["embed_dim"],
        vision_config=layers(vision, vision["width"] // vision["head_width"])
        | {"image_size": vision["image_size"], "patch_size": vision["patch_size"]},
        text_config=layers(text, text["heads"]) | {"eos_token_id": 49407, "bos_token_id": 49406},
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("transformers") / "clip"
    return folder, write_transformers(folder)


def test_transformers_folder(transformers_folder: tuple[Path, Any]) -> None:
    folder, model = transformers_folder
    clip = CLIP("tiny", str(folder))
    frames = pictures(2, clip.spec.image_size)
    ids, words = captions(clip)
    with torch.no_grad():
        video = clip.encode_video(clips_of(frames[:, None], torch.ones(2, 1, dtype=torch.bool))).by_frame()[:, 0]
        text = clip.encode_text(Words(ids, words)).pooled
        theirs = model(pixel_values=frames, input_ids=ids, attention_mask=words.long())
        torch.testing.assert_close(unit(video), theirs.image_embeds, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(text, theirs.text_embeds, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(video, model.get_image_features(frames).pooler_output, atol=1e-5, rtol=1e-4)
        features = model.get_text_features(ids, words.long()).pooler_output
        torch.testing.assert_close(text, unit(features), atol=1e-5, rtol=1e-4)
    assert torch.equal(clip.logit_scale, model.logit_scale)
    assert clip.weights["sha256"] == file_sha256(folder / "model.safetensors")
    assert clip.weights["activation"] == "quick_gelu"


def test_transformers_folder_states_mean_and_deviation(transformers_folder: tuple[Path, Any], tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes((transformers_folder[0] / "model.safetensors").read_bytes())
    preprocessor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    spec = CLIP("tiny", str(tmp_path)).spec
    assert (spec.mean, spec.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_damaged_transformers_file(transformers_folder: tuple[Path, Any], tmp_path: Path) -> None:
    tensors = load_file(transformers_folder[0] / "model.safetensors")
    del tensors["vision_model.post_layernorm.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert "vision_model.post_layernorm.bias" in refusal(CheckpointError, tmp_path)


def write_open_clip_folder(folder: Path, state: dict[str, Tensor], **model: Any) -> None:
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "resize_mode": "squash"}
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")


def test_open_clip_folder(reference: Reference, state: dict[str, Tensor], tmp_path: Path) -> None:
    write_open_clip_folder(tmp_path, state, quick_gelu=True)
    clip = CLIP("tiny", str(tmp_path))
    assert_holds(clip, reference.model)
    assert (clip.spec.mean, clip.spec.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert clip.spec.resize == "squash"
    assert clip.weights["sha256"] == file_sha256(tmp_path / "open_clip_model.safetensors")


def tagged(monkeypatch: pytest.MonkeyPatch, file: Path | Exception, **config: Any) -> None:
    """Makes open_clip know the tag `ours` of `tiny`, and answer its download with `file`."""

    def download(_config: Any) -> str:
        if isinstance(file, Exception):
            raise file
        return str(file)

    known = open_clip.pretrained.get_pretrained_cfg
    ours = {"url": "", "hf_hub": "", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), **config}
    monkeypatch.setattr(
        open_clip.pretrained, "get_pretrained_cfg", lambda model, tag: ours if tag == "ours" else known(model, tag)
    )
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained", download)


def test_tag(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    tagged(monkeypatch, reference.weights, quick_gelu=True, resize_mode="squash")
    clip = CLIP("tiny", "ours")
    assert_holds(clip, reference.model)
    assert (clip.spec.mean, clip.spec.resize) == ((0.5, 0.5, 0.5), "squash")
    assert clip.weights == {
        "source": "ours",
        "file": reference.weights.name,
        "sha256": file_sha256(reference.weights),
        "activation": "quick_gelu",
        "described_by": None,
        "assumed": None,
    }


def full_adapter(folder: Path, reference: Reference) -> tuple[Path, Adapter]:
    method = Full(backbone=CLIP("tiny", str(reference.weights)), task=Retrieval()).adapt()
    adapter = Adapter(method.trained_state(), method.identity())
    path = folder / "adapter.safetensors"
    write_adapter(path, adapter)
    return path, adapter


def test_adapter_of_full(reference: Reference, tmp_path: Path) -> None:
    path, _ = full_adapter(tmp_path, reference)
    clip = CLIP("tiny", str(path))
    assert_holds(clip, reference.model)
    assert clip.weights == {"source": str(path), "file": path.name, "sha256": file_sha256(path), "assumed": None}


# --- activations ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gelu_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny architecture with GELU."""
    config = json.loads(TINY.read_text(encoding="utf-8")) | {"quick_gelu": False}
    return write(tmp_path_factory.mktemp("gelu"), "tiny_gelu", config)


def assert_mismatch(message: str, trained: str) -> None:
    other = {"QuickGELU": "GELU", "GELU": "QuickGELU"}[trained]
    assert f"trained with {trained}," in message
    assert f"has {other}:" in message


@pytest.mark.parametrize(("stated", "trained"), [(True, "QuickGELU"), (False, "GELU")])
def test_tag_with_the_other_activation(
    stated: bool, trained: str, gelu_tiny: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    tagged(monkeypatch, reference.weights, quick_gelu=stated)
    architecture = str(gelu_tiny) if stated else "tiny"
    with pytest.raises(UsageError) as caught:
        CLIP(architecture, "ours")
    assert_mismatch(str(caught.value), trained)


def test_mismatch_names_the_right_architecture(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    tagged(monkeypatch, reference.weights, quick_gelu=True)
    with torch.device("meta"), pytest.raises(UsageError, match=r"architecture 'ViT-B-16-quickgelu'$"):
        CLIP("ViT-B-16", "ours")
    tagged(monkeypatch, reference.weights, quick_gelu=False)
    with torch.device("meta"), pytest.raises(UsageError, match=r"architecture 'ViT-B-16'$"):
        CLIP("ViT-B-16-quickgelu", "ours")


def test_torchscript_with_gelu_architecture(gelu_tiny: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = write_torchscript(tmp_path / "ViT.pt", state)
    assert_mismatch(refusal(UsageError, path, str(gelu_tiny)), "QuickGELU")


def test_openai_file_by_its_hash(gelu_tiny: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://host/clip/models/{file_sha256(reference.weights)}/ViT.pt"
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_url", lambda *_: url)
    assert_mismatch(refusal(UsageError, reference.weights, str(gelu_tiny)), "QuickGELU")


def test_transformers_folder_with_gelu(tmp_path: Path) -> None:
    write_transformers(tmp_path / "clip", hidden_act="gelu")
    assert_mismatch(refusal(UsageError, tmp_path / "clip"), "GELU")


@pytest.mark.parametrize("config", [{}, {"vision_config": {}}, {"vision_config": {"hidden_act": "quick_gelu"}}])
def test_transformers_folder_with_its_default_activation(
    config: dict[str, Any], gelu_tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").touch()  # refused before it is read
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_mismatch(refusal(UsageError, tmp_path, str(gelu_tiny)), "QuickGELU")


@pytest.mark.parametrize(("model", "trained"), [({}, "GELU"), ({"quick_gelu": True}, "QuickGELU")])
def test_open_clip_folder_with_the_other_activation(
    model: dict[str, Any], trained: str, gelu_tiny: Path, state: dict[str, Tensor], tmp_path: Path
) -> None:
    write_open_clip_folder(tmp_path / "clip", state, **model)
    architecture = str(gelu_tiny) if model else "tiny"
    assert_mismatch(refusal(UsageError, tmp_path / "clip", architecture), trained)


# --- what cannot be loaded ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights\n" * 40, b"<html>404</html>", b"\x80\x02}q\x00."])
def test_other_content(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = (tmp_path / "weights").with_suffix(suffix)
    path.write_bytes(content)
    refusal(CheckpointError, path)


@pytest.mark.parametrize("writer", [write_bin, write_safetensors])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_truncated(
    writer: Callable[[Path, dict[str, Tensor]], Path], share: float, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = writer(tmp_path / "weights", state)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refusal(CheckpointError, path)


def test_truncated_torchscript(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = write_torchscript(tmp_path / "ViT.pt", state)
    path.write_bytes(path.read_bytes()[:-1000])
    refusal(CheckpointError, path)


class Executed:
    """Creates a file when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_is_not_executed(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    pickle.loads(pickle.dumps(Executed(trace), protocol=protocol))
    assert trace.exists()  # it would
    trace.unlink()
    zipped, plain = tmp_path / "zipped.pt", tmp_path / "plain.pt"
    torch.save({"visual.proj": torch.zeros(2), "x": Executed(trace)}, zipped, pickle_protocol=protocol)
    plain.write_bytes(pickle.dumps({"x": Executed(trace)}, protocol=protocol))
    for path in (zipped, plain):
        assert "never executed" in refusal(CheckpointError, path)
    assert not trace.exists()


def test_pickle_dressed_as_torchscript_is_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    path = tmp_path / "ViT.pt"
    content = io.BytesIO()
    pickle.dump({"x": Executed(trace)}, content, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content.getvalue())
        archive.writestr("archive/code/x.py", "")
        archive.writestr("archive/version", "3\n")
    refusal(CheckpointError, path)
    assert not trace.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float, state: dict[str, Tensor], tmp_path: Path) -> None:
    spoilt = dict(state) | {"ln_final.bias": state["ln_final.bias"].clone()}
    spoilt["ln_final.bias"][3] = value
    message = refusal(CheckpointError, write_bin(tmp_path / "weights", spoilt))
    assert "ln_final.bias has NaN or infinite values" in message


def test_other_width(tmp_path: Path) -> None:
    config = GELU | {"vision_cfg": {**GELU["vision_cfg"], "image_size": 64, "patch_size": 16, "layers": 4}}
    other = make_reference(tmp_path, write(tmp_path, "other_width", config))
    assert "does not fit this architecture" in refusal(CheckpointError, other.weights)


_TINY = json.loads(TINY.read_text(encoding="utf-8"))
WIDTH, TEXT_WIDTH, JOINT = _TINY["vision_cfg"]["width"], _TINY["text_cfg"]["width"], _TINY["embed_dim"]
CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (lambda s: s.pop("visual.proj"), "1 tensors missing (first: ['visual.proj'])"),
    "unknown": (lambda s: s.update(head=torch.zeros(1)), "1 unknown (first: ['head'])"),
    "shape": (
        lambda s: s.update({"visual.proj": torch.zeros(WIDTH, JOINT - 1)}),
        f"visual.proj is ({WIDTH}, {JOINT - 1}), not ({WIDTH}, {JOINT})",
    ),
    "positions": (
        lambda s: s.update({"visual.positional_embedding": torch.zeros(14, WIDTH)}),  # no square grid
        f"visual.positional_embedding is (14, {WIDTH})",
    ),
    "context": (
        lambda s: s.update(positional_embedding=torch.zeros(76, TEXT_WIDTH)),
        f"positional_embedding is (76, {TEXT_WIDTH})",
    ),
    "scale": (lambda s: s.update(logit_scale=torch.zeros(2)), "logit_scale is (2,), not ()"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_other_tensors(
    change: Callable[[dict[str, Tensor]], Any], words: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = dict(state)
    change(changed)
    assert words in refusal(CheckpointError, write_bin(tmp_path / "weights", changed))


def test_scale_in_a_list_of_one(reference: Reference, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = write_bin(tmp_path / "weights", state | {"logit_scale": state["logit_scale"].reshape(1)})
    assert torch.equal(CLIP("tiny", str(path)).logit_scale, reference.model.logit_scale)


def test_adapter_of_another_method(tmp_path: Path) -> None:
    method = Linear(backbone=CLIP("tiny", None), task=Retrieval()).adapt()
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, Adapter(method.trained_state(), method.identity()))
    message = refusal(CheckpointError, path)
    assert "methods.linear.Linear of clip-tiny, not all weights of clip-tiny" in message


def test_adapter_of_full_of_another_backbone(reference: Reference, tmp_path: Path, gelu_tiny: Path) -> None:
    path, _ = full_adapter(tmp_path, reference)
    assert "methods.full.Full of clip-tiny," in refusal(CheckpointError, path, str(gelu_tiny))


def test_adapter_without_provenance(reference: Reference, tmp_path: Path) -> None:
    path, adapter = full_adapter(tmp_path, reference)
    save_file(adapter.tensors, path, {"format": FORMAT})
    refusal(CheckpointError, path)


def test_adapter_of_full_with_nan(reference: Reference, tmp_path: Path) -> None:
    path, adapter = full_adapter(tmp_path, reference)
    adapter.tensors["backbone.vision.proj"] = adapter.tensors["backbone.vision.proj"] * float("nan")
    write_adapter(path, adapter)
    assert "vision.proj has NaN" in refusal(CheckpointError, path)


def test_folder_without_weights(tmp_path: Path) -> None:
    assert "model.safetensors" in refusal(CheckpointError, tmp_path)


@pytest.mark.parametrize("name", ["open_clip_config.json", "config.json"])
@pytest.mark.parametrize("text", ["{bad", "[1]", '{"vision_config": 1, "model_cfg": 1}'])
def test_folder_with_a_broken_configuration(name: str, text: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=name):
        CLIP("tiny", str(tmp_path))


# --- what cannot be found -------------------------------------------------------------------------------------------


def test_unknown_tag_suggests_close_ones() -> None:
    with pytest.raises(
        UsageError,
        match=r"'laion2b_s34b_b88' is no file, folder, hf-hub:owner/name or open_clip tag.*laion2b_s34b_b88k",
    ):
        find_weights("ViT-B-16", "laion2b_s34b_b88")


def test_missing_file_of_an_architecture_without_tags() -> None:
    message = refusal(UsageError, "weights/none.safetensors")
    assert "tiny has no tags" in message
    assert "null gives random weights" in message


def test_url_is_refused() -> None:
    assert "is a URL" in refusal(UsageError, "https://host/weights.pt")


@pytest.mark.parametrize("error", [OSError("no network\nat all"), RuntimeError("hub"), ValueError("hash")])
def test_tag_that_cannot_be_downloaded(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    tagged(monkeypatch, error, quick_gelu=True)
    message = refusal(CheckpointError, "ours")
    assert "not in the local cache and could not be downloaded" in message
    assert type(error).__name__ in message


def test_loading_leaves_the_global_generator(reference: Reference) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    CLIP("tiny", str(reference.weights))
    assert torch.equal(torch.get_rng_state(), before)
