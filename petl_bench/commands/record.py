"""`petl-bench record`: writes the record of a run that ended before it was written, from what is in its folder.

The figures follow from `ranks.npz`. The rest is in `record.draft.json`, which a run leaves until its record is there;
without it, `config.yaml` says what was measured, the adapter what was trained, and `last.ckpt` how. What nothing says
is null. The record names the files that it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from petl_bench.cli.arguments import Parser, possible_path
from petl_bench.cli.configuration import configured
from petl_bench.errors import CheckpointError, DataError, UsageError
from petl_bench.metrics.ranks import figures_of
from petl_bench.metrics.table import kind_of
from petl_bench.runs.cost import count_gmacs
from petl_bench.runs.draft import DRAFT_NAME, Draft, complete, describe_adapter, drafted, limits_of
from petl_bench.runs.earlier import as_now
from petl_bench.runs.environment import environment
from petl_bench.runs.experiment import Experiment
from petl_bench.runs.figures import print_figures
from petl_bench.runs.folder import ADAPTER_NAME, Run, locked, name_run
from petl_bench.runs.freedoms import foreign_classes
from petl_bench.runs.record import CONFIG_NAME, FILE_NAME, RANKS_NAME, measured_settings, read_result
from petl_bench.storage.adapters import Adapter, read_adapter
from petl_bench.storage.arrays import read_arrays
from petl_bench.storage.checkpoints import LAST, read_checkpoint
from petl_bench.storage.files import FileError, file_sha256
from petl_bench.storage.untrusted import expanded

#: how Lightning writes the precisions that it knows by two names
_PRECISIONS = {"None": "32-true", "64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Writes the missing record of one run.

    Raises:
        UsageError: there is nothing to do, or the folder is not that of a run.
        CheckpointError: what the record follows from is missing or damaged, or does not belong together.
        FileError: the record cannot be written.
    """
    parser = Parser(prog="petl-bench record", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=possible_path, metavar="RUN", help="folder of a run: runs/.../seed0")
    folder = expanded(parser.parse_args(arguments).folder)
    _require_a_run(folder)
    with locked(folder):
        _require_no_record(folder)
        figures = _read_figures(folder)
        draft = _read_draft(folder) or _draft_from_configuration(folder, plugins)
        _require_match(folder, draft, figures)
        whole = draft | {"eval": figures | {"cost": {"clips_per_s": None}}}
        complete(folder / FILE_NAME, whole, file_sha256(folder / RANKS_NAME))
    protocol = draft["protocol"]
    title = f"{draft['model']['method']} on {protocol['dataset']} ({protocol['id']})"
    print_figures(title, figures, protocol.get("headline", "accuracy"))
    print(f"record, made from {', '.join(draft['reconstructed'])}: {folder / FILE_NAME}")
    return 0


def _require_a_run(folder: Path) -> None:
    if folder.is_file():
        raise UsageError(f"{folder} is a file: give the folder of a run, {folder.parent}")
    if not folder.is_dir():
        raise UsageError(f"no such folder: {folder}; give the folder of a run (runs/.../seed0)")
    if not any((folder / name).is_file() for name in (FILE_NAME, CONFIG_NAME)):
        below = sorted(path.parent for path in folder.rglob(CONFIG_NAME))
        hint = f", such as {below[0]}" if below else ""
        raise UsageError(f"{folder} is not the folder of a run, it holds no {CONFIG_NAME}: give that of one run{hint}")


def _require_no_record(folder: Path) -> None:
    path = folder / FILE_NAME
    if not path.exists():
        return
    try:
        read_result(path)
    except FileError as error:
        raise UsageError(
            f"{error}; it is in the place of a record: move it away, then give the command again"
        ) from error
    raise UsageError(f"the run has its record: {path}")


def _read_figures(folder: Path) -> dict[str, Any]:
    path = folder / RANKS_NAME
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, so no figures are known: {_how_to_test(folder)}")
    try:
        return figures_of(read_arrays(path))
    except FileError as error:
        raise CheckpointError(f"{path} {error.reason}: {_how_to_test(folder)}") from error
    except DataError as error:
        raise CheckpointError(f"{path}: {error}; {_how_to_test(folder)}") from error


def _how_to_test(folder: Path) -> str:
    again = "the command of the run, given again, makes them" + " and the record" * (folder / LAST).is_file()
    if (folder / ADAPTER_NAME).is_file():
        return f"{again}; petl-bench test --ckpt_path {folder / ADAPTER_NAME} makes those of the adapter"
    return again


# --- with the draft -----------------------------------------------------------------------------------------------


def _read_draft(folder: Path) -> Draft | None:
    """What the run left; None if that is not all that can be known."""
    path = folder / DRAFT_NAME
    try:
        draft = read_result(path)
    except FileError as error:
        if path.exists():
            print(f"petl-bench: warning: {error}; it is left aside")
        return None
    if draft["train"] is None and draft["model"]["trainable_params"]:
        return None  # the disk was full after the training
    return draft | {"reconstructed": [DRAFT_NAME, RANKS_NAME]}


