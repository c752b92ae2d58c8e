"""Frame cache: decoded and resized frames on disk, which all processes and runs of equal preprocessing share.

Layout: `<cache>/<profile>/<2 digits>/<video sha256>[_<start>_<end>].safetensors` (seconds, such as 7 or 7.7), one file
per clip, beside `profile.json` (what the name of the profile folder stands for) and `sources.jsonl` (SHA-256 by path,
size and time of change of a video file, so that an unchanged one is not read to know it).

One file per clip rather than one array or shards: each is renamed into place when it is whole, so kill -9, a full disk
and builders at work side by side can lose the clip in work but damage none; nothing is locked, which NFS does badly;
building again makes what is missing, and a changed video replaces nothing. 70,000 clips are 70,000 inodes in 256
folders, and at 2 MB and more each reads as fast as one large file. Only the frames that a row uses are read, from the
page cache right into its place in a batch: mapping the file costs a page fault for every 4 KiB beside the copy, ends
the process where a file is cut short meanwhile, and is not possible on every file system.

Which frames: those of the whole grid of `frame_rate`, each once, so that every sampling and any number of frames reads
the same cache, the random ones included. With `frame_rate: null` a fixed sampling caches just the frames that it
chooses, and a random one every frame of the video, which is large: give a frame rate there. So does a fixed sampling
with `petl-bench data cache --keep chosen`, for sets whose grids do not fit a disk: another sampling or number of frames
then needs frames of its own, and is refused those in a line that says what they are. An entry of a clip whose
rate varies has the times of all frames beside them, from which later choices follow.

With `data.jpeg_quality` frames are kept as JPEG files, one after another in the file of the clip, in a profile of their
own. They are other pixels, which the option stands for wherever frames come from: what is decoded goes through JPEG,
too, so that a run does not depend on what is cached. An entry of one kind is never read as one of the other.

Integrity: a checksum per frame (of its JPEG), compared whenever the frame is read (`checksum.word_sum`; a CRC-32 in
entries that were written without it, and beside it for versions that do not know it), a CRC-32 over the description of
the entry, and the SHA-256 of all frames for `petl-bench data cache --recheck`.

What a reader makes of a file has a version (`READING_RULES`), which is part of the profile. A folder of the version
before is never read; `petl-bench data cache` takes over those of its entries whose clip is read alike, without a second
copy on disk, and decodes the others (`FrameCache.take_over`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from petl_bench.data.checksum import word_sum
from petl_bench.data.jpeg import decode, encoded, joined, jpeg_version
from petl_bench.data.reader import READING_RULES, VideoError, VideoReader
from petl_bench.data.sampling import FILLED, choose_frames, frame_grid, is_random
from petl_bench.data.video import TimedFrames, open_video, reader_version, resize_frames, times_of
from petl_bench.errors import CheckpointError, DataError
from petl_bench.inputs import WHOLE, FrameRule, Moment, Resize, Sampling
from petl_bench.machine.resources import exhausted
from petl_bench.storage.files import (
    NO_LINK,
    FileError,
    file_sha256,
    make_ours,
    move,
    replacing,
    warn_once,
    write_atomically,
    write_bytes_atomically,
)
from petl_bench.storage.untrusted import expanded

#: what the owner of a shared cache can do
_SHARE = "have its owner make the cache readable (chmod -R g+rX)"
#: what a call that would write says of what is only to be read
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: what says which frames a folder has
_PROFILE = "profile.json"
#: first bytes of an entry that are read at once; they hold the description of all but a few
_HEAD = 2**14
#: bytes that are read at a time where all of an entry is compared
_BLOCK = 2**20
#: frames decoded at a time are at most this many bytes before they are resized
_DECODED_BYTES = 512 * 2**20

#: frame numbers from the number of frames, the frames per second and the times of a video (`sampling.choose_frames`)
Choose = Callable[[int, float, np.ndarray | None], np.ndarray]


class CacheMiss(DataError):
    """The cache has no sound frames of a clip; the message names clip and remedy."""


class DamagedEntry(CacheMiss):
    """The cache has frames of a clip that are not what was written; the message names the file."""


@dataclass(frozen=True)
class Profile:
    """What decides which pixels a clip has in the cache.

    Attributes:
        image_size: S, in pixels.
        resize: how frames are made square.
        reader: name in `petl_bench.data.video.READERS`.
        rate: frames per second of the grid; None for every frame.
        sampling: the fixed rule if only its choice is kept; else None. That is any fixed rule without a grid, `filled`,
            which leaves the grid, and whatever is asked for.
        count: how many frames that rule chooses; else None.
        reader_version: of the package that decodes.
        torch_version: of the package that resizes.
        rules: version of what a reader makes of a file.
        jpeg_quality: of the JPEG files that the frames are kept as; None keeps their pixels.
        jpeg_version: of the library that writes them; else None.
    """

    image_size: int
    resize: Resize
    reader: str
    rate: int | None
    sampling: Sampling | None
    count: int | None
    reader_version: str
    torch_version: str
    rules: int = READING_RULES
    jpeg_quality: int | None = None
    jpeg_version: str | None = None

    @classmethod
    def of(
        cls,
        rule: FrameRule,
        image_size: int,
        resize: Resize,
        reader: str,
        only_chosen: bool = False,
        jpeg_quality: int | None = None,
    ) -> Profile:
        """The profile that serves a loader of these settings, with the packages installed here.

        Args:
            rule: which frames the loader reads.
            image_size: see the attributes.
            resize: see the attributes.
            reader: see the attributes.
            only_chosen: keep no other frames than a fixed rule reads, also where it chooses from a grid.
            jpeg_quality: see the attributes.
        """
        chosen = (only_chosen or rule.rate is None or rule.sampling == FILLED) and not is_random(rule.sampling)
        return cls(
            image_size=image_size,
            resize=resize,
            reader=reader,
            rate=rule.rate,
            sampling=rule.sampling if chosen else None,
            count=rule.count if chosen else None,
            reader_version=reader_version(reader),
            torch_version=torch.__version__.partition("+")[0],
            jpeg_quality=jpeg_quality,
            jpeg_version=None if jpeg_quality is None else jpeg_version(),
        )

    @property
    def fields(self) -> dict[str, Any]:
        """What the name of the folder stands for; of pixels as they are nothing about JPEG, as before there was any."""
        jpeg = self.jpeg_quality is not None
        return {key: value for key, value in asdict(self).items() if jpeg or not key.startswith("jpeg_")}

    @property
    def sha256(self) -> str:
        """Hash of all fields."""
        return _sha256(self.fields)

    @property
    def sha256_of_rules_1(self) -> str:
        """The hash under which petl_bench 0.1.0 up to commit 3e531d0 kept such frames, which knew no `rules`."""
        return _sha256({key: value for key, value in self.fields.items() if key != "rules"})

    @property
    def remedy(self) -> str:
        """The command that makes what is missing."""
        asked_for = self.sampling is not None and self.rate is not None and self.sampling != FILLED
        return "petl-bench data cache" + (" --keep chosen" if asked_for else "")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame before it is a JPEG."""
        return 3 * self.image_size**2

    def numbers(self, num_frames: int, fps: float, times: np.ndarray | None, moment: Moment = WHOLE) -> np.ndarray:
        """The frame numbers to keep of a clip, ascending, each once.

        Raises:
            DataError: a second is asked for, and the frames have no times.
        """
        if self.sampling is None or self.count is None:
            return np.unique(frame_grid(num_frames, fps, times, self.rate, moment))
        rule = FrameRule(self.count, self.sampling, self.rate)
        return np.unique(choose_frames(num_frames, fps, times, rule, moment))


