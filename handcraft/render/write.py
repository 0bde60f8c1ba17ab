"""Clips into a file: animated GIF, MP4, a web page that plays them, or a still picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from handcraft.errors import ConfigError
from handcraft.files import atomic_path, write_text
from handcraft.render.choose import Cell
from handcraft.render.page import LEGEND, page
from handcraft.render.picture import STRIP_FRAMES, Drawing
from handcraft.render.view import joint_box

Kind = Literal["gif", "mp4", "html", "png"]
KINDS: tuple[Kind, ...] = ("gif", "mp4", "html", "png")
MOST = {"gif": 64, "mp4": 64, "html": 1000, "png": 1000}
"""Cells of one file, so that neither the file nor the memory of whoever opens it grows without bounds."""
MOST_PIXELS = {"gif": 16_000_000, "mp4": 16_000_000, "png": 100_000_000}
HINT = "Click a clip to play it. Space plays and pauses, the arrow keys step frame by frame."
_WIDTH = {1: 480, 2: 320, 7: 240, 17: 180}
"""From that many pictures beside each other on, each is that many pixels wide."""


def kind_of(to: Kind | None, out: Path | None, default: Kind = "html") -> Kind:
    """The kind that was asked for, otherwise the one that the ending of `out` names, otherwise `default`.

    `ConfigError` for another ending.
    """
    named = (out.suffix[1:].lower() if out else "") or default
    if to is None and named not in KINDS:
        raise ConfigError(f"{out}: a file of what kind? Give it one of the endings {', '.join(KINDS)}, or say --to")
    return to or named


def write(
    cells: Sequence[Cell],
    out: Path | str,
    kind: Kind,
    *,
    title: str = "handcraft",
    sheet: bool = False,
    width: int | None = None,
    dark: bool = False,
    strips: bool = False,
) -> None:
    """Draw the cells (a clip each, or clips to be compared side by side) into the one file `out`.

    gif, mp4: all cells at once in a grid, moving at the first clip's frame rate (25 where unknown). png: a row of
    frames for each clip; with `sheet` a grid, each clip at its middle frame with the paths of its wrists. html: a
    page, see `page`; it follows the reader's light or dark, and `width` and `dark` do not concern it.
    strips: say under each clip of a page when each part was detected (a png of it is `strips.write_strips`). width:
    pixels of one clip, by default the fewer the more there are. `ConfigError`: more cells than `MOST`, a width
    out of range, a picture of more than `MOST_PIXELS`, a folder at `out`; `DataError`: a clip that cannot be drawn.
    """
    out = Path(out)
    if not 1 <= len(cells) <= MOST[kind]:
        raise ConfigError(f"{len(cells)} clips in one {kind}, expected 1 to {MOST[kind]}; choose them by their ids")
    if width is not None and not 48 <= width <= 1920:
        raise ConfigError(f"a width of {width} pixels for one clip, expected 48 to 1920")
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder, expected the name of the {kind} file to write")
    if kind == "html":
        write_text(out, _page(cells, title, strips))
        return
    still = kind == "png"
    if width is None:
        at_once = STRIP_FRAMES if still and not sheet else len(cells)
        width = next(pixels for count, pixels in reversed(_WIDTH.items()) if at_once >= count)
    drawing = Drawing(cells, width=width, dark=dark, trails=still and sheet)
    across, down = drawing.strip_size if still and not sheet else drawing.size
    if across * down > MOST_PIXELS[kind]:
        raise ConfigError(
            f"a {kind} of {across} x {down} pixels, expected at most {MOST_PIXELS[kind]:,} pixels; choose fewer clips, "
            "or a smaller width of one clip"
        )
    if still:
        with atomic_path(out) as temporary:
            (drawing.at(drawing.frames // 2) if sheet else drawing.strip()).save(temporary, "PNG")
        return
    from handcraft.render.movie import write_gif, write_mp4

    (write_gif if kind == "gif" else write_mp4)(drawing, out, cells[0][0].fps)


def _page(cells: Sequence[Cell], title: str, strips: bool) -> str:
    """The cells as players at one scale: single clips in a grid, clips that belong together side by side."""
    body, clips = [], []
    for number, cell in enumerate(cells):
        figures = "".join(
            f'<figure class="player" data-clip="{len(clips) + place}" data-sync="{number}"{" data-strips" * strips}>'
            "</figure>"
            for place in range(len(cell))
        )
        body.append(f'<div class="players">{figures}</div>' if len(cell) > 1 else figures)
        clips += [clip.payload() for clip in cell]
    box = [round(side) for side in joint_box(clip["box"] for clip in clips)]
    clips = [clip | {"box": box} for clip in clips]
    inner = "".join(body)
    if len(cells) > 1 and all(len(cell) == 1 for cell in cells):
        inner = f'<div class="grid">{inner}</div>'
    return page(title, f'{LEGEND}<p class="quiet">{HINT}</p>{inner}', clips)
