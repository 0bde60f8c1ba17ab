"""Clips in memory: one tensor of frames for all of them, and where each clip lies in it.

Training reads windows straight out of that tensor (`handcraft.data.window`), a batch at a time and without touching a
file. `load_clips` reads a whole store to here; `data.residence` opens one that may be larger than memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from handcraft.config import PreprocessConfig
from handcraft.data.host import HostFrames
from handcraft.data.preprocess import preprocess as preprocess_clip
from handcraft.data.preprocess import signature
from handcraft.data.recorded import Recorded
from handcraft.data.store import Store
from handcraft.errors import DataError
from handcraft.layouts import layout as find_layout

_NAMED = 5  # unusable clips that an error lists by name
_CHUNK = 1 << 14  # frames looked through at a time


@dataclass(frozen=True, eq=False)
class Motion:
    """The frames of N clips after preprocessing steps 1 to 4, and where among them each clip lies."""

    frames: Tensor | HostFrames
    """(rows,J,C) float32 or float16; NaN = missing, then in all coordinates of the landmark. On the device of the other
    tensors, or `HostFrames` that bring there what is asked for."""
    start: Tensor
    """(N,) int64, first row of each clip."""
    length: Tensor
    """(N,) int64, frames of each clip, at least 1."""

    def __len__(self) -> int:
        return len(self.start)

    def read(self, rows: Tensor) -> Tensor:
        """Frames at these rows (K,) int64 -> a new (K,J,C) float32, NaN = missing."""
        return self.frames.index_select(0, rows).float()


@dataclass(frozen=True, eq=False)
class Clips(Motion):
    """Clips with what is known of them. Subsets share `frames`."""

    label: Tensor
    """(N,) int64, index into `classes`."""
    ids: np.ndarray
    group: np.ndarray
    """Signer or recording session; "" where unknown."""
    split: np.ndarray
    digest: np.ndarray
    """(N,) uint64, hash of the clip's content."""
    classes: tuple[str, ...]
    layout: str
    preprocess: PreprocessConfig | None = None
    recorded: Recorded | None = None
    """What their store says about how they were recorded; None where they came preprocessed."""

    def subset(self, index: np.ndarray | Tensor | list[int]) -> "Clips":
        """The clips at `index` (positions, or a mask of N booleans), in that order; shares the frames."""
        index = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise DataError(f"the mask has shape {index.shape}; expected one value for each of {len(self)} clips")
            index = np.flatnonzero(index)
        index = index.astype(np.int64)  # an empty list comes as float
        where = torch.from_numpy(index).to(self.start.device)
        tensors = {name: getattr(self, name)[where] for name in ("start", "length", "label")}
        arrays = {name: getattr(self, name)[index] for name in ("ids", "group", "split", "digest")}
        return replace(self, **tensors, **arrays)

    def train(self) -> "Clips":
        """The clips of the split "train"; `DataError` if there are none."""
        return self._of_split("train")

    def test(self) -> "Clips":
        """The clips of the split "test"; `DataError` if there are none."""
        return self._of_split("test")

    def _of_split(self, name: str) -> "Clips":
        chosen = self.split == name
        if not chosen.any():
            found = ", ".join(repr(str(value)) for value in np.unique(self.split)) or "no clips"
            raise DataError(f"no clip is marked {name!r} (found: {found}); split the data first")
        return self.subset(chosen)

    def clip(self, i: int) -> Tensor:
        """Frames of clip `i`, (T,J,C) as they are stored; a view where `frames` is a tensor."""
        start = int(self.start[i])
        return self.frames[start : start + int(self.length[i])]

    def rows(self) -> Tensor:
        """Rows of `frames` that belong to these clips, clip after clip, (sum of lengths,) int64."""
        first = self.length.cumsum(0) - self.length
        within = torch.arange(int(self.length.sum()), device=first.device) - first.repeat_interleave(self.length)
        return self.start.repeat_interleave(self.length) + within

    def to(self, device: torch.device | str) -> "Clips":
        """The same clips with their tensors on `device`."""
        names = ("frames", "start", "length", "label")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @cached_property
    def by_class(self) -> tuple[Tensor, Tensor, Tensor]:
        """`order (N,)`, clip indices sorted by class; `first (classes,)` and `count (classes,)` into it."""
        order = self.label.argsort(stable=True)
        count = self.label.bincount(minlength=len(self.classes))
        return order, count.cumsum(0) - count, count


