"""mamba_block: the public function; its docstring is the contract."""

import torch
from torch import Tensor

from handcraft.kernels import checks, dispatch
from handcraft.kernels.mamba_block import cpu, cpu_row, cuda, mamba_ssm, reference
from handcraft.kernels.params import MambaParams
from handcraft.kernels.precision import autocast_first, compute_dtype, outside_autocast
from handcraft.kernels.registration import FusedOp

OP = "mamba_block"


def _fake(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p, dtype = MambaParams(*parameters), compute_dtype(x)
    projected = x.new_empty(*x.shape[:2], p.in_proj_weight.shape[0], dtype=dtype)
    return x.new_empty(x.shape), projected, x.new_empty(*x.shape[:2], p.x_proj_weight.shape[0], dtype=dtype)


def _fake_row(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    shapes = cpu_row.residual_shapes(x, MambaParams(*given[:-1]))
    kept = (x.new_empty(shape, dtype=compute_dtype(x)) for shape in shapes)
    return x.new_empty(x.shape[0], x.shape[2]), *kept


FUSED = FusedOp(OP, ("x", *MambaParams._fields), {"cpu": cpu}, _fake, residuals=2)
FUSED_ROW = FusedOp(f"{OP}_row", ("x", *MambaParams._fields, "at"), {"cpu": cpu_row}, _fake_row, residuals=8)
IMPLEMENTATIONS = {
    "reference": reference.mamba_block,
    "cpu": lambda x, params: FUSED("cpu", x, *params)[0],
    "cuda": cuda.mamba_block,
    "mamba_ssm": mamba_ssm.mamba_block,
}


def mamba_block(x: Tensor, params: MambaParams, *, at: Tensor | None = None, backend: str = "auto") -> Tensor:
    """One Mamba-1 block (Gu and Dao, 2023), without norm and residual; parameters as in `mamba_ssm.Mamba`.

        u, z  = split(x in_proj')                              (B,L,I) each
        u     = SiLU(causal depthwise conv1d(u) + conv1d_bias)
        s,B,C = split(u x_proj')                               rank R, state N, state N
        y     = selective_scan(u, s dt_proj', -exp(A_log), B, C, D, z, dt_proj_bias, delta_softplus=True)
        out   = y out_proj'

    Args:
        x: (B,L,H) fp32, bf16, fp16 or fp64.
        params: MambaParams, fp32.
        at: (B,) int64 in 0..L-1: only row at[b] of sequence b is wanted, for which the `cpu` backend does less.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,L,H) in the dtype of x; (B,H) with `at`. Everything between input and output is in fp32 (fp64 if x is
        fp64); `cuda` and `mamba_ssm` take the matrix products and the convolution in the dtype of x, as they are on
        tensor cores.

    Differentiable in x and every parameter. Any L; the fused kernels are made for L of 9 to 129.

    Raises:
        TypeError, ValueError: an argument that is not as named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    checks.activation(OP, "x", x, x)
    checks.dims(OP, "x", x, "(B,L,H)")
    width = x.shape[2]
    if not isinstance(params, MambaParams):
        raise TypeError(f"{OP}: params is {type(params).__name__}, expected MambaParams")
    for field, value in zip(MambaParams._fields, params, strict=True):
        checks.parameter(OP, f"params.{field}", value, x)
    checks.dims(OP, "params.A_log", params.A_log, "(I,N)")
    checks.dims(OP, "params.dt_proj_weight", params.dt_proj_weight, "(I,R)")
    checks.dims(OP, "params.conv1d_weight", params.conv1d_weight, "(I,1,conv)")
    inner, state = params.A_log.shape
    rank = params.dt_proj_weight.shape[1]
    taps = params.conv1d_weight.shape[2]
    for field, letters, expected in (
        ("in_proj_weight", "(2I,H)", (2 * inner, width)),
        ("conv1d_weight", "(I,1,conv)", (inner, 1, taps)),
        ("conv1d_bias", "(I,)", (inner,)),
        ("x_proj_weight", "(R+2N,I)", (rank + 2 * state, inner)),
        ("dt_proj_weight", "(I,R)", (inner, rank)),
        ("dt_proj_bias", "(I,)", (inner,)),
        ("D", "(I,)", (inner,)),
        ("out_proj_weight", "(H,I)", (width, inner)),
    ):
        checks.shape(OP, f"params.{field}", getattr(params, field), letters, expected)
    if at is not None:
        checks.index(OP, "at", at, "(B,)", x.shape[:1], x, x.shape[1])
    x = autocast_first(x)
    chosen = dispatch.select(OP, backend, x, L=x.shape[1], H=width, I=inner, N=state)
    with outside_autocast(x.device.type):
        if at is not None and chosen == "cpu":
            return FUSED_ROW(chosen, x, *params, at)[0]
        out = IMPLEMENTATIONS[chosen](x, params)
        return out if at is None else out[torch.arange(len(out), device=out.device), at]
