"""The commands that show clips: pictures, videos, web pages. See `cli` for how commands are written."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from handcraft.cli.data import Command, Store
from handcraft.errors import ConfigError

MOST_STRIPS = 200


def render(
    source: Positional[Annotated[Path, arg(metavar="STORE|CLIP")]],
    to: Literal["gif", "mp4", "html", "png"] | None = None,
    out: Path | None = None,
    ids: tuple[str, ...] = (),
    sheet: bool = False,
    beside: Path | None = None,
    over: Path | None = None,
    strips: bool = False,
    width: int | None = None,
    dark: bool = False,
    fps: float | None = None,
    aspect: float | None = None,
) -> int:
    """Draw clips: a page that plays them (html), an animation (gif, mp4), or a row of frames for each (png); on their
    video (--over); or when each part of the body was detected (--strips).

    Args:
        source: a store's folder, or one clip in a file (.npy of shape frames, landmarks, coordinates; .pose).
        to: kind of file; that of --out where not given, else html.
        out: the file to write; named after the source where not given.
        ids: the store's clips to draw, together in one file; the first one where none is named.
        sheet: one clip of each class instead, in a grid.
        beside: the store of real clips that the clips of a synthetic STORE were made from, to draw both side by side.
        over: the video (or folder of images) that a raw clip was detected in, to draw the clip on (mp4, gif, png). Of a
            store it is the clip that was extracted from this video, unless --ids names one.
        strips: draw when in each clip pose, hands and face were detected (png), or say it below the clips (html); of a
            store all clips, the first 200 of many, unless --ids or --sheet choose some.
        width: pixels of one clip (gif, mp4, png), or of the strips.
        dark: light lines on a dark ground (gif, mp4, png); a page follows its reader's system.
        fps: frames a second, where the data does not say or another speed is wanted.
        aspect: width / height of the pictures of raw landmarks, where the data does not say; 1 where nobody does.
    """
    from handcraft.render.choose import choose
    from handcraft.render.write import kind_of, write
    from handcraft.words import counted

    name = source.resolve().name if source.is_dir() else source.stem
    if over is not None:
        if sheet or beside or strips:
            raise ConfigError("--over draws one clip on its video; --sheet, --beside and --strips do not go with it")
        return _render_over(source, over, kind_of(to, out, "mp4"), out, ids, width, fps, aspect)
    kind = kind_of(to, out, "png" if strips else "html")
    everything = strips and source.is_dir() and not (ids or sheet)
    if everything:
        from handcraft.data.store import Store as Opened

        ids = tuple(Opened(source).ids[:MOST_STRIPS].tolist())
    cells = choose(source, ids, sheet=sheet, beside=beside, fps=fps, aspect=aspect)
    out = out or Path(f"{name}-strips.{kind}" if strips else f"{name}.{kind}")
    if strips and kind == "png":
        from handcraft.render.strips import write_strips

        write_strips([clip for cell in cells for clip in cell], out, width=width, dark=dark)
    elif strips and kind != "html":
        raise ConfigError(f"--strips in a {kind}: they are drawn as png, or below the clips of a page (html)")
    else:
        write(cells, out, kind, title=name, sheet=sheet, width=width, dark=dark, strips=strips)
    print(f"{out}: {counted(len(cells), 'clip')}")
    if source.is_dir() and not ids and not sheet:
        print("the first clip of the store; choose others with --ids, or one of each class with --sheet")
    if everything and len(ids) == MOST_STRIPS:
        print(f"at most {MOST_STRIPS} clips of the store; choose others with --ids, or one of each class with --sheet")
    return 0


def _render_over(
    source: Path,
    video: Path,
    kind: str,
    out: Path | None,
    ids: tuple[str, ...],
    width: int | None,
    fps: float | None,
    aspect: float | None,
) -> int:
    """`render --over`: one clip on its video."""
    from handcraft.render.overlay import taken_from, write_overlay

    clip, piece = taken_from(source, ids, video)
    clip = replace(clip, fps=fps or clip.fps, aspect=clip.aspect or aspect)
    out = out or Path(f"{video.stem}-landmarks.{kind}")
    write_overlay(clip, video, out, kind, width=width, **piece)
    print(f"{out}: {clip.title}, {len(clip.landmarks)} frames")
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
