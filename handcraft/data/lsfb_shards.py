"""LSFB's isolated signs, version 3: WebDataset shards (`shards/500/shard_000000.tar`, ...), read into a raw store.

    KEY.pose.PART.npy   (T,points,3) or (T,points,2): upper_pose 23, left_hand and right_hand 21, lips 40, left_eye and
                        right_eye 16; NaN = not detected
    KEY.label.txt       the sign                   KEY.label.idx    its number in the data set
    KEY.signer.txt      the signer

Facts from ppoitier's sign-language-data-loading 1.0.2 (`sldl/configs/lsfb_isol.py`, `dataset.py`) and his
sign-language-tools 1.0.0 (`pose/mediapipe`): upper_pose is MediaPipe's pose 0 to 22, lips and eyes are vertices of the
face mesh in ascending order, sides are the signer's own. A store gets all that its layout has a place for: of lips and
eyes the twelve points that the paper uses, in `holistic87`; hips and legs, pose 23 to 32, are missing in every frame.
"""

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from handcraft.data.clip_files import ClipFile, FilesSummary, write_store
from handcraft.data.npy import read_array
from handcraft.data.tar import tar_members
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import FACE12, Layout, layout

FPS = 50.0
UPPER_POSE = 23
LIPS = (
    *(0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181),
    *(185, 191, 267, 269, 270, 291, 308, 310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415),
)
RIGHT_EYE = (7, 33, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 246)
LEFT_EYE = (249, 263, 362, 373, 374, 380, 381, 382, 384, 385, 386, 387, 388, 390, 398, 466)
FACE_PARTS = {"lips": LIPS, "left_eye": LEFT_EYE, "right_eye": RIGHT_EYE}
POINTS = {"upper_pose": UPPER_POSE, "left_hand": 21, "right_hand": 21} | {k: len(v) for k, v in FACE_PARTS.items()}
FACE12_AT = tuple(
    (part, vertices.index(vertex)) for vertex in FACE12 for part, vertices in FACE_PARTS.items() if vertex in vertices
)
"""Part and place in its array of each face point of `holistic87`, in its order."""
_ARRAY = "pose.{}.npy"
_FIELDS = {"label.txt", "signer.txt", *map(_ARRAY.format, POINTS)}
_MOST_FILES = 64  # of one sample: LSFB has a dozen
_LONGEST_TEXT = 1024  # bytes of a sign or a signer: a store takes 256 characters


def import_shards(
    folder: Path | str,
    out: Path | str,
    *,
    test_shards: Sequence[int] = (0,),
    validation_shards: Sequence[int] = (1, 2),
    fps: float | None = FPS,
    licence: str | None = None,
    aspect: float | None = None,
    leave_out_missing: bool = False,
    progress: bool | None = None,
) -> FilesSummary:
    """Read the LSFB shards in `folder` (all its .tar files) into the new raw store `out`, a clip at a time.

    The shards are read twice, for the signs and then for the landmarks. test_shards, validation_shards: numbers at the
    end of their names whose clips are marked test and validation; the others are marked train. The defaults are those
    of sign-language-data-loading 1.0.2; its earlier versions divided the shards otherwise, so compare results of the
    same division only. Without either, no clip is marked.

    Classes are the sorted signs; the data set's own numbers are not kept. The layout is `holistic87` if the shards hold
    lips and both eyes, `holistic75` if not; the coordinates are xyz or xy as in the shards. Other parts are passed
    over, and named in the summary. fps, licence, aspect, leave_out_missing, progress: see `write_store`.

    `DataError`, and no store, for: no shard, a damaged one (see `tar_members`), a shard asked for that is not there, a
    sample without a label or a part, arrays of another shape, an id used twice. `ConfigError`: a shard for both.
    """
    folder = Path(folder)
    shards = _shards(folder)
    both = sorted(set(test_shards) & set(validation_shards))
    if both:
        raise ConfigError(f"shard {both[0]} is for test and for validation; name it once")
    marks = dict.fromkeys(validation_shards, "validation") | dict.fromkeys(test_shards, "test")
    absent = sorted(set(marks) - set(shards))
    if absent:
        raise DataError(
            f"{folder}: has no shard {absent[0]}; it has {_numbers(shards)}: say which are for test and for validation "
            "(test_shards, validation_shards), none to leave the clips unmarked"
        )
    clips, first = [], {}
    for number, shard in shards.items():
        for id, fields in _samples(shard):
            first = first or fields
            label = _text(shard, id, "label.txt", fields.get("label.txt"))
            signer = _text(shard, id, "signer.txt", fields.get("signer.txt", b""))
            clips.append(ClipFile(shard, id, label, signer, marks.get(number, "train") if marks else ""))
    if not clips:
        raise DataError(f"{folder}: its shards hold no sample; fetch them again")
    _require_distinct(folder, [clip.id for clip in clips])
    held = layout("holistic87" if all(_ARRAY.format(part) in first for part in FACE_PARTS) else "holistic75")
    coordinates = _array(clips[0].path, clips[0].id, first, "upper_pose").shape[2]
    samples = itertools.chain.from_iterable(map(_samples, shards.values()))

    def read(clip: ClipFile) -> np.ndarray:
        id, fields = next(samples, ("", {}))
        if id != clip.id:
            raise DataError(f"{clip.path}: has changed while it was read; import it again")
        return _frames(clip, fields, held, coordinates)

    summary = write_store(
        clips,
        read,
        out,
        layout=held.name,
        coordinates="xyz"[:coordinates],
        fps=fps,
        licence=licence,
        aspect=aspect,
        source={
            "command": "import-lsfb-shards",
            "folder": folder.resolve().name,
            "shards": [path.name for path in shards.values()],
        },
        leave_out_missing=leave_out_missing,
        progress=progress,
    )
    return replace(summary, notes=tuple(_notes(shards, marks, first, held)))


