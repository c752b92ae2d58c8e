"""Trains and tests methods by Lightning's own loops as if on a GPU.

`python -m tests.contract.on_cuda` tries every method, backbone and task in each precision; the tests try a sample.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Checkpoint, ProgressBar, RichProgressBar
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from methods.mv_adapter import OfficialMVAdapter
from petl_bench.data.batch import Batch
from petl_bench.lightning_seams import leave_signals
from petl_bench.optimizers import AdamWCosine
from petl_bench.runs.frozen import FrozenInBf16
from petl_bench.runs.progress import PlainProgress
from petl_bench.storage.checkpoints import ResumePoints
from petl_bench.testing import samples
from tests.contract import battery
from tests.inputs import with_mask
from tests.pretended_cuda import CUDA, Place, PretendedCuda, place, pretended_cuda, with_a_twin

#: of the trainer, with the type that autocast casts to
PRECISIONS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": None}
#: fp16 has AdamW work in steps, the others have one kernel
RECIPES = {"AdamW": AdamWCosine, "BertAdam": OfficialMVAdapter}
_WAYS = list(product((False, True), RECIPES, PRECISIONS))


class Case(NamedTuple):
    """What is run, and how.

    A configuration's method on a backbone for a task, in a precision, with an optimiser, alone or as one of two.
    """

    config: battery.Case
    backbone: str
    task: str
    precision: str = "bf16-mixed"
    recipe: str = "AdamW"
    twin: bool = False

    def __str__(self) -> str:
        return "-".join((self.config.name, *self[1:5], "two" if self.twin else "one"))


class Findings(NamedTuple):
    """What a case found.

    Attributes:
        fault: what a GPU would have raised; empty if nothing.
        waits: how often the CPU waited for the GPU in a training step.
    """

    fault: str
    waits: Counter[Place]


def places() -> Iterator[tuple[battery.Case, str, str]]:
    """Configurations, backbones and tasks that run together."""
    for config, backbone, task in product(battery.CASES, battery.BACKBONES, battery.TASKS):
        if (config.name, backbone, task) not in battery.HOLES:
            yield config, backbone, task


def everything() -> Iterator[Case]:
    """Every place in each precision, in turn with each recipe and number of processes."""
    others = list(product(RECIPES, (False, True)))
    for turn, (where, precision) in enumerate(product(places(), PRECISIONS)):
        yield Case(*where, precision, *others[turn % len(others)])


def sample() -> Iterator[Case]:
    """Every method once with each backbone, in turn on each task and in each way."""
    tasks: dict[tuple[battery.Case, str], list[str]] = {}
    for config, backbone, task in places():
        tasks.setdefault((config, backbone), []).append(task)
    for turn, ((config, backbone), own) in enumerate(tasks.items()):
        twin, recipe, precision = _WAYS[5 * turn % len(_WAYS)]
        yield Case(config, backbone, own[turn // 2 % len(own)], precision, recipe, twin)


#: the configuration whose method is looked at in runs
FIXTURE = battery.case_of("fixture_lora")


def runs() -> Iterator[Case]:
    """Every task with each backbone, alone and as one of two, in turn with each recipe."""
    for turn, (backbone, task, twin) in enumerate(product(battery.BACKBONES, battery.TASKS, (False, True))):
        if (FIXTURE.name, backbone, task) not in battery.HOLES:
            yield Case(FIXTURE, backbone, task, recipe=list(RECIPES)[turn // 2 % len(RECIPES)], twin=twin)


def tried(case: Case) -> Findings:
    """Trains two steps, then tests and predicts with a clip that cannot be read."""
    method = battery.builder(case.config, case.backbone, case.task)()
    method.recipe = RECIPES[case.recipe]()
    batch = samples.asked(samples.make_batch(method.backbone))
    with pretended_cuda() as gpu, with_a_twin() if case.twin else nullcontext():
        step = _SecondStep(gpu)
        trainer = _trainer(case.precision, _OnCuda(gpu, twin=False), step)
        try:
            if method.trainable:
                trainer.fit(method, _loader(batch, batch))
            trainer.test(method, _loader(_unreadable(batch)), verbose=False)
            trainer.predict(method, _loader(_unreadable(batch)))
        except Exception as error:
            return Findings(f"{type(error).__name__}: {error}", step.waits)
    return Findings("", step.waits)


def waits_in_a_run(case: Case) -> Findings:
    """Trains three steps as a run does.

    The second one counts, with what Lightning does between it and the third: the first one has things to set up, and
    the last one leaves to the end of the epoch what others do by themselves.
    """
    method = battery.builder(case.config, case.backbone, case.task)()
    method.recipe = RECIPES[case.recipe]()
    batch = samples.asked(samples.make_batch(method.backbone))
    with pretended_cuda() as gpu, with_a_twin() if case.twin else nullcontext():
        step = _UpToTheThird(gpu)
        try:
            trainer = _trainer(case.precision, _OnCuda(gpu, case.twin), step, *added_by_a_run())
            leave_signals(trainer)  # as a run does
            trainer.fit(method, datamodule=Data(batch, batch, batch))
        except Exception as error:
            return Findings(f"{type(error).__name__}: {error}", step.waits)
    return Findings("", step.waits)


def added_by_a_run() -> list[Callback]:
    """The rich progress bar, its plain lines at every step, and resume points."""
    return [RichProgressBar(console_kwargs={"file": io.StringIO()}), _LinesAtEveryStep(), _ResumePoints()]


class _LinesAtEveryStep(Callback):
    """What `PlainProgress` does when a line is due: a trainer takes one progress bar, and the rich one is there."""

    def __init__(self) -> None:
        self._lines = PlainProgress()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *step: Any, **_: Any) -> None:
        self._lines.on_train_start(trainer, pl_module)  # a first step is always told
        self._lines.on_train_batch_end(trainer, pl_module, *step)


class _ResumePoints(ResumePoints):
    """Saves nothing: shells cannot be written."""

    def __init__(self) -> None:
        super().__init__(Path(), {}, None, ())

    def _save(self, trainer: Trainer) -> None:
        """Nothing."""


class Data(LightningDataModule):
    """Batches to train on, and nothing to validate."""

    def __init__(self, *batches: Batch) -> None:
        super().__init__()
        self._batches = batches

    def train_dataloader(self) -> DataLoader[Batch]:
        return _loader(*self._batches)

    def samples(self, split: str) -> tuple[()]:
        """As `VideoTextDataModule` has them."""
        return ()


class _UpToTheThird(Callback):
    """Keeps where the program waits from the beginning of the second step to that of the third."""

    def __init__(self, gpu: PretendedCuda) -> None:
        self._gpu, self.waits = gpu, Counter[Place]()

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self.waits = self._gpu.waits.copy()
        self._gpu.waits.clear()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert trainer.global_step == 3


class _SecondStep(Callback):
    """Keeps where the second step waits: the first one has things to set up."""

    def __init__(self, gpu: PretendedCuda) -> None:
        self._gpu, self.waits = gpu, Counter[Place]()

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self._gpu.waits.clear()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.waits = self._gpu.waits.copy()


class _Batches(Dataset[Batch]):
    """Batches in pinned memory, as loaders give them on a GPU."""

    counts = (len(samples.CAPTIONS), len(samples.CAPTIONS))

    def __init__(self, *batches: Batch) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, place: int) -> Any:
        return apply_to_collection(self._batches[place], Tensor, Tensor.pin_memory)


class _OnCuda(SingleDeviceStrategy):
    """Of one process; of two, it notes what Lightning's DDP waits for, and that the other one has the same."""

    def __init__(self, gpu: PretendedCuda, twin: bool) -> None:
        super().__init__(CUDA, accelerator=_Accelerator())
        self._gpu, self.world_size = gpu, 2 if twin else 1

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        if self.world_size > 1:
            self._gpu.waits[place()] += 1

    def reduce(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        self.barrier()  # Lightning has one before each reduction
        return tensor

    def teardown(self) -> None:
        """The model stays where it is."""


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """There is no driver to be told."""


def _loader(*batches: Batch) -> DataLoader[Batch]:
    return DataLoader(_Batches(*batches), batch_size=None)


def _unreadable(batch: Batch) -> Batch:
    """Its last clip could not be read."""
    decoded, mask = batch.decoded.clone(), batch.clips.mask.clone()
    decoded[-1] = mask[-1] = False
    return with_mask(batch, mask)._replace(decoded=decoded)


def _trainer(precision: str, strategy: _OnCuda, *callbacks: Callback) -> Trainer:
    return Trainer(
        strategy=strategy,
        plugins=_plugin(precision),
        callbacks=[FrozenInBf16(), *callbacks],  # which a run has, too
        max_epochs=1,
        inference_mode=False,  # whose tensors cannot be shells
        logger=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _plugin(precision: Any) -> Precision:
    if PRECISIONS[precision] is None:
        return Precision()
    # A scale at which no gradient overflows, so that no step is left out.
    scaler = torch.amp.GradScaler("cuda", init_scale=1.0) if precision == "16-mixed" else None
    return MixedPrecision(precision, "cuda", scaler)


def quiet() -> None:
    """Lightning says nothing of what it finds odd."""
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)


def main() -> int:
    """1 if a fault was found."""
    quiet()
    torch.set_num_threads(1)
    waits, faults, count = Counter[Place](), 0, 0
    for count, case in enumerate(everything(), 1):  # noqa: B007  # shown
        fault, found = tried(case)
        waits.update(found.keys())
        if fault:
            faults += 1
            print(f"{case}: {fault}", flush=True)
    print(f"{count} cases, {faults} faults; places where a step waits, and in how many cases:")
    for (file, function), cases in sorted(waits.items()):
        print(f"{cases:>6} {file} {function}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
