"""The two towers of a trained model as graphs that run without this package: `torch.export` or ONNX."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from petl_bench import __version__
from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip.wordpiece import WordPiece
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.inputs import Clips
from petl_bench.search.build import require_searchable
from petl_bench.search.tracing import TextFeaturesOf, vocabulary_of
from petl_bench.storage.files import new_folder, write_atomically
from petl_bench.video_text_model import VideoTextModel

FORMAT = "petl_bench.towers/1"
#: of the folder: what goes in, how it is made, what comes out
ABOUT_NAME = "model.json"
VOCABULARY_NAME = "vocab.txt"
#: features of a graph may differ from the model's by so much: both are fp32, with norm 1
_TOLERANCE = 1e-4
#: what the graphs are traced with, and what they are tried with
_TRACED, _TRIED = 2, 3
_CAPTIONS = ("a man walks", "a dog runs after a ball", "it rains")
#: what ONNX export and its parity test take
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Graph(NamedTuple):
    """A tower to be written.

    Attributes:
        name: of the file.
        module: that is traced.
        inputs: what it is tried with, by name, (3, ...) each.
        outputs: names.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]


def export_model(model: VideoTextModel, folder: Path, format: str) -> dict[str, Any]:
    """Writes `text` and `video` (`.pt2` or `.onnx`) with `model.json`, which says what goes in and what comes out.

    The text tower takes token ids of fixed length, the video tower frames as they are read and resized, uint8, of the
    adapter's number; the number of texts or clips is free. What a method can fold into the weights (LoRA) is folded.
    Each graph is run, and compared with the model, before the folder appears.

    Args:
        model: on the CPU; not to be used afterwards where its method folds.
        folder: must not exist.
        format: `torch-export` or `onnx`.

    Returns:
        What `model.json` says.

    Raises:
        CheckpointError: a graph gives other features than the model.
        FileError: a file cannot be written.
        UsageError: the model compares no texts with videos, a tower cannot be traced, or a package is missing.
    """
    require_searchable(model)
    write = {"torch-export": _write_program, "onnx": _write_onnx}[format]
    if format == "onnx":
        _require_onnx()
    graphs = [_text(model), _video(model)]
    expected = {graph.name: _outputs(graph.module, graph.inputs) for graph in graphs}  # before anything is folded
    folded = model.method.mergeable and model.method.trainable
    if folded:
        model.method.merge()
    with new_folder(folder) as place:
        parity = {}
        for graph in graphs:
            run = write(graph, place)
            parity[graph.name] = _difference(graph, run(graph.inputs), expected[graph.name])
        about = _about(model, graphs, format) | {"folded": folded, "parity": parity}
        write_atomically(place / ABOUT_NAME, json.dumps(about, indent=2) + "\n")
        if isinstance(model.spec.tokenizer, WordPiece):
            write_atomically(place / VOCABULARY_NAME, model.spec.tokenizer.text)
    return about


# --- the towers -------------------------------------------------------------------------------------------------------


class _VideoTower(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, frames: Tensor, mask: Tensor, times: Tensor) -> tuple[Tensor, ...]:
        """(B, T, 3, H, W), (B, T), (B, T) -> (B, E) and, where there are any, (B, T, E)."""
        features = self.backbone.encode_video(Clips(frames, mask, times))
        return (features.pooled,) if features.frames is None else (features.pooled, features.frames)


def _text(model: VideoTextModel) -> Graph:
    words = model.spec.tokenize(_CAPTIONS, model.max_words)
    module = TextFeaturesOf(model.method.backbone)
    return Graph("text", module, {"ids": words.ids, "mask": words.mask}, ("features", "projected"))


