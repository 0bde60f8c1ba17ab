"""From a clip's coordinates to a drawing plane that is the same for every clip.

The plane's origin is the middle of the shoulders and its unit their width (both the median over the clip), y downwards.
A raw clip and a preprocessed or generated one therefore come out at the same place and size and can lie side by side.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from handcraft.errors import DataError
from handcraft.layouts import LEFT_SHOULDER, RIGHT_SHOULDER, Layout
from handcraft.render.skeleton import skeleton

SIGNING_SPACE = (-1.5, -1.1, 1.5, 1.7)  # left, top, right, bottom in shoulder widths: always in view
MARGIN = 0.12  # shoulder widths around what is drawn
FARTHEST = 4.0  # shoulder widths from the origin: what a detector puts beyond is a glitch and runs off the picture
_BOUND = 99.0  # nothing is put farther away: no number of a file makes a page long or overflows a picture's pixels
_NARROWEST = 1e-6


@dataclass(frozen=True)
class View:
    """A clip on the drawing plane."""

    points: np.ndarray
    """(T,J,2) float64, NaN = missing."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of what should be in sight."""

    def __len__(self) -> int:
        return len(self.points)


def view(landmarks: np.ndarray, layout: Layout, aspect: float | None = None) -> View:
    """Put a clip (T,J,C), C 2 or 3, NaN = missing, on the drawing plane; z is not used.

    aspect: width / height of the picture that x and y of a raw clip are fractions of; None (unknown) counts as 1, as
    in preprocessing, and is what a preprocessed clip has. A clip that never shows both shoulders is scaled to its own
    extent. `DataError` for another shape, no frame, infinite values or no landmark.
    """
    landmarks = np.asarray(landmarks)
    if landmarks.ndim != 3 or landmarks.shape[1] != layout.landmarks or landmarks.shape[2] not in (2, 3):
        raise DataError(
            f"landmarks have shape {landmarks.shape}; layout {layout.name} has (frames, {layout.landmarks}, 2 or 3): "
            f"{layout.describe()}"
        )
    points = landmarks[..., :2].astype(np.float64)
    if not len(points) or np.isinf(points).any():
        raise DataError(f"the clip has {len(points)} frames or infinite coordinates; mark missing landmarks with NaN")
    points[np.isnan(points).any(axis=2)] = np.nan
    seen = points[~np.isnan(points[..., 0])]
    if not seen.size:
        raise DataError("no landmark was detected in any frame of the clip; there is nothing to draw")
    points[..., 0] *= 1.0 if aspect is None else aspect
    origin, unit = body(points, layout)
    points = np.clip((points - origin) / unit, -_BOUND, _BOUND)
    return View(points, _box(points[:, list(skeleton(layout).drawn)]))


def joint_box(boxes: Iterable[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    """The smallest box around all of them: clips drawn in one box have one scale."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def body(points: np.ndarray, layout: Layout) -> tuple[np.ndarray, float]:
    """Origin (2,) and unit of the plane for a clip (T,J,2) with one unit for x and y, in the clip's coordinates."""
    left, right = (points[:, layout.position("pose", index)] for index in (LEFT_SHOULDER, RIGHT_SHOULDER))
    both = ~np.isnan(left + right).any(axis=1)
    if both.any():
        width = float(np.median(np.linalg.norm(left[both] - right[both], axis=1)))
        if width > _NARROWEST:
            return np.median((left[both] + right[both]) / 2, axis=0), width
    low, high = np.nanmin(points, axis=(0, 1)), np.nanmax(points, axis=(0, 1))
    extent = float((high - low).max()) / 2
    return (low + high) / 2, extent if extent > _NARROWEST else 1.0


def _box(points: np.ndarray) -> tuple[float, float, float, float]:
    """The signing space, widened to what is drawn of (T,P,2)."""
    flat = points[~np.isnan(points[..., 0])]
    flat = flat[(np.abs(flat) <= FARTHEST).all(axis=1)]
    if not len(flat):
        return SIGNING_SPACE
    (left, top), (right, bottom) = flat.min(axis=0) - MARGIN, flat.max(axis=0) + MARGIN
    return joint_box([SIGNING_SPACE, (float(left), float(top), float(right), float(bottom))])
