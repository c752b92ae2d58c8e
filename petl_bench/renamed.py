"""What earlier versions wrote into configurations, and what stands for it today: one table, read in one place.

`CLASSES` holds class paths that moved. `REWRITTEN` holds, by the class path of today, what makes a block of an earlier
version (a class with its arguments) one of today; a block of today passes unchanged. Lines are added here and nowhere
else. They apply to configurations given by name, beside an adapter or in the folder of an earlier run, to class paths
on the command line and to what a checkpoint depends on. `CONFIGURATIONS` holds packaged files that are gone, and what a
message says of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Options = dict[str, Any]


class Block(NamedTuple):
    """A class with its arguments, as a configuration holds it."""

    class_path: str
    init_args: Options


Rule = Callable[[Block], Block]

#: class paths: old -> new
CLASSES: dict[str, str] = {
    "petl_bench.backbones.whole_clip.WholeCLIP": "petl_bench.backbones.clip.WholeCLIP",
    "petl_bench.optimizers.OfficialMVAdapter": "methods.mv_adapter.OfficialMVAdapter",
}

#: packaged configurations that are gone -> what there is instead
CONFIGURATIONS: dict[str, str] = {
    "fixture_pretrain.yaml": "backbone/clip_small.yaml has weights, which petl-bench pretrain-fixture makes",
    "fixture_blip_pretrain.yaml": "backbone/blip_small.yaml has weights, which petl-bench pretrain-fixture makes",
    "data/fixture_stills.yaml": "petl-bench fixture --layout pictures writes pictures, which data/fixture.yaml reads",
    "backbone/clip_tiny_shapes.yaml": "take backbone/clip_small.yaml, whose weights are a part of the package",
    "optimizer/fixture.yaml": "take optimizer/clip.yaml, and say its lr",
}


#: no value of an argument
_NONE = object()


# --- rules -----------------------------------------------------------------------------------------------------------


def argument(old: str, new: str) -> Rule:
    """An argument that has another name now."""

    def rule(block: Block) -> Block:
        return block._replace(init_args={new if name == old else name: item for name, item in block.init_args.items()})

    return rule


def part(
    mode: str, parts: Mapping[Any, tuple[str, tuple[str, ...]]], default: Any = _NONE, into: str | None = None
) -> Rule:
    """A mode that is a class of its own now, with those arguments that belong to it.

    Args:
        mode: the argument that chose.
        parts: by its values: a class path, and the arguments that go there; arguments of the others are left out.
        default: its value where a block has arguments of the parts, and does not choose.
        into: the argument that takes the class; the mode's own name if it is None.
    """
    moved = {name for _, names in parts.values() for name in names}

    def rule(block: Block) -> Block:
        if default in parts and mode not in block.init_args and moved & block.init_args.keys():
            block = block._replace(init_args={**block.init_args, mode: default})
        if not _is_among(block, mode, parts):
            return block
        class_path, names = parts[block.init_args[mode]]
        given = {name: block.init_args[name] for name in names if name in block.init_args}
        kept = {name: item for name, item in block.init_args.items() if name not in moved and name != mode}
        return block._replace(init_args={**kept, into or mode: {"class_path": class_path, "init_args": given}})

    return rule


def choice(mode: str, classes: Mapping[Any, tuple[str, tuple[str, ...]]]) -> Rule:
    """A mode whose values are classes now.

    Args:
        mode: the argument that chose.
        classes: by its values: a class path, and the arguments that this class does not have.
    """

    def rule(block: Block) -> Block:
        if not _is_among(block, mode, classes):
            return block
        class_path, without = classes[block.init_args[mode]]
        gone = {mode, *without}
        return Block(class_path, {name: item for name, item in block.init_args.items() if name not in gone})

    return rule


def _is_among(block: Block, mode: str, values: Mapping[Any, Any]) -> bool:
    """Whether a block still has a mode, with one of these values."""
    chosen = block.init_args.get(mode)
    return mode in block.init_args and not isinstance(chosen, list | dict) and chosen in values


def one_after_another(*rules: Rule) -> Rule:
    """Several rules for one class."""

    def rule(block: Block) -> Block:
        for each in rules:
            block = each(block)
        return block

    return rule


def candidates_to_reranking(block: Block) -> Block:
    """How many candidates are ranked again, or null: the second stage of retrieval is a part, or null."""
    given = {
        today: block.init_args[name] for name, today in (("k_test", "k"), ("beta", "beta")) if name in block.init_args
    }
    if not given:
        return block
    stage = {"class_path": "petl_bench.tasks.reranking.Reranking", "init_args": given}
    kept = {name: item for name, item in block.init_args.items() if name not in ("k_test", "beta")}
    return block._replace(init_args={**kept, "reranking": None if given.get("k", 0) is None else stage})


#: class path of today -> what rewrites a block of an earlier version
REWRITTEN: dict[str, Rule] = {
    "methods.mv_adapter.MVAdapter": one_after_another(
        *(argument(f"cmt_{name}", name) for name in ("position", "layers", "dim")),
        argument("kron_terms", "terms"),
        part(
            "tying",
            {
                "kronecker": ("methods.mv_adapter.Kronecker", ("terms",)),
                "factor": ("methods.mv_adapter.Factor", ("position", "layers", "dim")),
                "none": ("methods.mv_adapter.Untied", ()),
            },
            default="kronecker",
        ),
    ),
    "petl_bench.tasks.retrieval.Retrieval": part(
        "pooling",
        {
            "mean": ("petl_bench.tasks.pooling.MeanPooling", ()),
            "text_conditioned": ("petl_bench.tasks.pooling.TextConditionedPooling", ("temperature",)),
        },
    ),
    "petl_bench.tasks.matching.MatchingRetrieval": candidates_to_reranking,
    "petl_bench.tasks.qa_generation.AnswerGeneration": one_after_another(
        argument("k_test", "k"),
        part(
            "inference",
            {
                "generate": ("petl_bench.tasks.answering.Generate", ("num_beams", "max_length")),
                "rank": ("petl_bench.tasks.answering.Rank", ("answer_list", "max_answers", "k")),
            },
            default="generate",
        ),
    ),
    "petl_bench.backbones.blip.BLIP": choice(
        "purpose",
        {
            "retrieval": ("petl_bench.backbones.blip.BLIP", ()),
            "qa": ("petl_bench.backbones.blip.BLIPVQA", ("caption_words",)),
        },
    ),
}


# --- reading ---------------------------------------------------------------------------------------------------------


def as_written_today(value: Any) -> tuple[Any, list[str]]:
    """A configuration, or a part of one, as today's version would have written it, and what was read as something else.

    Args:
        value: mappings, lists and plain values. It is not changed.
    """
    changes: list[str] = []
    return _today(value, changes), list(dict.fromkeys(changes))


def settings_of_today(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same for values by dotted key, as a checkpoint holds them."""
    nested: Options = {}
    for key, item in settings.items():
        *parents, name = str(key).split(".")
        block = nested
        for parent in parents:
            block = block.setdefault(parent, {})
            if not isinstance(block, dict):  # no settings of ours
                return dict(settings)
        block[name] = item
    found, changes = as_written_today(nested)
    return _flat(found, "") if changes else dict(settings)


