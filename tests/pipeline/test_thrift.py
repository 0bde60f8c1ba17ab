"""Descriptions in thrift's compact protocol: the values are those that were written, and damage is named."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handcraft.data.thrift import BINARY, BOOLEAN, INT32, INT64, LIST, STRUCT, Damaged, Reader, get, structs


def varint(value: int) -> bytes:
    content = bytearray()
    while value >= 0x80:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])


def number(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def write(fields: dict[int, tuple[int, object]]) -> bytes:
    """A struct, each field with its whole number as it comes or as the distance from the last."""
    content, last = b"", 0
    for field, (kind, value) in fields.items():
        code = 2 if kind == BOOLEAN and not value else kind
        near = 0 < field - last < 16
        content += bytes([(field - last) << 4 | code]) if near else bytes([code]) + number(field)
        content += encode(kind, value) if kind != BOOLEAN else b""
        last = field
    return content + b"\0"


def encode(kind: int, value: object) -> bytes:
    if kind in (INT32, INT64):
        return number(value)
    if kind == BINARY:
        return varint(len(value)) + value
    if kind == LIST:
        head = bytes([len(value) << 4 | STRUCT]) if len(value) < 15 else bytes([0xF0 | STRUCT]) + varint(len(value))
        return head + b"".join(map(write, value))
    return write(value)


def struct_of(values):
    return st.dictionaries(st.integers(1, 40), values, max_size=5)


INTEGERS = st.integers(-(2**31), 2**31 - 1).map(lambda n: (INT32, n)) | st.integers(-(2**63), 2**63 - 1).map(
    lambda n: (INT64, n)
)
LEAVES = INTEGERS | st.binary(max_size=200).map(lambda b: (BINARY, b)) | st.booleans().map(lambda b: (BOOLEAN, b))
STRUCTS = struct_of(
    LEAVES
    | struct_of(LEAVES).map(lambda s: (STRUCT, s))
    | st.lists(struct_of(LEAVES), max_size=20).map(lambda found: (LIST, found))
)


@given(STRUCTS, st.binary(max_size=5))
def test_what_is_written_is_read(struct, rest):
    reader = Reader(write(struct) + rest)
    assert reader.struct() == struct
    assert reader.content[reader.place :] == rest


@given(st.binary(max_size=80))
@example(b"\x19" + b"\x19" * 100_000)  # a list of a list of a list ...
@example(b"\x1c" * 100_000)
@example(b"\x19\xfc\xff\xff\xff\xff\x0f")  # a list of four billion structs
@example(b"\x18\xff\xff\xff\xff\x0f")  # a text of four billion bytes
@example(b"\x15" + b"\xff" * 20)
def test_anything_else_is_damaged(content):
    try:
        found = Reader(content).struct()
    except Damaged:
        return
    assert isinstance(found, dict)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short"),
        (b"\x15\x02", "cut short"),
        (write({1: (INT32, 5)})[:-1] + b"\x05\x02\x04\0", "field 1 comes twice"),
        (b"\x15" + varint(1 << 32) + b"\0", "more than 32 bits"),
        (b"\x1d\0", "unknown kind 13"),
    ],
)
def test_damage_is_named(content, message):
    with pytest.raises(Damaged, match=message):
        Reader(content).struct()


def test_fields_are_of_the_kind_asked_for():
    found = {1: (INT32, 0), 2: (LIST, [{}]), 3: (LIST, [1])}
    assert get(found, 1, INT32) == 0
    assert get(found, 9, INT32, default=7) == 7
    assert structs(found, 2) == [{}]
    for ask in (lambda: get(found, 1, INT64), lambda: get(found, 9, INT32), lambda: structs(found, 3)):
        with pytest.raises(Damaged, match="field"):
            ask()
