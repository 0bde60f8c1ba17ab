"""A store from anywhere: damaged, forged or hostile, it is refused with the file's name, and nothing in it is run."""

import hashlib
import io
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError

J = 48
MANIFEST, LANDMARKS, CLIPS = "manifest.json", "part-00000/landmarks.npy", "part-00000/clips.parquet"


@pytest.fixture
def store(tmp_path):
    """A store of 4 clips with 5 frames each in two parts, and a file outside of it."""
    (tmp_path / "outside").mkdir()
    path = tmp_path / "store"
    with StoreWriter(path, layout="pose_hands48", stage="raw", classes=["no", "yes"], part_clips=2) as out:
        for i in range(4):
            frames = np.random.default_rng(i).normal(size=(5, J, 3)).astype(np.float32)
            out.add(frames, id=f"c{i}", label="yes", provenance={"from": "x"})
    return path


def forge(store: Path, change) -> None:
    """Edit the manifest as an attacker would, checksum and all: `change` gets its dict."""
    manifest = json.loads((store / MANIFEST).read_text())
    manifest.pop("checksum", None)
    change(manifest)
    (store / MANIFEST).write_text(json.dumps(manifest))


def replace(store: Path, name: str, content: bytes) -> None:
    """Exchange a file of the first part, with a hash to match."""
    (store / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    forge(store, lambda manifest: manifest["parts"][0]["sha256"].update({Path(name).name: digest}))


def refused(store: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s){re.escape(str(store / name))}.*{message}") as caught:
        Store(store)
    assert len(str(caught.value)) < 1000


def part(key: str, value: object):
    return lambda manifest: manifest["parts"][0].update({key: value})


MANIFESTS = {
    "another version": (lambda m: m.update(format_version=2), "format_version is 2, expected 1"),
    "no version": (lambda m: m.pop("format_version"), "format_version"),
    "no field": (lambda m: m.pop("preprocessing"), "preprocessing"),
    "unsorted classes": (lambda m: m.update(classes=["yes", "no"]), "classes"),
    "no class": (lambda m: m.update(classes=[]), "classes"),
    "terminal control": (lambda m: m.update(classes=["no", "yes\x9b2J"]), "classes"),
    "numbers as classes": (lambda m: m.update(classes=[1, 2]), "classes"),
    "classes as text": (lambda m: m.update(classes="yes"), "classes"),
    "unknown layout": (lambda m: m.update(layout="nose1"), "unknown landmark layout"),
    "layout as list": (lambda m: m.update(layout=["pose_hands48"]), "layout"),
    "another layout": (lambda m: m.update(layout="handcraft60"), None),
    "coordinates": (lambda m: m.update(coordinates="xyzw"), "coordinates"),
    "stage": (lambda m: m.update(stage=["raw"]), "stage"),
    "signature of raw data": (lambda m: m.update(preprocessing="p"), "preprocessing"),
    "frame rate": (lambda m: m.update(fps=-1), "fps"),
    "true as a number": (lambda m: m.update(aspect=True), "aspect"),
    "digest": (lambda m: m.update(seen_clips=["../../etc"]), "seen_clips"),
    "split hashes": (lambda m: m.update(split_hashes={"train": 1}), "split_hashes"),
    "source": (lambda m: m.update(source="toy"), "source"),
    "statistics": (lambda m: m.update(statistics=[1]), "statistics"),
    "licence": (lambda m: m.update(licence=7), "licence"),
    "no part": (lambda m: m.update(parts=[]), "parts"),
    "part as text": (lambda m: m.update(parts=["part-00000"]), "parts"),
    "part twice": (lambda m: m.update(parts=m["parts"][:1] * 2), "distinct"),
    "part up": (part("name", "../outside"), r"parts\[0\].name"),
    "absolute part": (part("name", "/etc"), r"parts\[0\].name"),
    "part with a way up": (part("name", "part-00000/../../outside"), r"parts\[0\].name"),
    "line end in a part": (part("name", "part-00000\n"), r"parts\[0\].name"),
    "negative count": (part("clips", -1), r"parts\[0\].clips"),
    "fraction of a row": (part("rows", 10.0), r"parts\[0\].rows"),
    "count beyond memory": (part("rows", 2**60), r"parts\[0\].rows"),
    "hash of another file": (part("sha256", {"../manifest.json": "0" * 64}), r"parts\[0\].sha256"),
    "no hash": (part("sha256", {}), r"parts\[0\].sha256"),
    "a list": (lambda m: m.update(parts={"0": m["parts"][0]}), "parts"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_with_a_senseless_field_is_refused(store, case):
    change, message = MANIFESTS[case]
    forge(store, change)
    refused(store, MANIFEST if message else "part-0", message or r"\(10, 48, 3\), expected.*\(10, 60, 3\)")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format_version": ' + b"9" * 5000 + b"}", b'"x"'],
    ids=["empty", "cut short", "list", "null", "not UTF-8", "nested deeply", "endless number", "text"],
)
def test_a_damaged_manifest_is_refused(store, content):
    (store / MANIFEST).write_bytes(content)
    refused(store, MANIFEST, "")


def test_a_manifest_cut_anywhere_is_refused(store):
    content = (store / MANIFEST).read_bytes()
    for end in range(0, len(content) - 2, 37):
        (store / MANIFEST).write_bytes(content[:end])
        refused(store, MANIFEST, "")


def test_no_store_is_told_from_a_damaged_one(tmp_path, store):
    with pytest.raises(DataError, match="no such store"):
        Store(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such store"):
        Store(store / MANIFEST)
    with pytest.raises(DataError, match="this folder is not a store"):
        Store(tmp_path / "outside")
    (store / MANIFEST).unlink()
    with pytest.raises(DataError, match="interrupted; make it again"):
        Store(store)


@pytest.mark.parametrize("name", [LANDMARKS, CLIPS])
def test_a_file_that_is_not_there_is_named(store, name):
    (store / name).unlink()
    refused(store, name, "no such file")
    (store / name).mkdir()
    refused(store, name, "no such file")


def test_a_manifest_changed_by_accident_is_refused(store):
    """A frame rate, a licence, a digest: every value that is plausible after a change."""
    text = (store / MANIFEST).read_text()
    good = Store(store).manifest
    for before, after in (('"licence": null', '"licence": "MIT"'), ('"fps": null', '"fps": 25'), ("[]", '["ab"]')):
        (store / MANIFEST).write_text(text.replace(before, after, 1))
        refused(store, MANIFEST, "has been changed since it was written")
    # Another order or other blanks are no change, and a store of before there were checksums is read as ever.
    (store / MANIFEST).write_text(json.dumps(dict(reversed(json.loads(text).items()))))
    assert Store(store).manifest == good
    forge(store, lambda manifest: None)
    assert "checksum" not in (store / MANIFEST).read_text()
    assert Store(store).manifest == good


@pytest.mark.parametrize("name", [MANIFEST, LANDMARKS, CLIPS, "part-00000"])
def test_links_are_not_followed(store, name):
    outside = store.parent / "outside" / "moved"
    os.rename(store / name, outside)
    (store / name).symlink_to(outside)
    refused(store, name, "symbolic link")


def npy(frames: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, frames, allow_pickle=True)
    return file.getvalue()


class Bomb:
    """Leaves a mark if it is unpickled."""

    mark: Path

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


GOOD = np.random.default_rng(9).normal(size=(10, J, 3)).astype(np.float32)
ARRAYS = {
    "empty file": b"",
    "no array": b"hello" * 100,
    "cut short": npy(GOOD)[:-1],
    "header cut short": npy(GOOD)[:40],
    "too long": npy(GOOD) + b"x",
    "fewer rows": npy(GOOD[:-1]),
    "more rows": npy(np.concatenate([GOOD, GOOD])),
    "another landmark count": npy(np.zeros((10, 47, 3), np.float32)),
    "flat": npy(GOOD.ravel()),
    "doubles": npy(GOOD.astype(np.float64)),
    "half floats of raw landmarks": npy(GOOD.astype(np.float16)),
    "big endian": npy(GOOD.astype(">f4")),
    "column order": npy(np.asfortranarray(GOOD)),
    "integers": npy(GOOD.astype(np.int32)),
    "rows that the file lacks": header((10, J, 3)),
    "rows beyond memory": header((2**62, J, 3)),
    "negative rows": header((-10, J, 3)),
    "no header": npy(GOOD).replace(b"{", b"(", 1),
    "header without end": npy(GOOD).replace(b"}", b" ", 1),
    "npy version 9": npy(GOOD)[:6] + b"\x09" + npy(GOOD)[7:],
    "structured": npy(np.zeros((10, J, 3), [("x", "<f4")])),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_frames_that_are_not_what_the_manifest_says_are_refused(store, case):
    replace(store, LANDMARKS, ARRAYS[case])
    refused(store, LANDMARKS, "")


def test_pickled_frames_are_refused_unread(store, tmp_path):
    Bomb.mark = tmp_path / "exploded"
    bomb = np.empty((10, J, 3), dtype=object)
    bomb[:] = Bomb()
    for content in (npy(bomb), pickle.dumps(Bomb()), header((10, J, 3), "|O") + pickle.dumps(Bomb())):
        replace(store, LANDMARKS, content)
        refused(store, LANDMARKS, "not a readable array")
    assert not Bomb.mark.exists()


def table(**change: object) -> bytes:
    columns = {
        "id": ["c0", "c1"],
        "label": ["yes", "no"],
        "group": ["", ""],
        "first": [0, 5],
        "frames": [5, 5],
        "split": ["", ""],
        "digest": pa.array([1, 2], pa.uint64()),
        "provenance": ["", ""],
    } | change
    file = io.BytesIO()
    pq.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), file)
    return file.getvalue()


TABLES = {
    "empty file": (b"", "Parquet"),
    "no Parquet": (b"PAR1" + b"\0" * 100 + b"PAR1", "Parquet"),
    "cut short": (table()[:-20], "Parquet"),
    "too many clips": (
        table(
            **{name: ["a", "b", "c"] for name in ("id", "label", "group", "split", "provenance")},
            first=[0, 5, 9],
            frames=[5, 4, 1],
            digest=pa.array([1, 2, 3], pa.uint64()),
        ),
        "3 clips, the manifest says 2",
    ),
    "no id": (table(id=None), "column id"),
    "numbers as ids": (table(id=[1, 2]), "column id"),
    "signed digests": (table(digest=[1, 2]), "column digest"),
    "empty cell": (table(group=["", None]), "group has empty cells"),
    "long id": (table(id=["c0", "c" * 300]), "column id has a text"),
    "terminal control": (table(id=["c0", "\x1b[2J"]), "column id has a text"),
    "terminal control in a byte": (table(id=["c0", "\x9b2J"]), "column id has a text"),
    "not UTF-8": (
        table(
            group=pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], "<i4")), pa.py_buffer(b"\xff\xfe"))
        ),
        "Parquet",
    ),
    "unknown label": (table(label=["yes", "perhaps"]), "'perhaps'"),
    "overlapping clips": (table(first=[0, 4]), "tile"),
    "negative first row": (table(first=[-5, 0]), "tile"),
    "no frame": (table(frames=[10, 0], first=[0, 10]), "tile"),
    "rows left over": (table(frames=[5, 4]), "tile"),
    "sum that wraps around": (table(frames=[2**63 - 1, 2**63 - 1], first=[0, 2**63 - 1]), "tile"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_is_not_what_the_manifest_says_is_refused(store, case):
    content, message = TABLES[case]
    replace(store, CLIPS, content)
    refused(store, "" if case == "unknown label" else CLIPS, message)


def test_the_forged_files_above_differ_from_good_ones_only_in_what_they_test(store):
    replace(store, LANDMARKS, npy(GOOD))
    replace(store, CLIPS, table())
    opened = Store(store)
    assert opened.ids.tolist() == ["c0", "c1", "c2", "c3"]
    np.testing.assert_array_equal(opened.landmarks(1), GOOD[5:])


def test_a_changed_table_is_refused_and_a_changed_frame_is_found(store):
    content = bytearray((store / LANDMARKS).read_bytes())
    content[-100] ^= 1
    (store / LANDMARKS).write_bytes(content)
    opened = Store(store)
    assert len(opened.damage()) == 1
    with pytest.raises(DataError, match=re.escape(f"{store}: {LANDMARKS}: its SHA-256")):
        opened.verify()
    (store / CLIPS).write_bytes(table())
    refused(store, CLIPS, "SHA-256")


def test_split_hashes_of_other_clips_are_found(store):
    forge(store, lambda manifest: manifest.update(split_hashes={"train": "0" * 32}))
    with pytest.raises(DataError, match="split hashes"):
        Store(store).verify()


def test_parts_of_two_dtypes_are_refused(store):
    forge(store, lambda manifest: manifest.update(stage="centred", preprocessing="p"))
    replace(store, LANDMARKS, npy(GOOD.astype(np.float16)))
    refused(store, "", "differ in dtype")


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 5000, "nonsense"])
def test_provenance_that_is_no_object_is_refused_when_asked_for(store, content):
    replace(store, CLIPS, table(provenance=[content, '{"a": 1}']))
    opened = Store(store)
    assert opened.provenance_of(1) == {"a": 1}
    assert opened.provenance_of(2) == {"from": "x"}
    with pytest.raises(DataError, match="provenance of clip c0"):
        opened.provenance_of(0)
