"""Files from anywhere: what every reader of downloaded data needs, so that none of them is led astray.

A name or a path that stands in a file may point outside of the folder; a count may be forged; a link may lead anywhere;
a text may never end. Here each is compared with what is really there before it is used. All errors are `DataError`
and name the file. Readers of one format have modules of their own: npy.py, tar.py, parquet.py.
"""

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TextIO

import numpy as np

from handcraft.data.npy import read_array
from handcraft.errors import DataError
from handcraft.files import is_printable

LONGEST_NAME = 200  # bytes of a file name made from an id: file systems allow 255, and an ending must fit too
LONGEST_LINE = 1 << 20  # characters of a line of a CSV file


def file_name(text: str, where: Path | str) -> str:
    """`text` itself, if it can name a file in a folder: for ids and class names that become names of files.

    where: the file or argument that `text` comes from, for the error. Refused: nothing at all, `.`, `..` and other
    names that begin with a dot, separators of any system, control characters, more than `LONGEST_NAME` bytes.
    """
    good = (
        isinstance(text, str)
        and text
        and not text.startswith(".")
        and is_printable(text)
        and not set(text) & set("/\\")
        and not PureWindowsPath(text).drive
        and len(text.encode()) <= LONGEST_NAME
    )
    if not good:
        raise DataError(
            f"{where}: {_shown(text)} cannot be the name of a file; expected 1 to {LONGEST_NAME} bytes of printable "
            "text without / and \\ that does not begin with a dot: rename it"
        )
    return text


def relative_path(text: str, where: Path | str) -> PurePosixPath:
    """`text` as a path with `/`, if it leads nowhere but down: for paths that stand in a file.

    where: the file that `text` comes from, for the error. Refused: absolute paths, any `..`, backslashes and drive
    letters (a path elsewhere on another system), control characters.
    """
    path = PurePosixPath(text) if isinstance(text, str) else PurePosixPath()
    good = (
        path.parts
        and not path.is_absolute()
        and ".." not in path.parts
        and is_printable(text)
        and "\\" not in text
        and not PureWindowsPath(text).drive
    )
    if not good:
        raise DataError(f"{where}: {_shown(text)} is no path inside of a folder; expected one without .., \\ and root")
    return path


def path_inside(folder: Path | str, text: str, where: Path | str) -> Path:
    """`folder / text`, if `text` is a `relative_path` and nothing below `folder` on the way is a symbolic link.

    Whether the file exists is not asked: see `require_file`.
    """
    inside = Path(folder)
    for name in relative_path(text, where).parts:
        inside = inside / name
        if inside.is_symlink():
            raise DataError(f"{inside}: is a symbolic link, which could lead anywhere; put the file itself there")
    return inside


def require_file(path: Path | str, largest: int | None = None) -> int:
    """Size in bytes of the ordinary file `path`. A link, a folder, a device, a pipe or nothing at all is refused, and
    so is a file of more than `largest` bytes."""
    path = Path(path)
    try:
        if path.is_symlink():
            raise DataError(f"{path}: is a symbolic link, which could lead anywhere; put the file itself there")
        if not path.is_file():
            found = "is no ordinary file" if path.exists() else "no such file"
            raise DataError(f"{path}: {found}")
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # a name that the system cannot look up
        raise DataError(f"{path}: cannot be read ({error})") from None
    if largest is not None and size > largest:
        raise DataError(f"{path}: has {size} bytes, expected at most {largest}; it is not what its name says")
    return size


def require_memory(wanted: int, where: Path | str) -> None:
    """Refuse to read `wanted` bytes into memory if that is more than half of the machine's."""
    allowed = _memory() // 2
    if wanted > allowed:
        raise DataError(
            f"{where}: needs {wanted / 1e9:.1f} GB of memory, and this machine can spare {allowed / 1e9:.1f}; divide "
            "it into several files, or use a larger machine"
        )


def read_npy(path: Path | str) -> np.ndarray:
    """The array in the `.npy` file `path`: no pickle, no link, and nothing allocated that the file does not hold.

    Shape and dtype are whatever the file says: compare them with what you expect. The array cannot be written to.
    """
    size = require_file(path)
    require_memory(size, path)
    try:
        with open(path, "rb") as file:
            return read_array(file, size)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable .npy file: {error}") from None


def csv_rows(path: Path | str, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header, one at a time, as column name -> text; blank lines are skipped.

    columns: those that must be there; others are passed on. UTF-8, with or without a byte order mark. Refused: a name
    given twice in the header, a row with more or fewer cells than the header, lines of over `LONGEST_LINE` characters,
    cells of over 131,072, and quotes that do not end.
    """
    require_file(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(_lines(file), strict=True)
            names = next(lines, [])
            absent = [name for name in columns if name not in names]
            if absent or len(set(names)) != len(names):
                what = f"no column {absent[0]!r}" if absent else "two columns of one name"
                raise DataError(f"{path}: has {what}; its header is {_shown(','.join(names))}")
            for row in lines:
                if row and len(row) != len(names):
                    raise DataError(
                        f"{path}: line {lines.line_num} has {len(row)} cells, the header has {len(names)}; "
                        "put quotes around a text that holds a comma"
                    )
                if row:
                    yield dict(zip(names, row, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not readable as CSV ({error}); save it as UTF-8 text with commas") from None


def _lines(file: TextIO) -> Iterator[str]:
    """Lines of bounded length: a file may be one line of any size, and take no room on the disk (a sparse file)."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line has over {LONGEST_LINE} characters")
        yield line


def _memory() -> int:
    """Bytes of memory of this machine; without a way to ask, as much as any machine has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 50


def _shown(text: object) -> str:
    """A text from a file for an error message: one line, without control characters, of bounded length."""
    found = ascii(text)
    return found if len(found) <= 80 else found[:77] + "..."
