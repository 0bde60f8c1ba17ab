"""cmlpe on the CPU library. See `op.cmlpe` for shapes and formula."""

from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.dct import dct_matrix
from handcraft.kernels.params import CMLPeParams
from handcraft.kernels.precision import compute_dtype

PARAMETERS = tuple(name for name in CMLPeParams._fields if name != "class_embedding")
"""The fields of CMLPeParams that the op reads, in their order there and in the arguments here."""


def forward(x: Tensor, e: Tensor, *parameters: Tensor) -> tuple[Tensor]:
    """`parameters`: those named in `PARAMETERS`."""
    y = torch.empty(x.shape, dtype=x.dtype)
    native.call("cmlpe_forward", x.dtype, **_inputs(x, e, parameters), y=y)
    return (y,)


def backward(
    needed: Sequence[bool], dy: Tensor, x: Tensor, e: Tensor, *parameters: Tensor
) -> tuple[Tensor | None, ...]:
    """Arguments as in `forward`; every gradient is computed, but that of x only where it is needed."""
    inputs = _inputs(x, e, parameters)
    dx = torch.empty(x.shape, dtype=x.dtype) if needed[0] else None
    gradients = {f"d{name}": torch.empty_like(inputs[name]) for name in ("e", *PARAMETERS)}
    native.call("cmlpe_backward", x.dtype, **inputs, dy=dy.contiguous(), dx=dx, **gradients)
    return (dx, *gradients.values())


def _inputs(x: Tensor, e: Tensor, parameters: Sequence[Tensor]) -> dict[str, Tensor | int]:
    """Arguments that both entries take; everything but x in the dtype that is computed with."""
    dtype = compute_dtype(x)
    batch, frames, dim = x.shape
    return {
        **native.strided("x", x),
        "e": e.to(dtype).contiguous(),
        "dct": dct_matrix(frames, dtype),
        **{name: value.to(dtype).contiguous() for name, value in zip(PARAMETERS, parameters, strict=True)},
        "batch": batch,
        "dim": dim,
        "frames": frames,
        "blocks": e.shape[1],
        "embedding": e.shape[2],
    }
