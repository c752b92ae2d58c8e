"""Builds valid run records for tests."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from petl_bench.report.collect import Run
from petl_bench.runs.record import SCHEMA, write_result
from petl_bench.storage.files import file_sha256

_DIRECTION = {"R1": 40.0, "R5": 70.0, "R10": 80.0, "R50": 95.0, "MdR": 2.0, "MnR": 12.5, "n": 1000}

_RECORD: dict[str, Any] = {
    "schema": SCHEMA,
    "status": "complete",
    "origin": "measured",
    "kind": "fit",
    "id": {"config_hash": "c" * 64, "run_id": "run", "seed": 0},
    "protocol": {
        "id": "msrvtt-1ka",
        "dataset": "msrvtt",
        "split_sha256": "1" * 64,
        "n_queries": 1000,
        "n_gallery": 1000,
        "captions_per_video": 1,
        "metric_version": "1",
        "tie_rule": "expected",
        "inference": {
            "clips": 1,
            "rerank_k": None,
            "rerank_beta": None,
            "dual_softmax": False,
            "pooling": "mean",
            "temperature": None,
            "precision": "fp32",
        },
        "preprocess_sha256": "2" * 64,
        "selection": "last",
        "partial": False,
        "n_found": 1000,
        "n_expected": 1000,
        "annotation_files": {"captions": "8" * 64},
        "preprocess": {
            "frames": 12,
            "frame_rate": 1,
            "sampling": "uniform",
            "reader": "pyav",
            "image_size": 224,
            "resize": "shorter_side_crop",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "max_words": 32,
            "text_words": None,
        },
    },
    "model": {
        "method": "MVAdapter",
        "method_config": {"bottleneck": 64},
        "backbone": "clip-vit-b-16",
        "weights_sha256": "3" * 64,
        "pretraining_data": "openai",
        "trainable_params": 2_500_000,
        "total_params": 150_000_000,
        "trainable_by_modality": {"vision": 2_000_000, "text": 500_000},
        "adapter_bytes": 10_000_000,
        "gmacs_vision": 213.4,
        "gmacs_total": 214.7,
    },
    "train": {
        "epochs": 5,
        "steps": 1000,
        "global_batch": 128,
        "world_size": 2,
        "precision": "bf16-mixed",
        "optimizer": "AdamW",
        "wall_s": 3600.0,
        "gpu_hours": 2.0,
        "peak_allocated_bytes": [7_000_000_000, 8_000_000_000],
        "peak_reserved_bytes": [9_000_000_000, 9_000_000_000],
        "clips_per_s": 250.0,
        "resumed": 0,
    },
    "eval": {
        "t2v": dict(_DIRECTION),
        "v2t": dict(_DIRECTION),
        "rsum": 380.0,
        "cost": {"clips_per_s": 300.0},
    },
    "env": {
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "diff_sha256": None,
        "lock_sha256": "4" * 64,
        "python": "3.11.7",
        "platform": "Linux",
        "cpu": "a processor",
        "versions": {"torch": "2.14.1"},
        "cuda": "13.0",
        "driver": "580",
        "gpu": "H200",
        "gpu_count": 2,
        "decoder": "pyav 18.1.0",
        "deterministic": True,
    },
    "integrity": {"ranks_sha256": "5" * 64, "adapter_sha256": "6" * 64, "config_sha256": "7" * 64},
}


def make_record(**overrides: Any) -> dict[str, Any]:
    """A complete, valid retrieval record.

    Args:
        overrides: values by path, parts joined by two underscores: `eval__t2v__R1=41.0`.
    """
    record = copy.deepcopy(_RECORD)
    for path, value in overrides.items():
        *parents, name = path.split("__")
        block = record
        for parent in parents:
            block = block[parent]
        block[name] = value
    return record


def make_first_record(**overrides: Any) -> dict[str, Any]:
    """What the first version would have written."""
    record = make_record(schema="petl_bench.result/1", **overrides)
    inference, preprocess = record["protocol"]["inference"], record["protocol"]["preprocess"]
    for block, later in ((inference, ("temperature", "answer_list")), (preprocess, ("text_words",))):
        for name in later:
            block.pop(name, None)
    inference |= {"frames": 12, "sampler": "uniform@1fps", "qb_norm": False} | inference
    record["model"] |= {"extra_inference_params": None, "extra_inference_flops": None}
    record["eval"]["cost"] |= {"texts_per_s": None, "ms_per_query": None}
    return record


def make_ranks(videos: int, captions: int, seed: int = 0, words: bool = True) -> dict[str, np.ndarray]:
    """What `ranks.npz` holds of a retrieval run, of random ranks and random hits."""
    rng = np.random.default_rng(seed)
    text_video = np.repeat(np.arange(videos), captions)
    texts = len(text_video)
    galleries = {"t2v": (texts, videos), "v2t": (videos, videos)}
    if captions > 1:
        galleries["v2t_captions"] = (videos, texts - captions + 1)
    arrays: dict[str, np.ndarray] = {
        "video_id": np.array([f"video{video}" for video in range(videos)]),
        "text_id": np.array([f"video{video}#{place % captions}" for place, video in enumerate(text_video)]),
        "text_video": text_video,
    }
    if words:
        arrays["words"] = np.array([f"caption {place} of video {video}" for place, video in enumerate(text_video)])
    for way, (queries, gallery) in galleries.items():
        arrays[way] = rng.integers(1, gallery + 1, queries).astype(np.int32)
        hits = np.stack([rng.choice(gallery, min(3, gallery), replace=False) for _ in range(queries)])
        arrays[f"{way}_hits"] = np.pad(hits, ((0, 0), (0, 3 - hits.shape[1])), constant_values=-1).astype(np.int32)
    return arrays


def make_answers(videos: int, questions: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The same of question answering: questions of each video, right at random."""
    right = np.random.default_rng(seed).integers(0, 2, videos * questions).astype(float)
    return {
        "video_id": np.array([f"video{video}" for video in range(videos)]),
        "text_id": np.array([str(place) for place in range(len(right))]),
        "text_video": np.repeat(np.arange(videos), questions),
        "words": np.array([f"what is {place}?" for place in range(len(right))]),
        "answers": np.array(["red"] * len(right)),
        "correct": right,
        "question_type": np.array(["what", "how"] * len(right))[: len(right)],
        "prediction": np.where(right > 0, "red", "blue"),
    }


