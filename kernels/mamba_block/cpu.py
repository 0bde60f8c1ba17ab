"""mamba_block on the CPU: torch's matrix products around the kernels of csrc/cpu (mamba_block.cpp, the scan).

    u, z = split(x in_proj'),   u = silu(causal conv(u)),   s, B, C = split(u x_proj'),
    y    = scan(u, s dt_proj', -exp(A_log), B, C, D, z, dt_proj_bias),   out = y out_proj'

Everything lies (B,L,channels), as the products give it; the scan reads and writes it in place. Computed in fp32, fp64
for fp64. B batch, L steps, H width, I inner width, N states, R rank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.params import MambaParams
from handcraft.kernels.precision import compute_dtype
from handcraft.kernels.selective_scan import cpu as scan
from handcraft.kernels.selective_scan.arguments import Gradients, Inputs


def forward(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """out (B,L,H) in the dtype of x; residuals: both projections (B,L,2I) and (B,L,R+2N)."""
    p = params(x, parameters)
    projected = torch.matmul(tokens(x), p.in_proj_weight.t()).view(*x.shape[:2], p.in_proj_weight.shape[0])
    u = conv_silu(projected, p)
    mixed = torch.matmul(u, p.x_proj_weight.t())
    y = torch.empty_like(u)
    scan.run_forward(_scan_inputs(projected, mixed, u, p), y.transpose(1, 2), None)
    return torch.matmul(y, p.out_proj_weight.t()).to(x.dtype), projected, mixed


def backward(
    needed: Sequence[bool], dout: Tensor, projected: Tensor, mixed: Tensor, x: Tensor, *parameters: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of x and all parameters, whatever is `needed`: they share nearly all of the work."""
    p = params(x, parameters)
    inner, rank = p.dt_proj_weight.shape
    dout = dout.to(projected.dtype).reshape(-1, x.shape[2])  # (BL,H)
    u = conv_silu(projected, p)
    inputs = _scan_inputs(projected, mixed, u, p)

    y, du, ddelta = torch.empty_like(u), torch.empty_like(u), torch.empty_like(u)
    dprojected, dmixed = torch.empty_like(projected), torch.empty_like(mixed)
    dB, dC = dmixed[..., rank:].chunk(2, dim=2)
    dA, dD, ddt_bias = torch.empty_like(p.A_log), torch.empty_like(p.D), torch.empty_like(p.dt_proj_bias)
    turned = (value.transpose(1, 2) for value in (du, ddelta, dB, dC, dprojected[..., inner:]))
    turned_u, turned_delta, turned_B, turned_C, turned_z = turned
    gradients = Gradients(turned_u, turned_delta, dA, turned_B, turned_C, dD, turned_z, ddt_bias)
    dy = torch.matmul(dout, p.out_proj_weight).view_as(u)
    scan.run_backward(inputs, dy.transpose(1, 2), None, gradients, y=y.transpose(1, 2))

    y, flat_u, flat_delta, flat_mixed, dflat = (v.view(-1, v.shape[2]) for v in (y, u, ddelta, mixed, dmixed))
    # both products with the step's few ranks are taken turned: few rows are five times as fast as few columns
    dflat[:, :rank] = torch.matmul(p.dt_proj_weight.t(), flat_delta.t()).t()
    ddt_weight = torch.matmul(flat_mixed[:, :rank].t(), flat_delta).t().contiguous()
    du.view_as(flat_u).addmm_(dflat, p.x_proj_weight)
    dconv_weight, dconv_bias = conv_silu_backward(projected, du, dprojected, p)
    flat_x, dflat_projected = tokens(x), dprojected.view(-1, 2 * inner)
    return (
        torch.matmul(dflat_projected, p.in_proj_weight).view(x.shape),
        torch.matmul(dflat_projected.t(), flat_x),
        dconv_weight,
        dconv_bias,
        torch.matmul(dflat.t(), flat_u),
        ddt_weight,
        ddt_bias,
        dA * inputs.A,  # the derivative of -exp(A_log) is itself
        dD,
        torch.matmul(dout.t(), y),
    )


def params(x: Tensor, parameters: Sequence[Tensor]) -> MambaParams:
    """In the dtype that is computed with, contiguous."""
    return MambaParams(*(value.to(compute_dtype(x)).contiguous() for value in parameters))


def tokens(x: Tensor) -> Tensor:
    """(BL,H)"""
    return x.to(compute_dtype(x)).reshape(-1, x.shape[2])


def _scan_inputs(projected: Tensor, mixed: Tensor, u: Tensor, p: MambaParams) -> Inputs:
    """Views (B,I,L) and (B,N,L) of the projections, and delta (B,I,L)."""
    rank = p.dt_proj_weight.shape[1]
    delta = torch.matmul(mixed[..., :rank], p.dt_proj_weight.t())
    B, C = mixed[..., rank:].chunk(2, dim=2)
    z = projected[..., u.shape[2] :]
    u, delta, B, C, z = (value.transpose(1, 2) for value in (u, delta, B, C, z))
    return Inputs(u, delta, -torch.exp(p.A_log), B, C, p.D, z, p.dt_proj_bias, True)


def conv_silu(projected: Tensor, p: MambaParams) -> Tensor:
    """u (B,L,I): SiLU of the convolution of the first half of the projection."""
    u = projected.new_empty(*projected.shape[:2], p.D.shape[0])
    if u.numel():
        native.call("conv_silu_forward", u.dtype, **_conv_fields(projected, p), u=u)
    return u


def conv_silu_backward(projected: Tensor, du: Tensor, dprojected: Tensor, p: MambaParams) -> tuple[Tensor, Tensor]:
    """Fill the first half of the gradient of the projection; gradients of weight (I,1,taps) and bias (I,)."""
    dweight, dbias = torch.empty_like(p.conv1d_weight), torch.empty_like(p.conv1d_bias)
    if not du.numel():
        return dweight.zero_(), dbias.zero_()
    fields = _conv_fields(projected, p)
    native.call(
        "conv_silu_backward",
        du.dtype,
        **fields,
        du=du,
        dx=dprojected,
        dx_b=dprojected.stride(0),
        dx_l=dprojected.stride(1),
        dweight=dweight,
        dbias=dbias,
        partial_weight=dweight.new_empty(fields["chunks"], *dweight.shape),
        partial_bias=dbias.new_empty(fields["chunks"], *dbias.shape),
    )
    return dweight, dbias


def _conv_fields(projected: Tensor, p: MambaParams) -> dict[str, Tensor | int]:
    return {
        "batch": projected.shape[0],
        "length": projected.shape[1],
        "channels": p.D.shape[0],
        "taps": p.conv1d_weight.shape[2],
        "chunks": min(projected.shape[0], scan.CHUNKS),
        "x": projected,
        "x_b": projected.stride(0),
        "x_l": projected.stride(1),
        "weight": p.conv1d_weight,
        "bias": p.conv1d_bias,
    }
