"""What a store says about itself (`manifest.json`), and the content hashes that keep training and test clips apart.

A manifest may come from anywhere, so every field is checked before it is used: a part's name cannot leave the folder,
and no count is believed before it has been compared with the size of a file.
"""

import dataclasses
import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.errors import ConfigError, DataError
from handcraft.files import is_printable, read_json, verified
from handcraft.layouts import layout

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CLIPS = "clips.parquet"
LANDMARKS = "landmarks.npy"
VISIBILITY = "visibility.npy"  # of the pose, in the parts of stores that were extracted here
POSE_POINTS = 33
STAGES = ("raw", "centred")
COORDINATES = ("xyz", "xy")
MAX_TEXT = 256  # characters of an id, a label, a group or a split: bounds what a hostile table can make us allocate
MAX_PROVENANCE = 16 << 10  # bytes of the JSON text that says what a clip was made from

CACHED_CLIPS = 32  # clips looked at together: 32 x 60 x 3 float16 values of each stay in a core's cache
_PART = re.compile(r"part-\d{5,9}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class PartEntry:
    """One part of a store: its folder's name, how many clips and frames it holds, the SHA-256 of each of its files."""

    name: str
    clips: int
    rows: int
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """Everything a reader must know before it opens a part. `DataError` where a field makes no sense."""

    stage: str
    """raw: as the detector gave it; centred: after preprocessing steps 1 to 4."""
    layout: str
    classes: tuple[str, ...]
    """Sorted names; a class index is the place in this list."""
    parts: tuple[PartEntry, ...] = ()
    coordinates: str = "xyz"
    fps: float | None = None
    licence: str | None = None
    aspect: float | None = None
    """Width / height of the pictures that raw x and y are fractions of."""
    preprocessing: str | None = None
    """Signature of the preprocessing a centred store went through; None for a raw one."""
    statistics: Mapping[str, Any] | None = None
    split_hashes: Mapping[str, str] = field(default_factory=dict)
    """`split_hash` of the clips of each named split."""
    seen_clips: tuple[str, ...] = ()
    """Sorted digests (16 hex digits) of the clips a generator was trained on; empty for recorded clips."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """What made the store: command, seed, generator hash and the like."""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _require(self.format_version == FORMAT_VERSION, "format_version", self.format_version, FORMAT_VERSION)
        _require(self.stage in STAGES, "stage", self.stage, "raw or centred")
        _require(self.coordinates in COORDINATES, "coordinates", self.coordinates, "xyz or xy")
        try:
            layout(self.layout)
        except (ConfigError, TypeError) as error:
            raise DataError(f"field layout: {error}") from None
        names = list(self.classes)
        _require(
            bool(names) and all(is_text(name) and name for name in names) and names == sorted(set(names)),
            "classes",
            names[:5],
            f"sorted, distinct names of 1 to {MAX_TEXT} characters",
        )
        for name in ("fps", "aspect"):
            value = getattr(self, name)
            good = value is None or (_is_number(value) and math.isfinite(value) and value > 0)
            _require(good, name, value, "a positive number or null")
        _require(self.licence is None or isinstance(self.licence, str), "licence", self.licence, "a text or null")
        centred = isinstance(self.preprocessing, str) and bool(self.preprocessing)
        _require(
            centred if self.stage == "centred" else self.preprocessing is None,
            "preprocessing",
            self.preprocessing,
            "the preprocessing signature where stage is centred, null where it is raw",
        )
        good = self.statistics is None or isinstance(self.statistics, Mapping)
        _require(good, "statistics", self.statistics, "an object or null")
        _require(isinstance(self.source, Mapping), "source", self.source, "an object")
        good = isinstance(self.split_hashes, Mapping) and all(
            is_text(split) and isinstance(value, str) for split, value in self.split_hashes.items()
        )
        _require(good, "split_hashes", self.split_hashes, "split name -> hash")
        good = all(map(is_digest, self.seen_clips))
        _require(good, "seen_clips", list(self.seen_clips[:3]), "digests of 16 hexadecimal digits")

    @property
    def points(self) -> tuple[int, int]:
        """(J, C): landmarks of a frame and coordinates of a landmark."""
        return layout(self.layout).landmarks, len(self.coordinates)

    @property
    def clips(self) -> int:
        return sum(part.clips for part in self.parts)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def load(cls, store: Path) -> "Manifest":
        """The manifest of the folder `store`; `DataError` names the file and what is wrong with it."""
        path = store / MANIFEST
        if not store.is_dir():
            raise DataError(f"{store}: no such store (a store is a folder with a {MANIFEST})")
        if path.is_symlink():
            raise DataError(f"{path}: is a symbolic link, and a store holds none; copy the store with its files")
        if not path.exists():
            unfinished = any(_PART.fullmatch(entry.name) or entry.name.startswith(".") for entry in store.iterdir())
            interrupted = "its writing was interrupted; make it again, with the same command"
            raise DataError(
                f"{store}: has no {MANIFEST}: {interrupted if unfinished else 'this folder is not a store'}"
            )
        try:
            return cls.from_dict(verified(read_json(path), path))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}); restore or remake the store") from None
        except DataError as error:
            if str(error).startswith(str(path)):
                raise
            raise DataError(f"{path}: {error}; restore or remake the store") from None

    @classmethod
    def from_dict(cls, value: Any) -> "Manifest":
        """Check plain JSON values and build the manifest. Unknown fields are ignored, missing ones are refused."""
        _require(isinstance(value, dict), "manifest", type(value).__name__, "an object")
        names = [entry.name for entry in dataclasses.fields(cls)]
        absent = [name for name in names if name not in value]
        _require("format_version" not in absent, "format_version", None, FORMAT_VERSION)
        _require(value["format_version"] == FORMAT_VERSION, "format_version", value["format_version"], FORMAT_VERSION)
        _require(not absent, "manifest", f"no {', '.join(absent)}", "all fields of the format")
        known = {name: value[name] for name in names}
        for name in ("classes", "seen_clips", "parts"):
            _require(isinstance(known[name], list), name, known[name], "a list")
            known[name] = tuple(known[name])
        known["parts"] = tuple(part_entry(part, number) for number, part in enumerate(known["parts"]))
        _require(bool(known["parts"]), "parts", 0, "at least one part")
        part_names = [part.name for part in known["parts"]]
        _require(len(set(part_names)) == len(part_names), "parts", part_names[:5], "distinct names")
        return cls(**known)


def part_entry(value: Any, number: int) -> PartEntry:
    """One entry of the manifest's list of parts, checked."""
    where = f"parts[{number}]"
    good = isinstance(value, dict) and {"name", "clips", "rows", "sha256"} <= set(value)
    _require(good, where, value, "name, clips, rows and sha256")
    name, clips, rows, hashes = value["name"], value["clips"], value["rows"], value["sha256"]
    good = isinstance(name, str) and _PART.fullmatch(name) is not None
    _require(good, f"{where}.name", name, "a name like part-00000, inside the store's folder")
    for key, count in (("clips", clips), ("rows", rows)):
        good = isinstance(count, int) and not isinstance(count, bool) and 0 < count < 2**48
        _require(good, f"{where}.{key}", count, "a positive integer")
    good = (
        isinstance(hashes, dict)
        and {CLIPS, LANDMARKS} <= set(hashes) <= {CLIPS, LANDMARKS, VISIBILITY}
        and all(isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in hashes.values())
    )
    _require(good, f"{where}.sha256", hashes, f"the SHA-256 of {CLIPS} and of {LANDMARKS}, and of {VISIBILITY} at most")
    return PartEntry(name, clips, rows, dict(hashes))


def _require(good: bool, name: str, found: Any, expected: Any) -> None:
    if not good:
        raise DataError(f"field {name} is {_short(found)}, expected {expected}")


def _short(value: Any) -> str:
    """A value for an error message: one line, never longer than that."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Whether `value` can stand in the table: a string of at most `MAX_TEXT` printable characters, valid as UTF-8."""
    return isinstance(value, str) and len(value) <= MAX_TEXT and is_printable(value)


def is_digest(value: Any) -> bool:
    """Whether `value` is the digest of a clip as `hex_digests` writes it: 16 hexadecimal digits."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def is_nan(frames: np.ndarray) -> np.ndarray:
    """Where float16 or float32 `frames` are missing (float16 by its bits: numpy's own test is 3 times slower)."""
    if frames.dtype == np.float16:
        return (frames.view(np.uint16) & 0x7FFF) > 0x7C00
    return np.isnan(frames)


def clip_digests(landmarks: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """64-bit content hashes of a batch of clips.

    landmarks (B,T,J,C), float16 or float32 (anything else is cast to float32); lengths (B,) counts the frames of each
    clip that belong to it, default T -> (B,) uint64. The hash is the first 8 bytes, little-endian, of SHA-256
    (processors have instructions for it) over the shape (three little-endian uint32) and the little-endian bytes of the
    frames; all NaNs count as the same NaN, so it does not depend on the machine.
    """
    dtype = np.dtype("<f2") if landmarks.dtype == np.float16 else np.dtype("<f4")
    frames = np.ascontiguousarray(landmarks, dtype=dtype)
    count, steps, points, axes = frames.shape
    one_nan = np.array(np.nan, dtype).view(f"<u{dtype.itemsize}")
    found, heads = bytearray(), {}  # copying a state is cheaper than making one
    for start in range(0, count, CACHED_CLIPS):
        piece = frames[start : start + CACHED_CLIPS]
        odd = is_nan(piece) & (piece.view(f"<u{dtype.itemsize}") != one_nan)
        if odd.any():
            piece = np.where(odd, dtype.type(np.nan), piece)
        for clip, values in enumerate(piece, start):
            length = steps if lengths is None else int(lengths[clip])
            if length not in heads:
                heads[length] = hashlib.sha256(struct.pack("<3I", length, points, axes))
            state = heads[length].copy()
            state.update(values[:length])
            found += state.digest()[:8]
    return np.frombuffer(bytes(found), dtype="<u8").astype(np.uint64)


def clip_digest(landmarks: np.ndarray) -> int:
    """`clip_digests` of one clip (T,J,C)."""
    return int(clip_digests(landmarks[None])[0])


def hex_digests(digests: np.ndarray | Iterable[int]) -> list[str]:
    """Digests as sorted, distinct 16-digit hex strings: the form of `seen_clips`."""
    return [f"{digest:016x}" for digest in sorted({int(digest) for digest in digests})]


def split_hash(digests: np.ndarray | Iterable[int]) -> str:
    """Hash of a set of clips: 32 hex digits that do not depend on the order of `digests` (uint64)."""
    ordered = np.sort(np.asarray(list(digests), dtype="<u8"))
    return hashlib.blake2b(ordered, digest_size=16).hexdigest()


def require_disjoint(seen_clips: Iterable[str], test_digests: np.ndarray | Iterable[int], what: str) -> None:
    """Refuse a generator that was trained on clips it is to be judged with.

    seen_clips: hex digests of the clips it saw (of a manifest or a checkpoint); test_digests (N,) uint64; what: the
    name of the thing that saw them, for the message. `DataError` counts the shared clips and names one.
    """
    shared = sorted(set(seen_clips) & set(hex_digests(test_digests)))
    if shared:
        raise DataError(
            f"{what}: was trained on {len(shared)} of the test clips (the first has digest {shared[0]}), so its scores "
            "would be worthless; train the generator on the training split of this very data"
        )
