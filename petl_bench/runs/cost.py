"""What a model costs: multiplications, seconds, clips per second, memory."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from petl_bench.backbones.base import Backbone
from petl_bench.data.base import VideoTextDataModule
from petl_bench.data.batch import Batch, Question
from petl_bench.inputs import Clips, InputSpec
from petl_bench.lightning_seams import data_of, in_precision
from petl_bench.method import Method
from petl_bench.nn.recomputation import watching
from petl_bench.nn.transformer import Memory
from petl_bench.optimizers import OptimizerRecipe
from petl_bench.tasks.base import Evaluation, Task

#: of a question that is answered by choosing, as most datasets have it
_CHOICES = 5


class Gmacs(NamedTuple):
    """10^9 multiply-adds of one forward pass, of matrix products and convolutions alone.

    Attributes:
        vision: the vision tower on one clip, all tokens of all layers: what the literature prints as "GFLOPs"
            (TempMe, arXiv 2409.01156, and others). CLIP with 12 frames: 52.91 (ViT-B/32), 210.76 (ViT-B/16).
        total: the same plus what the task computes behind it for that clip and one text of full length: the text
            tower; where a second stage ranks, also the text reading the clip; where answers are written, the question
            reading the clip and the decoder reading one answer; where one of several options is chosen, the text tower
            reading one option. A query that is matched with k clips, or an answer
            that is searched for, takes the latter parts as many times.
    """

    vision: float
    total: float


def count_gmacs(backbone: Backbone, task: Task, frames: int, max_words: int) -> Gmacs:
    """Counts on one synthetic clip and caption, on whatever device the backbone is (`meta` computes nothing).

    Args:
        backbone: in evaluation mode.
        task: what is done with it.
        frames: T.
        max_words: tokens of the caption.
    """
    device = next(backbone.parameters()).device
    batch = synthetic_batch(backbone.spec, 1, frames, max_words)
    batch = move_data_to_device(batch, device)
    with torch.no_grad(), _plain_attention(), FlopCounterMode(display=False) as counter:
        memory = _all_tokens(backbone, batch.clips)
        vision = counter.get_total_flops()
        task.after_vision(backbone, batch, memory)
    return Gmacs(vision / 2e9, counter.get_total_flops() / 2e9)


def _all_tokens(backbone: Backbone, clips: Clips) -> Memory | None:
    """All tokens of a clip; of a backbone that gives none its features are computed."""
    if backbone.has_tokens:
        return backbone.encode_video_tokens(clips).memory
    backbone.encode_video(clips)
    return None


@contextmanager
def _plain_attention() -> Iterator[None]:
    """The counter knows neither the fused attention of CPUs nor torch's fast path; plain, it is two products."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def synthetic_batch(spec: InputSpec, clips: int, frames: int, max_words: int) -> Batch:
    """A training batch of noise, always the same, with captions (or questions) that fill `max_words` tokens."""
    size, generator = spec.image_size, torch.Generator().manual_seed(0)
    index, full = torch.arange(clips), " ".join(["a"] * max_words)
    return Batch(
        clips=Clips(
            frames=torch.randint(256, (clips, frames, 3, size, size), dtype=torch.uint8, generator=generator),
            mask=torch.ones(clips, frames, dtype=torch.bool),
            times=torch.arange(frames).float().expand(clips, -1),
        ),
        words=spec.tokenize([full] * clips, max_words).counted(),
        video_index=index,
        text_index=index,
        text_video=index,
        decoded=torch.ones(clips, dtype=torch.bool),
        questions=tuple(Question(clip, "what", ("a",), 1.0, ("a",) * _CHOICES, 0) for clip in range(clips)),
        options=spec.tokenize([full] * clips * _CHOICES, max_words).counted(),
    )


