"""Writing a store: clips stream to disk part by part, and the manifest, written last, makes the parts a store.

Whatever interrupts a write leaves a whole store or none. The format is described in store.py.
"""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from handcraft.data.manifest import (
    CACHED_CLIPS,
    MANIFEST,
    POSE_POINTS,
    Manifest,
    PartEntry,
    clip_digests,
    split_hash,
)
from handcraft.data.part import TABLE_TEXTS, VISIBILITY_COLUMN, PartFiles
from handcraft.data.texts import text_column
from handcraft.errors import DataError
from handcraft.files import TEMPORARY, with_checksum, write_json
from handcraft.locks import held

PART_CLIPS = 4096  # 47 MB of 32 x 60 x 3 float16 frames: large enough to stream, small enough to hold or copy
_LEFTOVER = re.compile(r"part-\d+|" + re.escape(TEMPORARY) + ".*")


class StoreWriter:
    """Context manager that writes a store; the store exists once the block has ended without an error.

    classes: names, in any order (stored sorted). dtype: float32, or float16 for a centred store. The other keywords
    are fields of `Manifest`. Memory is bounded by the table of one part: frames go to disk as they come.
    A folder that holds a store already is refused (`DataError`); what an interrupted write left behind is cleared.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        layout: str,
        stage: str,
        classes: Iterable[str],
        coordinates: str = "xyz",
        fps: float | None = None,
        licence: str | None = None,
        aspect: float | None = None,
        preprocessing: str | None = None,
        statistics: Mapping[str, Any] | None = None,
        seen_clips: Iterable[str] = (),
        source: Mapping[str, Any] | None = None,
        part_clips: int = PART_CLIPS,
        dtype: Any = np.float32,
    ) -> None:
        self.path = Path(path)
        names = list(classes)
        if len(set(names)) != len(names):
            raise DataError(f"{path}: the list of classes names {_first_twice(names)!r} twice; give each class once")
        try:
            self._manifest = Manifest(
                stage=stage,
                layout=layout,
                classes=tuple(sorted(names)),
                coordinates=coordinates,
                fps=fps,
                licence=licence,
                aspect=aspect,
                preprocessing=preprocessing,
                statistics=statistics,
                seen_clips=tuple(sorted(seen_clips)),
                source=dict(source or {}),
            )
        except DataError as error:
            raise DataError(f"{path}: cannot write a store: {error}") from None
        try:
            json.dumps(self._manifest.to_dict(), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: statistics or source cannot be written as JSON: {error}") from None
        self._dtype = np.dtype(dtype).newbyteorder("<")
        allowed = {"raw": (np.float32,), "centred": (np.float32, np.float16)}[stage]
        if self._dtype not in allowed:
            names = " or ".join(np.dtype(kind).name for kind in allowed)
            raise DataError(f"{path}: dtype {self._dtype.name} in a {stage} store, expected {names}")
        if part_clips < 1:
            raise DataError(f"{path}: part_clips is {part_clips}, expected at least 1")
        self._part_clips = part_clips
        self._class_index = {name: index for index, name in enumerate(self._manifest.classes)}
        self._parts: dict[int, PartEntry] = {}
        self._digests: dict[str, list[np.ndarray]] = {}  # by split, for the split hashes
        self._id_hashes: list[np.ndarray] = []
        self._part: PartFiles | None = None
        self._lock: contextlib.ExitStack | None = None

    def __enter__(self) -> "StoreWriter":
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path}: is a file, expected a new folder for the store")
        self._created = not self.path.exists()
        with contextlib.ExitStack() as stack, self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self._prepare(stack)
            self._lock = stack.pop_all()
        return self

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        """Take the folder, until `stack` is closed, and clear what an interrupted write left in it."""
        stack.enter_context(locked(self.path))
        clear_leftovers(self.path)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            try:
                if kind is None:
                    self._finish()
            finally:
                self._discard()
                self._lock = None

    def add(
        self,
        landmarks: np.ndarray,
        *,
        id: str,
        label: str | int,
        group: str = "",
        split: str = "",
        provenance: Mapping[str, Any] | str | None = None,
        digest: int | None = None,
        visibility: np.ndarray | None = None,
    ) -> None:
        """Append one clip: landmarks (T,J,C) floating point, NaN = missing, T >= 1. See `add_batch`."""
        self.add_batch(
            np.asarray(landmarks)[None],
            ids=[id],
            labels=[label],
            groups=[group],
            splits=[split],
            provenance=[provenance],
            digests=None if digest is None else np.array([digest], dtype=np.uint64),
            visibility=None if visibility is None else np.asarray(visibility)[None],
        )

    def add_batch(
        self,
        landmarks: np.ndarray,
        *,
        ids: Sequence[str] | pa.Array,
        labels: Sequence[str] | Sequence[int] | np.ndarray,
        groups: Sequence[str] | pa.Array | None = None,
        splits: Sequence[str] | pa.Array | None = None,
        provenance: Sequence[Mapping[str, Any] | str | None] | pa.Array | None = None,
        digests: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
        visibility: np.ndarray | None = None,
    ) -> None:
        """Append B clips of one array.

        landmarks (B,T,J,C) floating point, NaN = missing; labels: class names or class indices (B,); groups (signer or
        session) and splits (train, test): "" where there is none; provenance: anything JSON can say, or its text;
        digests (B,) uint64: content hashes that copies of a clip carry along, default `clip_digests` of what is
        stored; lengths (B,): frames of each clip that are stored, default all T; visibility (B,T,33): how sure a
        detector is that a point of the pose is in view, 0 to 1, NaN = missing, in a raw store. `DataError` names the
        first clip that does not fit; nothing of the batch is then written.
        """
        if self._lock is None:
            raise DataError(f"{self.path}: clips can be added only inside `with StoreWriter(...)`")
        frames = np.asarray(landmarks)
        points = self._manifest.points
        if frames.ndim != 4 or frames.shape[2:] != points or frames.shape[1] < 1 or frames.dtype.kind != "f":
            raise DataError(
                f"{self.path}: landmarks of {_first(ids)} are {frames.dtype} of shape {frames.shape[1:]}, expected "
                f"floating point (T, {points[0]}, {points[1]}) with T >= 1 for layout {self._manifest.layout}"
            )
        count, steps = frames.shape[:2]
        with np.errstate(over="ignore"):  # an overflow shows as infinity just below
            frames = np.ascontiguousarray(frames, dtype=self._dtype)
        columns = {
            "id": ids,
            "label": labels,
            "group": [""] * count if groups is None else groups,
            "split": [""] * count if splits is None else splits,
            "provenance": [""] * count if provenance is None else provenance,
            "frames": np.full(count, steps) if lengths is None else np.asarray(lengths),
        }
        if digests is not None:
            columns["digest"] = np.asarray(digests, dtype=np.uint64)
        if visibility is not None:
            columns[VISIBILITY_COLUMN] = np.asarray(visibility)
        for name, column in columns.items():
            if len(column) != count:
                raise DataError(f"{self.path}: {len(column)} values of {name} for {count} clips ({_first(ids)} ...)")
        if visibility is not None and columns[VISIBILITY_COLUMN].shape != (count, steps, POSE_POINTS):
            raise DataError(
                f"{self.path}: visibility of {_first(ids)} has shape {columns[VISIBILITY_COLUMN].shape[1:]}, expected "
                f"({steps}, {POSE_POINTS})"
            )
        columns["label"] = self._indices(labels, ids)
        for name in TABLE_TEXTS:
            columns[name] = text_column(name, columns[name], ids, self.path)
        self._check(frames, columns)
        if digests is None:
            columns["digest"] = clip_digests(frames, columns["frames"])
        done = 0
        while done < count:
            if self._part is None:
                self._open_part(len(self._parts))
            take = min(count - done, self._part_clips - self._part.clips)
            with self._writing():
                self._part.write(frames[done : done + take], {k: v[done : done + take] for k, v in columns.items()})
            done += take
            if self._part.clips == self._part_clips:
                self._close_part()

    def _open_part(self, number: int, rows: int = 0) -> None:
        with self._writing():
            self._part = PartFiles(self.path, number, self._dtype, self._manifest.points, rows)
        self._number = number

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What the file system refuses (a full disk, a quota, a read-only folder), said in one line."""
        try:
            yield
        except OSError as error:
            why = error.strerror or str(error)
            raise DataError(f"{self.path}: cannot be written ({why}); {self._advice()}") from error

    def _advice(self) -> str:
        return "nothing of the store is kept; free space there, or choose another place"

    def _indices(self, labels: Sequence[str] | Sequence[int] | np.ndarray, ids: Sequence[str]) -> np.ndarray:
        """Class names or indices -> class indices (B,) int64."""
        known, found = self._class_index, np.asarray(labels)
        if found.dtype.kind in "iu":
            wrong = np.flatnonzero((found < 0) | (found >= len(known)))
            if wrong.size:
                at = int(wrong[0])
                raise DataError(
                    f"{self.path}: clip {str(ids[at])!r} has class {found[at]}, expected 0 to {len(known) - 1}"
                )
            return found.astype(np.int64)
        for at, label in enumerate(labels):
            if label not in known:
                raise DataError(
                    f"{self.path}: clip {str(ids[at])!r} has label {str(label)!r}, which is not in the classes"
                )
        return np.array([known[label] for label in labels], dtype=np.int64)

    def _check(self, frames: np.ndarray, columns: Mapping[str, Any]) -> None:
        """Refuse what a reader would refuse, naming the clip."""
        ids, lengths = columns["id"], columns["frames"]
        wrong = np.flatnonzero((lengths < 1) | (lengths > frames.shape[1]))
        if lengths.dtype.kind not in "iu" or wrong.size:
            at = int(wrong[0]) if wrong.size else 0
            raise DataError(
                f"{self.path}: clip {str(ids[at])!r} has length {lengths[at]}, expected 1 to {frames.shape[1]}"
            )
        for at in range(0, len(frames), CACHED_CLIPS):
            infinite = _is_infinite(frames[at : at + CACHED_CLIPS])
            if infinite.any():
                clip = at + int(infinite.any(axis=(1, 2, 3)).argmax())
                raise DataError(
                    f"{self.path}: clip {str(ids[clip])!r} holds infinite coordinates (as {self._dtype.name}); a "
                    "missing landmark is NaN, and every other value must fit"
                )

    def _close_part(self) -> None:
        part, self._part = self._part, None
        with self._writing():
            table, entry = part.close(self._manifest.classes, self._announce)
        self._count(table)
        self._parts[self._number] = entry

    def _announce(self, entry: PartEntry) -> None:
        """Called when a part is whole but for its name."""

    def _count(self, table: pa.Table) -> None:
        """Remember of a part's clips what the whole store must know. 64-bit hashes stand for the ids, which need not
        all be in memory."""
        digests, splits = table["digest"].to_numpy(), table["split"]
        self._id_hashes.append(np.fromiter(map(hash, table["id"].to_pylist()), dtype=np.int64, count=len(table)))
        for split in sorted(set(pc.unique(splits).to_pylist()) - {""}):
            chosen = pc.equal(splits, split).to_numpy(zero_copy_only=False)
            self._digests.setdefault(split, []).append(digests[chosen])

    def _finish(self) -> None:
        if self._part is not None:
            self._close_part()
        if not self._parts:
            raise DataError(f"{self.path}: no clip was added, so there is no store to write")
        hashes = np.sort(np.concatenate(self._id_hashes))
        if (hashes[1:] == hashes[:-1]).any():
            raise DataError(f"{self.path}: at least two clips have the same id; ids must differ within a store")
        hashes = {split: split_hash(np.concatenate(found)) for split, found in sorted(self._digests.items())}
        parts = tuple(self._parts[number] for number in sorted(self._parts))
        manifest = dataclasses.replace(self._manifest, parts=parts, split_hashes=hashes)
        with self._writing():
            write_json(self.path / MANIFEST, with_checksum(manifest.to_dict()))

    def _discard(self) -> None:
        """Unless the store is whole, leave nothing that looks like one, or like half of one."""
        if self._part is not None:
            self._part.discard()
        if (self.path / MANIFEST).exists():
            return
        clear_leftovers(self.path)
        if self._created:
            with contextlib.suppress(OSError):
                self.path.rmdir()


