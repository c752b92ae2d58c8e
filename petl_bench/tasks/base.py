"""What a task is: a loss on a backbone's features, and exact metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from torch import Tensor, nn

from petl_bench.backbones.base import CAPABILITIES, Backbone
from petl_bench.configurable import Configurable
from petl_bench.data.batch import Batch, SplitTexts
from petl_bench.errors import UsageError
from petl_bench.nn.transformer import Memory

if TYPE_CHECKING:
    from petl_bench.tasks.choosing import Choosing


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split gave.

    Attributes:
        metrics: flat, for logging, e.g. `t2v_R1`.
        record: nested, as the run record's `eval` block.
        ranks: arrays that `ranks.npz` keeps, from which every metric follows; row i is sample index i. Which videos and
            texts these are is added to them (`petl_bench.runs.queries`).
        inference: test-time choices that are part of the protocol.
        videos: how many clips were encoded.
    """

    metrics: dict[str, float]
    record: dict[str, Any]
    ranks: dict[str, np.ndarray] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)
    videos: int = 0


class PredictionFile(NamedTuple):
    """A file that `petl-bench predict` writes: its name, its bytes, and what it holds in a few words."""

    name: str
    content: bytes
    summary: str


class KeptBytes(NamedTuple):
    """What a process keeps of the clips that it evaluates, in bytes.

    Attributes:
        memory: of the host.
        disk: in a temporary file.
    """

    memory: int
    disk: int


Part = TypeVar("Part")


def present(part: Part | None) -> Part:
    """A capability of a backbone that the task's `needs` have made sure of."""
    assert part is not None, "tasks name all that they read in `needs`"
    return part


