"""A trained model as an encoder of MTEB: `petl_bench.load(...).as_mteb()`.

MTEB hands over videos that are not decoded, so frames are chosen, read and resized as in the adapter's own training,
and neither torchcodec nor FFmpeg is needed. None of its retrieval tests is one of the papers': see README.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import mteb
import numpy as np
import torch
from datasets import Video
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from petl_bench.backbones.base import VideoFeatures
from petl_bench.backbones.weights import parameters_sha256
from petl_bench.data.clip_files import VIDEO_SUFFIXES
from petl_bench.data.datasets import ClipLoader, stacked
from petl_bench.data.reader import VideoError
from petl_bench.data.samples import Sample
from petl_bench.data.sampling import is_random
from petl_bench.errors import DataError, NonFiniteError, UsageError
from petl_bench.inputs import Clips, InputSpec
from petl_bench.method import Method
from petl_bench.storage.descriptions import TrainingData

#: MTEB's data that come from the videos of a data module: an adapter that was trained on one is no zero-shot there
_DATA_OF = {
    "activitynet": "mteb/ActivityNet_Captions_val2",
    "activitynet_qa": "mteb/ActivityNet_Captions_val2",
    "didemo": "mteb/DiDeMo",
    "egoschema": "mteb/EgoSchema_subset",
    "msrvtt": "mteb/MSR-VTT",
    "msrvtt_mc": "mteb/MSR-VTT",
    "msrvtt_qa": "mteb/MSR-VTT",
    "msvd": "mteb/MSVD",
    "msvd_qa": "mteb/MSVD",
    "nextqa": "mteb/NExT-QA",
    "nextqa_oe": "mteb/NExT-QA",
    "star": "mteb/star_bench_val",
    "vatex": "mteb/VATEX_test_1k",
    "youcook2": "mteb/YouCook2_val",
}
#: digits of a revision
_DIGITS = 12


class Encodes(Protocol):
    """What is asked of a model, see `petl_bench.video_text_model.VideoTextModel`."""

    method: Method
    clip_loader: ClipLoader
    max_words: int
    device: torch.device
    trained_on: TrainingData | None

    @property
    def spec(self) -> InputSpec: ...

    def encode_text(self, texts: Sequence[str], batch_size: int = 32) -> Tensor: ...

    def encode_clips(self, clips: Clips) -> VideoFeatures: ...


class AdapterEncoder(AbsEncoder):
    """Encodes texts and videos for MTEB, as `petl_bench` does; fp32 in the precision of the weights.

    What has both is encoded as the sum of its two vectors, as MTEB's own two-tower models do. No prompt is put in front
    of a text.

    Args:
        model: that compares two vectors by their cosine.
        name: for MTEB's results, with a slash; None is `petl_bench/<method>-<backbone>-<data of the training>`.
        revision: of the results; None follows from weights, frame rule and transforms.

    Raises:
        UsageError: the model compares in another way than by two vectors.
    """

    def __init__(self, model: Encodes, name: str | None = None, revision: str | None = None) -> None:
        _require_two_vectors(model)
        self.model = model
        self.mteb_model_meta = _meta(model, name or _name(model), revision or _revision(model))

    def encode(self, inputs: DataLoader[Any], *, batch_size: int = 32, **others: Any) -> Tensor:
        """Features (rows, E) of a split of MTEB's, in its order.

        Args:
            inputs: MTEB's loader; only its data and number of processes are used.
            batch_size: rows that are encoded at once.
            **others: what MTEB says of task, split and kind of the rows, which changes nothing.

        Raises:
            UsageError: the rows have sound or pictures, which this model does not read.
            DataError: a video cannot be read.
            NonFiniteError: a feature is NaN or infinite.
        """
        data: Any = inputs.dataset
        kinds = data.features.keys() & {"text", "video", "audio", "image"}
        if foreign := kinds - {"text", "video"} or not kinds:
            told = " and ".join(sorted(foreign)) if foreign is not True else "neither text nor video"
            raise UsageError(f"this task has {told}, and the model reads texts and videos")
        parts = []
        if "text" in kinds:
            texts = [str(text) for text in data.select_columns(["text"])["text"]]
            parts.append(self.model.encode_text(texts, batch_size))
        if "video" in kinds:
            clips = _Videos(data, self.model.clip_loader)
            parts.append(torch.cat([*self._encoded(clips, batch_size, inputs.num_workers)]))
        features = sum(parts[1:], parts[0]).cpu()
        if bad := torch.nonzero(~features.isfinite().all(-1)).flatten().tolist():
            raise NonFiniteError(f"features of row {_id(data, bad[0])} are not finite: check the model")
        return features

    def _encoded(self, clips: _Videos, batch_size: int, workers: int) -> Iterator[Tensor]:
        for batch in DataLoader(clips, batch_size, collate_fn=stacked, num_workers=workers):
            yield self.model.encode_clips(batch).pooled.float()


class _Videos(Dataset[Clips]):
    """The videos of MTEB's data, read as files; picklable, for loader processes."""

    def __init__(self, data: Any, loader: ClipLoader) -> None:
        self._data, self._loader = data, loader
        self._videos = data.cast_column("video", Video(decode=False)).select_columns(["video"])

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, row: int) -> Clips:
        video = self._videos[row]["video"]
        suffix = Path(video.get("path") or "").suffix.lower()
        with tempfile.NamedTemporaryFile(suffix=suffix if suffix in VIDEO_SUFFIXES else ".mp4") as file:
            path = Path(video.get("path") or "")
            if video.get("bytes") is not None:
                file.write(video["bytes"])
                file.flush()
                path = Path(file.name)
            try:
                return self._loader.load(path, Sample(str(row), ()), self._random(row))
            except VideoError as error:
                reason = str(error).removeprefix(f"{path}: ")
                raise DataError(f"video of row {_id(self._data, row)} cannot be read: {reason}") from error

    def _random(self, row: int) -> Any:
        return np.random.default_rng(row) if is_random(self._loader.rule.sampling) else None


