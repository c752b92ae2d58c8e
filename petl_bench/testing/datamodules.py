"""What every data module must do: `check_datamodule`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.batch import Batch
from petl_bench.data.samples import Protocol, Sample
from petl_bench.registry import instantiate
from petl_bench.testing.gated import Gated
from petl_bench.testing.requirements import Options, class_of, options_of, require, told_of

#: what makes any dataset small enough to look at
_SMALL = {"batch_size": 2, "eval_batch_size": 2, "num_workers": 0}


def check_datamodule(
    datamodule: type[VideoTextDataModule] | str, root: str | Path, options: Options | None = None, **more: Any
) -> None:
    """Checks that a data module keeps the promises that runs and reports rest on, on files of its dataset.

    - it has a name, and a protocol with a version and the number of test videos, or of their texts
    - annotation files exist where `annotation_files` says
    - the samples of a split are the same each time; their ids are unique; each has captions, or questions with answers
      where `texts` says so
    - the training split gives batches of clips and texts in the shapes that methods read, the same ones for a seed
    - evaluation sees every clip and every text of the test split once, and knows which text belongs to which clip
    - what a run's record says of the data is what JSON can hold, and the same each time

    Args:
        datamodule: the class, its path, or its short name.
        root: folder with the files; with `partial=True` a few clips will do. They are decoded.
        options: of its constructor, or a file that holds them: a configuration, or a fragment like `data/msvd.yaml`.
        **more: options that win; batches are of two clips unless these say otherwise.

    Raises:
        AssertionError: saying in one sentence what does not hold.
    """
    kind = class_of("datamodules", datamodule)
    with told_of(kind.__name__):
        given = {"frames": 2} if options is None else options_of(options, "data")
        given = {key: instantiate(value) for key, value in given.items()} | _SMALL | more | {"root": Path(root)}
        module = kind(**given)
        _check_protocol(module)
        _check_samples(module)
        _check_loaders(module, kind(**given))
        _check_record(module)


def _check_protocol(module: VideoTextDataModule) -> None:
    require(isinstance(getattr(module, "name", None), str) and module.name, "it has no name: give it the attribute")
    protocol = module.protocol
    require(isinstance(protocol, Protocol), f"protocol is a {type(protocol).__name__}, and no Protocol")
    require("/v" in protocol.id, f"the protocol's id is {protocol.id!r}: end it with a version, such as name/v1")
    counted = "test" in protocol.videos or "test" in protocol.captions
    require(counted, "the protocol says neither how many videos nor how many texts its test split has")
    for role, path in module.annotation_files().items():
        require(Path(path).is_file(), f"annotation_files names {path} for {role}, which is not there")


def _check_samples(module: VideoTextDataModule) -> None:
    for split in ("train", "val", "test"):
        samples = module.annotations(split)
        require(samples == module.annotations(split), f"annotations('{split}') gives other samples each time")
        require(samples or split == "val", f"the {split} split has no samples")
        videos = [sample.video for sample in samples]
        require(len(set(videos)) == len(videos), f"videos stand in several samples of the {split} split: join them")
        for sample in samples:
            _check_sample(sample, module.texts, split)


def _check_sample(sample: Sample, texts: str, split: str) -> None:
    where = f"video {sample.video} of the {split} split"
    require(sample.captions and all(caption.strip() for caption in sample.captions), f"{where} has an empty caption")
    if texts.endswith("questions"):
        require(len(sample.questions) == len(sample.captions), f"{where} has texts without a Question")
        answered = split == "test" or all(question.answers for question in sample.questions)
        require(answered, f"{where} has a question without answers")
    if texts == "count questions":
        counted = split == "test" or all(question.number is not None for question in sample.questions)
        require(counted, f"{where} has a question without a count")
    if texts == "choice questions":
        right = [question.correct for question in sample.questions]
        possible = all(
            place is None or 0 <= place < len(q.choices) for place, q in zip(right, sample.questions, strict=True)
        )
        require(
            possible and all(len(q.choices) > 1 for q in sample.questions), f"{where} has a question without choices"
        )


def _check_loaders(module: VideoTextDataModule, again: VideoTextDataModule) -> None:
    spec = Gated.tiny().spec
    for each in (module, again):
        each.link(spec, 0)
        each.setup("fit")
    batch, same = (next(iter(each.train_dataloader())) for each in (module, again))
    _check_batch(module, batch, spec.image_size)
    equal = batch.clips.frames.equal(same.clips.frames) and batch.words.ids.equal(same.words.ids)
    require(equal, "one seed gives other training batches each time")
    module.setup("test")
    batches = list(module.test_dataloader())
    videos = torch.cat([batch.video_index for batch in batches]).tolist()
    texts = torch.cat([batch.text_index for batch in batches]).tolist()
    samples = module.samples("test")
    captions = sum(len(sample.captions) for sample in samples)
    require(sorted(videos) == list(range(len(samples))), "evaluation does not see every clip once")
    require(sorted(texts) == list(range(captions)), "evaluation does not see every text once")
    owners = [place for place, sample in enumerate(samples) for _ in sample.captions]
    found = dict(zip(texts, torch.cat([batch.text_video for batch in batches]).tolist(), strict=True))
    require([found[text] for text in sorted(found)] == owners, "texts of the test split belong to other clips")


def _check_batch(module: VideoTextDataModule, batch: Batch, size: int) -> None:
    wanted = (module.batch_size, module.frames, 3, size, size)
    shape = tuple(batch.clips.frames.shape)
    require(shape == wanted, f"the frames of a training batch have the shape {shape}, and not {wanted}")
    require(len(batch.words.ids) == module.batch_size, "a training batch has other than one text for each clip")
    require(bool(batch.clips.mask.any(1).all()), "a training batch has a clip without a frame")
    asked = len(batch.questions) == module.batch_size
    require(not module.texts.endswith("questions") or asked, "a training batch lacks the questions of its texts")


def _check_record(module: VideoTextDataModule) -> None:
    first, second = (_plain(module) for _ in range(2))
    require(first == second, "what it says of itself for the record of a run changes from one time to the next")


def _plain(module: VideoTextDataModule) -> str:
    said: list[Any] = [module.protocol_record(), module.record(), module.contents()]
    try:
        return json.dumps(said, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"record, protocol_record and contents must be what JSON can hold: {error}") from error
