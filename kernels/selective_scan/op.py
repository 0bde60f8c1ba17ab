"""selective_scan: autograd function, its registration for torch.compile, and the public function."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from handcraft.kernels import checks, dispatch
from handcraft.kernels.precision import autocast_first, compute_dtype, outside_autocast
from handcraft.kernels.selective_scan import reference

OP = "selective_scan"


class _Scan(torch.autograd.Function):
    """The scan between u, delta, A, B, C and (y, last state); keeps its inputs and computes the states again."""

    @staticmethod
    def forward(ctx, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(u, delta, A, B, C)
        ctx.set_materialize_grads(False)
        return reference.scan_forward(u, delta, A, B, C)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor | None, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        return _gradients(reference.scan_backward, dy, dlast, ctx.saved_tensors)


def _gradients(backward, dy: Tensor | None, dlast: Tensor | None, saved: tuple[Tensor, ...]):
    """Call a backward pass with what autograd gives it: either gradient may be missing."""
    if dy is None and dlast is None:
        return (None,) * len(saved)
    u = saved[0]
    with outside_autocast(u.device.type):
        return backward(torch.zeros_like(u) if dy is None else dy, dlast, *saved)


# Registered so that torch.compile sees one opaque operation instead of L unrolled steps. Eager calls go straight to
# the autograd function: the dispatcher costs more than a small scan.
@torch.library.custom_op("handcraft::scan_forward", mutates_args=())
def _scan_forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    return reference.scan_forward(u, delta, A, B, C)


@_scan_forward.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), u.new_empty(u.shape[0], u.shape[1], A.shape[1])


@torch.library.custom_op("handcraft::scan_backward", mutates_args=())
def _scan_backward(
    dy: Tensor, dlast: Tensor | None, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return reference.scan_backward(dy, dlast, u, delta, A, B, C)


@_scan_backward.register_fake
def _(dy, dlast, u, delta, A, B, C):
    return tuple(x.new_empty(x.shape) for x in (u, delta, A, B, C))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


_scan_forward.register_autograd(
    lambda ctx, dy, dlast: _gradients(_scan_backward, dy, dlast, ctx.saved_tensors), setup_context=_save
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
    scan = _scan_forward if torch.compiler.is_compiling() else _Scan.apply
    if groups == 1:
        B, C = (x.squeeze(1) if x.dim() == 4 else x for x in (B, C))
        y, last = scan(value, step, A, B, C)
    else:
        size = u.shape[1] // groups
        parts = []
        for g in range(groups):
            rows = slice(g * size, (g + 1) * size)
            parts.append(scan(value[:, rows], step[:, rows], A[rows], _group(B, g, rows), _group(C, g, rows)))
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


IMPLEMENTATIONS = {"reference": _reference}


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

    Differentiable in every tensor, through the last state too. Real numbers only. Fused backends take L <= 129.

    Raises:
        TypeError, ValueError: an argument that is not as named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    _check(u, delta, A, B, C, D, z, delta_bias)
    u = autocast_first(u)
    chosen = dispatch.select(OP, backend, u, L=u.shape[2], D=u.shape[1], N=A.shape[1])
    with outside_autocast(u.device.type):
        y, last = IMPLEMENTATIONS[chosen](u, delta, A, B, C, D, z, delta_bias, delta_softplus)
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
