"""Step 5: the W frames that a model sees of clips of any length, for a whole batch at once."""

import numpy as np
import torch
from torch import Tensor

from handcraft.config import WindowConfig
from handcraft.data.clips import Motion
from handcraft.errors import ConfigError

_PIECE = 256  # rows put together at a time: three copies of 180 numbers each are 0.6 MB


def windows(
    clips: Motion, index: Tensor, config: WindowConfig, begin: Tensor | None = None, span: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Windows of the clips `index` (B,) int64 -> x (B,W,J,C) float32, NaN = missing or padding, and valid (B,W) bool.

    A window reads `span` (B,) frames of its clip, the first being frame `begin` (B,); both in frames, floating or
    integer, and held inside the clip.

    resample: frame t lies at time begin + t (span-1) / (W-1), linear between the clip's frames; where one neighbour is
    missing the other is taken, where both are the result is missing. Default: the whole clip. All valid.
    wrap, zero: the frames as they are. Default: the whole clip, or the middle W frames of a longer one. A span shorter
    than W is repeated from its start (wrap, all valid) or followed by NaN that is not valid (zero).
    """
    width = config.frames
    if width < 1:
        raise ConfigError(f"window.frames is {width}; expected at least 1")
    start, length = clips.start[index], clips.length[index]
    t = torch.arange(width, device=start.device)
    if config.mode == "resample":
        begin = torch.zeros_like(length) if begin is None else begin
        span = length if span is None else span
        # Multiplied before divided: at W = T every time is then a whole number, and the window is the clip itself.
        step = t * (span.double()[:, None] - 1) / (width - 1) if width > 1 else (span.double()[:, None] - 1) / 2
        time = (begin.double()[:, None] + step).clamp(min=0).minimum(length[:, None] - 1)
        x = _between(clips, start, time)
        return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if config.mode not in ("wrap", "zero"):
        raise ConfigError(f"window.mode is {config.mode!r}; expected 'resample', 'wrap' or 'zero'")
    span = (length.clamp(max=width) if span is None else span.long()).clamp(min=1)[:, None]
    begin = ((length - width).clamp(min=0) // 2 if begin is None else begin.long())[:, None]
    frame = (begin + t % span).clamp(min=0).minimum(length[:, None] - 1)
    x = clips.read((start[:, None] + frame).flatten()).view(*frame.shape, *clips.frames.shape[1:])
    if config.mode == "wrap":
        return x, torch.ones(frame.shape, dtype=torch.bool, device=x.device)
    valid = t < span
    return x.masked_fill_(~valid[:, :, None, None], torch.nan), valid


def _between(clips: Motion, start: Tensor, time: Tensor) -> Tensor:
    """Clips at fractional times (B,W), linear between the two frames around each -> (B,W,J,C)."""
    earlier = time.floor()
    weight = (time - earlier).float().flatten()
    first = (start[:, None] + earlier.long()).flatten()  # (B*W,) rows
    # At a whole time both neighbours are the same frame: a missing landmark there is missing, whatever comes next.
    second = (start[:, None] + time.ceil().long()).flatten()
    if isinstance(clips.frames, Tensor) and clips.frames.dtype == torch.float32:
        flat = clips.frames.flatten(1)
    else:  # what is weighted and added is float32, and here
        flat = clips.read(torch.cat((first, second))).flatten(1)  # (2*B*W,D)
        first = torch.arange(len(first), device=first.device)
        second = first + len(first)
    return _mixed(flat, first, second, weight).view(*time.shape, *clips.frames.shape[1:])


def _mixed(flat: Tensor, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Rows between the rows `first` and `second` (n,) of `flat (rows,D)`, at `weight (n,)` from one to the other ->
    (n,D); where one of both is missing the other, since fmin gives the one that is not NaN."""
    if flat.device.type != "cpu":
        one, other = flat[first], flat[second]
        x = one.lerp(other, weight[:, None])
        return torch.where(x.isnan(), torch.fmin(one, other), x)
    # The same in pieces that stay in a core's cache, without new memory for each pass: 5 times as fast. numpy's tests
    # for NaN are vectorised, torch's are not.
    x = flat.new_empty(len(first), flat.shape[1])
    scratch = flat.new_empty(2, min(_PIECE, len(first)), flat.shape[1])
    for start in range(0, len(first), _PIECE):
        piece = x[start : start + _PIECE]
        one, other = scratch[:, : len(piece)]
        torch.index_select(flat, 0, first[start : start + _PIECE], out=one)
        torch.index_select(flat, 0, second[start : start + _PIECE], out=other)
        torch.lerp(one, other, weight[start : start + _PIECE, None], out=piece)
        np.fmin(one.numpy(), other.numpy(), out=other.numpy())
        np.copyto(piece.numpy(), other.numpy(), where=np.isnan(piece.numpy()))
    return x
