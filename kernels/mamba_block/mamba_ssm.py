"""mamba_block by mamba-ssm: its fused inner function where causal-conv1d is there too, else its scan alone."""

import importlib

import torch
import torch.nn.functional as F
from torch import Tensor

from handcraft.kernels import env
from handcraft.kernels.mamba_block.cuda import CONV_TAPS, compose
from handcraft.kernels.params import MambaParams


def mamba_block(x: Tensor, params: MambaParams) -> Tensor:
    """See `op.mamba_block`; the arguments are checked there. Products are in the dtype of x, as in `mamba_ssm.Mamba`
    whose parameters were converted to it; A, D and the step's bias stay fp32."""
    p = params
    if torch.compiler.is_compiling() or p.conv1d_weight.shape[2] not in CONV_TAPS:
        return compose(x, params, "mamba_ssm")
    if not env.probe("causal_conv1d").available:
        return compose(x, params, "mamba_ssm")
    fused = importlib.import_module("mamba_ssm.ops.selective_scan_interface").mamba_inner_fn
    projected = F.linear(x, p.in_proj_weight.to(x.dtype)).transpose(1, 2)  # (B,2I,L)
    weights = (p.conv1d_weight, p.conv1d_bias, p.x_proj_weight, p.dt_proj_weight, p.out_proj_weight)
    return fused(
        projected,
        *(weight.to(x.dtype) for weight in weights),
        None,  # the output projection has no bias
        -torch.exp(p.A_log),
        D=p.D,
        delta_bias=p.dt_proj_bias,
        delta_softplus=True,
    )
