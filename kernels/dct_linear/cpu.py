"""dct_linear on the compiled CPU library: launchers of `csrc/cpu/dct_linear.cpp`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from handcraft.kernels import native
from handcraft.kernels.dct import dct_matrix
from handcraft.kernels.precision import compute_dtype

MOST_CHUNKS, SMALLEST_CHUNK = 32, 4
"""The sum over the batch is cut into so many parts, by the batch's size alone, never by the number of threads."""


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cls: Tensor | None,
    position: Tensor | None,
    lengths: Tensor | None,
    cls_at: str,
    transform: str,
) -> tuple[Tensor]:
    """The embedding (B,T+1,H), or (B,T,H) without cls; see `op.dct_linear`."""
    batch, frames, dim = x.shape
    width = weight.shape[0]
    dtype = compute_dtype(x)
    out = x.new_empty(batch, frames + (cls is not None), width)
    native.call(
        "dct_linear_forward",
        x.dtype,
        x=x.contiguous(),
        basis=_basis(transform, frames, dtype),
        weight=_plain(weight, dtype),
        bias=_plain(bias, dtype),
        cls=_plain(cls, dtype),
        position=_plain(position, dtype),
        lengths=None if lengths is None else lengths.contiguous(),
        out=out,
        batch=batch,
        frames=frames,
        dim=dim,
        width=width,
        cls_first=int(cls_at == "first"),
    )
    return (out,)


def backward(
    needed: Sequence[bool],
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cls: Tensor | None,
    position: Tensor | None,
    lengths: Tensor | None,
    cls_at: str,
    transform: str,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight, bias, cls and position (lengths have none)."""
    batch, frames, dim = x.shape
    width = weight.shape[0]
    dtype = compute_dtype(x)
    chunk = max(SMALLEST_CHUNK, -(-batch // MOST_CHUNKS))
    rows = frames + (cls is not None)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format) if needed[0] else None
    dweight, dposition = weight.new_empty(width, dim, dtype=dtype), weight.new_empty(rows, width, dtype=dtype)
    dbias, dcls = (weight.new_empty(width, dtype=dtype) for _ in range(2))
    native.call(
        "dct_linear_backward",
        x.dtype,
        gradient=gradient.contiguous(),
        x=x.contiguous(),
        basis=_basis(transform, frames, dtype),
        weight=_plain(weight, dtype),
        lengths=None if lengths is None else lengths.contiguous(),
        dx=dx,
        dweight=dweight,
        dbias=dbias,
        dcls=dcls,
        dposition=dposition,
        batch=batch,
        frames=frames,
        dim=dim,
        width=width,
        has_cls=int(cls is not None),
        cls_first=int(cls_at == "first"),
        chunk=chunk,
    )
    return dx, dweight, dbias, dcls, dposition, None


def _plain(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype).contiguous()


def _basis(transform: str, frames: int, dtype: torch.dtype) -> Tensor | None:
    return dct_matrix(frames, dtype) if transform == "dct" else None
