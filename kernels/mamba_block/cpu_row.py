"""mamba_block on the CPU where one row of each sequence is wanted, as a classifier's last block needs: launchers of
csrc/cpu/mamba_row.cpp, which takes everything from the residual stream to that row in one call.

The scan is then no recurrence but a sum over the steps up to that row, and z, C and the output projection have one row.
Computed in fp32, fp64 for fp64. B batch, L steps, H width, I inner width, N states, R rank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.params import MambaParams
from handcraft.kernels.precision import compute_dtype

CHUNKS = 16
"""Pieces of the batch with sums of their own in the backward pass: cut by its size, never by the number of threads."""
KEPT = ("first", "u", "mixed", "z", "C", "h", "pre", "y", "deviation")


def forward(x: Tensor, *given: Tensor | None) -> tuple[Tensor, ...]:
    """`given`: the parameters, then at (B,) and norm (H,) or None. out (B,H) in the dtype of x; residuals: see
    `residual_shapes`."""
    dtype = x.dtype
    x, *given = _plain(x, given)
    kept = [x.new_empty(shape) for shape in residual_shapes(x, MambaParams(*given[:-2]), given[-1])]
    out = x.new_empty(x.shape[0], x.shape[2])
    if x.numel():
        native.call("mamba_row_forward", x.dtype, **_fields(x, given), **dict(zip(KEPT, kept, strict=True)), out=out)
    return out.to(dtype), *kept


def residual_shapes(x: Tensor, p: MambaParams, norm: Tensor | None) -> list[tuple[int, ...]]:
    """Of what `forward` keeps, `KEPT`: both sides of the convolution, s and B; for the wanted row z, C, state, y before
    and after its gate; the norm's factor for each row, if there is one."""
    batch, length, _ = x.shape
    inner, rank = p.dt_proj_weight.shape
    state = p.A_log.shape[1]
    per_row = [(batch, inner), (batch, state), (batch, state, inner), (batch, inner), (batch, inner)]
    return [
        (batch, length, inner),
        (batch, length, inner),
        (batch, length, rank + state),
        *per_row,
        (batch, 0 if norm is None else length),
    ]


def backward(needed: Sequence[bool], dout: Tensor, *kept: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of x, all parameters and norm, whatever is `needed`, since they share nearly all of the work."""
    residuals = dict(zip(KEPT, kept, strict=False))
    x, *given = _plain(kept[len(KEPT)], kept[len(KEPT) + 1 :])
    *parameters, _, norm = given
    dx = torch.empty_like(x)
    gradients = [torch.empty_like(value) for value in (*parameters, *([] if norm is None else [norm]))]
    if x.numel():
        own = {f"d{name}": torch.empty_like(residuals[name]) for name in ("first", "u", "mixed", "z", "C", "y")}
        native.call(
            "mamba_row_backward",
            x.dtype,
            **_fields(x, given),
            **residuals,
            dout=dout.to(x.dtype).contiguous(),
            dx=dx,
            **own,
            gradients=native.Pointers(gradients),
        )
    else:
        for value in gradients:
            value.zero_()
    return dx, *gradients[: len(parameters)], None, None if norm is None else gradients[-1]


def _plain(x: Tensor, given: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Contiguous, all but `at` in the dtype that is computed with."""
    dtype = compute_dtype(x)
    *parameters, at, norm = given
    found = [None if value is None else value.to(dtype).contiguous() for value in (x, *parameters, norm)]
    return [*found[:-1], at.contiguous(), found[-1]]


def _fields(x: Tensor, given: Sequence[Tensor | None]) -> dict[str, Tensor | int | None]:
    *parameters, at, norm = given
    p = MambaParams(*parameters)
    batch, length, width = x.shape
    inner, rank = p.dt_proj_weight.shape
    return {
        "batch": batch,
        "length": length,
        "width": width,
        "inner": inner,
        "state": p.A_log.shape[1],
        "rank": rank,
        "taps": p.conv1d_weight.shape[2],
        "chunks": min(batch, CHUNKS),
        "x": x,
        "at": at,
        "norm": norm,
        "in_proj": p.in_proj_weight,
        "conv_weight": p.conv1d_weight,
        "conv_bias": p.conv1d_bias,
        "x_proj": p.x_proj_weight,
        "dt_weight": p.dt_proj_weight,
        "dt_bias": p.dt_proj_bias,
        "A_log": p.A_log,
        "D": p.D,
        "out_proj": p.out_proj_weight,
    }
