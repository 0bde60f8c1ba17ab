"""Preprocessing, steps 1 to 4: fill short gaps, smooth, centre and scale, select the landmark layout (and, where the
recipe says so, interpolate what is missing still).

Pure NumPy and SciPy on one clip at a time, so that training, prediction and a live camera run the very same code. The
whole of it happens once per clip: a store marked `centred` carries `signature(config)` and is never processed again.

A detector loses a part (pose, hand, face) as a whole, so the frames in which a landmark is missing are those in which
its part is; gaps and runs are therefore found per landmark, and no value ever passes from one part to another. A
landmark with any coordinate NaN counts as missing, and all its coordinates become NaN.
"""

from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy.signal import savgol_filter

from handcraft.config import LATER, PreprocessConfig
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import LEFT_SHOULDER, NOSE, RIGHT_SHOULDER, Layout, Part
from handcraft.layouts import layout as find_layout

VERSION = 1  # raise it whenever the same config would give other numbers: stores made before are then refused
_LATER = {  # named in a signature only where they are not as they were before they came
    field.name: field.default for field in fields(PreprocessConfig) if field.name in LATER
}
_NARROWEST = 1e-6  # shoulder width below which dividing by it is meaningless, in units of the frame's height
_LONGEST_CACHED = 128  # frames; longer runs are filtered directly, since the cached matrix grows with the square


def signature(config: PreprocessConfig) -> str:
    """One line that names the version and the parameters of steps 1 to 4; equal lines mean equal processing."""
    named = sorted(item for item in asdict(config).items() if item not in _LATER.items())
    values = " ".join(f"{name}={value}" for name, value in named)
    return f"preprocess/{VERSION} {values}"


def from_signature(text: str) -> PreprocessConfig:
    """The config whose `signature` is `text`; `DataError` for any other text."""
    values = _LATER | dict(pair.split("=", 1) for pair in text.split()[1:] if "=" in pair)
    try:
        config = PreprocessConfig(
            **{field.name: type(field.default)(values[field.name]) for field in fields(PreprocessConfig)}
        )
    except (KeyError, ValueError):
        config = None
    if config is None or signature(config) != text:
        raise DataError(f"preprocessing signature {text!a:.200} is not one that this version writes")
    return config


def preprocess(
    landmarks: np.ndarray, raw_layout: Layout, config: PreprocessConfig, aspect: float | None = None
) -> np.ndarray:
    """Steps 1 to 4 on one clip as the detector gave it.

    `landmarks` (T,Jraw,3), or (T,Jraw,2) where `config.coordinates` is "xy": x and y as fractions of the frame's width
    and height, z in about the unit of x, NaN = missing. `aspect` is width / height, None where unknown (taken as 1).
    Returns (T,J,C) float32 in `config.layout`. Computes in float64. Raises `DataError` for a clip that cannot be used:
    another shape than the layout's, no frames, infinite values, nothing detected, or nothing to centre on.
    """
    target = find_layout(config.layout)
    landmarks = _checked(landmarks, raw_layout, config)
    layout, where = _needed(raw_layout, target)
    landmarks = landmarks[:, where].astype(np.float64)
    landmarks[np.isnan(landmarks).any(axis=2)] = np.nan
    landmarks = fill_gaps(landmarks, config.fill)
    landmarks = smooth(landmarks, config.smooth_window, config.smooth_order)
    landmarks = centre(landmarks, layout, config.centre, aspect)
    landmarks = select(landmarks, layout, target, config.coordinates)
    return interpolate(landmarks, config.missing).astype(np.float32)


def fill_gaps(landmarks: np.ndarray, longest: int) -> np.ndarray:
    """Step 1: fill gaps of at most `longest` frames between two detections, linearly in time.

    `landmarks` (T,J,C) floating, NaN = missing; returns a new array of the same dtype. Gaps before the first and after
    the last detection stay missing, as do longer ones: nothing is extrapolated.
    """
    if longest < 0:
        raise ConfigError(f"preprocess.fill is {longest}; give the longest gap in frames, 0 to fill none")
    filled = landmarks.copy()
    for columns, runs in _runs_by_pattern(landmarks):
        for (_, before), (after, _) in pairwise(runs):
            gap = after - before
            if gap > longest:
                continue
            weight = (np.arange(1, gap + 1) / (gap + 1)).astype(landmarks.dtype)[:, None, None]
            left, right = landmarks[before - 1, columns], landmarks[after, columns]
            filled[before:after, columns] = left * (1 - weight) + right * weight
    return filled


