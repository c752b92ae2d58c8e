"""Rows of training and evaluation as tensors, and how they become batches."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from petl_bench.data.augmentation import RandAugment
from petl_bench.data.batch import Batch, Question
from petl_bench.data.batch_memory import BatchMemory
from petl_bench.data.cache import CacheMiss, Clip, DamagedEntry, FrameCache, Profile
from petl_bench.data.jpeg import through_jpeg
from petl_bench.data.reader import VideoError
from petl_bench.data.samples import Sample
from petl_bench.data.sampling import choose_frames, is_random
from petl_bench.data.video import TimedFrames, load_frames, padded, room_for
from petl_bench.data.workers import CurrentFiles
from petl_bench.errors import DataError
from petl_bench.inputs import Clips, FrameRule, InputSpec, Resize, Words

#: how many other rows are tried in place of one whose video cannot be read
_RETRIES = 8
#: told to the generator of augmentations, so that they are drawn apart from captions and frames
_OF_AUGMENTATION = 1

Augment = Callable[[np.ndarray], np.ndarray]


class Row(NamedTuple):
    """One clip with its captions, before batching; `clip` is one of `Batch.clips`, without the first dimension."""

    clip: Clips
    words: Words
    video_index: int
    text_index: Sequence[int]
    decoded: bool
    questions: tuple[Question, ...] = ()
    options: Words | None = None


class Rows(list[Row]):
    """Rows whose clips lie side by side.

    Attributes:
        clips: of all rows.
    """

    def __init__(self, rows: Sequence[Row], clips: Clips) -> None:
        super().__init__(rows)
        self.clips = clips


@dataclass(frozen=True)
class ClipLoader:
    """Reads the frames of a clip as the protocol says.

    Attributes:
        rule: as the fields up to `reader`, an argument of `load_frames`.
        image_size: see there.
        resize: see there.
        reader: see there.
        cache: where frames are looked up before they are decoded; None decodes.
        decode_misses: whether a clip that the cache does not have is decoded, instead of an error.
        board: where the file that is being read is written down.
        memory: of batches.
        jpeg_quality: of JPEG that frames go through after they are resized, cached or not; None leaves their pixels.
    """

    rule: FrameRule
    image_size: int
    resize: Resize
    reader: str
    cache: FrameCache | None = None
    decode_misses: bool = False
    board: CurrentFiles | None = None
    memory: BatchMemory = field(default_factory=BatchMemory, compare=False)
    jpeg_quality: int | None = None

    @property
    def profile(self) -> Profile:
        """What a cache for this loader holds."""
        return self._profile(only_chosen=False)

    @property
    def chosen_profile(self) -> Profile:
        """What a cache holds that has no other frames than a fixed sampling reads; under a random one, `profile`."""
        return self._profile(only_chosen=True)

    def _profile(self, only_chosen: bool) -> Profile:
        return Profile.of(self.rule, self.image_size, self.resize, self.reader, only_chosen, self.jpeg_quality)

    def room(self, *clips: int) -> Clips:
        """Room for clips, nothing written yet: for as many as said, or for one without the dimension of clips."""
        return room_for(self.memory.frames((*clips, self.rule.count, 3, self.image_size, self.image_size)))

    def load(
        self,
        path: Path,
        sample: Sample,
        rng: np.random.Generator | None = None,
        augment: Augment | None = None,
        room: Clips | None = None,
    ) -> Clips:
        """One clip, frames (T, 3, S, S), without the dimension of clips; put into `room` if that is given.

        A clip in reverse is chosen, cached and augmented as it is, and then turned round: whatever does not look at the
        order of frames finds no difference between the two.
        """
        if self.board is not None:
            self.board.publish(path)
        room = room or self.room()
        # Augmented frames are never the cached ones: those are resized already.
        found = self._cached(path, sample, rng, room.frames) if augment is None else None
        clip = padded(found or self._decoded(path, sample, rng, augment), self.rule.count, room)
        return _put(clip.reversed() if sample.reverse else clip, room)

    def _cached(
        self, path: Path, sample: Sample, rng: np.random.Generator | None, room: torch.Tensor
    ) -> TimedFrames | None:
        """What the cache has, put into `room`; None if it is to be decoded."""
        if self.cache is None:
            return None

        def choose(num_frames: int, fps: float, times: np.ndarray | None) -> np.ndarray:
            return choose_frames(num_frames, fps, times, self.rule, sample.moment, rng)

        state = None if rng is None else rng.bit_generator.state
        try:
            return self.cache.read(Clip(path, sample.moment), choose, room)
        except CacheMiss as error:
            if not self.decode_misses:
                raise
            if isinstance(error, DamagedEntry):
                warnings.warn(f"{error}; decoded this time", stacklevel=1)
            if rng is not None and state is not None:
                rng.bit_generator.state = state  # decoding draws the same frames
            return None

    def _decoded(
        self, path: Path, sample: Sample, rng: np.random.Generator | None, augment: Augment | None
    ) -> TimedFrames:
        frames, times = load_frames(
            path, self.rule, self.image_size, self.resize, self.reader, sample.moment, rng=rng, augment=augment
        )
        return TimedFrames(frames if self.jpeg_quality is None else through_jpeg(frames, self.jpeg_quality), times)

    def blank(self, room: Clips) -> Clips:
        """What stands for a clip that could not be read; its mask has no real frame."""
        return _put(padded(TimedFrames(room.frames[:0], room.times[:0]), self.rule.count, room), room)


def _put(clip: Clips, room: Clips) -> Clips:
    """A clip where it is to lie."""
    for part, place in zip(clip, room, strict=True):
        if part is not place:
            place.copy_(part)
    return room


class _ClipRows(Dataset[Row]):
    """Rows by key, one by one, or those of a batch with their clips written side by side."""

    loader: ClipLoader

    def __getitem__(self, key: Any) -> Row:
        return self._read(key, self.loader.room())

    def __getitems__(self, keys: Sequence[Any]) -> Rows:
        """Called by torch's loaders for the rows of a batch."""
        clips = self.loader.room(len(keys))
        return Rows([self._read(key, clips.select(place)) for place, key in enumerate(keys)], clips)

    @abstractmethod
    def _read(self, key: Any, room: Clips) -> Row:
        """The row of a key, its clip in `room`."""


