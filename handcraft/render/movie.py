"""Animated GIF (Pillow) and MP4 (H.264, PyAV) of pictures."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from handcraft.errors import ConfigError
from handcraft.files import atomic_path

DEFAULT_FPS = 25.0  # where the data does not say
_CENTISECOND = 10  # milliseconds: a GIF counts in these
_FASTEST = 2  # centiseconds a frame: browsers slow down whatever claims to be faster


class Moving(Protocol):
    """Pictures (RGB) of one size, in order, such as `picture.Drawing`."""

    @property
    def frames(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def colours(self) -> list[tuple[int, ...]]:
        """At most 256 colours (RGB) for a palette."""
        ...

    def __iter__(self) -> Iterator[Image.Image]: ...


def write_gif(drawing: Moving, out: Path | str, fps: float | None = None) -> None:
    """Write the frames as a GIF that repeats for ever. A rate that centiseconds cannot express is kept on average."""
    palette = Image.new("P", (1, 1))  # one for all frames, so that the file holds only what moves
    palette.putpalette([value for colour in drawing.colours for value in colour])
    frames = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in drawing)
    ends = np.arange(1, drawing.frames + 1) * (1000 / (fps or DEFAULT_FPS)) / _CENTISECOND
    lengths = np.maximum(np.diff(np.round(ends), prepend=0), _FASTEST) * _CENTISECOND
    with atomic_path(out) as temporary:
        first = next(frames)
        first.save(temporary, "GIF", save_all=True, append_images=frames, duration=lengths.astype(int).tolist(), loop=0)


def write_mp4(drawing: Moving, out: Path | str, fps: float | None = None) -> None:
    """Write the frames as an MP4 that browsers and players show (H.264, yuv420p).

    `ConfigError` where PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f"an MP4 needs PyAV, which cannot be imported ({error}): pip install 'handcraft[video]', or ask for a gif"
        ) from None
    width, height = (side + side % 2 for side in drawing.size)  # yuv420p has a colour for each 2 x 2 pixels
    with atomic_path(out) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        rate = Fraction(fps or DEFAULT_FPS).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in drawing:
            even = Image.new("RGB", (width, height), picture.getpixel((0, 0)))
            even.paste(picture)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(even), format="rgb24")))
        container.mux(stream.encode())
