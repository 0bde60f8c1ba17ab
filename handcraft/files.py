"""Files that are whole or absent: every write goes to a temporary name in the same folder and is renamed into place."""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from handcraft.errors import DataError

TEMPORARY = ".partial-"  # names that begin so are leftovers of an interrupted write; readers never open them
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
LARGEST_JSON = 64 << 20  # bytes: far more than the manifest of a million clips; parsed, it takes 30 times as much


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    Serves a file (a plain replace) and a folder (the target must not exist yet). Contents reach the disk before the
    name does, so that what has its name is whole even after a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{path.name}"
    try:
        yield temporary
        _to_disk(*(temporary.rglob("*") if temporary.is_dir() else ()), temporary)
        os.replace(temporary, path)
        _to_disk(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _to_disk(*paths: Path) -> None:
    """Come back when the contents of files, and the names in folders, are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON atomically. NaN and infinity are refused: JSON has no word for them."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path | str, largest: int = LARGEST_JSON) -> Any:
    """Read a JSON file. `DataError` names one that is missing, damaged, no ordinary file, of more than `largest` bytes,
    or in which an object has two values of one name or a number is NaN, infinite or beyond what a float can hold."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is no ordinary file, expected a JSON file")
        if path.stat().st_size > largest:
            raise DataError(f"{path}: has {path.stat().st_size} bytes, expected at most {largest}")
        text = path.read_text(encoding="utf-8")
        numbers = {"parse_float": _number, "parse_constant": _number, "parse_int": _integer}
        return json.loads(text, object_pairs_hook=_object, **numbers)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); the file is damaged, restore or remake it") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"two values of {twice!a:.80} in one object")
    return found


def _integer(text: str) -> int:
    _number(text)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.80} is no finite number")
    return value


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """`value` (plain JSON values) and a last field `checksum`, so that damage to a file of settings is noticed."""
    return {**value, "checksum": _checksum(value)}


def verified(value: Any, path: Path | str) -> Any:
    """`value` as `read_json` gave it, without the field `checksum`; `DataError` if that is there and does not fit.

    It guards against damage, not against forgery: whoever changes the file on purpose writes the checksum that the
    error names, or removes the field.
    """
    if not isinstance(value, dict) or "checksum" not in value:
        return value
    value = dict(value)
    found = value.pop("checksum")
    try:
        expected = _checksum(value)
    except RecursionError:
        raise DataError(f"{path}: is nested too deeply; restore or remake it") from None
    if found != expected:
        raise DataError(
            f"{path}: has been changed since it was written: restore it, or remake what it belongs to (if the change "
            f"was yours, the field checksum must be {expected})"
        )
    return value


def _checksum(value: dict[str, Any]) -> str:
    """SHA-256 of the value, whatever the order of its fields and the blanks between them."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def is_printable(text: str) -> bool:
    """Whether a text has no control characters, which could steer a terminal, and no halves of surrogate pairs."""
    return not _UNPRINTABLE.search(text)


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
