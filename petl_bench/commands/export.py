"""`petl-bench export`: features of videos as a table, or a model's towers, for other programs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from petl_bench.cli.arguments import Parser, add_model_arguments, possible_path
from petl_bench.errors import UsageError
from petl_bench.ranges import Count, NonNegativeCount, argument
from petl_bench.storage.untrusted import expanded

#: formats of what is exported; the first one unless another is asked for
_FORMATS = {"embeddings": ("npz", "parquet"), "model": ("torch-export", "onnx")}


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Writes features of a folder of videos, or the two towers of a model.

    Raises:
        CheckpointError: the adapter, its weights or the index of the videos are missing or damaged.
        DataError: there is no video.
        FileError: what is exported cannot be written.
        UsageError: options do not go together, there is something at the place already, a package is missing, or the
            adapter compares no texts with videos.
    """
    options = _parser().parse_args(arguments)
    formats = _FORMATS[options.what]
    options.format = options.format or formats[0]
    if options.format not in formats:
        raise UsageError(f"--what {options.what} has no format {options.format}: give {' or '.join(formats)}")
    options.output = expanded(options.output)
    if options.output.exists():
        raise UsageError(f"--output {options.output}: there is something already; give another place, or delete it")
    return _embeddings(options, plugins) if options.what == "embeddings" else _model(options, plugins)


def _embeddings(options: argparse.Namespace, plugins: Sequence[str]) -> int:
    if options.videos is None:
        raise UsageError("--what embeddings takes --videos DIR, the folder of the videos")
    from petl_bench.export.embeddings import Embeddings, require_format
    from petl_bench.search.session import VideoSearch

    require_format(options.format)
    where = (options.adapter, options.videos, options.window, options.index, options.weights, options.device, plugins)
    found = VideoSearch(*where, workers=options.workers).open()
    made = Embeddings.of(found)
    made.write(options.output, options.format)
    skipped = f", {len(found.skipped)} files could not be read (to their end)" if found.skipped else ""
    files = len({place.file.path for place in made.places})
    print(f"features of {len(made.places)} windows of {files} videos{skipped}: {options.output}")
    return 0


def _model(options: argparse.Namespace, plugins: Sequence[str]) -> int:
    unused = [name for name in ("videos", "window", "index") if getattr(options, name) is not None]
    if unused:
        raise UsageError(f"--what model has no use for --{unused[0]}: leave it out")
    from petl_bench.export.model import export_model
    from petl_bench.loading import load

    model = load(options.adapter, options.weights, "cpu", plugins)
    told = export_model(model, options.output, options.format)
    for name, difference in told["parity"].items():
        print(f"{name}: as the model to {difference:.1e}")
    print(f"model: {options.output}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="petl-bench export",
        description="Writes what other programs take: `embeddings` are features of all videos below a folder, with "
        "file names and times (of the index of `petl-bench search`, which is brought up to date); `model` is the text "
        "and the video tower with the adapter in it.",
        allow_abbrev=False,
    )
    add_model_arguments(parser)
    parser.add_argument("--what", required=True, choices=list(_FORMATS), help="what is written")
    parser.add_argument(
        "--format", choices=[name for names in _FORMATS.values() for name in names], help="(npz; torch-export)"
    )
    parser.add_argument(
        "--output", required=True, type=possible_path, metavar="PATH", help="file (embeddings) or folder (model)"
    )
    parser.add_argument("--videos", type=possible_path, metavar="DIR", help="folder, with all below it")
    parser.add_argument(
        "--window", type=argument(Count), metavar="SECONDS", help="windows of so many seconds (whole files)"
    )
    parser.add_argument("--index", metavar="DIR", help="of the videos, as of `petl-bench search`")
    parser.add_argument(
        "--workers", type=argument(NonNegativeCount), default=2, metavar="N", help="processes that decode (%(default)s)"
    )
    return parser
