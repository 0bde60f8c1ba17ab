"""Plain arrays in: a `.npz` with one array a detector part, padded to a common length, becomes a raw store.

    pose (N,T,33,3)  left_hand, right_hand (N,T,21,3)  [face (N,T,12,3) with face_indices (12,)]   NaN = missing
    lengths (N,)  y (N,) index into class_names (C,)  [clip_id (N,) text]  [session or another group (N,)]  [split (N,)]

An npz is a zip of npy files, and both are read here without numpy's loader: no pickle, no array that is larger than
the file's bytes can decompress to, and no more of them than fit into memory.
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handcraft.data.npy import read_array
from handcraft.data.store import StoreWriter
from handcraft.data.untrusted import require_memory
from handcraft.errors import DataError
from handcraft.files import sha256_file
from handcraft.layouts import FACE12
from handcraft.words import counted, some

PARTS = {"pose": 33, "left_hand": 21, "right_hand": 21}
FACE_POINTS = len(FACE12)
SPLITS = ("train", "test")
DEFLATE_LIMIT = 1032  # deflate cannot expand a byte further than this
BATCH = 512  # clips joined at a time, so that the joined copy stays small


@dataclass(frozen=True)
class ImportSummary:
    """What `import_arrays` wrote, and what it left out and why."""

    path: str
    layout: str
    imported: int
    classes: tuple[str, ...]
    by_split: Mapping[str, int]
    """Imported clips by split ("" where the file gives none)."""
    unused: int
    """Clips left out because the file marks them neither train nor test."""
    missing: tuple[str, ...]
    """Ids of the clips left out because no landmark was detected in any frame."""
    dropped_classes: tuple[str, ...]
    """Classes left out because all of their clips are marked neither train nor test."""

    def lines(self) -> list[str]:
        """The summary as text, a fact a line."""
        splits = ", ".join(f"{count} {name}" for name, count in self.by_split.items() if name)
        found = [
            f"{self.path}: {counted(self.imported, 'clip')} of {counted(len(self.classes), 'class', 'classes')}, "
            + f"layout {self.layout}"
            + (f" ({splits})" if splits else "")
        ]
        if self.unused:
            found.append(f"left out: {counted(self.unused, 'clip')} marked neither train nor test")
        if self.dropped_classes:
            names = ", ".join(self.dropped_classes)
            found.append(
                f"left out: {counted(len(self.dropped_classes), 'class', 'classes')} that have no other clips: {names}"
            )
        if self.missing:
            found.append(
                f"left out: {counted(len(self.missing), 'clip')} without a single landmark: {', '.join(self.missing)}"
            )
        return found


def import_arrays(
    npz: Path | str,
    out: Path | str,
    *,
    group: str | None = None,
    fps: float | None = None,
    licence: str | None = None,
    aspect: float | None = None,
    leave_out_missing: bool = False,
) -> ImportSummary:
    """Read the arrays of `npz` (see the top of this file) and write the raw store `out`.

    group: name of the array (N,) that says which signer or session recorded a clip. A `split` array is kept, and clips
    that it marks neither train nor test are left out and counted, as is a class that loses all its clips so. Class
    indices become those of the sorted class names. Clip ids come from `clip_id` if that is text, otherwise from the
    file's name and the row. 12 face points without `face_indices` are taken to be those of layout `holistic87`.

    `DataError`, and no store, if: the file is damaged or holds pickles; an array is absent or has another shape; a
    length, a class or an id is out of range; coordinates are infinite; a class has no clip; a clip has no landmark at
    all, unless `leave_out_missing` says that such clips be left out and named in the summary.
    """
    npz, out = Path(npz), Path(out)
    arrays = read_npz(npz)
    parts, layout = _parts(npz, arrays)
    count, steps = arrays["pose"].shape[:2]
    lengths = _column(npz, arrays, "lengths", count, "iu")
    labels = _column(npz, arrays, "y", count, "iu")
    names = _texts(npz, "class_names", _column(npz, arrays, "class_names", None, "US"))
    groups = _texts(npz, group, _column(npz, arrays, group, count, "USiu")) if group else [""] * count
    splits = _texts(npz, "split", _column(npz, arrays, "split", count, "US")) if "split" in arrays else [""] * count
    ids = _ids(npz, arrays, count)
    _check_rows(npz, ids, lengths, labels, names, steps)

    kept = np.ones(count, dtype=bool) if "split" not in arrays else np.isin(splits, SPLITS)
    if not kept.any():
        raise DataError(f"{npz}: array split marks no clip as train or test (it says {splits[0]!r}); nothing to import")
    seen = _seen(npz, [arrays[part] for part in parts], ids, lengths)
    if not leave_out_missing and not seen[kept].all():
        lost = [ids[clip] for clip in np.flatnonzero(kept & ~seen)]
        raise DataError(
            f"{npz}: {len(lost)} clips have no landmark in any frame: {some(lost)}; take them out of the file, or ask "
            "to have them left out (leave_out_missing)"
        )
    chosen = np.flatnonzero(kept & seen)
    used, wanted = set(labels[chosen].tolist()), set(labels[kept].tolist())
    if wanted - used:
        lost = some([names[label] for label in sorted(wanted - used)])
        raise DataError(f"{npz}: no clip of class {lost} has a single landmark; take the class out of the file")

    with StoreWriter(
        out,
        layout=layout,
        stage="raw",
        classes=[names[label] for label in used],
        fps=fps,
        licence=licence,
        aspect=aspect,
        source={"command": "import-arrays", "file": npz.name, "sha256": sha256_file(npz), "group": group},
    ) as writer:
        for start in range(0, len(chosen), BATCH):
            clips = chosen[start : start + BATCH]
            writer.add_batch(
                np.concatenate([arrays[part][clips] for part in parts], axis=2, dtype=np.float32),
                ids=[ids[clip] for clip in clips],
                labels=[names[labels[clip]] for clip in clips],
                groups=[groups[clip] for clip in clips],
                splits=[splits[clip] for clip in clips],
                lengths=lengths[clips],
            )
    return ImportSummary(
        path=str(out),
        layout=layout,
        imported=len(chosen),
        classes=tuple(sorted(names[label] for label in used)),
        by_split={name: sum(splits[clip] == name for clip in chosen) for name in sorted(set(splits)) if name in SPLITS}
        or {"": len(chosen)},
        unused=int((~kept).sum()),
        missing=tuple(ids[clip] for clip in np.flatnonzero(kept & ~seen)),
        dropped_classes=tuple(sorted(name for label, name in enumerate(names) if label not in wanted)),
    )


def read_npz(path: Path | str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` by name. `DataError` if the file is no zip, is damaged, names an array twice, holds a
    pickle, or would not fit into memory."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a readable .npz file (it is no ordinary file)")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_sizes(path, entries)
            return {entry.filename.removesuffix(".npy"): _read_member(path, archive, entry) for entry in entries}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not a readable .npz file ({error}); it is damaged or cut short: fetch it again"
        ) from None


def _check_sizes(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Compare what the zip's directory claims with the size of the file, before anything is decompressed.

    Members that share their bytes (one small piece of data as thousands of arrays) add up to more than the file.
    """
    names = Counter(entry.filename.removesuffix(".npy") for entry in entries)
    if len(names) < len(entries):
        raise DataError(f"{path}: holds two arrays named {names.most_common(1)[0][0]!a:.80}; save it anew")
    for entry in entries:
        method = entry.compress_type
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{path}: {entry.filename!a:.80} is compressed by method {method}, which numpy never uses")
        if entry.file_size > DEFLATE_LIMIT * entry.compress_size + 4096:
            claim = f"{entry.filename!a:.80} claims {entry.file_size} bytes"
            raise DataError(f"{path}: {claim}, which the file cannot hold")
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise DataError(f"{path}: its arrays claim more bytes than the file has; fetch it again")
    require_memory(sum(entry.file_size for entry in entries), path)


