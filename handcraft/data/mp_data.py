"""Folders of MediaPipe Holistic landmarks as a widespread tutorial lays them out: `MP_Data/WORD/CLIP/FRAME.npy`.

A file is one frame, a row of numbers as MediaPipe gives them (x and y as fractions of the picture), part after part:

    1662    pose 33 x (x, y, z, visibility), face 468 x (x, y, z), left hand 21 x (x, y, z), right hand 21 x (x, y, z)
    258     pose 33 x (x, y, z, visibility), left hand 21 x (x, y, z), right hand 21 x (x, y, z)

A part whose numbers are all 0 was not detected, and is missing. Visibility is left out.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from handcraft.data.clip_files import FilesSummary, clips_by_folder, entries, write_store
from handcraft.data.untrusted import read_npy
from handcraft.errors import DataError
from handcraft.layouts import layout as find_layout

_HANDS = {"left_hand": (21, 3), "right_hand": (21, 3)}
ROWS: Mapping[int, tuple[str, Mapping[str, tuple[int, int]]]] = {
    1662: ("holistic543", {"pose": (33, 4), "face": (468, 3), **_HANDS}),
    258: ("holistic75", {"pose": (33, 4), **_HANDS}),
}
"""Numbers a frame -> layout, and the file's parts in order: points, and numbers a point."""

_NUMBER = re.compile("[0-9]{1,9}")


def import_mp_data(
    folder: Path | str,
    out: Path | str,
    *,
    fps: float | None = None,
    licence: str | None = None,
    aspect: float | None = None,
    leave_out_missing: bool = False,
    progress: bool | None = None,
) -> FilesSummary:
    """Make the raw store `out` of the folder `MP_Data`: a class for each WORD, clip ids WORD-CLIP, no groups.

    The first frame's length decides the layout: holistic543 for 1662 numbers, holistic75 for 258. `DataError`, and no
    store, as from `read_clip` for any of the clips, and as from `write_store`, which also explains the other arguments.
    """
    folder = Path(folder)
    clips = clips_by_folder(folder, "")
    numbers = len(_frame(_frames(clips[0].path)[0], ROWS))
    return write_store(
        clips,
        lambda clip: read_clip(clip.path, numbers),
        out,
        layout=ROWS[numbers][0],
        fps=fps,
        licence=licence,
        aspect=aspect,
        source={"command": "import-mp-data", "folder": folder.name},
        leave_out_missing=leave_out_missing,
        progress=progress,
    )


def read_clip(folder: Path | str, numbers: int) -> np.ndarray:
    """The frames of one clip's folder, in the order of their numbers: (T,J,3) float32 in the layout of `ROWS[numbers]`,
    NaN = missing, then in all coordinates.

    `DataError`: no frames, a number left out, a name that is no number, a file that does not hold a row of `numbers`
    floating-point numbers, infinite ones.
    """
    folder = Path(folder)
    with np.errstate(over="ignore", invalid="ignore"):  # overflows show as infinity just below; a NaN may signal
        rows = np.stack([_frame(path, [numbers]) for path in _frames(folder)]).astype(np.float32)
    if np.isinf(rows).any():
        raise DataError(f"{folder}: holds infinite coordinates; write a part that is missing as zeros")
    layout, blocks = ROWS[numbers]
    parts, start = {}, 0
    for name, (points, values) in blocks.items():
        block = rows[:, start : start + points * values].reshape(len(rows), points, values)
        missing = (block == 0).all(axis=(1, 2), keepdims=True) | np.isnan(block).any(axis=2, keepdims=True)
        parts[name] = np.where(missing, np.nan, block)[..., :3]
        start += points * values
    return np.concatenate([parts[part.name] for part in find_layout(layout).parts], axis=1)


def _frames(folder: Path) -> list[Path]:
    """The files of a clip's frames, in order: numbered without a gap, from any number on."""
    paths = entries(folder, ".npy")
    if not paths:
        raise DataError(f"{folder}: holds no frame, expected files 0.npy, 1.npy, ...")
    strange = [path for path in paths if not _NUMBER.fullmatch(path.stem)]
    if strange:
        raise DataError(f"{strange[0]}: its name is no number, expected frames named 0.npy, 1.npy, ...; move it away")
    first = int(paths[0].stem)
    for wanted, path in enumerate(paths, first):
        if int(path.stem) != wanted:
            raise DataError(f"{path}: expected frame {wanted} here: one is left out or there twice; number them anew")
    return paths


def _frame(path: Path, lengths: Collection[int]) -> np.ndarray:
    """The row of numbers in one frame's file, of one of these lengths."""
    row = read_npy(path)
    if row.ndim != 1 or len(row) not in lengths or row.dtype.kind != "f":
        raise DataError(
            f"{path}: holds {row.dtype} of shape {row.shape}, expected a row of {' or '.join(map(str, lengths))} "
            "floating-point numbers"
        )
    return row
