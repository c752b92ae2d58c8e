"""`petl-bench params` and `petl-bench profile`: what a configuration trains and what it costs.

Both build the model of a configuration with random weights: neither weight files nor a dataset need be there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader

from petl_bench.cli import lightning as cli
from petl_bench.cli.arguments import Parser
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.formats import number
from petl_bench.machine.memory import told_when_exhausted
from petl_bench.machine.output import console
from petl_bench.method import Method
from petl_bench.ranges import Count, argument
from petl_bench.runs.clusters import Alone
from petl_bench.runs.cost import AddedMemory, GpuMemory, SavedActivations, count_gmacs, made_batch

#: steps before the timed ones, and clips per step where memory is a laptop's
WARM_UP_STEPS, CPU_CLIPS = 1, 2


@dataclass(frozen=True)
class Component:
    """Trainable parameters of one kind.

    Attributes:
        part: the tower they are in (several joined by `+`), `task`, or `other`.
        name: class of the module that the method added, or the unfrozen parameter within the backbone's module.
        pretrained: they are unfrozen parameters of the backbone.
        tensors: how many.
        parameters: their elements.
    """

    part: str
    name: str
    pretrained: bool
    tensors: int
    parameters: int


def components(method: Method) -> list[Component]:
    """What an adapted method trains, by part and kind of module; a shared parameter counts once."""
    parts = {kind: {id(p) for p in tower.parameters()} for kind, tower in method.backbone.towers.items()}
    parts["task"] = {id(p) for p in method.task.parameters()}
    frozen = {id(p) for p in method.pretrained_parameters()}
    found: dict[tuple[str, str, bool], list[int]] = {}
    for name, parameter, pretrained, _ in method.trainable_parameters():
        part = "+".join(kind for kind, ids in parts.items() if id(parameter) in ids) or "other"
        kind = _pretrained_name(method, name) if pretrained else _added_name(method, name, frozen)
        found.setdefault((part, kind, pretrained), []).append(parameter.numel())
    return [Component(*key, tensors=len(sizes), parameters=sum(sizes)) for key, sizes in found.items()]


def _added_name(method: Method, name: str, pretrained: set[int]) -> str:
    """Class of the outermost module around a parameter that holds nothing pretrained."""
    for _, module in _owners(method, name):
        if not any(id(p) in pretrained for p in module.parameters()):
            return type(module).__name__
    return _pretrained_name(method, name)  # held directly by a module that wraps a pretrained one


def _pretrained_name(method: Method, name: str) -> str:
    """A parameter seen from the innermost class around it that is not one of torch's own."""
    depth, module = _owners(method, name)[-1]
    return ".".join([type(module).__name__, *name.split(".")[depth:]])


def _owners(method: Method, name: str) -> list[tuple[int, nn.Module]]:
    """Depth and module of every class around a parameter, outermost first, without torch's layers and lists."""
    path = name.split(".")
    modules = [(depth, method.get_submodule(".".join(path[:depth]))) for depth in range(len(path))]
    return [(depth, module) for depth, module in modules if not type(module).__module__.startswith("torch.")]


class Inspection(cli.PetlBenchCLI):
    """Takes what `fit` takes, builds the model with random weights, and trains nothing that is kept."""

    def __init__(self, args: list[str], options: argparse.Namespace) -> None:
        self.inspection = options
        super().__init__(args)

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        if self.options.ckpt_path:
            raise UsageError("ckpt_path: params and profile look at a configuration, they load no checkpoint")
        key = "model.init_args.backbone.init_args.pretrained"
        if self.options.get(key) is not None:
            self.options[key] = None

    def _require_machine(self) -> None:
        """Nothing: one process, whatever the configuration spreads a run over."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer of one process that writes nothing."""
        self.model.configure_model()
        settings: dict[str, Any] = {
            "devices": 1,
            "num_nodes": 1,
            "strategy": "auto",
            "max_epochs": 1,
            "max_steps": -1,
            "min_epochs": None,
            "min_steps": None,
            "max_time": None,
            "limit_train_batches": None,
            "limit_val_batches": 0,
            "overfit_batches": 0,
            "num_sanity_val_steps": 0,
            "accumulate_grad_batches": 1,
            "fast_dev_run": False,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [],
            "profiler": None,
            "plugins": [Alone()],  # also in a job of several tasks
        }
        try:
            return LightningCLI.instantiate_trainer(self, **(settings | kwargs))
        except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
            raise UsageError(f"trainer: {' '.join(str(error).split())}") from error


class Params(Inspection):
    """Prints trainable parameters by component."""

    def instantiate_classes(self) -> None:
        with torch.device("meta"):  # shapes without memory
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        return super().instantiate_trainer(accelerator="cpu", precision="32-true", **kwargs)

    def fit(self, model: Method, datamodule: VideoTextDataModule, **kwargs: Any) -> None:
        """Nothing is fitted: this is what Lightning calls."""
        found = components(model)
        counts = model.parameter_counts()
        sizes = {
            "trainable": counts["trainable"],
            "total": counts["total"],
            "pretrained": sum(p.numel() for p in model.pretrained_parameters()),
        }
        if self.inspection.json:
            record = {"method": model.label, "backbone": model.backbone.name, **sizes}
            print(json.dumps(record | {"components": [asdict(component) for component in found]}, indent=2))
            return
        rows = [(c.part, f"{'unfrozen ' * c.pretrained}{c.name}", *_share(c.parameters, sizes["total"])) for c in found]
        rows.append(("all", "", *_share(sizes["trainable"], sizes["total"])))
        print_table(f"{model.label} on {model.backbone.name}", ("part", "component", "million", "%"), rows, left=2)
        share = number(100 * sizes["trainable"] / sizes["pretrained"], 3)
        print(
            f"{sizes['trainable']:,} of {sizes['total']:,} parameters are trained; that is {share} % of the "
            f"{sizes['pretrained']:,} of the backbone"
        )


