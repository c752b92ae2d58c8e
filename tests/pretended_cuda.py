"""A GPU that is pretended: what breaks on CUDA breaks here, and where the CPU waits for the GPU is noted.

A tensor on it is a shell around one of the CPU. The shell has CUDA's dispatch keys, so that CUDA's own lists say what
autocast casts; its numbers are computed by the CPU, so that branches on them are real ones. Autograd's engine takes
the shells for meta tensors, which need no streams.

Not seen: kernels (the CPU's are run, and attention is the plain one), memory, speed, and NCCL itself.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # registers the backend "fake"
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from petl_bench.registry import FOLDERS, ROOT

CUDA, CPU, META = (torch.device(name) for name in ("cuda:0", "cpu", "meta"))
_aten = torch.ops.aten
_torch: Any = torch._C
_tensor: Any = Tensor
_autograd: Any = torch.autograd
_PROJECT = tuple(str(ROOT / folder) for folder in ("petl_bench", *FOLDERS))
_HERE = str(Path(__file__))

#: take indices of the CPU, which are copied, and wait for those that are masks
_INDEXING = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)
#: take a number that lies on the CPU, as everything does that works by elements
_TAKE_NUMBERS = (_aten.masked_fill, _aten.masked_fill_, _aten.fill, _aten.fill_, *_INDEXING)
_COPIES = (_aten._to_copy, _aten.copy_)
#: many CPUs have no kernels for these in low precision
_PRODUCTS = (_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.convolution, _aten.convolution_backward)
_LOW = (torch.bfloat16, torch.float16)
#: up to so many rows of a layer norm, CUDA's kernel finds the gradient of its bias where the weight needs none
ROWS_OF_BIAS_ALONE = 64 * 1024
_WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class CudaFault(Exception):
    """What CUDA or NCCL would raise, or answer with NaN."""


class Place(NamedTuple):
    """A function of the project, or of a library where no function of the project called it."""

    file: str
    function: str


class OnCuda(Tensor):
    """Says that it is on the GPU. Every operation needs `PretendedCuda`."""

    on_cpu: Tensor
    __torch_function__ = _torch._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[OnCuda], on_cpu: Tensor) -> OnCuda:
        layout = torch.empty_strided(on_cpu.shape, on_cpu.stride(), dtype=on_cpu.dtype, device="meta")
        self = _tensor._make_subclass(cls, layout, False, dispatch_device=True, device_for_backend_keys=CUDA)
        self.on_cpu = on_cpu
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def tolist(self) -> Any:
        return self.cpu().tolist()


class _Event:
    """Of the GPU, which is waited for."""

    def record(self, stream: Any = None) -> None:
        """Everything is done at once."""

    def synchronize(self) -> None:
        _pretended().waits[place()] += 1


class _Call:
    """An operation, and where its arguments are."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.func, self.op, self.args = func, func.overloadpacket, args
        self.kwargs, self.leaves = kwargs, [*_leaves(args), *_leaves(tuple(kwargs.values()))]
        tensors = [x for x in self.leaves if isinstance(x, Tensor)]
        self.on_cuda = [x for x in tensors if isinstance(x, OnCuda)]
        self.on_cpu = [x for x in tensors if not isinstance(x, OnCuda)]
        named = [x for x in self.leaves if isinstance(x, torch.device)]
        self.gives_cuda = named[-1] != CPU if named else bool(self.on_cuda)

    def option(self, name: str) -> Any:
        """What was given for an argument, by its place or its name; None where nothing was."""
        names = (argument.name for argument in self.func._schema.arguments)
        return dict(zip(names, self.args, strict=False)).get(name, self.kwargs.get(name))

    def run(self) -> Any:
        """What the CPU gives."""
        kwargs = {name: _mapped(_held, value) for name, value in self.kwargs.items()}
        args = _mapped(_held, self.args)
        if self.op in _PRODUCTS and args[0].dtype in _LOW:
            done = self.func(*_mapped(partial(_cast, torch.float32), args), **kwargs)
            return _mapped(partial(_cast, args[0].dtype), done)
        return self.func(*args, **kwargs)

    def fault(self) -> str:
        """What CUDA or NCCL would say; empty if nothing."""
        if self.func.namespace == "c10d":
            return "a tensor of the CPU in a collective" if self.on_cpu else ""
        if self.gives_cuda and any(isinstance(x, torch.Generator) and x.device == CPU for x in self.leaves):
            return "a generator of the CPU draws on the GPU"
        if self.op in (_aten._softmax, _aten._safe_softmax) and self.on_cuda:
            nothing = (self.on_cuda[0].on_cpu == -torch.inf).all(self.args[1])
            return "a softmax (attention) over nothing" if nothing.any() else ""
        if self.op is _aten.native_layer_norm_backward and self.option("output_mask")[1:] == [False, True]:
            many = bool(self.on_cuda) and self.option("mean").numel() > ROWS_OF_BIAS_ALONE
            return "no gradient of a layer norm's bias, whose weight needs none" if many else ""
        return "tensors of the CPU and of the GPU" if self.on_cuda and any(map(self._is_foreign, self.on_cpu)) else ""

    def _is_foreign(self, tensor: Tensor) -> bool:
        """Whether an operation on the GPU does not take a tensor of the CPU."""
        if tensor.ndim == 0 and (torch.Tag.pointwise in self.func.tags or self.op in _TAKE_NUMBERS):
            return False
        if self.op in _INDEXING and isinstance(self.args[0], OnCuda):
            return not any(tensor is index for index in self.args[1])
        return self.op not in _COPIES

    def waits(self, pinned: Callable[[Tensor], bool]) -> bool:
        """Whether the CPU waits for the GPU; `pinned` knows tensors of the CPU in pinned memory."""
        if self.op in _COPIES:
            crosses = bool(self.on_cpu) if self.op is _aten.copy_ else self.gives_cuda != bool(self.on_cuda)
            return crosses and bool(self.on_cuda or self.gives_cuda) and not self._copies_beside(pinned)
        if not self.on_cuda:
            return False
        if self.op in _INDEXING:
            indices = [index for index in self.args[1] if index is not None]
            return any(not isinstance(index, OnCuda) or index.dtype == torch.bool for index in indices)
        if self.op is _aten.repeat_interleave:
            return self.option("output_size") is None
        return not _WAITING.isdisjoint(self.func.tags)

    def _copies_beside(self, pinned: Callable[[Tensor], bool]) -> bool:
        """Whether a copy is made while the CPU goes on: from or to pinned memory, as it is."""
        becomes = self.args[1].dtype if self.op is _aten.copy_ else self.option("dtype")
        as_it_is = becomes in (None, self.args[0].dtype)
        return bool(self.option("non_blocking")) and as_it_is and all(map(pinned, self.on_cpu))


