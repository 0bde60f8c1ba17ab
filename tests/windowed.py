"""A small `clip_windows` and its definition in NumPy: for the tests of all backends."""

import numpy as np
import torch


def setting(batch=5, width=7, points=(5, 3), dtype=torch.float32, rows=40):
    """Arguments in which a quarter of the landmarks is missing, some frames are read as they are, some all missing."""
    like = {"generator": torch.Generator("cpu").manual_seed(3), "device": "cpu"}
    frames = torch.randn(rows, *points, **like, dtype=torch.float64)
    frames[torch.rand(rows, points[0], **like) < 0.25] = torch.nan
    frames[3] = torch.nan
    first = torch.randint(rows, (batch, width), **like)
    second = torch.where(torch.rand(batch, width, **like) < 0.2, first, (first + 1) % rows)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    draws = {
        "weight": torch.rand(batch, width, **like, dtype=torch.float64),
        "turns": torch.randn(batch, 3, **like, dtype=torch.float64),
        "mean": torch.randn(points, **like, dtype=torch.float64),
        "std": torch.rand(points, **like, dtype=torch.float64) + 0.5,
    }
    tensors = {
        "frames": frames.to(dtype),
        "first": first,
        "second": second,
        **{name: value.to(exact) for name, value in draws.items()},
    }
    return {name: value.to(torch.get_default_device()) for name, value in tensors.items()}


def oracle(frames, first, second=None, weight=None, turns=None, mean=None, std=None):
    """`out` in float64 and `present`, by a loop over landmarks."""
    frames, weight, turns, mean, std = (
        None if value is None else value.double().cpu().numpy() for value in (frames, weight, turns, mean, std)
    )
    batch, width = first.shape
    out = np.full((batch, width, *frames.shape[1:]), np.nan)
    for b, t, j in np.ndindex(batch, width, frames.shape[1]):
        if first[b, t] >= 0:
            point = frames[first[b, t], j]
            if second is not None:
                other = frames[second[b, t], j]
                if np.isnan(point).any() or np.isnan(other).any():
                    point = other if np.isnan(point).any() else point
                else:
                    point = point + weight[b, t] * (other - point)
            out[b, t, j] = point
    present = ~np.isnan(out[..., 0])
    if turns is not None:
        for b in range(batch):
            cos, sin, factor = turns[b]
            x, y = out[b, ..., 0].copy(), out[b, ..., 1].copy()
            out[b, ..., 0], out[b, ..., 1] = cos * x - sin * y, cos * y + sin * x
            out[b, ..., 2:] *= factor
    if mean is not None:
        out = np.nan_to_num((out - mean) / std)
    return tuple(torch.from_numpy(value).to(torch.get_default_device()) for value in (out, present))
