"""What a detector is to the rest of the package, which ones there are, and the choices of an extraction.

A detector is a class with `describe(settings)`, which names versions and models, and whose instances detect on the
frames of one video, one after another: it tracks, so that a video's first frame must meet a new one.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from handcraft.errors import ConfigError
from handcraft.layouts import Layout
from handcraft.layouts import layout as find_layout

Backend = Literal["holistic", "tasks"]
Kept = Literal["holistic553", "holistic87", "holistic75"]
DETECTED = {"pose": 33, "left_hand": 21, "right_hand": 21, "face": 478}
"""Points of each part as the detectors give them."""
_BACKENDS = {"holistic": "handcraft.extract.holistic:Holistic", "tasks": "handcraft.extract.tasks_backend:Tasks"}


@dataclass(frozen=True)
class Settings:
    """The choices that decide an extraction's numbers."""

    backend: Backend = "holistic"
    """holistic: mediapipe 0.10.21 with its own models; tasks: mediapipe 0.10.35 or newer with a `model` of yours."""
    keep: Kept = "holistic553"
    """Layout of the result: all points (`holistic553`), those that the paper uses (`holistic87`), or no face."""
    model: str | None = None
    """File with the models, for `tasks`."""
    model_sha256: str | None = None
    """SHA-256 that the file must have."""
    fps: float | None = None
    """Sample the videos anew, at this rate; None: every frame."""
    image_fps: float | None = None
    """Frames a second of folders of images, where known."""
    detection: float = 0.5
    """Least confidence at which a person counts as found, 0 to 1."""
    tracking: float = 0.5
    """Least confidence at which a person is followed from frame to frame instead of looked for again, 0 to 1."""

    def __post_init__(self) -> None:
        if self.backend not in _BACKENDS:
            raise ConfigError(f"backend is {self.backend!r}; known: {', '.join(_BACKENDS)}")
        if (self.model is None) != (self.backend == "holistic"):
            raise ConfigError(
                "backend tasks needs a model, a .task file that you give"
                if self.model is None
                else f"model is {self.model}, but backend holistic brings its own; models go with backend tasks"
            )
        for name in ("detection", "tracking"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a confidence from 0 to 1")
        for name in ("fps", "image_fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1000:
                raise ConfigError(f"{name} is {value}; expected frames a second, above 0 and at most 1000")

    @property
    def layout(self) -> Layout:
        return find_layout(self.keep)


class Detection(NamedTuple):
    """What was found in one frame: (points,3) float32 a part, x and y as fractions of the picture; None: not found."""

    pose: np.ndarray | None = None
    visibility: np.ndarray | None = None
    """(33,) float32, 0 to 1, of the pose."""
    left_hand: np.ndarray | None = None
    right_hand: np.ndarray | None = None
    face: np.ndarray | None = None


class Landmarker(AbstractContextManager, Protocol):
    """A detector at work on one video."""

    def detect(self, picture: np.ndarray, time: float) -> Detection:
        """picture (H,W,3) uint8 RGB, upright; time in seconds, later than that of the frame before."""


class Detector(Protocol):
    """Makes landmarkers. It must be importable by name: processes that are spawned look it up again."""

    def __call__(self, settings: Settings) -> Landmarker: ...

    def describe(self, settings: Settings) -> Mapping[str, Any]:
        """Plain values that tell detectors apart whose landmarks must not mix: backend, versions, model hashes.

        `ConfigError`: it cannot run here, and what to install.
        """


def detector_of(settings: Settings) -> Detector:
    """The detector that the settings name; `ConfigError` if what it needs is not installed."""
    module, _, name = _BACKENDS[settings.backend].partition(":")
    found: Callable = getattr(import_module(module), name)
    return found