def _leaves(values: Any) -> Iterator[Any]:
    """What lists and tuples in each other hold; torch's own pytree takes several times as long."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same with all leaves changed."""
    if isinstance(value, (list, tuple)):
        changed = [_mapped(change, inner) for inner in value]
        return changed if isinstance(value, list) else tuple(changed)
    return change(value)


def _held(leaf: Any) -> Any:
    """What stands for it on the CPU."""
    if isinstance(leaf, OnCuda):
        return leaf.on_cpu
    return CPU if isinstance(leaf, torch.device) else leaf


def _cast(dtype: torch.dtype, leaf: Any) -> Any:
    """A tensor in another precision; anything else as it is."""
    return leaf.to(dtype) if isinstance(leaf, Tensor) else leaf


class PretendedCuda(TorchDispatchMode):
    """The GPU, and its driver.

    Attributes:
        waits: how often the CPU waited for the GPU, by place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[Place] = Counter()
        self._in_engine = False
        self._pinned: dict[int, Tensor] = {}  # by address; they are kept, so that no other one gets it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return META if self._in_engine else CUDA
        if func is _aten.is_pinned.default:
            return self._is_pinned(args[0])
        if func is _aten._pin_memory.default:
            return self._pinned.setdefault((copy := args[0].clone()).untyped_storage().data_ptr(), copy)
        call = _Call(func, args, kwargs or {})
        if fault := call.fault():
            raise CudaFault(f"{fault}: {func} in {' '.join(place())}")
        if call.waits(self._is_pinned):
            self.waits[place()] += 1
        done = call.run()
        if func.namespace == "c10d":
            _as_with_a_twin(call)
        if not call.gives_cuda:
            return done
        own = {id(shell.on_cpu): shell for shell in call.on_cuda}  # operations in place give their argument back

        def shelled(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return own[id(leaf)] if id(leaf) in own else OnCuda(leaf)

        return _mapped(shelled, done)

    def backward(self, engine: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What autograd's engine gives; a backward pass may have others inside."""
        outside, self._in_engine = self._in_engine, True
        try:
            return engine(*args, **kwargs)
        finally:
            self._in_engine = outside

    def _is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned


