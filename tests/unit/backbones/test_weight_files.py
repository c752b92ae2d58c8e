"""Whatever is given as weights is read or named, on all backbones: shards, wrappers, and what is no weights."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import json
import lzma
import os
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import petl_bench.backbones
from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip.model import BLIP
from petl_bench.backbones.clip.model import CLIP, create_open_clip
from petl_bench.backbones.clip.weights import find_weights
from petl_bench.backbones.clip.whole import WholeCLIP
from petl_bench.backbones.described import pixels_of
from petl_bench.backbones.weights import local_files, without_prefixes
from petl_bench.errors import CheckpointError, PetlBenchError, UsageError

Load = Callable[..., Backbone]
LOADERS: dict[str, Load] = {"CLIP": CLIP, "WholeCLIP": WholeCLIP, "BLIP": BLIP}
VOCABULARY = Path(petl_bench.backbones.__file__).parent / "architectures" / "blip_tiny_vocab.txt"
#: as small as can be, since each is built many times
MINI_CLIP: dict[str, Any] = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 16, "head_width": 4, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 4, "layers": 1},
}
MINI_BLIP: dict[str, Any] = {
    "image_text_hidden_size": 8,
    "vision_config": {
        **{"image_size": 64, "patch_size": 16, "hidden_size": 16, "intermediate_size": 32},
        **{"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_act": "gelu"},
    },
    "text_config": {
        **{"vocab_size": 175, "max_position_embeddings": 64, "hidden_size": 16, "intermediate_size": 32},
        **{"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_act": "gelu"},
        **{"bos_token_id": 173, "sep_token_id": 3, "pad_token_id": 0},
    },
}


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of the two architectures."""
    folder = tmp_path_factory.mktemp("architectures")
    clip, blip = folder / "mini.json", folder / "blip_mini.json"
    clip.write_text(json.dumps(MINI_CLIP), encoding="utf-8")
    blip.write_text(json.dumps({**MINI_BLIP, "vocabulary": str(VOCABULARY)}), encoding="utf-8")
    return {"CLIP": str(clip), "WholeCLIP": str(clip), "BLIP": str(blip)}


