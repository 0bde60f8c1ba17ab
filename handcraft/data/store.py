"""The store: one format for recorded and generated clips, written in parts, read through memory maps.

    STORE/manifest.json                what the store is (see manifest.py), written last
    STORE/part-00000/clips.parquet     a row a clip: id, label, group, first, frames, split, digest, provenance
    STORE/part-00000/landmarks.npy     (rows, J, C), NaN = missing; clip i is rows first[i] to first[i] + frames[i]
    STORE/part-00000/visibility.npy    (rows, 33) float32, NaN = missing: of the pose, where `handcraft extract` made it

Clips lie one after another in the order of the table. numpy and pandas alone read it:
`pandas.read_parquet(part / "clips.parquet")`, `numpy.load(part / "landmarks.npy", mmap_mode="r")`.

Opening a store checks its structure (names, counts against file sizes, the hash of each table) before it believes
anything, and runs nothing: no pickle is ever read. The frames themselves are hashed by `Store.verify`.
"""

import functools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handcraft.data.manifest import (
    CLIPS,
    LANDMARKS,
    MAX_PROVENANCE,
    MAX_TEXT,
    POSE_POINTS,
    VISIBILITY,
    Manifest,
    PartEntry,
    clip_digest,
    clip_digests,
    hex_digests,
    require_disjoint,
    split_hash,
)
from handcraft.data.npy import read_header
from handcraft.data.parquet import read_table
from handcraft.data.part import SCHEMA
from handcraft.data.writer import StoreWriter
from handcraft.errors import DataError
from handcraft.files import sha256_file

__all__ = [
    "Manifest",
    "Store",
    "StoreWriter",
    "clip_digest",
    "clip_digests",
    "hex_digests",
    "require_disjoint",
    "split_hash",
]

OPEN_PARTS = 64  # each mapped part holds a file descriptor, and a process may have only a few hundred
TEXTS = ("id", "label", "group", "split")
LONGEST = dict.fromkeys(TEXTS, 4 * MAX_TEXT) | {"provenance": MAX_PROVENANCE}  # bytes of a cell, as UTF-8
SHOWN_IDS = 5  # existing ids that an error names
REMEDY = "restore the store from a copy, or make it again"


