"""F50 to F59: weights and what describes them, files beside a configuration, the same content elsewhere."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.faults.trials import HELD, PETL_BENCH, Bench, Ended, Trial, completed, first_problem, refused
from petl_bench.backbones import weights as weight_files
from petl_bench.backbones.clip.model import CLIP, create_open_clip

_PRETRAINED = "--model.init_args.backbone.init_args.pretrained="
_CONFIGS = {"clip": "clip_tiny", "blip": "blip_tiny"}
#: seconds within which a configuration beside a large file must be read, on a busy machine
_SOON = 60


def trials() -> Iterator[Trial]:
    """All of them."""
    yield Trial("F50", "W1a weight file beside a config that says GELU", _against_its_description)
    yield Trial("F50", "W1a weight file alone: what is assumed is told", _alone)
    yield Trial("F51", "W1c folder of another activation, own architecture", _folder)
    for kind in _CONFIGS:
        yield Trial("F52", f"W3b module. and other prefixes ({kind})", partial(_prefixes, kind))
        yield Trial("F53", f"W3e shards, and one that is missing ({kind})", partial(_shards, kind))
        yield Trial("F54", f"W3f pointer, page, archive in place of weights ({kind})", partial(_no_weights, kind))
    yield Trial("F55", "W3i pickle that holds more than tensors", _pickle)
    yield Trial("F56", "C2 own config beside 20 MB of captions", _beside_large)
    yield Trial("F56", "C2 pipes and foreign files where names look like theirs", _beside_pipes)
    yield Trial("F57", "C3 the same pair of config and data in a second folder", _second_folder)
    yield Trial("F57", "C3 the same weights at another path, and others at the same", _weights_elsewhere)
    yield Trial("F58", "R5 adapter without its config.yaml", _adapter_alone)
    yield Trial("F59", "BLIP whose end token is not the tokeniser's", _end_token)


def _states() -> dict[str, dict[str, Tensor]]:
    from transformers import BlipConfig, BlipForImageTextRetrieval

    CLIP("tiny", None)  # makes open_clip know it
    path = _architectures() / "blip_tiny.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k != "vocabulary"}
    return {
        "clip": create_open_clip("tiny", None, 3).state_dict(),
        "blip": BlipForImageTextRetrieval(BlipConfig.from_dict(config)).state_dict(),
    }


def _architectures() -> Path:
    return Path(weight_files.__file__).parent / "architectures"


def _zero_shot(bench: Bench, *more: str, kind: str = "clip") -> Ended:
    """A test of the tiny backbone without training, with more options."""
    command = [
        *(*PETL_BENCH, "test", "--config=fixture_zeroshot"),
        f"--model.init_args.backbone=backbone/{_CONFIGS[kind]}.yaml",
        f"--data.init_args.root={bench.data}",
        *("--data.init_args.num_workers=0", "--trainer.enable_progress_bar=false", f"--runs_dir={bench.new()}"),
    ]
    return bench.run([*command, *more])


def _write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _describe(folder: Path, activation: str) -> None:
    towers = {f"{tower}_config": {"hidden_act": activation} for tower in ("vision", "text")}
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", **towers}))


# --- weights --------------------------------------------------------------------------------------------------------


def _against_its_description(bench: Bench) -> str:
    folder = bench.new("weights")
    path = _write(folder / "model.bin", _states()["clip"])
    _describe(folder, "gelu")
    return refused(
        _zero_shot(bench, f"{_PRETRAINED}{path}"), 2, "were trained with GELU, but architecture 'tiny' has Q"
    )


def _alone(bench: Bench) -> str:
    path = _write(bench.new("weights") / "model.bin", _states()["clip"])
    ended = _zero_shot(bench, f"{_PRETRAINED}{path}")
    told = HELD if "assumed, since no configuration" in ended.text else "what is assumed is not said"
    return first_problem(completed(ended), told)


def _folder(bench: Bench) -> str:
    folder = bench.new("weights")
    _write(folder / "pytorch_model.bin", _states()["clip"])
    _describe(folder, "gelu")
    ended = _zero_shot(bench, f"{_PRETRAINED}{folder}")
    in_use = "'tiny' has" in ended.text and "use backbone.architecture 'tiny'" in ended.text
    return "the advice names what is in use" if in_use else refused(ended, 2, '"quick_gelu": false')


def _prefixes(kind: str, bench: Bench) -> str:
    state = {f"module._orig_mod.{name}": value for name, value in _states()[kind].items()}
    path = _write(bench.new("weights") / "weights.pth", {"model": state, "epoch": 3})
    return completed(_zero_shot(bench, f"{_PRETRAINED}{path}", kind=kind))


def _shards(kind: str, bench: Bench) -> str:
    folder, state = bench.new("weights"), _states()[kind]
    names = [f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    places = {name: names[place % 2] for place, name in enumerate(state)}
    for file in names:
        save_file({name: state[name].contiguous() for name in state if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    whole = completed(_zero_shot(bench, f"{_PRETRAINED}{folder}", kind=kind))
    (folder / names[1]).unlink()
    return first_problem(whole, refused(_zero_shot(bench, f"{_PRETRAINED}{folder}", kind=kind), 5, names[1]))


def _no_weights(kind: str, bench: Bench) -> str:
    folder = bench.new("weights")
    shutil.make_archive(str(folder / "archive"), "zip", bench.data, "videos")
    contents = {
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 605\n",
        "a web page": b"<!doctype html><html><body>Sign in</body></html>",
        "a zip archive": (folder / "archive.zip").read_bytes(),
    }
    found = []
    for told, content in contents.items():
        (folder / "weights.pth").write_bytes(content)
        found.append(refused(_zero_shot(bench, f"{_PRETRAINED}{folder / 'weights.pth'}", kind=kind), 5, told))
    return first_problem(*found)


def _pickle(bench: Bench) -> str:
    path = _write(bench.new("weights") / "model.pt", CLIP("tiny", None))
    return refused(_zero_shot(bench, f"{_PRETRAINED}{path}"), 5, "never executed")


def _end_token(bench: Bench) -> str:
    folder = bench.new("architecture")
    config = json.loads((_architectures() / "blip_tiny.json").read_text())
    del config["text_config"]["sep_token_id"]
    (folder / "blip_own.json").write_text(json.dumps(config))
    shutil.copy(_architectures() / "blip_tiny_vocab.txt", folder)
    option = f"--model.init_args.backbone.init_args.architecture={folder / 'blip_own.json'}"
    return refused(_zero_shot(bench, option, kind="blip"), 2, "sep_token_id")


# --- files beside a configuration -----------------------------------------------------------------------------------


def _own(folder: Path, captions: str = "MSRVTT_data.json") -> Path:
    """A configuration that names a file of captions beside it."""
    data = {"init_args": {"root": str(folder), "captions_file": captions}}
    (folder / "own.yaml").write_text(
        json.dumps({"data": data, "model": {"init_args": {"task": "task/retrieval.yaml"}}})
    )
    return folder / "own.yaml"


def _beside_large(bench: Bench) -> str:
    folder = bench.new("data") / "data"
    shutil.copytree(bench.data, folder)
    path = folder / "MSRVTT_data.json"
    content = json.loads(path.read_text())
    content["sentences"] += [{"video_id": f"other{i}", "caption": "a man sings " * 9} for i in range(140_000)]
    path.write_text(json.dumps(content))
    started = time.monotonic()
    ended = _zero_shot(bench, f"--config={_own(folder)}", f"--data.init_args.root={folder}")
    slow = time.monotonic() - started > _SOON
    return first_problem(completed(ended), "it took over a minute" if slow else HELD)


def _beside_pipes(bench: Bench) -> str:
    """jsonargparse reads whatever is named like the value of a key that takes a class."""
    folder = bench.new("data") / "data"
    shutil.copytree(bench.data, folder)
    for name in ("auto", "cpu", "CLIP", "MSRVTT", "Retrieval", "retrieval.yaml"):
        os.mkfifo(bench.folder / name)
    try:
        options = ("--data=MSRVTT", f"--data.init_args.root={folder}", "--data.init_args.partial=true")
        held = completed(_zero_shot(bench, f"--config={_own(folder)}", *options, "--trainer.strategy=auto"))
        large = refused(_zero_shot(bench, f"--data={folder / 'MSRVTT_data.json'}"), 2, "MSRVTT_data.json")
        return first_problem(held, large)
    finally:
        for name in ("auto", "cpu", "CLIP", "MSRVTT", "Retrieval", "retrieval.yaml"):
            (bench.folder / name).unlink()


# --- the same content elsewhere -------------------------------------------------------------------------------------


def _hash_of(ended: Ended) -> str:
    (line,) = (line for line in ended.text.splitlines() if line.startswith("record: "))
    return Path(line.removeprefix("record: ")).parents[1].name


def _second_folder(bench: Bench) -> str:
    found = []
    for name in ("first", "second"):
        folder = bench.new(name) / "data"
        shutil.copytree(bench.data, folder)
        (folder / "MSRVTT_data.json").rename(folder / f"{name}.json")
        found.append(_zero_shot(bench, f"--config={_own(folder, f'{name}.json')}", f"--data.init_args.root={folder}"))
    problem = first_problem(*map(completed, found))
    return problem or (HELD if _hash_of(found[0]) == _hash_of(found[1]) else "two configuration hashes")


def _weights_elsewhere(bench: Bench) -> str:
    state = _states()["clip"]
    paths = [_write(bench.new("weights") / "one.pt", state)]
    paths.append(Path(shutil.copy(paths[0], bench.new("weights") / "two.pt")))
    found = [_zero_shot(bench, f"{_PRETRAINED}{path}") for path in paths]
    _write(paths[0], {name: value + 0.01 for name, value in state.items()})
    found.append(_zero_shot(bench, f"{_PRETRAINED}{paths[0]}"))
    if problem := first_problem(*map(completed, found)):
        return problem
    one, two, other = map(_hash_of, found)
    return HELD if one == two != other else f"hashes {one}, {two} and {other}"


def _adapter_alone(bench: Bench) -> str:
    (adapter,) = bench.uninterrupted().rglob("adapter.safetensors")
    alone = Path(shutil.copy(adapter, bench.new("alone")))
    ended = bench.run(
        bench.command("test", bench.new(), "--model.class_path=benchmarks.faults.faulty.Faulty", f"--ckpt_path={alone}")
    )
    written = HELD if (alone.parent / "test.json").is_file() else "the figures are not written"
    return first_problem(completed(ended), written)