class SavedActivations(torch.autograd.graph.saved_tensors_hooks):
    """Context that sums up what autograd keeps for the backward pass, without the module's own parameters.

    Every storage counts once. Of what is recomputed the inputs count, and not what the backward pass holds of it for a
    moment.

    Attributes:
        bytes: the sum so far.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(self._keep, lambda tensor: tensor)
        self._seen = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self.bytes = 0
        self._watching = ExitStack()

    def __enter__(self) -> None:
        super().__enter__()
        self._watching.enter_context(watching(self._keep))

    def __exit__(self, *args: Any) -> None:
        self._watching.close()
        super().__exit__(*args)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor.detach()  # the tensor itself would hold the graph, which holds it: neither would ever be freed


#: bytes by which the kernel's peak may differ from what is resident at that moment: it counts on each CPU, adds later
_UNCERTAIN = 16 * 2**20


class AddedMemory:
    """What this process adds to its resident memory from here on, at most: not what libraries and weights take already.

    Linux only. The kernel's peak of the process is set back to what is resident now; where that is not allowed, the
    peak tells only if it grows.
    """

    def __init__(self) -> None:
        _set_back_peak()
        self._peak, self._resident = _peak_bytes(), _resident_bytes()
        self._most: int | None = None

    def pause(self) -> None:
        """What is added from here on does not count, until `go_on`."""
        self._most = self.bytes()

    def go_on(self) -> None:
        """Ends a pause."""
        _set_back_peak()

    def bytes(self) -> int | None:
        """The most that was added; None if the system does not tell."""
        found = [added for added in (self._most, self._since_the_pause()) if added is not None]
        return max(found, default=None)

    def _since_the_pause(self) -> int | None:
        if self._resident is None or self._peak is None or (peak := _peak_bytes()) is None:
            return None
        if peak == self._peak > self._resident + _UNCERTAIN:
            return None  # it is older than this object
        return max(0, peak - self._resident)


class GpuMemory:
    """The most that this process holds of a GPU's memory from here on, weights included.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._allocated, self._reserved = device, 0, 0
        self.go_on()

    def pause(self) -> None:
        """What is held from here on does not count, until `go_on`."""
        self._allocated, self._reserved = self.bytes()

    def go_on(self) -> None:
        """Ends a pause."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def bytes(self) -> tuple[int, int]:
        """The most that was allocated, and reserved by the allocator."""
        allocated = max(self._allocated, torch.cuda.max_memory_allocated(self._device))
        return allocated, max(self._reserved, torch.cuda.max_memory_reserved(self._device))


def _set_back_peak() -> None:
    with suppress(OSError):  # not on Linux, or not allowed
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident_bytes() -> int | None:
    return _of_status("VmRSS")


def _peak_bytes() -> int | None:
    return _of_status("VmHWM")


def _of_status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


class CostMeter(Callback):
    """Measures the training and the evaluation of one process; of a resumed run also what came before, but for memory.

    Attributes:
        gmacs: of the evaluated model; None before the evaluation.
    """

    _KEPT = ("_train_seconds", "_steps_seconds", "_steps")

    def __init__(self) -> None:
        self.gmacs: Gmacs | None = None
        self._train_started = self._train_seconds = 0.0
        self._steps_started, self._steps_seconds, self._steps = 0.0, 0.0, 0
        self._test_started = self._test_seconds = 0.0
        self._peak: dict[str, list[int] | None] = {}
        self._memory: AddedMemory | GpuMemory | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        self._memory = GpuMemory(device) if device.type == "cuda" else AddedMemory()
        self._train_started = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        if self._steps_started:  # the first step also pays for starting workers and warming up
            self._steps_seconds += now - self._steps_started
            self._steps += 1
        self._steps_started = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps_started = 0.0

    def state_dict(self) -> dict[str, Any]:
        self._count_up()
        return {name: getattr(self, name) for name in self._KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in self._KEPT:
            setattr(self, name, state_dict[name])

    def _count_up(self) -> None:
        """Adds the time since the start, or since the last call."""
        now = time.perf_counter()
        self._train_seconds += now - self._train_started
        self._train_started = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._memory is not None:
            self._memory.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._memory is not None:
            self._memory.go_on()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count_up()
        self._peak = _peak_memory(trainer, self._memory)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Method), "this suite trains methods only"
        data = data_of(trainer)
        with in_precision(trainer):
            self.gmacs = count_gmacs(pl_module.backbone, pl_module.task, data.frames, data.max_words)
        self._test_started = time.perf_counter()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._test_seconds = time.perf_counter() - self._test_started

    def training(self, trainer: Trainer, data: VideoTextDataModule, recipe: OptimizerRecipe) -> dict[str, Any]:
        """The `train` block of the record; clips per second over all processes, without each epoch's first step."""
        on_gpu = trainer.strategy.root_device.type == "cuda"
        clips = self._steps * data.batch_size * trainer.accumulate_grad_batches
        return {
            "epochs": _epochs(trainer),
            "steps": trainer.global_step,
            "global_batch": data.batch_size,
            "world_size": trainer.world_size,
            "precision": str(trainer.precision),
            "optimizer": type(recipe).__name__,
            "augmentation": data.augmentation,
            "wall_s": self._train_seconds,
            "gpu_hours": self._train_seconds * trainer.world_size / 3600 if on_gpu else None,
            "peak_allocated_bytes": self._peak.get("allocated"),
            "peak_reserved_bytes": self._peak.get("reserved"),
            "clips_per_s": clips / self._steps_seconds if self._steps_seconds else None,
        }

    def record(self, evaluation: Evaluation) -> dict[str, Any]:
        """What a run's record says of the costs of an evaluation: the multiplications, and the speed.

        Clips per second are of reading, encoding and ranking together, as a user waits for them.
        """
        gmacs = self.gmacs
        return {
            "model": {"gmacs_vision": gmacs.vision, "gmacs_total": gmacs.total} if gmacs else {},
            "eval": {"cost": {"clips_per_s": evaluation.videos / self._test_seconds}},
        }


def _epochs(trainer: Trainer) -> float:
    """Passes over the training batches; Lightning counts one that `max_steps` or `max_time` cuts as a whole."""
    steps_of_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return min(float(trainer.current_epoch), trainer.global_step / steps_of_epoch)


def _peak_memory(trainer: Trainer, memory: AddedMemory | GpuMemory | None) -> dict[str, list[int] | None]:
    """Bytes per process: of the GPU's allocator, or on a CPU what training added; None where a process cannot tell."""
    if isinstance(memory, GpuMemory):
        mine = list(memory.bytes())
    else:
        found = None if memory is None else memory.bytes()
        mine = [-1 if found is None else found, -1]
    device = trainer.strategy.root_device
    every = trainer.strategy.all_gather(torch.tensor(mine, device=device)).view(-1, 2).tolist()
    allocated, reserved = ([int(row[place]) for row in every] for place in (0, 1))
    return {name: None if -1 in of else of for name, of in (("allocated", allocated), ("reserved", reserved))}