class Store:
    """A store on disk, opened for reading. Columns are numpy arrays over its N clips, in order:

    ids, groups, splits: text; labels: int64 index into `classes`; frames: int64 length; first: int64 row of the clip's
    first frame in `rows()`; digests: uint64. `DataError` names the damaged file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = Manifest.load(self.path)
        self.classes = self.manifest.classes
        dtypes, tables = [], []
        for part in self.manifest.parts:
            dtypes.append(self._open(part).dtype)  # first: it holds the declared rows against the size of a file
            if VISIBILITY in part.sha256:
                self._open_visibility(part)
            tables.append(self._table(part, [name for name in SCHEMA.names if name != "provenance"]))
        if len(set(dtypes)) > 1:
            raise DataError(f"{self.path}: its parts differ in dtype ({dtypes[0]}, {dtypes[-1]}); {REMEDY}")
        self.dtype = dtypes[0]
        table = pa.concat_tables(tables)
        self.ids, self.groups, self.splits = (_text(table[name]) for name in ("id", "group", "split"))
        self.labels = _class_indices(table["label"], self.classes, self.path)
        self.frames, self.digests = (table[name].to_numpy() for name in ("frames", "digest"))
        self.first = np.cumsum(self.frames) - self.frames
        self._bounds = np.cumsum([0] + [part.clips for part in self.manifest.parts])
        self._row_bounds = np.cumsum([0] + [part.rows for part in self.manifest.parts])
        self._map = functools.lru_cache(maxsize=OPEN_PARTS)(self._open_number)
        self._origins = functools.lru_cache(maxsize=8)(self._read_origins)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.landmarks(clip) for clip in range(len(self)))

    def landmarks(self, clip: int) -> np.ndarray:
        """(T,J,C) of one clip, a read-only view of the mapped file in its stored dtype."""
        if not 0 <= clip < len(self):
            raise IndexError(f"clip {clip} of a store of {len(self)}")
        part = int(np.searchsorted(self._bounds, clip, side="right")) - 1
        start = int(self.first[clip] - self._row_bounds[part])
        return self._map(part)[start : start + int(self.frames[clip])]

    def visibility(self, clip: int) -> np.ndarray | None:
        """(T,33) float32 of one clip: how sure the detector was that each point of the pose is in view, 0 to 1, NaN
        where there is no pose; None where the store does not know."""
        if not 0 <= clip < len(self):
            raise IndexError(f"clip {clip} of a store of {len(self)}")
        part = int(np.searchsorted(self._bounds, clip, side="right")) - 1
        if VISIBILITY not in self.manifest.parts[part].sha256:
            return None
        start = int(self.first[clip] - self._row_bounds[part])
        return self._open_visibility(self.manifest.parts[part])[start : start + int(self.frames[clip])]

    def part(self, number: int) -> np.ndarray:
        """Frames (rows,J,C) of one part, mapped."""
        return self._map(number)

    def parts(self) -> Iterator[tuple[slice, np.ndarray]]:
        """For each part: the slice of clips it holds, and its frames (rows,J,C), mapped."""
        for part in range(len(self.manifest.parts)):
            yield slice(int(self._bounds[part]), int(self._bounds[part + 1])), self._map(part)

    def rows(self, dtype: Any = np.float32) -> np.ndarray:
        """All frames (rows,J,C) in memory, copied part by part: clip i is rows first[i] to first[i] + frames[i]."""
        frames = np.empty((int(self._row_bounds[-1]), *self.manifest.points), dtype=dtype)
        for part, start in enumerate(self._row_bounds[:-1]):
            frames[start : self._row_bounds[part + 1]] = self._map(part)
        return frames

    @functools.cached_property
    def provenance(self) -> list[str]:
        """What each clip was made from: JSON text, "" where nothing is known. Read from disk when first asked for: of a
        million generated clips 0.4 GB, so ask `provenance_of` for single ones."""
        return [text for part in range(len(self.manifest.parts)) for text in self._origins(part).to_pylist()]

    def provenance_of(self, clip: int) -> dict[str, Any]:
        """The provenance of one clip as a dict, empty where nothing is known; reads that of the clip's part."""
        if not 0 <= clip < len(self):
            raise IndexError(f"clip {clip} of a store of {len(self)}")
        part = int(np.searchsorted(self._bounds, clip, side="right")) - 1
        text = self._origins(part)[clip - int(self._bounds[part])].as_py()
        try:
            value = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise DataError(f"{self.path}: the provenance of clip {self.ids[clip]} is not a JSON object; {REMEDY}")
        return value

    def find(self, ids: Iterable[str]) -> np.ndarray:
        """Places (int64) of the clips with these ids; `DataError` names one that is not there, and some that are."""
        wanted = list(ids)
        known = {id: place for place, id in enumerate(self.ids.tolist())}
        absent = [id for id in wanted if id not in known]
        if absent:
            some = ", ".join(list(known)[:SHOWN_IDS]) + (", ..." if len(known) > SHOWN_IDS else "")
            raise DataError(
                f"{self.path}: has no clip {absent[0]!r} ({len(absent)} of {len(wanted)} ids are unknown); "
                f"it has {len(known)} clips: {some}"
            )
        return np.array([known[id] for id in wanted], dtype=np.int64)

    def split_hashes(self) -> dict[str, str]:
        """`split_hash` of each named split, computed from the table."""
        return {str(name): split_hash(self.digests[self.splits == name]) for name in np.unique(self.splits) if name}

    def damage(self, places: np.ndarray | None = None) -> list[str]:
        """Read every byte, or those of the parts that hold the clips at `places`, and compare it with the manifest's
        hashes: a line for each file that differs, with its path within the store."""
        parts = range(len(self.manifest.parts))
        if places is not None:
            parts = np.unique(np.searchsorted(self._bounds, places, side="right") - 1).tolist()
        found = []
        for part in (self.manifest.parts[number] for number in parts):
            for name, expected in part.sha256.items():
                if sha256_file(self.path / part.name / name) != expected:
                    found.append(f"{part.name}/{name}: its SHA-256 is not the manifest's: it has changed or is damaged")
        if dict(self.manifest.split_hashes) != self.split_hashes():
            found.append("the manifest's split hashes are not those of its clips")
        return found

    def verify(self, places: np.ndarray | None = None) -> None:
        """`DataError` that names each damaged file, if there is one; `places` as in `damage`."""
        found = self.damage(places)
        if found:
            raise DataError(f"{self.path}: {'; '.join(found)}; {REMEDY}")

    def _open_number(self, part: int) -> np.ndarray:
        return self._open(self.manifest.parts[part])

    def _read_origins(self, part: int) -> pa.ChunkedArray:
        return self._table(self.manifest.parts[part], ["provenance"])["provenance"]

    def _open(self, part: PartEntry) -> np.ndarray:
        """Map one part's frames."""
        allowed = ("<f4",) if self.manifest.stage == "raw" else ("<f4", "<f2")
        return self._mapped(self._file(part, LANDMARKS), (part.rows, *self.manifest.points), allowed)

    def _open_visibility(self, part: PartEntry) -> np.ndarray:
        return self._mapped(self._file(part, VISIBILITY), (part.rows, POSE_POINTS), ("<f4",))

    def _mapped(self, path: Path, expected: tuple[int, ...], allowed: tuple[str, ...]) -> np.ndarray:
        """Map an array file, after comparing its header and its size with what is expected."""
        try:
            with path.open("rb") as file:
                shape, fortran_order, dtype = read_header(file)
                start = file.tell()
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: not a readable array file ({error}); {REMEDY}") from None
        if dtype.str not in allowed or shape != expected or fortran_order:
            raise DataError(
                f"{path}: holds {dtype.str} of shape {shape}, expected {' or '.join(allowed)} of shape {expected}, "
                f"row by row (C order); {REMEDY}"
            )
        size, wanted = path.stat().st_size, start + math.prod(expected) * dtype.itemsize
        if size != wanted:
            raise DataError(f"{path}: has {size} bytes, its header says {wanted}; {REMEDY}")
        return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape)

    def _table(self, part: PartEntry, columns: list[str]) -> pa.Table:
        """Some columns of one part's table, after the file's hash; consistent with the manifest's counts."""
        path = self._file(part, CLIPS)
        if sha256_file(path) != part.sha256[CLIPS]:
            raise DataError(f"{path}: its SHA-256 is not the manifest's: the file has changed or is damaged; {REMEDY}")
        if part.clips > part.rows:
            raise DataError(
                f"{path}: {part.clips} clips in {part.rows} frames, expected a frame or more each; {REMEDY}"
            )
        try:
            table = read_table(path, SCHEMA, columns, part.clips, LONGEST)
        except ValueError as error:
            raise DataError(f"{path}: {error}; {REMEDY}") from None
        _check_table(table, part, path)
        return table

    def _file(self, part: PartEntry, name: str) -> Path:
        """Path of one file of a part; a link could lead anywhere, so none is followed."""
        folder = self.path / part.name
        path = folder / name
        if folder.is_symlink() or path.is_symlink():
            raise DataError(f"{path}: is a symbolic link, and a store holds none; copy the store with its files")
        if not path.is_file():
            raise DataError(f"{path}: no such file, though the manifest lists it; {REMEDY}")
        return path


