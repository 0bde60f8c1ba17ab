"""Tables from anywhere: what pyarrow writes comes back, whatever its options; what would decompress to more than its
rows can need is refused before it is decompressed."""

import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcraft.data.parquet import read_table

SCHEMA = pa.schema([("id", pa.string()), ("group", pa.string()), ("frames", pa.int64())])
LONGEST = {"id": 1024, "group": 1024}


def table(ids: list[str], groups: list[str] | None = None) -> pa.Table:
    columns = [ids, groups or ["g"] * len(ids), range(len(ids))]
    return pa.table([pa.array(column, entry.type) for column, entry in zip(columns, SCHEMA, strict=True)], SCHEMA)


def read(path, rows: int) -> pa.Table:
    return read_table(path, SCHEMA, SCHEMA.names, rows, LONGEST)


OPTIONS = {
    "ours": {"compression": "zstd"},
    "plain": {"use_dictionary": False, "compression": "none"},
    "pages of version 2": {"data_page_version": "2.0", "compression": "snappy"},
    "small pages": {"data_page_size": 64, "write_batch_size": 3, "compression": "gzip"},
    "row groups": {"row_group_size": 2},
    "a full dictionary": {"dictionary_pagesize_limit": 20, "write_batch_size": 2},
    "page index and checksums": {"write_page_index": True, "write_page_checksum": True},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_tables_come_back_however_they_were_written(tmp_path, options):
    wanted = table([f"clip {n % 7} é" for n in range(50)], ["x" * 1024, ""] * 25)
    pq.write_table(wanted, tmp_path / "t.parquet", **OPTIONS[options])
    assert read(tmp_path / "t.parquet", 50).equals(wanted)
    assert read_table(tmp_path / "t.parquet", SCHEMA, ["frames"], 50, LONGEST).equals(wanted.select(["frames"]))


@given(st.lists(st.text(max_size=40), min_size=1, max_size=30))
def test_any_texts_come_back(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "t.parquet"
    pq.write_table(table(texts, texts[::-1]), path, compression="zstd")
    assert read(path, len(texts)).equals(table(texts, texts[::-1]))


def test_columns_that_are_not_there_or_not_of_their_type_are_named(tmp_path):
    path = tmp_path / "t.parquet"
    for columns, message in (
        ({"id": ["a"], "frames": [1]}, "no column group"),
        ({"id": [1], "group": ["a"], "frames": [1]}, "no column id of type string"),
        ({"id": ["a"], "group": ["a"]}, "no column frames"),
        ({"id": [["a"]], "group": ["a"], "frames": [1]}, "nested"),
        ({"id": [{"id": "a"}], "group": ["a"], "frames": [1]}, "nested"),
        ({"id": ["a"], "group": pa.array([None], pa.string()), "frames": [1]}, "column group has empty cells"),
        ({"id": ["a", "b"], "group": ["a", "b"], "frames": [1, 2]}, "holds 2 clips, the manifest says 1"),
    ):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(ValueError, match=message):
            read(path, 1)


BOMBS = {
    "a long text": (table(["x" * (32 << 20), "b"]), {}),
    "a long text in many pages": (table(["x" * (1 << 20)] * 32), {"use_dictionary": False, "data_page_size": 1 << 20}),
    "a text in a dictionary that all rows refer to": (table(["x" * 60_000] * 3000), {}),
    "a text that grows from row to row": (
        table(["x" * n for n in range(2000)]),
        {"use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY"}},
    ),
}
LIMITED = """
import json, resource, sys
import pyarrow.parquet
from pathlib import Path
from test_parquet import read
for path, rows in json.loads(sys.argv[1]):
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        print(f"read {len(read(Path(path), rows))} rows")
    except ValueError as error:
        print(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used)
"""


def test_decompression_bombs_are_refused_before_they_go_off(tmp_path):
    jobs = []
    for case, (bomb, options) in BOMBS.items():
        jobs.append((str(tmp_path / case), len(bomb)))
        pq.write_table(bomb, tmp_path / case, compression="zstd", **options)
        assert (tmp_path / case).stat().st_size < 100_000
    command = [sys.executable, "-c", LIMITED, json.dumps(jobs)]
    here = Path(__file__).parent
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here).stdout.splitlines()
    words = ("claims to be larger", "claims to be larger", "expected at most 1024", "is encoded by")
    assert len(lines) == 2 * len(words)
    for word, message, grown in zip(words, lines[::2], lines[1::2], strict=True):
        assert word in message
        assert int(grown) < 24_000, f"kilobytes, for: {message}"


def test_damaged_pages_are_refused(tmp_path):
    """Every byte of a small file changed: read equal, or refused with ValueError."""
    file = io.BytesIO()
    wanted = table(["a", "b", "a"])
    pq.write_table(wanted, file, compression="zstd", write_page_checksum=True)
    content, path = file.getvalue(), tmp_path / "t.parquet"
    outcomes = set()
    for place in range(len(content)):
        change = (1, 0x80, 0xFF)[place % 3]
        path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
        try:
            outcomes.add(read(path, 3).equals(wanted))
        except ValueError:
            outcomes.add("refused")
    assert "refused" in outcomes
    assert True in outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20, "kilobytes"
