"""Step 5: the W frames that a model sees of clips of any length, for a whole batch at once."""

import math

import torch
from torch import Tensor

from handcraft.config import WindowConfig
from handcraft.data.clips import Motion
from handcraft.data.statistics import Statistics
from handcraft.errors import ConfigError
from handcraft.kernels import clip_windows

# Frames that lie on the host are gathered for windows of about this size at a time, so that those are then made from
# what is still in a core's second-level cache.
_PIECE_BYTES = 1 << 20


def windows(
    clips: Motion,
    index: Tensor,
    config: WindowConfig,
    begin: Tensor | None = None,
    span: Tensor | None = None,
    *,
    turns: Tensor | None = None,
    statistics: Statistics | None = None,
    present: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Windows of the clips `index` (B,) int64 -> x (B,W,J,C) float32, NaN = missing or padding, and valid (B,W) bool.

    A window reads `span` (B,) frames of its clip, the first being frame `begin` (B,); both in frames, floating or
    integer, and held inside the clip.

    resample: frame t lies at time begin + t (span-1) / (W-1), linear between the clip's frames; where one neighbour is
    missing the other is taken, where both are the result is missing. Default: the whole clip. All valid.
    wrap, zero: the frames as they are. Default: the whole clip, or the middle W frames of a longer one. A span shorter
    than W is repeated from its start (wrap, all valid) or followed by NaN that is not valid (zero).

    turns: (B,3) from `augment.draw_turns`, to turn and scale each window with. statistics: standardise the result,
    which is 0 then where missing or padding. present: (B,W,J) bool, filled: False where missing or padding.
    """
    if config.frames < 1:
        raise ConfigError(f"window.frames is {config.frames}; expected at least 1")
    if config.mode not in ("resample", "wrap", "zero"):
        raise ConfigError(f"window.mode is {config.mode!r}; expected 'resample', 'wrap' or 'zero'")
    places = _between if config.mode == "resample" else _whole
    first, second, weight, valid = places(clips.start[index], clips.length[index], config, begin, span)
    x = torch.empty(*first.shape, *clips.frames.shape[1:], device=first.device)
    mean, std = (None, None) if statistics is None else (statistics.mean, statistics.std)
    for here in _pieces(clips, x):
        some = [None if tensor is None else tensor[here] for tensor in (first, second, weight, turns, present)]
        frames, one, other = _gathered(clips, *some[:2])
        clip_windows(frames, one, other, some[2], turns=some[3], mean=mean, std=std, out=x[here], present=some[4])
    return x, valid


def _between(
    start: Tensor, length: Tensor, config: WindowConfig, begin: Tensor | None, span: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows at fractional times: rows of the frames before and after each, how far it is from one to the other, and
    what is valid, (B,W) each."""
    width = config.frames
    begin = torch.zeros_like(length) if begin is None else begin
    span = length if span is None else span
    t = torch.arange(width, device=start.device)
    # Multiplied before divided: at W = T every time is then a whole number, and the window is the clip itself.
    step = t * (span.double()[:, None] - 1) / (width - 1) if width > 1 else (span.double()[:, None] - 1) / 2
    time = (begin.double()[:, None] + step).clamp_(min=0).minimum(length[:, None] - 1)
    earlier = time.floor()
    # At a whole time both neighbours are the same frame: a missing landmark there is missing, whatever comes next.
    first, second = (start[:, None] + whole.long() for whole in (earlier, time.ceil()))
    return first, second, (time - earlier).float(), torch.ones_like(first, dtype=torch.bool)


def _whole(
    start: Tensor, length: Tensor, config: WindowConfig, begin: Tensor | None, span: Tensor | None
) -> tuple[Tensor, None, None, Tensor]:
    """Windows of frames as they are: the row of each, -1 where there is none, and what is valid, (B,W) each."""
    width = config.frames
    span = (length.clamp(max=width) if span is None else span.long()).clamp(min=1)[:, None]
    begin = ((length - width).clamp(min=0) // 2 if begin is None else begin.long())[:, None]
    t = torch.arange(width, device=start.device)
    row = start[:, None] + (begin + t % span).clamp(min=0).minimum(length[:, None] - 1)
    if config.mode == "wrap":
        return row, None, None, torch.ones_like(row, dtype=torch.bool)
    valid = t < span
    return row.masked_fill_(~valid, -1), None, None, valid


def _pieces(clips: Motion, x: Tensor) -> list[slice]:
    """Which windows of `x (B,W,J,C)` are made together."""
    count = len(x)
    if isinstance(clips.frames, Tensor) or x.device.type != "cpu":
        return [slice(0, count)]
    size = max(1, _PIECE_BYTES // (4 * math.prod(x.shape[1:])))
    return [slice(at, at + size) for at in range(0, count, size)]


def _gathered(clips: Motion, first: Tensor, second: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Frames in one tensor with the rows `first` and `second` (B,W) among them, and where those lie in it."""
    if isinstance(clips.frames, Tensor):
        return clips.frames, first, second
    rows = first.flatten() if second is None else torch.cat((first.flatten(), second.flatten()))
    place = torch.arange(len(rows), device=rows.device).view(-1, *first.shape)
    frames = clips.frames.index_select(0, rows.clamp(min=0))
    return (frames, place[0].where(first >= 0, -1), None) if second is None else (frames, *place)
