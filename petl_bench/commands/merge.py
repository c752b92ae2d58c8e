"""`petl-bench merge`: a backbone with what an adapter has learnt in its own weights."""

from __future__ import annotations

from collections.abc import Sequence

from petl_bench.cli.arguments import Parser, add_source_arguments, possible_path
from petl_bench.errors import UsageError
from petl_bench.storage.untrusted import expanded


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Writes the folder.

    Raises:
        CheckpointError: the adapter or its weights are missing or damaged.
        FileError: the folder cannot be written.
        UsageError: there is something at its place, or the method adds modules that no plain backbone has.
    """
    options = _parser().parse_args(arguments)
    output = expanded(options.output)
    if output.exists():
        raise UsageError(f"--output {output}: there is something already; give another place, or delete it")
    from petl_bench.export.merged import write_merged
    from petl_bench.loading import load

    merged = write_merged(load(options.adapter, options.weights, "cpu", plugins), output, str(options.adapter))
    print(f"backbone: {output} ({', '.join(merged.files)})")
    print(f"use it:   --model.backbone.architecture {merged.architecture} --model.backbone.pretrained {output}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="petl-bench merge",
        description="Writes a backbone with what an adapter has learnt in its own weights, where its method allows it: "
        "LoRA, and whatever trains nothing but weights of the backbone. CLIP is written as open_clip does it, BLIP as "
        "transformers does.",
        allow_abbrev=False,
    )
    add_source_arguments(parser)
    parser.add_argument("--output", required=True, type=possible_path, metavar="DIR", help="folder, which is made")
    return parser