class TrainingDataset(_ClipRows):
    """Rows of one caption and its clip, keyed by `(epoch, row)`: what a row gives follows from seed and key alone.

    Args:
        samples: with the file of each.
        loader: how frames are read.
        expand: one row per caption; otherwise one row per video with a caption drawn again each epoch.
        spec: of the backbone.
        max_words: tokens per caption.
        seed: of caption choice, random frames, augmentations and substitutes.
        tolerate: put another row in the place of one whose video cannot be read.
        augmentation: changes the frames of each clip; None leaves them as they are.
    """

    def __init__(
        self,
        samples: Sequence[tuple[Sample, Path]],
        loader: ClipLoader,
        expand: bool,
        spec: InputSpec,
        max_words: int,
        seed: int,
        tolerate: bool,
        augmentation: RandAugment | None = None,
    ) -> None:
        self.samples = samples
        self.loader = loader
        self.spec, self.max_words = spec, max_words
        self.seed, self.tolerate, self.augmentation = seed, tolerate, augmentation
        lengths = [len(sample.captions) for sample, _ in samples]
        self.first_text = np.cumsum([0, *lengths])
        video = np.repeat(np.arange(len(samples)), lengths)
        caption = np.arange(len(video)) - self.first_text[video]
        #: (rows, 2): video and caption; caption -1 is drawn again each epoch
        self.rows = np.stack([video, caption], 1) if expand else np.array([(v, -1) for v in range(len(samples))])

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self, key: tuple[int, int], room: Clips) -> Row:
        epoch, row = key
        rng, augment = np.random.default_rng((self.seed, epoch, row)), self._augment(epoch, row)
        for _ in range(_RETRIES):
            try:
                return self._row(row, rng, augment, room)
            except VideoError as error:
                if not self.tolerate:
                    raise
                warnings.warn(f"{error}; another training row takes its place", stacklevel=1)
                row = int(rng.integers(len(self)))
        raise DataError(f"{_RETRIES} training videos in a row could not be read: check the files below the clip folder")

    def _augment(self, epoch: int, row: int) -> Augment | None:
        if self.augmentation is None:
            return None
        rng = np.random.default_rng((self.seed, epoch, row, _OF_AUGMENTATION))
        return partial(self.augmentation, seed=int(rng.integers(2**32)))

    def _row(self, row: int, rng: np.random.Generator, augment: Augment | None, room: Clips) -> Row:
        video, caption = (int(value) for value in self.rows[row])
        sample, path = self.samples[video]
        if caption < 0:
            caption = int(rng.integers(len(sample.captions)))
        random = rng if is_random(self.loader.rule.sampling) else None
        clip = self.loader.load(path, sample, random, augment, room)
        words = self.spec.tokenize([sample.captions[caption]], self.max_words)
        text_index = [int(self.first_text[video]) + caption]
        questions = sample.questions[caption : caption + 1]
        return Row(clip, words, video, text_index, True, questions, options_of(questions, self.spec, self.max_words))


