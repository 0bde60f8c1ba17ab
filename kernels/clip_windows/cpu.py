"""clip_windows on the CPU library: the launcher of `csrc/cpu/clip_windows.cpp`."""

import torch
from torch import Tensor

from handcraft.kernels import native


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
    filled = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype)
    marked = None if present is None else present.contiguous()
    batch, width = first.shape
    numbers = {"weight": weight, "turns": turns, "mean": mean, "std": std}
    native.call(
        "clip_windows",
        frames.dtype,
        frames=frames.contiguous(),
        first=first.contiguous(),
        second=None if second is None else second.contiguous(),
        **{name: None if value is None else value.to(out.dtype).contiguous() for name, value in numbers.items()},
        out=filled,
        present=None if marked is None else marked.view(torch.uint8),
        batch=batch,
        width=width,
        landmarks=frames.shape[1],
        coordinates=frames.shape[2],
    )
    if filled is not out:
        out.copy_(filled)
    if marked is not present:
        present.copy_(marked)
