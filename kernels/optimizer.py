"""Optimiser steps and gradient clipping of a whole model by the compiled CPU library: one call for all tensors.

PyTorch takes a dozen calls a tensor, which for models of many small tensors is longer than the arithmetic. These are
launchers of `csrc/cpu/optimizer.cpp`; who uses them (`handcraft.optim`) has torch's own for where `lists` gives None.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import dispatch, env, native
from handcraft.kernels.native import Pointers


def lists(*given: Sequence[Tensor | None]) -> list[Pointers] | None:
    """The lists as the functions here take them; None where they cannot: a list without tensors or with None, tensors
    that are not contiguous, not on the CPU or neither fp32 nor fp64, a list of several dtypes, or no library."""
    if os.environ.get(dispatch.VARIABLE) == "reference" or not env.backend("cpu").available:
        return None
    found = [Pointers.of(tensors) for tensors in given]
    if any(pointers is None or pointers.dtype not in (torch.float32, torch.float64) for pointers in found):
        return None
    return found


def adam(
    parameters: Pointers,
    gradients: Pointers,
    first: Pointers,
    second: Pointers,
    steps: Pointers,
    sizes: Tensor,
    *,
    rectify: bool,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
    decay: float,
) -> None:
    """One step of Adam, or with `rectify` of RAdam, in place; the formulas are those of `torch.optim`.

    Args:
        parameters, gradients, first, second: as many tensors each, alike in size and dtype; first and second are the
            moving averages of gradients and of their squares.
        steps: () fp32 each: the steps taken before; one is added.
        sizes: of the tensors, see `sizes`.
        rate: learning rate.
        decay: L2 weight decay, added to the gradient.
    """
    native.call(
        "adam_step",
        parameters.dtype,
        count=len(sizes),
        sizes=sizes,
        parameters=parameters,
        gradients=gradients,
        first=first,
        second=second,
        steps=steps,
        rectify=int(rectify),
        rate=rate,
        beta1=betas[0],
        beta2=betas[1],
        epsilon=epsilon,
        decay=decay,
    )


def clip(gradients: Pointers, most: float) -> Tensor:
    """Scale gradients in place to a Euclidean norm over all of them of at most `most`; return what it was, ()."""
    norm = torch.empty((), dtype=gradients.dtype)
    of = sizes(gradients)
    native.call("clip_norm", norm.dtype, count=len(of), sizes=of, gradients=gradients, most=most, norm=norm)
    return norm


def sizes(pointers: Pointers) -> Tensor:
    """Numbers of each tensor, int64."""
    return torch.tensor([tensor.numel() for tensor in pointers.tensors])
