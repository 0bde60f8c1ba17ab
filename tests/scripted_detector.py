"""A detector that sees in a video what a test wants it to see, and small videos to show it."""

import numpy as np
import pytest

from handcraft.extract import landmarker
from handcraft.extract.landmarker import DETECTED, Detection
from handcraft.layouts import layout

SCRIPTS = {}
"""Level of grey of a video -> the landmarks (T,J,3) that are detected in it, and their layout's name."""


class Scripted:
    """A `Detector` and its `Landmarker`: frame t of a grey video shows row t of the script of that grey."""

    def __init__(self, settings):
        self.frame = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def detect(self, picture, time):
        grey = min(SCRIPTS, key=lambda level: abs(level - float(picture.mean())))
        landmarks, name = SCRIPTS[grey]
        row, held, found = landmarks[self.frame], layout(name), {}
        self.frame += 1
        for part in held.parts:
            points = np.full((DETECTED[part.name], 3), np.nan, dtype=np.float32)
            points[list(part.indices)] = row[held.slices[part.name]]
            found[part.name] = None if np.isnan(points).all() else points
        return Detection(visibility=None, **found)

    @staticmethod
    def describe(settings):
        return {"backend": "scripted"}


def script(monkeypatch, videos):
    """From now on `holistic` is the scripted detector; videos: grey -> (landmarks, layout)."""
    SCRIPTS.clear()
    SCRIPTS.update(videos)
    monkeypatch.setitem(landmarker._BACKENDS, "holistic", "scripted_detector:Scripted")


def write_video(path, frames, grey=128, size=(64, 48), fps=25):
    """A video of one grey; size: width and height."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((size[1], size[0], 3), grey, dtype=np.uint8)
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
