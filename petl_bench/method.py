"""The base of all methods: freezes the backbone, injects what the method adds, trains and saves only that."""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import petl_bench
from petl_bench.backbones.base import Backbone
from petl_bench.backbones.described import said_by
from petl_bench.backbones.needs import Need, refusal
from petl_bench.configurable import Configurable, is_unfinished
from petl_bench.data.batch import Batch
from petl_bench.errors import CheckpointError, NonFiniteError, UsageError
from petl_bench.lightning_seams import clip_gradients, ddp_ignores, in_precision
from petl_bench.machine.signals import STOP
from petl_bench.optimizers import AdamWCosine, OptimizerRecipe, TrainableParameter, unfused
from petl_bench.renamed import class_path_of_today
from petl_bench.step_report import StepReport
from petl_bench.storage.adapters import Adapter
from petl_bench.storage.untrusted import shown
from petl_bench.tasks.base import Evaluation, Task
from petl_bench.tasks.losses import equal_batches

#: arguments of a method that are parts of their own, with places of their own in records and adapters
PARTS = ("backbone", "task", "optimizer")


def own_options(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration's `model` section says of the method itself."""
    return {key: value for key, value in (model.get("init_args") or {}).items() if key not in PARTS}


class Method(Configurable, LightningModule, ABC):
    """A way of adapting a backbone to a task. Subclasses say what they add in `inject`; the rest is here.

    Args:
        backbone: frozen, but for what `inject` unfreezes.
        task: loss and metrics.
        optimizer: optimiser, groups, schedule and clipping.

    Attributes:
        seed: of everything random in training; a run sets it to its `seed_everything`.
    """

    #: True if the outputs before training are those of the plain backbone.
    identity_at_init: ClassVar[bool] = True
    #: False for a method that has nothing to train (zero-shot).
    trainable: ClassVar[bool] = True
    #: what a backbone must have, looked at in this order before `inject`; a property where options decide
    needs: tuple[Need, ...] = ()

    def __init__(self, backbone: Backbone, task: Task, optimizer: OptimizerRecipe | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.task = task
        self.recipe = optimizer or AdamWCosine()
        self.seed = 0
        self.strict_loading = False  # checkpoints hold trained tensors only; on_load_checkpoint checks their names
        self.evaluation: Evaluation | None = None
        #: what the adapter that was loaded says of itself
        self.adapter_metadata: dict[str, Any] = {}
        self._adapted = self._has_head = False
        self._added_buffers: list[str] = []
        #: names of what the method trains for other tasks, and this one never reads
        self._unread: list[str] = []
        self._pretrained: list[nn.Parameter] = []
        #: of the step at hand, until it is read, with the videos that it trains on
        self._report: tuple[StepReport, Tensor] | None = None
        #: the epoch in whose first step the sizes of the processes' batches were last compared
        self._compared = -1

    @abstractmethod
    def inject(self, backbone: Backbone) -> None:
        """Adds trainable modules to the frozen backbone, or unfreezes parts of it."""

    def configure_model(self) -> None:
        """Freezes the backbone and injects the method, once; Lightning calls it before fit, test and loading.

        Raises:
            UsageError: if the backbone lacks what the method needs, or a method that trains added nothing trainable.
        """
        if self._adapted:
            return
        self._adapted = True
        self.backbone.requires_grad_(False)
        self._pretrained = list(self.backbone.parameters())
        before = {id(buffer) for buffer in self.buffers()}
        self.task.require_capabilities(self.backbone)
        self.task.prepare(self.backbone)
        if sentence := refusal(type(self).__name__, self.needs, self.backbone):
            raise UsageError(sentence)
        try:
            self.inject(self.backbone)
        except AttributeError as error:
            if is_unfinished(error):
                made = "a module whose __init__ does not begin with super().__init__"
                raise UsageError(f"{type(self).__name__}.inject makes {made} ({error})") from error
            raise
        unread = {id(parameter) for parameter in self.task.unused_parameters(self.backbone)}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and id(parameter) in unread:
                parameter.requires_grad_(False)
                self._unread.append(name)
        self.task.on_injected(self.backbone, self._pretrained)
        # Every process computes the same queues; DDP would send them (118 MB for BLIP's) before each step.
        ddp_ignores(self, [f"task.{name}" for name, _ in self.task.named_buffers()])
        persistent = self.state_dict().keys() - self._training_state().keys()
        self._added_buffers = [n for n, b in self.named_buffers() if id(b) not in before and n in persistent]
        of_task = {id(parameter) for parameter in self.task.parameters() if parameter.requires_grad}
        self._has_head = bool(of_task)
        if of_task and not self.trainable:
            raise UsageError(
                f"{type(self).__name__} trains nothing, but the head of task {self.task.name} must be trained"
            )
        if self.trainable and not any(p.requires_grad and id(p) not in of_task for p in self.parameters()):
            raise UsageError(f"{type(self).__name__} added nothing trainable to {self.backbone.name}: check its layers")

    @property
    def trained_for(self) -> str:
        """The task that it was trained for: that of its adapter, if one was loaded, else its own."""
        return self.adapter_metadata.get("task", self.task.identity)

    def adapt(self) -> Method:
        """`configure_model` for use without a Trainer; returns self."""
        self.configure_model()
        return self

    @property
    def mergeable(self) -> bool:
        """Whether `merge` gives all that was trained: neither method nor task have modules of their own then."""
        plain = {id(parameter) for parameter in self.adapt()._pretrained}
        added = any(id(parameter) not in plain for parameter in self.backbone.parameters())
        return not (added or self._added_buffers or self._has_head)

    def merge(self) -> Backbone:
        """The backbone with what was trained in its own weights, to be used without the method.

        Raises:
            UsageError: the method or its task has modules of its own.
        """
        self.require_mergeable()
        return self.backbone

    def require_mergeable(self) -> None:
        """Refuses to lose anything that was trained.

        Raises:
            UsageError: the method or its task has modules of its own.
        """
        if not self.mergeable:
            raise UsageError(
                f"{self.label} for {self.task.name} adds modules that no plain {self.backbone.name} has: it cannot be "
                "merged, use the adapter"
            )

    @property
    def label(self) -> str:
        """The method's name in tables; variants that are other methods have other labels."""
        return type(self).__name__

    @property
    def slug(self) -> str:
        """The label as a folder name; one without Latin letters and digits is told apart by a digest."""
        name = re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")
        return name or f"method-{hashlib.sha256(self.label.encode(errors='backslashreplace')).hexdigest()[:8]}"

    # --- training and evaluation ----------------------------------------------------------------------------------

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Sends the tensors of a batch; what the CPU must know of its questions is looked up before that."""
        located, questions = batch.own_clips() if batch.questions else None, batch.questions
        # Lightning would look into each question for tensors.
        on_device = super().transfer_batch_to_device(batch._replace(questions=()), device, dataloader_idx)
        return on_device._replace(questions=questions, located=located)

    # --- training -------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Everything random in a step follows from (seed, epoch, step, rank), so that a resumed run draws the same. That
        # it also computes the same, bit by bit, takes trainer.deterministic on a GPU.
        step = (self.seed, self.current_epoch, batch_idx)
        self.task.before_step(self.current_epoch + batch_idx / self.trainer.num_training_batches, _seed(*step))
        _seed_generators(self.device, _seed(*step, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with self._attention(), self._sizes():
            loss, logs = self.task.loss(self.backbone, batch)
        self._report = StepReport(loss, STOP.number), batch.video_index
        self.log_dict(logs, batch_size=len(batch.video_index))
        return loss

    def _sizes(self) -> AbstractContextManager[object]:
        """Around what is gathered of all processes: that they have equal batches is asked once in an epoch."""
        if self._compared == self.current_epoch:
            return equal_batches()
        self._compared = self.current_epoch
        return nullcontext()

    def on_after_backward(self) -> None:
        self._read_report()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        try:
            with self._attention():  # of what gradient checkpointing computes again
                super().backward(loss, *args, **kwargs)
        except RuntimeError as error:  # of trainer.detect_anomaly
            if "returned nan values" not in str(error):
                raise
            self._read_report()
            place = f"epoch {self.current_epoch}, step {self.global_step}, rank {self.global_rank}"
            raise NonFiniteError(f"a gradient is nan ({place}): {str(error).splitlines()[0]}") from error

    def _attention(self) -> AbstractContextManager[object]:
        """Around what has a gradient: on a CPU, torch's fused attention is ten times as slow backwards in bf16."""
        slow = self.device.type == "cpu" and self.trainer.precision == "bf16-mixed"
        return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()

    def _read_report(self) -> None:
        """Logs the loss of all processes; here, since a GPU has all of the backward pass to do meanwhile.

        Raises:
            NonFiniteError: the loss of any process is not finite.
        """
        if self._report is None:
            return
        (report, videos), self._report = self._report, None
        told = report.read()
        STOP.heard = told.signal
        if not all(map(math.isfinite, told.losses)):
            place = f"epoch {self.current_epoch}, step {self.global_step}, rank {self.global_rank}"
            raise NonFiniteError(
                f"loss is {told.losses[self.global_rank]} ({place}, training videos {videos[:8].tolist()}): lower the "
                "learning rate, or look at these samples"
            )
        loss = torch.tensor(told.loss)  # stays on the CPU, where progress bars read it after every step
        self.log("loss", loss, prog_bar=True, batch_size=len(videos))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.task.after_step(self.backbone)  # here, so that callbacks find the step complete

    def configure_optimizers(self) -> Any:
        parameters = self.trainable_parameters()
        if not parameters:
            return None
        optimizer, schedule = self.recipe.build(parameters, int(self.trainer.estimated_stepping_batches))
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            unfused(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # A value given to the Trainer wins over the recipe's.
        value = self.recipe.clip_norm if gradient_clip_val is None else gradient_clip_val
        clip_gradients(self, optimizer, value, gradient_clip_algorithm)

    # --- evaluation -----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        self._start_evaluation(self.trainer.test_dataloaders)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None and not getattr(self.trainer, "fast_dev_run", False):
            self.task.before_test(data.test_texts())

    def _start_evaluation(self, loader: Any) -> None:
        self.task.reset()
        dry = bool(getattr(self.trainer, "fast_dev_run", False))
        self.task.expect(*((None, None) if dry else loader.dataset.counts))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.task.update(self.backbone, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.task.update(self.backbone, batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        """What the task predicts for one batch."""
        return self.task.predict(self.backbone, batch)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        self._finish_evaluation("val_")

    def on_test_epoch_end(self) -> None:
        self._finish_evaluation("test_")

    def _finish_evaluation(self, prefix: str) -> None:
        with in_precision(self.trainer):
            self.task.finish(self.backbone)
        self.evaluation = self.task.compute()
        self.task.reset()
        # Every process computed the same numbers from all samples: nothing is left to reduce.
        self.log_dict({prefix + k: v for k, v in self.evaluation.metrics.items()}, rank_zero_only=False)

    # --- what is trained ------------------------------------------------------------------------------------------

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """What the backbone had before the method changed anything; empty before `configure_model`."""
        return list(self._pretrained)

    def trainable_parameters(self) -> list[TrainableParameter]:
        """What is trained, a shared parameter once, with what optimiser recipes group by."""
        pretrained = {id(p) for p in self._pretrained}
        own = (named for module in self.modules() for named in module.named_parameters(recurse=False))
        biases = {id(p) for key, p in own if key in ("bias", "in_proj_bias")}
        return [
            TrainableParameter(name, p, id(p) in pretrained, id(p) in biases)
            for name, p in self.named_parameters()
            if p.requires_grad
        ]

    def identity(self) -> dict[str, str]:
        """What an adapter belongs to: method, its options that shape tensors, backbone and its weights."""
        return {
            "petl_bench": petl_bench.__version__,
            "method": f"{type(self).__module__}.{type(self).__qualname__}",
            "backbone": self.backbone.name,
            "backbone_sha256": self.backbone.weights["sha256"] or "",
            "task": self.task.identity,
            "pixels": said_by(self.backbone.spec),
        }

    def trained_state(self) -> dict[str, Tensor]:
        """Trained tensors by name, a shared one once, and the buffers that the method added."""
        state = {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}
        buffers = dict(self.named_buffers())
        return state | {name: buffers[name].detach() for name in self._added_buffers}

    def load_trained_state(self, adapter: Adapter, source: str) -> None:
        """Loads tensors that `trained_state` gave; what another task trained, and is there, counts as trained.

        Raises:
            CheckpointError: if they are of another method, backbone, weights, or have other names or shapes.
        """
        self._require_match(adapter, source)
        self.adapter_metadata = dict(adapter.metadata)
        own = dict(self.named_parameters()) | dict(self.named_buffers())
        with torch.no_grad():
            for name, tensor in adapter.tensors.items():
                own[name].copy_(tensor)
        for name in self._unread:
            own[name].requires_grad_(name in adapter.tensors)

    def _training_state(self) -> dict[str, Tensor]:
        return {f"task.{name}": tensor for name, tensor in self.task.training_state().items()}

    def _require_match(self, adapter: Adapter, source: str, training: bool = False) -> None:
        mine = self.identity()
        theirs = {**adapter.metadata, "method": class_path_of_today(str(adapter.metadata.get("method")))}
        taken = not training and theirs.get("task") in self.task.takes
        if taken:
            theirs["task"] = mine["task"]
        for key in ("method", "backbone", "backbone_sha256", "task"):
            if theirs.get(key) != mine[key]:
                raise CheckpointError(
                    f"{source} was trained with {key} {_in_one_line(theirs.get(key))}, this run has {mine[key]}: "
                    "use the config.yaml that lies beside it"
                )
        state = self.trained_state() | (self._training_state() if training else {})
        own = {name: tuple(tensor.shape) for name, tensor in state.items()}
        given = {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}
        if taken:  # what the other task trained beyond this one is welcome
            parameters = dict(self.named_parameters())
            own |= {name: tuple(parameters[name].shape) for name in self._unread if name in given}
        if own == given:
            return
        missing, foreign = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        changed = sorted(name for name in own.keys() & given.keys() if own[name] != given[name])
        raise CheckpointError(
            f"{source} does not fit this method: {len(missing)} tensors missing {missing[:1]}, "
            f"{len(foreign)} foreign {foreign[:1]}, {len(changed)} of another shape "
            f"{[(name, given[name], own[name]) for name in changed[:1]]}"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self.trained_state() | self._training_state()
        checkpoint["petl_bench"] = self.identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        adapter = Adapter(checkpoint["state_dict"], checkpoint.get("petl_bench", {}))
        self._require_match(adapter, "the checkpoint", training=True)

    def record(self) -> dict[str, Any]:
        """What a run's record says of the model, and of how its task evaluates."""
        counts, weights = self.parameter_counts(), self.backbone.weights
        return {
            "protocol": {
                "metric_version": self.task.metric_version,
                "tie_rule": self.task.tie_rule,
                "inference": {"clips": 1, "temperature": None, **self.task.inference()},
            },
            "model": {
                "method": self.label,
                "backbone": self.backbone.name,
                "weights_sha256": weights["sha256"],
                "pretraining_data": weights["source"],
                "weights": {key: weights.get(key) for key in ("file", "activation", "described_by", "assumed")},
                "trainable_params": counts["trainable"],
                "total_params": counts["total"],
                "trainable_by_modality": {k: v for k, v in counts.items() if k not in ("trainable", "total")},
            },
        }

    # --- what it costs --------------------------------------------------------------------------------------------

    def parameter_counts(self) -> dict[str, int]:
        """Trainable parameters by part (`vision`, `text`, `other`), `trainable` and `total`; shared ones once."""
        parts = {kind: list(tower.parameters()) for kind, tower in self.backbone.towers.items()}
        seen: set[int] = set()
        counts = {kind: _count_new(parameters, seen) for kind, parameters in parts.items()}
        counts["other"] = _count_new(list(self.parameters()), seen)
        counts["trainable"] = sum(counts.values())
        counts["total"] = sum(p.numel() for p in self.parameters())
        return counts


def _in_one_line(value: object) -> str:
    """A value from a file, shortened to one line."""
    return shown(value, 100).strip("'")


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _seed_generators(device: torch.device, seed: int) -> None:
    """Seeds what a step on the device draws from.

    `torch.manual_seed` also seeds what is not in use, and takes half a millisecond where CUDA is not.
    """
    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _count_new(parameters: list[nn.Parameter], seen: set[int]) -> int:
    """Trainable elements among those not seen before."""
    count = 0
    for parameter in parameters:
        if parameter.requires_grad and id(parameter) not in seen:
            count += parameter.numel()
        seen.add(id(parameter))
    return count
