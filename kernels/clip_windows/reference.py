"""clip_windows in plain PyTorch."""

import torch
from torch import Tensor


def clip_windows(
    frames: Tensor,
    first: Tensor,
    second: Tensor | None,
    weight: Tensor | None,
    turns: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
    out: Tensor,
    present: Tensor | None,
) -> None:
    """See `op.clip_windows`; the arguments are checked there. Fills `out` and `present`."""
    dtype = out.dtype
    if second is None:
        x = _read(frames, first.clamp(min=0), dtype).masked_fill_((first < 0)[..., None, None], torch.nan)
    else:
        one, other = _read(frames, first, dtype), _read(frames, second, dtype)
        x = one.lerp(other, weight.to(dtype)[..., None, None])
        x = torch.where(x.isnan(), torch.fmin(one, other), x)  # fmin gives the one that is not NaN
    if present is not None:
        torch.logical_not(x[..., 0].isnan(), out=present)
    if turns is not None:
        x = turn(x, turns)
    if mean is not None:
        x = (x - mean.to(dtype)).div_(std.to(dtype))
        x.masked_fill_(x.isnan(), 0)
    out.copy_(x)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Turned and scaled windows x (B,W,J,C) by turns (B,3) -> a new (B,W,J,C)."""
    cos, sin, factor = turns.to(x.dtype)[:, :, None, None].unbind(1)  # (B,1,1) each
    turned, (across, down) = torch.empty_like(x), (x[..., 0], x[..., 1])
    torch.mul(across, cos, out=turned[..., 0]).addcmul_(down, sin, value=-1)
    torch.mul(down, cos, out=turned[..., 1]).addcmul_(across, sin)
    torch.mul(x[..., 2:], factor[..., None], out=turned[..., 2:])
    return turned


def _read(frames: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Frames at rows (B,W), (B,W,J,C) in `dtype`; new memory."""
    return frames.index_select(0, rows.flatten()).to(dtype).view(*rows.shape, *frames.shape[1:])
