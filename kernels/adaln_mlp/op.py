"""adaln_mlp and adaln_mlp_stack: the public functions; their docstrings are the contract."""

from torch import Tensor

from handcraft.kernels import checks, dispatch
from handcraft.kernels.adaln_mlp import cpu, cpu_stack, reference
from handcraft.kernels.params import CMLPeParams
from handcraft.kernels.precision import autocast_first, outside_autocast
from handcraft.kernels.registration import FusedOp, Lazy

FUSED = FusedOp(
    "adaln_mlp",
    ("h", "shift", "scale", "gate", "norm_weight", "norm_bias", "fc_weight", "fc_bias"),
    {"cpu": cpu, "triton": Lazy("handcraft.kernels.adaln_mlp.kernel")},
    fake=lambda h, *others: (h.new_empty(h.shape),),
)
FUSED_STACK = FusedOp(
    "adaln_mlp_stack",
    ("h", "e", *cpu_stack.PARAMETERS),
    {"cpu": cpu_stack, "triton": Lazy("handcraft.kernels.adaln_mlp.kernel_stack")},
    fake=lambda h, *others: (h.new_empty(h.shape),),
)


def adaln_mlp(
    h: Tensor,
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """One conditional MLP block (docs/method.md).

        n   = LayerNorm_D(h; norm_weight, norm_bias, eps 1e-5)     statistics over D for each clip and coefficient
        out = h + gate * ((n (1 + scale) + shift) fc_weight' + fc_bias)

    fc acts along the last axis, the coefficients; shift, scale and gate broadcast along D.

    Args:
        h: (B,D,M) fp32, bf16, fp16 or fp64.
        shift, scale, gate: (B,M), each any of these dtypes.
        norm_weight, norm_bias: (D,) fp32.
        fc_weight: (M,M) fp32.
        fc_bias: (M,) fp32.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,D,M) in the dtype of h. Sums are in fp32 (fp64 if h is fp64).

    Differentiable in every tensor. Fused backends take D <= 512 and M in {8,16,32,64}.

    Raises:
        TypeError, ValueError: an argument that is not as named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    op = "adaln_mlp"
    checks.activation(op, "h", h, h)
    checks.dims(op, "h", h, "(B,D,M)")
    batch, dim, frames = h.shape
    for name, value in (("shift", shift), ("scale", scale), ("gate", gate)):
        checks.activation(op, name, value, h)
        checks.shape(op, name, value, "(B,M)", (batch, frames))
    for name, value, letters, expected in (
        ("norm_weight", norm_weight, "(D,)", (dim,)),
        ("norm_bias", norm_bias, "(D,)", (dim,)),
        ("fc_weight", fc_weight, "(M,M)", (frames, frames)),
        ("fc_bias", fc_bias, "(M,)", (frames,)),
    ):
        checks.parameter(op, name, value, h)
        checks.shape(op, name, value, letters, expected)
    h = autocast_first(h)
    chosen = dispatch.select(op, backend, h, M=frames, D=dim)
    with outside_autocast(h.device.type):
        if chosen == "reference":
            return reference.adaln_mlp(h, shift, scale, gate, norm_weight, norm_bias, fc_weight, fc_bias)
        return FUSED(chosen, h, shift, scale, gate, norm_weight, norm_bias, fc_weight, fc_bias)[0]


def adaln_mlp_stack(h: Tensor, e: Tensor, params: CMLPeParams, *, backend: str = "auto") -> Tensor:
    """K conditional MLP blocks in a row, each modulated by its own embedding (docs/method.md).

        shift, scale, gate = split(SiLU(e_k) mod_weight_k' + mod_bias_k)
        h = adaln_mlp(h, shift, scale, gate, norm_k, fc_k)         for k = 1..K

    Args:
        h: (B,D,M) fp32, bf16, fp16 or fp64.
        e: (B,K,E) any of these dtypes, the class embedding after noise.
        params: CMLPeParams, fp32; mod_*, norm_* and fc_* are used.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,D,M) in the dtype of h; h stays in fp32 between blocks (fp64 if h is fp64).

    Differentiable in h, e and the parameters used. Fused backends take D <= 512 and M in {8,16,32,64}.

    Raises:
        TypeError, ValueError: an argument that is not as named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    op = "adaln_mlp_stack"
    checks.activation(op, "h", h, h)
    checks.dims(op, "h", h, "(B,D,M)")
    batch, dim, frames = h.shape
    checks.activation(op, "e", e, h)
    check_params(op, "params", params, h, dim, frames)
    blocks, _, embedding = params.mod_weight.shape
    checks.shape(op, "e", e, "(B,K,E)", (batch, blocks, embedding))
    h = autocast_first(h)
    chosen = dispatch.select(op, backend, h, M=frames, D=dim)
    with outside_autocast(h.device.type):
        if chosen == "reference":
            return reference.adaln_mlp_stack(h, e, params)
        return FUSED_STACK(chosen, h, e, *(getattr(params, name) for name in cpu_stack.PARAMETERS))[0]


def check_params(op: str, name: str, params: CMLPeParams, first: Tensor, dim: int, frames: int) -> None:
    """TypeError or ValueError unless `params` fit D = `dim` and M = `frames`; K, E and the classes are its own."""
    if not isinstance(params, CMLPeParams):
        raise TypeError(f"{op}: {name} is {type(params).__name__}, expected CMLPeParams")
    for field, value in zip(CMLPeParams._fields, params, strict=True):
        checks.parameter(op, f"{name}.{field}", value, first)
    checks.dims(op, f"{name}.mod_weight", params.mod_weight, "(K,3M,E)")
    checks.dims(op, f"{name}.class_embedding", params.class_embedding, "(classes,E)")
    blocks, _, embedding = params.mod_weight.shape
    classes = params.class_embedding.shape[0]
    for field, letters, expected in (
        ("in_weight", "(D,D)", (dim, dim)),
        ("in_bias", "(D,)", (dim,)),
        ("class_embedding", "(classes,E)", (classes, embedding)),
        ("mod_weight", "(K,3M,E)", (blocks, 3 * frames, embedding)),
        ("mod_bias", "(K,3M)", (blocks, 3 * frames)),
        ("norm_weight", "(K,D)", (blocks, dim)),
        ("norm_bias", "(K,D)", (blocks, dim)),
        ("fc_weight", "(K,M,M)", (blocks, frames, frames)),
        ("fc_bias", "(K,M)", (blocks, frames)),
        ("out_weight", "(D,D)", (dim, dim)),
        ("out_bias", "(D,)", (dim,)),
    ):
        checks.shape(op, f"{name}.{field}", getattr(params, field), letters, expected)