class Profile(Inspection):
    """Prints parameters, GMACs, and memory and speed of training steps on made clips."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        self.steps = StepMeter(self.inspection.steps)
        return super().instantiate_trainer(callbacks=[self.steps], **kwargs)

    def fit(self, model: Method, datamodule: VideoTextDataModule, **kwargs: Any) -> None:
        """Takes training steps exactly as `fit` does, on made batches."""
        counts = model.parameter_counts()
        gmacs = count_gmacs(model.eval().backbone, model.task, datamodule.frames, datamodule.max_words)
        figures: dict[str, Any] = {
            "method": model.label,
            "backbone": model.backbone.name,
            "frames": datamodule.frames,
            "max_words": datamodule.max_words,
            "trainable_params": counts["trainable"],
            "total_params": counts["total"],
            "gmacs_vision": gmacs.vision,
            "gmacs_total": gmacs.total,
            "train": self._train(model, datamodule) if model.trainable else None,
        }
        if self.inspection.json:
            print(json.dumps(figures, indent=2))
            return
        train = figures.pop("train") or {}
        print_table("profile", ("", ""), [(name, _shown(value)) for name, value in (figures | train).items()], left=1)

    def _train(self, model: Method, data: VideoTextDataModule) -> dict[str, Any]:
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        clips = self.inspection.clips or (data.batch_size if on_gpu else min(CPU_CLIPS, data.batch_size))
        batch = made_batch(model.backbone.spec, clips, data.frames, data.max_words)
        # `fit` copies the next batch while the GPU works; here each step would wait for its own.
        batch = move_data_to_device(batch, self.trainer.strategy.root_device)
        steps = [batch] * (WARM_UP_STEPS + self.steps.timed)
        with told_when_exhausted("measure with fewer --clips; petl-bench plan says what a whole batch would take"):
            self.trainer.fit(model.train(), train_dataloaders=DataLoader(steps, batch_size=None))  # type: ignore[arg-type]  # any sequence will do
        return {
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "precision": str(self.trainer.precision),
            "clips_per_step": clips,
            "timed_steps": self.steps.timed,
            "clips_per_s": clips * self.steps.timed / self.steps.seconds,
            "saved_activation_bytes": self.steps.saved_bytes,
            "peak_allocated_bytes": self.steps.peak_allocated,
            "peak_added_bytes": self.steps.peak_added,
        }


class StepMeter(Callback):
    """Measures training steps: what the first one saves for its backward pass, and how long the last ones take.

    Attributes:
        timed: how many steps are timed, after `WARM_UP_STEPS`.
        seconds: of the timed steps together.
        saved_bytes: activations that the forward pass of one step keeps (see `SavedActivations`).
        peak_allocated: bytes of the GPU's allocator, model included; None on a CPU.
        peak_added: bytes that the steps added to the memory of the process on a CPU, model and libraries not included;
            None on a GPU, and where the system does not tell.
    """

    def __init__(self, timed: int) -> None:
        self.timed = timed
        self.seconds, self._started = 0.0, 0.0
        self.saved_bytes = 0
        self.peak_allocated: int | None = None
        self.peak_added: int | None = None
        self._hooks = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        self._memory = GpuMemory(device) if device.type == "cuda" else AddedMemory()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._saved = SavedActivations(pl_module)
            self._hooks.enter_context(self._saved)
        if batch_idx == WARM_UP_STEPS:
            self._started = _now(trainer)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not self.saved_bytes:
            self._hooks.close()
            self.saved_bytes = self._saved.bytes

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 < WARM_UP_STEPS + self.timed:
            return
        self.seconds = _now(trainer) - self._started
        if isinstance(self._memory, GpuMemory):
            self.peak_allocated, _ = self._memory.bytes()
        else:
            self.peak_added = self._memory.bytes()


def _now(trainer: Trainer) -> float:
    """Seconds, once the device has done all that was asked of it."""
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)
    return time.perf_counter()


def _share(parameters: int, total: int) -> tuple[str, str]:
    return number(parameters / 1e6, 3), number(100 * parameters / total, 3)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else str("-" if value is None else value)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    """Prints rows of text; the first `left` columns are flush left."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=any(header))
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


COMMANDS = {"params": Params, "profile": Profile}


def run(command: str, arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Runs `params` or `profile`.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    inspection = COMMANDS[command]
    parser = Parser(
        prog=f"petl-bench {command}",
        usage=f"petl-bench {command} --config NAME [options] [any option of `petl-bench fit`]",
        description=f"{inspection.__doc__} Weights are random and no dataset is read.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    if command == "profile":
        parser.add_argument("--steps", type=argument(Count), default=5, help="timed training steps (5)")
        parser.add_argument(
            "--clips",
            type=argument(Count),
            help=f"clips per step (a GPU: the configuration's batch; a CPU: {CPU_CLIPS})",
        )
    options, rest = parser.parse_known_args(arguments)
    return cli.run("fit", rest, plugins, partial(inspection, options=options))
