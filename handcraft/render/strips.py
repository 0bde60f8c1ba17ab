"""Detection strips: when in a clip each part of the body was detected, as one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from handcraft.errors import ConfigError
from handcraft.files import atomic_path
from handcraft.render.choose import Shown
from handcraft.render.ink import fitted, font, mixed
from handcraft.render.palette import DARK, LIGHT
from handcraft.render.skeleton import LEFT, MIDDLE, RIGHT

MOST = 500
"""Clips of one picture."""
INK = {"left_hand": LEFT, "right_hand": RIGHT}
_SIZE = 14  # pixels of a letter
_BAR, _GAP, _MARGIN = 12, 4, 16  # pixels: height of a strip, between two of them, around everything


def detected(clip: Shown) -> dict[str, np.ndarray]:
    """Part of the clip's layout -> (T,) bool, in which frames any landmark of it was detected."""
    present = ~np.isnan(clip.landmarks[..., :2]).any(axis=2)
    return {name: present[:, where].any(axis=1) for name, where in clip.layout.slices.items()}


def shares(seen: np.ndarray, columns: int) -> np.ndarray:
    """(T,) bool -> (columns,) float64: the share of the time of each column in which something was seen.

    A frame lasts 1 / T of the whole; it may cover many columns or a part of one.
    """
    frames = len(seen)
    edges = np.linspace(0, frames, columns + 1)
    total = np.concatenate([[0.0], np.cumsum(seen, dtype=np.float64)])  # seen until each whole frame
    return np.diff(np.interp(edges, np.arange(frames + 1), total)) * columns / frames


def write_strips(clips: Sequence[Shown], out: Path | str, *, width: int | None = None, dark: bool = False) -> None:
    """Draw the strips of every clip, a block each, into the PNG `out`: one strip a part, over the clip's whole time,
    in the part's colour where it was detected, with the share of frames in which it was.

    width: pixels of the picture, default 800. `ConfigError`: more than `MOST` clips or none, or a width out of range.
    """
    width = 800 if width is None else width
    if not 1 <= len(clips) <= MOST:
        raise ConfigError(f"strips of {len(clips)} clips in one picture, expected 1 to {MOST}; choose some with --ids")
    if not 320 <= width <= 4000:
        raise ConfigError(f"a width of {width} pixels for strips, expected 320 to 4000")
    palette, letters = DARK if dark else LIGHT, font(_SIZE)
    line = round(1.5 * _SIZE)
    heights = [line + len(clip.layout.parts) * (_BAR + _GAP) + line for clip in clips]
    picture = Image.new("RGB", (width, sum(heights) + _MARGIN), palette["ground"])
    pen = ImageDraw.Draw(picture)
    names = max(letters.getlength("right hand"), letters.getlength("left hand"))
    left, right = round(_MARGIN + names + _SIZE), round(width - _MARGIN - letters.getlength("100 %") - _SIZE / 2)
    top = _MARGIN // 2
    for clip, height in zip(clips, heights, strict=True):
        title = fitted(clip.title, width / 2, letters)
        pen.text((_MARGIN, top), title, palette["text"], letters)
        x = _MARGIN + letters.getlength(title) + _SIZE
        pen.text((x, top), fitted(_note(clip), width - _MARGIN - x, letters), palette["quiet"], letters)
        y = top + line
        for part, seen in detected(clip).items():
            ink = palette[INK.get(part, MIDDLE)]
            for column, share in enumerate(shares(seen, right - left).tolist()):
                pen.line((left + column, y, left + column, y + _BAR - 1), mixed(ink, palette["stage"], share))
            middle = y + _BAR / 2
            pen.text((_MARGIN, middle), part.replace("_", " "), palette["quiet"], letters, anchor="lm")
            pen.text((width - _MARGIN, middle), f"{seen.mean():.0%}", palette["text"], letters, anchor="rm")
            y += _BAR + _GAP
        top += height
    with atomic_path(out) as temporary:
        picture.save(temporary, "PNG")


def _note(clip: Shown) -> str:
    frames = len(clip.landmarks)
    length = f"{frames} frames" + (f", {frames / clip.fps:.1f} s" if clip.fps else "")
    return " · ".join(filter(None, (clip.note, length)))
