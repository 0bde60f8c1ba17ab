"""Which clips are drawn, and with what words: of a store, of a store beside the one it was made from, or of a file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.data.store import Store
from handcraft.data.untrusted import read_npy
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import LAYOUTS, Layout
from handcraft.layouts import layout as find_layout
from handcraft.render.page import as_payload
from handcraft.render.view import View, view


@dataclass(frozen=True, eq=False)
class Shown:
    """A clip that will be drawn: landmarks (T,J,C), what they are, and a title and a note (plain, untrusted text)."""

    landmarks: np.ndarray
    layout: Layout
    title: str
    note: str = ""
    fps: float | None = None
    aspect: float | None = None
    """Width / height of the picture that a raw clip's x and y are fractions of, where known."""
    raw: bool = True
    """False for a preprocessed clip, whose x and y have one unit."""

    def view(self) -> View:
        """The clip on the drawing plane; `DataError` names it where it cannot be drawn."""
        try:
            return view(self.landmarks, self.layout, self.aspect if self.raw else None)
        except DataError as error:
            raise DataError(f"clip {self.title} ({self.note}): {error}") from None

    def payload(self) -> dict[str, Any]:
        """The clip for a web page, see `clip_payload`."""
        return as_payload(self.view(), self.layout, self.fps, self.title, self.note)


Cell = tuple[Shown, ...]
"""Clips to be compared: drawn side by side, with one clock and one scale. Most often just one."""


def choose(
    source: Path | str,
    ids: Sequence[str] = (),
    *,
    sheet: bool = False,
    beside: Path | str | None = None,
    fps: float | None = None,
    aspect: float | None = None,
) -> list[Cell]:
    """What `handcraft render` draws of `source`, a store's folder or a clip's file.

    The clips named by `ids`; with `sheet` one of each class; the first one where neither is given. beside: the store
    of real clips that the store `source` was generated from: each clip comes with the one it was made from.
    fps, aspect: for what does not know them itself (`fps` also where it does). `ConfigError` for choices that exclude
    each other or are out of range; `DataError` for what cannot be read.
    """
    for name, value in (("fps", fps), ("aspect", aspect)):
        if value is not None and not 0.01 <= value <= 1000:
            raise ConfigError(f"{name} is {value}, expected a number from 0.01 to 1000")
    if sheet and ids:
        raise ConfigError("a sheet is of one clip a class; give either --sheet or --ids")
    if Path(source).is_file():
        if ids or sheet or beside is not None:
            raise ConfigError(f"{source}: is one clip; --ids, --sheet and --beside choose from a store's folder")
        return [(from_file(source, fps, aspect),)]
    store = Store(source)
    places = one_a_class(store) if sheet else store.find(ids) if ids else np.zeros(1, dtype=np.int64)
    if beside is None:
        cells = [(clip,) for clip in from_store(store, places)]
    else:
        cells = with_sources(store, places, Store(beside))
    return [tuple(replace(clip, fps=fps or clip.fps, aspect=clip.aspect or aspect) for clip in cell) for cell in cells]


def from_store(store: Store, places: Sequence[int] | np.ndarray, word: str = "") -> list[Shown]:
    """The clips of `store` at `places`: class (and `word`, such as "real") as title; id, group and split as note.

    Their frames are not compared with the store's checksums: `data check` does that, and that a store looks odd is one
    more reason to draw it.
    """
    return [
        Shown(
            store.landmarks(int(place)),
            find_layout(store.manifest.layout),
            title=store.classes[store.labels[place]] + f" ({word})" * bool(word),
            note=" · ".join(filter(None, (column[place].item() for column in (store.ids, store.groups, store.splits)))),
            fps=store.manifest.fps,
            aspect=store.manifest.aspect,
            raw=store.manifest.stage == "raw",
        )
        for place in places
    ]


def with_sources(synthetic: Store, places: Sequence[int] | np.ndarray, real: Store) -> list[Cell]:
    """(real, synthetic) for each place of the synthetic store: the clip it was made from, and itself.

    `DataError` if a clip names no source, or its source is not in `real` with the content it was made from.
    """
    origins = []
    for place in places:
        origin = synthetic.provenance_of(int(place))
        if not isinstance(origin.get("source"), str):
            raise DataError(
                f"{synthetic.path}: clip {synthetic.ids[place]} names no source clip; only clips that `handcraft "
                "generate` made can be shown beside the clip they were made from"
            )
        origins.append(origin)
    sources = real.find([origin["source"] for origin in origins])
    for place, source, origin in zip(places, sources, origins, strict=True):
        if f"{int(real.digests[source]):016x}" != origin.get("source_digest"):
            raise DataError(
                f"{real.path}: clip {real.ids[source]} is not the one that {synthetic.ids[place]} was made from (same "
                f"id, other content); give the store that {synthetic.path} was generated from"
            )
    return list(zip(from_store(real, sources, "real"), from_store(synthetic, places, "synthetic"), strict=True))


def one_a_class(store: Store) -> np.ndarray:
    """Places of one clip of each class that has any: the one whose number of frames is the class's (lower) median."""
    order = np.lexsort((np.arange(len(store)), store.frames, store.labels))
    _, first, count = np.unique(store.labels[order], return_index=True, return_counts=True)
    return order[first + (count - 1) // 2]


def from_file(path: Path | str, fps: float | None = None, aspect: float | None = None) -> Shown:
    """The clip in a file: `.npy` with (T,J,C) numbers, J saying which layout it is, or `.pose`.

    fps, aspect: for a `.npy`, which cannot say them; a `.pose` file does, though another speed may be wanted.
    `DataError` for anything else.
    """
    path = Path(path)
    if path.suffix == ".pose":
        from handcraft.data.pose_file import read_pose

        clip = read_pose(path)
        return Shown(clip.landmarks, find_layout(clip.layout), path.stem, "", fps or clip.fps, clip.aspect)
    if path.suffix != ".npy":
        raise DataError(f"{path}: neither a store nor a clip; give a store's folder, or a .npy or .pose file")
    landmarks = read_npy(path)
    sizes = {layout.landmarks: layout for layout in LAYOUTS.values()}
    if landmarks.ndim != 3 or landmarks.shape[1] not in sizes or landmarks.dtype.kind != "f":
        known = ", ".join(f"{size} ({layout.name})" for size, layout in sizes.items())
        raise DataError(
            f"{path}: holds {landmarks.dtype} of shape {landmarks.shape}, expected floating point (frames, landmarks, "
            f"2 or 3); numbers of landmarks known: {known}"
        )
    return Shown(landmarks, sizes[landmarks.shape[1]], path.stem, "", fps, aspect)