def _video(model: VideoTextModel) -> Graph:
    count, side = model.clip_loader.rule.count, model.spec.image_size
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (_TRIED, count, 3, side, side), generator=random, dtype=torch.uint8)
    mask = torch.ones(_TRIED, count, dtype=torch.bool)
    mask[-1, (count + 1) // 2 :] = False  # one is short
    times = torch.arange(count, dtype=torch.float32).expand(_TRIED, count) * mask
    frames *= mask[..., None, None, None]
    module = _VideoTower(model.method.backbone)
    outputs = ("features", "frame_features") if model.method.backbone.has_frames else ("features",)
    return Graph("video", module, {"frames": frames, "mask": mask, "times": times}, outputs)


def _outputs(module: Callable[..., tuple[Tensor, ...]], inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        return module(*inputs.values())


def _difference(graph: Graph, found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The greatest one of any value of what is compared."""
    differences = [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)]
    if not max(differences) <= _TOLERANCE * max(1.0, *(float(part.abs().max()) for part in expected)):
        raise CheckpointError(
            f"the {graph.name} tower as a graph differs from the model by {max(differences):.1e}: not written"
        )
    return max(differences)


# --- formats ----------------------------------------------------------------------------------------------------------

#: a graph that was read back: of inputs by name
Run = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]


def _traced(graph: Graph) -> torch.export.ExportedProgram:
    given = tuple(value[:_TRACED].clone() for value in graph.inputs.values())
    any_number = ({0: torch.export.Dim("n", min=1)},) * len(given)
    try:
        with torch.no_grad():
            return torch.export.export(graph.module, given, dynamic_shapes=any_number)
    except Exception as error:  # torch raises many kinds
        told = " ".join(str(error).split())[:200]
        raise UsageError(f"torch.export cannot trace the {graph.name} tower of this method: {told}") from error


def _write_program(graph: Graph, folder: Path) -> Run:
    path = folder / f"{graph.name}.pt2"
    torch.export.save(_traced(graph), path)
    module = torch.export.load(str(path)).module()
    return lambda inputs: _outputs(module, inputs)


def _write_onnx(graph: Graph, folder: Path) -> Run:
    path = folder / f"{graph.name}.onnx"
    program = _traced(graph)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                input_names=[*graph.inputs],
                output_names=[*graph.outputs],
                custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UsageError(f"ONNX cannot express the {graph.name} tower: {error}: give --format torch-export") from error
    made.save(str(path))
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        taken = {wanted.name for wanted in session.get_inputs()}
        found = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in taken})
        return tuple(map(torch.as_tensor, found))

    return run


def _stable_sort(x: Any, *, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """What torch's exporter lacks; of equal values ONNX takes the one that stands first."""
    import onnxscript

    op: Any = onnxscript.opset18
    length = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]), axis=0)
    return op.TopK(x, length, axis=dim, largest=int(descending), sorted=1)


def _require_onnx() -> None:
    missing = next((name for name in _PACKAGES if find_spec(name) is None), None)
    if missing is not None:
        raise UsageError(f"--format onnx takes {missing}: pip install 'petl-bench[onnx]'")


def _about(model: VideoTextModel, graphs: list[Graph], format: str) -> dict[str, Any]:
    spec, rule, task = model.spec, model.clip_loader.rule, model.method.task
    suffix = {"torch-export": "pt2", "onnx": "onnx"}[format]
    ends = {graph.name: _ends(graph, suffix) for graph in graphs}
    ids = graphs[0].inputs["ids"][0].tolist()
    prepared = {"image_size": spec.image_size, "resize": spec.resize, "mean": list(spec.mean), "std": list(spec.std)}
    return {
        "format": FORMAT,
        "made_by": {"petl_bench": __version__, "torch": torch.__version__},
        "method": model.method.label,
        "backbone": model.method.backbone.name,
        "task": task.name,
        "text": ends["text"] | {"tokenizer": _tokenizer(spec.tokenizer), "example": {"text": _CAPTIONS[0], "ids": ids}},
        "video": ends["video"]
        | {"frames": rule.count, "sampling": rule.sampling, "frame_rate": rule.rate, "normalised_inside": True}
        | prepared,
        "compared": {name: value for name, value in task.inference().items() if name in ("pooling", "temperature")},
    }


def _ends(graph: Graph, suffix: str) -> dict[str, Any]:
    """Its file, what goes into it and what comes out."""
    inputs = {
        name: {"dtype": str(value.dtype).removeprefix("torch."), "shape": ["n", *value.shape[1:]]}
        for name, value in graph.inputs.items()
    }
    return {"file": f"{graph.name}.{suffix}", "inputs": inputs, "outputs": list(graph.outputs)}


def _tokenizer(tokenizer: Any) -> str:
    if isinstance(tokenizer, WordPiece):
        return f"BERT's WordPiece, of {VOCABULARY_NAME}"
    vocabulary = vocabulary_of(tokenizer)
    return "of the backbone" if vocabulary is None else f"CLIP's byte-pair encoding, the first {vocabulary} entries"
