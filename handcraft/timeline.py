"""Windows that slide over a long recording, and the time line that their recognised signs make."""

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from handcraft.errors import ConfigError

LARGEST = 1_000_000  # windows of one recording: eleven days, one a second


def spans(frames: int, fps: float, window: float, step: float | None = None) -> list[tuple[int, int]]:
    """[first, one past the last) frame of each window over a recording of `frames` frames.

    window, step: seconds, rounded to whole frames; step defaults to half a window. The last window ends where the
    recording does, and a recording shorter than a window is one window. `ConfigError` for a window or a step that is
    not positive, for less than two frames in a window, and for more than a million windows.
    """
    step = window / 2 if step is None else step
    for name, value in (("window", window), ("step", step)):
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} is {value} seconds, expected a positive number")
    width, stride = round(window * fps), max(1, round(step * fps))
    if width < 2:
        raise ConfigError(f"window is {window:g} seconds, less than two frames at {fps:g} frames a second; give more")
    if frames <= width:
        return [(0, frames)]
    if (frames - width) // stride >= LARGEST:
        raise ConfigError(f"step is {step:g} seconds: over {LARGEST:,} windows; give a larger one")
    first = list(range(0, frames - width + 1, stride))
    if first[-1] + width < frames:
        first.append(frames - width)
    return [(start, start + width) for start in first]


def merge(windows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The time line of windows in order, each with `start` and `end` (seconds) and `top` (likeliest first, or empty).

    Neighbours with the same likeliest class become one entry: `start`, `end`, `sign` (None where nothing could be
    recognised), `probability` (the mean of its windows, None without a sign) and `windows`, how many they are. Where
    two entries overlap, the border lies in the middle of the overlap, so that every moment belongs to one of them.
    """
    runs = [list(run) for _, run in groupby(windows, key=_sign)]
    found = []
    for run in runs:
        probabilities = [window["top"][0]["probability"] for window in run if window["top"]]
        found.append(
            {
                "start": run[0]["start"],
                "end": run[-1]["end"],
                "sign": _sign(run[0]),
                "probability": sum(probabilities) / len(probabilities) if probabilities else None,
                "windows": len(run),
            }
        )
    for before, after in pairwise(found):
        if before["end"] > after["start"]:
            before["end"] = after["start"] = (before["end"] + after["start"]) / 2
    return found


def _sign(window: dict[str, Any]) -> str | None:
    return window["top"][0]["class"] if window["top"] else None
