"""Thrift's compact protocol, in which Parquet files describe themselves: enough to walk over such a description.

pyarrow's own view of it cannot be had safely: asking a damaged file's metadata for a column ends the process.
"""

from collections.abc import Mapping
from typing import Any

BOOLEAN, INT32, INT64, BINARY, LIST, STRUCT = 1, 5, 6, 8, 9, 12
_DEEPEST = 8


class Damaged(ValueError):
    """What is read is no such description, or not a whole one."""


Struct = Mapping[int, tuple[int, Any]]
"""Field number -> kind and value: `bytes` for BINARY, a list for LIST, a `Struct` for STRUCT, a number."""


def get(struct: Struct, field: int, kind: int, default: Any = None) -> Any:
    """Value of a field, `default` where it is not there; `Damaged` if there is neither, or it has another kind."""
    found, value = struct.get(field, (kind, default))
    if found != kind or value is None:
        raise Damaged(f"field {field} is {'absent' if value is None else 'of another kind'}")
    return value


def structs(struct: Struct, field: int) -> list[Struct]:
    """Value of a field that is a list of structs; `Damaged` if it is none."""
    found = get(struct, field, LIST)
    if not all(isinstance(element, dict) for element in found):
        raise Damaged(f"field {field} is no list of structs")
    return found


class Reader:
    """Reads one struct from the start of `content`; `place` is then the first byte behind it.

    `Damaged`: the content is cut short, a number does not end or has too many bits, a field comes twice, or structs
    are nested deeper than any in Parquet.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def struct(self, depth: int = 0) -> dict[int, tuple[int, Any]]:
        found: dict[int, tuple[int, Any]] = {}
        field = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 0x0F
            field = field + delta if delta else self._number(32)
            if field in found:
                raise Damaged(f"field {field} comes twice")
            value = (kind == 1) if kind in (1, 2) else self._value(kind, depth)
            found[field] = (BOOLEAN if kind == 2 else kind, value)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise Damaged("nested too deeply")
        if kind in (1, 2, 3):  # booleans take a byte where they are elements of a list
            return self._byte()
        if kind in (4, INT32, INT64):
            return self._number(64 if kind == INT64 else 32)
        if kind == 7:
            return self._bytes(8)
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in (LIST, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > len(self.content) - self.place:  # every element takes a byte or more
                raise Damaged(f"a list claims {count} elements")
            return [self._value(head & 0x0F, depth + 1) for _ in range(count)]
        if kind == STRUCT:
            return self.struct(depth + 1)
        raise Damaged(f"a value of unknown kind {kind}")

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        start, self.place = self.place, self.place + count
        if self.place > len(self.content):
            raise Damaged("cut short")
        return self.content[start : self.place]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise Damaged("a number does not end")

    def _number(self, bits: int) -> int:
        """A signed number in zigzag order: 0, -1, 1, -2, ..."""
        value = self._varint()
        if value >> bits:
            raise Damaged(f"a number of more than {bits} bits")
        return (value >> 1) ^ -(value & 1)
