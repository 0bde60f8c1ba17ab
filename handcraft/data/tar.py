"""Tar archives, read member by member from files that nobody vouches for.

Python's own `tarfile` reads far more than plain files: links, devices, sparse files, and headers whose forged sizes
make some of its supported versions loop for ever or allocate what they claim. A shard of a data set holds plain files
and nothing else, so that is all this reader knows, by the POSIX format (ustar) with pax and GNU long names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from handcraft.data.untrusted import relative_path, require_file
from handcraft.errors import DataError

_BLOCK = 512
_LARGEST_HEADER = 1 << 16  # bytes of a pax or GNU name record
_PLAIN, _FOLDER, _PAX, _PAX_ALL, _LONG_NAME = (b"0", b"\0"), b"5", b"x", b"g", b"L"


def tar_members(path: Path | str, largest: int = 256 << 20) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every plain file in the uncompressed archive `path`, in order, one at a time.

    Names are relative paths with `/`, without a leading `./`; nothing is written to disk. Folders are passed over.
    `DataError`: an archive that is damaged, cut short or compressed; a name that leaves the folder; a link, a device or
    a sparse file; a member of more than `largest` bytes.
    """
    path = Path(path)
    size = require_file(path)
    name, length = None, None
    try:
        with path.open("rb") as file:
            while True:
                header = file.read(_BLOCK)
                if header[:2] == b"\x1f\x8b" and file.tell() <= _BLOCK:
                    raise ValueError("it is compressed; decompress it first (gunzip)")
                if len(header) < _BLOCK:
                    raise ValueError("it is cut short: it has no end mark")
                if not any(header):
                    return
                kind = header[156:157]
                _check_sum(header)
                held = _number(header[124:136]) if length is None or kind not in _PLAIN else length
                if held > size - file.tell():
                    raise ValueError(f"a member claims {held} bytes, more than the rest of the file")
                if kind in (_PAX, _PAX_ALL, _LONG_NAME):
                    record = _content(file, held, _LARGEST_HEADER)
                    if kind == _LONG_NAME:
                        name = record.rstrip(b"\0").decode()
                    elif kind == _PAX:
                        name, length = _pax(record, name, length)
                    continue
                found = name if name is not None else _name(header)
                if kind in _PLAIN:
                    yield relative_path(found, path).as_posix(), _content(file, held, largest)
                elif kind != _FOLDER or held:
                    raise ValueError(f"{found!a:.80} is no plain file (type {kind!r}); links and the like are not read")
                name, length = None, None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable tar archive: {error}") from None


def _content(file: BinaryIO, length: int, largest: int) -> bytes:
    """`length` bytes, and the padding behind them passed over."""
    if length > largest:
        raise ValueError(f"a member has {length} bytes, expected at most {largest}")
    content = file.read(length)
    file.seek(-length % _BLOCK, 1)
    return content


def _number(field: bytes) -> int:
    """Octal digits; or, where the first bit is set, a big-endian number in the other 95."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
    digits = field.split(b"\0")[0].strip()
    if not all(48 <= digit < 56 for digit in digits):
        raise ValueError(f"a header holds {digits!r:.40} in place of a number")
    return int(digits or b"0", 8)


def _check_sum(header: bytes) -> None:
    """Refuse a header whose bytes, those of the sum itself counted as blanks, do not add up to it."""
    if sum(header) - sum(header[148:156]) + 8 * 32 != _number(header[148:156]):
        raise ValueError("a header's checksum does not fit")


def _name(header: bytes) -> str:
    """The name in the header itself; ustar (not GNU's variant) has the front of a long one in another field."""
    name = header[:100].split(b"\0")[0].decode()
    prefix = header[345:500].split(b"\0")[0].decode() if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax(record: bytes, name: str | None, length: int | None) -> tuple[str | None, int | None]:
    """Name and size that the pax records `LENGTH KEY=VALUE\\n` give to the next member, where they give any."""
    while record:
        digits = record.split(b" ", 1)[0]
        taken = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        key, equals, value = record[len(digits) + 1 : max(taken - 1, 0)].partition(b"=")
        if not equals or record[taken - 1 : taken] != b"\n":
            raise ValueError("a pax header is damaged")
        if key == b"path":
            name = value.decode()
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise ValueError("a pax header is damaged")
            length = int(value)
        elif key.startswith(b"GNU.sparse"):
            raise ValueError("it holds a sparse file, which is not read")
        record = record[taken:]
    return name, length
