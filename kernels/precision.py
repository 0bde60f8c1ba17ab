"""Dtype rules shared by all ops: activations in any float dtype, parameters and sums in fp32 (fp64 for fp64)."""

import contextlib

import torch
from torch import Tensor

ACTIVATIONS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def compute_dtype(first: Tensor) -> torch.dtype:
    """What an op whose first argument is `first` computes in: fp64 for fp64, else fp32."""
    return torch.float64 if first.dtype == torch.float64 else torch.float32


def autocast_first(first: Tensor) -> Tensor:
    """Under autocast the first argument of an op is cast to the region's dtype (fp64 is left alone, as in PyTorch)."""
    kind = first.device.type
    if torch.is_autocast_enabled(kind) and first.dtype != torch.float64:
        return first.to(torch.get_autocast_dtype(kind))
    return first


def outside_autocast(kind: str) -> contextlib.AbstractContextManager:
    """A region where autocast does not touch the op's own fp32 sums; `kind` is a device type."""
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()