def _read_member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    try:
        with archive.open(entry) as file:
            return read_array(file, entry.file_size)
    except ValueError as error:
        raise DataError(f"{path}: {entry.filename!a:.80} cannot be read: {error}") from None


def _parts(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[list[str], str]:
    """Names of the part arrays in layout order, and the layout; their shapes and kinds checked."""
    for name in PARTS:
        if name not in arrays:
            raise DataError(f"{path}: has no array {name!r}; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    sizes = dict(PARTS) | ({"face": FACE_POINTS} if "face" in arrays else {})
    head = arrays["pose"].shape[:2]
    for name, points in sizes.items():
        array = arrays[name]
        if array.ndim != 4 or array.shape != (*head, points, 3) or array.dtype.kind != "f" or 0 in array.shape:
            raise DataError(
                f"{path}: array {name} is {array.dtype} of shape {array.shape}, expected floating point "
                f"({', '.join(map(str, head)) if len(head) == 2 else 'clips, frames'}, {points}, 3), not empty"
            )
    if "face" in arrays and "face_indices" in arrays:
        found = arrays["face_indices"]
        if found.shape != (FACE_POINTS,) or tuple(found.tolist()) != FACE12:
            raise DataError(
                f"{path}: array face_indices is {found.ravel()[:20].tolist()}, expected the face points of layout "
                f"holistic87 in its order: {list(FACE12)}"
            )
    return list(sizes), "holistic87" if "face" in arrays else "holistic75"


def _column(path: Path, arrays: Mapping[str, np.ndarray], name: str, count: int | None, kinds: str) -> np.ndarray:
    """A one-dimensional array of a wanted kind, `count` long (None: any length above 0)."""
    if name not in arrays:
        others = [other for other, array in arrays.items() if array.ndim == 1]
        raise DataError(f"{path}: has no array {name!r}; its one-dimensional arrays are {', '.join(sorted(others))}")
    array = arrays[name]
    if array.ndim != 1 or array.dtype.kind not in kinds or len(array) != (len(array) or 1 if count is None else count):
        what = "integers" if kinds == "iu" else "text"
        size = "at least one" if count is None else str(count)
        raise DataError(f"{path}: array {name} is {array.dtype} of shape {array.shape}, expected {size} {what}")
    return array.astype(np.int64) if kinds == "iu" else array


def _texts(path: Path, name: str, array: np.ndarray) -> list[str]:
    if array.dtype.kind != "S":
        return [str(value) for value in array.tolist()]
    try:
        return [value.decode("utf-8") for value in array.tolist()]
    except UnicodeDecodeError:
        raise DataError(f"{path}: array {name} holds bytes that are not UTF-8; save it as text") from None


def _ids(path: Path, arrays: Mapping[str, np.ndarray], count: int) -> list[str]:
    """Text ids are taken as they are; numbers (often counted anew in each class) cannot name a clip."""
    if "clip_id" not in arrays or arrays["clip_id"].dtype.kind in "iu":
        return [f"{path.stem}-{row:0{max(5, len(str(count)))}d}" for row in range(count)]
    ids = _texts(path, "clip_id", _column(path, arrays, "clip_id", count, "US"))
    twice = [id for id, uses in Counter(ids).items() if uses > 1]
    if twice:
        raise DataError(f"{path}: array clip_id names {some(twice)} more than once; ids must differ")
    return ids


def _check_rows(
    path: Path, ids: list[str], lengths: np.ndarray, labels: np.ndarray, names: list[str], steps: int
) -> None:
    """Refuse lengths and classes out of range, class names given twice, and classes without a clip."""
    wrong = np.flatnonzero((lengths < 1) | (lengths > steps))
    if wrong.size:
        clip = int(wrong[0])
        raise DataError(
            f"{path}: {len(wrong)} lengths out of range: clip {ids[clip]} has {lengths[clip]}, expected 1 to {steps}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if wrong.size:
        clip = int(wrong[0])
        raise DataError(
            f"{path}: clip {ids[clip]} has class {labels[clip]}, expected 0 to {len(names) - 1} (class_names)"
        )
    twice = [name for name, uses in Counter(names).items() if uses > 1]
    if twice:
        raise DataError(f"{path}: class_names gives {some(twice)} more than once; each class needs one name")
    used = set(labels.tolist())
    empty = [name for label, name in enumerate(names) if label not in used]
    if empty:
        raise DataError(f"{path}: no clip of class {some(empty)}: take the name out of class_names (and renumber y)")


def _seen(path: Path, arrays: list[np.ndarray], ids: list[str], lengths: np.ndarray) -> np.ndarray:
    """Which clips (N,) have at least one landmark within their length; `DataError` where one is infinite."""
    seen = np.zeros(len(ids), dtype=bool)
    valid = np.arange(arrays[0].shape[1]) < lengths[:, None]
    for array in arrays:
        infinite = np.flatnonzero((np.isinf(array).any(axis=(2, 3)) & valid).any(axis=1))
        if infinite.size:
            raise DataError(f"{path}: clip {ids[int(infinite[0])]} has infinite coordinates; a missing landmark is NaN")
        seen |= ((~np.isnan(array).all(axis=(2, 3))) & valid).any(axis=1)
    return seen
