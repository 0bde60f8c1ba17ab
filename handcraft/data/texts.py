"""The columns of text in a store's table, on their way there: whole columns are checked at once, and only where one
does not fit are its texts looked at, to name the clip."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from handcraft.data.manifest import MAX_PROVENANCE, MAX_TEXT, is_text
from handcraft.errors import DataError

PROVENANCE = "provenance"
UNPRINTABLE = r"[\x00-\x1f\x7f-\x9f]"  # pyarrow's strings are UTF-8, so halves of surrogate pairs never get here


def text_column(name: str, values: Sequence[Any] | pa.Array, ids: Sequence[str] | pa.Array, path: Path) -> pa.Array:
    """A column of a store's table, (B,) strings. values: strings or a pyarrow array of them; of the column
    `provenance` also what JSON can say, or None.

    `DataError` names the first of the clips `ids` whose text a reader would refuse: an id, group or split of more than
    `MAX_TEXT` characters or with unprintable ones, an empty id, a provenance of more than `MAX_PROVENANCE` bytes.
    """
    if isinstance(values, pa.Array):
        found = values
    else:
        values = [_json_text(value) for value in values] if name == PROVENANCE else list(values)
        try:
            found = pa.array(values, pa.string())
        except (pa.ArrowException, UnicodeError, TypeError):
            found = None
    if found is not None and _fits(name, found):
        return found
    for id, text in zip(_plain(ids), _plain(values), strict=True):
        _require(name, id, text, path)
    raise DataError(f"{path}: column {name} has type {found.type}, expected strings")


def _fits(name: str, column: pa.Array) -> bool:
    if column.type != pa.string() or column.null_count:
        return False
    if not len(column):
        return True
    if name == PROVENANCE:
        return pc.max(pc.binary_length(column)).as_py() <= MAX_PROVENANCE
    few = pc.unique(column)
    lengths = pc.min_max(pc.utf8_length(few)).as_py()
    strange = pc.any(pc.match_substring_regex(few, UNPRINTABLE)).as_py()
    return lengths["max"] <= MAX_TEXT and not strange and (name != "id" or lengths["min"] > 0)


def _require(name: str, id: Any, text: Any, path: Path) -> None:
    if name == PROVENANCE:
        try:
            size = len(text.encode())
        except (AttributeError, UnicodeError):
            raise DataError(f"{path}: clip {id!r} has a provenance that is no text: {str(text)[:80]!a}") from None
        if size > MAX_PROVENANCE:
            raise DataError(f"{path}: clip {id!r} has a provenance of {size} bytes, expected at most {MAX_PROVENANCE}")
    elif not is_text(text) or (name == "id" and not text):
        raise DataError(
            f"{path}: clip {str(id)[:80]!r} has {name} {str(text)[:80]!r}, expected text of at most {MAX_TEXT} "
            "printable characters"
        )


def _json_text(value: Mapping[str, Any] | str | None) -> str:
    return value if isinstance(value, str) else json.dumps(value, allow_nan=False) if value else ""


def _plain(values: Sequence[Any] | pa.Array) -> list[Any]:
    return values.to_pylist() if isinstance(values, pa.Array) else list(values)
