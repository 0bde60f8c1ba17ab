"""selective_scan on the CPU: launchers of csrc/cpu/selective_scan.cpp and selective_scan_backward.cpp.

    delta_t = softplus(delta_t + delta_bias),   h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,
    y_t     = (sum_n C_t[n] h_t[n] + D u_t) silu(z_t)

u, delta, z, y (B,D,L); A (D,N); B, C (B,N,L), (B,G,N,L) or (D,N); D, delta_bias (D,); last state (B,D,N).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.precision import compute_dtype
from handcraft.kernels.selective_scan import arguments
from handcraft.kernels.selective_scan.arguments import Gradients, Inputs

CHUNKS = 32
"""Pieces of the batch at most: each has its own sums of the gradients of A, D and the bias, N + 2 numbers a channel."""
TASKS = 16
"""Channels are cut too where the batch gives fewer tasks; each piece has its own sums of the gradients of B and C."""
SEGMENT = 64
"""Channels of such a piece are a multiple of this: four tiles of the widest registers."""


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
    inputs = arguments.prepare(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    y = torch.empty(u.shape, dtype=inputs.u.dtype)
    last = torch.empty(arguments.last_shape(u, A, return_last_state), dtype=compute_dtype(u))
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
    inputs = arguments.prepare(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    dy = torch.zeros(u.shape, dtype=inputs.u.dtype) if dy is None else dy.to(inputs.u.dtype)
    dlast = dlast.to(compute_dtype(u)).contiguous() if return_last_state and dlast is not None else None
    gradients = Gradients(*(x if x is None else torch.empty(x.shape, dtype=x.dtype) for x in inputs[:-1]))
    run_backward(inputs, dy, dlast, gradients)
    return gradients


def run_forward(inputs: Inputs, y: Tensor, last: Tensor | None) -> None:
    """Fill y (B,D,L), of any strides and the dtype of u, and last (B,D,N), contiguous."""
    if inputs.u.numel():
        given = {**arguments.fields(inputs), **_plan(inputs), **arguments.channels("y", y), "last": last}
        native.call("selective_scan_forward", inputs.u.dtype, **given)


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
    plan, groups = _plan(inputs), arguments.finest_groups(inputs)
    segments = -(-(u.shape[1] // groups) // plan["segment"]) * groups

    def partial(x: Tensor) -> Tensor:
        shape = (plan["chunks"], *x.shape) if x.dim() == 2 else (segments, u.shape[0], A.shape[1], u.shape[2])
        return torch.empty(shape, dtype=A.dtype)

    given = {
        **arguments.fields(inputs),
        **plan,
        **arguments.channels("dy", dy),
        "dlast": dlast,
        **arguments.channels("du", gradients.u),
        **arguments.channels("ddelta", gradients.delta),
        "dA": gradients.A,
        **arguments.mixing("dB", gradients.B),
        **arguments.mixing("dC", gradients.C),
        "dD": gradients.D,
        **arguments.channels("dz", gradients.z),
        "ddelta_bias": gradients.delta_bias,
        **arguments.channels("y", y),
        "partial_A": partial(A),
        "partial_B": partial(inputs.B),
        "partial_C": partial(inputs.C),
        "partial_D": torch.empty(plan["chunks"], u.shape[1], dtype=A.dtype),
        "partial_bias": torch.empty(plan["chunks"], u.shape[1], dtype=A.dtype),
    }
    native.call("selective_scan_backward", u.dtype, **given)


def _plan(inputs: Inputs) -> dict[str, int]:
    """How the kernels cut the work: by shape alone, so that results do not depend on the number of threads."""
    batch, dim, _ = inputs.u.shape
    groups = arguments.finest_groups(inputs)
    chunks = min(batch, CHUNKS)
    pieces = -(-TASKS // (chunks * groups))
    segment = -(-(dim // groups) // (pieces * SEGMENT)) * SEGMENT
    return {"chunks": chunks, "segment": segment}
