"""One part of a store under construction: its table, and its frames as they stream to disk."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from handcraft.data.manifest import CLIPS, LANDMARKS, PartEntry
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


class PartFiles:
    """One part under construction, in a temporary folder beside its final place."""

    def __init__(self, store: Path, number: int, dtype: np.dtype, points: tuple[int, int]) -> None:
        self.name = f"part-{number:05d}"
        self.clips = self.rows = 0
        self._dtype, self._points = dtype, points
        self._columns: list[Mapping[str, Any]] = []
        self._stack = contextlib.ExitStack()
        self._folder = self._stack.enter_context(atomic_path(store / self.name))
        self._folder.mkdir()
        self._file = self._stack.enter_context((self._folder / LANDMARKS).open("wb"))
        self._header = self._write_header()

    def _write_header(self) -> int:
        """numpy pads its header so that the first axis may grow: written first, rewritten in place at the end."""
        shape = (self.rows, *self._points)
        entry = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, entry)
        return self._file.tell()

    def write(self, frames: np.ndarray, columns: Mapping[str, Any]) -> None:
        lengths = columns["frames"]
        if (lengths == frames.shape[1]).all():
            self._file.write(memoryview(frames).cast("B"))
        else:
            for clip, length in zip(frames, lengths, strict=True):
                self._file.write(memoryview(clip[:length]).cast("B"))
        self._columns.append(columns)
        self.clips += len(frames)
        self.rows += int(lengths.sum())

    def close(self, classes: Sequence[str]) -> tuple[tuple[list[str], list[str], np.ndarray], PartEntry]:
        """Write the table, rename the part into place; its ids, splits and digests, and its line of the manifest."""
        with self._stack:
            if self._write_header() != self._header:
                raise DataError(f"{self._folder}: the header of {LANDMARKS} outgrew its place; use smaller parts")
            self._file.close()
            text = {
                name: [value for batch in self._columns for value in batch[name]]
                for name in ("id", "group", "split", "provenance")
            }
            number = {
                name: np.concatenate([batch[name] for batch in self._columns]) for name in ("label", "frames", "digest")
            }
            frames = number["frames"].astype(np.int64)
            columns = text | {
                "label": pa.array(list(classes), pa.string()).take(pa.array(number["label"])),
                "first": np.cumsum(frames) - frames,
                "frames": frames,
                "digest": number["digest"].astype(np.uint64),
            }
            table = pa.table([pa.array(columns[entry.name], entry.type) for entry in SCHEMA], schema=SCHEMA)
            pq.write_table(table, self._folder / CLIPS, compression="zstd")
            hashes = {name: sha256_file(self._folder / name) for name in (CLIPS, LANDMARKS)}
        return (text["id"], text["split"], columns["digest"]), PartEntry(self.name, self.clips, self.rows, hashes)

    def discard(self) -> None:
        """Close the file and remove the temporary folder: its context ends with an error, so nothing is renamed."""
        with contextlib.suppress(DataError), self._stack:
            raise DataError(f"{self._folder}: abandoned")
