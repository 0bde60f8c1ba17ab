"""adaln_mlp_stack on the CPU library: K blocks, each modulated by its embedding. See `op.adaln_mlp_stack`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.precision import compute_dtype

PARAMETERS = ("mod_weight", "mod_bias", "norm_weight", "norm_bias", "fc_weight", "fc_bias")
"""The fields of CMLPeParams that a stack has, in their order there and in the arguments here."""


def forward(h: Tensor, e: Tensor, *parameters: Tensor) -> tuple[Tensor]:
    """`parameters`: those named in `PARAMETERS`."""
    out = torch.empty(h.shape, dtype=h.dtype)
    native.call("adaln_mlp_forward", h.dtype, **_inputs(h, e, parameters), out=out)
    return (out,)


def backward(needed: Sequence[bool], dout: Tensor, h: Tensor, e: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """Arguments as in `forward`; every gradient is computed."""
    inputs = _inputs(h, e, parameters)
    dh = torch.empty(h.shape, dtype=h.dtype)
    gradients = {f"d{name}": torch.empty_like(inputs[name]) for name in ("e", *PARAMETERS)}
    native.call("adaln_mlp_backward", h.dtype, dout=dout.contiguous(), **inputs, dh=dh, dmod=None, **gradients)
    return (dh, *gradients.values())


def _inputs(h: Tensor, e: Tensor, parameters: Sequence[Tensor]) -> dict[str, Tensor | int | None]:
    """Arguments that both entries take; everything but h in the dtype that is computed with."""
    dtype = compute_dtype(h)
    batch, dim, frames = h.shape
    return {
        "h": h.contiguous(),
        "e": e.to(dtype).contiguous(),
        "mod": None,
        **{name: value.to(dtype).contiguous() for name, value in zip(PARAMETERS, parameters, strict=True)},
        "batch": batch,
        "dim": dim,
        "frames": frames,
        "blocks": e.shape[1],
        "embedding": e.shape[2],
    }
