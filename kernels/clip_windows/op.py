"""clip_windows: the public function; its docstring is the contract."""

import torch
from torch import Tensor

from handcraft.kernels import checks, dispatch
from handcraft.kernels.clip_windows import cpu, reference
from handcraft.kernels.precision import compute_dtype

OP = "clip_windows"
IMPLEMENTATIONS = {"reference": reference, "cpu": cpu}


@torch.no_grad()
def clip_windows(
    frames: Tensor,
    first: Tensor,
    second: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    turns: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    out: Tensor | None = None,
    present: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Windows of W frames from clips whose frames lie in one tensor. No gradient is recorded.

        x       = frames[first], or between it and frames[second]:
                  (1 - weight) * frames[first] + weight * frames[second]; where one of both is missing the other
        present = x[...,0] is not missing
        x, y    = turn[0] * x - turn[1] * y, turn[0] * y + turn[1] * x;  other coordinates: turn[2] * z
        out     = (x - mean) / std, missing -> 0

    Each step but the first is left out where its arguments are None. Window i is a function of its own rows, weights
    and turn alone: its bytes do not depend on the batch.

    Args:
        frames: (rows,J,C) fp32, bf16, fp16 or fp64, finite or NaN = missing.
        first: (B,W) int64 in [0, rows). Without `second` also -1: all landmarks of the frame are missing.
        second: (B,W) int64 in [0, rows); both the same is that frame itself.
        weight: (B,W) fp32 in [0, 1]; goes with `second`.
        turns: (B,3) fp32: factor * cos(angle), factor * sin(angle), factor; for C >= 2.
        mean, std: (J,C) fp32; both or none.
        out: (B,W,J,C) fp32 (fp64 if `frames` is): filled and returned; any strides. None: a new tensor.
        present: (B,W,J) bool, any strides: filled.
        backend: "auto", or a name of `dispatch.BACKENDS`.

    Returns:
        (B,W,J,C), computed in fp32 (fp64 if `frames` is). `weight`, `turns`, `mean` and `std` may be fp64 then.

    The fused backend takes every shape.

    Raises:
        TypeError, ValueError: an argument that is not as named here.
        dispatch.BackendError: a backend asked for by name that cannot run.
    """
    checks.activation(OP, "frames", frames, frames)
    checks.dims(OP, "frames", frames, "(rows,J,C)")
    rows, *points = frames.shape
    checks.tensor(OP, "first", first)
    checks.dims(OP, "first", first, "(B,W)")
    window = tuple(first.shape)
    checks.index(OP, "first", first, "(B,W)", window, frames, rows, start=-1 if second is None else 0)
    _together("second", second, "weight", weight)
    _together("mean", mean, "std", std)
    if second is not None:
        checks.index(OP, "second", second, "(B,W)", window, frames, rows)
    for name, value, letters, shape in (
        ("weight", weight, "(B,W)", window),
        ("turns", turns, "(B,3)", (window[0], 3)),
        ("mean", mean, "(J,C)", tuple(points)),
        ("std", std, "(J,C)", tuple(points)),
    ):
        if value is not None:
            checks.parameter(OP, name, value, frames)
            checks.shape(OP, name, value, letters, shape)
    if turns is not None and points[1] < 2:
        raise ValueError(f"{OP}: frames has shape {tuple(frames.shape)}, expected C >= 2 beside turns")
    if out is None:
        out = frames.new_empty(*window, *points, dtype=compute_dtype(frames))
    _result("out", out, compute_dtype(frames), "(B,W,J,C)", (*window, *points), frames)
    if present is not None:
        _result("present", present, torch.bool, "(B,W,J)", (*window, points[0]), frames)
    chosen = dispatch.select(OP, backend, frames)
    IMPLEMENTATIONS[chosen].clip_windows(frames, first, second, weight, turns, mean, std, out, present)
    return out


def _together(name: str, value: Tensor | None, other_name: str, other: Tensor | None) -> None:
    if (value is None) != (other is None):
        given, missing = (name, other_name) if other is None else (other_name, name)
        raise ValueError(f"{OP}: {given} is given and {missing} is None, expected both or none")


def _result(name: str, value: Tensor, dtype: torch.dtype, letters: str, shape: tuple[int, ...], frames: Tensor) -> None:
    checks.tensor(OP, name, value)
    if value.dtype != dtype:
        raise TypeError(f"{OP}: {name} is {value.dtype}, expected {str(dtype).removeprefix('torch.')}")
    checks.shape(OP, name, value, letters, shape)
    checks.device(OP, name, value, frames)
