"""The one tolerance table of the op tests.

An implementation passes if its largest error against the fp64 truth, both relative to the largest value of the truth,
is at most twice that of plain PyTorch run in the same dtype plus a small slack (a few roundings of the result).
"""

import torch
from torch import Tensor

ORACLE = 1e-10
"""fp64 reference against an independent NumPy float64 implementation, relative."""

SLACK = {
    torch.float64: 1e-13,
    torch.float32: 1e-6,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}


def error(value: Tensor, truth: Tensor) -> float:
    """Largest difference relative to the largest magnitude of the truth; infinite if `value` is not finite."""
    if value.shape != truth.shape:
        raise AssertionError(f"shape {tuple(value.shape)}, expected {tuple(truth.shape)}")
    if not truth.numel():
        return 0.0
    value, truth = (tensor.detach().cpu().double() for tensor in (value, truth))
    difference = (value - truth).abs().max().item()
    if difference != difference:
        return float("inf")
    return difference / max(truth.abs().max().item(), 1e-30)


def bound(own: float, dtype: torch.dtype) -> float:
    """The allowed error, given plain PyTorch's own error in the dtype."""
    return 2 * own + SLACK[dtype]


def check(name: str, value: Tensor, truth: Tensor, plain: Tensor, dtype: torch.dtype) -> None:
    """Assert the rule above for one tensor."""
    got, allowed = error(value, truth), bound(error(plain, truth), dtype)
    assert got <= allowed, f"{name} in {dtype}: error {got:.2e}, allowed {allowed:.2e}"
