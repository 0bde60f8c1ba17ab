"""cmlpe: the public function; its docstring is the contract."""

from torch import Tensor

from handcraft.kernels import checks, dispatch
from handcraft.kernels.adaln_mlp.op import check_params
from handcraft.kernels.cmlpe import cpu, reference
from handcraft.kernels.params import CMLPeParams
from handcraft.kernels.precision import autocast_first, outside_autocast
from handcraft.kernels.registration import FusedOp, Lazy

OP = "cmlpe"
FUSED = FusedOp(
    OP,
    ("x", "e", *cpu.PARAMETERS),
    {"cpu": cpu, "triton": Lazy("handcraft.kernels.cmlpe.kernel")},
    fake=lambda x, *others: (x.new_empty(x.shape),),
)


def cmlpe(x: Tensor, e: Tensor, params: CMLPeParams, *, backend: str = "auto") -> Tensor:
    """The CMLPe generator: the next M frames from M frames of context (docs/method.md).

        h     = (C_M x) in_weight' + in_bias, transposed to (B,D,M)
        h     = adaln_mlp_stack(h, e, params)
        y_hat = C_M' (h transposed out_weight' + out_bias) + x[:, -1:]

    Args:
        x: (B,M,D) fp32, bf16, fp16 or fp64, standardised frames, every value finite.
        e: (B,K,E) any of these dtypes: class embedding plus noise, per clip and block.
        params: CMLPeParams, fp32; class_embedding is not used here.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,M,D) in the dtype of x. Sums are in fp32 (fp64 if x is fp64).

    Differentiable in x, e and the parameters used. Fused backends take D <= 512 and M in {8,16,32,64}.

    Raises:
        TypeError, ValueError: an argument that is not as named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    checks.activation(OP, "x", x, x)
    checks.dims(OP, "x", x, "(B,M,D)")
    batch, frames, dim = x.shape
    checks.activation(OP, "e", e, x)
    check_params(OP, "params", params, x, dim, frames)
    blocks, _, embedding = params.mod_weight.shape
    checks.shape(OP, "e", e, "(B,K,E)", (batch, blocks, embedding))
    x = autocast_first(x)
    chosen = dispatch.select(OP, backend, x, M=frames, D=dim)
    with outside_autocast(x.device.type):
        if chosen == "reference":
            return reference.cmlpe(x, e, params)
        return FUSED(chosen, x, e, *(getattr(params, name) for name in cpu.PARAMETERS))[0]
