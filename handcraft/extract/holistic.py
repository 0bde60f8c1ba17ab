"""MediaPipe Holistic as its package brings it, models included: nothing is downloaded."""

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.errors import ConfigError
from handcraft.extract.landmarker import Detection, Settings
from handcraft.files import sha256_file

INSTALL = (
    "backend holistic needs mediapipe 0.10.21, which works with Python 3.11 and 3.12 and numpy 1.26: make an "
    "environment for it with `make extract-env`, or with pip install -c constraints/extract.txt 'handcraft[extract]'"
)
# The models of the graph with refined faces and pose of complexity 1, the one that the package holds.
MODELS = (
    "face_detection/face_detection_short_range.tflite",
    "face_landmark/face_landmark_with_attention.tflite",
    "hand_landmark/hand_landmark_full.tflite",
    "holistic_landmark/hand_recrop.tflite",
    "pose_detection/pose_detection.tflite",
    "pose_landmark/pose_landmark_full.tflite",
)


class Holistic:
    """The legacy solution, `mediapipe.solutions.holistic`, with refined faces: a `Detector` and its `Landmarker`."""

    def __init__(self, settings: Settings) -> None:
        self._graph = _solution()(
            static_image_mode=False,
            model_complexity=1,
            smooth_landmarks=True,
            refine_face_landmarks=True,
            min_detection_confidence=settings.detection,
            min_tracking_confidence=settings.tracking,
        )

    def __enter__(self) -> "Holistic":
        return self

    def __exit__(self, *_: object) -> None:
        self._graph.close()

    def detect(self, picture: np.ndarray, time: float) -> Detection:
        """See `Landmarker`; this graph counts frames and does not look at the time."""
        found = self._graph.process(picture)
        pose = found.pose_landmarks
        return Detection(
            pose=points(pose and pose.landmark),
            visibility=visibility(pose and pose.landmark),
            left_hand=points(found.left_hand_landmarks and found.left_hand_landmarks.landmark),
            right_hand=points(found.right_hand_landmarks and found.right_hand_landmarks.landmark),
            face=points(found.face_landmarks and found.face_landmarks.landmark),
        )

    @staticmethod
    def describe(settings: Settings) -> Mapping[str, Any]:
        """Backend, version, and one hash over the six models. See `Detector`."""
        _solution()
        return {
            "backend": "holistic",
            "mediapipe": metadata.version("mediapipe"),
            "model_sha256": _models_hash(),
            "detection": settings.detection,
            "tracking": settings.tracking,
        }


def points(landmarks) -> np.ndarray | None:
    """(points,3) float32 of MediaPipe's landmarks; None where there are none."""
    return np.array([(mark.x, mark.y, mark.z) for mark in landmarks], dtype=np.float32) if landmarks else None


def visibility(landmarks) -> np.ndarray | None:
    """(points,) float32 of MediaPipe's landmarks; None where there are none."""
    return np.array([mark.visibility for mark in landmarks], dtype=np.float32) if landmarks else None


@cache
def _solution():
    """The class `Holistic`; `ConfigError` says what to install where there is none."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # notes on every graph, which would drown the progress
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from mediapipe.python.solutions.holistic import Holistic
    except ImportError as error:
        raise ConfigError(f"{INSTALL} ({error})") from None
    return Holistic


def _models_hash() -> str:
    """SHA-256 over the hashes of the models' files."""
    folder = Path(util.find_spec("mediapipe").origin).parent / "modules"
    return hashlib.sha256("".join(sha256_file(folder / name) for name in MODELS).encode()).hexdigest()
