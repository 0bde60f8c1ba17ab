"""adaln_mlp on the CPU library: one block, its modulation given. See `op.adaln_mlp` for shapes and formula."""

from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.precision import compute_dtype


def forward(
    h: Tensor,
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor,
) -> tuple[Tensor]:
    out = torch.empty(h.shape, dtype=h.dtype)
    inputs = _inputs(h, shift, scale, gate, norm_weight, norm_bias, fc_weight, fc_bias)
    native.call("adaln_mlp_forward", h.dtype, **inputs, out=out)
    return (out,)


def backward(needed: Sequence[bool], dout: Tensor, h: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """`others`: as `forward` takes them after h; every gradient is computed."""
    inputs = _inputs(h, *others)
    dh = torch.empty(h.shape, dtype=h.dtype)
    dmod = torch.empty_like(inputs["mod"])
    names = ("norm_weight", "norm_bias", "fc_weight", "fc_bias")
    gradients = {f"d{name}": torch.empty_like(inputs[name]) for name in names}
    native.call(
        "adaln_mlp_backward",
        h.dtype,
        dout=dout.contiguous(),
        **inputs,
        dh=dh,
        de=None,
        dmod=dmod,
        dmod_weight=None,
        dmod_bias=None,
        **gradients,
    )
    return (dh, *(part.clone() for part in dmod.unbind(1)), *gradients.values())  # registered ops may not alias


def _inputs(
    h: Tensor,
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor,
) -> dict[str, Tensor | int | None]:
    """Arguments that both entries take; everything but h in the dtype that is computed with."""
    dtype = compute_dtype(h)
    batch, dim, frames = h.shape
    parameters = {"norm_weight": norm_weight, "norm_bias": norm_bias, "fc_weight": fc_weight, "fc_bias": fc_bias}
    return {
        "h": h.contiguous(),
        "e": None,
        "mod": torch.stack([value.to(dtype) for value in (shift, scale, gate)], dim=1),  # (B,3,M)
        "mod_weight": None,
        "mod_bias": None,
        **{name: value.to(dtype).contiguous() for name, value in parameters.items()},
        "batch": batch,
        "dim": dim,
        "frames": frames,
        "blocks": 1,
        "embedding": 0,
    }
