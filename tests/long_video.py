"""A video of any length that costs nothing to make or to look at: for the tests of memory."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from drawn import person

from handcraft.extract import landmarker
from handcraft.extract.landmarker import DETECTED, Detection
from handcraft.layouts import layout

FPS = 30


class Still:
    """A `Detector` and its `Landmarker` that finds all points of one person in every frame."""

    def __init__(self, settings):
        held, clip = layout("holistic553"), person(1, "holistic553")[0]
        parts = {name: clip[held.slices[name]] for name in DETECTED}
        self.found = Detection(visibility=np.ones(33, np.float32), **parts)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def detect(self, picture, time):
        return self.found

    @staticmethod
    def describe(settings):
        return {"backend": "still"}


def play(monkeypatch, frames):
    """From now on any video has so many frames, `FPS` a second, and `holistic` is the detector above."""
    picture = np.zeros((4, 4, 3), np.uint8)
    monkeypatch.setattr(
        "handcraft.extract.worker.read_frames", lambda *_, **__: ((at / FPS, picture) for at in range(frames))
    )
    monkeypatch.setitem(landmarker._BACKENDS, "holistic", "long_video:Still")


@contextmanager
def measured() -> Iterator[list[int]]:
    """Bytes that were allocated at most while the block ran, the only entry of the list at its end."""
    most = []
    tracemalloc.start()
    try:
        yield most
        most.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
