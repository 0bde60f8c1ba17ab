"""mamba_block in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from handcraft.kernels.params import MambaParams
from handcraft.kernels.precision import compute_dtype
from handcraft.kernels.selective_scan.op import selective_scan


def mamba_block(x: Tensor, params: MambaParams) -> Tensor:
    """See `op.mamba_block`; the arguments are checked there."""
    dtype = compute_dtype(x)
    p = MambaParams(*(value.to(dtype) for value in params))
    inner, rank = p.dt_proj_weight.shape
    state = p.A_log.shape[1]
    tokens = x.to(dtype).transpose(1, 2)  # (B,H,L)
    u, z = torch.matmul(p.in_proj_weight, tokens).split(inner, dim=1)  # (B,I,L) each
    u = F.silu(causal_conv(u, p.conv1d_weight, p.conv1d_bias))
    step, B, C = torch.matmul(p.x_proj_weight, u).split((rank, state, state), dim=1)
    y = selective_scan(
        u,
        torch.matmul(p.dt_proj_weight, step),
        -torch.exp(p.A_log),
        B,
        C,
        p.D,
        z,
        p.dt_proj_bias,
        delta_softplus=True,
        backend="reference",
    )
    return F.linear(y.transpose(1, 2), p.out_proj_weight).to(x.dtype)


def causal_conv(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise convolution that sees the past only: u (B,I,L), weight (I,1,conv), bias (I,) -> (B,I,L).

    A sum of shifted products: for a handful of taps PyTorch's grouped convolution is slower on a CPU.
    """
    taps = weight.shape[-1]
    length = u.shape[-1]
    padded = F.pad(u, (taps - 1, 0))
    out = bias[:, None]
    for i in range(taps):
        out = out + padded[..., i : i + length] * weight[:, :, i]
    return out
