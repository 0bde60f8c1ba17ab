"""cmlpe_generate: the public function; its docstring is the contract."""

import torch
from torch import Tensor

from handcraft.kernels import checks, dispatch
from handcraft.kernels.adaln_mlp.op import check_params
from handcraft.kernels.cmlpe import cpu_generate, reference
from handcraft.kernels.params import CMLPeParams
from handcraft.kernels.precision import ACTIVATIONS, outside_autocast
from handcraft.kernels.registration import Lazy

OP = "cmlpe_generate"
IMPLEMENTATIONS = {
    "reference": reference,
    "cpu": cpu_generate,
    "triton": Lazy("handcraft.kernels.cmlpe.kernel_generate"),
}


@torch.no_grad()
def cmlpe_generate(
    params: CMLPeParams,
    reverse_params: CMLPeParams | None,
    context: Tensor,
    row: Tensor,
    label: Tensor,
    clip_id: Tensor,
    *,
    seed: int,
    noise: float = 0.1,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Generate clips with both twins (docs/method.md). Inference only: no gradient is recorded.

        w      = (context[row] - mean) / std, NaN (a missing landmark) -> 0        (B,W,D), W = 2M
        e      = class_embedding[label] + noise * eps     eps from Philox, keyed by seed and clip_id, one stream a twin
        ahead  = cmlpe(w[:, :M], e, params)                                         frames M..W-1
        back   = cmlpe(w[:, M:] flipped in time, e', reverse_params) flipped back   frames 0..M-1
        result = [back | ahead] * std + mean

    Clip i is a function of (params, context row, label, clip_id, seed, noise) alone: its bytes do not depend on the
    batch, its order or its size, within one backend, version and device type.

    Args:
        params, reverse_params: CMLPeParams of the forward and the reversed model, fp32, of one D and M.
            `reverse_params=None` gives the forward half alone.
        context: (clips,W,D) fp32, bf16, fp16 or fp64, real windows, not standardised; NaN = missing.
        row: (B,) int64 in [0, clips), the context window of each clip.
        label: (B,) int64 in [0, classes).
        clip_id: (B,) int64, global number of each clip.
        seed: integer in [0, 2^64).
        noise: standard deviation of the noise on the class embedding.
        mean, std: (D,) fp32 statistics; None: 0 and 1.
        out: (B,W,D), or (B,M,D) without `reverse_params`, fp32, bf16, fp16 or fp64: filled and returned; any strides.
            None: a new tensor in the dtype of `context`.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,W,D), or (B,M,D) without `reverse_params`. Computed in fp32 (fp64 if context is fp64), rounded once.
        Missing landmarks of the context are not masked out of the result.

    Fused backends take D <= 512 and M in {8,16,32,64}.

    Raises:
        TypeError, ValueError: an argument that is not as named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    checks.activation(OP, "context", context, context)
    checks.dims(OP, "context", context, "(clips,W,D)")
    clips, window, dim = context.shape
    if window < 2 or window % 2:
        raise ValueError(f"{OP}: context has shape {tuple(context.shape)}, expected (clips,W,D) with W = 2M even")
    frames = window // 2
    check_params(OP, "params", params, context, dim, frames)
    if reverse_params is not None:
        check_params(OP, "reverse_params", reverse_params, context, dim, frames)
    checks.tensor(OP, "row", row)
    checks.dims(OP, "row", row, "(B,)")
    batch = row.shape[0]
    classes = params.class_embedding.shape[0]
    if reverse_params is not None and reverse_params.class_embedding.shape[0] != classes:
        raise ValueError(
            f"{OP}: reverse_params.class_embedding has {reverse_params.class_embedding.shape[0]} classes, expected "
            f"{classes} as in params"
        )
    checks.index(OP, "row", row, "(B,)", (batch,), context, clips)
    checks.index(OP, "label", label, "(B,)", (batch,), context, classes)
    checks.index(OP, "clip_id", clip_id, "(B,)", (batch,), context, None)
    if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ValueError(f"{OP}: seed is {seed!r}, expected an integer in [0, 2^64)")
    for name, value in (("mean", mean), ("std", std)):
        if value is not None:
            checks.parameter(OP, name, value, context)
            checks.shape(OP, name, value, "(D,)", (dim,))
    length = frames if reverse_params is None else window
    if out is None:
        out = context.new_empty(batch, length, dim)
    else:
        checks.tensor(OP, "out", out)
        if out.dtype not in ACTIVATIONS:
            raise TypeError(f"{OP}: out is {out.dtype}, expected float32, bfloat16, float16 or float64")
        letters = "(B,M,D)" if reverse_params is None else "(B,W,D)"
        checks.shape(OP, "out", out, letters, (batch, length, dim))
        checks.device(OP, "out", out, context)
    chosen = dispatch.select(OP, backend, context, M=frames, D=dim)
    with outside_autocast(context.device.type):
        IMPLEMENTATIONS[chosen].cmlpe_generate(
            params, reverse_params, context, row, label, clip_id, seed, float(noise), mean, std, out
        )
    return out
