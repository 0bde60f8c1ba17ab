"""Clips that come one to a file or folder: which there are, and the loop that makes a raw store of them.

Class, group and split of a clip stand in a table, or its class is the name of the folder it lies in:

    FOLDER/CLASS/CLIP                   a clip of CLASS, with id CLASS-CLIP
    FOLDER/clips.csv                    columns path, label [, id] [, group] [, split]; path within FOLDER
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from handcraft.data.arrays import ImportSummary
from handcraft.data.store import StoreWriter
from handcraft.data.untrusted import csv_rows, path_inside
from handcraft.errors import DataError
from handcraft.words import some

TABLE = "clips.csv"


@dataclass(frozen=True)
class ClipFile:
    """Where one clip lies and what is known about it."""

    path: Path
    id: str
    label: str
    group: str = ""
    split: str = ""
    provenance: str = ""
    """Where it was taken from, as JSON; see `Store.provenance_of`."""


@dataclass(frozen=True)
class FilesSummary(ImportSummary):
    """The summary of an import, with what the format adds to it."""

    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The summary as text, a fact a line."""
        return [*super().lines(), *self.notes]


def clips_by_table(table: Path | str) -> list[ClipFile]:
    """The clips that a CSV file lists, in its order: columns path and label, and id, group, split where it has them.

    `DataError`: as from `listed`; an id used twice.
    """
    found = [
        ClipFile(path, row.get("id") or plain, row["label"], row.get("group", ""), row.get("split", ""))
        for path, plain, row in listed(table)
    ]
    return distinct(found, Path(table))


def listed(table: Path | str, folder: Path | str | None = None) -> list[tuple[Path, str, dict[str, str]]]:
    """Path, plain id and cells of each clip that a CSV file lists, in its order.

    folder: what its paths are relative to and stay inside of, by default the table's own. Files are not looked at. The
    plain id is the path without its ending and with - for /; spaces around a cell's text do not count. `DataError`: see
    `csv_rows` and `path_inside`; an empty label; no clip.
    """
    table = Path(table)
    folder = table.parent if folder is None else Path(folder)
    found = []
    for cells in csv_rows(table, ["path", "label"]):
        row = {name: text.strip() for name, text in cells.items()}
        path = path_inside(folder, row["path"], table)
        if not row["label"]:
            raise DataError(f"{table}: clip {row['path']} has no label; give each clip its class")
        found.append((path, "-".join(path.relative_to(folder).with_suffix("").parts), row))
    if not found:
        raise DataError(f"{table}: lists no clip; give a line for each")
    return found


def clips_by_folder(folder: Path | str, suffix: str) -> list[ClipFile]:
    """The clips `FOLDER/CLASS/CLIP`, classes and clips in the order of the numbers in their names.

    suffix: ending of the clips' files, which are all that counts in a class's folder; "" where a clip is a folder.
    Hidden names are passed over. `DataError`: no such folder, no class in it, a class without clips, a link among
    them, an id that two clips would share.
    """
    folder = Path(folder)
    found = []
    for place in entries(folder, ""):
        clips = entries(place, suffix)
        if not clips:
            what = f"{suffix} file" if suffix else "folder of a clip"
            raise DataError(f"{place}: holds no {what}, expected the clips of class {place.name!r}; move it elsewhere")
        found += [ClipFile(clip, f"{place.name}-{clip.name.removesuffix(suffix)}", place.name) for clip in clips]
    if not found:
        raise DataError(f"{folder}: holds no folder, expected one for each class with its clips in it")
    return distinct(found, folder)


def entries(folder: Path, suffix: str | Collection[str]) -> list[Path]:
    """The files in `folder` with this ending, or its folders if that is "", in the order of the numbers in their names.

    suffix: of several endings any counts; they are given in small letters, and large ones in a name are the same.
    Hidden names are passed over. `DataError`: a folder that cannot be read, or a link in it.
    """
    try:
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: not a folder that can be read ({error.strerror})") from None
    paths = [path_inside(folder, name, folder) for name in sorted(names, key=by_number)]
    if not isinstance(suffix, str):
        return [path for path in paths if path.suffix.lower() in suffix and path.is_file()]
    return [path for path in paths if (path.suffix == suffix if suffix else path.is_dir())]


def by_number(name: str) -> list[Any]:
    """Sort key that orders the numbers in names by value: clip 9 comes before clip 10."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", name))]


def write_store(
    clips: Sequence[ClipFile],
    read: Callable[[ClipFile], np.ndarray],
    out: Path | str,
    *,
    layout: str,
    coordinates: str = "xyz",
    fps: float | None = None,
    licence: str | None = None,
    aspect: float | None = None,
    source: dict[str, Any],
    leave_out_missing: bool = False,
    notes: Iterable[str] = (),
    progress: bool | None = None,
) -> FilesSummary:
    """Read `clips` one at a time into the new raw store `out`: memory is that of a clip, however many there are.

    read: gives a clip's landmarks (T,J,C) as fractions of the picture, NaN = missing, or raises `DataError`. Clips
    without a single landmark are a `DataError` that names them; with `leave_out_missing` they are left out and named
    in the summary, unless a class would have no other clips. notes: more lines for the summary. progress: show a
    bar, by default on a terminal. The other arguments are fields of the manifest.
    """
    show = sys.stderr.isatty() if progress is None else progress
    missing, used, splits = [], Counter(), Counter()
    classes = sorted({clip.label for clip in clips})
    writer = StoreWriter(
        out,
        layout=layout,
        stage="raw",
        classes=classes,
        coordinates=coordinates,
        fps=fps,
        licence=licence,
        aspect=aspect,
        source=source,
    )
    with writer:
        for clip in tqdm(clips, desc="import", unit="clip", disable=not show):
            landmarks = read(clip)
            if np.isnan(landmarks).any(axis=2).all():
                missing.append(clip)
                continue
            words = {"label": clip.label, "group": clip.group, "split": clip.split, "provenance": clip.provenance}
            writer.add(landmarks, id=clip.id, **words)
            used[clip.label] += 1
            splits[clip.split] += 1
        if missing and not leave_out_missing:
            raise DataError(
                f"{missing[0].path}: no landmark in any frame; so it is with {len(missing)} of {len(clips)} clips: "
                f"{some([clip.id for clip in missing])}; take them out, or ask to have them left out "
                "(leave_out_missing)"
            )
        lost = [name for name in classes if not used[name]]
        if lost:
            raise DataError(f"{missing[0].path}: no clip of class {some(lost)} has a single landmark; take it out")
    return FilesSummary(
        path=str(out),
        layout=layout,
        imported=used.total(),
        classes=tuple(classes),
        by_split=dict(sorted(splits.items())),
        unused=0,
        missing=tuple(clip.id for clip in missing),
        dropped_classes=(),
        notes=tuple(notes),
    )


def distinct(clips: list[ClipFile], where: Path) -> list[ClipFile]:
    """The clips, if no two share an id; `DataError` names two that do, and `where` they are."""
    first: dict[str, ClipFile] = {}
    for clip in clips:
        if first.setdefault(clip.id, clip) is not clip:
            raise DataError(
                f"{where}: {first[clip.id].path} and {clip.path} would both have the id {clip.id!r}; ids must differ: "
                "rename one, or give ids in a table"
            )
    return clips