def locked(path: Path, *, shared: bool = False) -> contextlib.AbstractContextManager[bool]:
    """Hold a folder, or a file, for this writer alone, or for those alone that share it; `DataError` if another one
    has it."""
    refusal = DataError(f"{path}: another process is writing this store; wait for it, or choose a path")
    return held(path, refusal, shared=shared)


def refuse_store(path: Path) -> None:
    """`DataError` where the folder holds a store."""
    if (path / MANIFEST).exists():
        raise DataError(f"{path}: already holds a store; choose another path, or delete it first")


def clear_leftovers(path: Path) -> None:
    """Empty a folder that an interrupted write left; refuse one that holds a store or anything else."""
    refuse_store(path)
    entries = list(path.iterdir())
    foreign = [entry.name for entry in entries if not _LEFTOVER.fullmatch(entry.name)]
    if foreign:
        raise DataError(f"{path}: the folder is not empty (it holds {foreign[0]}); choose a new path for the store")
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _is_infinite(frames: np.ndarray) -> np.ndarray:
    """Where float16 or float32 `frames` are infinite. float16 is compared bit by bit, as in `is_nan`."""
    if frames.dtype == np.float16:
        return (frames.view(np.uint16) & 0x7FFF) == 0x7C00
    return np.isinf(frames)


def _first(ids: Sequence[str]) -> str:
    return f"clip {str(ids[0])!r}" if len(ids) else "no clip"


def _first_twice(names: Sequence[str]) -> str:
    return next(name for at, name in enumerate(names) if name in names[:at])