def place() -> Place:
    """Where the program is: in the innermost function of the project, else of a library."""
    codes = [frame.f_code for frame, _ in traceback.walk_stack(None) if frame.f_code.co_filename != _HERE]
    ours = next((code for code in codes if code.co_filename.startswith(_PROJECT)), codes[0])
    return Place("/".join(Path(ours.co_filename).parts[-2:]), ours.co_qualname.split(".<locals>")[0])


def _as_with_a_twin(call: _Call) -> None:
    """Gives the result of a collective of two processes that hold the same."""
    if call.op is torch.ops.c10d._allgather_base_:
        out, mine = (cast(OnCuda, x).on_cpu for x in call.args[:2])
        out.copy_(torch.cat([mine, mine]))
        return
    if call.op is torch.ops.c10d.allreduce_:
        for tensor in call.on_cuda:
            tensor.on_cpu.mul_(2)
        return
    raise NotImplementedError(f"say in {_HERE} what {call.func} gives")


def _pretended() -> PretendedCuda:
    """The GPU at hand."""
    return next(mode for mode in reversed(_get_current_dispatch_mode_stack()) if isinstance(mode, PretendedCuda))


@contextmanager
def pretended_cuda() -> Iterator[PretendedCuda]:
    """Inside the block `cuda` is there; torch stays changed, so it belongs into a process of its own."""
    _install()
    engine, gpu = _autograd._engine_run_backward, PretendedCuda()
    _autograd._engine_run_backward = partial(gpu.backward, engine)
    try:
        with sdpa_kernel(SDPBackend.MATH), gpu:
            yield gpu
    finally:
        _autograd._engine_run_backward = engine


@cache
def _install() -> None:
    """Has torch believe in CUDA."""
    _torch._ensureCUDADeviceGuardSet()  # after this anybody may name a CUDA device
    _torch._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device="cuda")` is made on the CPU, and copied
    torch.__future__.set_swap_module_params_on_conversion(True)  # a shell has no data that a parameter could point to
    torch.cuda.Event = _Event  # type: ignore[misc]
    for name in ("is_available", "is_bf16_supported", "_lazy_init"):
        setattr(torch.cuda, name, lambda *_, **__: True)
    # Of an accelerator of another kind, which is away, autograd's engine wants no streams.
    torch.utils.rename_privateuse1_backend("none")  # type: ignore[attr-defined]  # documented
    torch._register_device_module("none", torch.cuda)
    torch.accelerator.is_available = lambda: False


@contextmanager
def with_a_twin() -> Iterator[None]:
    """Inside the block this is the first of two processes: the other one has the same batches, but tested nothing."""

    def gather(found: list[Any], mine: Any, group: Any = None) -> None:
        found[:] = [mine, mine[:0]]  # NCCL sends objects by way of the GPU, whatever they hold

    dist.all_gather_object = gather
    dist.init_process_group("fake", rank=0, world_size=2, store=dist.HashStore())  # type: ignore[attr-defined]  # documented
    try:
        yield
    finally:
        dist.destroy_process_group()
