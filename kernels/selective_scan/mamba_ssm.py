"""selective_scan by mamba-ssm: `mamba_ssm.ops.selective_scan_interface.selective_scan_fn`, given what it expects.

It differs from ours in these points, which are settled here: u, delta, z and varying B and C have one dtype, constant
ones are fp32; B and C have equally many groups; and its backward pass drops the gradient of the last state, so calls
that ask for that state are refused (`dispatch.RULES`).
"""

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor

Optional = Tensor | None


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Optional,
    z: Optional,
    delta_bias: Optional,
    delta_softplus: bool,
) -> Tensor:
    """y (B,D,L) in the dtype of u, differentiable by mamba-ssm's own backward pass."""
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    activations = [x for x in (u, delta, B, C, z) if x is not None]
    dtype = u.dtype if all(x.dtype == u.dtype for x in activations) else torch.float32
    groups = max(x.shape[1] if x.dim() == 4 else 1 for x in (B, C))
    y = scan(
        u.to(dtype),
        delta.to(dtype),
        A,
        _mixing(B, groups, dtype),
        _mixing(C, groups, dtype),
        D,
        None if z is None else z.to(dtype),
        delta_bias,
        delta_softplus,
    )
    return y.to(u.dtype)


def forward(*arguments: Optional | bool) -> tuple[Tensor, Tensor]:
    """y and an empty last state; the launcher for torch.compile, which cannot look into `selective_scan`."""
    *given, _ = arguments
    u = arguments[0]
    return selective_scan(*given).contiguous(), u.new_empty(0, dtype=torch.float32)


def backward(needed: Sequence[bool], dy: Optional, dlast: Optional, *arguments: Optional | bool) -> list[Optional]:
    """Gradients of the tensors that need one; runs the forward pass again."""
    *tensors, delta_softplus, _ = arguments
    leaves = [x if x is None else x.detach().requires_grad_(need) for x, need in zip(tensors, needed, strict=True)]
    with torch.enable_grad():
        y = selective_scan(*leaves, delta_softplus)
    found = iter(torch.autograd.grad(y, [x for x, need in zip(leaves, needed, strict=True) if need], dy))
    return [next(found) if need else None for need in needed]


def _mixing(x: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """B or C as mamba-ssm takes it."""
    if x.dim() == 2:
        return x.float()
    if groups > 1:
        x = x[:, None] if x.dim() == 3 else x
        x = x.expand(-1, groups, -1, -1)
    return x.to(dtype)
