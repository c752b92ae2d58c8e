"""Records of runs that earlier versions wrote, as this one writes them."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from petl_bench.storage.dotted import get

FIRST = "petl_bench.result/1"
#: words of a question that the first version's BLIP kept
_QUESTION_WORDS = 50
_BACKBONE, _TASK = "model.init_args.backbone", "model.init_args.task.init_args"


def upgraded(record: dict[str, Any], config: dict[str, Any], schema: str) -> dict[str, Any]:
    """A record of `petl_bench.result/1` in the layout of `petl_bench.result/2`.

    Fields that nobody filled are left out. What the first version did not write down comes from the configuration of
    the run, or is left out, too, and then counts as unknown. On a CPU its peak memory was that of the whole process,
    libraries and weights included; that is unknown now, not what training added.

    Args:
        record: as read; whatever is wrong with it stays wrong, and the schema finds it.
        config: `config.yaml` of the run; empty where that is not known.
        schema: the name of the new layout.
    """
    new = record | {"schema": schema}
    protocol, model, train, found = (_block(record, name) for name in ("protocol", "model", "train", "eval"))
    if protocol:
        new["protocol"] = protocol | _evaluation(protocol, model, _block(found, "vocabulary"), config)
    if model:
        new["model"] = _without(model, "extra_inference_params", "extra_inference_flops")
    if train:
        new["train"] = train | _training(train, _block(record, "env"), config)
    if _block(found, "cost"):
        new["eval"] = found | {"cost": _without(found["cost"], "texts_per_s", "ms_per_query")}
    return new


def _evaluation(
    protocol: dict[str, Any], model: dict[str, Any], vocabulary: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """Preprocessing and inference, of which the first version did not write down all."""
    inference, preprocess = _block(protocol, "inference"), protocol.get("preprocess", {})
    if not inference or not isinstance(preprocess, dict):
        return {}  # which the schema finds
    kept = _without(inference, "frames", "sampler") | _temperature(inference, config)
    if "answers" in kept:
        chosen = str(kept["answers"]).startswith("rank")
        kept["answer_list"] = vocabulary.get("sha256") if chosen else None
    if kept.get("qb_norm") is False:  # true would be another evaluation: the schema refuses it
        del kept["qb_norm"]
    preprocess = _frames(inference) | preprocess | _text_words(model, config)
    digest = hashlib.sha256(json.dumps(preprocess, sort_keys=True).encode()).hexdigest()
    return {"inference": kept, "preprocess": preprocess, "preprocess_sha256": digest}


def _frames(inference: dict[str, Any]) -> dict[str, Any]:
    """What the inference said of frames, e.g. `uniform@1fps`: the same as the preprocessing, where there is any."""
    found: dict[str, Any] = {"frames": inference["frames"]} if "frames" in inference else {}
    parts = re.fullmatch(r"(\w+)@(?:(\d{1,9})|all)fps", str(inference.get("sampler")))
    if parts is None:
        return found
    return found | {"sampling": parts[1], "frame_rate": int(parts[2]) if parts[2] else None}


def _temperature(inference: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    if inference.get("pooling") != "text_conditioned":
        return {"temperature": None}
    given = get(config, f"{_TASK}.temperature")
    return {} if given is None else {"temperature": given}


def _text_words(model: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Of the backbones there were, only BLIP cut texts by words, and questions by a number that was no option."""
    if not str(model.get("backbone")).startswith("blip"):
        return {"text_words": None}
    options = f"{_BACKBONE}.init_args"
    if get(config, f"{options}.purpose") == "qa":
        return {"text_words": _QUESTION_WORDS}
    given = get(config, f"{options}.caption_words")
    return {} if given is None else {"text_words": given}


def _training(train: dict[str, Any], env: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    new: dict[str, Any] = {} if env.get("gpu") else {"peak_allocated_bytes": None}
    limit, steps = get(config, "trainer.max_steps"), train.get("steps")
    if isinstance(limit, int) and isinstance(steps, int) and 0 < limit <= steps:
        new["limits"] = _block(train, "limits") | {"max_steps": str(limit)}
    return new


def _block(value: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a record; empty if it is none."""
    part = value.get(name)
    return part if isinstance(part, dict) else {}


def _without(block: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in block.items() if name not in names}
