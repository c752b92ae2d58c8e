"""What is fuzzed beside annotations: what describes and holds models and runs (adapters, weights, records, ...)."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fuzz.trial import Form, Target, UnclearError
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.storage.files import FileError

#: of so many damaged records one is made a report of, which takes its time
_REPORTED = 256
#: of so many damaged descriptions of weights one is compared with all architectures, which takes its time
_COMPARED = 64
#: of so many damaged adapters one is made a model of, which takes its time
_LOADED = 16
#: lines of a list of paths that are tried
_PATHS = 25


def _adapter(folder: Path) -> list[Form]:
    import torch

    from petl_bench.backbones.clip.model import CLIP
    from petl_bench.loading import load
    from petl_bench.storage.adapters import Adapter, is_adapter_file, read_adapter, write_adapter
    from petl_bench.storage.descriptions import (
        FrameOptions,
        ModelDescription,
        Part,
        TextFile,
        TrainingData,
        WeightFile,
        read_description,
        video_hashes,
    )

    name, backbone = "adapter.safetensors", CLIP("tiny", None)
    digest = str(backbone.weights["sha256"])
    answers = TextFile("answers.petl_bench.json", json.dumps({"file": "a.txt", "answers": ["a", "b"]}))
    described = ModelDescription(
        method=Part("methods.linear.Linear", {}),
        backbone=Part("petl_bench.backbones.clip.CLIP", {"architecture": "tiny", "pretrained": None}),
        task=Part("petl_bench.tasks.qa_classifier.AnswerClassifier", {"max_answers": None}, {"answer_list": answers}),
        weights=WeightFile(digest),
        inputs=backbone.spec.record(),
        frames=FrameOptions(2, "uniform", None, "pyav"),
        max_words=8,
        trained_on=TrainingData("datamodules.custom.Custom", "custom/v1", digest, video_hashes(["a", "b"])),
    )
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    write_adapter(folder / name, Adapter(tensors, {"method": "m", "backbone": "b", "model": described.as_metadata()}))

    def read(root: Path) -> None:
        declares = is_adapter_file(root / name)
        adapter = read_adapter(root / name)
        assert declares
        assert all(tensor.numel() >= 0 for tensor in adapter.tensors.values())
        description = read_description(adapter, root / name)
        if description is None:
            return
        assert list(description.trained_on.video_hashes) == sorted(description.trained_on.video_hashes)
        if zlib.crc32((root / name).read_bytes()) % _LOADED:
            return
        try:
            load(root / name, device="cpu")
        except (CheckpointError, UsageError) as error:  # in any case its tensors are no method's
            if name not in str(error) or "\n" in str(error):
                raise UnclearError(f"does not name the file in one line: {error}") from error

    words: dict[str, Any] = {
        **{"version": 2, "place": None, "class_path": "os.system", "name": "..", "image_size": 2**40, "rate": -1},
        **{"mean": [float("nan")] * 3, "sampling": "random", "video_hashes": "AAAA", "text": "[]", "max_words": 3},
    }
    return [Form(name, "safetensors", read, words)]


def _adapter_readers() -> Iterable[Any]:
    from petl_bench import loading
    from petl_bench.storage import adapters, descriptions

    described = loading.Described
    return (
        *(adapters.read_adapter, adapters.is_adapter_file, adapters._described),
        *(descriptions.read_description, descriptions._complaint, descriptions._hashes, descriptions._is_huge),
        *(described.model, described._require_possible, described._pretrained),
    )


def _record(folder: Path) -> list[Form]:
    from petl_bench.report import collect, duplicates, leaderboard
    from petl_bench.storage.files import file_sha256
    from tests.records import make_record

    cost = make_record()["eval"]["cost"]
    answers = {"accuracy": 41.25, "per_type": {"what": 33.0}, "n": 10, "cost": cost}
    (folder / "once").mkdir()
    (folder / "once" / "config.yaml").write_text("seed_everything: 0\n")
    record = make_record(integrity__config_sha256=file_sha256(folder / "once" / "config.yaml"))
    beside = {
        "name": "ndcg",
        "title": "nDCG@10",
        "settings": {"k": 10},
        "directions": {"t2v": {"nDCG10": 54.3, "n": 9}},
    }
    test = record | {"kind": "test", "eval": record["eval"] | {"second_figures": [beside]}}
    (folder / "once" / "test.json").write_text(json.dumps(test))
    for name, own in (("once", record), ("again", make_record()), ("questions", make_record(eval=answers, id__seed=1))):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "result.json").write_text(json.dumps(own))

    def read(name: str, root: Path) -> None:
        digest = zlib.crc32((root / name).read_bytes())
        if digest % _REPORTED:
            duplicates.settled(collect.collect([(root / name).parent], strict=bool(digest & 1)))
            return
        found = duplicates.settled(collect.collect([root]))
        left_out = [item for item in found.rejected if item.path.name == "result.json"]
        assert len(found.runs) + len(left_out) in (2, 3)  # equal runs count once
        for text in leaderboard.rendered(leaderboard.build_report(found)).values():
            text.encode()

    words = {
        **{"status": "interrupted", "origin": "reported", "kind": "test", "dirty": True, "R1": 41.5, "accuracy": 50},
        **{"split_sha256": None, "ranks_sha256": None, "config_sha256": "0" * 64, "bottleneck": 2**80},
        **{"method": "\ud800", "method_config": {}, "gpu": None, "train": None},
    }
    files = ("once/result.json", "questions/result.json", "once/test.json")
    return [Form(name, "json", partial(read, name), words) for name in files]


def _record_readers() -> Iterable[Any]:
    from petl_bench.report import collect, duplicates
    from petl_bench.runs import record as results

    return (
        *(results.read_result, results.require_valid, results._require_countable, results._printable, results.leaves),
        *(collect.collect, collect._objection),
        *(duplicates.settled, duplicates._of_one_kind, duplicates._differences, duplicates._joined),
        *(duplicates._with_tests, duplicates._test, duplicates._objection),
    )


def _config(folder: Path) -> list[Form]:
    from petl_bench.cli.config_safety import ClassPathGuard

    texts = {
        "own.yaml": "trainer: {callbacks: [class.yaml]}\nmodel: {class_path: torch.A}\n",
        "plain.yaml": "data: &all {root: ~/a, rate: 1.0e-05, at: 2001-01-01}\nother: {<<: *all, list: [b.c, {}]}\n",
        "class.yaml": "class_path: methods.linear.Linear\ninit_args: {architecture: options.txt, backbone: {a: b}}\n",
        "options.txt": """--trainer=group.json
