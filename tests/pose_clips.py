"""Clips and `.pose` files for the tests of the format; without pose-format those tests are skipped."""

from pathlib import Path

import numpy as np
import pytest

from handcraft.layouts import layout

pose_format = pytest.importorskip("pose_format", reason="pose-format (extra [pose]) is not installed")

ROUNDING = 2.0**-22  # two roundings to float32, on the way out and on the way in
SHOULDERS = {"POSE_LANDMARKS": ["RIGHT_SHOULDER", "LEFT_SHOULDER"]}


def clip(name: str = "holistic75", frames: int = 3, axes: int = 3, seed: int = 0) -> np.ndarray:
    """Landmarks some of which lie outside of the picture; the left hand is missing in frame 1."""
    landmarks = np.random.default_rng(seed).uniform(-0.5, 1.5, (frames, layout(name).landmarks, axes)).astype("f4")
    landmarks[1:2, layout(name).slices["left_hand"]] = np.nan
    return landmarks


def custom(
    tmp_path: Path,
    components: dict[str, list[str]],
    *,
    kind: str = "XYZC",
    people: int = 1,
    size: tuple[int, int] = (100, 50),
    frames: int = 2,
    fps: float = 30.0,
    data: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
) -> Path:
    """A file written by the library alone."""
    heads = pose_format.pose_header
    points = sum(map(len, components.values()))
    shape = (frames, people, points)
    if data is None:
        data = np.arange(np.prod(shape) * (len(kind) - 1)).reshape(*shape, len(kind) - 1) + 1.0
    confidence = np.ones(shape) if confidence is None else confidence
    made = [heads.PoseHeaderComponent(name, names, [], [(0, 0, 0)], kind) for name, names in components.items()]
    header = heads.PoseHeader(0.2, heads.PoseHeaderDimensions(*size), made)
    path = tmp_path / "custom.pose"
    with path.open("wb") as file:
        pose_format.Pose(header, pose_format.numpy.NumPyPoseBody(fps, data, confidence)).write(file)
    return path
