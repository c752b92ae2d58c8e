"""What is refused before a run gets its folder: what would fail after the costly part, or could give no result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn

from petl_bench.data.base import splits_of
from petl_bench.data.qa import QuestionAnswerDataModule
from petl_bench.errors import CheckpointError, DataError, UsageError
from petl_bench.method import Method
from petl_bench.runs.course import course_of, require_monitored, require_validation
from petl_bench.runs.experiment import Experiment, RunOptions
from petl_bench.runs.hub_adapters import local_adapter
from petl_bench.runs.transfer import trained_elsewhere
from petl_bench.storage.adapters import read_adapter, require_adapter_path
from petl_bench.storage.checkpoints import read_checkpoint
from petl_bench.storage.descriptions import TrainingData, video_hash
from petl_bench.storage.untrusted import expanded, shown_all
from petl_bench.tasks.qa import QuestionAnswering


def require_sense(command: str, experiment: Experiment) -> None:
    """Refuses what cannot work, the cheapest checks first; adapts the method and sets up the data.

    Raises:
        UsageError: options that do not fit each other.
        CheckpointError: the adapter or the checkpoint is not of this method.
        DataError: clips or annotations are not what the protocol says.
    """
    method, data = experiment.method, experiment.data
    if method.task.texts != data.texts:
        raise UsageError(
            f"task {method.task.name} reads {method.task.texts}, but data {data.name} has {data.texts}: "
            "choose a task and a dataset that belong together"
        )
    if command == "fit":
        _require_training_data(experiment)
        data.require_frames_to_train_on()
    else:
        require_adapter(command, type(method), experiment.run)
    _require_answers(command, experiment)
    method.configure_model()
    _load(command, experiment)
    data.setup(command)
    if command == "fit" and method.trainable:
        _require_trainable(experiment)
    if command == "validate" and not data.samples("val"):
        raise UsageError(f"{data.protocol.id} has no validation split; set data.val_videos, or use test")


def _require_training_data(experiment: Experiment) -> None:
    if experiment.method.trainable and experiment.data.evaluation_only:
        name = experiment.data.protocol.id
        raise UsageError(
            f"{name} has no training split: train on other data, then petl-bench test --ckpt_path adapter.safetensors "
            "--config of this dataset"
        )


@contextmanager
def naming_option(option: str) -> Iterator[None]:
    """Names the option that an unusable file came from."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{option}: {error}") from error


def require_adapter(command: str, method: type[Method], run: RunOptions) -> None:
    """Refuses to evaluate what was never trained, unless asked to; `fit` needs no adapter.

    Raises:
        UsageError: none is named.
        CheckpointError: it is not there.
    """
    if command == "fit":
        return
    if run.ckpt_path is not None:
        with naming_option("ckpt_path"):
            require_adapter_path(local_adapter(run.ckpt_path))
    elif method.trainable and not run.zero_shot:
        raise UsageError(
            f"{command} of {method.__name__} needs --ckpt_path adapter.safetensors; to evaluate it untrained on "
            "purpose, add --zero_shot true"
        )


def _require_answers(command: str, experiment: Experiment) -> None:
    """Refuses a list of answers that answers none of the questions at hand."""
    task, data = experiment.method.task, experiment.data
    if isinstance(task, QuestionAnswering) and isinstance(data, QuestionAnswerDataModule) and task.vocabulary:
        # Questions that predict answers may be those of a test whose answers nobody has.
        data.require_covered(task.vocabulary, () if command == "predict" else splits_of(command))


def _load(command: str, experiment: Experiment) -> None:
    """Gives the method the adapter; of a training's checkpoint it is seen that it fits."""
    method, given = experiment.method, experiment.run.ckpt_path
    if given is None:
        return
    if command == "fit":
        with naming_option("ckpt_path"):
            method.on_load_checkpoint(read_checkpoint(expanded(given)))
        return
    path = local_adapter(given)
    adapter = read_adapter(path)
    method.load_trained_state(adapter, str(path))
    if (origin := trained_elsewhere(method, experiment.data, path)) is not None:
        _require_unseen(command, experiment, origin.data, path)
    trained, used = adapter.metadata.get("pixels"), method.identity()["pixels"]
    if trained not in (None, used):  # adapters of earlier versions do not say
        rank_zero_warn(f"{path} was trained with pixels {trained}, and is used with {used}")


def _require_unseen(command: str, experiment: Experiment, on: TrainingData | None, path: Path) -> None:
    """Refuses to evaluate an adapter elsewhere on videos that it was trained on."""
    data = experiment.data
    if on is None:
        rank_zero_warn(f"{path} was written by an earlier version and does not say which videos it was trained on")
        return
    seen = set(on.video_hashes)
    samples = data.samples("val" if command == "validate" else "test")
    both = [sample.video for sample in samples if video_hash(sample.file_id) in seen]
    if not both:
        return
    told = (
        f"{path} was trained ({on.protocol}) on {len(both)} of the {len(samples)} videos that it is "
        f"to be evaluated on: {shown_all(both)}"
    )
    if not data.partial:
        raise DataError(
            f"{told}; take one of another training split, or set data.partial true if that is on purpose, which marks "
            "the run"
        )
    rank_zero_warn(told)


def _require_trainable(experiment: Experiment) -> None:
    """Refuses a training that could teach nothing, or that waits for figures that never come."""
    trainer, data, task = experiment.trainer, experiment.data, experiment.method.task
    best_on_val, processes = experiment.run.best_on_val, experiment.processes
    if data.batch_size % processes:
        raise UsageError(f"data.batch_size {data.batch_size} is global and must be a multiple of {processes} processes")
    if reason := task.untaught(data.batch_size, processes, len(data.training_video_ids())):
        raise UsageError(reason)
    if trainer.accumulate_grad_batches > 1 and not task.accumulates:
        raise UsageError(
            f"trainer.accumulate_grad_batches: {task.name} compares all samples of a batch, so a sum over smaller "
            "batches is another loss; lower data.batch_size, or use backbone.gradient_checkpointing"
        )
    batches, held_out = data.training_batches(), data.samples("val")
    if best_on_val and not held_out:
        raise UsageError(
            f"best_on_val: {data.protocol.id} has no validation split; set data.val_videos to hold some training "
            "videos out (an epoch is never chosen on test)"
        )
    if trainer.fast_dev_run:
        return
    course = course_of(trainer, batches, bool(held_out))
    if best_on_val:
        require_validation(course, "best_on_val is true")
    several = any(len(sample.captions) > 1 for sample in held_out)
    types = {question.type for sample in held_out for question in sample.questions}
    metrics = [f"val_{name}" for name in task.metric_names(several, types)] if held_out else []
    require_monitored(experiment.given("callbacks"), course, ("loss", *task.logs), metrics)
