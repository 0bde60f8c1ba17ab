"""One part of a store under construction: its table, and its frames as they stream to disk."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from handcraft.data.frame_file import FrameFile
from handcraft.data.manifest import CLIPS, LANDMARKS, POSE_POINTS, VISIBILITY, PartEntry
from handcraft.errors import DataError
from handcraft.files import atomic_path, sha256_file

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("first", pa.int64()),
        ("frames", pa.int64()),
        ("split", pa.string()),
        ("digest", pa.uint64()),
        ("provenance", pa.string()),
    ]
)


VISIBILITY_COLUMN = "visibility"  # among the columns of a batch of clips; it has a file of its own
TABLE_TEXTS = ("id", "group", "split", "provenance")
REPEATED = ["label", "group", "split"]  # texts that many clips share, which a dictionary in the file pays for


def part_name(number: int) -> str:
    """Folder of part `number` of a store."""
    return f"part-{number:05d}"


class PartFiles:
    """One part under construction, in a temporary folder beside its final place.

    rows: frames it is expected to hold. Where that comes true they need not be read again, see `FrameFile`.
    """

    def __init__(self, store: Path, number: int, dtype: np.dtype, points: tuple[int, int], rows: int = 0) -> None:
        self.name = part_name(number)
        self.clips = 0
        self._columns: list[Mapping[str, Any]] = []
        self._stack = contextlib.ExitStack()
        self._folder = self._stack.enter_context(atomic_path(store / self.name))
        self._folder.mkdir()
        self._file = FrameFile(self._folder / LANDMARKS, dtype, points, rows)
        self._stack.callback(self._file.close)

    def write(self, frames: np.ndarray, columns: Mapping[str, Any]) -> None:
        """Append clips (B,T,J,C) and their rows of the table: texts as pyarrow arrays, the rest as numpy's."""
        lengths = columns["frames"]
        if (lengths == frames.shape[1]).all():
            self._file.append(frames)
        else:
            self._file.append(frames[np.arange(frames.shape[1]) < lengths[:, None]])
        self._columns.append(columns)
        self.clips += len(frames)

    def close(
        self, classes: Sequence[str], before: Callable[[PartEntry], None] = lambda _: None
    ) -> tuple[pa.Table, PartEntry]:
        """Write the table, rename the part into place; the table, and the part's line of the manifest, which `before`
        is called with ahead of the renaming."""
        with self._stack:
            hashed = self._file.finish()
            table = self._table(classes)
            pq.write_table(table, self._folder / CLIPS, compression="zstd", use_dictionary=REPEATED)
            hashes = {CLIPS: sha256_file(self._folder / CLIPS), LANDMARKS: hashed}
            if any(VISIBILITY_COLUMN in batch for batch in self._columns):
                np.save(self._folder / VISIBILITY, self._visibility())
                hashes[VISIBILITY] = sha256_file(self._folder / VISIBILITY)
            entry = PartEntry(self.name, self.clips, self._file.rows, hashes)
            before(entry)
        return table, entry

    def _visibility(self) -> np.ndarray:
        """(rows,33) float32, NaN where a clip came without."""
        found = []
        for batch in self._columns:
            lengths = batch["frames"]
            given = batch.get(VISIBILITY_COLUMN, np.full((1, 1, POSE_POINTS), np.nan))
            every = np.broadcast_to(given, (len(lengths), max(given.shape[1], lengths.max()), POSE_POINTS))
            found.append(every[np.arange(every.shape[1]) < lengths[:, None]])
        return np.concatenate(found, dtype="<f4")

    def _table(self, classes: Sequence[str]) -> pa.Table:
        """One chunk a column, so that the file does not depend on how the clips came."""
        columns = {name: pa.concat_arrays([batch[name] for batch in self._columns]) for name in TABLE_TEXTS}
        number = {
            name: np.concatenate([batch[name] for batch in self._columns]) for name in ("label", "frames", "digest")
        }
        frames = number["frames"].astype(np.int64)
        columns |= {
            "label": pa.array(list(classes), pa.string()).take(pa.array(number["label"])),
            "first": np.cumsum(frames) - frames,
            "frames": frames,
            "digest": number["digest"].astype(np.uint64),
        }
        return pa.table([pa.array(columns[entry.name], entry.type) for entry in SCHEMA], schema=SCHEMA)

    def discard(self) -> None:
        """Close the file and remove the temporary folder: its context ends with an error, so nothing is renamed."""
        with contextlib.suppress(DataError), self._stack:
            raise DataError(f"{self._folder}: abandoned")
