"""selective_scan: the public function; its docstring is the contract."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from handcraft.kernels import checks, dispatch
from handcraft.kernels.precision import autocast_first, compute_dtype, outside_autocast
from handcraft.kernels.registration import FusedOp
from handcraft.kernels.selective_scan import cpu, cuda, mamba_ssm, reference
from handcraft.kernels.selective_scan.arguments import last_shape

OP = "selective_scan"


def _fake(u: Tensor, delta: Tensor, A: Tensor, *others: Tensor | bool | None) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), u.new_empty(last_shape(u, A, others[-1]), dtype=compute_dtype(u))


FUSED = FusedOp(
    OP,
    ("u", "delta", "A", "B", "C", "D?", "z?", "delta_bias?"),
    {"cpu": cpu, "cuda": cuda, "mamba_ssm": mamba_ssm},
    _fake,
    options=("bool delta_softplus", "bool return_last_state"),
    outputs=2,
)

# The inner part of the reference as one operation too: torch.compile would unroll its L steps, and autograd would keep
# the states of all of them.
REFERENCE = FusedOp(
    "scan",
    ("u", "delta", "A", "B", "C"),
    {"reference": SimpleNamespace(forward=reference.scan_forward, backward=reference.scan_backward)},
    lambda u, delta, A, *mixing: (u.new_empty(u.shape), u.new_empty(last_shape(u, A, True))),
    outputs=2,
)


def _reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(u)
    value, step = u.to(dtype), delta.to(dtype)
    A, B, C = A.to(dtype), B.to(dtype), C.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    groups = max(x.shape[1] if x.dim() == 4 else 1 for x in (B, C))
    if groups == 1:
        B, C = (x.squeeze(1) if x.dim() == 4 else x for x in (B, C))
        y, last = REFERENCE("reference", value, step, A, B, C)
    else:
        size = u.shape[1] // groups
        parts = []
        for g in range(groups):
            rows = slice(g * size, (g + 1) * size)
            given = value[:, rows], step[:, rows], A[rows], _group(B, g, rows), _group(C, g, rows)
            parts.append(REFERENCE("reference", *given))
        y, last = (torch.cat(x, dim=1) for x in zip(*parts, strict=True))
    if D is not None:
        y = torch.addcmul(y, value, D.to(dtype)[:, None])
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), last


def _group(x: Tensor, g: int, rows: slice) -> Tensor:
    """What group g sees of B or C."""
    if x.dim() == 2:
        return x[rows]
    if x.dim() == 4:
        return x[:, g if x.shape[1] > 1 else 0]
    return x


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The scan of Mamba-1 (Gu and Dao, 2023), argument for argument `mamba_ssm`'s `selective_scan_fn`.

        delta_t = delta_t + delta_bias, then softplus if delta_softplus
        h_t     = exp(delta_t A) h_{t-1} + delta_t B_t u_t          h before the first step is 0
        y_t     = sum_n C_t[n] h_t[n] + D u_t, then times SiLU(z_t)

    Args:
        u, delta, z: (B,D,L), each fp32, bf16, fp16 or fp64.
        A: (D,N) fp32.
        B, C: (B,N,L), (B,G,N,L) with G dividing D (channel d belongs to group d // (D/G)), or (D,N) if constant; any
            of the activations' dtypes.
        D, delta_bias: (D,) fp32.
        delta_softplus: apply softplus to delta.
        return_last_state: return h_L too.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,D,L) in the dtype of u; with return_last_state also h_L (B,D,N), fp32 (fp64 if u is fp64). Sums are in fp32
        (fp64 if u is fp64).

    Differentiable in every tensor, through the last state too. Real numbers only. Any L and N; the fused
    kernels are made for L of 9 to 129.

    Raises:
        TypeError, ValueError: an argument that is not as named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    u = autocast_first(u)
    shape = {"L": u.shape[2], "D": u.shape[1], "N": A.shape[1], "last": int(return_last_state)}
    chosen = dispatch.select(OP, backend, u, **shape)
    with outside_autocast(u.device.type):
        if chosen == "reference":
            y, last = _reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        elif chosen == "mamba_ssm" and not torch.compiler.is_compiling():
            # its own autograd function, which need not run the forward pass again
            return mamba_ssm.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        else:
            given = u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state
            y, last = FUSED(chosen, *given)
    return (y, last) if return_last_state else y


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    checks.activation(OP, "u", u, u)
    checks.dims(OP, "u", u, "(B,D,L)")
    batch, dim, length = u.shape
    if length < 1:
        raise ValueError(f"{OP}: u has shape {tuple(u.shape)}, expected (B,D,L) with L >= 1")
    for name, value in (("delta", delta), ("z", z)):
        if value is not None or name == "delta":
            checks.activation(OP, name, value, u)
            checks.shape(OP, name, value, "(B,D,L)", (batch, dim, length))
    checks.parameter(OP, "A", A, u)
    checks.dims(OP, "A", A, "(D,N)")
    state = A.shape[1]
    checks.shape(OP, "A", A, "(D,N)", (dim, state))
    groups = {}
    for name, value in (("B", B), ("C", C)):
        checks.activation(OP, name, value, u)
        if value.dim() == 2:
            checks.shape(OP, name, value, "(D,N)", (dim, state))
        elif value.dim() == 3:
            checks.shape(OP, name, value, "(B,N,L)", (batch, state, length))
        elif value.dim() == 4:
            count = value.shape[1]
            checks.shape(OP, name, value, "(B,G,N,L)", (batch, count, state, length))
            if count < 1 or dim % count:
                raise ValueError(f"{OP}: {name} has G = {count} groups, expected a divisor of D = {dim}")
            groups[name] = count
        else:
            raise ValueError(f"{OP}: {name} has shape {tuple(value.shape)}, expected (B,N,L), (B,G,N,L) or (D,N)")
    if len({count for count in groups.values() if count > 1}) > 1:
        raise ValueError(f"{OP}: B has {groups['B']} groups and C has {groups['C']}, expected the same number")
    for name, value in (("D", D), ("delta_bias", delta_bias)):
        if value is not None:
            checks.parameter(OP, name, value, u)
            checks.shape(OP, name, value, "(D,)", (dim,))