def load_clips(store: Store | Path | str, preprocess: PreprocessConfig, dtype: torch.dtype = torch.float32) -> Clips:
    """Read a whole store into memory, preprocessed with `preprocess`. dtype: that of a centred store's frames.

    Clips of a `raw` store pass steps 1 to 4 here. Those of a `centred` store have passed them once and are taken as
    they are: `DataError` if that was with other parameters. Clips that cannot be used (nothing detected, nothing to
    centre on) raise one `DataError` that names them. `data.residence.open_clips` serves stores of any size.
    """
    if isinstance(store, str | Path):
        store = Store(store)
    require_readable(store, preprocess)
    if store.manifest.stage == "raw":
        frames = torch.empty(int(store.frames.sum()), *points(preprocess))
        for first, clip in zip(store.first.tolist(), preprocessed(store, preprocess), strict=True):
            frames[first : first + len(clip)] = torch.from_numpy(clip)
    else:
        frames = torch.from_numpy(store.rows(np.float16 if dtype == torch.float16 else np.float32))
        halves = check_frames(store, 0, frames.numpy())
        if halves:
            frames[frames.isnan().any(2)] = torch.nan
    return describe(store, preprocess, frames)


def require_readable(store: Store, preprocess: PreprocessConfig) -> None:
    """`DataError` unless the clips of a store can be had with this preprocessing, or have had it."""
    manifest = store.manifest
    raw = manifest.stage == "raw"
    if not raw and manifest.preprocessing != signature(preprocess):
        raise DataError(
            f"store {store.path} was preprocessed with another signature: {manifest.preprocessing!r}; expected "
            f"{signature(preprocess)!r}. Use the recipe it was made with, or make it again from the raw clips"
        )
    if raw and len(manifest.coordinates) < len(preprocess.coordinates):
        raise DataError(f"store {store.path} has x and y only; set preprocess.coordinates to 'xy'")
    if not len(store):
        raise DataError(f"store {store.path} holds no clips")
    if not raw and (manifest.layout, manifest.coordinates) != (preprocess.layout, preprocess.coordinates):
        raise DataError(
            f"store {store.path} holds {manifest.layout} {manifest.coordinates}, but its signature says "
            f"{preprocess.layout} {preprocess.coordinates}: its manifest is wrong; make the store again"
        )


def describe(store: Store, preprocess: PreprocessConfig, frames: Tensor | HostFrames) -> Clips:
    """The clips of a store, their preprocessed frames lying one clip after another in `frames`."""
    length = torch.from_numpy(store.frames.astype(np.int64))
    return Clips(
        frames=frames,
        start=length.cumsum(0) - length,
        length=length,
        label=torch.from_numpy(store.labels.astype(np.int64)),
        ids=store.ids,
        group=store.groups,
        split=store.splits,
        digest=store.digests.astype(np.uint64),
        classes=tuple(store.classes),
        layout=preprocess.layout,
        preprocess=preprocess,
        recorded=Recorded.of(store.manifest),
    )


def points(config: PreprocessConfig) -> tuple[int, int]:
    """Landmarks J and coordinates C of preprocessed frames."""
    return find_layout(config.layout).landmarks, len(config.coordinates)


def preprocessed(store: Store, config: PreprocessConfig) -> Iterator[np.ndarray]:
    """Clips of a raw store after steps 1 to 4, (T,J,C) float32 each; after the last, one `DataError` for all that
    cannot be used."""
    raw_layout, unusable = find_layout(store.manifest.layout), []
    for i, landmarks in enumerate(store):
        try:
            yield preprocess_clip(landmarks, raw_layout, config, store.manifest.aspect)
        except DataError as error:
            unusable.append(f"{store.ids[i]}: {error}")
            yield np.empty((len(landmarks), *points(config)), np.float32)
    if unusable:
        more = f"; and {len(unusable) - _NAMED} more" if len(unusable) > _NAMED else ""
        raise DataError(
            f"store {store.path}: {len(unusable)} of {len(store)} clips cannot be used: "
            + "; ".join(unusable[:_NAMED])
            + more
        )


def check_frames(store: Store, first: int, frames: np.ndarray) -> bool:
    """Look through frames of a centred store, the rows from `first` on: `DataError` names a clip with infinite numbers.
    Returns whether some landmark is missing in one coordinate and not in another."""
    halves = False
    for at in range(0, len(frames), _CHUNK):
        chunk = frames[at : at + _CHUNK]
        infinite = np.isinf(chunk).any((1, 2))
        if infinite.any():
            clip = int(np.searchsorted(store.first, first + at + infinite.argmax(), side="right")) - 1
            raise DataError(
                f"store {store.path}: clip {store.ids[clip]} holds infinite coordinates; make the store again"
            )
        missing = np.isnan(chunk)
        halves |= bool((missing != missing[..., :1]).any())
    return halves
