"""What the annotation files of a dataset hold (`petl-bench data describe`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from petl_bench.data.base import VideoTextDataModule, count_cut, read_texts
from petl_bench.data.paragraphs import ParagraphDataModule
from petl_bench.data.samples import Sample, Split, looked_up_by
from petl_bench.errors import DataError, MissingFileError

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def describe(data: VideoTextDataModule) -> dict[str, Any]:
    """What a data module with a `spec` reads: protocol, counts by split, what is cut.

    A split that cannot be read, or has more than the protocol's, has an `error`, or names what is `missing`, and the
    number of its videos where a list says it. One that has less is described, and says so (`partial`).
    """
    splits: dict[str, dict[str, Any]] = {}
    found: dict[str, set[Path | str]] = {}
    for split in _SPLITS:
        try:
            samples = data.of_any_number(split)
            splits[split] = _part(data, split, samples) | _describe_split(data, split, samples)
            found[split] = set(data.told_apart(split, samples))
        except MissingFileError as error:
            splits[split] = {"videos": _listed(data, split), "missing": str(error)}
        except DataError as error:
            splits[split] = {"videos": _listed(data, split), "error": str(error)}
    return {
        "protocol": data.protocol.id,
        "dataset": data.dataset,
        "partial": data.partial,
        "frames": data.frames,
        "max_words": data.max_words,
        "splits": splits,
        "videos_in_train_and_test": len(found.get("train", set()) & found.get("test", set())),
    }


def _part(data: VideoTextDataModule, split: Split, samples: Sequence[Sample]) -> dict[str, str]:
    """Whether a split is only a part of the protocol's.

    Raises:
        DataError: something is more than the protocol has.
    """
    other = {} if data.partial else data.other_counts(split, samples)
    if not other:
        return {}
    if any(count > expected for count, expected in other.values()):
        raise DataError(data.told_counts(split, other))
    return {"partial": data.told_counts(split, other)}


def _listed(data: VideoTextDataModule, split: Split) -> int | None:
    try:
        return len(data.video_ids(split))
    except DataError:
        return None


def _describe_split(data: VideoTextDataModule, split: Split, samples: Sequence[Sample]) -> dict[str, Any]:
    if not samples:
        return {"videos": 0}
    texts = data.texts.replace(" ", "_")
    captions = [caption for sample in samples for caption in sample.captions]
    sentences = {"sentences": data.sentence_count(split)} if isinstance(data, ParagraphDataModule) else {}
    return {
        **_files(samples),
        texts: len(captions),
        **sentences,
        f"{texts}_per_video": _spread([len(sample.captions) for sample in samples]),
        "words": _spread([len(caption.split()) for caption in captions]),
        "cut_share": _cut_share(data, read_texts(samples)),
        "duplicates": len(captions) - len(set(captions)),
        "not_ascii": sum(not caption.isascii() for caption in captions),
        **_about_answers(samples),
        "missing_files": _missing(data, samples),
    }


def _files(samples: Sequence[Sample]) -> dict[str, int]:
    """How many videos there are, and of how many clips of them."""
    videos = len({sample.file_id for sample in samples})
    if not any(sample.file for sample in samples):
        return {"videos": videos}
    backwards = sum(sample.reverse for sample in samples)
    return {"videos": videos, "clips": len(samples)} | ({"reversed": backwards} if backwards else {})


def _spread(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "mean": round(sum(values) / len(values), 2), "max": max(values)}


def _cut_share(data: VideoTextDataModule, captions: Sequence[str]) -> float:
    """Share of texts that are longer than `max_words` tokens of the backbone."""
    return round(count_cut(data.spec, captions, data.max_words) / len(captions), 5)


def _about_answers(samples: Sequence[Sample]) -> dict[str, Any]:
    questions = [question for sample in samples for question in sample.questions]
    if not questions:
        return {}
    answers = Counter(answer for question in questions for answer in question.answers)
    groups = Counter(question.group for question in questions if question.group)
    return {
        "answers": len(answers),
        "question_types": dict(Counter(question.type for question in questions).most_common(10)),
        **({"question_groups": dict(groups.most_common())} if groups else {}),
    }


def _missing(data: VideoTextDataModule, samples: Sequence[Sample]) -> int | None:
    """Videos without a file; None where there is no folder of clips."""
    clips = data.clip_files()
    names = {sample.file_id: looked_up_by(sample) for sample in samples}
    return None if clips is None else sum(clips.find(name) is None for name in names.values())
