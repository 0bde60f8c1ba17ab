"""mamba_block on a GPU: torch's matrix products around a fused scan, all in the dtype of x but for the scan's states.

x and what follows from it stays (B,L,I) in memory, as the products want it: the scan reads it as (B,I,L) in place.
"""

import importlib

import torch
import torch.nn.functional as F
from torch import Tensor

from handcraft.kernels import env
from handcraft.kernels.params import MambaParams
from handcraft.kernels.selective_scan.op import selective_scan

CONV_TAPS = (2, 3, 4)
"""Widths that causal-conv1d has kernels for."""
CONV_CHANNELS = 8
"""Where channels are contiguous it takes multiples of this."""


def mamba_block(x: Tensor, params: MambaParams) -> Tensor:
    """See `op.mamba_block`; the arguments are checked there. Products are in the dtype of x."""
    return compose(x, params, "cuda")


def compose(x: Tensor, params: MambaParams, scan: str) -> Tensor:
    """The block with the scan of that backend."""
    p = params
    inner, rank = p.dt_proj_weight.shape
    state = p.A_log.shape[1]
    projected = F.linear(x, p.in_proj_weight.to(x.dtype)).transpose(1, 2)  # (B,2I,L)
    u, z = projected.split(inner, dim=1)
    u = conv_silu(u, p.conv1d_weight.to(x.dtype), p.conv1d_bias.to(x.dtype))
    mixed = F.linear(u.transpose(1, 2), p.x_proj_weight.to(x.dtype))
    step, B, C = mixed.split((rank, state, state), dim=2)
    delta = F.linear(step, p.dt_proj_weight.to(x.dtype))
    y = selective_scan(
        u,
        delta.transpose(1, 2),
        -torch.exp(p.A_log),
        B.transpose(1, 2),
        C.transpose(1, 2),
        p.D,
        z,
        p.dt_proj_bias,
        delta_softplus=True,
        backend=scan,
    )
    return F.linear(y.transpose(1, 2), p.out_proj_weight.to(x.dtype))


def conv_silu(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the causal depthwise convolution of u (B,I,L): causal-conv1d's operation where it runs, else torch's."""
    inner, _, taps = weight.shape
    fits = taps in CONV_TAPS and inner % CONV_CHANNELS == 0
    if fits and not torch.compiler.is_compiling() and env.probe("causal_conv1d").available:
        function = importlib.import_module("causal_conv1d").causal_conv1d_fn
        return function(u, weight[:, 0], bias, activation="silu")
    return F.silu(F.conv1d(F.pad(u, (taps - 1, 0)), weight, bias, groups=inner))
