"""A detector without a memory and without models: where it sees landmarks depends on how bright the picture is, so that
every frame of a test's video gives landmarks of its own, in this process and in any other."""

import numpy as np

from handcraft.extract.landmarker import DETECTED, Detection

DARKEST = 5.0  # a darker picture shows nobody


class Grey:
    """A `Detector` and its `Landmarker`. A person stands upright in the middle, its shoulders apart."""

    def __init__(self, settings):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def detect(self, picture, time):
        mean = float(picture.mean())
        if mean < DARKEST:
            return Detection()
        points = {
            name: np.random.default_rng(count).uniform(0.4, 0.6, (count, 3)).astype(np.float32) + np.float32(mean / 1e3)
            for name, count in DETECTED.items()
        }
        points["pose"][11, 0], points["pose"][12, 0] = 0.65, 0.35
        return Detection(visibility=np.full(DETECTED["pose"], 0.5, np.float32), **points)

    @staticmethod
    def describe(settings):
        return {"backend": "grey", "version": 1}


class Fatal(Grey):
    """Cannot run anywhere."""

    def __init__(self, settings):
        from handcraft.errors import ConfigError

        raise ConfigError("the models are gone")


class Deadly(Grey):
    """Takes its process with it when it sees a bright picture."""

    def detect(self, picture, time):
        if picture.mean() > 200:
            import os

            os._exit(7)
        return super().detect(picture, time)
