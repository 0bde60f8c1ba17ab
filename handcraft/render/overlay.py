"""Raw landmarks drawn on the video that they were detected in."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from handcraft.data.store import Store
from handcraft.errors import ConfigError, DataError
from handcraft.extract.video import frame_rate, read_frames
from handcraft.files import atomic_path, sha256_file
from handcraft.render.choose import Shown, from_file, from_store
from handcraft.render.ink import draw_legend, fitted, font, legend_width, polyline
from handcraft.render.movie import write_gif, write_mp4
from handcraft.render.palette import DARK
from handcraft.render.picture import STRIP_FRAMES
from handcraft.render.skeleton import WIDTH, skeleton
from handcraft.render.view import body
from handcraft.words import some

log = logging.getLogger(__name__)
KINDS = ("mp4", "gif", "png")
WIDEST = {"mp4": 1280, "gif": 480, "png": 360}
"""Pixels of a frame where nobody says: those of the video, at most these."""
_SUPERSAMPLING = 2
_THIN = 0.6  # of the lines of other pictures: these must not hide what they lie on
_OUTLINE = 0.35  # share of a line's width on either side of it that is dark, so that it shows on any ground
_FAR = 1e5  # pixels: what a detector puts beyond is put here, and no number of a file overflows a picture's
_MARGIN = 8  # pixels
_ACROSS = 4  # frames of a png beside each other
_COLOURS = 256


class Overlay:
    """A clip on its video: pictures (RGB), frame after frame, with a caption and the legend of the sides.

    clip: raw landmarks, C 2 or 3. video: a file, or a folder of images; from `start` to before `end` in seconds, if the
    clip is a piece of it. width: of a frame in pixels; default the video's, at most `widest`.

    Landmarks and frames belong together by number where there are as many of both. Otherwise the clip is taken to be
    the video sampled at the clip's `fps`, as extraction does it. Reads the video once to count its frames, and again
    whenever it is drawn. `DataError`: a clip that is preprocessed or without any landmark, a video that cannot be read,
    or that has another number of frames.
    """

    def __init__(
        self,
        clip: Shown,
        video: Path | str,
        *,
        width: int | None = None,
        widest: int = WIDEST["mp4"],
        start: float | None = None,
        end: float | None = None,
    ) -> None:
        if not clip.raw:
            raise DataError(
                f"clip {clip.title} ({clip.note}): is preprocessed and has left its picture, give a raw one"
            )
        clip.view()  # one that cannot be drawn is refused here
        self._clip, self._video, self._cut = clip, Path(video), {"start": start, "end": end}
        found = [(time, picture.shape) for time, picture in self._frames(None)]
        times, (height, across, _) = np.array([time for time, _ in found]), found[0][1]
        self._sampled = self._rate_of_sampling(times)
        self.fps = clip.fps or (None if self._video.is_dir() else frame_rate(times)[0])
        self._width = width or min(across, widest)
        self._height = max(1, round(height * self._width / across))
        self._font = font(min(18, max(11, self._width // 36)))
        self._line = round(self._font.size * 1.5)
        # x is a fraction of the width that a picture of the clip's aspect has: a store has one, its videos may differ
        scale = np.array([self._height * clip.aspect if clip.aspect else self._width, self._height])
        points = clip.landmarks[..., :2].astype(np.float64) * scale * _SUPERSAMPLING
        points[np.isnan(points).any(axis=2)] = np.nan
        self._unit = body(points, clip.layout)[1]
        self._points = np.clip(points, -_FAR, _FAR)

    def _rate_of_sampling(self, times: np.ndarray) -> float | None:
        """The rate at which the clip samples the video; None where it has the video's own frames."""
        clip, wanted = self._clip, len(self._clip.landmarks)
        if wanted == len(times):
            return None
        if clip.fps and self._video.is_file() and sum(1 for _ in self._frames(clip.fps)) == wanted:
            return clip.fps
        ours = f"{len(times)} frames"
        if self._video.is_file() and len(times) > 1:
            ours += f" in {times[-1] - times[0] + 1 / frame_rate(times)[0]:.2f} s"
        theirs = f"{wanted} frames" + (f" at {clip.fps:g} a second, {wanted / clip.fps:.2f} s" if clip.fps else "")
        raise DataError(
            f"{self._video}: has {ours}, clip {clip.title} ({clip.note}) has {theirs}; give the "
            "video that the clip was taken from"
        )

    def _frames(self, fps: float | None) -> Iterator[tuple[float, np.ndarray]]:
        return read_frames(self._video, fps=fps, **self._cut)

    @property
    def frames(self) -> int:
        """Number of frames, those of the clip."""
        return len(self._points)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a picture in pixels."""
        return max(self._width, legend_width(self._font) + 2 * _MARGIN), self._height + 2 * self._line + _MARGIN

    @property
    def colours(self) -> list[tuple[int, ...]]:
        """The colours (RGB), at most 256, that come nearest to those of some frames."""
        palette = self.strip().quantize(_COLOURS, Image.Quantize.MEDIANCUT).getpalette()
        return list(zip(*(palette[channel::3] for channel in range(3)), strict=True))

    def __iter__(self) -> Iterator[Image.Image]:
        return (self._drawn(*found) for found in enumerate(self._frames(self._sampled)))

    def strip(self) -> Image.Image:
        """Eight frames (fewer if there are fewer), evenly spaced over the clip, in rows of four."""
        wanted = set(np.linspace(0, self.frames - 1, STRIP_FRAMES).round().astype(int).tolist())
        found = [self._drawn(*entry) for entry in enumerate(self._frames(self._sampled)) if entry[0] in wanted]
        across, (width, height) = min(_ACROSS, len(found)), self.size
        picture = Image.new("RGB", (across * width, math.ceil(len(found) / across) * height), DARK["ground"])
        for number, tile in enumerate(found):
            picture.paste(tile, (number % across * width, number // across * height))
        return picture

    def _drawn(self, number: int, frame: tuple[float, np.ndarray]) -> Image.Image:
        time, pixels = frame
        shown = Image.fromarray(pixels).resize((self._width, self._height), Image.Resampling.LANCZOS)
        # Pixels are repeated and averaged again: that gives lines soft edges and leaves the rest as it is.
        shown = shown.resize((self._width * _SUPERSAMPLING, self._height * _SUPERSAMPLING), Image.Resampling.NEAREST)
        pen = ImageDraw.Draw(shown)
        for line in skeleton(self._clip.layout).lines:
            path = self._points[number, list(line.points)]
            width = max(_SUPERSAMPLING, self._unit * WIDTH[line.part] * _THIN)
            polyline(pen, path, "#000000", width * (1 + 2 * _OUTLINE))
            polyline(pen, path, DARK[line.side], width)
        picture = Image.new("RGB", self.size, DARK["ground"])
        picture.paste(shown.reduce(_SUPERSAMPLING), (0, 0))
        pen = ImageDraw.Draw(picture)
        words = f"{self._clip.title}  {number + 1}/{self.frames}  {time:.2f} s"
        y = self._height + _MARGIN // 2
        pen.text((_MARGIN, y), fitted(words, picture.width - 2 * _MARGIN, self._font), DARK["text"], self._font)
        draw_legend(pen, (_MARGIN, y + self._line), DARK, self._font)
        return picture


def taken_from(source: Path | str, ids: Sequence[str], video: Path | str) -> tuple[Shown, dict[str, float]]:
    """The clip that is to be drawn on `video`, and where in it the clip begins and ends (`start`, `end` in seconds,
    where it is a piece).

    source: a clip's file (`.pose`, `.npy`), or a store; of a store the clip in `ids`, the one that was extracted from
    this very video, or the only one. A video that differs from the one that the store names is used with a warning.
    `ConfigError`: several ids, or ids with a file; `DataError`: no clip, or several, of this video.
    """
    if len(ids) > 1:
        raise ConfigError(f"{len(ids)} ids, expected at most one: a video shows one clip")
    if Path(source).is_file():
        if ids:
            raise ConfigError(f"{source}: is one clip; --ids chooses from a store's folder")
        return from_file(source), {}
    store = Store(source)
    origins = [store.provenance_of(place) for place in range(len(store))]
    digest = sha256_file(video) if Path(video).is_file() else None
    same = [place for place, origin in enumerate(origins) if digest and origin.get("sha256") == digest]
    if ids:
        places = store.find(ids).tolist()
        if digest and isinstance(origins[places[0]].get("sha256"), str) and places[0] not in same:
            log.warning("%s: is not the file that clip %s was extracted from; drawn all the same", video, ids[0])
    else:
        places = same or (list(range(len(store))) if len(store) == 1 else [])
    if len(places) != 1:
        found = some([store.ids[place].item() for place in places or range(len(store))])
        how = "several clips are" if places else "no clip is"
        raise DataError(f"{store.path}: {how} known to be from {video}; choose one with its id (--ids): {found}")
    origin, (clip,) = origins[places[0]], from_store(store, places)
    known = {name: value for name, value in origin.items() if isinstance(value, int | float)}
    return replace(clip, fps=clip.fps or known.get("fps")), {k: known[k] for k in ("start", "end") if k in known}


def write_overlay(
    clip: Shown,
    video: Path | str,
    out: Path | str,
    kind: str,
    *,
    width: int | None = None,
    start: float | None = None,
    end: float | None = None,
) -> None:
    """Draw a clip on its video into `out`: mp4, gif, or png (eight frames). See `Overlay` for the other arguments.

    width: of a frame in pixels; default those of the video, at most `WIDEST`. `ConfigError`: another kind, a width
    out of range, a folder at `out`.
    """
    out = Path(out)
    if kind not in KINDS:
        raise ConfigError(f"{kind} over a video: expected {', '.join(KINDS)}")
    if width is not None and not 48 <= width <= 1920:
        raise ConfigError(f"a width of {width} pixels for one clip, expected 48 to 1920")
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder, expected the name of the {kind} file to write")
    drawing = Overlay(clip, video, width=width, widest=WIDEST[kind], start=start, end=end)
    if kind == "png":
        with atomic_path(out) as temporary:
            drawing.strip().save(temporary, "PNG")
    else:
        (write_gif if kind == "gif" else write_mp4)(drawing, out, drawing.fps)
