"""What every picture is drawn with: lines, colours, letters, and the legend of the sides."""

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import ImageDraw, ImageFont

from handcraft.render.skeleton import SIDES

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def polyline(pen: ImageDraw.ImageDraw, path: np.ndarray, colour: str | tuple[int, ...], width: float) -> None:
    """Join the consecutive points of `path` (P,2) that are there (not NaN), with round ends and corners."""
    there = ~np.isnan(path[:, 0])
    for at in np.flatnonzero(there[:-1] & there[1:]).tolist():
        pen.line((*path[at], *path[at + 1]), colour, round(width))
    joined = there & (np.append(there[1:], False) | np.insert(there[:-1], 0, False))
    radius = (round(width) - 1) / 2  # Pillow counts the pixels of both ends of a box
    for x, y in path[joined].tolist():
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def mixed(colour: str, ground: str, share: float) -> tuple[int, ...]:
    """RGB of `share` of one #rrggbb colour over another."""
    one, other = (bytes.fromhex(text[1:]) for text in (colour, ground))
    return tuple(round(a * share + b * (1 - share)) for a, b in zip(one, other, strict=True))


def fitted(text: str, width: float, letters: Font) -> str:
    """`text`, cut where it would be wider than `width` pixels."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def legend_width(letters: Font) -> int:
    """Pixels that `draw_legend` needs from left to right."""
    return sum(round(letters.getlength(words) + 2.8 * letters.size) for words in SIDES.values())


def draw_legend(pen: ImageDraw.ImageDraw, at: tuple[int, int], palette: Mapping[str, str], letters: Font) -> None:
    """Say what the colours of the sides mean, in one line whose upper left corner is `at`."""
    (x, y), size = at, letters.size
    for side, words in SIDES.items():
        middle = y + size * 0.65
        pen.line((x, middle, x + size, middle), palette[side], max(2, size // 4))
        pen.text((x + 1.4 * size, y), words, font=letters, fill=palette["quiet"])
        x += round(letters.getlength(words) + 2.8 * size)


@functools.cache
def font(size: int) -> Font:
    """A sans-serif font of `size` pixels: DejaVu Sans, which knows most alphabets, where matplotlib or the system has
    it, otherwise Pillow's own, which knows English alone (other letters are boxes)."""
    found = importlib.util.find_spec("matplotlib")
    folders = [Path(folder) / "mpl-data/fonts/ttf" for folder in found.submodule_search_locations] if found else []
    for name in (*(str(folder / "DejaVuSans.ttf") for folder in folders), "DejaVuSans.ttf", "Arial.ttf"):
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
