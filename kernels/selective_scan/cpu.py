"""selective_scan on the CPU: launchers of csrc/cpu/selective_scan.cpp and selective_scan_backward.cpp.

    delta_t = softplus(delta_t + delta_bias),   h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,
    y_t     = (sum_n C_t[n] h_t[n] + D u_t) silu(z_t)

u, delta, z, y (B,D,L); A (D,N); B, C (B,N,L), (B,G,N,L) or (D,N); D, delta_bias (D,); last state (B,D,N).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.precision import compute_dtype

CHUNKS = 32
"""Pieces of the batch at most: each has its own sums of the gradients of A, D and the bias, N + 2 numbers a channel."""
TASKS = 16
"""Channels are cut as well where the batch gives fewer tasks; each piece has its own sums of the gradients of B and C."""
SEGMENT = 64
"""Channels of such a piece are a multiple of this: four tiles of the widest registers."""


class Inputs(NamedTuple):
    """Arguments of the scan as the kernels take them: activations of one dtype, the others in what it is computed in."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool


class Gradients(NamedTuple):
    """One for each tensor of `Inputs`, of the same shape and dtype; None where that is None."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
) -> tuple[Tensor, Tensor]:
    """y (B,D,L) in the dtype of u, and the last state (B,D,N); empty without return_last_state."""
    inputs = _prepare(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y = torch.empty(u.shape, dtype=inputs.u.dtype)
    last = torch.empty(last_shape(u, A, return_last_state), dtype=compute_dtype(u))
    run_forward(inputs, y, last if return_last_state else None)
    return y.to(u.dtype), last


def backward(
    needed: Sequence[bool],
    dy: Tensor | None,
    dlast: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
) -> Gradients:
    """All gradients whatever is `needed`: they share nearly all of the work."""
    inputs = _prepare(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    dy = torch.zeros(u.shape, dtype=inputs.u.dtype) if dy is None else dy.to(inputs.u.dtype)
    dlast = dlast.to(compute_dtype(u)).contiguous() if return_last_state and dlast is not None else None
    gradients = Gradients(*(x if x is None else torch.empty(x.shape, dtype=x.dtype) for x in inputs[:-1]))
    run_backward(inputs, dy, dlast, gradients)
    return gradients


def last_shape(u: Tensor, A: Tensor, return_last_state: bool) -> tuple[int, ...]:
    """Shape of the second output."""
    return (*u.shape[:2], A.shape[1]) if return_last_state else (0,)


def run_forward(inputs: Inputs, y: Tensor, last: Tensor | None) -> None:
    """Fill y (B,D,L), of any strides and the dtype of u, and last (B,D,N), contiguous."""
    if inputs.u.numel():
        arguments = {**_fields(inputs), **_plan(inputs), **_channels("y", y), "last": last}
        native.call("selective_scan_forward", inputs.u.dtype, **arguments)


def run_backward(
    inputs: Inputs, dy: Tensor, dlast: Tensor | None, gradients: Gradients, y: Tensor | None = None
) -> None:
    """Fill the gradients, for those of y and of the last state.

    Args:
        dy: (B,D,L) in the dtype of u, any strides.
        dlast: (B,D,N), contiguous, or None for zero.
        gradients: those of u, delta, B, C and z in any strides, the others contiguous.
        y: filled with what the forward pass gave, if not None; any strides.
    """
    u, A = inputs.u, inputs.A
    if not u.numel():
        for gradient in gradients:
            if gradient is not None:
                gradient.zero_()
        return
    plan, groups = _plan(inputs), _finest(inputs)
    segments = -(-(u.shape[1] // groups) // plan["segment"]) * groups

    def partial(x: Tensor) -> Tensor:
        shape = (plan["chunks"], *x.shape) if x.dim() == 2 else (segments, u.shape[0], A.shape[1], u.shape[2])
        return torch.empty(shape, dtype=A.dtype)

    arguments = {
        **_fields(inputs),
        **plan,
        **_channels("dy", dy),
        "dlast": dlast,
        **_channels("du", gradients.u),
        **_channels("ddelta", gradients.delta),
        "dA": gradients.A,
        **_mixing("dB", gradients.B),
        **_mixing("dC", gradients.C),
        "dD": gradients.D,
        **_channels("dz", gradients.z),
        "ddelta_bias": gradients.delta_bias,
        **_channels("y", y),
        "partial_A": partial(A),
        "partial_B": partial(inputs.B),
        "partial_C": partial(inputs.C),
        "partial_D": torch.empty(plan["chunks"], u.shape[1], dtype=A.dtype),
        "partial_bias": torch.empty(plan["chunks"], u.shape[1], dtype=A.dtype),
    }
    native.call("selective_scan_backward", u.dtype, **arguments)


def _prepare(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Inputs:
    """Activations of several dtypes are all taken in what u is computed in."""
    activations = [x for x in (u, delta, B, C, z) if x is not None]
    dtype = u.dtype if all(x.dtype == u.dtype for x in activations) else compute_dtype(u)

    def parameter(x: Tensor | None) -> Tensor | None:
        return x if x is None else x.to(compute_dtype(u)).contiguous()

    u, delta, B, C = (x.to(dtype) for x in (u, delta, B, C))
    z = z if z is None else z.to(dtype)
    return Inputs(u, delta, parameter(A), B, C, parameter(D), z, parameter(delta_bias), delta_softplus)


def _plan(inputs: Inputs) -> dict[str, int]:
    """How the kernels cut the work: by shape alone, so that results do not depend on the number of threads."""
    batch, dim, _ = inputs.u.shape
    groups = _finest(inputs)
    chunks = min(batch, CHUNKS)
    pieces = -(-TASKS // (chunks * groups))
    segment = -(-(dim // groups) // (pieces * SEGMENT)) * SEGMENT
    return {"chunks": chunks, "segment": segment}


def _finest(inputs: Inputs) -> int:
    return max(_groups(inputs.B), _groups(inputs.C), 1)


def _groups(x: Tensor) -> int:
    """Of B or C; 0 if constant."""
    return (0, 1, x.shape[1])[x.dim() - 2]


def _fields(inputs: Inputs) -> dict[str, Tensor | int | None]:
    batch, dim, length = inputs.u.shape
    return {
        "batch": batch,
        "dim": dim,
        "length": length,
        "state": inputs.A.shape[1],
        "groups_B": _groups(inputs.B),
        "groups_C": _groups(inputs.C),
        "delta_softplus": int(inputs.delta_softplus),
        **_channels("u", inputs.u),
        **_channels("delta", inputs.delta),
        "A": inputs.A,
        **_mixing("B", inputs.B),
        **_mixing("C", inputs.C),
        "D": inputs.D,
        **_channels("z", inputs.z),
        "delta_bias": inputs.delta_bias,
    }


def _channels(name: str, x: Tensor | None) -> dict[str, Tensor | int | None]:
    """Fields of a (B,D,L) tensor and its strides."""
    strides = (0, 0, 0) if x is None else x.stride()
    return {name: x, **{f"{name}_{letter}": stride for letter, stride in zip("bdl", strides, strict=True)}}


def _mixing(name: str, x: Tensor) -> dict[str, Tensor | int]:
    """Fields of B, C or their gradients: strides of sequence, group (channel if constant), state and step."""
    strides = x.stride()
    if x.dim() == 2:
        strides = (0, *strides, 0)
    elif x.dim() == 3:
        strides = (strides[0], 0, *strides[1:])
    return {name: x, **{f"{name}_{letter}": stride for letter, stride in zip("bgnl", strides, strict=True)}}