def _check_table(table: pa.Table, part: PartEntry, path: Path) -> None:
    """No text that is long or would steer a terminal, and clips that tile the part's frames exactly."""
    for name in set(TEXTS) & set(table.column_names):
        strange = pc.match_substring_regex(table[name], r"[\x00-\x1f\x7f-\x9f]")
        if pc.max(pc.utf8_length(table[name])).as_py() > MAX_TEXT or pc.any(strange).as_py():
            raise DataError(f"{path}: column {name} has a text of over {MAX_TEXT} printable characters; {REMEDY}")
    if "frames" in table.column_names:
        first, frames = table["first"].to_numpy(), table["frames"].to_numpy()
        good = (frames >= 1).all() and (frames <= part.rows).all() and int(frames.sum()) == part.rows
        if not good or not np.array_equal(first, np.cumsum(frames) - frames):
            raise DataError(
                f"{path}: columns first and frames do not tile the {part.rows} frames of the part; {REMEDY}"
            )


def _text(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist(), dtype=str)


def _class_indices(column: pa.ChunkedArray, classes: tuple[str, ...], path: Path) -> np.ndarray:
    """Class names -> int64 index into `classes`; `DataError` names a label that is none of them."""
    found = pc.index_in(column, value_set=pa.array(list(classes), pa.string()))
    if found.null_count:
        unknown = column.filter(pc.is_null(found))[0].as_py()
        raise DataError(f"{path}: a clip has label {unknown!r}, which is not in the manifest's classes; {REMEDY}")
    return found.to_numpy().astype(np.int64)
