"""MediaPipe's Holistic Landmarker of the Tasks interface, with a file of models that the user gives.

Releases of mediapipe that have it report usage to their maker over the network, as the help of the command says.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.data.untrusted import require_file
from handcraft.errors import ConfigError
from handcraft.extract.holistic import points, visibility
from handcraft.extract.landmarker import Detection, Settings
from handcraft.files import sha256_file

OLDEST = (0, 10, 35)
INSTALL = (
    "backend tasks needs mediapipe 0.10.35 or newer: pip install 'mediapipe>=0.10.35' av, in an environment of its own "
    "(these releases report usage to their maker)"
)


class Tasks:
    """`mediapipe.tasks.vision.HolisticLandmarker` in its mode for videos: a `Detector` and its `Landmarker`."""

    def __init__(self, settings: Settings) -> None:
        _checked_hash(settings.model, settings.model_sha256)
        self._mediapipe = mediapipe = _mediapipe()
        vision = mediapipe.tasks.vision
        options = vision.HolisticLandmarkerOptions(
            base_options=mediapipe.tasks.BaseOptions(model_asset_path=str(settings.model)),
            running_mode=vision.RunningMode.VIDEO,
            min_pose_detection_confidence=settings.detection,
            min_face_detection_confidence=settings.detection,
            min_pose_landmarks_confidence=settings.tracking,
            min_face_landmarks_confidence=settings.tracking,
            min_hand_landmarks_confidence=settings.tracking,
        )
        try:
            self._landmarker = vision.HolisticLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{settings.model}: mediapipe cannot use it ({error}); expected a holistic_landmarker.task"
            ) from None
        self._stamp = -1

    def __enter__(self) -> "Tasks":
        return self

    def __exit__(self, *_: object) -> None:
        self._landmarker.close()

    def detect(self, picture: np.ndarray, time: float) -> Detection:
        """See `Landmarker`; the times are given on in whole milliseconds, each later than the one before."""
        self._stamp = max(self._stamp + 1, round(time * 1000))
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=picture)
        found = self._landmarker.detect_for_video(image, self._stamp)
        return Detection(
            pose=points(found.pose_landmarks),
            visibility=visibility(found.pose_landmarks),
            left_hand=points(found.left_hand_landmarks),
            right_hand=points(found.right_hand_landmarks),
            face=points(found.face_landmarks),
        )

    @staticmethod
    def describe(settings: Settings) -> Mapping[str, Any]:
        """Backend, version, and the hash of the file of models, compared with the one wanted. See `Detector`."""
        hash = _checked_hash(settings.model, settings.model_sha256)
        _mediapipe()
        return {
            "backend": "tasks",
            "mediapipe": metadata.version("mediapipe"),
            "model_sha256": hash,
            "detection": settings.detection,
            "tracking": settings.tracking,
        }


@cache
def _checked_hash(model: str, wanted: str | None) -> str:
    """SHA-256 of the file of models; `ConfigError` if it is not the one wanted."""
    require_file(Path(model))
    found = sha256_file(model)
    if wanted is not None and found != wanted.strip().lower():
        raise ConfigError(f"{model}: its SHA-256 is {found}, expected {wanted}; fetch the file again, or check the sum")
    return found


@cache
def _mediapipe():
    """The package, new enough; `ConfigError` says what to install otherwise."""
    try:
        import mediapipe
    except ImportError as error:
        raise ConfigError(f"{INSTALL} ({error})") from None
    version = metadata.version("mediapipe")
    if tuple(map(int, re.findall("[0-9]+", version)[:3])) < OLDEST:  # 1.3rc1, too, is a version
        raise ConfigError(f"{INSTALL}; here is {version}")
    return mediapipe