class EvaluationDataset(_ClipRows):
    """Each video once, with all its captions, in file order.

    Args:
        samples: of the split, none left out.
        paths: the file of each; None where it is missing and that is tolerated.
        loader: how frames are read.
        spec: of the backbone.
        max_words: tokens per caption.
        tolerate: keep an unreadable video as one that fails (it ranks last, its questions are answered wrongly); else
            stop.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        paths: Sequence[Path | None],
        loader: ClipLoader,
        spec: InputSpec,
        max_words: int,
        tolerate: bool,
    ) -> None:
        self.samples, self.paths, self.loader = samples, paths, loader
        self.spec, self.max_words, self.tolerate = spec, max_words, tolerate
        self.first_text = np.cumsum([0, *(len(sample.captions) for sample in samples)])
        forward = {(s.file_id, s.moment): place for place, s in enumerate(samples) if not s.reverse}
        #: by index, what its random frames follow from: a clip in reverse has those of the clip
        self._drawn_as = [
            forward.get((s.file_id, s.moment), place) if s.reverse else place for place, s in enumerate(samples)
        ]

    @property
    def counts(self) -> tuple[int, int]:
        """Videos and captions that an evaluation must see."""
        return len(self.samples), int(self.first_text[-1])

    def __len__(self) -> int:
        return len(self.samples)

    def _read(self, key: int, room: Clips) -> Row:
        sample = self.samples[key]
        words = self.spec.tokenize(sample.captions, self.max_words)
        clip, decoded = self._clip(key, room)
        text_index = range(int(self.first_text[key]), int(self.first_text[key + 1]))
        options = options_of(sample.questions, self.spec, self.max_words)
        return Row(clip, words, key, text_index, decoded, sample.questions, options)

    def _clip(self, index: int, room: Clips) -> tuple[Clips, bool]:
        path = self.paths[index]
        # Evaluation is the same every time, also under a random sampling: the generator follows from the index.
        rng = np.random.default_rng(self._drawn_as[index]) if is_random(self.loader.rule.sampling) else None
        if path is None:
            return self.loader.blank(room), False
        try:
            return self.loader.load(path, self.samples[index], rng, room=room), True
        except VideoError as error:
            if not self.tolerate:
                raise
            warnings.warn(f"{error}; it counts as failed", stacklevel=1)
            return self.loader.blank(room), False


def options_of(questions: Sequence[Question], spec: InputSpec, max_words: int) -> Words | None:
    """What is compared with the clip of questions that are answered by choosing, one question after another."""
    texts = [text for question in questions for text in question.options]
    return spec.tokenize(texts, max_words) if texts else None


def stacked(clips: Sequence[Clips]) -> Clips:
    """Clips (T, ...) as one batch (B, T, ...)."""
    return Clips(*(torch.stack(parts) for parts in zip(*clips, strict=True)))


def collate(rows: Sequence[Row]) -> Batch:
    """Stacks clips, where they do not lie side by side, and concatenates their captions."""
    options = [row.options for row in rows if row.options is not None]
    return Batch(
        clips=rows.clips if isinstance(rows, Rows) else stacked([row.clip for row in rows]),
        words=_joined([row.words for row in rows]),
        video_index=torch.tensor([row.video_index for row in rows]),
        text_index=torch.tensor([i for row in rows for i in row.text_index]),
        text_video=torch.tensor([row.video_index for row in rows for _ in row.text_index]),
        decoded=torch.tensor([row.decoded for row in rows]),
        questions=tuple(question for row in rows for question in row.questions),
        options=_joined(options) if options else None,
    )


def _joined(words: Sequence[Words]) -> Words:
    return Words(torch.cat([one.ids for one in words]), torch.cat([one.mask for one in words])).counted()
