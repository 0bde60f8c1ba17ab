"""The commands that show clips: pictures, videos, web pages. See `cli` for how commands are written."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from handcraft.cli_data import Command, Store


def render(
    source: Positional[Annotated[Path, arg(metavar="STORE|CLIP")]],
    to: Literal["gif", "mp4", "html", "png"] | None = None,
    out: Path | None = None,
    ids: tuple[str, ...] = (),
    sheet: bool = False,
    beside: Path | None = None,
    width: int | None = None,
    dark: bool = False,
    fps: float | None = None,
    aspect: float | None = None,
) -> int:
    """Draw clips: a page that plays them (html), an animation (gif, mp4), or a row of frames for each (png).

    Args:
        source: a store's folder, or one clip in a file (.npy of shape frames, landmarks, coordinates; .pose).
        to: kind of file; that of --out where not given, else html.
        out: the file to write; named after the source where not given.
        ids: the store's clips to draw, together in one file; the first one where none is named.
        sheet: one clip of each class instead, in a grid.
        beside: the store of real clips that the clips of a synthetic STORE were made from, to draw both side by side.
        width: pixels of one clip (gif, mp4, png).
        dark: light lines on a dark ground (gif, mp4, png); a page follows its reader's system.
        fps: frames a second, where the data does not say or another speed is wanted.
        aspect: width / height of the pictures of raw landmarks, where the data does not say; 1 where nobody does.
    """
    from handcraft.render.choose import choose
    from handcraft.render.write import kind_of, write
    from handcraft.words import counted

    kind = kind_of(to, out)
    cells = choose(source, ids, sheet=sheet, beside=beside, fps=fps, aspect=aspect)
    name = source.resolve().name if source.is_dir() else source.stem
    out = out or Path(f"{name}.{kind}")
    write(cells, out, kind, title=name, sheet=sheet, width=width, dark=dark)
    print(f"{out}: {counted(len(cells), 'clip')}")
    if source.is_dir() and not ids and not sheet:
        print("the first clip of the store; choose others with --ids, or one of each class with --sheet")
    return 0


def data_browse(store: Positional[Store], out: Path | None = None, clips: int = 300, seed: int = 0) -> int:
    """Make one web page to look through a dataset by class, group, split and detection rate.

    Args:
        store: the store's folder.
        out: the file to write; named after the store where not given.
        clips: how many clips the page holds at most; of a larger store it holds a sample of each class.
        seed: of the sample.
    """
    from handcraft.data.browse import browse

    out = out or Path(f"{store.resolve().name}-browse.html")
    print(f"{out}: {browse(store, out, clips=clips, seed=seed)}")
    return 0


COMMANDS: dict[tuple[str, ...], Command] = {
    ("data", "browse"): (data_browse, "make a web page to look through a store", None),
    ("render",): (render, "draw clips: web page, GIF, MP4 or PNG", None),
}
