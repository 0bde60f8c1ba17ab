"""Stores and folders of `.pose` files, both ways; see pose_file.py for what becomes of a file.

    FOLDER/CLASS/CLIP.pose     in: a folder for each class
    FOLDER/clips.csv           in and out: path, id, label, group and split of each clip
    FOLDER/CLIP.pose           out: a file for each clip, named by its id

The table holds what a file cannot say: with it, an import gives an export's ids, labels, groups and splits again.
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from handcraft.data.clip_files import TABLE, ClipFile, FilesSummary, clips_by_folder, clips_by_table, write_store
from handcraft.data.exports import new_path, progress_bar
from handcraft.data.pose_file import (
    COMPONENTS,
    FPS,
    Point,
    encode_pose,
    largest_layout,
    layout_points,
    picture_size,
    read_head,
    read_pose,
)
from handcraft.data.store import Manifest, Store
from handcraft.data.untrusted import file_name
from handcraft.errors import DataError

SUFFIX = ".pose"
# Centred clips have no picture. Drawn in one: how much of it the unit takes, and where the origin lies. That of
# `shoulder` is the picture which pose-format's own normalize_pose_size makes of a clip in shoulder widths.
_PICTURES = {"shoulder": (0.4, (0.5, 0.5)), "paper": (1.0, (0.5, 0.3))}


@dataclass(frozen=True)
class _Common:
    """What the files of a store to be have in common."""

    layout: str
    coordinates: str
    aspect: float
    fps: float | None
    notes: tuple[str, ...]


def import_pose(
    source: Path | str,
    out: Path | str,
    *,
    licence: str | None = None,
    leave_out_missing: bool = False,
    progress: bool | None = None,
) -> FilesSummary:
    """Make the raw store `out` of `.pose` files.

    source: a folder as above, or a table like clips.csv of another name. The layout is the one with the most of the
    face that all files have; what no layout has a place for is said in the summary. Where the files differ, fps is
    None, coordinates are x and y, and the aspect is that of the most clips, whose width all x and z are fractions of.
    `DataError`, and no store, as from `read_pose` for any of the files, and as from `write_store`, which also explains
    `leave_out_missing` and `progress`.
    """
    source = Path(source)
    clips = _listed(source)
    show = sys.stderr.isatty() if progress is None else progress
    common = _survey(tqdm(clips, desc="look through", unit="clip", disable=not show))

    def read(clip: ClipFile) -> np.ndarray:
        wanted = {"layout": common.layout, "coordinates": common.coordinates, "aspect": common.aspect}
        return read_pose(clip.path, **wanted).landmarks

    return write_store(
        clips,
        read,
        out,
        layout=common.layout,
        coordinates=common.coordinates,
        fps=common.fps,
        licence=licence,
        aspect=common.aspect,
        source={"command": "import-pose", "folder" if source.is_dir() else "file": source.name},
        leave_out_missing=leave_out_missing,
        notes=common.notes,
        progress=progress,
    )


def export_pose(
    store: Store | Path | str, out: Path | str, *, ids: Iterable[str] = (), progress: bool | None = None
) -> list[str]:
    """Write the clips of a store (those named by `ids`, default all) as `.pose` files into the new folder `out`.

    `import_pose(out, ...)` gives the same ids, labels, groups and splits, and the same raw landmarks within float32.
    The picture is `picture_size` of the manifest's aspect; without fps in the manifest, the files say `FPS`. Centred
    clips, which have no picture, are drawn into one: `shoulder` with the shoulders' midpoint in the middle and 0.4 of
    its width apart, `paper` with the nose of the first frame at (0.5, 0.3). Returns a summary, a line a fact.
    `DataError`: `out` exists; the store is damaged; an id that is unknown or cannot name a file; an aspect that no
    picture has.
    """
    store = store if isinstance(store, Store) else Store(store)
    out, manifest = Path(out), store.manifest
    wanted = list(ids)
    places = store.find(wanted) if wanted else np.arange(len(store))
    names = [file_name(str(store.ids[place]), store.path) + SUFFIX for place in places]
    unit, origin, aspect = _picture(manifest, store.path)
    picture_size(aspect)  # an error now, not in a folder half written
    with new_path(out) as folder, progress_bar(len(names), progress) as bar:
        store.verify()  # what leaves the store leaves its checksums behind
        folder.mkdir()
        with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["path", "id", "label", "group", "split"])
            for place, name in zip(places, names, strict=True):
                landmarks = store.landmarks(int(place)).astype(np.float64) * unit
                landmarks[..., :2] += origin
                content = encode_pose(landmarks, manifest.layout, fps=manifest.fps, aspect=aspect)
                try:
                    with (folder / name).open("xb") as clip:
                        clip.write(content)
                except FileExistsError:
                    raise DataError(
                        f"{out / name}: two clips need this file: an id is asked for twice, or this file system does "
                        "not tell two ids apart"
                    ) from None
                label = store.classes[store.labels[place]]
                table.writerow([name, store.ids[place], label, store.groups[place], store.splits[place]])
                bar.update()
    return list(_export_lines(out, len(names), manifest, aspect))


def _listed(source: Path) -> list[ClipFile]:
    """The clips of a folder or table."""
    if source.is_dir():
        table = source / TABLE
        return clips_by_table(table) if table.exists() else clips_by_folder(source, SUFFIX)
    if source.suffix.lower() != ".csv":
        raise DataError(
            f"{source}: no folder and no table, expected a folder with a folder of {SUFFIX} files for each class, or a "
            "CSV file with columns path, label [, id] [, group] [, split]"
        )
    return clips_by_table(source)


def _survey(clips: Iterable[ClipFile]) -> _Common:
    """Look at the beginning of every file. Memory does not grow with their number."""
    shapes, rates, axes = Counter(), Counter(), Counter()
    some: set[Point] = set()
    every: set[Point] | None = None
    for clip in clips:
        head = read_head(clip.path)
        shapes[head.width / head.height] += 1
        rates[head.fps] += 1
        axes[head.coordinates] += 1
        some.update(head.columns)
        every = set(head.columns) if every is None else every.intersection(head.columns)
    layout = largest_layout(every)
    aspect, of_this_shape = shapes.most_common(1)[0]
    notes = [*_unnamed(layout, every), *_without_place(layout, some)]
    if len(axes) > 1:
        notes.append(f"z left out: {axes['xy']} of {axes.total()} clips have none")
    if len(shapes) > 1:
        notes.append(
            f"pictures differ in shape: x and z of {shapes.total() - of_this_shape} clips are given as fractions of a "
            f"width of {aspect:.4g} times their height, the shape of the other {of_this_shape}"
        )
    if len(rates) > 1:
        notes.append(f"frames a second differ, and the store names none: {', '.join(map(str, list(rates)[:5]))}")
    return _Common(layout, min(axes, key=len), aspect, next(iter(rates)) if len(rates) == 1 else None, tuple(notes))


def _unnamed(layout: str, every: set[Point]) -> Iterator[str]:
    """A line for each part of the layout of which not every file names all landmarks."""
    names = list(layout_points(layout))
    for component in COMPONENTS.values():
        of_it = [name for name in names if name[0] == component]
        absent = sum(name not in every for name in of_it)
        if absent:
            yield f"missing where a file lacks them: {absent} of the {len(of_it)} points of {component}"


def _without_place(layout: str, some: set[Point]) -> Iterator[str]:
    """A line for each component with points that the layout has no place for."""
    left = Counter(component for component, _ in some.difference(layout_points(layout)))
    for component, count in sorted(left.items()):
        yield f"left out, since layout {layout} has no place for them: {count} points of {ascii(component)[1:-1][:40]}"


def _picture(manifest: Manifest, where: Path) -> tuple[float, tuple[float, float], float | None]:
    """(unit, origin, aspect): clips times unit, plus origin, are fractions of a picture of this aspect ratio."""
    if manifest.stage == "raw":
        return 1.0, (0.0, 0.0), manifest.aspect
    for centre, (unit, origin) in _PICTURES.items():
        if f"centre={centre}" in manifest.preprocessing.split():
            return unit, origin, manifest.aspect if centre == "paper" else None
    raise DataError(
        f"{where}: its preprocessing {manifest.preprocessing[:80]!r} names no centre, expected one of "
        f"{', '.join(_PICTURES)}; make the store again"
    )


def _export_lines(out: Path, count: int, manifest: Manifest, aspect: float | None) -> Iterator[str]:
    width, height = picture_size(aspect)
    yield f"{out}: {count} clips, a {SUFFIX} file each, and {TABLE}, in pictures of {width} x {height}"
    if manifest.fps is None:
        yield f"the store names no frame rate; the files say {FPS:g} frames a second"
    if manifest.stage == "raw" and aspect is None:
        yield "the store does not know the shape of its pictures; the files say square"
