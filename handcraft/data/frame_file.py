"""`landmarks.npy` of a part while it is written: frames go to the disk as they come, hashed on their way."""

import errno
import hashlib
import io
import os
from pathlib import Path

import numpy as np

from handcraft.errors import DataError
from handcraft.files import sha256_file

_STAGE = 4 << 20  # bytes that go to the disk together
_ALIGNED = 4096  # where the memory and the length of what passes the cache begin and end, on every disk
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux


class FrameFile:
    """An npy file of frames (rows,J,C), little-endian `dtype`, that is not there yet.

    rows: how many it will hold; 0 where that is not known. The number stands at the head of the file, so only a file
    whose rows are foretold can be hashed while it is written. Such a one is also kept out of the system's cache of
    files, where the file system knows how: a million clips would push out everything else, and the copy into pages
    that are new to the process costs more than the hash.
    """

    def __init__(self, path: Path, dtype: np.dtype, points: tuple[int, int], rows: int = 0) -> None:
        self.path, self.rows = path, 0
        self._dtype, self._points, self._expected = dtype, points, rows
        self._head = self._header(rows)
        self._direct = _DIRECT if rows else 0
        try:
            self._file = self._open()
        except OSError as error:
            if not self._direct or error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)  # some file systems make it before they refuse
            self._direct = 0
            self._file = self._open()
        self._hash = hashlib.sha256()
        room = np.empty(_STAGE + _ALIGNED, np.uint8)
        begin = -room.ctypes.data % _ALIGNED
        self._stage, self._staged = room[begin : begin + _STAGE], 0
        self._take(np.frombuffer(self._head, np.uint8))

    def _open(self) -> io.FileIO:
        return open(self.path, "xb", buffering=0, opener=lambda path, flags: os.open(path, flags | self._direct, 0o666))

    def _header(self, rows: int) -> bytes:
        """numpy pads its header so that the first axis may grow: written first, rewritten in place at the end."""
        entry = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, entry | {"shape": (rows, *self._points)})
        return head.getvalue()

    def append(self, frames: np.ndarray) -> None:
        """Add contiguous frames (..., J, C) of the file's dtype."""
        self._take(frames.reshape(-1).view(np.uint8))
        self.rows += frames.size // (self._points[0] * self._points[1])

    def _take(self, content: np.ndarray) -> None:
        while len(content):
            some = content[: len(self._stage) - self._staged]
            self._stage[self._staged : self._staged + len(some)] = some
            self._staged += len(some)
            content = content[len(some) :]
            if self._staged == len(self._stage):
                self._flush()

    def _flush(self) -> None:
        """Hash what is staged, while it is in a core's cache, and write it."""
        left, self._staged = memoryview(self._stage[: self._staged]), 0
        if self._expected:
            self._hash.update(left)
        while left:
            if self._direct and len(left) % _ALIGNED:
                self._through_cache()
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._through_cache()

    def _through_cache(self) -> None:
        import fcntl  # where there is O_DIRECT there is this

        fcntl.fcntl(self._file, fcntl.F_SETFL, fcntl.fcntl(self._file, fcntl.F_GETFL) & ~self._direct)
        self._direct = 0

    def finish(self) -> str:
        """Complete the file; its SHA-256."""
        self._flush()
        head = self._header(self.rows)
        if len(head) != len(self._head):
            raise DataError(f"{self.path.parent}: the header of {self.path.name} outgrew its place; use smaller parts")
        if head != self._head:
            if self._direct:
                self._through_cache()
            self._file.seek(0)
            self._file.write(head)
        self.close()
        return self._hash.hexdigest() if self.rows == self._expected else sha256_file(self.path)

    def close(self) -> None:
        """Let go of the file, finished or not."""
        self._file.close()