def _require_match(folder: Path, draft: Draft, figures: dict[str, Any]) -> None:
    """Refuses files that are not of one and the same run."""
    for key, name in (("config_sha256", CONFIG_NAME), ("adapter_sha256", ADAPTER_NAME)):
        expected, file = draft["integrity"][key], folder / name
        if expected is not None and (not file.is_file() or file_sha256(file) != expected):
            raise CheckpointError(f"{file} is missing, or not the file that the run wrote: put that back")
    found = figures["t2v"]["n"] if kind_of(figures) == "ranks" else figures["n"]
    expected = draft["protocol"]["n_queries"]
    if found != expected:
        raise CheckpointError(
            f"{folder / RANKS_NAME} is of {found} queries, the test split has {expected}: it is of other data; "
            f"{_how_to_test(folder)}"
        )


# --- without it ---------------------------------------------------------------------------------------------------


def _draft_from_configuration(folder: Path, plugins: Sequence[str]) -> Draft:
    """What can be known of a run from its configuration, its adapter and its last checkpoint."""
    with configured("fit", [f"--config={folder / CONFIG_NAME}"], plugins) as configuration:
        configuration.require_possible()
        experiment = configuration.build()  # with the weights: the record has their digest
        method, data = experiment.method, experiment.data
        method.configure_model()
        data.setup("test")
        run = replace(name_run("fit", experiment), folder=folder)
        selection = "best-val" if experiment.run.best_on_val else "last"
        unknown = dict.fromkeys(environment()) | {"versions": {}}
        draft = drafted(run, method, data, selection, _precision(experiment), unknown)
        gmacs = count_gmacs(method.eval().backbone, method.task, data.frames, data.max_words)
        draft["model"] |= {"gmacs_vision": gmacs.vision, "gmacs_total": gmacs.total}
        files = [CONFIG_NAME, RANKS_NAME]
        if method.trainable:
            adapter = read_adapter(folder / ADAPTER_NAME)
            method.load_trained_state(adapter, str(folder / ADAPTER_NAME))  # refuses that of another model
            describe_adapter(run, draft)
            checkpoint = _checkpoint(run, experiment, adapter)
            draft["train"] = _train(run, experiment, checkpoint)
            files += [ADAPTER_NAME, *([LAST] if checkpoint else [])]
        return draft | {"reconstructed": files}


def _precision(experiment: Experiment) -> str:
    precision = str(experiment.trainer.precision)
    return _PRECISIONS.get(precision, precision)


def _checkpoint(run: Run, experiment: Experiment, adapter: Adapter) -> dict[str, Any] | None:
    """The last checkpoint, if it is of the end of the training; None where nothing shows that.

    Raises:
        CheckpointError: it depends on other annotation files, weights or options than are there now.
    """
    try:
        checkpoint = read_checkpoint(run.folder / LAST)
        basis, done = checkpoint["run"]["basis"], checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        now = measured_settings(run.config, run.contents)
        annotations = experiment.data.annotations_sha256()
        before = as_now(basis, now, config=run.config, annotations=annotations, resolve=experiment.resolve)
        ended = done["processed"] == experiment.trainer.max_epochs
    except (CheckpointError, KeyError, TypeError, AttributeError):
        return None
    for key in sorted(before.keys() & now.keys()):
        if before[key] != now[key]:
            raise CheckpointError(f"the run was of another {key}: it was {before[key]}, is {now[key]}; restore that")
    state = checkpoint["state_dict"]
    same = all(name in state and torch.equal(state[name], tensor) for name, tensor in adapter.tensors.items())
    return checkpoint if same or ended else None


def _train(run: Run, experiment: Experiment, checkpoint: dict[str, Any] | None) -> dict[str, Any]:
    """The `train` block; what only the process knew is null."""
    options, data, recipe = experiment.trainer, experiment.data, experiment.recipe
    train: dict[str, Any] = {
        "epochs": None,
        "steps": None,
        "global_batch": data.batch_size,
        "world_size": None,
        "precision": _precision(experiment),
        "optimizer": type(experiment.method.recipe).__name__,
        "augmentation": data.augmentation,
        "wall_s": None,
        "gpu_hours": None,
        "peak_allocated_bytes": None,
        "peak_reserved_bytes": None,
        "clips_per_s": None,
        "resumed": None,
        "recipe": recipe and recipe._asdict(),
    }
    if classes := foreign_classes(options, experiment.plugins):
        train["callbacks"] = classes
    if checkpoint is None:
        return train
    state, loop = checkpoint["run"], checkpoint["loops"]["fit_loop"]
    whole = loop["epoch_loop.batch_progress"]["is_last_batch"]
    train |= {
        "epochs": float(loop["epoch_progress"]["current"]["processed"]) if whole else None,
        "steps": checkpoint["global_step"],
        "world_size": state["basis"].get("processes"),
        "resumed": state["resumed"],
        "changed": state["changed"],
    }
    costs = checkpoint.get("callbacks", {}).get("CostMeter", {})
    if costs.get("_steps_seconds"):
        clips = costs["_steps"] * data.batch_size * options.accumulate_grad_batches
        train |= {"wall_s": costs["_train_seconds"], "clips_per_s": clips / costs["_steps_seconds"]}
    return train | {"limits": limits_of(run.config, train)}
