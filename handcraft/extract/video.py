"""Frames of a video file or of a folder of numbered images: upright, with square pixels, with the time of each.

Times are seconds since the video's first frame, as the file says them: a video of variable frame rate keeps its own.
Needs PyAV for videos (extra `extract` or `video`); images are read by Pillow.
"""

import contextlib
import math
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.data.clip_files import entries
from handcraft.data.untrusted import require_file
from handcraft.errors import ConfigError, DataError

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3g2", "3gp", "asf", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogv"),
        *("ts", "vob", "webm", "wmv"),
    )
)
IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".webp"))
MOST_PIXELS = 1 << 26  # of a frame: 8K video has half as many; a forged header could ask for any number
# Containers that hold pictures themselves. The rest of FFmpeg's would open further files or addresses on their behalf.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,mxf,ogg,flv,asf,h264,hevc,m4v,ivf"
_INSTALL = "reading videos needs PyAV: pip install 'handcraft[video]'"
Picture = Callable[[], np.ndarray]
"""Makes the picture of a frame, so that frames nobody wants cost only their decoding."""
_BEYOND = 1.0  # seconds that an end may lie after the last frame: people round up
_SLACK = 1e-6  # seconds: times are whole ticks of a clock, boundaries are decimal


def read_frames(
    path: Path | str,
    *,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
    image_fps: float | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """Frames of a video, or of a folder of images in the order of their numbers: (time, picture).

    time: seconds since the first frame of the video, of the frame itself; picture (H,W,3) uint8 RGB, turned upright as
    the file's rotation says, pixels made square. start, end: only frames with start <= time < end, in seconds; decoding
    begins at the key frame before `start` and stops at `end`. fps: sample anew, see `resampled`; times are then those
    asked for. image_fps: frames a second of a folder of images; without it they have the times 0, 1, 2, ... and neither
    start, end nor fps can be given.

    `DataError`: no file, no video that can be read, damaged or cut short, no frame (between start and end), an end over
    a second after the last frame.
    """
    path = Path(path)
    _check_range(path, start, end)
    for name, value in (("fps", fps), ("image_fps", image_fps)):
        if value is not None and not 0 < value <= 1000:
            raise ConfigError(f"{name} is {value}; expected frames a second, above 0 and at most 1000")
    if path.is_dir():
        if image_fps is None and not (start is None and end is None and fps is None):
            raise DataError(
                f"{path}: images have no times, so there is nothing to cut or to sample anew; say how many of them "
                "make a second (image_fps)"
            )
        frames = _images(path, image_fps or 1.0, start, end)
    else:
        frames = _decoded(path, start, end)
    size, time, step = None, 0.0, 0.0
    for at, picture in frames if fps is None else resampled(frames, fps):
        time, step = at, at - time
        found = picture()
        if found.shape != (size or found.shape):
            raise DataError(
                f"{path}: a frame at {time:.2f} s has {found.shape[1]} x {found.shape[0]} pixels, those before it "
                f"{size[1]} x {size[0]}; the frames of a clip have one size"
            )
        size = found.shape
        yield time, found
    if size is None:
        until = "its end" if end is None else f"{end:g} s"
        if start is None and end is None:
            raise DataError(f"{path}: has no frame; fetch it again, or take it out")
        raise DataError(f"{path}: has no frame from {start or 0:g} s to {until} (start and end are seconds)")
    if end is not None and end > time + max(step, 0.0) + _BEYOND:
        raise DataError(f"{path}: its last frame is at {time:.2f} s, and the clip should end at {end:g} s (in seconds)")


def resampled(frames: Iterable[tuple[float, Any]], fps: float) -> Iterator[tuple[float, Any]]:
    """`fps` frames a second: at each time first + k / fps the nearest frame, until half a step after the last one.

    Frames are left out or repeated, never blended.
    """
    first = before = None
    interval, count = 1.0 / fps, 0
    for time, frame in frames:
        if before is None:
            first = time
        else:
            interval = time - before[0]
            while first + count / fps < (before[0] + time) / 2 - _SLACK:  # half-way, it is the later one
                yield first + count / fps, before[1]
                count += 1
        before = time, frame
    while before is not None and first + count / fps < before[0] + interval / 2 - _SLACK:
        yield first + count / fps, before[1]
        count += 1


def frame_rate(times: np.ndarray) -> tuple[float | None, bool]:
    """Average frames a second of frame times (T,) in seconds, None for a single frame, and whether the rate varies: a
    step is more than a quarter longer or shorter than the median one."""
    if len(times) < 2:
        return None, False
    steps = np.diff(times)
    middle = np.median(steps)
    varies = bool((np.abs(steps - middle) > 0.25 * middle).any())
    return float((len(times) - 1) / (times[-1] - times[0])), varies


def look(path: Path | str, image_fps: float | None = None) -> tuple[int, int, float | None]:
    """(width, height, frames a second) of a video, from its first frame and its header, or of a folder of images.

    Pixels of the upright picture; None where the header names no rate. `DataError`: as from `read_frames`.
    """
    path = Path(path)
    frames = read_frames(path, image_fps=image_fps)
    height, width, _ = next(frames)[1].shape
    frames.close()
    if path.is_dir():
        return width, height, image_fps
    with _opened(path) as (_, stream):
        return width, height, float(stream.average_rate) if stream.average_rate else None


def _decoded(path: Path, start: float | None, end: float | None) -> Iterator[tuple[float, Picture]]:
    with _opened(path) as (container, stream):
        pixel = float(stream.sample_aspect_ratio or 1)
        for time, frame in _wanted(path, container, stream, start, end):
            yield time, partial(_picture, frame, pixel)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and its first video stream; FFmpeg's errors, also later ones, as `DataError`."""
    try:
        import av
    except ImportError as error:
        raise ConfigError(f"{path}: {_INSTALL} ({error})") from None
    require_file(path)
    # By the name of a file and nothing else: a plain name could be an address, and some formats name other files.
    try:
        with av.open(f"file:{path}", options={"format_whitelist": _CONTAINERS}) as container:
            if not container.streams.video:
                raise DataError(f"{path}: holds no video, expected a video file")
            stream = container.streams.video[0]
            _check_pixels(path, stream.width, stream.height)
            yield container, stream
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (av.error.FFmpegError, EOFError) as error:
        raise DataError(
            f"{path}: no video that can be read ({getattr(error, 'strerror', None) or error}); it is damaged, cut "
            "short or of another kind than its name says: fetch it again, or take it out"
        ) from None


def _wanted(path: Path, container, stream, start: float | None, end: float | None) -> Iterator[tuple[float, Any]]:
    until = None
    for time, frame in _from(path, container, stream, start or 0.0):
        if end is not None and time >= end - _SLACK:
            return
        if frame.is_corrupt:
            raise DataError(f"{path}: its frame at {time:.2f} s is damaged; fetch or convert the video again")
        until = time + (float(frame.duration * stream.time_base) if frame.duration else _step(stream))
        if start is None or time >= start - _SLACK:
            yield time, frame
    # Times and not numbers of frames: a trimmed video holds frames that are not to be shown. Without an index FFmpeg
    # guesses how long it is.
    whole = float(stream.duration * stream.time_base) if stream.frames and stream.duration else 0.0
    if until is not None and until < whole - 2.5 * _step(stream):
        raise DataError(f"{path}: has {until:.2f} of its {whole:.2f} seconds: it is cut short; fetch it again")


def _step(stream) -> float:
    """Seconds from frame to frame, as far as the header says."""
    return 1.0 / float(stream.average_rate or stream.guessed_rate or 25)


def _from(path: Path, container, stream, start: float) -> Iterator[tuple[float, Any]]:
    """(time, frame) from the key frame before `start` on, in the order in which they are shown."""
    first, unit = stream.start_time or 0, stream.time_base
    seek = start > 0
    if seek:
        container.seek(first + int(start / unit), stream=stream, backward=True)
    number, step = 0, _step(stream)
    before = -step
    for frame in container.decode(stream):
        # A file without times, or with one that goes back: frames follow one another at the file's rate.
        time = before + step if frame.pts is None else float((frame.pts - first) * unit)
        if seek and number == 0 and (frame.pts is None or time > start + _SLACK):
            container.seek(first, stream=stream, backward=True)  # an index that led astray: read from the beginning
            yield from _from(path, container, stream, 0.0)
            return
        time = time if time > before else before + step
        yield time, frame
        before, number = time, number + 1


def _images(folder: Path, fps: float, start: float | None, end: float | None) -> Iterator[tuple[float, Picture]]:
    for number, path in enumerate(image_files(folder)):
        time = number / fps
        if end is not None and time >= end - _SLACK:
            return
        if start is None or time >= start - _SLACK:
            yield time, partial(_image, path)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, in the order of the numbers in their names. `DataError`: it cannot be read."""
    return entries(folder, IMAGE_SUFFIXES)


def is_image_clip(folder: Path, clips: Collection[str] = VIDEO_SUFFIXES) -> bool:
    """Whether a folder is a clip, given by images: they are there, and neither a file with an ending of `clips` nor a
    folder, beside which an image is a preview or the like. `DataError`: it cannot be read."""
    return bool(image_files(folder)) and not entries(folder, clips) and not entries(folder, "")


def _image(path: Path) -> np.ndarray:
    """(H,W,3) uint8 RGB of an image file, upright."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=("BMP", "JPEG", "PNG", "WEBP")) as image:
            _check_pixels(path, image.width, image.height)
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: no image that can be read ({error}); replace it") from None


def _picture(frame: Any, pixel: float) -> np.ndarray:
    """(H,W,3) uint8 RGB of a PyAV frame, turned upright; pixel: width / height of a pixel as it is stored."""
    wider = {} if pixel == 1 else {"width": round(frame.width * pixel), "height": frame.height}
    picture = frame.to_ndarray(format="rgb24", **wider)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        # Where the right and the lower neighbour of a pixel are shown: a right, b down; c right, d down.
        a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
        if abs(a) < abs(b):
            picture, a, d = picture.swapaxes(0, 1), c, b
        picture = picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(picture)


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise DataError(f"{path}: its picture has {width} x {height} pixels, expected at most {MOST_PIXELS:,}")


def _check_range(path: Path, start: float | None, end: float | None) -> None:
    good = all(value is None or (math.isfinite(value) and value >= 0) for value in (start, end))
    if not good or (end is not None and end <= (start or 0.0)):
        raise DataError(f"{path}: start {start} and end {end}; expected seconds, 0 <= start < end")
