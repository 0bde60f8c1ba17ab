"""cmlpe_generate on the CPU library: the launcher of `csrc/cpu/cmlpe_generate.cpp`."""

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.dct import dct_matrix
from handcraft.kernels.params import CMLPeParams
from handcraft.kernels.precision import compute_dtype

OUT_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""The entry takes the place in this tuple: the dtype of `out` need not be that of `context`."""


def cmlpe_generate(
    params: CMLPeParams,
    reverse_params: CMLPeParams | None,
    context: Tensor,
    row: Tensor,
    label: Tensor,
    clip_id: Tensor,
    seed: int,
    noise: float,
    mean: Tensor | None,
    std: Tensor | None,
    out: Tensor,
) -> None:
    """See `generate.cmlpe_generate`; the arguments are checked there. Fills `out`."""
    dtype = compute_dtype(context)
    batch, window, dim = row.shape[0], context.shape[1], context.shape[2]
    filled = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype)
    native.call(
        "cmlpe_generate",
        context.dtype,
        **_twin("forward", params, dtype),
        **_twin("reverse", reverse_params, dtype),
        dct=dct_matrix(window // 2, dtype),
        context=context.contiguous(),
        row=row.contiguous(),
        label=label.contiguous(),
        clip_id=clip_id.contiguous(),
        mean=_plain(mean, dtype),
        std=_plain(std, dtype),
        out=filled.detach().view(torch.uint8),
        out_type=OUT_TYPES.index(out.dtype),
        batch=batch,
        dim=dim,
        frames=window // 2,
        seed=seed,
        noise=noise,
    )
    if filled is not out:
        out.copy_(filled)


def _twin(name: str, params: CMLPeParams | None, dtype: torch.dtype) -> dict[str, Tensor | int | None]:
    """The fields of one generator's parameters; None for a missing one."""
    fields = {f"{name}_{field}": None if params is None else getattr(params, field) for field in CMLPeParams._fields}
    blocks, _, embedding = (0, 0, 0) if params is None else params.mod_weight.shape
    sizes = {f"{name}_blocks": blocks, f"{name}_embedding": embedding}
    return {**{field: _plain(value, dtype) for field, value in fields.items()}, **sizes}


def _plain(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.detach().to(dtype).contiguous()
