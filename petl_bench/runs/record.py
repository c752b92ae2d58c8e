"""The record of one run (`result.json`): schema, identity of a configuration, atomic write, checked read."""

import functools
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import yaml

from petl_bench.errors import UsageError
from petl_bench.runs import old_records
from petl_bench.storage.dotted import get, put
from petl_bench.storage.files import FileError, write_atomically
from petl_bench.storage.untrusted import UnreadableError, hidden, is_file, parse_json, plain_text, read_text, shown

Contents = Mapping[str, Mapping[str, Any]]

SCHEMA = "petl_bench.result/2"
_SCHEMA_FILE = Path(__file__).with_name("result.schema.json")
FILE_NAME, CONFIG_NAME = "result.json", "config.yaml"
ADAPTER_NAME, RANKS_NAME, METRICS_NAME = "adapter.safetensors", "ranks.npz", "metrics.csv"
#: of a test of an adapter, beside the record of its training
TEST_NAME = "test.json"
#: records of tests on other data than was trained on, or for another task (`petl_bench.runs.transfer`)
TRANSFER_NAMES = "test_*.json"

OPERATIONAL_OPTIONS = (
    # of the command: which files were given; where things are written; how often, and what may differ
    *("config", "ckpt_path", "runs_dir", "overwrite", "allow_change", "save_every_n_steps", "collective_timeout"),
    *("record_words", "log"),
    # what the report holds a training against
    "recipe",
    *("verbose", "weights_only", "return_predictions"),
    # the seed: runs that differ in it only are aggregated
    "seed_everything",
    # of Lightning's trainer: how the work is spread and shown; the batch size of a configuration is the global one
    *("trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.strategy", "trainer.default_root_dir"),
    *("trainer.logger", "trainer.log_every_n_steps", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
    *("trainer.profiler", "trainer.detect_anomaly", "trainer.num_sanity_val_steps", "trainer.enable_checkpointing"),
    # of it, too: what has one value or one effect here, and comes and goes with versions of Lightning
    *("trainer.barebones", "trainer.enable_autolog_hparams", "trainer.limit_predict_batches", "trainer.model_registry"),
    *("trainer.limit_test_batches", "trainer.sync_batchnorm", "trainer.use_distributed_sampler"),
)
"""Dotted keys of the command and of Lightning's trainer that do not change what is measured.

Constructors of ours name their own, as `operational` on the class. A key is left out with everything below it.
"""

HASH_RULES = 2
"""Which options count, and how: a record says by which rules its hash was made; 1 is what does not say so."""

_BYSTANDERS = frozenset(
    {
        *("DeviceStatsMonitor", "LearningRateMonitor", "ModelCheckpoint", "ModelSummary", "ProgressBar"),
        *("RichModelSummary", "RichProgressBar", "ThroughputMonitor", "TQDMProgressBar"),
        *("KubeflowEnvironment", "LightningEnvironment", "LSFEnvironment", "MPIEnvironment", "SLURMEnvironment"),
        "TorchElasticEnvironment",
    }
)
"""Callbacks of Lightning that only watch, show or save, and plug-ins that say where processes are."""


#: of a number in a record
_LARGEST = 2**63


def write_result(path: Path, record: dict[str, Any]) -> None:
    """Writes a run record so that the file is either whole or absent, also after a crash or a full disk.

    Raises:
        FileError: the record breaks the schema, or the file cannot be written.
    """
    require_valid(path, record)
    write_atomically(path, json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_result(path: Path, valid: MutableMapping[str, Any] | None = None) -> dict[str, Any]:
    """Reads and validates a run record; one of an earlier version is given in this one's layout.

    Args:
        path: of the file.
        valid: digests of records that were found valid, which are not validated again; this one's is added.

    Raises:
        FileError: the file is missing, damaged, of another schema, or breaks this one.
    """
    if not is_file(path):
        raise FileError(path, hidden(path) or "is missing or not a file")
    try:
        record = parse_json(read_text(path))
        if isinstance(record, dict) and record.get("schema") == old_records.FIRST:
            record = old_records.upgraded(record, _config_beside(path, record), SCHEMA)
        _require_valid_once(path, record, {} if valid is None else valid)
    except (UnreadableError, RecursionError) as error:
        raise FileError(path, f"cannot be read as JSON: {error}") from error
    return _printable(record)


def ranks_beside(record: Path) -> Path:
    """The ranks that belong to a record: of `result.json` those of the run, of `test.json` those of the test."""
    return record.with_name(RANKS_NAME if record.name == FILE_NAME else f"{record.stem}_{RANKS_NAME}")


def config_hash(config: dict[str, Any], contents: Contents | None = None) -> str:
    """SHA-256 of what a resolved configuration measures, as canonical JSON.

    Equal for runs that measure the same thing with different seeds, folders or machines: operational options are left
    out, and files stand there with their content.

    Args:
        config: resolved.
        contents: see `measured`.

    Raises:
        UsageError: the configuration holds NaN, infinity, or something that is no JSON.
    """
    try:
        canonical = json.dumps(
            measured(config, contents), sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"the configuration cannot be hashed: {error}") from error
    return hashlib.sha256(canonical.encode()).hexdigest()


def measured_settings(config: dict[str, Any], contents: Contents | None = None) -> dict[str, Any]:
    """The values that `config_hash` covers, by dotted key."""
    return dict(leaves(measured(config, contents)))


def measured(config: dict[str, Any], contents: Contents | None = None) -> dict[str, Any]:
    """What a resolved configuration measures.

    Args:
        config: resolved.
        contents: by dotted key of a block of options: what stands for the values of some of them, such as the SHA-256
            of a file for its path; options of their own by dotted keys, too.
    """
    kept = _without_operational(config, "")
    for key, options in (contents or {}).items():
        block = get(kept, key)
        for name, value in options.items() if isinstance(block, dict) else ():
            put(block, name, value)
    return kept


def operational_options(kind: type) -> frozenset[str]:
    """Arguments that a class and its bases declare to change no result."""
    return frozenset().union(*(vars(base).get("operational", ()) for base in kind.__mro__))


def later_options(kind: type) -> dict[str, Any]:
    """Arguments that a class and its bases did not have before, by the value at which they are not hashed."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        found |= vars(base).get("later_options", {})
    return found


def run_directory(root: Path, dataset: str, method: str, backbone: str, config_hash: str, seed: int) -> Path:
    """`root/<dataset>/<method>/<backbone>/<first 8 digits of config_hash>/seed<k>`.

    Raises:
        UsageError: a name is empty, starts with a dot, or holds a separator or a control character.
    """
    parts = {"dataset": dataset, "method": method, "backbone": backbone, "config_hash": config_hash[:8]}
    for key, part in parts.items():
        if not part or part.startswith(".") or not part.isprintable() or set(part) & set("/\\:"):
            raise UsageError(f"{key} {part!r} cannot name a folder: use letters, digits, '-', '_' and '.'")
    return root.joinpath(*parts.values(), f"seed{int(seed)}")


def _config_beside(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the run that wrote a record; empty if it is not there, or not known to be that one.

    A test of an adapter lies beside the configuration of its training, which need not be its own.
    """
    integrity, config = record.get("integrity"), path.with_name(CONFIG_NAME)
    if record.get("kind") != "fit" or not isinstance(integrity, dict) or not config.is_file():
        return {}
    try:
        content = config.read_bytes()
        if hashlib.sha256(content).hexdigest() != integrity.get("config_sha256"):
            return {}
        found = yaml.safe_load(content)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def require_valid(path: Path, record: Any) -> None:
    """Refuses a record that breaks the schema.

    Raises:
        FileError: naming the field; `path` is where the record lies, or would lie.
    """
    found = record.get("schema") if isinstance(record, dict) else None
    if found != SCHEMA:
        raise FileError(path, f"schema is {found!r}, not {SCHEMA!r}")
    for key, value in leaves(record):
        if isinstance(value, float) and not math.isfinite(value):
            raise FileError(path, f"{key} is {value}, not a finite number")

    if reason := complaint(record):
        raise FileError(path, reason)


def complaint(record: Any) -> str | None:
    """How a record breaks the schema; None if it does not."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(record))
    if error is None:
        return None
    key = error.json_path.removeprefix("$").removeprefix(".") or "the record"
    return f"{key}: {error.message[:200]}"


def _require_valid_once(path: Path, record: Any, valid: MutableMapping[str, Any]) -> None:
    digest = hashlib.sha256(json.dumps(record, sort_keys=True, default=repr).encode()).hexdigest()
    if digest in valid:
        return
    require_valid(path, record)
    _require_countable(path, record)
    valid[digest] = True


def _require_countable(path: Path, record: Any) -> None:
    """Refuses numbers that no run writes, and a report cannot calculate with."""
    for key, value in leaves(record):
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise FileError(path, f"{shown(key)} is {shown(value)}, beyond what a run can count")


def _printable(value: Any) -> Any:
    """A record whose texts can be encoded: names of files may be any bytes, which Python reads as lone surrogates."""
    if isinstance(value, dict):
        return {plain_text(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return plain_text(value) if isinstance(value, str) else value


@functools.cache
def schema_sha256() -> str:
    """Of the file that says what a valid record is."""
    return hashlib.sha256(_SCHEMA_FILE.read_bytes()).hexdigest()


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(_SCHEMA_FILE.read_text(encoding="utf-8")))


def merged(*blocks: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a record in one; of two values at the same place the later one."""
    out: dict[str, Any] = {}
    for block in blocks:
        for name, value in block.items():
            both = isinstance(value, dict) and isinstance(out.get(name), dict)
            out[name] = merged(out[name], value) if both else value
    return out


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values in nested mappings and lists by dotted key; items of lists are numbered."""
    if not isinstance(value, dict | list):
        yield key, value
        return
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(item, f"{key}.{name}" if key else str(name))


def _without_operational(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_without_operational(item, f"{key}.{place}") for place, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, item in value.items():
        below = f"{key}.{name}" if key else str(name)
        if below in ("trainer.callbacks", "trainer.plugins"):
            item = _without_bystanders(item)
        if below not in OPERATIONAL_OPTIONS:
            kept[str(name)] = _without_operational(item, below)
    kind = _loaded(value.get("class_path"))
    if kind is not None and isinstance(kept.get("init_args"), dict):
        left_out, later = operational_options(kind), later_options(kind)
        kept["init_args"] = {
            name: item
            for name, item in kept["init_args"].items()
            if name not in left_out and not (name in later and item == later[name])
        }
    return kept


def _without_bystanders(classes: Any) -> Any:
    """Those that may change a result, or null."""
    if not isinstance(classes, list):
        return None if _stands_by(classes) else classes
    return [item for item in classes if not _stands_by(item)] or None


def _stands_by(item: Any) -> bool:
    package, _, name = str(item.get("class_path") if isinstance(item, dict) else item).rpartition(".")
    return name in _BYSTANDERS and package.split(".")[0] in ("", "pytorch_lightning", "lightning")


def _loaded(class_path: Any) -> type | None:
    """The class of a path whose module is imported, as those of a run are; None for any other."""
    module, _, name = str(class_path).rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    return kind if isinstance(kind, type) else None


def _plain(value: Any) -> str:
    # The text of any other object may hold its memory address: a hash that never repeats.
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