def smooth(landmarks: np.ndarray, window: int, order: int) -> np.ndarray:
    """Step 2: Savitzky-Golay filter along time (polynomial fit at the two ends of a run, as SciPy's `mode="interp"`).

    Each run of frames without a missing one is filtered by itself, and only if it has at least `window` frames.
    `landmarks` (T,J,C) floating; returns a new array of the same dtype. `window` 0 turns it off; otherwise odd and
    larger than `order`.
    """
    if window == 0:
        return landmarks.copy()
    if window < 0 or window % 2 == 0 or not 0 <= order < window:
        raise ConfigError(
            f"preprocess.smooth_window is {window} and smooth_order {order}; the window is 0 (off) or odd and larger "
            "than the order"
        )
    smoothed = landmarks.copy()
    for columns, runs in _runs_by_pattern(landmarks):
        for start, stop in runs:
            frames = stop - start
            if frames < window:
                continue
            run = landmarks[start:stop, columns]
            if frames > _LONGEST_CACHED:
                smoothed[start:stop, columns] = savgol_filter(run, window, order, axis=0)
            else:
                flat = _smoothing_matrix(frames, window, order) @ run.reshape(frames, -1)
                smoothed[start:stop, columns] = flat.reshape(run.shape)
    return smoothed


def centre(landmarks: np.ndarray, layout: Layout, mode: str, aspect: float | None = None) -> np.ndarray:
    """Step 3: move the origin to the body and, with `shoulder`, make the shoulder width the unit.

    `landmarks` (T,J,C) floating in `layout`, which must hold MediaPipe's nose or shoulders; returns a new array.

    `shoulder`: x and z are multiplied by `aspect` first, so that all coordinates are in units of the frame's height
    (MediaPipe gives z in about the unit of x). The origin is the shoulder midpoint and the unit the distance of the
    shoulders in x and y, both the median over the frames that show both shoulders. The detector measures z from the
    hips for the pose, from the wrist for a hand and from the head for the face: so the midpoint's z is taken from the
    pose alone, the other parts keep their own origin, and all are divided by the same width.

    `paper`: the nose of the first frame with a pose is subtracted, nothing is scaled, and z of the hands becomes 0.
    """
    centred = landmarks.copy()
    slices = layout.slices
    if mode == "paper":
        nose = landmarks[:, layout.position("pose", NOSE)]
        seen = np.flatnonzero(~np.isnan(nose).any(axis=1))
        if not seen.size:
            raise DataError("the nose is in no frame, so the clip cannot be centred on it; leave the clip out")
        centred -= nose[seen[0]]
        if landmarks.shape[2] > 2:
            for hand in (slices[name] for name in slices if name.endswith("_hand")):
                centred[:, hand, 2] *= 0.0  # a missing hand stays NaN
        return centred
    if mode != "shoulder":
        raise ConfigError(f"preprocess.centre is {mode!r}; expected 'shoulder' or 'paper'")
    if aspect is not None:
        if not (np.isfinite(aspect) and aspect > 0):
            raise DataError(f"the frame's aspect ratio (width / height) is {aspect}; expected a positive number")
        centred[..., 0] *= aspect
        centred[..., 2:] *= aspect
    left, right = (centred[:, layout.position("pose", index)] for index in (LEFT_SHOULDER, RIGHT_SHOULDER))
    seen = ~np.isnan(left + right).any(axis=1)
    if not seen.any():
        raise DataError("no frame shows both shoulders, so the clip cannot be centred on them; leave the clip out")
    left, right = left[seen], right[seen]
    midpoint = np.median((left + right) / 2, axis=0)
    width = float(np.median(np.hypot(left[:, 0] - right[:, 0], left[:, 1] - right[:, 1])))
    if width < _NARROWEST:
        raise DataError(
            f"the shoulders are {width:.1e} of the frame's height apart, too close to scale by; leave it out"
        )
    centred[..., :2] -= midpoint[:2]
    centred[:, slices["pose"], 2:] -= midpoint[2:]
    centred /= width
    return centred


def select(landmarks: np.ndarray, layout: Layout, target: Layout, coordinates: str) -> np.ndarray:
    """Step 4: the landmarks of `target`, in its order, with "xyz" or "xy". `landmarks` (T,Jraw,C) -> (T,J,C)."""
    return landmarks[:, layout.take(target), : len(coordinates)]


