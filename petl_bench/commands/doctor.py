"""`petl-bench doctor`: what a run would stumble over, before it begins."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from petl_bench import __version__
from petl_bench.cli.arguments import Parser
from petl_bench.errors import PetlBenchError
from petl_bench.machine.installation import lacking
from petl_bench.storage.untrusted import expanded

if TYPE_CHECKING:
    from petl_bench.cli.configuration import Configuration
    from petl_bench.data.base import VideoTextDataModule

#: bytes that a run may write before anybody looks again: checkpoints, logs, an index
_LITTLE = 2 * 10**9
_SHARED_MEMORY = Path("/dev/shm")
#: that loader processes of an ordinary recipe fill
_LITTLE_SHARED = 2**28


class Finding(NamedTuple):
    """What was looked at.

    Attributes:
        what: in a word or two.
        told: what there is, or what is wrong and what helps.
        code: exit code of what is wrong; 0 where it is well.
    """

    what: str
    told: str
    code: int = 0


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Prints what it finds, one line each as soon as it is known; the exit code is that of the first thing wrong.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    found: list[Finding] = []

    def take(finding: Finding) -> None:
        found.append(finding)
        if not options.json:
            print(f"{'NOT' if finding.code else 'ok '}  {finding.what:<12}{finding.told}", flush=True)

    for finding in _findings(options, rest, plugins):
        take(finding)
    wrong = next((finding for finding in found if finding.code), None)
    take(_next(wrong, options.command, rest))
    if options.json:
        print(json.dumps([finding._asdict() for finding in found], indent=2))
    return 0 if wrong is None else wrong.code


def _findings(options: argparse.Namespace, rest: list[str], plugins: Sequence[str]) -> Iterator[Finding]:
    yield Finding("petl_bench", f"{__version__}, Python {platform.python_version()} on {platform.platform(terse=True)}")
    yield _tried("torch", _torch)
    yield _tried("decoder", _decoder)
    yield _tried("results", _results)
    yield _shared_memory()
    if not rest:
        yield _disk("runs")
        return
    from petl_bench.cli.configuration import configured

    with configured(options.command, rest, plugins) as configuration:
        yield _disk(str(configuration.options.runs_dir))
        yield from _of_data(configuration)
        yield _tried("weights", configuration.weights)


def _tried(what: str, look: Callable[[], str]) -> Finding:
    """What a look says, or what it ended with."""
    try:
        return Finding(what, look())
    except PetlBenchError as error:
        return Finding(what, " ".join(str(error).split()), error.exit_code)
    except Exception as error:  # of a package that is there in part, anything may come
        return Finding(what, lacking(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", 2)


def _torch() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return f"{torch.__version__}, {len(names)} GPUs: {', '.join(dict.fromkeys(names))}"
    return f"{torch.__version__}, no GPU: the CPU with {torch.get_num_threads()} threads"


def _decoder() -> str:
    import av

    return f"PyAV {av.__version__} with FFmpeg's libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def _results() -> str:
    from petl_bench.runs.rehearsal import rehearse

    rehearse()
    return "tables, records and ranks can be written"


def _shared_memory() -> Finding:
    if not _SHARED_MEMORY.is_dir():
        return Finding("/dev/shm", "there is none; nothing here needs it with data.num_workers 0")
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if free >= _LITTLE_SHARED:
        return Finding("/dev/shm", f"{free / 1e9:.1f} GB free, for loader processes")
    advice = "raise it (docker run --shm-size), or set data.num_workers 0"
    return Finding("/dev/shm", f"{free / 1e6:.0f} MB free: loader processes may hang; {advice}", 4)


def _disk(runs_dir: str) -> Finding:
    folder = expanded(runs_dir).absolute()
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    told = f"{free / 1e9:.1f} GB free for {runs_dir}"
    return Finding("disk", told, 0 if free >= _LITTLE else 5)


def _of_data(configuration: Configuration) -> Iterator[Finding]:
    """Annotation files, then the clips of each split."""
    from petl_bench.data.video import reader_version

    try:
        data = configuration.data()
    except PetlBenchError as error:
        yield Finding("data", " ".join(str(error).split()), error.exit_code)
        return
    yield _tried("reader", lambda: f"{data.reader} {reader_version(data.reader)}")
    annotations = _tried("annotations", lambda: _annotations(data))
    yield annotations
    if not annotations.code:
        yield _tried("clips", lambda: _clips(data, configuration.command))


def _annotations(data: VideoTextDataModule) -> str:
    counts = {split: len(data.samples(split)) for split in ("train", "val", "test") if data.samples(split)}
    told = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return f"{data.protocol.id} in {data.root}: {told} clips"


def _clips(data: VideoTextDataModule, command: str) -> str:
    data.require_files(command)
    missing = data.missing_clips()
    told = f"all that {command} reads are in {data.root / data.videos}"
    return f"{missing} are missing, which data.bad_videos tolerates" if missing else told


def _next(wrong: Finding | None, command: str, rest: Sequence[str]) -> Finding:
    if wrong is not None:
        return Finding("next", f"mend {wrong.what}, then give this command again", wrong.code)
    if not rest:
        return Finding("next", "petl-bench doctor --config NAME --data.root DIR looks at a run")
    return Finding("next", shlex.join(["petl-bench", command, *rest]))


def _parser() -> Parser:
    parser = Parser(
        prog="petl-bench doctor",
        usage="petl-bench doctor [--command fit] [--config NAME] [any option of `petl-bench fit`]",
        description="Looks at what a run needs: Python, torch and its device, the decoder, annotation files, clips, "
        "weights, disk, shared memory. Nothing is written, and no weights are fetched.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--command", choices=("fit", "validate", "test", "predict"), default="fit", help="that is meant (fit)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
