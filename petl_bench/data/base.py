"""The base of all data modules: splits, protocol, loaders that do not depend on the number of processes."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import shutil
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader

from petl_bench.configurable import Configurable
from petl_bench.data.augmentation import RandAugment, require_recipe
from petl_bench.data.batch import SplitTexts
from petl_bench.data.cache import Clip, FrameCache
from petl_bench.data.clip_files import VIDEO_SUFFIXES, AmbiguousClip, ClipFiles, is_text, outside, relative
from petl_bench.data.datasets import ClipLoader, EvaluationDataset, TrainingDataset, collate
from petl_bench.data.manifest import Entry, entry_of, read_manifest, refused
from petl_bench.data.mark import MARK
from petl_bench.data.reader import READING_RULES
from petl_bench.data.samplers import EpochBatches, UnpaddedShard
from petl_bench.data.samples import Protocol, Sample, Split, looked_up_by
from petl_bench.data.video import is_gif, reader_version, require_reader
from petl_bench.data.workers import AheadLoader, CurrentFiles, LateLoader, as_loader
from petl_bench.errors import DataError, UsageError
from petl_bench.inputs import FrameRule, InputSpec, Sampling, Words
from petl_bench.lightning_seams import batches_done
from petl_bench.machine.limits import require_temporary_folder
from petl_bench.ranges import Count, NonNegativeCount, Processes, Quality, Size
from petl_bench.storage.files import FileError, file_sha256, known_sha256
from petl_bench.storage.untrusted import expanded, is_folder, shown, shown_all

#: missing videos for which something like them is looked for
_HINTS = 3
#: captions tokenised at once, where they are counted
_CHUNK = 1000
#: where loader processes put batches, and how many each of them holds (torch's default)
_SHARED_MEMORY, _PREFETCHED = Path("/dev/shm"), 2


class VideoTextDataModule(Configurable, LightningDataModule):
    """Clips and captions of one dataset. Subclasses read annotation files; the rest is here.

    Args:
        root: folder of the dataset.
        batch_size: global: what one optimiser step sees, over all processes.
        eval_batch_size: videos per process and evaluation step; results do not depend on it.
        frames: T, frames per clip; shorter clips are padded and masked.
        frame_rate: moments per second of the grid that frames are chosen from; a clip with fewer frames than that shows
            some of them at several moments. Null takes every frame once.
        sampling: how T frames are chosen from the grid (`petl_bench.data.sampling`).
        augmentation: random changes of training clips (`petl_bench.data.augmentation.RandAugment`), such as
            `rand-m7-n4-mstd0.5-inc1`; they follow from seed, epoch and row, and need decoded frames, not cached ones;
            null for none.
        max_words: tokens per caption, start and end included; longer ones are cut.
        train_captions: `all` is one row per caption and epoch, `one` is one random caption per video and epoch.
        reader: `pyav`; or, where these packages are installed, `decord` for parity with published pipelines, or
            `torchcodec` to decode with the FFmpeg of the machine.
        cache: folder of a frame cache (`petl-bench data cache`) to read frames from, the same to the last bit; null
            decodes.
        jpeg_quality: frames go through JPEG of this quality (1 to 100; 95 keeps most) after they are resized, so that a
            cache of them is small. They are other pixels, of another evaluation: training and evaluation see them,
            cached or decoded. Null leaves pixels as they are.
        on_cache_miss: `error` stops at the start when clips are not in the cache; `decode` decodes them every time.
        manifest: what `petl-bench data verify` wrote; clips that it does not call good, or that changed since, count as
            unreadable. Null reads whatever is there.
        videos: folder of the clips below `root`; searched with all its sub-folders.
        num_workers: loader processes per process, which hand each batch over through shared memory. 0 reads in the
            process itself, and with a `cache` a batch ahead in a thread.
        loader_timeout: seconds without a batch after which a run stops and names the files; 0 waits for ever.
        val_videos: training videos held out for validation, for protocols without a validation split.
        bad_videos: `error` stops at a missing or unreadable video. `tolerate` trains without it, and in evaluation
            ranks it last and marks the run as incomplete; a test split never shrinks.
        partial: the files are a subset of the protocol's, so its counts are not asserted; marks the run.
        seed: of order, caption choice, random frames and augmentation; follows `seed_everything`.
        spec: what the backbone expects; linked from the model.
    """

    #: short name for folders and tables
    name: str  # pyright: ignore[reportIncompatibleVariableOverride]  # Lightning's may be None, ours is not
    #: what the texts are, as `Task.texts` says what a task reads
    texts: ClassVar[str] = "captions"
    #: whether there is nothing to train on: it evaluates what was trained on other data
    evaluation_only: ClassVar[bool] = False
    #: seconds by which a part of a file may end after it, where a manifest tells how long that is; None: any
    most_overrun: ClassVar[float | None] = None
    #: of the files that are clips
    suffixes: ClassVar[tuple[str, ...]] = VIDEO_SUFFIXES
    #: arguments that change no result: where files lie, how they are read, how the work is cut up
    operational: ClassVar[frozenset[str]] = frozenset(
        {"root", "eval_batch_size", "cache", "on_cache_miss", "num_workers", "loader_timeout"}
    )
    later_options: ClassVar[Mapping[str, Any]] = {"jpeg_quality": None}

    def __init__(
        self,
        root: Path,
        batch_size: Count = 128,
        eval_batch_size: Count = 32,
        frames: Size = 12,
        frame_rate: NonNegativeCount | None = 1,
        sampling: Sampling = "uniform",
        augmentation: str | None = None,
        max_words: Size = 32,
        train_captions: Literal["all", "one"] = "all",
        reader: Literal["pyav", "decord", "torchcodec"] = "pyav",
        cache: Path | None = None,
        jpeg_quality: Quality | None = None,
        on_cache_miss: Literal["error", "decode"] = "error",
        manifest: Path | None = None,
        videos: str = "videos",
        num_workers: Processes = 4,
        loader_timeout: NonNegativeCount = 600,
        val_videos: NonNegativeCount = 0,
        bad_videos: Literal["error", "tolerate"] = "error",
        partial: bool = False,
        seed: int = 0,
        spec: InputSpec | None = None,
    ) -> None:
        super().__init__()
        require_reader(reader)
        if augmentation is not None:
            require_recipe(augmentation)
        self.root = expanded(root)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.frames, self.frame_rate = frames, frame_rate
        self.sampling: Sampling = sampling
        self.augmentation = augmentation
        self.max_words, self.train_captions, self.reader = max_words, train_captions, reader
        self.cache, self.on_cache_miss = None if cache is None else Path(cache), on_cache_miss
        self.jpeg_quality = jpeg_quality
        self.manifest = None if manifest is None else expanded(manifest)
        self.videos, self.num_workers, self.val_videos = videos, num_workers, val_videos
        self.loader_timeout = loader_timeout
        self.bad_videos, self.partial, self.seed, self._spec = bad_videos, partial, seed, spec
        self._samples: dict[str, list[Sample]] = {}
        self._datasets: dict[str, TrainingDataset | EvaluationDataset] = {}
        self._missing: dict[str, list[str]] = {}
        self._not_cached: dict[str, int] = {}
        self._paths: dict[Split, list[Path | None]] = {}

    @property
    def is_linked(self) -> bool:
        """Whether somebody has said what the backbone expects."""
        return self._spec is not None

    @property
    def spec(self) -> InputSpec:
        """What the backbone expects.

        Raises:
            UsageError: if nobody has said it.
        """
        if self._spec is None:
            raise UsageError("data.spec is not set: give the backbone's `spec` to the data module")
        return self._spec

    # --- what a dataset defines -----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def protocol(self) -> Protocol:
        """The protocol that the chosen options stand for."""

    @abstractmethod
    def annotations(self, split: Split) -> list[Sample]:
        """The samples of a split in file order; an empty list if the protocol has no such split."""

    @abstractmethod
    def annotation_files(self) -> dict[str, Path]:
        """The annotation files in use by role, for the record of a run."""

    def file_option(self, role: str) -> str | None:
        """The argument that names the annotation file of a role; None if there is none."""
        given = {name for kind in type(self).__mro__ for name in inspect.signature(kind.__init__).parameters}
        return next((name for name in (role, f"{role}_file") if name in given), None)

    def video_ids(self, split: Split) -> list[str]:
        """The videos of a split, each once, also where their captions are in a file that is not there."""
        return list(dict.fromkeys(sample.file_id for sample in self.annotations(split)))

    def video_names(self, split: Split) -> dict[str, tuple[str, ...]]:
        """By id of a file, which mostly is that of its video, what it is found by: see `Sample.names`."""
        return {video: (video,) for video in self.video_ids(split)}

    def file_id(self, path: Path) -> str:
        """The video id that a clip file is for."""
        return path.stem

    def link(self, spec: InputSpec, seed: int) -> None:
        """Sets what a run links to the data: what the backbone expects, and the run's seed."""
        if (spec, seed) != (self._spec, self.seed):
            self._datasets.clear()
            vars(self).pop("clip_loader", None)
        self._spec, self.seed = spec, seed

    # --- splits ---------------------------------------------------------------------------------------------------

    def samples(self, split: Split) -> list[Sample]:
        """The checked samples of a split: counts asserted, held-out videos moved from train to val."""
        if split not in self._samples:
            self._samples |= {"test": self.checked("test")} if split == "test" else self._train_and_val()
        return self._samples[split]

    def has_truth(self, split: Split) -> bool:
        """Whether a split can be scored: the answers of some test splits are not public."""
        return all(question.answers for sample in self.samples(split) for question in sample.questions)

    def checked(self, split: Split) -> list[Sample]:
        """The samples of a split as the protocol has them.

        Raises:
            DataError: ids or texts cannot be, or their number is not the protocol's.
        """
        samples = self.of_any_number(split)
        if not self.partial and (other := self.other_counts(split, samples)):
            raise DataError(self.told_counts(split, other))
        return samples

    def of_any_number(self, split: Split) -> list[Sample]:
        """The samples that the annotation files have for a split, which may be less than the protocol's.

        Raises:
            DataError: ids or texts cannot be.
        """
        with self._naming_options():
            samples = self.annotations(split)
        self._check(split, samples)
        return samples

    def other_counts(self, split: Split, samples: Sequence[Sample]) -> dict[str, tuple[int, int]]:
        """What is counted of a split and is not the protocol's number: of which found, and expected."""
        found = {"videos": len(samples), self.texts: sum(len(s.captions) for s in samples)}
        expected = {"videos": self.protocol.videos.get(split), self.texts: self.protocol.captions.get(split)}
        if any(sample.file for sample in samples):
            found = {"clips": found.pop("videos"), "videos": len({s.file_id for s in samples})} | found
            expected = {"clips": expected.pop("videos"), "videos": self.protocol.files.get(split)} | expected
        return {
            what: (found[what], count) for what, count in expected.items() if count is not None and found[what] != count
        }

    def told_counts(self, split: Split, other: Mapping[str, tuple[int, int]]) -> str:
        """What is said of counts that are not the protocol's."""
        what, (found, expected) = next(iter(other.items()))
        return (
            f"{self.protocol.id}: {split} split has {found} {what}, expected {expected}: a file is cut or of another "
            f"protocol ({self._files_of(split)}); for a subset on purpose set data.partial true, which marks the run"
        )

    @contextmanager
    def _naming_options(self) -> Iterator[None]:
        """Says of a file that cannot be used which option names it, or that its folder is none."""
        try:
            yield
        except DataError as error:
            if not is_folder(self.root):
                raise DataError(f"data.root {self.root} is no folder: {error}") from error
            if option := self._option_told_of(str(error)):
                raise type(error)(f"{error} (see data.root and data.{option})") from error
            raise

    def _option_told_of(self, text: str) -> str | None:
        """The argument that names the annotation file that a message is about."""
        try:
            files = self.annotation_files()
        except DataError:  # none of the usual names is there
            return None
        told = [role for role, path in files.items() if str(path) in text]
        role = max(told, key=lambda role: len(str(files[role])), default=None)
        return None if role is None else self.file_option(role)

    def _train_and_val(self) -> dict[str, list[Sample]]:
        train, val = self.checked("train"), self.checked("val")
        if self.val_videos and val:
            raise UsageError(f"data.val_videos: {self.protocol.id} has a validation split of its own")
        videos = len({sample.file_id for sample in train})
        if self.val_videos and not 0 < self.val_videos < videos:
            raise UsageError(f"data.val_videos is {self.val_videos}: hold out 1 to {videos - 1} training videos")
        if self.val_videos:
            # The choice follows from the ids alone, so every method and seed holds out the same videos.
            files = sorted({sample.file_id for sample in train}, key=lambda id: hashlib.sha256(id.encode()).digest())
            ids = set(files[: self.val_videos])
            train, val = [s for s in train if s.file_id not in ids], [s for s in train if s.file_id in ids]
        return {"train": train, "val": val}

    def _check(self, split: str, samples: Sequence[Sample]) -> None:
        where = f"{split} split ({self._files_of(split)})"
        if not samples and split != "val" and not (split == "train" and self.evaluation_only):
            raise DataError(f"{where}: no videos in the annotation files")
        for video, count in Counter(sample.video for sample in samples).items():
            if count > 1:
                raise DataError(f"{where}: video {shown(video)} is listed {count} times; ids must be unique")
        for id in dict.fromkeys(id for sample in samples for id in (sample.video, sample.file_id)):
            if not id or any(c in id for c in "/\\\0") or id in (".", "..") or not is_text(id):
                raise DataError(f"{where}: video id {shown(id)} is no file name; refusing it")
        for name in (name for sample in samples for name in sample.names):
            if reason := outside(name):
                raise DataError(f"{where}: video {shown(name)} {reason}")
        empty = [s.video for s in samples if not s.captions or not all(c.strip() for c in s.captions)]
        if empty:
            raise DataError(f"{where}: {len(empty)} videos have no or empty {self.texts}: {shown_all(empty)}")

    def _files_of(self, split: str) -> str:
        """The annotation files that a split is read from, for messages."""
        others = tuple({"train", "val", "test"} - {split})
        try:
            files = self.annotation_files()
        except DataError:  # a file of another split is not there
            return str(self.root)
        own = [path for role, path in files.items() if not role.startswith(others)]
        return ", ".join(map(str, own or files.values()))  # the test split may be read from a part `val`

    def require_files(self, stage: str) -> None:
        """Refuses a run whose annotations or clips are not there, before a backbone is made.

        Args:
            stage: `fit`, `validate`, `test` or `predict`.

        Raises:
            DataError: a file is missing or damaged, or there are other counts than the protocol's.
        """
        if stage == "fit" and self.evaluation_only:
            return  # which is refused in words of its own
        for split in splits_of(stage):
            self._find(split, self.samples(split))

    def missing_clips(self) -> int:
        """How many clips were not found in the splits that were looked at."""
        return sum(path is None for paths in self._paths.values() for path in paths)

    def setup(self, stage: str) -> None:
        spec = self.spec  # before files are read
        if stage == "fit":
            self.require_frames_to_train_on()
            self._require_unseen()
        for split in splits_of(stage):
            if split not in self._datasets:
                self._datasets[split] = self._dataset(split, spec)

    def require_frames_to_train_on(self) -> None:
        """Refuses to train on cached frames with an augmentation, which changes frames before they are resized."""
        if self.augmentation is not None and self.cache is not None:
            raise UsageError(
                f"data.augmentation {self.augmentation} changes frames before they are resized, and data.cache holds "
                "resized ones: set data.cache null to decode, or data.augmentation null to train without it"
            )

    def _require_unseen(self) -> None:
        """Refuses test videos that are trained on, where the run is not marked as partial."""
        train, test = (self.told_apart(split, self.samples(split)) for split in ("train", "test"))
        seen = [video for key, video in test.items() if key in train]
        if seen and not self.partial:
            raise DataError(
                f"{len(seen)} videos are in the training and in the test split: {shown_all(seen)}; set data.partial "
                "true if that is on purpose, which marks the run"
            )

    def told_apart(self, split: Split, samples: Sequence[Sample]) -> dict[Path | str, str]:
        """Ids of videos by what tells one from another: its file, or its id where no file is found.

        Raises:
            DataError: a video may be in several files, or two are in one.
        """
        clips = self.clip_files()
        found = {} if clips is None else self._looked_up(split, clips, samples)
        return {found.get(sample.video, sample.file_id): sample.video for sample in samples}

    def _dataset(self, split: Split, spec: InputSpec) -> TrainingDataset | EvaluationDataset:
        samples = self.samples(split)
        paths = self._find(split, samples)
        loader = self.clip_loader
        if loader.cache is not None:
            self._look_up(split, loader.cache, _clips(samples, paths))
        tolerate = self.bad_videos == "tolerate"
        if split == "train":
            found = [(s, p) for s, p in zip(samples, paths, strict=True) if p is not None]
            augmentation = None if self.augmentation is None else RandAugment(self.augmentation)
            expand = self.train_captions == "all"
            return TrainingDataset(found, loader, expand, spec, self.max_words, self.seed, tolerate, augmentation)
        self._report_truncation(split, samples)
        return EvaluationDataset(samples, paths, loader, spec, self.max_words, tolerate)

    @functools.cached_property
    def clip_loader(self) -> ClipLoader:
        """How clips are read: from the cache where there is one."""
        loader = ClipLoader(
            FrameRule(self.frames, self.sampling, self.frame_rate),
            image_size=self.spec.image_size,
            resize=self.spec.resize,
            reader=self.reader,
            board=self.current_files,
            jpeg_quality=self.jpeg_quality,
        )
        if self.cache is None:
            return loader
        cache, chosen = FrameCache(self.cache, loader.profile), FrameCache(self.cache, loader.chosen_profile)
        if chosen.is_begun and not cache.is_begun:
            cache = chosen
        return replace(loader, cache=cache, decode_misses=self.on_cache_miss == "decode")

    @functools.cached_property
    def current_files(self) -> CurrentFiles:
        """The files that loader processes are at."""
        return CurrentFiles(self.num_workers)

    def clips(self) -> list[Clip]:
        """The clips of all splits, each once; without the missing ones where that is tolerated."""
        splits: tuple[Split, ...] = ("train", "val", "test")
        found = [_clips(self.samples(split), self._find(split, self.samples(split))) for split in splits]
        return list(dict.fromkeys(clip for clips in found for clip in clips))

    def _look_up(self, split: Split, cache: FrameCache, clips: Sequence[Clip]) -> None:
        """Tells before the first step which clips the cache lacks."""
        if self.on_cache_miss == "error":
            cache.require(clips)
            return
        missing = len(cache.missing(clips))
        self._not_cached[split] = missing
        if missing:
            rank_zero_warn(f"{split} split: {missing} of {len(clips)} clips are not in {cache.folder}: decoding them")

    def _find(self, split: Split, samples: Sequence[Sample]) -> list[Path | None]:
        """The file of each sample; None for a missing one where that is tolerated. Looked for once."""
        if split not in self._paths:
            self._paths[split] = self._look_for(split, samples)
        return self._paths[split]

    def _look_for(self, split: Split, samples: Sequence[Sample]) -> list[Path | None]:
        clips = self.clip_files()
        if clips is None:
            raise DataError(f"no folder of clips at {self.root / self.videos}: set data.root and data.videos")
        there = self._looked_up(split, clips, samples)
        if self.reader != "pyav" and (gif := next(filter(is_gif, there.values()), None)):
            raise UsageError(f"data.reader {self.reader} cannot open animated GIFs such as {gif}: set data.reader pyav")
        files = self._without_refused(split, samples, there)
        missing = [sample.video for sample in samples if sample.video not in files]
        self._missing[split] = missing
        if missing:
            where = f"{clips.folder} ({len(clips.paths)} clips with all sub-folders)"
            named = dict.fromkeys(sample.file_id for sample in samples if sample.video not in files)
            told = shown_all(list(named), 10) + _hints(clips, samples, there)
            message = f"{split} split: {len(missing)} of {len(samples)} videos are not below {where}: {told}"
            if self.bad_videos == "error":
                raise DataError(f"{message}; get them, or set data.bad_videos tolerate, which marks the run")
            rank_zero_warn(message)
        return [files.get(sample.video) for sample in samples]

    def _looked_up(self, split: Split, clips: ClipFiles, samples: Sequence[Sample]) -> dict[str, Path]:
        """The files that are there, by video id.

        Raises:
            DataError: a video may be in several files, or two are in one and not parts of it.
        """
        found: dict[str, Path] = {}
        videos: dict[Path, Sample] = {}
        for sample in samples:
            try:
                path = clips.find(looked_up_by(sample))
            except AmbiguousClip as error:
                raise DataError(f"{split} split: {error}") from error
            if path is None:
                continue
            other = videos.setdefault(path, sample)
            if other is not sample and (other.file_id, bool(other.file)) != (sample.file_id, bool(sample.file)):
                both = f"{shown(looked_up_by(other)[0])} and {shown(looked_up_by(sample)[0])}"
                raise DataError(f"{split} split: {both} are both {path}: write it one way")
            found[sample.video] = path
        return found

    def _without_refused(self, split: Split, samples: Sequence[Sample], files: dict[str, Path]) -> dict[str, Path]:
        """The files that the manifest vouches for.

        Raises:
            DataError: it refuses one, and that is not tolerated.
        """
        if self.manifest is None:
            return files
        entries = self._manifest_entries
        former = sum(entry.rules < READING_RULES for entry in entries.values())
        if former:
            rank_zero_info(
                f"{self.manifest}: {former} of {len(entries)} clips were verified by an earlier version; that they "
                "decode as a whole still holds, and petl-bench data verify adds what it did not say"
            )
        entry = entry_of(entries)
        of = {sample.video: sample for sample in samples}
        told = {video: entry(of[video].file_id, relative(path, self.root)) for video, path in files.items()}
        reasons = {
            video: refused(told[video], path) or self._overrun(of[video], told[video]) for video, path in files.items()
        }
        wrong = {video: reason for video, reason in reasons.items() if reason}
        if not wrong:
            return files
        names = "; ".join(f"{shown(video)} ({reason})" for video, reason in list(wrong.items())[:10])
        message = f"{split} split: {self.manifest} refuses {len(wrong)} of {len(samples)} videos: {names}"
        if self.bad_videos == "error":
            raise DataError(
                f"{message}; run petl-bench data verify, or set data.bad_videos tolerate, which marks the run"
            )
        rank_zero_warn(message)
        return {video: path for video, path in files.items() if video not in wrong}

    def _overrun(self, sample: Sample, entry: Entry | None) -> str:
        """Says how far a part of a file ends after it; empty where it does not, or nobody knows."""
        end, length = sample.moment.end, 0 if entry is None else entry.duration
        if self.most_overrun is None or end is None or not length or end <= length + self.most_overrun:
            return ""
        return f"it ends at second {end:g}, and its file at {length:g}"

    def clip_files(self) -> ClipFiles | None:
        """The clips that there are; None if there is no folder of clips."""
        return self._clip_files if (self.root / self.videos).is_dir() else None

    @functools.cached_property
    def _clip_files(self) -> ClipFiles:
        return ClipFiles(self.root / self.videos, self.suffixes, self.file_id)

    def _report_truncation(self, split: str, samples: Sequence[Sample]) -> None:
        texts = read_texts(samples)
        cut = count_cut(self.spec, texts, self.max_words)
        if cut:
            what = self.texts if len(texts) == sum(len(sample.captions) for sample in samples) else "options"
            share = 100 * cut / len(texts)
            rank_zero_info(f"{split} split: {cut} of {len(texts)} {what} ({share:.1f} %) cut to {self.max_words}")

    def test_texts(self) -> SplitTexts:
        """What a task may read of the test split beside its batches."""
        samples, spec = self.samples("test"), self.spec
        return SplitTexts(
            tuple(sample.video for sample in samples),
            tuple(caption for sample in samples for caption in sample.captions),
            lambda: [caption for sample in self.samples("train") for caption in sample.captions],
            lambda captions: Words(*spec.tokenize(captions, self.max_words)),
        )

    def test_rows(self) -> dict[str, list[Any]]:
        """What the rows of the test split are, once `setup` has found the clips.

        `clips`: id, file (below `root` where it is there; None where it is missing), first and last second (None for
        the beginning, and the end), and whether they are shown backwards; `captions`: in the order of `text_index`.
        """
        dataset = self._datasets["test"]
        assert isinstance(dataset, EvaluationDataset)
        clips = [
            {
                "video": sample.video,
                "file": None if path is None else self._below_root(path),
                "start": sample.moment.start,
                "end": sample.moment.end,
                "reverse": sample.reverse,
            }
            for sample, path in zip(dataset.samples, dataset.paths, strict=True)
        ]
        return {"clips": clips, "captions": [caption for sample in dataset.samples for caption in sample.captions]}

    def _below_root(self, path: Path) -> str:
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    # --- loaders --------------------------------------------------------------------------------------------------

    def training_batches(self) -> int:
        """Global batches of an epoch, once `setup` has found the clips.

        Raises:
            UsageError: the training split has fewer rows than one batch.
        """
        return self.batches_of(len(self._datasets["train"]))

    def batches_of(self, rows: int) -> int:
        """Global batches of an epoch of so many rows.

        Raises:
            UsageError: there are fewer rows than one batch has.
        """
        if rows < self.batch_size:
            raise UsageError(
                f"data.batch_size {self.batch_size} exceeds the {rows} rows of the training split: lower it"
            )
        return rows // self.batch_size

    def training_video_ids(self) -> list[str]:
        """Ids of the clips that are trained on, once `setup` has found them."""
        return [sample.video for sample in self._trained_on()]

    def training_file_ids(self) -> list[str]:
        """Ids of the files that these clips, or parts of which they, are; each once."""
        return list(dict.fromkeys(sample.file_id for sample in self._trained_on()))

    def _trained_on(self) -> list[Sample]:
        dataset = self._datasets["train"]
        assert isinstance(dataset, TrainingDataset)
        return [sample for sample, _ in dataset.samples]

    def train_dataloader(self) -> DataLoader[Any]:
        world, rank = self._processes()
        if self.batch_size % world:
            raise UsageError(f"data.batch_size {self.batch_size} is global and must be a multiple of {world} processes")
        dataset = self._datasets["train"]
        self.training_batches()  # fewer rows than a batch are refused
        batches = EpochBatches(len(dataset), self.batch_size, self.seed, rank, world, self._batches_done)
        return self._loader_class(dataset, batch_sampler=batches, **self._loading(self.batch_size // world))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._evaluation_loader("val") if len(self._datasets["val"]) else []

    def test_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: Split) -> DataLoader[Any]:
        world, rank = self._processes()
        dataset = self._datasets[split]
        return self._loader_class(
            dataset,
            batch_size=self.eval_batch_size,
            sampler=UnpaddedShard(len(dataset), rank, world),
            **self._loading(min(self.eval_batch_size, len(dataset))),
        )

    @property
    def _loader_class(self) -> type[LateLoader]:
        """With a thread for cached frames without processes; decoding takes far longer than a thread would save."""
        return AheadLoader if self.cache is not None and not self.num_workers else LateLoader

    def _loading(self, clips: int) -> dict[str, Any]:
        """How batches of so many clips reach this process."""
        if self.num_workers:
            require_temporary_folder()
            self._require_shared_memory(clips)
        return {
            "collate_fn": collate,
            "num_workers": self.num_workers,
            "worker_init_fn": as_loader,
            "timeout": self.loader_timeout if self.num_workers else 0,
            "pin_memory": self._on_gpu(),
        }

    def _require_shared_memory(self, clips: int) -> None:
        """Refuses to begin where batches would not fit: a loader process without memory hangs, and says nothing."""
        processes = 1 if self.trainer is None else self.trainer.num_devices  # of this machine
        needed = processes * self.num_workers * _PREFETCHED * clips * self.frames * 3 * self.spec.image_size**2
        if not _SHARED_MEMORY.is_dir() or needed <= (free := shutil.disk_usage(_SHARED_MEMORY).free):
            return
        raise DataError(
            f"{processes * self.num_workers} loader processes need {needed / 1e6:,.1f} MB of {_SHARED_MEMORY}, "
            f"{free / 1e6:,.1f} are free: lower data.num_workers (0 needs none), or raise it (docker run --shm-size)"
        )

    def _processes(self) -> tuple[int, int]:
        """World size and rank; one process outside a Trainer."""
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank

    def _batches_done(self) -> int:
        """How many batches of the current epoch are done; not 0 where a checkpoint was loaded."""
        return 0 if self.trainer is None else batches_done(self.trainer)

    def _on_gpu(self) -> bool:
        from pytorch_lightning.accelerators import CUDAAccelerator

        return self.trainer is not None and isinstance(self.trainer.accelerator, CUDAAccelerator)

    # --- record ---------------------------------------------------------------------------------------------------

    def profile(self) -> dict[str, Any]:
        """Everything that decides which pixels and tokens a method sees in evaluation."""
        jpeg = {} if self.jpeg_quality is None else {"jpeg_quality": self.jpeg_quality}
        return jpeg | {
            "frames": self.frames,
            "frame_rate": self.frame_rate,
            "sampling": self.sampling,
            "reader": self.reader,
            "resize": self.spec.resize,
            "image_size": self.spec.image_size,
            "mean": list(self.spec.mean),
            "std": list(self.spec.std),
            "max_words": self.max_words,
            "text_words": self.spec.text_words,
        }

    def protocol_record(self, split: Split = "test") -> dict[str, Any]:
        """The protocol block of a run record."""
        samples, files = self.samples(split), self._annotation_digests
        queries = sum(len(sample.captions) for sample in samples)
        missing = self._missing.get(split, [])
        return {
            "id": self.protocol.id,
            "dataset": self.dataset,
            "split_sha256": self.annotations_sha256(),
            "annotation_files": files,
            "n_queries": queries,
            "n_gallery": len(samples),
            "captions_per_video": queries / len(samples),
            "partial": (self.partial and not self.is_fixture()) or bool(missing),
            "n_found": len(samples) - len(missing),
            "n_expected": len(samples) if self.is_fixture() else self.protocol.videos.get(split, len(samples)),
            "preprocess": self.profile(),
            "preprocess_sha256": _hash(self.profile()),
        }

    def annotations_sha256(self) -> str:
        """Of all annotation files in use together.

        Raises:
            DataError: one of them cannot be read.
        """
        return _hash(self._annotation_digests)

    def contents(self) -> dict[str, Any]:
        """What stands for the paths among the arguments: the SHA-256 of annotation files, the verdicts of a manifest.

        Files that are not there are left out; who needs them says so.
        """
        try:
            digests = self._annotation_digests
        except DataError:
            digests = {}
        found: dict[str, Any] = {}
        for role, digest in digests.items():
            found.setdefault(self.file_option(role) or "annotation_files", {})[role] = f"sha256:{digest}"
        one_file = {option: next(iter(roles.values())) for option, roles in found.items() if len(roles) == 1}
        return found | one_file | {"manifest": self._left_out_by_the_manifest()}

    def _left_out_by_the_manifest(self) -> list[str] | None:
        """Videos that the manifest refuses, where a run goes on without them."""
        if self.manifest is None or self.bad_videos == "error":
            return None
        return sorted(video for video, entry in self._manifest_entries.items() if entry.status in ("bad", "missing"))

    @functools.cached_property
    def _manifest_entries(self) -> dict[str, Entry]:
        return {} if self.manifest is None else read_manifest(self.manifest)

    @functools.cached_property
    def training_rows_sha256(self) -> str:
        """Of what is trained on, in order; videos that are missing or held out are not among it."""
        return _hash([_row(sample) for sample in self._trained_on()])

    @functools.cached_property
    def _annotation_digests(self) -> dict[str, str]:
        """By role; read once, as the files may have 100 MB."""
        try:
            return {role: file_sha256(path) for role, path in sorted(self.annotation_files().items())}
        except FileError as error:
            raise DataError(f"{error}; set data.root") from error

    def record(self) -> dict[str, Any]:
        """What a run's record says of the data: `origin`, `protocol`, and the manifest clips were checked with."""
        return {
            "origin": "fixture" if self.is_fixture() else "measured",
            "protocol": self.protocol_record(),
            "env": {"manifest_sha256": known_sha256(self.manifest)},
        }

    def reading(self) -> dict[str, Any]:
        """For the `env` block of a record: what frames were read with, and which cache they came from."""
        return {"decoder": f"{self.reader} {reader_version(self.reader)}", "frame_cache": self._frame_cache()}

    def _frame_cache(self) -> dict[str, Any] | None:
        """Which cache frames were read from, and how many clips it lacked; None where all were decoded."""
        cache = self.clip_loader.cache
        if cache is None:
            return None
        return {"profile_sha256": cache.profile.sha256, "clips_decoded": sum(self._not_cached.values())}

    @property
    def dataset(self) -> str:
        """The dataset's name in folders and tables; generated data has a name of its own."""
        return f"{self.name}-fixture" if self.is_fixture() else self.name

    def is_fixture(self) -> bool:
        """True for generated data, whose figures are no benchmark."""
        return (self.root / MARK).is_file()


def splits_of(stage: str) -> tuple[Split, ...]:
    """The splits that a command (`fit`, `validate`, `test`, `predict`) reads."""
    every: dict[str, tuple[Split, ...]] = {"fit": ("train", "val", "test"), "validate": ("val",)}
    return every.get(stage, ("test",))


def _row(sample: Sample) -> tuple[Any, ...]:
    """What a sample is for training, whatever its file is called."""
    # Questions without choices are written as before there were any, so that runs of before can be continued.
    questions = tuple(question if question.choices else question[:4] for question in sample.questions)
    row = (sample.video, sample.captions, sample.moment.start, sample.moment.end, questions)
    return (*row, "reverse") if sample.reverse else row


def _hints(clips: ClipFiles, samples: Sequence[Sample], found: Mapping[str, Path]) -> str:
    """What there is that is like the first of the videos without a file; empty if nothing is."""
    gone = [sample for sample in samples if sample.video not in found][:_HINTS]
    used = set(found.values())
    hints = {sample.video: clips.hint(looked_up_by(sample)[0], used) for sample in gone}
    near = "; ".join(f"in place of {shown(video)} there is {hint}" for video, hint in hints.items() if hint)
    return f" ({near})" if near else ""


def _clips(samples: Sequence[Sample], paths: Sequence[Path | None]) -> list[Clip]:
    """The clips of samples whose files are there, each once: one in reverse is that clip."""
    return list(dict.fromkeys(Clip(p, s.moment) for s, p in zip(samples, paths, strict=True) if p is not None))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_texts(samples: Sequence[Sample]) -> list[str]:
    """What a model reads of the samples: captions or questions, or each option behind its question."""
    options = [text for sample in samples for question in sample.questions for text in question.options]
    return options or [caption for sample in samples for caption in sample.captions]


def count_cut(spec: InputSpec, captions: Sequence[str], max_words: int) -> int:
    """How many captions lose words at `max_words`."""
    chunks = (captions[first : first + _CHUNK] for first in range(0, len(captions), _CHUNK))
    # Of the tokeniser itself, as there may be no more tokens that the backbone reads.
    return sum(int((spec.tokenizer(chunk, max_words + 1)[1].sum(1) > max_words).sum()) for chunk in chunks)