class Clip(NamedTuple):
    """A video file, or the moment of it that is a clip."""

    path: Path
    moment: Moment = WHOLE


class FrameCache:
    """The frames of one profile below a cache folder.

    Args:
        folder: of the cache; shared by all profiles and datasets.
        profile: what the frames are.
    """

    def __init__(self, folder: Path, profile: Profile) -> None:
        self.profile = profile
        self.folder = expanded(folder).absolute() / profile.sha256[:16]
        self.former = self.folder.with_name(profile.sha256_of_rules_1[:16])
        self.sources = Sources(self.folder / "sources.jsonl", self.former / "sources.jsonl")

    @property
    def is_begun(self) -> bool:
        """Whether somebody has begun to fill it."""
        return _is_there(self.folder / _PROFILE)

    def entry(self, clip: Clip) -> Path:
        """Where the frames of a clip are, or would be.

        Raises:
            VideoError: the video file cannot be read.
        """
        return self.folder / self._name(clip)

    def _name(self, clip: Clip) -> str:
        sha256 = self.sources.find(clip.path).sha256
        start, end = clip.moment.start or 0, clip.moment.end or "end"
        moment = "" if clip.moment.is_whole else f"_{start}_{end}"
        return f"{sha256[:2]}/{sha256}{moment}.safetensors"

    def read(self, clip: Clip, choose: Choose, room: Tensor | None = None) -> TimedFrames:
        """Frames of a clip with their times, to the last bit those that decoding gives, and then JPEG if it is one.

        Args:
            clip: the clip.
            choose: frame numbers from what is known of the video.
            room: uint8 (T, 3, S, S), contiguous, where the frames are put; what an error leaves there is nothing. None
                makes room.

        Returns:
            The n frames that are chosen: the first of `room`.

        Raises:
            CacheMiss: the clip is not in the cache as its video file is now.
            DamagedEntry: it is, but is not what was written.
            VideoError: the video file cannot be read.
            ValueError: there are more than T frames.
        """
        path = self.entry(clip)
        try:
            with self._opened(path) as entry:
                return entry.frames(choose, clip.moment, room)
        except PermissionError as error:
            raise _unreadable(path, error) from error
        except FileNotFoundError as error:
            raise CacheMiss(f"{clip.path}: {self._absent([clip])}") from error

    def missing(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips without an entry for their video file as it is now."""
        return [clip for clip in clips if not _is_there(self.entry(clip))]

    def require(self, clips: Sequence[Clip]) -> None:
        """Checks before a run that its clips are there.

        Raises:
            CacheMiss: some are not.
        """
        missing = self.missing(clips)
        if missing:
            names = ", ".join(clip.path.name for clip in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise CacheMiss(f"{len(missing)} of {len(clips)} clips ({names}): {self._absent(missing)}")

    def take_over(self, clip: Clip) -> bool | None:
        """Takes the entry of the former reading rules, without decoding, where this version reads the clip alike.

        The file is linked into the folder of this version, or moved where links cannot be made.

        Returns:
            True if the entry is here now, False if the clip is read otherwise, None if there is no former entry.

        Raises:
            VideoError: the video file cannot be read.
            CheckpointError: the entry can be neither linked nor moved.
        """
        if not self.has_former(clip):
            return None
        former, entry = self.former / self._name(clip), self.entry(clip)
        try:
            with self._opened(former) as found:
                description = found.description
            alike = self._reads_alike(clip, description)
        except DamagedEntry:
            return False
        if not alike:
            return False
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(former, entry)
            except FileExistsError:  # of another builder
                pass
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise
                _without_links(former, entry)
        except OSError as error:
            lacking = exhausted(error, entry)
            untaken = CheckpointError(f"{entry}: cannot be taken over from {former}: {error.strerror}")
            raise lacking or untaken from error
        return True

    def _reads_alike(self, clip: Clip, former: dict[str, Any]) -> bool:
        """Whether the frames of a former entry are those that decoding would give today."""
        with open_video(clip.path, self.profile.reader, former["num_frames"]) as video:
            numbers = self._numbers(video, clip)
            whole = self.profile.rate is None and clip.moment.is_whole
            in_step = whole or (video.timing.times is None and video.info.fps == former["fps"])
            counted = video.info.num_frames == former["num_frames"] and numbers.tolist() == former["numbers"]
            return video.reads_as_rules_1 and in_step and counted

    def check(self, clip: Clip) -> None:
        """Reads all of an entry and compares it with its SHA-256.

        Raises:
            FileNotFoundError: there is none.
            DamagedEntry: it is not what was written.
        """
        with self._opened(self.entry(clip)) as entry:
            entry.check()

    def store(self, clip: Clip) -> None:
        """Decodes a clip and commits its frames; an entry that is there is replaced.

        Raises:
            VideoError: the clip cannot be decoded.
            CheckpointError: the folder of the entry cannot be made.
            FileError: the entry cannot be written.
        """
        path = self.entry(clip)
        content = self._decode(clip)
        if self.entry(clip) != path:
            raise VideoError(f"{clip.path}: changed while it was decoded")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            unmade = CheckpointError(f"{path.parent}: cannot be made: {error.strerror}")
            raise exhausted(error, path.parent) or unmade from error
        write_bytes_atomically(path, content)

    def write_profile(self) -> None:
        """Makes the folder, with what its name stands for, unless it is there: then nothing is written.

        Raises:
            CheckpointError: it cannot be made.
            FileError: the file cannot be written.
        """
        path, text = self.folder / _PROFILE, json.dumps(self.profile.fields, indent=2) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.is_file() and path.read_text(encoding="utf-8") == text:
                return
        except UnicodeDecodeError:  # damaged
            pass
        except OSError as error:
            unmade = CheckpointError(f"{error.filename or self.folder}: {error.strerror}; set --cache, or {_SHARE}")
            raise exhausted(error, self.folder) or unmade from error
        write_atomically(path, text)

    def number_of_frames(self, clip: Clip) -> int:
        """How many frames an entry would hold, without decoding them.

        Raises:
            VideoError: the file cannot be read, or has no frame in the clip.
        """
        with open_video(clip.path, self.profile.reader) as video:
            return len(self._numbers(video, clip))

    def jpeg_bytes(self, clip: Clip) -> int:
        """How large the frame in the middle of an entry would be as JPEG.

        Raises:
            VideoError: the clip cannot be decoded up to there.
            ValueError: the cache keeps no JPEG.
        """
        if self.profile.jpeg_quality is None:
            raise ValueError("the frames of this cache are no JPEG")
        with open_video(clip.path, self.profile.reader) as video:
            numbers = self._numbers(video, clip)
            middle = len(numbers) // 2
            frames = self._square(video.read(numbers[middle : middle + 1]))
        return len(encoded(frames, self.profile.jpeg_quality)[0])

    def _numbers(self, video: VideoReader, clip: Clip) -> np.ndarray:
        info = video.info
        try:
            numbers = self.profile.numbers(info.num_frames, info.fps, video.timing.times, clip.moment)
        except DataError as error:
            raise video.refusal(error) from error
        if len(numbers) == 0:
            raise VideoError(f"{clip.path}: no frame {clip.moment}")
        return numbers

    def _decode(self, clip: Clip) -> bytes:
        with open_video(clip.path, self.profile.reader) as video:
            info = video.info
            numbers = self._numbers(video, clip)
            at_once = max(_DECODED_BYTES // (3 * info.width * info.height), 1)
            parts = [self._square(video.read(numbers[i : i + at_once])) for i in range(0, len(numbers), at_once)]
            times = video.timing.times
        description: dict[str, Any] = {"num_frames": info.num_frames, "fps": info.fps, "numbers": numbers.tolist()}
        tensors = self._kept(torch.cat(parts), description)
        if times is not None:
            tensors["times"] = torch.from_numpy(times)
            description["times_crc32"] = _crc32(tensors["times"])
        text = json.dumps(description)
        return save(tensors, {"clip": text, "crc32": str(zlib.crc32(text.encode()))})

    def _kept(self, frames: Tensor, description: dict[str, Any]) -> dict[str, Tensor]:
        """What a file holds of frames (n, 3, S, S), which is added to its description."""
        quality = self.profile.jpeg_quality
        if quality is None:
            content, sums = frames, [word_sum(frame.numpy().reshape(-1).data) for frame in frames]
            description["crc32"] = [_crc32(frame) for frame in frames]
        else:
            files = encoded(frames, quality)
            content, sums = joined(files), [word_sum(memoryview(file)) for file in files]
            description |= {"jpeg_quality": quality, "shape": [*frames.shape[1:]], "lengths": [len(f) for f in files]}
        description |= {"sums": sums, "sha256": hashlib.sha256(content.numpy().data).hexdigest()}
        return {"frames" if quality is None else "jpeg": content}

    def _square(self, pixels: np.ndarray) -> Tensor:
        """(n, H, W, 3) to (n, 3, S, S), as `load_frames` does."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return resize_frames(images, self.profile.image_size, self.profile.resize)

    def has_former(self, clip: Clip) -> bool:
        """Whether there is an entry of the former reading rules, to be looked at by `take_over`.

        Raises:
            VideoError: the video file cannot be read.
        """
        return _is_there(self.former / self._name(clip))

    @contextmanager
    def _opened(self, path: Path) -> Iterator[_Entry]:
        """The entry in a file, for as long as it is read.

        Raises:
            FileNotFoundError: there is none.
            PermissionError: this user may not read it.
            DamagedEntry: it cannot be read.
        """
        try:
            with path.open("rb", buffering=0) as file:
                quality = self.profile.jpeg_quality
                yield _Entry(path, file.fileno()) if quality is None else _JpegEntry(path, file.fileno(), quality)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            raise exhausted(error, path) or _damaged(path, f"cannot be read as cached frames ({error})") from error

    def _absent(self, clips: Sequence[Clip]) -> str:
        where = f"not in the frame cache {self.folder}"
        if any(self.has_former(clip) for clip in clips):
            return (
                f"{where}; {self.former} has frames that an earlier version read by other rules (times of frames, "
                "mirrors): run petl-bench data cache, which keeps what is read alike and makes the rest again, or set "
                "data.on_cache_miss decode"
            )
        # The commonest reason for a cache of other frames is another sampling, size or version.
        others = [] if self.folder.is_dir() else sorted(self.folder.parent.glob(f"*/{_PROFILE}"))
        if others:
            where += f", but {self.folder.parent} has frames of other settings ({_difference(others[0], self.profile)})"
        return f"{where}; run {self.profile.remedy}, or set data.on_cache_miss decode"


class _Entry:
    """One open file of frames in the format of safetensors, its description checked.

    Raises:
        DamagedEntry: the description cannot be read, or is not what was written.
    """

    #: the tensor that has the frames
    name = "frames"

    def __init__(self, path: Path, file: int) -> None:
        self._path, self._file = path, file
        try:
            self._begin, self._tensors = self._header()
            metadata = self._tensors.pop("__metadata__", {})
            shape, self._first = self._tensor(self.name, "U8", 1)
            text, crc32 = metadata["clip"], metadata["crc32"]
            self._bytes, self._shape = math.prod(shape), shape[1:]
            found = str(zlib.crc32(text.encode()))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(f"cannot be read as cached frames ({error or type(error).__name__})") from error
        if found != crc32:
            raise self._damaged("the description of the cached frames is damaged")
        #: as `FrameCache` wrote it
        self.description: dict[str, Any] = json.loads(text)
        self._times = self._read_times() if "times" in self._tensors else None

    def _header(self) -> tuple[int, dict[str, Any]]:
        """Where the tensors begin, and what the file says of them: 8 bytes of length, and JSON."""
        head = os.pread(self._file, _HEAD, 0)
        begin = 8 + int.from_bytes(head[:8], "little")
        self._size = os.fstat(self._file).st_size
        if begin > len(head):
            head = os.pread(self._file, min(begin, self._size), 0)
        return begin, json.loads(head[8:begin])

    def _tensor(self, name: str, dtype: str, size: int) -> tuple[list[int], int]:
        """Shape of a tensor of `size` bytes an element, and where in the file it begins."""
        told = self._tensors[name]
        first, end = told["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*told["shape"], first, end)):
            raise ValueError(f"{name!r} has no such shape or place")
        if told["dtype"] != dtype or math.prod(told["shape"]) * size != end - first or self._begin + end > self._size:
            raise ValueError(f"{name!r} is not as long as it says")
        return told["shape"], self._begin + first

    def _read_times(self) -> np.ndarray:
        try:
            shape, first = self._tensor("times", "F64", 8)
            times = np.empty(shape, np.float64)
        except (ValueError, LookupError, TypeError) as error:
            raise self._damaged(f"cannot be read as cached frames ({error})") from error
        memory = times.view(np.uint8).data
        self._fill(memory, first)
        if zlib.crc32(memory) != self.description.get("times_crc32"):
            raise self._damaged("the times of the cached frames are damaged")
        return times

    def frames(self, choose: Choose, moment: Moment, room: Tensor | None = None) -> TimedFrames:
        """The chosen frames, each compared with its checksum, and their times in the moment."""
        fps, numbers = self.description["fps"], np.array(self.description["numbers"])
        wanted = choose(self.description["num_frames"], fps, self._times)
        slots = np.searchsorted(numbers, wanted)
        if not np.array_equal(numbers.take(slots, mode="clip"), wanted):
            raise ValueError(f"frames {wanted.tolist()} are not all among the cached {numbers.tolist()}")
        frames = self._put(slots.tolist(), room)
        return TimedFrames(frames, times_of(wanted, fps, self._times, moment))

    def _put(self, slots: Sequence[int], room: Tensor | None) -> Tensor:
        """Reads frames by their place in the entry."""
        if room is None:
            room = torch.empty((len(slots), *self._shape), dtype=torch.uint8)
        if len(slots) > len(room):
            raise ValueError(f"{len(slots)} frames do not fit into {len(room)}")
        if [*room.shape[1:]] != self._shape:
            raise self._damaged(f"the cached frames are {self._shape}, and not {[*room.shape[1:]]}")
        frames = room[: len(slots)]
        self._read(slots, frames)
        return frames

    def _read(self, slots: Sequence[int], frames: Tensor) -> None:
        """Reads frames by their place in the entry to where they are to lie (n, 3, S, S)."""
        size = math.prod(self._shape)
        sums = self.description.get("sums")
        checksum, expected = (zlib.crc32, self.description["crc32"]) if sums is None else (word_sum, sums)
        memory = frames.numpy().reshape(-1).data
        for place, slot in enumerate(slots):
            pixels = memory[place * size : (place + 1) * size]
            self._fill(pixels, self._first + slot * size)
            if checksum(pixels) != expected[slot]:  # while they are in the processor's cache
                raise self._damaged_frame(slot)

    def _fill(self, room: memoryview, first: int) -> None:
        """Reads as many bytes of the file as there is room for."""
        done = os.preadv(self._file, [room], first)
        while done < len(room):
            more = os.preadv(self._file, [room[done:]], first + done)
            if not more:
                raise self._damaged("cannot be read as cached frames (it ends too early)")
            done += more

    def check(self) -> None:
        """Compares all frames with their SHA-256."""
        found, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
        for done in range(0, self._bytes, _BLOCK):
            part = block[: self._bytes - done]
            self._fill(part, self._first + done)
            found.update(part)
        if found.hexdigest() != self.description["sha256"]:
            raise self._damaged("the cached frames differ from their SHA-256")

    def _damaged_frame(self, slot: int, why: str = "") -> DamagedEntry:
        return self._damaged(f"cached frame {self.description['numbers'][slot]} is damaged{why}")

    def _damaged(self, what: str) -> DamagedEntry:
        return _damaged(self._path, what)


class _JpegEntry(_Entry):
    """An entry whose frames are JPEG files.

    Raises:
        DamagedEntry: as `_Entry`, or the frames are of another quality.
    """

    name = "jpeg"

    def __init__(self, path: Path, file: int, quality: int) -> None:
        super().__init__(path, file)
        self._shape: list[int] = self.description.get("shape", [])
        if (found := self.description.get("jpeg_quality")) != quality:
            raise self._damaged(f"the cached frames are JPEG of quality {found}, and not {quality}")

    def _read(self, slots: Sequence[int], frames: Tensor) -> None:
        lengths, sums = self.description["lengths"], self.description["sums"]
        begins = np.cumsum([self._first, *lengths]).tolist()
        for slot, frame in zip(slots, frames, strict=True):
            content = bytearray(lengths[slot])
            self._fill(memoryview(content), begins[slot])
            if word_sum(memoryview(content)) != sums[slot]:
                raise self._damaged_frame(slot)
            try:
                decode(content, frame)
            except ValueError as error:
                raise self._damaged_frame(slot, f" ({error})") from error


def _damaged(path: Path, what: str) -> DamagedEntry:
    return DamagedEntry(f"{path}: {what}; mend it with petl-bench data cache --recheck")


class Source(NamedTuple):
    """A video file as it was when it was hashed."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


class Sources:
    """SHA-256 of video files by path, size and time of change, so that an unchanged file is hashed once.

    Records are appended, each begun by a line feed: what a kill cuts short spoils one record, which costs a hash.

    Args:
        file: the list; need not exist.
        more: another list that is read, too, if it exists.
    """

    def __init__(self, file: Path, more: Path) -> None:
        self._file, self._more = file, more

    def find(self, path: Path) -> Source:
        """A video file as it is now; hashed if that is not known.

        Raises:
            VideoError: the file cannot be read.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise exhausted(error, path) or VideoError(f"{path}: {error.strerror}") from error
        state = (str(path.absolute()), status.st_size, status.st_mtime_ns)
        if state not in self._known:
            try:
                self._known[state] = Source(*state, file_sha256(path))
            except FileError as error:
                raise VideoError(str(error)) from error
        return self._known[state]

    def record(self, source: Source) -> None:
        """Appends a hash for later processes, unless it is there, or the list is only to be read.

        Raises:
            CheckpointError: the list cannot be written.
        """
        if source in self._recorded:
            return
        self._recorded.add(source)
        self._known[source[:3]] = source
        try:
            make_ours(self._file)
            with self._file.open("ab") as file:
                file.write(f"\n{json.dumps(source._asdict())}".encode())
        except OSError as error:
            if error.errno not in _READ_ONLY:
                unwritten = CheckpointError(f"{self._file}: cannot be written: {error.strerror}")
                raise exhausted(error, self._file) or unwritten from error
            warn_once(f"{self._file}: {error.strerror}: videos that it does not list are hashed each time")

    @cached_property
    def _known(self) -> dict[tuple[str, int, int], Source]:
        return {source[:3]: source for source in (*_sources(self._more), *self._recorded)}

    @cached_property
    def _recorded(self) -> set[Source]:
        return set(_sources(self._file))


def _sources(file: Path) -> list[Source]:
    """What a list holds; nothing if there is none."""
    if not _is_there(file):
        return []
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise exhausted(error, file) or _unreadable(file, error) from error
    found: list[Source] = []
    for line in lines:
        try:
            found.append(Source(**json.loads(line)))
        except (ValueError, TypeError):  # a blank line, or one that a kill cut short
            continue
    return found


def _is_there(file: Path) -> bool:
    """Whether a file of a cache is there.

    Raises:
        CheckpointError: its folder may not be looked into.
    """
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise exhausted(error, file) or _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{file}: cannot be read: {error.strerror}: {_SHARE}, or set another folder for the cache, or data.cache null"
    )


def _without_links(former: Path, entry: Path) -> None:
    """Moves a file of this user's; of another user's, who may still need it there, makes a copy."""
    if former.stat().st_uid == os.geteuid():
        move(former, entry)
    else:
        with replacing(entry) as file:
            file.write(former.read_bytes())


def _sha256(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _crc32(values: Tensor) -> int:
    return zlib.crc32(values.numpy().data)


def _difference(other: Path, profile: Profile) -> str:
    """The first setting in which another profile folder differs."""
    try:
        theirs = json.loads(other.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{other} cannot be read: {error}"
    quality = theirs.get("jpeg_quality")
    if quality != profile.jpeg_quality:
        return "pixels, not JPEG" if quality is None else f"JPEG, other pixels; data.jpeg_quality {quality} reads them"
    for key, value in asdict(profile).items():
        if theirs.get(key) != value:
            if key == "sampling" and theirs[key] is not None:
                return f"only those that sampling {theirs[key]} chooses for {theirs.get('count')} frames a clip"
            return f"{key} {theirs.get(key)} instead of {value}"
    return "none that this version knows"