--model
class.yaml
--backbone={class_path: torch.A}
--max_epochs
3
""",
        "group.json": '{"max_epochs": 3, "callbacks": []}',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)

    def read(name: str, root: Path) -> None:
        ClassPathGuard().read(root / name)

    def check(given: list[str], root: Path) -> None:
        with contextlib.chdir(root):
            ClassPathGuard().check_arguments(given)
            assert len(ClassPathGuard().with_fragments(given)) == len(given)

    def told(root: Path) -> None:
        given = (root / "options.txt").read_text("utf-8", "replace").splitlines()
        options = [option.split("=")[0].lstrip("-") for option in given if option.startswith("--")]
        try:
            check(given, root)
        except UsageError as error:  # of an option, not of the file
            names = [*filter(None, options), *(name for name in texts if name != "options.txt")]
            alone = str(error).startswith("argument ")  # and belongs to no option
            if not alone and "--" not in str(error) and not any(name in str(error) for name in names):
                raise UnclearError(f"names no option: {error}") from error
            raise UsageError(f"options.txt: {error}") from error

    words: dict[str, Any] = {
        **{"model": "own.yaml", "trainer": "none.yaml", "other": "__main__.x", "callbacks": "os", "b": "a.b.yaml"},
        **{"root": "petl_bench.x", "class_path": "os.system", "architecture": "group.json", "a": "test.csv"},
    }
    kinds = {".yaml": "yaml", ".txt": "lines", ".json": "json"}
    own, plain = partial(read, "own.yaml"), partial(read, "plain.yaml")
    reads = {"own.yaml": own, "plain.yaml": plain, "class.yaml": own, "options.txt": told}
    reads["group.json"] = partial(check, ["--trainer=group.json"])
    seeds = {
        "own.yaml": (
            "model: none.yaml",
            "model: own.yaml",
            "trainer: 3",
            "architecture: group.json",
            "data: plain.yaml",
            "base: plain.yaml\nother: {list: 3, <<: {a: b}}",
            "model: {base: class.yaml, init_args: {backbone: {a: c}, architecture: 3}}",
            "model: {base: class.yaml, class_path: torch.B}",
            "model: {base: class.yaml, init_args: options.yaml}",
            "trainer: {base: group.json, callbacks: [{base: class.yaml}]}",
            "trainer: {base: 3}",
            "callbacks: {base: group.json}\nmodel: {base: own.yaml}",
            "model: {class_path: petl_bench.backbones.clip.CLIP, init_args: {name: ViT-B-16}}",
            "model: {class_path: petl_bench.tasks.retrieval.Retrieval, init_args: {pooling: mean}}",
        ),
        "class.yaml": ("[a.b, {base: plain.yaml}]", "base: plain.yaml"),
        "plain.yaml": (
            *("{a: 1, a: 2}", "[" * 400, "a: &a [*a]", "a: runs.old", "a: __main__.x", "a: test.csv", "a: os.system"),
            *("a: benchmarks.fuzz", "? [a, b]\n: c", "a: !!int x"),
        ),
        "options.txt": ("--trainer=3", "--trainer=none.json", "--a.b\nos.system", "--model={a: os.x}", "--model"),
    }
    return [Form(name, kinds[Path(name).suffix], reads[name], words, seeds.get(name, ())) for name in texts]


def _config_readers() -> Iterable[Any]:
    from petl_bench import renamed
    from petl_bench.cli import config_safety, fragments, named_configs
    from petl_bench.storage import plain_yaml

    guard, module, files, keys = (
        config_safety.ClassPathGuard,
        config_safety,
        fragments.Fragments,
        plain_yaml._UniqueKeys,
    )
    return (
        *(guard.read, guard.check_arguments, guard.with_fragments, guard._of_today, guard._in_one_line),
        *(guard.check, guard._require_allowed, module._options, module._collections, module._would_import),
        *(module._class_paths, module._strings, module._everything),
        *(files.compose, files._include, files._included, files._on_base, fragments._merged, fragments._adds_to),
        *(fragments.fragment, fragments.no_group, renamed.as_written_today, renamed._today, renamed._block_of_today),
        *(plain_yaml.parse_yaml, plain_yaml.nodes_and_value, plain_yaml._require_small, plain_yaml._is_scalar),
        *(keys.compose_mapping_node, keys.flatten_mapping, named_configs.find_fragment, named_configs.read_text),
    )


def _weights(folder: Path) -> list[Form]:
    import torch
    from safetensors.torch import save, save_file

    from petl_bench.backbones.weights import local_files, read_tensors

    tensors = {"visual.proj": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(1.0)}
    names = ("model.safetensors", "pytorch_model.bin")
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in tensors.items()}}
    average = wrapped | {"model_ema": tensors}
    for part in ("whole", "sharded", "torch", "text"):
        (folder / part).mkdir()
    save_file(tensors, folder / "whole" / "model.safetensors")
    shards = [f"model-{n:05}-of-00002.safetensors" for n in (1, 2)]
    for shard, (name, value) in zip(shards, tensors.items(), strict=True):
        (folder / "sharded" / shard).write_bytes(save({f"{prefix}{name}": value.clone() for prefix in ("", "ema.")}))
    index = {"metadata": {"total_size": 28}, "weight_map": dict(zip(tensors, shards, strict=True))}
    (folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.save(average, folder / "torch" / "pytorch_model.bin")
    torch.save(wrapped, folder / "torch" / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "text" / "pointer.bin").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")

    _saved(
        folder / "saved.json", {"state_dict": {"ema.a": "tensor", "model.b": "tensor"}, "model_ema": {"b": "tensor"}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # OpenAI's files are TorchScript, deprecated or not
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), folder / "script.pt")
    (folder / "empty").mkdir()
    (folder / "linked").mkdir()
    (folder / "linked" / names[0]).symlink_to(folder / "annex")
    os.mkfifo(folder / "pipe.bin")
    for name in ("a-00001-of-00000.bin", "a-00001-of-00003.bin", "a.zip", "a.npz", "a.tar", "empty.bin", "zeros.bin"):
        (folder / name).touch()
    (folder / "zeros.bin").write_bytes(bytes(40))
    (folder / "a.tar").write_bytes(bytes(257) + b"ustar")
    for archive, member in (("a.zip", "weights.bin"), ("a.npz", "weights.npy")):
        with zipfile.ZipFile(folder / archive, "w") as file:
            file.writestr(member, b"")
    own = [path.name for path in folder.iterdir()]
    (folder / "paths.txt").write_text("\n".join((*own, f"linked/{names[0]}", "~nobody/x", "sharded/" + shards[0])))

    def read(name: str, root: Path) -> None:
        found = local_files(str(root / name), names)
        assert found is not None
        found.require_weights()
        assert all(tensor.dtype == torch.float32 for tensor in read_tensors(found).values())

    def refused(root: Path) -> None:
        with contextlib.suppress(CheckpointError):
            read("text/pointer.bin", root)

    def paths(root: Path) -> None:
        for line in (root / "paths.txt").read_text("utf-8", "replace").splitlines()[:_PATHS]:
            try:
                found = local_files(line if line.startswith("~") else str(root / line.strip("/")), names)
                _ = found and found.require_weights()
            except CheckpointError as error:
                if str(root) not in str(error) and not line.startswith("~"):
                    raise UnclearError(f"names no file: {error}") from error

    def saved(root: Path) -> None:
        with _loadable(root / "saved.json") as path:
            read(path.name, root)

    torch_file = partial(read, "torch/pytorch_model.bin")
    return [
        Form("whole/model.safetensors", "safetensors", partial(read, "whole")),
        Form("sharded/model.safetensors.index.json", "json", partial(read, "sharded")),
        Form(f"sharded/{shards[1]}", "safetensors", partial(read, f"sharded/{shards[0]}")),
        Form("torch/pytorch_model.bin", "archive", torch_file),
        Form("torch/pytorch_model.bin", "archive", partial(read, "torch")),
        Form("torch/old.pt", "bytes", partial(read, "torch/old.pt")),
        Form("text/pointer.bin", "lines", refused),
        Form("saved.json", "json", saved),
        Form("script.pt", "archive", partial(read, "script.pt")),
        Form("paths.txt", "lines", paths),
    ]


def _saved(path: Path, value: Any) -> None:
    """As JSON, in which the text `tensor` stands for a tensor."""
    path.write_text(json.dumps(value))


@contextlib.contextmanager
def _loadable(path: Path) -> Iterator[Path]:
    """A file of torch with the value of a file of JSON, in which the text `tensor` stands for a tensor."""
    import torch

    made = path.with_name(f"{path.name}.pt")
    torch.save(_with_tensors(_value(path), torch.ones(2)), made)
    yield made


def _with_tensors(value: Any, tensor: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tensors(item, tensor) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_tensors(item, tensor) for item in value]
    return tensor if value == "tensor" else value


def _value(path: Path) -> Any:
    """Of JSON; None for what is none, or nests deeper than torch can write."""
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if text.count("[") + text.count("{") < 100 else None
    except (ValueError, RecursionError):
        return None


def _weights_readers() -> Iterable[Any]:
    from petl_bench.backbones import weights

    return (
        *(weights.local_files, weights._in_folder, weights._shards_of, weights._listed, weights._all_there),
        *(weights.WeightFiles.require_weights, weights.read_tensors, weights._read, weights._unwrapped),
        *(weights.without_prefixes, weights._split, weights.what_else, weights._what_zip, weights._what_text),
        *(weights._quoted, weights._what_is_missing, weights._is_safetensors, weights.is_torchscript),
    )


def _described(folder: Path) -> list[Form]:
    """Configurations beside weights, and of architectures, which are compared."""
    from petl_bench.backbones.blip import model as blip
    from petl_bench.backbones.blip import weights as blip_weights
    from petl_bench.backbones.clip import model as clip
    from petl_bench.backbones.clip import weights as clip_weights

    vision, text = {"image_size": 32, "patch_size": 16, "hidden_size": 64}, {"vocab_size": 49408, "hidden_size": 64}
    processor = {"size": {"shortest_edge": 32}, "crop_size": 32, "image_mean": [0.5] * 3, "do_center_crop": True}
    towers = {"vision_config": vision, "text_config": text, "projection_dim": 64}
    open_clip = {"embed_dim": 64, "vision_cfg": {"width": 64, "layers": 2}, "text_cfg": {"width": 64, "heads": 2}}
    pixels = {"size": 32, "mean": [0.5, 0.5, 0.5], "std": 0.5, "resize_mode": "squash", "interpolation": "bicubic"}
    blip_config = json.loads((blip._ARCHITECTURES / "blip_tiny.json").read_text())
    files = {
        "clip/config.json": {"model_type": "clip", **towers},
        "clip/preprocessor_config.json": processor,
        "blip/config.json": {"model_type": "blip", **towers},
        "blip/processor_config.json": {"image_processor": processor},
        "open/open_clip_config.json": {"model_cfg": open_clip, "preprocess_cfg": pixels},
        "own/clip.json": open_clip,
        "own/blip.json": blip_config,
    }
    for name, value in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))
        (folder / name).with_name("model.safetensors").write_bytes(b"\2" + bytes(7) + b"{}")
    tiny, _ = clip.find_architecture("tiny")

    def of_clip(name: str, root: Path) -> None:
        weights = clip_weights.find_weights("tiny", str((root / name).parent))
        if zlib.crc32((root / name).read_bytes()) % _COMPARED == 0:
            clip_weights.require_fit("tiny", tiny, None, weights)

    def of_blip(name: str, root: Path) -> None:
        weights = blip_weights.find_weights(str((root / name).parent))
        if zlib.crc32((root / name).read_bytes()) % _COMPARED == 0:
            blip_weights.require_fit("tiny", blip_config, None, weights)

    def own_clip(root: Path) -> None:
        clip._require_architecture(root / "own" / "clip.json")
        clip_weights.facts_of(json.loads((root / "own" / "clip.json").read_text(encoding="utf-8")))

    def own_blip(root: Path) -> None:
        config, name = blip._architecture(str(root / "own" / "blip.json"))
        try:
            blip._require_config(config)
        except UsageError as error:  # of the option, not of the file
            raise UsageError(f"{name} of {root / 'own' / 'blip.json'}: {error}") from error
        blip_weights.facts_of(config)

    reads = {"clip": of_clip, "open": of_clip, "blip": of_blip}
    own = {"own/clip.json": own_clip, "own/blip.json": own_blip}
    return [Form(name, "json", own.get(name) or partial(reads[name.split("/")[0]], name)) for name in files]


def _described_readers() -> Iterable[Any]:
    from petl_bench.backbones import described
    from petl_bench.backbones.blip import model as blip
    from petl_bench.backbones.blip import weights as blip_weights
    from petl_bench.backbones.clip import model as clip
    from petl_bench.backbones.clip import weights as clip_weights

    return (
        *(described.describe, described.with_size, described._said_of, described.read_json, described._preprocessor),
        *(described.pixels_of, described.pixels_of_open_clip, described.triple, described._side),
        *(described.require_described, clip_weights.find_weights, clip_weights.require_fit, clip_weights._described),
        *(clip_weights._said, clip_weights.facts_of, clip_weights._tower, clip_weights._advice),
        *(clip_weights._activation_mismatch, blip_weights.find_weights, blip_weights.require_fit),
        *(blip_weights._advice, blip_weights.facts_of),
        *(clip._require_architecture, blip._architecture, blip._require_config, blip._require_tokens),
    )


def _checkpoint(folder: Path) -> list[Form]:
    import torch

    from petl_bench.storage import checkpoints

    training = {"epoch": 1, "global_step": 2, "loops": {}, "optimizer_states": [], "lr_schedulers": []}
    run = {"basis": {"seed_everything": 0}, "changed": {}, "resumed": 0}
    content = {"state_dict": {"a.b": torch.ones(2, 3)}, "pytorch-lightning_version": "2.6.0", **training, "run": run}
    for part in ("plain", "digest"):
        (folder / part).mkdir()
        checkpoints.SafeCheckpointIO().save_checkpoint(content, folder / part / checkpoints.LAST)
    (folder / "plain" / "last.ckpt.sha256").unlink()
    _saved(folder / "saved.json", {**content, "state_dict": {"a.b": "tensor"}})
    (folder / "paths.txt").write_text("https://a.b/last.ckpt\nnothing.ckpt\nplain/last.ckpt\ndigest\n")

    def read(part: str, root: Path) -> None:
        path = checkpoints.resumable(root / part)
        assert path is not None
        read_file(path)

    def saved(root: Path) -> None:
        with _loadable(root / "saved.json") as path:
            read_file(path)

    def paths(root: Path) -> None:
        for line in (root / "paths.txt").read_text("utf-8", "replace").splitlines()[:_PATHS]:
            path = Path(line) if "://" in line else root / line.strip("/")
            with contextlib.suppress(CheckpointError):
                read_file(path)

    def read_file(path: Path) -> None:
        checkpoints.require_training_state(path)
        state = checkpoints.read_checkpoint(path)["state_dict"]
        assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())

    return [
        Form("plain/last.ckpt", "archive", partial(read, "plain")),
        Form("digest/last.ckpt", "bytes", partial(read, "digest")),
        Form("digest/last.ckpt.sha256", "lines", partial(read, "digest")),
        Form("saved.json", "json", saved),
        Form("paths.txt", "lines", paths),
    ]


def _checkpoint_readers() -> Iterable[Any]:
    from petl_bench.storage import checkpoints

    return (
        *(checkpoints.read_checkpoint, checkpoints.require_training_state, checkpoints.resumable),
        *(checkpoints._digest_of, checkpoints._sha256),
    )


def _earlier(folder: Path) -> list[Form]:
    """Runs that the same command began under other hashes: one interrupted, one complete in the first layout."""
    import torch
    import yaml

    import datamodules.msrvtt  # noqa: F401  # what is operational is looked up in classes that are loaded
    from petl_bench.runs.earlier import as_now, earlier_checkpoint
    from petl_bench.runs.record import measured_settings
    from petl_bench.storage.checkpoints import LAST
    from petl_bench.storage.files import file_sha256
    from tests.records import make_first_record

    backbone = {"class_path": "petl_bench.backbones.clip.CLIP", "init_args": {"architecture": "tiny"}}
    data = {"class_path": "datamodules.msrvtt.MSRVTT", "init_args": {"root": "/a", "captions_file": "c.json"}}
    model = {"class_path": "methods.linear.Linear", "init_args": {"backbone": backbone, "optimizers": [{"lr": 0.1}]}}
    config: dict[str, Any] = {"seed_everything": 0, "trainer": {"max_epochs": 3}, "model": model, "data": data}
    now = measured_settings(config, {"data.init_args": {"captions_file": "sha256:11"}}) | {"processes": 1}
    before = measured_settings(config) | {"annotation_files": "1" * 64, "processes": 1}
    for name in ("begun/now", "begun/0", "done/0"):
        (folder / name / "seed0").mkdir(parents=True)
        (folder / name / "seed0" / "config.yaml").write_text(yaml.safe_dump(config))
    begun, done = (folder / name / "0" / "seed0" for name in ("begun", "done"))
    (begun.parent / ".seed0.lock").touch()
    torch.save({"state_dict": {}, "run": {"basis": before}}, begun / LAST)
    record = make_first_record(integrity__config_sha256=file_sha256(done / "config.yaml"))
    record["model"].pop("weights", None)
    (done / "result.json").write_text(json.dumps(record))
    weights = record["model"]["weights_sha256"]
    (folder / "basis.json").write_text(json.dumps(before))

    def resolve(given: dict[str, Any]) -> dict[str, Any]:
        return given | {"new": 3}

    def read(name: str, root: Path) -> None:
        try:
            path = earlier_checkpoint(root / name / "now" / "seed0", config, "1" * 64, weights, resolve)
        except UsageError as error:  # that it is complete: of the folder, not of a file
            if str(root / name / "0" / "seed0") not in str(error):
                raise UnclearError(f"names no folder: {error}") from error
        else:
            assert path in (None, root / name / "0" / "seed0" / LAST)

    def translate(root: Path) -> None:
        value = _value(root / "basis.json")
        as_now(value if isinstance(value, dict) else {}, now, config, "1" * 64, resolve)

    words = {"root": "/b", "captions_file": "d.json", "pooling": "text_conditioned", "sampler": "x"}
    return [
        Form("begun/0/seed0/config.yaml", "yaml", partial(read, "begun"), words),
        Form(f"begun/0/seed0/{LAST}", "archive", partial(read, "begun")),
        Form("done/0/seed0/config.yaml", "yaml", partial(read, "done"), words),
        Form("done/0/seed0/result.json", "json", partial(read, "done"), words),
        Form("basis.json", "json", translate),
    ]


def _earlier_readers() -> Iterable[Any]:
    from petl_bench.runs import earlier, old_records

    return (
        *(earlier.earlier_checkpoint, earlier._annotations_of, earlier.as_now, earlier.same_settings),
        *(earlier.by_present_rules, earlier._option, earlier._whole, earlier._without, earlier._of_this_command),
        *(earlier._complete_of_the_earlier_version, earlier._is_at_work),
        *(old_records.upgraded, old_records._evaluation, old_records._frames),
    )


def _ranks(folder: Path) -> list[Form]:
    """What kinds of runs keep of their queries: one caption per video, two of them, answers, clips of shared files."""
    import numpy as np

    from petl_bench.report.collect import Run
    from petl_bench.report.queries import read_queries
    from petl_bench.storage.files import file_sha256
    from tests.records import make_answers, make_ranks, make_record

    record = make_record()
    cost, one = record["eval"]["cost"], record["eval"]["t2v"]
    figures = {
        "one": {"t2v": one | {"n": 4}, "v2t": one | {"n": 4}, "rsum": 1.0},
        "two": {"t2v": one | {"n": 8}, **{way: one | {"n": 4} for way in ("v2t", "v2t_captions")}, "rsum": 1.0},
        "answers": {"accuracy": 50.0, "per_type": {"what": 50.0}, "n_per_type": {"what": 6}, "n": 6},
    }
    figures["parts"] = figures["one"]
    arrays = {"one": make_ranks(4, 1), "two": make_ranks(4, 2), "answers": make_answers(3, 2)}
    arrays["parts"] = make_ranks(4, 1) | {"video_file": np.array([0, 0, 2, 2])}
    for name, made in arrays.items():
        (folder / name).mkdir()
        np.savez(folder / name / "ranks.npz", allow_pickle=False, **made)

    def read(name: str, root: Path) -> None:
        path = root / name / "result.json"
        known = make_record(eval=figures[name] | {"cost": cost})
        known["integrity"]["ranks_sha256"] = file_sha256(path.with_name("ranks.npz"))
        try:
            found = read_queries(Run(path, known))
        except FileError as error:
            if error.path != path.with_name("ranks.npz"):
                raise UnclearError(f"is of another file: {error}") from error
            raise
        for queries in found.values():
            columns = (queries.ids, queries.targets, queries.hits, queries.words, queries.types, queries.videos)
            assert all(len(column) == len(queries) for column in columns if column is not None)
            assert (queries.ranks is None) != (queries.scores is None)
            assert queries.ranks is None or queries.ranks.min() >= 1
            json.dumps(columns).encode()

    return [Form(f"{name}/ranks.npz", "arrays", partial(read, name)) for name in arrays]


def _ranks_readers() -> Iterable[Any]:
    from petl_bench.report import queries
    from petl_bench.storage import arrays

    names = queries._Names
    return (
        *(arrays.read_arrays, arrays._unpacked, arrays._array, queries.read_queries, queries._retrieval),
        *(queries._direction, queries._ranks, queries._rows_of_videos, queries._files, queries._hits),
        *(names.of.__func__, names.given_to),
        *(queries._answers, queries._column, queries._texts, queries._optional, queries._counts),
    )


MODEL_TARGETS = (
    Target("adapter", _adapter, _adapter_readers, CheckpointError),
    Target("record", _record, _record_readers, longest=6000),
    Target("ranks", _ranks, _ranks_readers, FileError),
    Target("config", _config, _config_readers, UsageError, longest=1500),
    Target("weights", _weights, _weights_readers, CheckpointError, longest=4000),
    Target("described", _described, _described_readers, (CheckpointError, UsageError)),
    Target("checkpoint", _checkpoint, _checkpoint_readers, CheckpointError, longest=4000),
    Target("earlier", _earlier, _earlier_readers, UsageError, longest=6000),
)
