"""Clips as still pictures and as the frames of a video, drawn with Pillow.

A picture is a grid of cells, a cell one clip or two side by side (real and synthetic), with a caption under it and the
legend of the colours at the bottom. All clips of a picture are drawn at one scale.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from handcraft.render.choose import Cell, Shown
from handcraft.render.ink import draw_legend, fitted, font, legend_width, mixed, polyline
from handcraft.render.palette import DARK, LIGHT
from handcraft.render.skeleton import LEFT, RIGHT, SIDES, WIDTH, skeleton
from handcraft.render.view import joint_box

SUPERSAMPLING = 3  # Pillow's lines have hard edges: they are drawn that many times as large and scaled down
STRIP_FRAMES = 8
_GAP = 12
_EDGE_STEPS = 8
_WRISTS = {LEFT: 15, RIGHT: 16}


class Drawing:
    """A grid of clips, ready to be drawn at any of its frames.

    cells: clips that share a clock and lie side by side, the shorter stretched to the longest; different cells do not
    stretch, and a shorter one waits on its last frame. columns: cells in a row, default about as many as rows.
    width: pixels of one clip. trails: draw the wrists' paths over the whole clip, too.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        width: int = 320,
        columns: int | None = None,
        dark: bool = False,
        trails: bool = False,
    ) -> None:
        self._cells = list(cells)
        self._views = [tuple(clip.view() for clip in cell) for cell in cells]
        self._width, self._trails = width, trails
        self._palette = DARK if dark else LIGHT
        self._box = joint_box(view.box for views in self._views for view in views)
        left, top, right, bottom = self._box
        self._height = round(width * (bottom - top) / (right - left))
        self._font = font(min(16, max(11, width // 18)))
        self._line = round(self._font.size * 1.35)
        self._row_height = self._height + 3 * self._line + _GAP
        across = max(len(cell) for cell in cells)
        self._columns = columns or math.ceil((len(cells) / across) ** 0.5)
        self._cell_width = across * (width + _GAP) + _GAP
        self._cell_height = self._height + 2 * self._line + 2 * _GAP

    @property
    def frames(self) -> int:
        """Number of frames: those of the longest clip."""
        return max(len(view) for views in self._views for view in views)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        rows = -(-len(self._cells) // self._columns)
        columns = min(self._columns, len(self._cells))
        across = max(columns * self._cell_width, self._legend_width)
        return across, rows * self._cell_height + self._line + _GAP

    @property
    def colours(self) -> list[tuple[int, ...]]:
        """The colours (RGB) that the pictures are made of, and the steps between them at the edges of lines."""
        inks = [("text", "ground"), ("quiet", "ground")]
        inks += [(side, where) for side in SIDES for where in ("stage", "ground")]
        steps = [step / _EDGE_STEPS for step in range(_EDGE_STEPS + 1)]
        shades = (mixed(self._palette[ink], self._palette[ground], step) for ink, ground in inks for step in steps)
        return list(dict.fromkeys(shades))

    def at(self, frame: int) -> Image.Image:
        """The picture (RGB) at a frame, 0 to `frames` - 1."""
        picture = self._furniture.copy()
        for number, (cell, views) in enumerate(zip(self._cells, self._views, strict=True)):
            longest = max(map(len, views))
            now = min(frame, longest - 1)
            for place, (clip, view) in enumerate(zip(cell, views, strict=True)):
                own = round(now * (len(view) - 1) / max(1, longest - 1))
                picture.paste(self._figure(clip, view.points, own), self._corner(number, place))
        return picture

    def __iter__(self) -> Iterator[Image.Image]:
        return (self.at(frame) for frame in range(self.frames))

    @property
    def strip_size(self) -> tuple[int, int]:
        """Width and height of `strip` in pixels."""
        rows = sum(map(len, self._cells))
        across = min(STRIP_FRAMES, self.frames) * (self._width + _GAP // 2) + 2 * _GAP
        return max(across, self._legend_width), rows * self._row_height + self._line + 2 * _GAP

    def strip(self) -> Image.Image:
        """Each clip as a row of `STRIP_FRAMES` frames (fewer if it has fewer), evenly spaced over it."""
        picture = Image.new("RGB", self.strip_size, self._palette["ground"])
        pen = ImageDraw.Draw(picture)
        across = picture.width - 2 * _GAP
        clips, views = (itertools.chain.from_iterable(cells) for cells in (self._cells, self._views))
        for number, (clip, view) in enumerate(zip(clips, views, strict=True)):
            top = number * self._row_height + _GAP
            self._text(pen, (_GAP, top), clip.title, "text", across)
            used = self._font.getlength(fitted(clip.title, across, self._font)) + self._font.size
            self._text(pen, (_GAP + used, top), clip.note, "quiet", across - used)
            for column, frame in enumerate(np.unique(np.linspace(0, len(view) - 1, STRIP_FRAMES).round()).astype(int)):
                x, y = _GAP + column * (self._width + _GAP // 2), top + self._line
                picture.paste(self._figure(clip, view.points, frame), (x, y))
                self._text(pen, (x, y + self._height + 2), str(frame + 1), "quiet", self._width)
        self._legend(pen, picture.height)
        return picture

    def _corner(self, number: int, place: int) -> tuple[int, int]:
        row, column = divmod(number, self._columns)
        return column * self._cell_width + _GAP + place * (self._width + _GAP), row * self._cell_height + _GAP

    @functools.cached_property
    def _furniture(self) -> Image.Image:
        """All that does not move: captions and legend."""
        picture = Image.new("RGB", self.size, self._palette["ground"])
        pen = ImageDraw.Draw(picture)
        for number, cell in enumerate(self._cells):
            for place, clip in enumerate(cell):
                x, y = self._corner(number, place)
                y += self._height + _GAP // 3
                self._text(pen, (x, y), clip.title, "text", self._width)
                self._text(pen, (x, y + self._line), clip.note, "quiet", self._width)
        self._legend(pen, picture.height)
        return picture

    @property
    def _legend_width(self) -> int:
        return 2 * _GAP + legend_width(self._font)

    def _legend(self, pen: ImageDraw.ImageDraw, bottom: int) -> None:
        draw_legend(pen, (_GAP, bottom - self._line - _GAP // 2), self._palette, self._font)

    def _text(self, pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: str, width: float) -> None:
        pen.text(at, fitted(text, width, self._font), font=self._font, fill=self._palette[colour])

    def _figure(self, clip: Shown, points: np.ndarray, frame: int) -> Image.Image:
        """One clip's tile at one frame; points (T,J,2)."""
        left, top, right, _ = self._box
        scale = self._width * SUPERSAMPLING / (right - left)
        tile = Image.new("RGB", (self._width * SUPERSAMPLING, self._height * SUPERSAMPLING), self._palette["stage"])
        pen = ImageDraw.Draw(tile)
        if self._trails:
            for side, wrist in _WRISTS.items():
                path = points[:, clip.layout.position("pose", wrist)]
                polyline(
                    pen,
                    (path - (left, top)) * scale,
                    mixed(self._palette[side], self._palette["stage"], 0.5),
                    scale * 0.02,
                )
        pixels = (points[frame] - (left, top)) * scale
        for line in skeleton(clip.layout).lines:
            width = max(SUPERSAMPLING, scale * WIDTH[line.part])
            polyline(pen, pixels[list(line.points)], self._palette[line.side], width)
        return tile.resize((self._width, self._height), Image.Resampling.LANCZOS)