def write_run(folder: Path, arrays: dict[str, np.ndarray], **overrides: Any) -> Run:
    """A run whose record has the digest and the counts of its ranks; overrides as of `make_record`."""
    record = make_record(**{"integrity__adapter_sha256": None, "integrity__config_sha256": "7" * 64, **overrides})
    cost = record["eval"]["cost"]
    if "correct" in arrays:
        types, counts = np.unique(arrays["question_type"], return_counts=True)
        record["eval"] = {
            "accuracy": 100 * float(arrays["correct"].mean()),
            "per_type": dict.fromkeys(types.tolist(), 50.0),
            "n_per_type": dict(zip(types.tolist(), counts.tolist(), strict=True)),
            "n": len(arrays["correct"]),
            "cost": cost,
        }
    else:
        ways = [way for way in ("t2v", "v2t", "v2t_captions") if way in arrays]
        figures = {way: {**_DIRECTION, "n": len(arrays[way])} for way in ways}
        record["eval"] = {**figures, "rsum": 380.0, "cost": cost}
    return write_record(folder, arrays, record)


def write_record(folder: Path, arrays: Mapping[str, np.ndarray], record: dict[str, Any]) -> Run:
    """A run of these ranks, whose digest the record is given."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "ranks.npz", allow_pickle=False, **arrays)
    record["integrity"]["ranks_sha256"] = file_sha256(folder / "ranks.npz")
    write_result(folder / "result.json", record)
    return Run(folder / "result.json", record)
