"""Small videos, and a detector that finds a red square in them: all of an extraction but MediaPipe.

The square's colour can tell the detector to misbehave. It notes each frame it looks at in the file that the variable
`HANDCRAFT_FAKE` names, if that is set.
"""

import os
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from handcraft.errors import ConfigError
from handcraft.extract.landmarker import DETECTED, Detection

RED, GREEN, BLUE, BLACK = (230, 20, 20), (20, 230, 20), (20, 20, 230), (0, 0, 0)
STEP = 4  # pixels that the square moves to the right with each frame


class Dots:
    """Every point of pose and right hand at the middle of the red square; no square, nobody. Green ends the process,
    blue raises."""

    def __init__(self, settings):
        self.frames = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def detect(self, picture, time_):
        self.frames += 1
        if (note := os.environ.get("HANDCRAFT_FAKE")) is not None:
            with open(note, "a") as file:
                file.write(f"{os.getpid()} {self.frames} {time_:.3f}\n")
            time.sleep(0.02)
        values = picture.reshape(-1, 3).astype(int)
        red, green, blue = (values[:, at] - values[:, (at + 1) % 3] for at in range(3))
        if (green > 100).any():
            print("green is the end", flush=True)
            os._exit(7)
        if (blue > 100).any():
            raise RuntimeError("blue is unknown")
        where = np.flatnonzero(red > 100)
        if not len(where):
            return Detection()
        height, width = picture.shape[:2]
        x, y = (where % width + 0.5).mean() / width, (where // width + 0.5).mean() / height
        pose = np.tile(np.array([x, y, 0.5], np.float32), (DETECTED["pose"], 1))
        return Detection(pose=pose, visibility=np.full(33, 0.9, np.float32), right_hand=pose[:21])

    @staticmethod
    def describe(settings):
        return {"backend": "dots", "mediapipe": "0", "detection": settings.detection}


class Unable(Dots):
    """A detector that finds out late that it cannot run."""

    def __init__(self, settings):
        raise ConfigError("no models here")


def pictures(frames, size=(64, 48), colour=RED):
    """Pictures (H,W,3) with a square of 12 pixels that moves to the right by `STEP` a frame; size is width, height."""
    found = []
    for number in range(frames):
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        left = (number * STEP) % (size[0] - 12)
        picture[10:22, left : left + 12] = colour
        found.append(picture)
    return found


def video(path, frames=10, size=(64, 48), rate=25, colour=RED, times=None, gop=4, turn=0, mirror=False, pixel=None):
    """A small video. times: of each frame, in milliseconds; turn: degrees that it is shown turned by, against the
    clock, and then mirrored or not; pixel: width / height of its pixels; gop: frames from key frame to key frame."""
    import av

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"g": str(gop), "qscale": "2"})
        stream.width, stream.height = size
        stream.pix_fmt, stream.codec_context.flags = "yuv420p", stream.codec_context.flags | (1 << 1)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if pixel is not None:
            stream.codec_context.sample_aspect_ratio = pixel
        if turn or mirror:
            stream.set_display_rotation(turn, hflip=mirror)
        for number, picture in enumerate(pictures(frames, size, colour)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def column(picture):
    """Where the square's left edge is, in pixels."""
    red = picture[..., 0].astype(int) - picture[..., 1]
    return int(np.flatnonzero((red > 100).any(axis=0))[0])
