"""mamba_block on the CPU where one row a sequence is wanted (csrc/cpu/mamba_row.cpp): the last block of a classifier.

What only the other rows need is not computed: z, C and the output projection have one row a sequence, and the scan is
a sum over steps instead of a recurrence. B batch, L steps, H width, I inner width, N states, R rank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.mamba_block import cpu
from handcraft.kernels.params import MambaParams
from handcraft.kernels.selective_scan.cpu import CHUNKS


def forward(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    """`given`: the parameters, then at (B,). out (B,H) in the dtype of x; residuals: see `residual_shapes`."""
    *parameters, at = given
    p, tokens, rows = cpu.params(x, parameters), cpu.tokens(x), _rows(x, at)
    inner, rank = p.dt_proj_weight.shape
    state = p.A_log.shape[1]
    first = torch.matmul(tokens, p.in_proj_weight[:inner].t()).view(*x.shape[:2], inner)
    u = cpu.conv_silu(first, p)
    mixed = torch.matmul(u, p.x_proj_weight[: rank + state].t())
    z = torch.matmul(tokens[rows], p.in_proj_weight[inner:].t())
    C = torch.matmul(u.view(-1, inner)[rows], p.x_proj_weight[rank + state :].t())
    h = u.new_empty(x.shape[0], state, inner)
    pre, y = torch.empty_like(z), torch.empty_like(z)
    if x.numel():
        fields = _fields(u, mixed, at, z, C, p)
        native.call("mamba_row_forward", u.dtype, **fields, h=h, pre=pre, y=y)
    return torch.matmul(y, p.out_proj_weight.t()).to(x.dtype), first, u, mixed, z, C, h, pre, y


def residual_shapes(x: Tensor, p: MambaParams) -> list[tuple[int, ...]]:
    """Of what `forward` keeps: both sides of the convolution, s and B; for the wanted row z, C, state, y twice."""
    batch, length, _ = x.shape
    inner, rank = p.dt_proj_weight.shape
    state = p.A_log.shape[1]
    per_row = [(batch, inner), (batch, state), (batch, state, inner), (batch, inner), (batch, inner)]
    return [(batch, length, inner), (batch, length, inner), (batch, length, rank + state), *per_row]


def backward(needed: Sequence[bool], dout: Tensor, *kept: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of x and all parameters, whatever is `needed`: they share nearly all of the work. `at` has none."""
    first, u, mixed, z, C, h, pre, y, x, *parameters, at = kept
    p, tokens, rows = cpu.params(x, parameters), cpu.tokens(x), _rows(x, at)
    inner, rank = p.dt_proj_weight.shape
    state = p.A_log.shape[1]
    dout = dout.to(u.dtype)
    dy = torch.matmul(dout, p.out_proj_weight)
    A = -torch.exp(p.A_log)
    du, dmixed, dz, dC = (torch.empty_like(value) for value in (u, mixed, z, C))
    gradients = {
        "dt_weight": torch.empty_like(p.dt_proj_weight),
        "dt_bias": torch.empty_like(p.dt_proj_bias),
        "A": torch.empty_like(A),
        "D": torch.empty_like(p.D),
    }
    if x.numel():
        fields = _fields(u, mixed, at, z, C, p)
        partial = {
            f"partial_{name}": value.new_empty(fields["chunks"], *value.shape) for name, value in gradients.items()
        }
        own = {f"d{name}": value for name, value in gradients.items()}
        outputs = {"du": du, "dmixed": dmixed, "dz": dz, "dC": dC, **own, **partial}
        native.call("mamba_row_backward", u.dtype, **fields, h=h, pre=pre, dy=dy, **outputs)
    else:
        for value in gradients.values():
            value.zero_()

    flat_u, flat_du, flat_dmixed = u.view(-1, inner), du.view(-1, inner), dmixed.view(-1, rank + state)
    flat_du.addmm_(flat_dmixed, p.x_proj_weight[: rank + state])
    flat_du[rows] += torch.matmul(dC, p.x_proj_weight[rank + state :])
    dx_proj = torch.empty_like(p.x_proj_weight)
    torch.matmul(flat_dmixed.t(), flat_u, out=dx_proj[: rank + state])
    torch.matmul(dC.t(), flat_u[rows], out=dx_proj[rank + state :])
    dfirst = torch.empty_like(first)
    dconv_weight, dconv_bias = cpu.conv_silu_backward(first, du, dfirst, p)
    flat_dfirst = dfirst.view(-1, inner)
    dx = torch.matmul(flat_dfirst, p.in_proj_weight[:inner])
    dx[rows] += torch.matmul(dz, p.in_proj_weight[inner:])
    din_proj = torch.empty_like(p.in_proj_weight)
    torch.matmul(flat_dfirst.t(), tokens, out=din_proj[:inner])
    torch.matmul(dz.t(), tokens[rows], out=din_proj[inner:])
    return (
        dx.view(x.shape),
        din_proj,
        dconv_weight,
        dconv_bias,
        dx_proj,
        gradients["dt_weight"],
        gradients["dt_bias"],
        gradients["A"] * A,  # the derivative of -exp(A_log) is itself
        gradients["D"],
        torch.matmul(dout.t(), y),
        None,
    )


def _rows(x: Tensor, at: Tensor) -> Tensor:
    """(B,) the wanted rows among all B L of them."""
    return torch.arange(x.shape[0]) * x.shape[1] + at


def _fields(u: Tensor, mixed: Tensor, at: Tensor, z: Tensor, C: Tensor, p: MambaParams) -> dict[str, Tensor | int]:
    batch, length, channels = u.shape
    return {
        "batch": batch,
        "length": length,
        "channels": channels,
        "state": p.A_log.shape[1],
        "rank": p.dt_proj_weight.shape[1],
        "chunks": min(batch, CHUNKS),
        "u": u,
        "mixed": mixed,
        "at": at.contiguous(),
        "z": z,
        "C": C,
        "dt_weight": p.dt_proj_weight,
        "dt_bias": p.dt_proj_bias,
        "A": -torch.exp(p.A_log),
        "D": p.D,
    }
