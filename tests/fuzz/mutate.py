"""Damage to a folder of files, a function of a number alone, so that every finding can be made again.

Most mutations change the bytes of one file, near its ends as often as anywhere, since there the headers lie; some
change what the folder holds: files lost, exchanged, renamed, or replaced by links and pipes.
"""

import os
import random
from pathlib import Path

_HUGE = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_NAMES = ("../outside", "a b", ".hidden", "é" * 40, "x" * 200, "con", "-rf", "a\nb")
_TEXTS = (
    "",
    "0",
    "-1",
    "1e999",
    "99999999999999999999",
    "NaN",
    "null",
    "[]",
    "../../etc/passwd",
    "\x1b[2J",
    "\x00",
    '"',
)
_STRUCTURE_SHARE = 0.08
_EDGE = 160  # bytes at either end of a file in which a header is likely


def mutate(folder: Path, number: str) -> str:
    """Damage one thing in `folder`, which holds nothing but the files of one valid input; say what was done."""
    rng = random.Random(number)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    name = path.relative_to(folder)
    if rng.random() < _STRUCTURE_SHARE:
        change = rng.choice((_lose, _exchange, _rename, _link, _pipe, _empty))
        change(path, rng.choice(files), folder, rng)
        return f"{name}: {change.__name__.strip('_')}"
    content, done = path.read_bytes(), []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        change = rng.choice((_flip, _flip, _flip, _set, _number, _cut, _remove, _repeat, _insert, _text, _swap))
        place = _place(len(content), rng)
        done.append(f"{change.__name__.strip('_')} at {place} of {len(content)}")
        content = change(content, place, rng)
    path.write_bytes(content)
    return f"{name}: {', '.join(done)}"


def _place(size: int, rng: random.Random) -> int:
    """Where to change a file of `size` bytes: anywhere, near its beginning or near its end."""
    first, last = rng.choice(((0, size), (0, min(size, _EDGE)), (max(size - _EDGE, 0), size)))
    return rng.randrange(first, max(last, first + 1))


def _flip(content: bytes, place: int, rng: random.Random) -> bytes:
    flipped = bytearray(content or b"\0")
    flipped[min(place, len(flipped) - 1)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _set(content: bytes, place: int, rng: random.Random) -> bytes:
    return content[:place] + bytes([rng.choice((0, 0xFF, 0x80, rng.randrange(256)))]) + content[place + 1 :]


def _number(content: bytes, place: int, rng: random.Random) -> bytes:
    """A binary number of 2, 4 or 8 bytes becomes an extreme one."""
    size = rng.choice((2, 4, 8))
    value = (rng.choice(_HUGE) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
    return content[:place] + value + content[place + size :]


def _cut(content: bytes, place: int, rng: random.Random) -> bytes:
    return content[:place]


def _remove(content: bytes, place: int, rng: random.Random) -> bytes:
    return content[:place] + content[place + rng.choice((1, 2, 8, 64)) :]


def _repeat(content: bytes, place: int, rng: random.Random) -> bytes:
    size = rng.choice((1, 8, 64, 512))
    return content[:place] + content[place : place + size] * rng.choice((2, 3, 50)) + content[place + size :]


def _insert(content: bytes, place: int, rng: random.Random) -> bytes:
    return content[:place] + rng.randbytes(rng.choice((1, 4, 33))) + content[place:]


def _text(content: bytes, place: int, rng: random.Random) -> bytes:
    """A run of digits or letters from `place` on becomes a text that readers may take for something."""
    end = place
    while end < len(content) and content[end : end + 1].isalnum():
        end += 1
    return content[:place] + rng.choice(_TEXTS).encode() + content[end:]


def _swap(content: bytes, place: int, rng: random.Random) -> bytes:
    """Two pieces of equal size change places."""
    size = rng.choice((1, 4, 16))
    other = _place(len(content), rng)
    first, second = sorted((place, other))
    if second < first + size:
        return content
    piece, far = content[first : first + size], content[second : second + size]
    return content[:first] + far + content[first + size : second] + piece + content[second + size :]


def _lose(path: Path, other: Path, folder: Path, rng: random.Random) -> None:
    path.unlink()


def _exchange(path: Path, other: Path, folder: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _rename(path: Path, other: Path, folder: Path, rng: random.Random) -> None:
    name = rng.choice((rng.choice(_NAMES), rng.choice(_NAMES) + path.suffix, other.name + "x"))
    target = path.parent / name.replace("/", "_")
    path.rename(target)


def _link(path: Path, other: Path, folder: Path, rng: random.Random) -> None:
    """A link to the same content outside of the folder: a reader that follows it would notice no difference."""
    outside = folder.parent / "outside"
    outside.unlink(missing_ok=True)
    path.rename(outside)
    path.symlink_to(outside)


def _pipe(path: Path, other: Path, folder: Path, rng: random.Random) -> None:
    """A reader that opens it waits for ever."""
    path.unlink()
    os.mkfifo(path)


def _empty(path: Path, other: Path, folder: Path, rng: random.Random) -> None:
    path.write_bytes(b"")
