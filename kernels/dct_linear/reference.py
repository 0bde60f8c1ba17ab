"""dct_linear in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from handcraft.kernels.dct import dct_matrix
from handcraft.kernels.precision import compute_dtype


def dct_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cls: Tensor | None,
    position: Tensor | None,
    cls_at: str,
    transform: str,
    lengths: Tensor | None,
) -> Tensor:
    """See `op.dct_linear`; the arguments are checked there."""
    batch, frames, dim = x.shape
    width = weight.shape[0]
    dtype = compute_dtype(x)
    value = x.to(dtype)
    if transform == "dct":
        # one (T,T) x (T, B*D) product instead of B small ones
        matrix = dct_matrix(frames, dtype, x.device)
        value = torch.mm(matrix, value.transpose(0, 1).reshape(frames, batch * dim))
        value = value.view(frames, batch, dim).transpose(0, 1)
    token = F.linear(value, weight.to(dtype), None if bias is None else bias.to(dtype))  # (B,T,H)
    if cls is not None:
        row = cls.to(dtype).expand(batch, 1, width)
        if lengths is not None and cls_at == "last":
            token = _cls_after_last(token, row, lengths)
        else:
            token = torch.cat((row, token) if cls_at == "first" else (token, row), dim=1)
    if position is not None:
        token = token + position.to(dtype)
    if lengths is not None:
        used = lengths + (0 if cls is None else 1)
        keep = torch.arange(token.shape[1], device=x.device) < used[:, None]  # (B,rows)
        token = torch.where(keep[..., None], token, token.new_zeros(()))
    return token.to(x.dtype)


def _cls_after_last(token: Tensor, row: Tensor, lengths: Tensor) -> Tensor:
    """(B,T,H) and (B,1,H) -> (B,T+1,H) with the row at lengths[b]; what lies after it is cleared by the caller."""
    token = torch.cat((token, row), dim=1)
    here = torch.arange(token.shape[1], device=token.device) == lengths[:, None]  # (B,T+1)
    return torch.where(here[..., None], row, token)