def class_path_of_today(class_path: str) -> str:
    """A class path, or what stands for it today; any other text as it is."""
    return CLASSES.get(class_path, class_path)


def message(where: object, changes: list[str]) -> str:
    """What to tell of a file, in one line."""
    return f"{where} was written by an earlier version: {'; '.join(changes)}"


def _today(value: Any, changes: list[str]) -> Any:
    if isinstance(value, list):
        return [_today(item, changes) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: _today(item, changes) for name, item in value.items()}
    class_path, given = kept.get("class_path"), kept.get("init_args")
    if not isinstance(class_path, str):
        return kept
    before = Block(class_path, given if isinstance(given, dict) else {})
    after = _block_of_today(before)
    if after == before:
        return kept
    changes.append(f"{_difference(before, after)} is read as {_difference(after, before)}")
    arguments = {"init_args": after.init_args} if after.init_args or "init_args" in kept else {}
    return {**kept, "class_path": after.class_path, **arguments}


def _block_of_today(block: Block) -> Block:
    moved = block._replace(class_path=class_path_of_today(block.class_path))
    rule = REWRITTEN.get(moved.class_path)
    return moved if rule is None else rule(moved)


def _difference(block: Block, other: Block) -> str:
    """A class, and those of its arguments that another block does not have."""
    theirs = other.init_args
    own = {name: item for name, item in block.init_args.items() if name not in theirs or item != theirs[name]}
    if block.init_args == theirs:
        return block.class_path
    return f"{block.class_path}({', '.join(f'{name}={_value(item)}' for name, item in own.items())})"


def _value(item: Any) -> str:
    if not isinstance(item, dict) or not isinstance(item.get("class_path"), str):
        return repr(item)[:100]
    given = ", ".join(f"{name}={_value(value)}" for name, value in (item.get("init_args") or {}).items())
    return f"{item['class_path'].rsplit('.', 1)[-1]}({given})"


def _flat(value: Any, key: str) -> Options:
    if not isinstance(value, dict):
        return {key: value}
    found: Options = {}
    for name, item in value.items():
        found |= _flat(item, f"{key}.{name}" if key else str(name))
    return found
