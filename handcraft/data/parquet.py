"""The table of a part, read from Parquet files that nobody vouches for.

A Parquet page says how many bytes it decompresses to, and a few hundred bytes of zstd can decompress to gigabytes; a
dictionary can hold one long text that a million rows refer to. So the headers of all pages are read first, and what
they ask for is held against the number of rows, which the caller has held against the size of a file. Texts stay in
their dictionaries until their lengths are known. Field numbers are those of parquet.thrift, the format's specification.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handcraft.data.thrift import BINARY, INT32, INT64, STRUCT, Damaged, Reader, Struct, get, structs

_SLACK = 1 << 16  # bytes a column may take beside its values: levels, dictionaries' indices, statistics
_LARGEST_DESCRIPTION = 1 << 20  # bytes of the description of a whole file; ours have 3,000
_LARGEST_HEADER = 1 << 16  # bytes of a page's header, most of them statistics: the smallest and largest text
_PAGES = {0: (5, 2), 2: (7, 2), 3: (8, 4)}  # data, dictionary, data of version 2: fields of description and encoding
_ENCODINGS = (0, 2, 3, 8)  # plain, dictionary (old and new name), run lengths; the others can repeat a long text
_TOO_LARGE = {"thrift_string_size_limit": 16 << 20, "thrift_container_size_limit": 1 << 14}


def read_table(
    path: Path, schema: pa.Schema, columns: Sequence[str], rows: int, longest: Mapping[str, int]
) -> pa.Table:
    """Some columns of the table in `path`, with the types of `schema`, none of which has an empty cell.

    rows: how many it must have; longest: for each column of text, the largest number of bytes a cell may have.
    `ValueError` says what is wrong, before more memory is taken than such a table can need.
    """
    texts = [name for name in columns if name in longest]
    try:
        with path.open("rb") as raw:
            _check(raw, columns, rows, longest)
        with pq.ParquetFile(path, read_dictionary=texts, **_TOO_LARGE) as file:
            for name in columns:
                if _type(file.schema_arrow, name) != schema.field(name).type:
                    raise ValueError(f"has no column {name} of type {schema.field(name).type}")
            table = file.read(columns=list(columns)).select(list(columns))
        for name in columns:
            if table[name].null_count:
                raise ValueError(f"column {name} has empty cells")
        for name in texts:
            for chunk in table[name].chunks:
                length = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
                if length > longest[name]:
                    raise ValueError(f"column {name} has a text of {length} bytes, expected at most {longest[name]}")
        table = table.cast(pa.schema([schema.field(name) for name in columns]))
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, Damaged) as error:
        raise ValueError(f"not a readable Parquet file ({error})") from None


def _type(schema: pa.Schema, name: str) -> pa.DataType:
    """Type of a column's values, whether or not they come in a dictionary."""
    found = schema.field(name).type
    return found.value_type if pa.types.is_dictionary(found) else found


def _check(raw: BinaryIO, columns: Sequence[str], rows: int, longest: Mapping[str, int]) -> None:
    """Refuse a file whose description is damaged, or asks for more than `rows` rows of these columns can take."""
    file = _description(raw)
    elements, groups = structs(file, 2), structs(file, 4)
    names = [get(element, 4, BINARY).decode(errors="replace") for element in elements[1:]]
    nested = any(get(element, 5, INT32, default=0) for element in elements[1:])
    if nested or not elements or get(elements[0], 5, INT32) != len(names):
        raise ValueError("holds nested columns")
    if get(file, 3, INT64) != rows or sum(get(group, 3, INT64) for group in groups) != rows:
        raise ValueError(f"holds {get(file, 3, INT64)} clips, the manifest says {rows}")
    for name in columns:
        if names.count(name) != 1:
            raise ValueError(f"has {'two columns' if name in names else 'no column'} {name}")
        allowed = rows * (longest.get(name, 8) + 12) + _SLACK
        for group in groups:
            chunks = structs(group, 1)
            if len(chunks) != len(names):
                raise Damaged("a group of rows lacks a column")
            allowed -= _pages(raw, chunks[names.index(name)], name, rows)
            if allowed < 0:
                raise ValueError(f"column {name} claims to be larger than {rows} cells of {longest.get(name, 8)} bytes")


def _description(raw: BinaryIO) -> Struct:
    """The `FileMetaData` at the end of the file."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(max(size - 8, 0))
    end = raw.read()
    length = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or length > min(size - 8, _LARGEST_DESCRIPTION):
        raise Damaged("it does not end as one")
    raw.seek(size - 8 - length)
    return Reader(raw.read(length)).struct()


def _pages(raw: BinaryIO, chunk: Struct, name: str, rows: int) -> int:
    """Bytes that the pages of one column decompress to, by their headers, and the headers themselves."""
    if chunk.keys() - {2, 3, 4, 5, 6, 7}:
        raise ValueError(f"column {name} lies in another file or is encrypted")
    column = get(chunk, 3, STRUCT)
    place = get(column, 9, INT64)
    dictionary = get(column, 11, INT64, default=0)
    if 0 < dictionary < place:
        place = dictionary
    end, found = place + get(column, 7, INT64), 0
    if place < 0 or end < place:
        raise Damaged(f"column {name} begins at {place} and ends at {end}")
    while place < end:
        raw.seek(place)
        reader = Reader(raw.read(_LARGEST_HEADER))
        header = reader.struct()
        kind, size, held = (get(header, field, INT32) for field in (1, 2, 3))
        if kind not in _PAGES:
            raise ValueError(f"column {name} holds a page of unknown kind {kind}")
        field, encoding_field = _PAGES[kind]
        page = get(header, field, STRUCT)
        encoding, values = get(page, encoding_field, INT32), get(page, 1, INT32)
        if encoding not in _ENCODINGS:
            raise ValueError(f"column {name} is encoded by method {encoding}, expected one of {list(_ENCODINGS)}")
        if min(size, held) < 0 or not 0 <= values <= rows:
            raise Damaged(f"a page of column {name} claims {values} values in {size} bytes")
        found += size + reader.place  # headers count, so that pages of nothing come to an end
        place += reader.place + held
    return found
