"""What a task is: a loss on a backbone's features, and exact metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split gave.

    Attributes:
        metrics: flat, for logging and the terminal, e.g. `t2v_R1`.
        record: nested, as the run record's `eval` block.
        ranks: arrays that `ranks.npz` keeps, from which every metric follows.
        inference: test-time choices that are part of the protocol.
        videos: how many clips were encoded.
    """

    metrics: dict[str, float]
    record: dict[str, Any]
    ranks: dict[str, np.ndarray] = field(default_factory=dict)
    inference: dict[str, Any] = field(default_factory=dict)
    videos: int = 0


class Task(nn.Module, ABC):
    """Turns a backbone's features into a loss and exact metrics. Its parameters, if any, are trained."""

    name: ClassVar[str]
    #: version of the metric definitions, part of what makes two results comparable.
    metric_version: ClassVar[str]
    #: what a tie at the target does to its rank.
    tie_rule: ClassVar[str]
    #: False if the loss depends on all samples of a batch together, so that summing parts of it is another loss.
    accumulates: ClassVar[bool] = True

    def prepare(self, backbone: Backbone) -> None:  # most tasks need no modules of their own
        """Builds what depends on the backbone's widths; called once, before the method injects its modules."""

    @abstractmethod
    def loss(self, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's part of a global batch, and what to log beside it."""

    def after_step(self, backbone: Backbone) -> None:  # most tasks keep nothing in bounds
        """Called after each optimiser step."""

    @abstractmethod
    def expect(self, videos: int | None, texts: int | None) -> None:
        """How many videos and texts the coming evaluation must see, each exactly once; None in a dry run."""

    @abstractmethod
    def update(self, backbone: Backbone, batch: Batch) -> None:
        """Takes one evaluation batch in."""

    @abstractmethod
    def compute(self) -> Evaluation:
        """Exact metrics over all processes."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets what `update` took in."""
