"""Checkpoints that survive a kill, a full disk and a damaged file."""

from __future__ import annotations

import errno
import hashlib
import shlex
import stat
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor
from torch.optim import Optimizer

from petl_bench.errors import CheckpointError, StorageError, UsageError
from petl_bench.lightning_seams import checkpoint_of, data_of, loops_of, training_loop_of, validates_now
from petl_bench.machine.arithmetic import RESTORED_BY, cpu_arithmetic
from petl_bench.machine.resources import exhausted, exhausted_by_parser
from petl_bench.machine.signals import STOP, When
from petl_bench.storage.files import flush, flush_folder, free_bytes, move, temporary_of

#: the checkpoint that a run is continued from, and the one before it
LAST, BEFORE_LAST = "last.ckpt", "last-1.ckpt"
_DIGEST = ".sha256"
#: what a checkpoint of Lightning's holds beside tensors
_OF_TRAINING = ("pytorch-lightning_version", "epoch", "global_step", "loops", "optimizer_states", "lr_schedulers")
#: what must be free beyond the tensors of a checkpoint
_MARGIN = 1.2


class SafeCheckpointIO(CheckpointIO):
    """Writes beside the file, flushes to disk, renames; keeps a digest beside each file, and the one before the last.

    Lightning's own writer needs the temporary folder on the same device for that, flushes nothing, and says nothing
    where it may not write.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replaces a checkpoint by a whole one or leaves it as it is; signals wait for it.

        Raises:
            CheckpointError: the disk is full, or the folder cannot be written to.
        """
        with STOP.at(When.AFTERWARDS):
            self._replace(checkpoint, Path(path))

    def _replace(self, checkpoint: dict[str, Any], path: Path) -> None:
        digest = _digest_of(path)
        fresh, fresh_digest = temporary_of(path), temporary_of(digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _require_space(checkpoint, path.parent)
            with fresh.open("wb") as file:
                torch.save(checkpoint, file)
                flush(file)
            with fresh_digest.open("wb") as file:
                file.write(_sha256(fresh).encode("ascii"))
                flush(file)
            if path.name == LAST and path.is_file():
                before = path.with_name(BEFORE_LAST)
                before.unlink(missing_ok=True)  # or a kill would leave it with the digest of another file
                if digest.is_file():
                    move(digest, _digest_of(before))
                move(path, before)
            # The digest first: without its checkpoint it means nothing, and the one before the last is still there.
            move(fresh_digest, digest)
            move(fresh, path)
            flush_folder(path.parent)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            with suppress(OSError):
                for left in (fresh, fresh_digest):
                    left.unlink(missing_ok=True)
            lacking = exhausted(error, path)
            if lacking is not None and not isinstance(lacking, StorageError):
                raise lacking from error
            reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
            raise CheckpointError(f"cannot write the checkpoint {path}: {reason}; the one before is kept") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint that is whole; of `last.ckpt`, else the one before it.

        Raises:
            CheckpointError: it is missing, damaged, or holds anything but tensors and plain values.
        """
        path = Path(path)
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            before = path.with_name(BEFORE_LAST)
            if path.name != LAST or not before.is_file():
                raise
            warnings.warn(f"{error}; going back to {before.name}", stacklevel=2)
            return read_checkpoint(before)

    def remove_checkpoint(self, path: Any) -> None:
        for file in (Path(path), _digest_of(Path(path))):
            file.unlink(missing_ok=True)


class ResumePoints(Checkpoint):
    """Saves `last.ckpt`: where an interrupted run goes on, if nothing it depends on has changed.

    After every epoch, every so many steps, and when a signal asks the run to end: then what the last whole step left,
    or, in a validation, that it is to be repeated. Lightning's ModelCheckpoint writes its last checkpoint only beside
    another one.

    Args:
        folder: of the run.
        basis: what the course of training depends on, by name.
        every_n_steps: batches between two saves inside an epoch; null saves at its end only.
        allowed: names in `basis` that may have changed since the checkpoint; `key` covers `key.anything`.
        as_now: what a checkpoint depends on, in today's words.

    Attributes:
        resumed: how often the run was continued.
        changed: what was allowed to change, with its values before and after.
        failure: why what a signal should have saved could not be.
    """

    def __init__(
        self,
        folder: Path,
        basis: Mapping[str, Any],
        every_n_steps: int | None,
        allowed: Sequence[str],
        as_now: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] = lambda before, now: before,
    ) -> None:
        self.folder, self.basis, self.every_n_steps = folder, dict(basis), every_n_steps
        self.allowed, self.as_now = allowed, as_now
        self.resumed = 0
        self.changed: dict[str, list[str]] = {}
        self.failure = ""
        self._saved_at = 0
        self._places: dict[str, int] = {}
        self._loops: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._places, self._loops = _places(pl_module), loops_of(trainer)
        # Steps of several processes end together; where that takes too long, the first one ends, and ends the others.
        STOP.alone, STOP.ends_others, STOP.heard = trainer.world_size == 1, trainer.is_global_zero, 0
        STOP.when = When.SOON
        STOP.look()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = 0

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        STOP.change()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = batch_idx + 1
        if done == trainer.num_training_batches or done % trainer.accumulate_grad_batches or _validates(trainer):
            return  # the end of the epoch saves; half a step cannot be saved, nor a step without its validation
        self._can_save(trainer, self._loops | training_loop_of(trainer))
        STOP.when = When.SOON
        if STOP.heard:  # in this step, by all processes
            STOP.agree(STOP.heard)
        if self.every_n_steps and done - self._saved_at >= self.every_n_steps:
            self._save(trainer)
            self._saved_at = done

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        loops = loops_of(trainer)
        # As in the middle of the first batch: Lightning begins a validation anew that it finds in this state.
        for count in ("total", "current"):
            batches = loops["fit_loop"]["epoch_loop.val_loop.batch_progress"][count]
            batches["ready"] = batches["started"] = batches["processed"] + 1
        self._can_save(trainer, loops)
        STOP.when = When.AT_ONCE
        STOP.look()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            STOP.when = When.SOON

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        STOP.when = When.SOON
        self._agree(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        STOP.when = When.AT_ONCE
        STOP.look()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if STOP.number or isinstance(exception, KeyboardInterrupt):
            STOP.save()

    def _save(self, trainer: Trainer) -> None:
        if not self.folder.is_dir():  # a new folder would lack the configuration
            raise CheckpointError(f"the run's folder {self.folder} was removed while it was training")
        trainer.save_checkpoint(self.folder / LAST)
        STOP.rescue = None

    def _can_save(self, trainer: Trainer, loops: dict[str, Any]) -> None:
        """Has a signal save this moment, until `STOP.change` begins another one."""
        if trainer.is_global_zero:
            STOP.rescue = partial(self._save_alone, trainer, loops)

    def _save_alone(self, trainer: Trainer, loops: dict[str, Any]) -> None:
        """Saves without the other processes, which may be gone or wait in the next step.

        Args:
            trainer: its weights are those of the moment.
            loops: how far its loops were.
        """
        if _places(trainer.lightning_module) != self._places:
            return  # in another thread one can come upon weights that stand in for the trained ones
        checkpoint = checkpoint_of(trainer) | {"loops": loops}
        try:
            SafeCheckpointIO().save_checkpoint(checkpoint, self.folder / LAST)
        except CheckpointError as error:
            self.failure = str(error)

    def _agree(self, trainer: Trainer) -> None:
        """Makes the signal that any process got known to all of them."""
        if trainer.world_size == 1:  # the reduction would wait for the GPU
            return
        mine = torch.tensor(STOP.number, device=trainer.strategy.root_device)
        if number := int(trainer.strategy.reduce(mine, reduce_op="max")):
            STOP.agree(number)

    def history(self) -> dict[str, Any]:
        """For the record of the run."""
        return {"resumed": self.resumed, "changed": self.changed}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = {"basis": self._basis(trainer), **self.history()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        run: Any = checkpoint.get("run")
        if not _says_what_it_depends_on(run):
            raise CheckpointError("the checkpoint does not say what it depends on: start over with --overwrite true")
        now = self._basis(trainer)
        arithmetic = {key: run["basis"][key] for key in RESTORED_BY if key in run["basis"]}
        before = dict(self.as_now(_without(run["basis"], RESTORED_BY), _without(now, RESTORED_BY)))
        # What only one of them says is not compared: checkpoints of GPUs, and of earlier versions, do not say it.
        before |= {key: arithmetic.get(key, now[key]) for key in RESTORED_BY if key in now}
        unknown = [name for name in self.allowed if not any(_covers(name, key) for key in now)]
        if unknown:
            raise UsageError(f"allow_change {unknown[0]}: nothing that a run depends on has that name")
        changed = {
            key: [str(before.get(key)), str(now.get(key))]
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        }
        refused = [key for key in changed if not any(_covers(name, key) for name in self.allowed)]
        if refused:
            shown = "; ".join(
                f"{key} was {changed[key][0]}, is {changed[key][1]}{_restored_by(key)}" for key in refused
            )
            raise CheckpointError(
                f"{trainer.ckpt_path} cannot be continued: {shown}; restore that, start over with "
                f"--overwrite true, or accept another course with --allow_change {' '.join(map(shlex.quote, refused))}"
            )
        self.resumed = run["resumed"] + 1
        first = {key: values[0] for key, values in run["changed"].items()}
        self.changed = run["changed"] | {key: [first.get(key, was), now] for key, (was, now) in changed.items()}

    def _basis(self, trainer: Trainer) -> dict[str, Any]:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        return {
            **self.basis,
            **{"processes": trainer.world_size, "training_rows": data_of(trainer).training_rows_sha256},
            **(cpu_arithmetic() if on_cpu else {}),
        }


def _says_what_it_depends_on(run: Any) -> bool:
    kinds = {"basis": dict, "changed": dict, "resumed": int}
    return isinstance(run, dict) and all(isinstance(run.get(key), kind) for key, kind in kinds.items())


def _without(basis: Mapping[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in basis.items() if key not in left_out}


def _restored_by(key: str) -> str:
    return f" ({RESTORED_BY[key]})" if key in RESTORED_BY else ""


def _covers(name: str, key: str) -> bool:
    return f"{key}.".startswith(f"{name}.")


def _validates(trainer: Trainer) -> bool:
    """Whether a validation follows the step at hand: a run that is continued here would leave it out."""
    return bool(data_of(trainer).samples("val")) and validates_now(trainer)


def _places(module: LightningModule) -> dict[str, int]:
    """Where in memory each trained parameter is."""
    return {name: parameter.data_ptr() for name, parameter in module.named_parameters() if parameter.requires_grad}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint whose digest is right, on the CPU; nothing in it is run.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    if "://" in str(path) or str(path).startswith(("http:/", "https:/", "s3:/", "gs:/")):
        raise CheckpointError(f"{path}: checkpoints are read from disk only; download it first")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a FIFO would never end
            kind = "a folder, not a file" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise CheckpointError(f"cannot read the checkpoint {path}: {kind}")
        size = status.st_size
        digest = _digest_of(path).read_text(encoding="ascii") if _digest_of(path).is_file() else None
        if digest is not None and _sha256(path) != digest:
            raise CheckpointError(f"{path} ({size} bytes) is damaged: its SHA-256 is not the one beside it")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        unread = CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}")
        raise exhausted(error, path) or unread from error
    except CheckpointError:
        raise
    # A damaged archive makes torch raise almost anything, also KeyError and EOFError without a word.
    except Exception as error:
        if lacking := exhausted_by_parser(error, path):  # which is no reason to go back to the one before
            raise lacking from error
        reason = str(error).split("\n")[0][:150] or type(error).__name__
        raise CheckpointError(f"{path} is no whole checkpoint of plain values: {reason}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} is no checkpoint: it holds no 'state_dict'")
    state = checkpoint["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items()):
        raise CheckpointError(f"{path} is no checkpoint: its 'state_dict' holds other things than named tensors")
    return checkpoint


def require_training_state(path: Path) -> None:
    """Refuses a whole file of tensors that no training can go on from.

    Raises:
        CheckpointError: it lacks what Lightning saves of a training.
    """
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError:
        return  # who loads it says so, or goes back to the one before
    missing = [key for key in _OF_TRAINING if key not in checkpoint]
    if missing or not isinstance(checkpoint.get("petl_bench", {}), dict):
        raise CheckpointError(f"{path} is no checkpoint of a training: it lacks {', '.join(missing) or 'petl_bench'}")


def resumable(folder: Path) -> Path | None:
    """The checkpoint that an interrupted run is continued from; None if it has saved none."""
    return next((folder / name for name in (LAST, BEFORE_LAST) if (folder / name).is_file()), None)


def sweep(folder: Path) -> None:
    """Deletes what a kill left of a checkpoint that was being written."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _digest_of(path: Path) -> Path:
    return path.with_name(path.name + _DIGEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_space(checkpoint: dict[str, Any], folder: Path) -> None:
    needed, free = int(_MARGIN * _bytes(checkpoint)), free_bytes(folder)
    if free is not None and free < needed:
        raise OSError(errno.ENOSPC, f"it needs {needed} bytes and {free} are free")


def _bytes(value: Any) -> int:
    """Of all tensors in nested dictionaries and lists."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0