def interpolate(landmarks: np.ndarray, missing: str) -> np.ndarray:
    """What "interpolate" does about landmarks that are missing after the steps before; "keep" leaves them missing.

    Between two detections of a landmark it lies on the line from one to the other, before the first and after the last
    it stays where that is: a hand that came into view is taken to have waited there. `landmarks` (T,J,C) floating; a
    landmark that is in no frame stays missing. Returns a new array of the same dtype, or `landmarks` itself.
    """
    if missing not in ("keep", "interpolate"):
        raise ConfigError(f"preprocess.missing is {missing!r}; expected 'keep' or 'interpolate'")
    if missing == "keep" or not np.isnan(landmarks).any():
        return landmarks
    filled, frames = landmarks.copy(), np.arange(len(landmarks))
    seen = ~np.isnan(landmarks).any(axis=2)  # (T,J)
    for j in np.flatnonzero(seen.any(0) & ~seen.all(0)):
        for c in range(landmarks.shape[2]):
            filled[:, j, c] = np.interp(frames, frames[seen[:, j]], landmarks[seen[:, j], j, c])
    return filled


def _checked(landmarks: np.ndarray, layout: Layout, config: PreprocessConfig) -> np.ndarray:
    """A view of the wanted coordinates; `DataError` if the clip is unusable."""
    if config.coordinates not in ("xyz", "xy"):
        raise ConfigError(f"preprocess.coordinates is {config.coordinates!r}; expected 'xyz' or 'xy'")
    wanted = len(config.coordinates)
    landmarks = np.asarray(landmarks)
    if landmarks.ndim != 3 or landmarks.shape[1] != layout.landmarks or landmarks.shape[2] not in (2, 3):
        raise DataError(
            f"landmarks have shape {landmarks.shape}; layout {layout.name} has (frames, {layout.landmarks}, 2 or 3): "
            f"{layout.describe()}"
        )
    if landmarks.shape[2] < wanted:
        raise DataError("the clip has x and y only; set preprocess.coordinates to 'xy'")
    if len(landmarks) == 0:
        raise DataError("the clip has 0 frames; leave it out")
    landmarks = landmarks[..., :wanted]  # without z nothing below reads it, and its NaN cannot hide a landmark
    if np.isinf(landmarks).any():
        raise DataError("the clip holds infinite coordinates; mark missing landmarks with NaN")
    if np.isnan(landmarks).any(axis=2).all():
        raise DataError("no landmark was detected in any frame of the clip; leave it out")
    return landmarks


@lru_cache
def _needed(raw: Layout, target: Layout) -> tuple[Layout, list[int]]:
    """What a clip is centred on and what is kept of it, as a layout of its own, and where in `raw` its landmarks lie:
    the many points of a face mesh need not be filled and smoothed to be dropped then."""
    raw.take(target)  # says what is missing
    kept = {part.name: set(part.indices) for part in target.parts}
    kept["pose"] = kept.get("pose", set()) | {NOSE, LEFT_SHOULDER, RIGHT_SHOULDER}
    parts = [Part(part.name, tuple(i for i in part.indices if i in kept.get(part.name, ()))) for part in raw.parts]
    needed = Layout(raw.name, tuple(part for part in parts if part.indices))
    return needed, raw.take(needed)


def _runs_by_pattern(landmarks: np.ndarray) -> Iterator[tuple[list[int] | slice, np.ndarray]]:
    """Landmarks grouped by the frames they are present in, with those runs (R,2) as [first, one past the last)."""
    present = ~np.isnan(landmarks).any(axis=2)  # (T,J)
    if present.all():
        yield slice(None), np.array([[0, len(landmarks)]])
        return
    groups: dict[bytes, list[int]] = {}
    for column, pattern in enumerate(np.ascontiguousarray(present.T)):
        groups.setdefault(pattern.tobytes(), []).append(column)
    for columns in groups.values():
        edges = np.flatnonzero(np.diff(present[:, columns[0]], prepend=False, append=False))
        yield columns, edges.reshape(-1, 2)


@lru_cache(maxsize=_LONGEST_CACHED)
def _smoothing_matrix(frames: int, window: int, order: int) -> np.ndarray:
    """The filter as a matrix (frames,frames): it is linear, and one product is ten times cheaper than a new fit."""
    return savgol_filter(np.eye(frames), window, order, axis=0)