def _id(data: Any, row: int) -> str:
    return str(data.select_columns(["id"])[row]["id"]) if "id" in data.features else str(row)


def _require_two_vectors(model: Encodes) -> None:
    how = model.method.task.inference()
    if how.get("pooling") != "mean":
        raise UsageError(
            f"this model ({model.method.task.name}, pooling {how.get('pooling')}) does not compare two vectors, which "
            "is all that MTEB's encoders do"
        )
    if how.get("rerank_k"):
        raise UsageError(
            "this model ranks the best clips again by matching, and its first stage alone is another system: test it "
            "with `petl-bench test`"
        )


def _name(model: Encodes) -> str:
    on = model.trained_on
    data = "unknown" if on is None else _module(on)
    trained = f"-{data}" if model.method.trainable else ""
    return f"petl_bench/{model.method.slug}-{model.method.backbone.name}{trained}"


def _module(on: TrainingData) -> str:
    """The module that has the data module: `msrvtt` of `datamodules.msrvtt.MSRVTT`."""
    return on.data_module.split(".")[-2]


def _revision(model: Encodes) -> str:
    """Of all that features follow from: MTEB takes results of the same revision for results of the same model."""
    loader = model.clip_loader
    rule = (loader.rule.count, loader.rule.sampling, loader.rule.rate, loader.reader, model.max_words)
    buffers = {name: hashlib.sha256(b.cpu().numpy().tobytes()).hexdigest() for name, b in model.method.named_buffers()}
    said = [parameters_sha256(model.method.cpu()), buffers, rule, model.spec.record()]
    model.method.to(model.device)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _meta(model: Encodes, name: str, revision: str) -> ModelMeta:
    counts = model.method.parameter_counts()
    return ModelMeta(
        loader=None,
        name=name,
        revision=revision,
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=counts["total"],
        memory_usage_mb=round(4 * counts["total"] / 2**20),
        max_tokens=model.max_words,
        embed_dim=model.method.backbone.embed_dim,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=_trained_on(model),
        modalities=["text", "video"],
    )


def _trained_on(model: Encodes) -> set[str] | None:
    """Names of MTEB's tasks on data that it was trained on; None where nobody says what it was trained on."""
    if not model.method.trainable:
        return set()
    if model.trained_on is None:
        return None
    data = _DATA_OF.get(_module(model.trained_on))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tasks that are in beta
        tasks = mteb.get_tasks(modalities=["video"], exclude_beta=False, exclude_superseded=False)
    return {task.metadata.name for task in tasks if task.metadata.dataset["path"] == data}
