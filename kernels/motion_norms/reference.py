"""motion_norms in plain PyTorch."""

import torch
from torch import Tensor

from handcraft.kernels.precision import compute_dtype


def motion_norms(prediction: Tensor, target: Tensor, seen: Tensor) -> Tensor:
    """See `op.motion_norms`; the arguments are checked there.

    An error that does not count is replaced (not multiplied) by 0, so that a NaN under the mask stays out of the
    gradient, and `vector_norm` has gradient 0, not NaN, where its argument is 0.
    """
    dtype = compute_dtype(prediction)
    error = (prediction.to(dtype) - target.to(dtype)).unflatten(-1, (seen.shape[-1], -1))  # (B,M,J,C)
    error = torch.where(seen[..., None], error, 0.0)
    change = torch.where((seen[:, 1:] & seen[:, :-1])[..., None], error.diff(dim=1), 0.0)  # (B,M-1,J,C)
    own, between = (torch.linalg.vector_norm(value.flatten(-2), dim=-1) for value in (error, change))
    between = torch.cat((torch.zeros_like(own[:, :1]), between), dim=1)
    return torch.stack((own, between), dim=1).to(prediction.dtype)  # (B,2,M)
