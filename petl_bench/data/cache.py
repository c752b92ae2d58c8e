"""Frame cache: decoded and resized frames on disk, which all processes and runs of equal preprocessing share.

Layout: `<cache>/<profile>/<2 digits>/<video sha256>[_<start>_<end>].safetensors`, one file per clip, beside
`profile.json` (what the name of the profile folder stands for) and `sources.jsonl` (SHA-256 by path, size and time
of change of a video file, so that an unchanged one is not read to know it).

One file per clip rather than one array or shards: each is renamed into place when it is whole, so kill -9, a full disk
and builders at work side by side can lose the clip in work but damage none; nothing is locked, which NFS does badly;
building again makes what is missing, and a changed video replaces nothing. 70,000 clips are 70,000 inodes in 256
folders, and at 2 MB and more each reads as fast as one large file. An entry is memory-mapped: processes share the page
cache, and only the frames that a row uses are copied, once.

Which frames: the whole grid of `frame_rate`, so that every sampling and any number of frames reads the same cache, the
random ones included. With `frame_rate: null` a fixed sampling caches just the frames that it chooses, and a random one
every frame of the video, which is large: give a frame rate there.

Integrity: a CRC-32 per frame, compared whenever the frame is read (0.03 ms), another one over the description of the
entry, and the SHA-256 of all frames for `petl-bench data cache --recheck`. Sources: specs/performance.md section 2,
specs/reliability.md 2.2 and 2.4.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from petl_bench.backbones.base import Resize
from petl_bench.data.reader import VideoError, VideoReader
from petl_bench.data.sampling import choose_frames, frame_grid, is_random
from petl_bench.data.video import in_time, open_video, resize_frames
from petl_bench.errors import CheckpointError, DataError
from petl_bench.file_names import utf8_path
from petl_bench.results import ResultError, file_sha256, write_atomically, write_bytes_atomically

#: frames decoded at a time are at most this many bytes before they are resized
_DECODED_BYTES = 512 * 2**20

Seconds = int | None
Choose = Callable[[int, float], np.ndarray]


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
        sampling: the fixed rule that chooses from every frame, if only its choice is kept; else None.
        count: how many frames that rule chooses; else None.
        reader_version: of the package that decodes.
        torch_version: of the package that resizes.
    """

    image_size: int
    resize: Resize
    reader: str
    rate: int | None
    sampling: str | None
    count: int | None
    reader_version: str
    torch_version: str

    @classmethod
    def of(
        cls, *, image_size: int, resize: Resize, reader: str, rate: int | None, sampling: str, count: int
    ) -> Profile:
        """The profile that serves a loader of these settings, with the packages installed here."""
        chosen = rate is None and not is_random(sampling)
        return cls(
            image_size=image_size,
            resize=resize,
            reader=reader,
            rate=rate,
            sampling=sampling if chosen else None,
            count=count if chosen else None,
            reader_version=importlib.metadata.version({"pyav": "av"}.get(reader, reader)),
            torch_version=torch.__version__.partition("+")[0],
        )

    @property
    def sha256(self) -> str:
        """Hash of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return 3 * self.image_size**2

    def numbers(self, num_frames: int, fps: float, start: Seconds, end: Seconds) -> np.ndarray:
        """The frame numbers to keep of a clip, ascending, each once.

        Raises:
            DataError: The frame rate cannot be used.
        """
        if self.sampling is None or self.count is None:
            return frame_grid(num_frames, fps, self.rate, start, end)
        chosen = choose_frames(
            num_frames, fps, count=self.count, sampling=self.sampling, rate=self.rate, start=start, end=end
        )
        return np.unique(chosen)


class Clip(NamedTuple):
    """A video file, or the seconds of it that are a clip."""

    path: Path
    start: Seconds = None
    end: Seconds = None


class FrameCache:
    """The frames of one profile below a cache folder.

    Args:
        folder: of the cache; shared by all profiles and datasets.
        profile: what the frames are.
    """

    def __init__(self, folder: Path, profile: Profile) -> None:
        self.profile = profile
        self.folder = folder.expanduser().absolute() / profile.sha256[:16]
        self.sources = Sources(self.folder / "sources.jsonl")

    def entry(self, clip: Clip) -> Path:
        """Where the frames of a clip are, or would be.

        Raises:
            VideoError: The video file cannot be read.
        """
        sha256 = self.sources.find(clip.path).sha256
        moment = "" if clip.start is None and clip.end is None else f"_{clip.start or 0}_{clip.end or 'end'}"
        return self.folder / sha256[:2] / f"{sha256}{moment}.safetensors"

    def read(self, clip: Clip, choose: Choose) -> Tensor:
        """Frames of a clip, equal to the last bit to those that decoding gives.

        Args:
            clip: the clip.
            choose: frame numbers from the number of frames and the frames per second of the video.

        Returns:
            uint8 (n, 3, S, S), a copy.

        Raises:
            CacheMiss: The clip is not in the cache as its video file is now.
            DamagedEntry: It is, but is not what was written.
            VideoError: The video file cannot be read.
        """
        path = self.entry(clip)
        try:
            return _Entry(path).frames(choose)
        except FileNotFoundError as error:
            raise CacheMiss(f"{clip.path}: {self._absent()}") from error

    def missing(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips without an entry for their video file as it is now."""
        return [clip for clip in clips if not self.entry(clip).is_file()]

    def require(self, clips: Sequence[Clip]) -> None:
        """Checks before a run that its clips are there.

        Raises:
            CacheMiss: Some are not.
        """
        missing = self.missing(clips)
        if missing:
            names = ", ".join(clip.path.name for clip in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise CacheMiss(f"{len(missing)} of {len(clips)} clips ({names}): {self._absent()}")

    def check(self, clip: Clip) -> None:
        """Reads all of an entry and compares it with its SHA-256.

        Raises:
            FileNotFoundError: There is none.
            DamagedEntry: It is not what was written.
        """
        _Entry(self.entry(clip)).check()

    def store(self, clip: Clip) -> None:
        """Decodes a clip and commits its frames; an entry that is there is replaced.

        Raises:
            VideoError: The clip cannot be decoded.
            CheckpointError: The folder of the entry cannot be made.
            ResultError: The entry cannot be written.
        """
        path = self.entry(clip)
        content = self._decode(clip)
        if self.entry(clip) != path:
            raise VideoError(f"{clip.path}: changed while it was decoded")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{path.parent}: cannot be made: {error.strerror}") from error
        write_bytes_atomically(path, content)

    def write_profile(self) -> None:
        """Makes the folder, with what its name stands for.

        Raises:
            CheckpointError: It cannot be made.
            ResultError: The file cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot be made: {error.strerror}; set --cache") from error
        write_atomically(self.folder / "profile.json", json.dumps(asdict(self.profile), indent=2) + "\n")

    def number_of_frames(self, clip: Clip) -> int:
        """How many frames an entry would hold, without decoding them.

        Raises:
            VideoError: The file cannot be read, or has no frame in the clip.
        """
        with open_video(clip.path, self.profile.reader) as video:
            return len(self._numbers(video, clip))

    def _numbers(self, video: VideoReader, clip: Clip) -> np.ndarray:
        info = video.info
        try:
            numbers = self.profile.numbers(info.num_frames, info.fps, clip.start, clip.end)
        except DataError as error:
            raise VideoError(f"{clip.path}: {error}") from error
        if len(numbers) == 0:
            raise VideoError(f"{clip.path}: no frame between second {clip.start} and {clip.end}")
        return numbers

    def _decode(self, clip: Clip) -> bytes:
        with open_video(clip.path, self.profile.reader) as video:
            info = video.info
            numbers = self._numbers(video, clip)
            at_once = max(_DECODED_BYTES // (3 * info.width * info.height), 1)
            shown = video.shown_at(numbers) if in_time(self.profile.rate, clip.start, clip.end) else numbers
            parts = [self._square(video.read(shown[i : i + at_once])) for i in range(0, len(shown), at_once)]
        frames = torch.cat(parts)
        description = {
            "num_frames": info.num_frames,
            "fps": info.fps,
            "numbers": numbers.tolist(),
            "crc32": [_crc32(frame) for frame in frames],
            "sha256": hashlib.sha256(frames.numpy().data).hexdigest(),
        }
        text = json.dumps(description)
        return save({"frames": frames}, {"clip": text, "crc32": str(zlib.crc32(text.encode()))})

    def _square(self, pixels: np.ndarray) -> Tensor:
        """(n, H, W, 3) to (n, 3, S, S), as `load_frames` does."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        return resize_frames(images, self.profile.image_size, self.profile.resize)

    def _absent(self) -> str:
        # The commonest reason for a cache of other frames is another sampling, size or version.
        others = [] if self.folder.is_dir() else sorted(self.folder.parent.glob("*/profile.json"))
        where = f"not in the frame cache {self.folder}"
        if others:
            where += f", but {self.folder.parent} has frames of other settings ({_difference(others[0], self.profile)})"
        return f"{where}; run petl-bench data cache, or set data.on_cache_miss decode"


class _Entry:
    """One memory-mapped file of frames, its description checked.

    Raises:
        FileNotFoundError: There is none.
        DamagedEntry: It cannot be read, or the description is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with utf8_path(path) as readable, safe_open(readable, "pt") as file:
                metadata: dict[str, str] = file.metadata() or {}
                self._frames: Tensor = file.get_tensor("frames")
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError) as error:
            raise self._damaged(f"cannot be read as cached frames ({error})") from error
        text = metadata.get("clip", "")
        if str(zlib.crc32(text.encode())) != metadata.get("crc32"):
            raise self._damaged("the description of the cached frames is damaged")
        self._clip: dict[str, Any] = json.loads(text)

    def frames(self, choose: Choose) -> Tensor:
        """A copy of the chosen frames, each compared with its checksum."""
        wanted = choose(self._clip["num_frames"], self._clip["fps"])
        if not np.isin(wanted, self._clip["numbers"]).all():
            raise ValueError(f"frames {wanted.tolist()} are not all among the cached {self._clip['numbers']}")
        slots = np.searchsorted(self._clip["numbers"], wanted)
        frames = self._frames.index_select(0, torch.from_numpy(slots))  # copies rows; indexing would copy bytes
        for frame, slot in zip(frames, slots.tolist(), strict=True):
            if _crc32(frame) != self._clip["crc32"][slot]:
                raise self._damaged(f"cached frame {self._clip['numbers'][slot]} is damaged")
        return frames

    def check(self) -> None:
        """Compares all frames with their SHA-256."""
        if hashlib.sha256(self._frames.numpy().data).hexdigest() != self._clip["sha256"]:
            raise self._damaged("the cached frames differ from their SHA-256")

    def _damaged(self, what: str) -> DamagedEntry:
        return DamagedEntry(f"{self._path}: {what}; mend it with petl-bench data cache --recheck")


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
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def find(self, path: Path) -> Source:
        """A video file as it is now; hashed if that is not known.

        Raises:
            VideoError: The file cannot be read.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise VideoError(f"{path}: {error.strerror}") from error
        state = (str(path.absolute()), status.st_size, status.st_mtime_ns)
        if state not in self._known:
            try:
                self._known[state] = Source(*state, file_sha256(path))
            except ResultError as error:
                raise VideoError(str(error)) from error
        return self._known[state]

    def record(self, source: Source) -> None:
        """Appends a hash for later processes, unless it is there.

        Raises:
            CheckpointError: The list cannot be written.
        """
        if source in self._recorded:
            return
        self._recorded.add(source)
        self._known[source[:3]] = source
        try:
            with self._file.open("ab") as file:
                file.write(f"\n{json.dumps(source._asdict())}".encode())
        except OSError as error:
            raise CheckpointError(f"{self._file}: cannot be written: {error.strerror}") from error

    @cached_property
    def _known(self) -> dict[tuple[str, int, int], Source]:
        return {source[:3]: source for source in self._recorded}

    @cached_property
    def _recorded(self) -> set[Source]:
        if not self._file.is_file():
            return set()
        found: set[Source] = set()
        for line in self._file.read_bytes().splitlines():
            try:
                found.add(Source(**json.loads(line)))
            except (ValueError, TypeError):  # a blank line, or one that a kill cut short
                continue
        return found


def _crc32(frame: Tensor) -> int:
    return zlib.crc32(frame.numpy().data)


def _difference(other: Path, profile: Profile) -> str:
    """The first setting in which another profile folder differs."""
    try:
        theirs = json.loads(other.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{other} cannot be read: {error}"
    for key, value in asdict(profile).items():
        if theirs.get(key) != value:
            return f"{key} {theirs.get(key)} instead of {value}"
    return "none that this version knows"
