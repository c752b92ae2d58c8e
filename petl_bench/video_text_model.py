"""A model in use: features of videos and texts, answers to questions about videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor

from petl_bench.backbones.base import TextFeatures, VideoFeatures
from petl_bench.data.batch import Question
from petl_bench.data.datasets import ClipLoader, Row, collate, options_of, stacked
from petl_bench.data.samples import Sample
from petl_bench.data.sampling import is_random
from petl_bench.errors import UsageError
from petl_bench.inputs import WHOLE, Clips, InputSpec, Moment, Words
from petl_bench.method import Method
from petl_bench.storage.descriptions import TrainingData
from petl_bench.storage.untrusted import expanded, shown, whole_number
from petl_bench.tasks.questions import Answer, QuestionTask

if TYPE_CHECKING:
    from petl_bench.mteb_encoder import AdapterEncoder

#: a file, or a file with the first and the last second of a moment in it
Video = str | Path | tuple[str | Path, int | None, int | None]

_Item = TypeVar("_Item")


class Answers(NamedTuple):
    """Answers to a question, the best one first.

    Attributes:
        scored_by: what the scores are: `probability`, `log-probability`, `cosine`, ...
        answers: with their scores.
    """

    scored_by: str
    answers: tuple[Answer, ...]


class VideoTextModel:
    """A trained model, or an untrained one, in evaluation mode: see `petl_bench.load`.

    Everything is computed in the precision of the weights (fp32), as `petl-bench predict` does with
    `trainer.precision` 32-true. Features are equal to those that `predict` writes to the last bit where videos and
    texts come in the same batches, on the same processor; in others they differ by rounding (about 1e-7).

    Args:
        method: adapted.
        clip_loader: how frames are chosen and read.
        max_words: tokens per text; longer texts are cut.
        device: where it computes.
        trained_on: what with, if that is known.
        keeps: what must live as long as the model.

    Attributes:
        clip_loader: see the arguments.
        max_words: see the arguments.
        device: see the arguments.
    """

    def __init__(
        self,
        method: Method,
        clip_loader: ClipLoader,
        max_words: int,
        device: torch.device,
        trained_on: TrainingData | None = None,
        keeps: object = None,
    ) -> None:
        self.method = method.to(device).eval().requires_grad_(False)
        self.trained_on, self._keeps = trained_on, keeps
        self.clip_loader, self.max_words, self.device = clip_loader, max_words, device

    @property
    def spec(self) -> InputSpec:
        """What frames and texts must look like for the backbone."""
        return self.method.backbone.spec

    def encode_video(self, videos: Sequence[Video], batch_size: int = 32) -> Tensor:
        """Features of videos, (B, E) fp32 with norm 1, on the model's device.

        Args:
            videos: paths, or `(path, start, end)` in whole seconds; None is the beginning, or the end.
            batch_size: videos that are read and encoded at once.

        Raises:
            DataError: a file is missing or cannot be read as a video, or the moment is not in it.
            UsageError: an item is neither a path nor a moment.
        """
        clips = [_clip(video) for video in _listed(videos, "videos")]
        features = [
            self.encode_clips(stacked([self.read(number, *clips[number]) for number in numbers])).pooled.float()
            for numbers in _chunks(range(len(clips)), batch_size)
        ]
        return self._joined(features)

    def encode_text(self, texts: Sequence[str], batch_size: int = 32) -> Tensor:
        """Features of texts, (M, E) fp32 with norm 1, on the model's device.

        Args:
            texts: each is cut to the words that the model was trained with.
            batch_size: texts that are encoded at once.

        Raises:
            UsageError: an item is no text.
        """
        for text in _listed(texts, "texts"):
            if not isinstance(text, str):
                raise UsageError(f"encode_text takes a list of texts, and {shown(text)} is none")
        tokenize = self.spec.tokenize
        words = (tokenize(chunk, self.max_words) for chunk in _chunks(texts, batch_size))
        return self._joined([self.encode_words(chunk).pooled.float() for chunk in words])

    def similarity(self, text: Tensor, video: Tensor) -> Tensor:
        """Cosines (M, B) of texts and videos: features (M, E) and (B, E), as `encode_text` and `encode_video` give.

        Raises:
            UsageError: the model compares in another way than by two vectors.
        """
        pooling = self.method.task.inference().get("pooling")
        if pooling != "mean":
            raise UsageError(
                f"task {self.method.task.name} has pooling {pooling}: its similarities are not those of two vectors; "
                "`petl-bench test` gives its ranks"
            )
        return text @ video.T

    def answer(self, video: Video, question: str) -> str:
        """The answer to a question about a video.

        Raises:
            DataError: the file is missing or cannot be read as a video, or the moment is not in it.
            UsageError: the model was made for something else than questions.
        """
        return self.ask(video, question, top_k=1).answers[0].text

    def ask(self, video: Video, question: str = "", options: Sequence[str] = (), top_k: int = 5) -> Answers:
        """The best answers to a question about a video, with scores.

        Args:
            video: a path, or `(path, start, end)` in whole seconds.
            question: may be empty where options are captions, and the one is asked for that fits best.
            options: to choose from, at least two. A model of retrieval can do nothing else; one that classifies
                questions cannot.
            top_k: the most answers. A decoder that writes answers finds at most as many as it has beams.

        Raises:
            DataError: the file is missing or cannot be read as a video, or the moment is not in it.
            UsageError: the model cannot answer this question, or cannot choose from these options.
        """
        if whole_number(top_k) is None or top_k < 1:
            raise UsageError(f"top_k is {shown(top_k)}: give a whole number from 1 on")
        options = _options(options)
        if not isinstance(question, str) or not (question.strip() or options):
            raise UsageError(f"this takes a question, and {shown(question)} is none")
        task = self._answering(options)
        asked = Question(0, "", (), choices=tuple(options), prompt=question)
        row = Row(
            self.read(0, *_clip(video)),
            self.spec.tokenize([question], self.max_words),
            video_index=0,
            text_index=(0,),
            decoded=True,
            questions=(asked,),
            options=options_of((asked,), self.spec, self.max_words),
        )
        with self.exactly():
            (found,) = task.ranked(self.method.backbone, self.here(collate([row])), top_k)
        return Answers(task.scored_by, found)

    def _answering(self, options: Sequence[str]) -> QuestionTask:
        """The task that answers: that of the model, or the one that chooses by what it has learnt."""
        task = self.method.task
        chooser = task.chooser()
        if options:
            if chooser is None:
                raise UsageError(
                    f"this model was made for {task.name}, which cannot choose from options: leave them out"
                )
            return chooser
        if isinstance(task, QuestionTask) and chooser is not task:
            return task
        raise UsageError(
            f"this model was made for {task.name}, it answers no questions"
            + (" without options to choose from: give some" if chooser else ": load one of a QA task")
        )

    def as_mteb(self, name: str | None = None, revision: str | None = None) -> AdapterEncoder:
        """The model as an encoder for `mteb.evaluate` (extra `mteb`), see `petl_bench.mteb_encoder`.

        Importing MTEB seeds the global generators anew: do it in a process that trains nothing.

        Args:
            name: for MTEB's results, with a slash; None names method, backbone and data of the training.
            revision: of the results; None follows from weights, frame rule and transforms.

        Raises:
            UsageError: mteb is not installed, or the model compares in another way than by two vectors.
        """
        try:
            from petl_bench.mteb_encoder import AdapterEncoder
        except ImportError as error:
            raise UsageError(f"as_mteb takes mteb ({error}): pip install 'petl-bench[mteb]'") from error
        return AdapterEncoder(self, name, revision)

    # --- how --------------------------------------------------------------------------------------------------------

    def read(self, number: int, path: Path, moment: Moment) -> Clips:
        """One clip; where frames are drawn at random, they follow from its number, as in evaluation."""
        rng = np.random.default_rng(number) if is_random(self.clip_loader.rule.sampling) else None
        return self.clip_loader.load(path, Sample(str(path), (), moment), rng)

    def encode_clips(self, clips: Clips) -> VideoFeatures:
        """Features of clips that were read, on the model's device."""
        with self.exactly():
            return self.method.backbone.encode_video(self.here(clips))

    def encode_words(self, words: Words) -> TextFeatures:
        """Features of texts that were tokenised, on the model's device."""
        with self.exactly():
            return self.method.backbone.encode_text(self.here(words))

    def _joined(self, features: list[Tensor]) -> Tensor:
        """One tensor, which may also be computed on with gradients."""
        none = torch.empty(0, self.method.backbone.embed_dim, device=self.device)
        return torch.cat(features) if features else none

    def here(self, batch: Any) -> Any:
        """Tensors on the model's device."""
        return move_data_to_device(batch, self.device)

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Without gradients, in the precision of the weights."""
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            yield


def _options(items: Sequence[str]) -> Sequence[str]:
    wrong = [item for item in _listed(items, "options") if not isinstance(item, str) or not item.strip()]
    if wrong or len(items) == 1:
        raise UsageError(f"options: {shown(wrong[0]) if wrong else 'one'} is given: give at least two texts")
    return items


def _listed(items: Sequence[_Item], what: str) -> Sequence[_Item]:
    if isinstance(items, str | Path) or not isinstance(items, Sequence):
        raise UsageError(f"{what} is {shown(items)}: give a list")
    return items


def _clip(video: Video) -> tuple[Path, Moment]:
    """A file, and what of it is the clip."""
    if isinstance(video, str | Path):
        return expanded(video), WHOLE
    if not isinstance(video, tuple | list) or len(video) != 3 or not isinstance(video[0], str | Path):
        raise UsageError(f"{shown(video, 200)} is neither the path of a video nor (path, start, end)")
    path, *span = video
    start, end = (None if second is None else whole_number(second) for second in span)
    given = [second for second, said in ((start, span[0]), (end, span[1])) if said is not None]
    if None in given or (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise UsageError(f"{path}: a moment is given in whole seconds, 0 <= start < end, and not as {shown(span)}")
    return expanded(path), Moment(start, end)


def _chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    if whole_number(size) is None or size < 1:
        raise UsageError(f"batch_size is {shown(size)}: give a whole number from 1 on")
    return (items[first : first + size] for first in range(0, len(items), size))
