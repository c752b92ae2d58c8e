"""A text tower that runs without the model it is of: torch's own operations, one after another, and their tensors.

`torch.export` traces the tower of an adapted model (`petl_bench.search.tracing`). What it finds is kept as JSON beside
the tensors, so that reading it unpickles nothing (torch's own `.pt2` does), calls nothing but the operations that are
named here, and imports neither Lightning nor the vision tower. Features are those of the model to the bit.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from petl_bench.errors import UsageError
from petl_bench.inputs import Words
from petl_bench.search.tokens import Tokens, tokens

#: operations of `torch.ops.aten` that a tower may consist of: none of them reads or writes anything but tensors
_ATEN = frozenset(
    {
        *("_to_copy.default", "add.Tensor", "add.Scalar", "add_.Tensor", "addmm.default", "amax.default"),
        *("arange.default", "arange.start", "arange.start_step", "argmax.default", "baddbmm.default"),
        *("bitwise_and.Tensor", "bmm.default", "cat.default", "chunk.default", "clamp.default", "clamp_min.default"),
        *("clone.default", "contiguous.default", "conv1d.default", "cos.default", "cumsum.default", "detach.default"),
        *("detach_.default", "div.Scalar", "div.Tensor", "div_.Tensor", "dropout.default", "einsum.default"),
        *("embedding.default", "eq.Scalar", "eq.Tensor", "exp.default", "expand.default", "expand_as.default"),
        *("flatten.using_ints", "full.default", "full_like.default", "gather.default", "ge.Scalar", "ge.Tensor"),
        *("gelu.default", "gt.Scalar", "gt.Tensor", "index.Tensor", "index_select.default", "layer_norm.default"),
        *("le.Scalar", "le.Tensor", "lift_fresh_copy.default", "linalg_vector_norm.default", "linear.default"),
        *("logical_and.default", "logical_not.default", "lt.Scalar", "lt.Tensor", "masked_fill.Scalar"),
        *("masked_fill.Tensor", "matmul.default", "max.dim", "mean.dim", "mul.Scalar", "mul.Tensor", "mul_.Tensor"),
        *("narrow.default", "ne.Scalar", "ne.Tensor", "neg.default", "new_full.default", "new_ones.default"),
        *("new_zeros.default", "ones.default", "ones_like.default", "permute.default", "pow.Tensor_Scalar"),
        *("relu.default", "repeat.default", "reshape.default", "rsqrt.default", "rsub.Scalar", "select.int"),
        *("scaled_dot_product_attention.default", "sigmoid.default", "silu.default", "sin.default", "slice.Tensor"),
        *("softmax.int", "split.Tensor", "split_with_sizes.default", "sqrt.default", "squeeze.dim", "stack.default"),
        *("sub.Tensor", "sum.dim_IntList", "sym_size.int", "t.default", "tanh.default", "tensor_split.indices"),
        *("tensor_split.sections", "to.dtype", "to.dtype_layout", "transpose.int", "tril.default", "triu.default"),
        *("type_as.default", "unbind.int", "unflatten.int", "unsqueeze.default", "view.default", "where.self"),
        *("zeros.default", "zeros_like.default"),
    }
)
#: of Python, on sizes
_SIZES: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("add", "floordiv", "getitem", "mul", "neg", "sub")
}
#: of a text
_LARGEST = 1_000_000
_DTYPES = {str(kind): kind for kind in (torch.bool, torch.int32, torch.int64, torch.float32, torch.float64)}


class NoTextTower(UsageError):
    """A model has none that runs by itself, or a file holds none; the message says why."""


@dataclass(frozen=True)
class TextTower:
    """A text tower.

    Attributes:
        program: what was traced, as plain values.
        tensors: by name.
    """

    program: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """Features of a text with norm 1, and before that: (E,) fp32 each, as `TextFeatures` of the model.

        Raises:
            NoTextTower: its steps or tensors do not fit each other.
        """
        try:
            words = Words(*self.tokens(text, self.max_words)).without_padding()
            with torch.inference_mode():
                pooled, projected = self._run({"ids": words.ids, "mask": words.mask})
                return pooled[0].float(), projected[0].float()
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise NoTextTower(f"its steps do not fit each other: {' '.join(str(error).split())[:100]}") from error

    def cut(self, text: str) -> str:
        """Of a text that is longer than what is read of it, how long it is; else nothing."""
        return self.tokens.cut(text, self.max_words)

    @property
    def max_words(self) -> int:
        """Tokens that are read of a text."""
        return self.program["max_words"]

    @cached_property
    def tokens(self) -> Tokens:
        """Its tokenizer.

        Raises:
            ValueError: the program describes none.
        """
        return tokens(self.program["tokenizer"])

    def _run(self, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        values: dict[str, Any] = {**self.tensors, **given}
        for name, called, arguments, options in self.program["steps"]:
            arguments, options = _filled(arguments, values), _filled(options, values)
            values[name] = operation(called)(*arguments, **options)
        return tuple(values[name] for name in self.program["features"])


def checked(program: Any, tensors: Mapping[str, Tensor]) -> TextTower:
    """A tower that was read from a file.

    Raises:
        NoTextTower: it is none.
    """
    tower, known = TextTower(program, tensors), {"ids", "mask", *tensors}
    try:
        for name, called, arguments, options in program["steps"]:
            operation(called)
            if not isinstance(name, str) or not isinstance(arguments, list) or not isinstance(options, dict):
                raise TypeError(name)
            if unknown := (_named(arguments) | _named(options)) - known:
                raise KeyError(min(unknown))
            known.add(name)
        features, max_words = program["features"], program["max_words"]
        numbered = isinstance(max_words, int) and 3 <= max_words <= _LARGEST
        whole = numbered and len(features) == 2 and known >= set(features)
        _ = tower.tokens
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise NoTextTower(f"a step of it is none that is known ({str(error)[:100]})") from error
    if not whole:
        raise NoTextTower("its features or its tokenizer are missing")
    return tower


def operation(name: str) -> Callable[..., Any]:
    """An operation by name.

    Raises:
        KeyError: it is none of those that are allowed.
    """
    if name in _SIZES:
        return _SIZES[name]
    if name not in _ATEN:
        raise KeyError(name)
    operation, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, operation), overload)


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Arguments from JSON; the names of steps are replaced by what came out of them."""
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, item),) = value.items()
        if kind == "step":
            return values[item]
        if kind == "dtype" and isinstance(item, str):
            return _DTYPES[item]
        if kind == "device" and item == "cpu":
            return torch.device("cpu")
        if kind == "float":
            return float(item)
    return {name: _filled(item, values) for name, item in value.items()}


def _named(value: Any) -> set[str]:
    """The steps that arguments name."""
    if isinstance(value, list):
        return {name for item in value for name in _named(item)}
    if not isinstance(value, dict):
        return set()
    if set(value) == {"step"}:
        return {value["step"]}
    return {name for item in value.values() for name in _named(item)}
