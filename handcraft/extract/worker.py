"""One clip from its video: a plain function of what to read and how, the same in this process, another or on another
machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from handcraft.extract.landmarker import DETECTED, Detection, Detector, Settings, detector_of
from handcraft.extract.video import frame_rate, read_frames
from handcraft.layouts import Layout, Part


@dataclass(frozen=True)
class ClipSource:
    """Where a clip is to be taken from, and what is known about it."""

    path: Path
    """A video file, or a folder of numbered images."""
    id: str
    label: str
    signer: str = ""
    """Signer or session: the store's `group`."""
    start: float | None = None
    end: float | None = None
    """The clip is the frames at start <= time < end, in seconds from the video's first frame."""
    split: str = ""
    name: str = ""
    """What the provenance calls the file: its path below the folder that was given."""


@dataclass(frozen=True)
class Extracted:
    """The landmarks of a clip as the detector gave them, and what the store says about its video."""

    landmarks: np.ndarray
    """(T,J,3) float32 in the layout of the settings, x and y as fractions of the picture, NaN = missing."""
    visibility: np.ndarray
    """(T,33) float32, 0 to 1, of the pose; NaN where there is none."""
    fps: float | None
    """Average frames a second; None for images without a rate and for a single frame."""
    width: int
    height: int
    """Of the upright picture, in pixels (square ones)."""
    varies: bool
    """Whether the steps from frame to frame differ (a variable frame rate)."""
    counts: Mapping[str, int]
    """Frames in which each part was found."""


def extract_clip(
    source: ClipSource,
    settings: Settings,
    *,
    detector: Detector | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Extracted:
    """Detect on every frame of a clip, with a landmarker of its own. A clip without a person is all NaN.

    detector: another one than `settings.backend` names. on_frame: called after each frame. Memory is that of one
    picture and of the result, for which an hour at 30 frames a second takes 0.8 GB in `holistic553`, and 0.13 GB in
    `holistic87`.
    `DataError`: the video cannot be read, see `read_frames`; `ConfigError`: the detector cannot run here.
    """
    layout = settings.layout
    times, landmarks, visibility = [], bytearray(), bytearray()  # these grow without a second copy
    counts = dict.fromkeys((part.name for part in layout.parts), 0)
    frames = read_frames(
        source.path, start=source.start, end=source.end, fps=settings.fps, image_fps=settings.image_fps
    )
    with (detector or detector_of(settings))(settings) as landmarker:
        for time, picture in frames:
            found = landmarker.detect(picture, time)
            times.append(time)
            landmarks += arrange(found, layout).data
            seen = np.full(DETECTED["pose"], np.nan) if found.visibility is None else found.visibility
            visibility += seen.astype(np.float32).data
            for name in counts:
                counts[name] += getattr(found, name) is not None
            on_frame()
    rate, varies = frame_rate(np.array(times))
    if source.path.is_dir() and settings.image_fps is None:
        rate = None
    return Extracted(
        landmarks=np.frombuffer(landmarks, np.float32).reshape(-1, layout.landmarks, 3),
        visibility=np.frombuffer(visibility, np.float32).reshape(-1, DETECTED["pose"]),
        fps=settings.fps or rate,
        width=picture.shape[1],
        height=picture.shape[0],
        varies=varies,
        counts=counts,
    )


def arrange(found: Detection, layout: Layout) -> np.ndarray:
    """(J,3) float32 of a frame in `layout`, NaN where a part was not found; a face of 468 points lacks the last 10."""
    points = np.full((layout.landmarks, 3), np.nan, dtype=np.float32)
    for part, where in zip(layout.parts, layout.slices.values(), strict=True):
        values = getattr(found, part.name)
        if values is not None:
            indices = _indices(part)
            there = indices < len(values)
            points[where][there] = values[indices[there]]
    return points


@lru_cache
def _indices(part: Part) -> np.ndarray:
    return np.array(part.indices)
