"""dct_linear: the fused op and the public function, whose docstring is the contract."""

from torch import Tensor

from handcraft.kernels import checks, dispatch
from handcraft.kernels.dct_linear import cpu, reference
from handcraft.kernels.precision import autocast_first, outside_autocast
from handcraft.kernels.registration import FusedOp, Lazy

OP = "dct_linear"
FUSED = FusedOp(
    OP,
    ("x", "weight", "bias?", "cls?", "position?", "lengths?"),
    {"cpu": cpu, "triton": Lazy("handcraft.kernels.dct_linear.kernel")},
    lambda x, weight, bias, cls, *_: (x.new_empty(x.shape[0], x.shape[1] + int(cls is not None), weight.shape[0]),),
    options=("str cls_at", "str transform"),
)


def dct_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    cls: Tensor | None = None,
    position: Tensor | None = None,
    cls_at: str = "first",
    transform: str = "dct",
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Embed a window: tokens = (C_T x) W' + b, then [CLS] and positions, in one pass (docs/method.md).

    Output rows are, in this order, [CLS] if it comes first, the T tokens, [CLS] if it comes last; position r is added
    to row r. With `lengths` only the first lengths[b] frames count: [CLS] at "last" sits at row lengths[b], right after
    them, and every later row is 0 (positions are not added there).

    Args:
        x: (B,T,D) fp32, bf16, fp16 or fp64, every value finite.
        weight: (H,D) fp32.
        bias: (H,) fp32.
        cls: (H,) fp32, the [CLS] row.
        position: (T+1,H) fp32 with cls, (T,H) without.
        cls_at: "first" or "last".
        transform: "dct", or "none" for frame tokens: tokens = x W' + b.
        lengths: (B,) int64 in 0..T, true lengths; only with transform="none", since a mask on DCT coefficients would
            be meaningless.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,T+1,H) with cls, (B,T,H) without, in the dtype of x. Sums are in fp32 (fp64 if x is fp64).

    Differentiable in x, weight, bias, cls and position. Fused backends take 1 <= T <= 128, D <= 512, H <= 1024.

    Raises:
        TypeError: an argument that is no tensor or has a dtype not named here.
        ValueError: a shape, choice or length outside what is named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    checks.activation(OP, "x", x, x)
    checks.dims(OP, "x", x, "(B,T,D)")
    batch, frames, dim = x.shape
    if frames < 1:
        raise ValueError(f"{OP}: x has shape {tuple(x.shape)}, expected (B,T,D) with T >= 1")
    checks.parameter(OP, "weight", weight, x)
    checks.dims(OP, "weight", weight, "(H,D)")
    width = weight.shape[0]
    checks.shape(OP, "weight", weight, "(H,D)", (width, dim))
    if bias is not None:
        checks.parameter(OP, "bias", bias, x)
        checks.shape(OP, "bias", bias, "(H,)", (width,))
    if cls is not None:
        checks.parameter(OP, "cls", cls, x)
        checks.shape(OP, "cls", cls, "(H,)", (width,))
    if position is not None:
        checks.parameter(OP, "position", position, x)
        letters, rows = ("(T,H)", frames) if cls is None else ("(T+1,H)", frames + 1)
        checks.shape(OP, "position", position, letters, (rows, width))
    if cls_at not in ("first", "last"):
        raise ValueError(f'{OP}: cls_at is {cls_at!r}, expected "first" or "last"')
    if transform not in ("dct", "none"):
        raise ValueError(f'{OP}: transform is {transform!r}, expected "dct" or "none"')
    if lengths is not None:
        if transform != "none":
            raise ValueError(
                f'{OP}: lengths given with transform="dct", expected transform="none"; a DCT coefficient belongs to no '
                "frame, so pad short clips before the transform instead"
            )
        checks.index(OP, "lengths", lengths, "(B,)", (batch,), x, frames + 1)
    x = autocast_first(x)
    chosen = dispatch.select(OP, backend, x, T=frames, D=dim, H=width)
    with outside_autocast(x.device.type):
        if chosen == "reference":
            return reference.dct_linear(x, weight, bias, cls, position, cls_at, transform, lengths)
        return FUSED(chosen, x, weight, bias, cls, position, lengths, cls_at, transform)[0]