def _shards(folder: Path) -> dict[int, Path]:
    """The .tar files of a folder by the number at the end of their names, in its order."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix == ".tar"]
    except OSError as error:
        raise DataError(f"{folder}: not a folder that can be read ({error.strerror})") from None
    found: dict[int, Path] = {}
    for path in sorted(paths):
        digits = re.search("[0-9]{1,9}$", path.stem)
        if not digits or found.setdefault(int(digits[0]), path) is not path:
            raise DataError(f"{path}: expected shards with a number of their own each, like shard_000000.tar")
    if not found:
        raise DataError(f"{folder}: holds no .tar file; expected the shards of one vocabulary, as in shards/500")
    return dict(sorted(found.items()))


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key of each sample, and what its files hold by the rest of their names; files that are not ours count as empty.

    WebDataset's rule: the files of a sample follow one another, and the key ends at the first dot of the file's name.
    """
    for key, members in itertools.groupby(tar_members(shard), key=lambda member: _key(member[0])):
        fields: dict[str, bytes] = {}
        for name, content in members:
            field = name[len(key) + 1 :]
            if field in fields or len(fields) == _MOST_FILES:
                what = f"two files {field!a:.80}" if field in fields else f"over {_MOST_FILES} files"
                raise DataError(f"{shard}: sample {key!a:.80} has {what}; it is no shard of LSFB")
            fields[field] = content if field in _FIELDS else b""
        yield key, fields


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _text(shard: Path, id: str, name: str, content: bytes | None) -> str:
    """A sign or a signer, without the line's end."""
    try:
        if content is None or len(content) > _LONGEST_TEXT:
            raise ValueError("there is none" if content is None else f"{len(content)} bytes")
        return content.decode().strip()
    except ValueError as error:
        raise DataError(f"{shard}: {name} of sample {id!a:.80} is not a short text: {error}") from None


def _require_distinct(folder: Path, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    twice = next((id for id in ids if id in seen or seen.add(id)), None)
    if twice is not None:
        raise DataError(f"{folder}: sample {twice!a:.80} occurs twice; keep the shards of one vocabulary in a folder")


def _array(shard: Path, id: str, fields: Mapping[str, bytes], part: str) -> np.ndarray:
    """One array (T,points,2 or 3), floating point."""
    name = _ARRAY.format(part)
    if name not in fields:
        raise DataError(f"{shard}: sample {id!a:.80} has no {name}; it is damaged, or no shard of LSFB")
    try:
        array = read_array(io.BytesIO(fields[name]), len(fields[name]))
    except ValueError as error:
        raise DataError(f"{shard}: {name} of sample {id!a:.80} is not readable: {error}") from None
    if array.ndim != 3 or array.shape[1] != POINTS[part] or array.shape[2] not in (2, 3) or array.dtype.kind != "f":
        raise DataError(
            f"{shard}: {name} of sample {id!a:.80} is {array.dtype} of shape {array.shape}, expected floating point "
            f"(frames, {POINTS[part]}, 2 or 3)"
        )
    return array


def _parts(held: Layout) -> list[str]:
    """The parts of a shard that a store of layout `held` is made from."""
    return [part for part in POINTS if "face" in held.slices or part not in FACE_PARTS]


def _frames(clip: ClipFile, fields: Mapping[str, bytes], held: Layout, coordinates: int) -> np.ndarray:
    """One sample as (T,J,C) float32, NaN where the shards have no landmark."""
    places = held.slices
    arrays = {part: _array(clip.path, clip.id, fields, part) for part in _parts(held)}
    found = {(len(array), array.shape[2]) for array in arrays.values()}
    if len(found) > 1 or found != {(len(arrays["upper_pose"]), coordinates)}:
        raise DataError(
            f"{clip.path}: the parts of sample {clip.id!a:.80} have (frames, coordinates) {sorted(found)}; expected "
            f"the same of each, with {coordinates} coordinates"
        )
    frames = np.full((len(arrays["upper_pose"]), held.landmarks, coordinates), np.nan, dtype=np.float32)
    frames[:, :UPPER_POSE] = arrays["upper_pose"]
    for hand in ("left_hand", "right_hand"):
        frames[:, places[hand]] = arrays[hand]
    if "face" in places:
        frames[:, places["face"]] = np.stack([arrays[part][:, at] for part, at in FACE12_AT], axis=1)
    return frames


def _notes(
    shards: Mapping[int, Path], marks: Mapping[int, str], first: Mapping[str, bytes], held: Layout
) -> Iterator[str]:
    """What a user has to know about the store: how it is divided, and what it lacks."""
    if marks:
        groups = {
            name: [n for n in shards if marks.get(n, "train") == name] for name in ("train", "validation", "test")
        }
        yield "shards: " + "; ".join(f"{name} {_numbers(numbers)}" for name, numbers in groups.items() if numbers)
    yield "missing in every frame: hips and legs (pose 23 to 32), which LSFB's shards do not hold"
    kept = "the 12 points of the paper, from lips and eyes" if "face" in held.slices else "nothing"
    arrays = (re.fullmatch(r"pose\.(.+)\.npy", field) for field in first)
    others = sorted(ascii(found[1])[1:-1][:40] for found in arrays if found and found[1] not in _parts(held))
    yield f"of the face: {kept}" + (f"; passed over: {', '.join(others)}" if others else "")


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