class Task(Configurable, nn.Module, ABC):
    """Turns a backbone's features into a loss and exact metrics. Its parameters, if any, are trained."""

    name: ClassVar[str]
    #: version of the metric definitions, part of what makes two results comparable.
    metric_version: str
    #: what a tie at the target does to the result.
    tie_rule: ClassVar[str]
    #: tasks whose adapters it can evaluate, by their `identity`: what is trained means the same in both.
    takes: ClassVar[tuple[str, ...]] = ()
    #: what the texts of a batch must be, as `VideoTextDataModule.texts` says what a dataset has.
    texts: ClassVar[str] = "captions"
    #: the metric by which the best epoch on validation data is chosen; `petl_bench.metrics.table` says of which less is
    #: better.
    monitor: ClassVar[str]
    #: capabilities of a backbone that it reads (`petl_bench.backbones.base.CAPABILITIES`)
    needs: ClassVar[tuple[str, ...]] = ()
    #: whether it reads a feature of each frame (`Backbone.has_frames`)
    needs_frames: bool = False
    #: False if the loss depends on all samples of a batch together, so that summing parts of it is another loss.
    accumulates: ClassVar[bool] = True
    #: names of what `loss` logs beside the loss itself.
    logs: ClassVar[tuple[str, ...]] = ()
    #: clips of a process's batch whose activations are kept at once; None for all of them.
    chunk: int | None = None

    @classmethod
    def tiny(cls) -> Task:
        """One with the defaults of its options, for tests and for `petl-bench list matrix`.

        A task with an option that has no default, or one that is large for a test, says here what stands for it.
        """
        return cls()

    def metric_names(self, several_texts: bool, types: Collection[str]) -> list[str]:
        """Names of the metrics that `compute` gives.

        Args:
            several_texts: whether some video of the split has several.
            types: of the questions of the split.
        """
        return [self.monitor]

    def untaught(self, batch: int, processes: int, videos: int) -> str | None:
        """Why training could teach nothing, whatever the samples are; None if it can.

        Args:
            batch: global batch size.
            processes: that share it.
            videos: of the training split.
        """
        return None

    def lacking(self, backbone: Backbone) -> list[str]:
        """What the task needs and a backbone does not have, in words."""
        missing = [CAPABILITIES[name] for name in self.needs if getattr(backbone, name) is None]
        return missing + ["a feature of each frame"] * (self.needs_frames and not backbone.has_frames)

    def require_capabilities(self, backbone: Backbone) -> None:
        """Refuses a backbone that lacks what the task needs.

        Raises:
            UsageError: naming all that is missing.
        """
        if missing := self.lacking(backbone):
            raise UsageError(
                f"task {self.name} needs {' and '.join(missing)}: {type(backbone).__name__} ({backbone.name}) does not "
                "have that; choose another backbone or task (petl-bench list matrix)"
            )

    def chooser(self) -> Choosing | None:
        """The task that chooses one of several options by what this one trains; None if there is none."""
        return None

    def prepare(self, backbone: Backbone) -> None:  # most tasks need no modules of their own
        """Builds what depends on the backbone's widths; called once, before the method injects its modules."""

    def on_injected(self, backbone: Backbone, pretrained: Sequence[nn.Parameter]) -> None:  # most tasks keep no copies
        """Called once, after the method has injected its modules and chosen what is trained.

        Args:
            backbone: with the method's modules.
            pretrained: what the backbone had before.
        """

    def unused_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        """Parameters of the backbone that the loss never reads: nobody can train them, and DDP would wait for them."""
        return []

    @property
    def identity(self) -> str:
        """What trained tensors of the task belong to; differs where they mean something else."""
        return self.name

    def training_state(self) -> dict[str, Tensor]:
        """The task's buffers that only a resumed training needs: in checkpoints, but in no adapter file."""
        return {}

    def before_step(self, epochs: float, seed: int) -> None:  # most tasks have no schedule and draw nothing
        """Called before each training step.

        Args:
            epochs: how much of the training is done.
            seed: of what is drawn in this step, the same in all processes.
        """

    @abstractmethod
    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's part of a global batch, and what to log beside it."""

    def after_step(self, backbone: Backbone) -> None:  # most tasks keep nothing in bounds
        """Called after each optimiser step."""

    @abstractmethod
    def expect(self, videos: int | None, texts: int | None) -> None:
        """How many videos and texts the coming evaluation must see, each exactly once; None in a dry run."""

    def before_test(self, texts: SplitTexts) -> None:  # most tasks read batches only
        """Called in all processes after `expect` where the coming evaluation is a test of a whole split."""

    @abstractmethod
    def update(self, backbone: Backbone, batch: Batch) -> None:
        """Takes one evaluation batch in."""

    def finish(self, backbone: Backbone) -> None:  # most tasks are done with the last batch
        """Called in all processes after the last `update` and before `compute`: what needs all samples at once."""

    @abstractmethod
    def compute(self) -> Evaluation:
        """Exact metrics over all processes."""

    @abstractmethod
    def inference(self) -> dict[str, Any]:
        """Test-time choices that are part of the protocol, for the run record."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets what `update` took in."""

    def kept_by_evaluation(self, backbone: Backbone, batch: Batch, clips: int) -> KeptBytes | None:
        """What a process keeps of the clips that it evaluates until they are scored; None: their features alone.

        Args:
            backbone: in evaluation mode, and in the precision of an evaluation.
            batch: of one clip, of the size of all.
            clips: that the process evaluates.
        """
        return None

    def after_vision(self, backbone: Backbone, batch: Batch, memory: Memory | None) -> None:
        """What is computed for one clip and one text behind the vision tower; `petl_bench.runs.cost` counts it.

        Args:
            backbone: in evaluation mode.
            batch: one clip and one text.
            memory: all tokens of the clip, where the backbone has any.
        """
        if backbone.has_tokens:
            backbone.encode_text_tokens(batch.words)
        else:
            backbone.encode_text(batch.words)

    @abstractmethod
    def predict(self, backbone: Backbone, batch: Batch) -> Any:
        """What `petl-bench predict` keeps of one evaluation batch."""

    @abstractmethod
    def prediction_file(self, predictions: list[Any]) -> PredictionFile:
        """What `predict` gave for all batches of a split, as a file."""
