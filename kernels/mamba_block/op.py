"""mamba_block: the public function; its docstring is the contract."""

import torch
import torch.nn.functional as F
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
    shapes = cpu_row.residual_shapes(x, MambaParams(*given[:-2]), given[-1])
    kept = (x.new_empty(shape, dtype=compute_dtype(x)) for shape in shapes)
    return x.new_empty(x.shape[0], x.shape[2]), *kept


FUSED = FusedOp(OP, ("x", *MambaParams._fields), {"cpu": cpu}, _fake, residuals=2)
FUSED_ROW = FusedOp(
    f"{OP}_row",
    ("x", *MambaParams._fields, "at", "norm?"),
    {"cpu": cpu_row},
    _fake_row,
    residuals=len(cpu_row.KEPT),
)
NORM_EPSILON = 1e-5
IMPLEMENTATIONS = {
    "reference": reference.mamba_block,
    "cpu": lambda x, params: FUSED("cpu", x, *params)[0],
    "cuda": cuda.mamba_block,
    "mamba_ssm": mamba_ssm.mamba_block,
}


def mamba_block(
    x: Tensor, params: MambaParams, *, at: Tensor | None = None, norm: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """One Mamba-1 block (Gu and Dao, 2023), parameters as in `mamba_ssm.Mamba`: the bare block, or with `norm` a layer
    x + block(RMSNorm(x)) of the usual network.

        u, z  = split(x in_proj')                              (B,L,I) each
        u     = SiLU(causal depthwise conv1d(u) + conv1d_bias)
        s,B,C = split(u x_proj')                               rank R, state N, state N
        y     = selective_scan(u, s dt_proj', -exp(A_log), B, C, D, z, dt_proj_bias, delta_softplus=True)
        out   = y out_proj'

    Args:
        x: (B,L,H) fp32, bf16, fp16 or fp64.
        params: MambaParams, fp32.
        at: (B,) int64 in 0..L-1: only row at[b] of sequence b is wanted, for which the `cpu` backend does less.
        norm: (H,) fp32, the weight of an RMSNorm (Zhang and Sennrich, 2019; epsilon 1e-5) before the block, around both
            of which there is a residual. x, norm and residual are left alone by autocast.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,L,H) in the dtype of x; (B,H) with `at`. Everything between input and output is in fp32 (fp64 if x is
        fp64); `cuda` and `mamba_ssm` take the matrix products and the convolution in the dtype of x, as they are on
        tensor cores.

    Differentiable in x, norm and every parameter. Any L; the fused kernels are made for L of 9 to 129.

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
    if norm is not None:
        checks.parameter(OP, "norm", norm, x)
        checks.shape(OP, "norm", norm, "(H,)", (width,))
    inside = x if norm is not None else autocast_first(x)
    chosen = dispatch.select(OP, backend, inside, L=x.shape[1], H=width, I=inner, N=state)
    if at is not None and chosen == "cpu":
        with outside_autocast(x.device.type):
            return FUSED_ROW(chosen, inside, *params, at, norm)[0]
    if norm is not None:
        inside = autocast_first(F.rms_norm(x.to(compute_dtype(x)), (width,), norm.to(compute_dtype(x)), NORM_EPSILON))
    with outside_autocast(x.device.type):
        out = IMPLEMENTATIONS[chosen](inside, params)
    if at is not None:
        out = out[torch.arange(len(out), device=out.device), at]
    if norm is None:
        return out
    if at is not None:  # gather, since torch.compile takes take_along_dim's batch for a constant
        x = x.gather(1, at[:, None, None].expand(-1, 1, width))[:, 0]
    return (x + out).to(x.dtype)
