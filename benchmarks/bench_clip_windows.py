"""A training batch of windows: each frame between two of its clip's, turned, scaled and standardised."""

import pytest
import torch
from providers import Case, draw, prepare

from handcraft.kernels import clip_windows

CLIP = 64
"""Frames of a clip; the windows of a batch start anywhere in theirs."""


def setup(case: Case):
    shape = case.shape
    normal = draw(11, case.device)
    points = (shape.landmarks, shape.COORDINATES)
    frames = normal(shape.batch * CLIP, *points).to(case.dtype)
    frames[normal(len(frames), points[0]) < -1.28] = torch.nan
    start = torch.arange(shape.batch) * CLIP + torch.arange(shape.batch) % (CLIP - shape.frames)
    first = (start[:, None] + torch.arange(shape.frames)).to(case.device)
    arguments = {
        "frames": frames,
        "first": first,
        "second": first + 1,
        "weight": torch.sigmoid(normal(*first.shape)),
        "turns": normal(shape.batch, 3),
        "mean": normal(*points),
        "std": normal(*points).abs() + 1,
    }
    return prepare(case, clip_windows, arguments)


@pytest.mark.cases("clip_windows forward")
def bench_forward(case, measure):
    measure(setup(case))
