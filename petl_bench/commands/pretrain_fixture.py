"""`petl-bench pretrain-fixture`: trains the small backbones that the package carries, from generated stills."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from petl_bench.cli.arguments import Parser, possible_path
from petl_bench.errors import UsageError
from petl_bench.pretraining.folder import SMALL, write
from petl_bench.pretraining.recipe import Recipe
from petl_bench.ranges import Positive, Seed, Size, argument


def run(arguments: Sequence[str]) -> int:
    """Runs `petl-bench pretrain-fixture` and prints what the weights know of held-out stills.

    Raises:
        UsageError: the folder holds something already, or stills make no twins.
        NonFiniteError: the loss is not finite.
    """
    given = vars(_parser().parse_args(arguments))
    name, folder = given.pop("backbone"), given.pop("folder")
    recipe = SMALL[name].recipe._replace(**given)
    _require_twins(recipe)
    card = write(name, folder, recipe)
    figures = ", ".join(f"{what} {value}" for what, value in card["held_out"]["percent"].items())
    print(f"wrote {folder}: {figures} (% of {card['held_out']['stills']} held-out stills)")
    return 0


def _require_twins(recipe: Recipe) -> None:
    for option in ("stills", "batch"):
        count = getattr(recipe, option)
        if count % 2:
            raise UsageError(f"--{option} {count}: give an even number, since stills come in twins")
    if recipe.batch > recipe.stills:
        raise UsageError(f"--batch {recipe.batch}: there are {recipe.stills} stills only; give more by --stills")


def _parser() -> Parser:
    parser = Parser(
        prog="petl-bench pretrain-fixture",
        description="Trains a small backbone on generated stills, on one core, and writes a folder that "
        "`backbone.pretrained` takes. Without options these are the weights of the package.",
    )
    parser.add_argument("backbone", choices=list(SMALL), help="which")
    parser.add_argument("folder", type=possible_path, metavar="DIR", help="folder to create; may exist only if empty")
    _add_option(parser, "steps", Size, "steps of the optimiser")
    _add_option(parser, "stills", Size, "stills to learn from")
    _add_option(parser, "batch", Size, "stills of a step")
    _add_option(parser, "lr", Positive, "highest learning rate")
    _add_option(parser, "seed", Seed, "determines everything")
    return parser


def _add_option(parser: Parser, name: str, kind: Any, meaning: str) -> None:
    defaults = ", ".join(f"{key} {getattr(small.recipe, name)}" for key, small in SMALL.items())
    parser.add_argument(
        f"--{name}", type=argument(kind), default=argparse.SUPPRESS, help=f"{meaning} (default: {defaults})"
    )
