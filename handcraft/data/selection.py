"""Some clips of a store, read as if they were a store of their own.

`load_clips` takes it in place of a store: of a large store, only the clips asked for are read and preprocessed, and an
unusable clip among the others does not matter.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from handcraft.data.store import Store


class Selection:
    """The clips of `store` at `places` (n,), in that order, a clip perhaps more than once.

    Columns, `landmarks`, `rows`, length and iteration are those of `Store`; the manifest is the whole store's.
    """

    def __init__(self, store: Store, places: np.ndarray) -> None:
        self._store, self._places = store, np.asarray(places, dtype=np.int64)
        self.path, self.manifest, self.classes, self.dtype = store.path, store.manifest, store.classes, store.dtype
        self.ids, self.groups, self.splits = (
            column[self._places] for column in (store.ids, store.groups, store.splits)
        )
        self.labels, self.digests = store.labels[self._places], store.digests[self._places]
        self.frames = store.frames[self._places]
        self.first = np.cumsum(self.frames) - self.frames

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.landmarks(clip) for clip in range(len(self)))

    def landmarks(self, clip: int) -> np.ndarray:
        """(T,J,C) of one clip, a read-only view of the mapped file in its stored dtype."""
        return self._store.landmarks(int(self._places[clip]))

    def rows(self, dtype: Any = np.float32) -> np.ndarray:
        """All frames (rows,J,C) in memory: clip i is rows first[i] to first[i] + frames[i]."""
        frames = np.empty((int(self.frames.sum()), *self.manifest.points), dtype=dtype)
        for start, clip in zip(self.first, self, strict=True):
            frames[start : start + len(clip)] = clip
        return frames
