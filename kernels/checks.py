"""Argument checks: each error names the op, the argument, what was given and what was expected."""

import torch
from torch import Tensor

from handcraft.kernels.precision import ACTIVATIONS


def tensor(op: str, name: str, value: object) -> None:
    """TypeError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} is {type(value).__name__}, expected a torch.Tensor")


def dims(op: str, name: str, value: Tensor, letters: str) -> None:
    """ValueError unless `value` has as many dimensions as `letters` names, e.g. "(B,T,D)"."""
    if value.dim() != letters.count(",") + (0 if letters.endswith(",)") else 1):
        raise ValueError(f"{op}: {name} has shape {tuple(value.shape)}, expected {letters}")


def shape(op: str, name: str, value: Tensor, letters: str, expected: tuple[int, ...]) -> None:
    """ValueError unless `value` has the shape `expected`; `letters` says what its sizes stand for."""
    if tuple(value.shape) != expected:
        raise ValueError(f"{op}: {name} has shape {tuple(value.shape)}, expected {letters} = {expected}")


def activation(op: str, name: str, value: Tensor, first: Tensor) -> None:
    """TypeError unless `value` may be an activation beside `first`, the op's first argument, on its device."""
    tensor(op, name, value)
    if value.dtype not in ACTIVATIONS:
        raise TypeError(f"{op}: {name} is {value.dtype}, expected float32, bfloat16, float16 or float64")
    if value.dtype == torch.float64 and first.dtype != torch.float64:
        raise TypeError(f"{op}: {name} is float64 beside a first argument of {first.dtype}; convert one of them")
    device(op, name, value, first)


def parameter(op: str, name: str, value: Tensor, first: Tensor) -> None:
    """TypeError unless `value` is fp32 (fp64 is allowed beside an fp64 first argument), on the device of `first`."""
    tensor(op, name, value)
    if value.dtype != torch.float32 and not (value.dtype == torch.float64 and first.dtype == torch.float64):
        raise TypeError(
            f"{op}: {name} is {value.dtype}, expected float32 (parameters stay float32 whatever the activations' dtype)"
        )
    device(op, name, value, first)


def index(
    op: str,
    name: str,
    value: Tensor,
    letters: str,
    expected: tuple[int, ...],
    first: Tensor,
    end: int | None,
    *,
    start: int = 0,
) -> None:
    """Check an int64 index tensor: TypeError, or ValueError for its shape or a value outside [start, end).

    `end=None` allows every value.
    Values are looked at on a CPU only: on a GPU that would stall the stream (and break a CUDA graph), and indexing
    asserts there by itself.
    """
    tensor(op, name, value)
    if value.dtype != torch.int64:
        raise TypeError(f"{op}: {name} is {value.dtype}, expected int64")
    shape(op, name, value, letters, expected)
    device(op, name, value, first)
    if end is None:
        return
    if value.device.type == "cpu" and not torch.compiler.is_compiling() and value.numel():
        low, high = (int(v) for v in torch.aminmax(value))
        if low < start or high >= end:
            raise ValueError(f"{op}: {name} has values in [{low}, {high}], expected within [{start}, {end - 1}]")


def device(op: str, name: str, value: Tensor, first: Tensor) -> None:
    """ValueError unless both tensors are on one device."""
    if value.device != first.device:
        raise ValueError(f"{op}: {name} is on {value.device}, the first argument is on {first.device}")
