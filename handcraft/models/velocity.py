"""Velocities as a further input of the classifiers."""

import torch
from torch import Tensor
from torch.nn import functional as F


def with_velocity(x: Tensor, factor: float) -> Tensor:
    """Every frame with its step from the frame before, times `factor`, behind it: x (B,T,D) -> (B,T,2D).

    x is standardised, 0 where missing: a step from or to a missing number is 0, and so is that of the first frame.
    `factor` 0 gives `x` itself.
    """
    if not factor:
        return x
    seen = x != 0
    step = (x[:, 1:] - x[:, :-1]) * (seen[:, 1:] & seen[:, :-1])
    return torch.cat((x, F.pad(factor * step, (0, 0, 1, 0))), dim=2)


def frame_size(dim: int, factor: float) -> int:
    """Numbers of a frame that `with_velocity` gives of D."""
    return 2 * dim if factor else dim
