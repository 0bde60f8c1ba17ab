"""motion_norms on the compiled CPU library: launchers of `csrc/cpu/motion_norms.cpp`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.precision import compute_dtype


def forward(prediction: Tensor, target: Tensor, seen: Tensor) -> tuple[Tensor]:
    """Norms (B,2,M) in the dtype of the prediction; see `op.motion_norms`."""
    inputs = _inputs(prediction, target, seen)
    norms = torch.empty(prediction.shape[0], 2, prediction.shape[1], dtype=compute_dtype(prediction))
    native.call("motion_norms_forward", norms.dtype, **inputs, norms=norms)
    return (norms.to(prediction.dtype),)


def backward(
    needed: Sequence[bool], dnorms: Tensor, prediction: Tensor, target: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor | None, None]:
    """Gradients of prediction and target; the mask has none."""
    inputs = _inputs(prediction, target, seen)
    dprediction = torch.empty(prediction.shape, dtype=compute_dtype(prediction))
    native.call(
        "motion_norms_backward",
        dprediction.dtype,
        **inputs,
        dnorms=dnorms.to(dprediction.dtype).contiguous(),
        dprediction=dprediction,
    )
    return dprediction, -dprediction if needed[1] else None, None


def _inputs(prediction: Tensor, target: Tensor, seen: Tensor) -> dict[str, Tensor | int]:
    dtype = compute_dtype(prediction)
    batch, frames, landmarks = seen.shape
    return {
        "prediction": prediction.to(dtype).contiguous(),
        **native.strided("target", target.to(dtype)),
        "seen": seen.contiguous().view(torch.uint8),
        "batch": batch,
        "frames": frames,
        "landmarks": landmarks,
        "coordinates": prediction.shape[2] // landmarks,
    }
