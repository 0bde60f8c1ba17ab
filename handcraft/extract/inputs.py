"""Which clips there are to extract: from videos, folders of them, and tables.

    VIDEO                            one clip without a label
    DIR/SIGN/NAME.mp4                clips of the class SIGN, with ids SIGN-NAME
    DIR/SIGN/NAME/0001.jpg ...       the same from folders of numbered images
    DIR/NAME.mp4, DIR/NAME/*.jpg     clips without a label
    labels.csv                       columns path, label [, signer] [, start] [, end] [, id] [, split]

`start` and `end` are seconds from the first frame of the video; an empty cell means its beginning or end. A path of a
table is relative to the folder that is given with it, else to the table's own, and may not lead out of it. What is not
taken as a clip, though it may have been meant as one, is in the notes: folders without clips, folders that lie deeper,
images beside videos or folders, columns of other names.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from handcraft.data.clip_files import entries, listed
from handcraft.data.untrusted import csv_rows
from handcraft.errors import DataError
from handcraft.extract.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, image_files, is_image_clip
from handcraft.extract.worker import ClipSource
from handcraft.words import counted, some

COLUMNS = ("path", "label", "signer", "start", "end", "id", "split")
UNLABELLED = "unlabelled"
"""The class of clips that nobody gave a label: a store needs one."""


@dataclass(frozen=True)
class Found:
    """The clips to extract, in the order in which the store will have them."""

    clips: tuple[ClipSource, ...]
    unreadable: tuple[str, ...] = ()
    """A line for each folder that could not be read."""
    notes: tuple[str, ...] = ()


def find_clips(inputs: Sequence[Path | str], labels: Path | str | None = None) -> Found:
    """The clips that `inputs` (videos, folders, tables) hold; see the top of this file.

    labels: a table that says which files are clips, and of what; then at most one folder is given, which its paths are
    relative to, and files that it does not list are left out. In a folder, the order is that of the numbers in names.
    `DataError`: no such file, a table that cannot be used, no clip, an id that two clips would have.
    """
    paths = [Path(path) for path in inputs]
    if labels is not None:
        if len(paths) > 1 or (paths and not paths[0].is_dir()):
            raise DataError(f"{labels}: is the list of clips; give the folder that its paths begin in, and no other")
        return _checked(_labelled(Path(labels), *paths))
    found = [
        _in_folder(path) if path.is_dir() else _labelled(path) if _is_table(path) else _one(path) for path in paths
    ]
    return _checked(
        Found(
            tuple(clip for part in found for clip in part.clips),
            tuple(line for part in found for line in part.unreadable),
            tuple(line for part in found for line in part.notes),
        )
    )


def read_table(table: Path | str, folder: Path | str | None = None) -> list[ClipSource]:
    """The clips of a table, in its order. folder: what its paths are relative to, by default the table's own.

    Without a column `id`, an id is the path without its ending, with - for /, and with -2, -3, ... where a video has
    several clips. `DataError`: as from `clip_files.listed`; start and end that are no seconds.
    """
    table = Path(table)
    folder = table.parent if folder is None else Path(folder)
    found, uses = [], Counter()
    for path, plain, row in listed(table, folder):
        start, end = (_seconds(row.get(name, ""), table, row["path"]) for name in ("start", "end"))
        if end is not None and end <= (start or 0.0):
            raise DataError(f"{table}: clip {row['path']} starts at {start or 0:g} s and ends at {end:g} s")
        uses[plain] += 1
        id = row.get("id") or (plain if uses[plain] == 1 else f"{plain}-{uses[plain]}")
        more = {"signer": row.get("signer", ""), "split": row.get("split", "")}
        name = path.relative_to(folder).as_posix()
        found.append(ClipSource(path, id, row["label"], start=start, end=end, name=name, **more))
    return found


def _seconds(text: str, table: Path, name: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise DataError(f"{table}: clip {name} has start or end {text[:40]!r}; expected seconds, such as 1.48")
    return value


def _labelled(table: Path, folder: Path | None = None) -> Found:
    clips = read_table(table, folder)
    others = [name for name in next(csv_rows(table, [])) if name not in COLUMNS]
    notes = (f"{table.name}: columns that are not used: {some(others)}",) if others else ()
    if folder is None:
        return Found(tuple(clips), notes=notes)
    listed = {clip.path for clip in clips}
    everything = _in_folder(folder)
    left = [clip.name for clip in everything.clips if clip.path not in listed]
    if left:
        notes += (f"left out: {counted(len(left), 'clip')} that {table.name} does not list: {some(left)}",)
    return Found(tuple(clips), everything.unreadable, notes)


def _in_folder(folder: Path) -> Found:
    """The clips of a folder: its own, without a label, and those of its folders, which are classes."""
    if is_image_clip(folder):
        return Found((ClipSource(folder, folder.name, UNLABELLED, name=folder.name),))
    clips = [_clip(path, folder) for path in entries(folder, VIDEO_SUFFIXES)]
    unreadable, empty, over = [], [], image_files(folder)
    for place in entries(folder, ""):
        try:
            inside, rest = _in_class(place, folder)
        except DataError as error:
            unreadable.append(str(error))
            continue
        clips += inside
        over += rest
        empty += [] if inside or rest else [place.name]
    notes = [f"no clip in {counted(len(empty), 'folder')}: {some(empty)}"] if empty else []
    if over:
        names = some([path.relative_to(folder).as_posix() for path in over])
        notes.append(f"passed over, being neither DIR/SIGN/CLIP nor DIR/CLIP: {names}")
    return Found(tuple(clips), tuple(unreadable), tuple(notes))


def _in_class(place: Path, folder: Path) -> tuple[list[ClipSource], list[Path]]:
    """The clips of a class, or the one whose images these are; and the images and folders that are no clips."""
    if is_image_clip(place):
        return [_clip(place, folder)], []
    clips, rest = entries(place, VIDEO_SUFFIXES), image_files(place)
    for inside in entries(place, ""):
        (clips if is_image_clip(inside) else rest).append(inside)
    return [_clip(path, folder, place.name) for path in clips], rest


def _clip(path: Path, folder: Path, label: str | None = None) -> ClipSource:
    stem = path.name if path.is_dir() else path.stem
    name = path.relative_to(folder).as_posix()
    return ClipSource(path, f"{label}-{stem}" if label else stem, label or UNLABELLED, name=name)


def _one(path: Path) -> Found:
    if not path.exists():
        raise DataError(f"{path}: no such video, folder or table")
    return Found((ClipSource(path, path.stem, UNLABELLED, name=path.name),))


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _checked(found: Found) -> Found:
    """What was found, if that is anything, and no two clips share an id."""
    if not found.clips:
        endings = ", ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
        raise DataError(
            "; ".join(found.unreadable) or f"nothing to extract; videos and images are files with {endings}"
        )
    first: dict[str, ClipSource] = {}
    for clip in found.clips:
        if first.setdefault(clip.id, clip) is not clip:
            raise DataError(
                f"{first[clip.id].path} and {clip.path} would both have the id {clip.id!r}; ids must differ: rename "
                "one, or list the clips in a table with a column id"
            )
    unlabelled = sum(clip.label == UNLABELLED for clip in found.clips)
    notes = (f"{counted(unlabelled, 'clip')} without a label: class {UNLABELLED!r}",) if unlabelled else ()
    return Found(found.clips, found.unreadable, (*found.notes, *notes))