@pytest.fixture(scope="module")
def states(architectures: dict[str, str]) -> dict[str, dict[str, Tensor]]:
    """Weights with the names of open_clip and of transformers."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    CLIP(architectures["CLIP"], None)  # makes open_clip know it
    torch.manual_seed(0)
    blip = BlipForImageTextRetrieval(BlipConfig.from_dict(copy.deepcopy(MINI_BLIP)))
    of_clip = {key: value.clone() for key, value in create_open_clip("mini", None, 5).state_dict().items()}
    return {"CLIP": of_clip, "WholeCLIP": of_clip, "BLIP": {k: v.clone() for k, v in blip.state_dict().items()}}


@pytest.fixture(params=LOADERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def state(kind: str, states: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return dict(states[kind])


@pytest.fixture
def load(kind: str, architectures: dict[str, str]) -> Load:
    """The backbone with weights."""
    return partial(LOADERS[kind], architectures[kind])


def holds(load: Load, state: dict[str, Tensor], pretrained: Path | str) -> None:
    """Loaded, the backbone has the weights of the state: one tensor of them, which all libraries keep in one piece."""
    first = next(value for key, value in state.items() if key.endswith(("conv1.weight", "patch_embedding.weight")))
    assert any(torch.equal(parameter, first) for parameter in load(str(pretrained)).parameters())


def refusal(load: Load, pretrained: Path | str, error: type[PetlBenchError] = CheckpointError, **options: Any) -> str:
    """The one line with which weights are refused."""
    with pytest.raises(error) as caught:
        load(str(pretrained), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert Path(pretrained).name in message
    return message


# --- wrappers and prefixes ------------------------------------------------------------------------------------------

PREFIXES = (
    *("module.", "model.", "_orig_mod.", "clip.", "module._orig_mod.", "_orig_mod.module.model.", "model.clip."),
    *("ema.", "ema_model.module.", "_fsdp_wrapped_module.", "student.backbone."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(prefix: str) -> None:
    state = {"visual.conv1.weight": torch.zeros(1), "logit_scale": torch.ones(1), "text_encoder.a": torch.ones(2)}
    found = without_prefixes({f"{prefix}{name}": value for name, value in state.items()}, "weights.pt")
    assert found.keys() == state.keys()
    assert all(found[name] is value for name, value in state.items())


def test_wrappers_inside_names() -> None:
    names = ["visual._orig_mod.proj", "module.transformer._fsdp_wrapped_module.resblocks.0._orig_mod.ln_1.weight"]
    found = without_prefixes({name: torch.zeros(1) for name in names}, "weights.pt")
    assert set(found) == {"visual.proj", "transformer.resblocks.0.ln_1.weight"}


def test_moving_average_is_left_out() -> None:
    both = {"model.proj": torch.zeros(1), "ema_model.proj": torch.ones(1)}
    assert without_prefixes(both, "weights.pt") == {"proj": both["model.proj"]}


def test_two_models_in_one_file() -> None:
    with pytest.raises(CheckpointError, match=r"weights.pt holds two models: model.proj and student.proj"):
        without_prefixes({"model.proj": torch.zeros(1), "student.proj": torch.ones(1)}, "weights.pt")


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": dict,
    "ordered": OrderedDict,
    "module": lambda s: {f"module.{k}": v for k, v in s.items()},
    "Lightning": lambda s: {
        "state_dict": {f"model._orig_mod.{k}": v for k, v in s.items()},
        "epoch": 3,
        "optimizer_states": [{"a": torch.zeros(1)}],
    },
    "model": lambda s: {"model": s, "epoch": 3, "config": {"lr": 1}},
    "nested": lambda s: {"model": {"module": {f"module.{k}": v for k, v in s.items()}}},
    "with an average": lambda s: {"state_dict": s, "state_dict_ema": {k: v + 1 for k, v in s.items()}},
    "average alone": lambda s: {"ema": {"module": s}, "step": 7},
    "half precision": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped(wrapper: str, load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    if wrapper == "half precision":
        state = {key: value.half().float() for key, value in state.items()}
    torch.save(WRAPPERS[wrapper](state), tmp_path / "weights.pt")
    holds(load, state, tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [[1], {"model": 3}, {"state_dict": {}}, {"a": "b"}, {3: torch.ones(1)}])
def test_other_objects(content: Any, load: Load, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    refusal(load, tmp_path / "weights.pt")


def test_the_content_decides_not_the_suffix(load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "weights.bin")
    torch.save(state, tmp_path / "weights.safetensors")
    holds(load, state, tmp_path / "weights.bin")
    holds(load, state, tmp_path / "weights.safetensors")


def test_home_is_expanded(
    load: Load, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(state, tmp_path / "weights.pt")
    holds(load, state, "~/weights.pt")


# --- shards ---------------------------------------------------------------------------------------------------------


def write_shards(folder: Path, state: dict[str, Tensor], stem: str, suffix: str, index: bool = True) -> list[Path]:
    """Weights in three files, and their index."""
    folder.mkdir(exist_ok=True)
    names = list(state)
    paths = [folder / f"{stem}-{i:05d}-of-00003{suffix}" for i in (1, 2, 3)]
    for place, path in enumerate(paths):
        part = {name: state[name].contiguous() for name in names[place::3]}
        save_file(part, path) if suffix == ".safetensors" else torch.save(part, path)
    if index:
        places = {name: paths[place % 3].name for place, name in enumerate(names)}
        text = json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
        (folder / f"{stem}{suffix}.index.json").write_text(text, encoding="utf-8")
    return paths


SHARDS = [("model", ".safetensors"), ("pytorch_model", ".bin")]


@pytest.mark.parametrize(("stem", "suffix"), SHARDS)
@pytest.mark.parametrize("index", [True, False])
def test_shards(stem: str, suffix: str, index: bool, load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "shards", state, stem, suffix, index)
    for given in (tmp_path / "shards", paths[1], *tmp_path.rglob("*.index.json")):
        holds(load, state, given)
    found = local_files(str(tmp_path / "shards"), [f"{stem}{suffix}"])
    assert found is not None
    assert found.files == tuple(paths)
    before = found.sha256
    (tmp_path / "shards").rename(tmp_path / "moved")
    moved = local_files(str(tmp_path / "moved"), [f"{stem}{suffix}"])
    assert moved is not None
    assert moved.sha256 == before


@pytest.mark.parametrize(("stem", "suffix"), SHARDS)
@pytest.mark.parametrize("index", [True, False])
def test_missing_shard_is_named(
    stem: str, suffix: str, index: bool, load: Load, state: dict[str, Tensor], tmp_path: Path
) -> None:
    paths = write_shards(tmp_path / "shards", state, stem, suffix, index)
    paths[2].unlink()
    for given in (tmp_path / "shards", *tmp_path.rglob("*.index.json")):
        with pytest.raises(CheckpointError, match=rf"'{paths[2].name}' is missing"):
            load(str(given))


def test_shard_that_is_a_pointer(load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "shards", state, "model", ".safetensors")
    paths[1].write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=rf"{paths[1].name} .* is a pointer of Git LFS"):
        load(str(tmp_path / "shards"))


def test_tensor_in_two_shards(load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "shards", state, "pytorch_model", ".bin")
    torch.save(torch.load(paths[0]) | torch.load(paths[1]), paths[1])
    with pytest.raises(CheckpointError, match=rf"{paths[1].name}: .* occurs in another shard"):
        load(str(tmp_path / "shards"))


@pytest.mark.parametrize(
    "text",
    [
        "{bad",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../b.bin"}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": ""}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": "x\\ny"}}',
        '{"weight_map": {"a": "' + "x" * 300 + '"}}',
        "[" * 100_000,
        "<html>",
    ],
)
def test_index_that_is_none(text: str, load: Load, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json") as caught:
        load(str(tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a-00001-of-00000.bin", "a-00004-of-00003.bin", "a-٠٠٠٠١-of-٠٠٠٠٢.bin"])
def test_file_that_is_only_named_like_a_shard(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    found = local_files(str(tmp_path / name), ())
    assert found is not None
    assert found.files == (tmp_path / name,)


def test_folder_with_weights_of_another_name(load: Load, tmp_path: Path) -> None:
    (tmp_path / "ours.pth").touch()
    assert "it holds ours.pth: give the file itself" in refusal(load, tmp_path)


# --- what is no weights ---------------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22ead\nsize 605\n"
ANNEX = b"/annex/objects/SHA256E-s12345--4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1.safetensors\n"


def archive(kind: str) -> bytes:
    """An archive with weights in it."""
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as zipped:
            zipped.writestr("clip/model.safetensors", b"x" * 100)
    else:
        with tarfile.open(fileobj=out, mode="w") as tarred:
            info = tarfile.TarInfo("model.bin")
            info.size = 100
            tarred.addfile(info, io.BytesIO(b"x" * 100))
    return out.getvalue()


def numpy_archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zipped:
        zipped.writestr("a.npy", b"x")
    return out.getvalue()


def cut_safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(100)


NO_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "LFS": (POINTER, "a pointer of Git LFS"),
    "annex": (ANNEX, "a pointer of git-annex"),
    "HTML": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", "a web page (HTML)"),
    "HTML with blanks": (b"\xef\xbb\xbf\n  <html>404</html>", "a web page (HTML)"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "AccessDenied"),
    "JSON": (b'{"error": "Repository not found"}', "Repository not found"),
    "text": ("404: Not Found \u00e9\n".encode() * 100, "404: Not Found"),
    "zeros": (bytes(5000), "zeros"),
    "zip": (archive("zip"), "a zip archive of 'clip/model.safetensors'"),
    "tar": (archive("tar"), "a tar archive"),
    "gzip": (gzip.compress(archive("tar")), "a gzip archive"),
    "xz": (lzma.compress(b"x"), "an xz archive"),
    "bzip2": (bz2.compress(b"x"), "a bzip2 archive"),
    "npz": (numpy_archive(), "NumPy"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "GGUF": (b"GGUF" + bytes(100), "GGUF"),
    "cut": (cut_safetensors(), "cut: 178 of 478 bytes"),
    "cut in the header": (cut_safetensors()[:40], "cut: 40 of"),
    "damaged header": ((50).to_bytes(8, "little") + b"{" + bytes(500), "no header of safetensors"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("what", NO_WEIGHTS)
def test_what_is_no_weights_is_named(what: str, suffix: str, load: Load, tmp_path: Path) -> None:
    content, told = NO_WEIGHTS[what]
    path = (tmp_path / "weights").with_suffix(suffix)
    path.write_bytes(content)
    message = refusal(load, path)
    assert told.replace("178 of 478", f"{len(content)} of {len(content) + 300}") in message
    assert f"({len(content)} bytes) is " in message


def test_cut_archive_of_pytorch(load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pt")
    content = (tmp_path / "weights.pt").read_bytes()
    (tmp_path / "weights.pt").write_bytes(content[: len(content) // 2])
    assert "cut or damaged" in refusal(load, tmp_path / "weights.pt")


def test_link_that_leads_nowhere(load: Load, tmp_path: Path) -> None:
    """git-annex leaves such links in the place of files that were not fetched."""
    (tmp_path / "model.safetensors").symlink_to(".git/annex/objects/ab/cd/SHA256E-s1--x/x")
    assert "which is not there" in refusal(load, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a link"):
        load(str(tmp_path))


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/x.pt", "a\0b", ""])
def test_name_that_no_file_can_have(name: str, load: Load) -> None:
    with pytest.raises(PetlBenchError):
        load(name)


def test_pipe(load: Load, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights.pt")
    assert "pipe" in refusal(load, tmp_path / "weights.pt")


# --- the configuration beside them ----------------------------------------------------------------------------------


def described(folder: Path, state: dict[str, Tensor], changes: dict[str, Any], **pixels: Any) -> Path:
    """Weights beside what transformers says of them, which is true but for some changes."""
    vision = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "num_attention_heads": 4}
    text = {"hidden_size": 8, "num_attention_heads": 4, "max_position_embeddings": 77}
    config: dict[str, Any] = {"model_type": "clip", "projection_dim": 8, "vision_config": vision, "text_config": text}
    if "text_encoder.encoder.layer.0.attention.self.query.weight" in state:
        config = {**copy.deepcopy(MINI_BLIP), "model_type": "blip"}
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = value
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if pixels:
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    torch.save(state, folder / "weights.pt")
    return folder / "weights.pt"


def test_weights_beside_their_configuration(load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    size = {"size": {"height": 64, "width": 64}, "do_center_crop": False}
    path = described(tmp_path, state, {}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4], **size)
    backbone = load(str(path))
    assert (backbone.spec.mean, backbone.spec.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert backbone.spec.resize == "squash"
    assert backbone.weights["described_by"] == "config.json and preprocessor_config.json"
    assert "mean" not in str(backbone.weights["assumed"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vision_config.num_attention_heads": 8}, "vision heads 8 (not 4)"),
        ({"text_config.num_attention_heads": 2}, "text heads 2 (not 4)"),
        ({"vision_config.patch_size": 8}, "patch size 8 (not 16)"),
        ({"vision_config.hidden_act": "relu"}, "vision activation relu"),
        ({"text_config.max_position_embeddings": 40}, "context length 40"),
        ({"text_config.vocab_size": 999}, "vocabulary size 999"),
    ],
)
def test_configuration_of_another_architecture(
    change: dict[str, Any], told: str, load: Load, state: dict[str, Tensor], tmp_path: Path
) -> None:
    message = refusal(load, described(tmp_path, state, change), UsageError)
    assert told in message
    assert "config.json beside" in message
    assert "backbone.architecture" in message.partition(told)[2]


@pytest.mark.parametrize("change", [{"vision_config.image_size": 96}, {}])
def test_configuration_of_another_image_size(
    change: dict[str, Any], load: Load, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """Positions can be interpolated; that is for the user to say."""
    path = described(tmp_path, state, change, size={"height": 96, "width": 96})
    message = refusal(load, path, UsageError)
    assert "96 (not 64)" in message
    assert "set backbone.image_size 96, or 64" in message
    assert load(str(path), image_size=64).spec.image_size == 64


@pytest.mark.parametrize("kind", ["CLIP", "WholeCLIP"], indirect=True)
def test_advice_names_nothing_that_is_in_use(load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = described(tmp_path, state, {f"{tower}_config.hidden_act": "gelu" for tower in ("vision", "text")})
    message = refusal(load, path, UsageError)
    assert "(of config.json) were trained with GELU, but architecture 'mini' has QuickGELU" in message
    assert message.endswith(
        'give an open_clip model configuration (JSON) with "quick_gelu": false as backbone.architecture'
    )


def test_configuration_of_another_kind_of_model(load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = described(tmp_path, state, {"model_type": "bert"}, image_mean=[0.5, 0.4, 0.3])
    backbone = load(str(path))
    assert backbone.weights["described_by"] is None
    assert "mean 0.481" in str(backbone.weights["assumed"])


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        ({"image_mean": [1, 2]}, "image_mean"),
        ({"image_std": [0, 0, 0]}, "image_std"),
        ({"image_mean": "x"}, "image_mean"),
        ({"size": {"height": 64, "width": 32}}, "not square"),
    ],
)
def test_damaged_preprocessor(
    pixels: dict[str, Any], told: str, load: Load, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = described(tmp_path, state, {}, **pixels)
    with pytest.raises(PetlBenchError, match=told) as caught:
        load(str(path))
    assert "preprocessor_config.json" in str(caught.value)


#: values of other types than any configuration has where one number, text or list is meant
OTHERS: list[Any] = [True, "a\nb", -1, 1.5, 10**400, float("nan"), [[1]], {"a": [1]}, {"height": {}}, [1, 2, 3, "x"]]


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("key", ["size", "crop_size", "image_mean", "image_std", "resample", "do_center_crop"])
def test_value_of_another_type_in_a_preprocessor(key: str, value: Any, tmp_path: Path) -> None:
    """Whatever stands there: it is refused in a line that names the file, or does no harm."""
    said = {"size": 64, "crop_size": 64, "resample": 3, key: value}
    for name, config in (
        ("preprocessor_config.json", said),
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {key.removeprefix("image_"): value}}),
    ):
        refused_or_harmless(tmp_path / name, config)


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize(
    "key",
    [
        *("embed_dim", "vision_cfg", "text_cfg", "vision_cfg.layers", "vision_cfg.width", "vision_cfg.head_width"),
        *("vision_cfg.mlp_ratio", "text_cfg.heads", "text_cfg.act_kwargs", "text_cfg.norm_kwargs"),
        *("vision_config", "vision_config.hidden_act", "vision_config.image_size", "text_config.hidden_size"),
    ],
)
def test_value_of_another_type_in_a_configuration(key: str, value: Any, tmp_path: Path) -> None:
    section, _, name = key.rpartition(".")
    config: dict[str, Any] = {section: {name: value}} if section else {name: value}
    if "config" in key:
        refused_or_harmless(tmp_path / "config.json", config)
    else:
        refused_or_harmless(tmp_path / "open_clip_config.json", {"model_cfg": config})


def refused_or_harmless(path: Path, config: dict[str, Any]) -> None:
    path.with_name("model.safetensors").write_bytes(b"\2" + bytes(7) + b"{}")
    path.write_text(json.dumps(config), encoding="utf-8")
    told = path.name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            find_weights("tiny", str(path.parent))
    except PetlBenchError as error:
        told = str(error)
    path.unlink()
    assert path.name in told
    assert "\n" not in told
    assert len(told) < 500


def test_whole_number_with_a_point_is_a_size(tmp_path: Path) -> None:
    assert pixels_of({"size": {"height": 64.0, "width": 64}}, tmp_path).size == 64


def test_processor_of_transformers_5(load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = described(tmp_path, state, {})
    text = json.dumps({"image_processor": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}})
    (tmp_path / "processor_config.json").write_text(text, encoding="utf-8")
    assert load(str(path)).spec.mean == (0.5, 0.5, 0.5)


def test_other_interpolation_is_told(load: Load, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = described(tmp_path, state, {}, resample=2)
    with pytest.warns(UserWarning, match="interpolation 2"):
        load(str(path))


def test_vocabulary_beside_blip_is_taken(
    states: dict[str, dict[str, Tensor]], architectures: dict[str, str], tmp_path: Path
) -> None:
    path = described(tmp_path, states["BLIP"], {})
    pieces = VOCABULARY.read_text(encoding="utf-8")
    (tmp_path / "vocab.txt").write_text(pieces, encoding="utf-8")
    assert BLIP(architectures["BLIP"], str(path)).spec.tokenizer.vocabulary == str(tmp_path / "vocab.txt")  # type: ignore[attr-defined]
    other = described(tmp_path / "other", states["BLIP"], {})
    (other.parent / "vocab.txt").write_text("\n".join(reversed(pieces.split())), encoding="utf-8")
    with pytest.raises(UsageError, match=r"sep_token_id .*vocab\.txt"):
        BLIP(architectures["BLIP"], str(other))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("sep_token_id", None, "sep_token_id of backbone.architecture is 102"),
        ("sep_token_id", 2, "is 2, but the vocabulary"),
        ("pad_token_id", 1, "pad_token_id of backbone.architecture is 1"),
        ("sep_token_id", 9999, "sep_token_id of backbone.architecture is 9999, but the vocabulary"),
        ("sep_token_id", -1, "sep_token_id of backbone.architecture is -1"),
        ("bos_token_id", 174, "bos_token_id of backbone.architecture is 174"),
        ("bos_token_id", "x", "backbone.architecture"),
    ],
)
def test_special_tokens_that_are_not_the_tokeniser_s(key: str, value: Any, told: str, tmp_path: Path) -> None:
    config = {**copy.deepcopy(MINI_BLIP), "vocabulary": str(VOCABULARY)}
    del config["text_config"][key]  # transformers takes its own default, whatever the vocabulary says
    if value is not None:
        config["text_config"][key] = value
    (tmp_path / "own.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        BLIP(str(tmp_path / "own.json"), None)
