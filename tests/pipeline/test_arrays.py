"""Plain arrays in: what is imported, what is left out, and what is refused without leaving a store behind."""

import copy
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from handcraft.data import untrusted
from handcraft.data.arrays import import_arrays, read_npz
from handcraft.data.check import check_store
from handcraft.data.store import Store, clip_digest
from handcraft.errors import DataError
from handcraft.layouts import FACE12

REAL = Path(__file__).parents[3] / "shared" / "data"
CLIPS, FRAMES = 8, 6


def arrays(**change: object) -> dict[str, np.ndarray]:
    """Eight clips of three classes whose names are not sorted, with missing hands and padding after `lengths`."""
    rng = np.random.default_rng(0)
    lengths = np.array([6, 5, 4, 6, 1, 6, 6, 3], dtype=np.int32)
    found = {
        name: rng.random((CLIPS, FRAMES, points, 3)).astype(np.float32)
        for name, points in (("pose", 33), ("left_hand", 21), ("right_hand", 21))
    }
    found["left_hand"][2, 1:3] = np.nan
    for array in found.values():
        array[np.arange(FRAMES) >= lengths[:, None]] = np.nan
    found |= {
        "lengths": lengths,
        "y": np.array([0, 1, 2, 0, 1, 2, 0, 1]),
        "class_names": np.array(["water", "Again", "tea"]),
        "session": np.array([f"s{i % 3}" for i in range(CLIPS)]),
    } | change
    return {name: array for name, array in found.items() if array is not None}


def with_face(**change: object) -> dict[str, np.ndarray]:
    face = np.random.default_rng(1).random((CLIPS, FRAMES, 12, 3)).astype(np.float32)
    return arrays(**({"face": face, "face_indices": np.array(FACE12)} | change))


def save(tmp_path: Path, content: dict[str, np.ndarray]) -> Path:
    np.savez_compressed(tmp_path / "signs.npz", **content)
    return tmp_path / "signs.npz"


def edited(name: str, place: object, value: object) -> np.ndarray:
    array = arrays()[name].copy()
    array[place] = value
    return array


def nothing_seen(*clips: int) -> dict[str, np.ndarray]:
    return {name: edited(name, list(clips), np.nan) for name in ("pose", "left_hand", "right_hand")}


def test_everything_arrives(tmp_path):
    given = arrays()
    summary = import_arrays(save(tmp_path, given), tmp_path / "s", group="session", fps=30.0, licence="MIT", aspect=1.5)
    store = Store(tmp_path / "s")
    store.verify()
    manifest = store.manifest
    assert (manifest.layout, manifest.stage, manifest.fps, manifest.licence, manifest.aspect) == (
        "holistic75",
        "raw",
        30.0,
        "MIT",
        1.5,
    )
    assert manifest.source["command"] == "import-arrays"
    assert manifest.source["file"] == "signs.npz"
    assert store.ids.tolist() == [f"signs-{i:05d}" for i in range(CLIPS)]
    assert store.groups.tolist() == given["session"].tolist()
    assert set(store.splits) == {""}
    assert (summary.imported, summary.unused, summary.missing, summary.dropped_classes) == (CLIPS, 0, (), ())
    for i, frames in enumerate(store):
        joined = np.concatenate([given[part][i] for part in ("pose", "left_hand", "right_hand")], axis=1)
        np.testing.assert_array_equal(frames, joined[: given["lengths"][i]])
        assert store.digests[i] == clip_digest(frames)
    assert np.isnan(store.landmarks(2)[1:3, 33:54]).all()


def test_classes_are_the_sorted_names_with_labels_to_match(tmp_path):
    given = arrays()
    import_arrays(save(tmp_path, given), tmp_path / "s")
    store = Store(tmp_path / "s")
    assert store.classes == ("Again", "tea", "water")
    assert [store.classes[label] for label in store.labels] == given["class_names"][given["y"]].tolist()


def test_a_given_split_is_kept_and_other_clips_are_counted(tmp_path):
    split = np.array(["train", "unused", "test", "train", "val", "train", "test", "unused"])
    summary = import_arrays(save(tmp_path, arrays(split=split)), tmp_path / "s")
    store = Store(tmp_path / "s")
    assert store.splits.tolist() == ["train", "test", "train", "train", "test"]
    assert store.ids.tolist() == [f"signs-{i:05d}" for i in (0, 2, 3, 5, 6)]
    assert store.classes == ("tea", "water")
    assert (summary.imported, summary.unused, summary.dropped_classes) == (5, 3, ("Again",))
    assert summary.by_split == {"train": 3, "test": 2}
    assert summary.lines()[1:] == [
        "left out: 3 clips marked neither train nor test",
        "left out: 1 class that have no other clips: Again",
    ]


def test_faces_make_the_larger_layout(tmp_path):
    for name, change in (("with", {}), ("without", {"face_indices": None})):
        given = with_face(**change)
        import_arrays(save(tmp_path, given), tmp_path / name)
        store = Store(tmp_path / name)
        assert store.manifest.layout == "holistic87"
        np.testing.assert_array_equal(store.landmarks(3)[:, 75:], given["face"][3])


def test_ids_and_groups_of_every_kind(tmp_path):
    names = np.array([f"clip {i}" for i in range(CLIPS)])
    number = np.arange(CLIPS, dtype=np.int32) % 4
    given = arrays(clip_id=names, session=number, split=np.array([b"train"] * CLIPS))
    import_arrays(save(tmp_path, given), tmp_path / "named", group="session")
    store = Store(tmp_path / "named")
    assert store.ids.tolist() == names.tolist()
    assert store.groups.tolist() == [str(i) for i in number]
    assert set(store.splits) == {"train"}
    import_arrays(save(tmp_path, arrays(clip_id=number)), tmp_path / "numbered")  # counted anew in each class
    assert Store(tmp_path / "numbered").ids[1] == "signs-00001"


def test_doubles_are_stored_as_floats(tmp_path):
    given = arrays(pose=arrays()["pose"].astype(np.float64))
    import_arrays(save(tmp_path, given), tmp_path / "s")
    assert Store(tmp_path / "s").dtype == np.float32


def test_clips_without_a_landmark_are_refused_or_left_out_by_name(tmp_path):
    npz = save(tmp_path, arrays(**nothing_seen(1, 6)))
    with pytest.raises(DataError, match="2 clips have no landmark in any frame: signs-00001, signs-00006"):
        import_arrays(npz, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    summary = import_arrays(npz, tmp_path / "s", leave_out_missing=True)
    assert summary.missing == ("signs-00001", "signs-00006")
    assert "signs-00001, signs-00006" in summary.lines()[-1]
    assert summary.imported == len(Store(tmp_path / "s")) == CLIPS - 2
    npz = save(tmp_path, arrays(**nothing_seen(2, 5)))
    with pytest.raises(DataError, match="no clip of class tea has a single landmark"):
        import_arrays(npz, tmp_path / "t", leave_out_missing=True)


def test_landmarks_after_the_end_do_not_make_a_clip(tmp_path):
    pose = nothing_seen(4)["pose"]
    pose[4, 3:] = 0.5  # its length is 1
    npz = save(tmp_path, arrays(**(nothing_seen(4) | {"pose": pose})))
    with pytest.raises(DataError, match=r"1 clips have no landmark.*signs-00004"):
        import_arrays(npz, tmp_path / "s")


REFUSED = {
    "no pose": (arrays(pose=None), "no array 'pose'; it holds class_names, left_hand"),
    "no lengths": (arrays(lengths=None), "no array 'lengths'"),
    "no labels": (arrays(y=None), "no array 'y'"),
    "no class names": (arrays(class_names=None), "no array 'class_names'"),
    "landmark count": (arrays(pose=arrays()["pose"][:, :, :32]), r"pose is float32 of shape \(8, 6, 32, 3\), expected"),
    "two coordinates": (arrays(left_hand=arrays()["left_hand"][..., :2]), r"expected floating point \(8, 6, 21, 3\)"),
    "frames differ": (arrays(right_hand=arrays()["right_hand"][:, :5]), "array right_hand"),
    "clips differ": (arrays(left_hand=arrays()["left_hand"][:7]), "array left_hand"),
    "integers": (arrays(pose=np.zeros((8, 6, 33, 3), int)), "pose is int64"),
    "no clip": (arrays(**{name: arrays()[name][:0] for name in ("pose", "left_hand", "right_hand")}), "not empty"),
    "flat": (arrays(pose=arrays()["pose"].ravel()), "array pose"),
    "face points": (with_face(face=np.zeros((8, 6, 11, 3), np.float32)), "array face"),
    "face order": (with_face(face_indices=np.array(FACE12)[::-1]), "face_indices is .374, 362.*holistic87.*61, 0"),
    "face indices of other length": (with_face(face_indices=np.array(FACE12[:5])), "face_indices"),
    "length 0": (arrays(lengths=edited("lengths", 3, 0)), "clip signs-00003 has 0, expected 1 to 6"),
    "length 7": (arrays(lengths=edited("lengths", 3, 7)), "clip signs-00003 has 7, expected 1 to 6"),
    "lengths as floats": (arrays(lengths=np.full(8, 6.0)), "array lengths is float64"),
    "too few lengths": (arrays(lengths=np.full(7, 6)), "expected 8 integers"),
    "negative class": (arrays(y=edited("y", 5, -1)), "clip signs-00005 has class -1, expected 0 to 2"),
    "class too large": (arrays(y=edited("y", 5, 3)), "clip signs-00005 has class 3, expected 0 to 2"),
    "class name twice": (arrays(class_names=np.array(["tea", "Again", "tea"])), "gives tea more than once"),
    "empty class": (arrays(class_names=np.array(["a", "b", "c", "ghost"])), "no clip of class ghost"),
    "no name at all": (arrays(class_names=np.array([], dtype=str)), "expected at least one"),
    "name too long": (arrays(class_names=np.array(["a" * 300, "b", "c"])), "classes"),
    "names not UTF-8": (arrays(class_names=np.array([b"\xff", b"a", b"b"])), "not UTF-8"),
    "infinity": (arrays(pose=edited("pose", (6, 2), np.inf)), "clip signs-00006 has infinite"),
    "split marks none": (arrays(split=np.array(["dev"] * 8)), "marks no clip as train or test .it says 'dev'"),
    "too few splits": (arrays(split=np.array(["train"] * 7)), "array split"),
    "id twice": (arrays(clip_id=np.array(["x", "y", "x", "a", "b", "c", "d", "e"])), "clip_id names x more than once"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arrays_are_refused_and_leave_nothing(tmp_path, case):
    content, message = REFUSED[case]
    npz = save(tmp_path, content)
    with pytest.raises(DataError, match=message):
        import_arrays(npz, tmp_path / "s")
    assert [entry.name for entry in tmp_path.iterdir()] == ["signs.npz"]


def test_an_unknown_group_lists_what_there_is(tmp_path):
    with pytest.raises(DataError, match=r"no array 'signer'; its one-dimensional arrays are .*session"):
        import_arrays(save(tmp_path, arrays()), tmp_path / "s", group="signer")


def test_a_store_that_is_there_is_not_touched(tmp_path):
    npz = save(tmp_path, arrays())
    import_arrays(npz, tmp_path / "s")
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="already holds a store"):
        import_arrays(npz, tmp_path / "s")
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before
    Store(tmp_path / "s").verify()


class Bomb:
    """Leaves a mark if it is unpickled."""

    mark: Path

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_pickles_are_refused_unread(tmp_path):
    Bomb.mark = tmp_path / "exploded"
    npz = save(tmp_path, arrays(class_names=np.array([Bomb(), Bomb(), Bomb()], dtype=object)))
    with pytest.raises(DataError, match=r"class_names\.npy.* cannot be read: it holds pickled Python objects"):
        import_arrays(npz, tmp_path / "s")
    np.save(tmp_path / "lone.npy", np.array([Bomb()], dtype=object))
    with pytest.raises(DataError, match="not a readable"):
        import_arrays(tmp_path / "lone.npy", tmp_path / "s")
    assert not Bomb.mark.exists()


def test_damaged_files_are_refused(tmp_path):
    npz = save(tmp_path, arrays())
    content = npz.read_bytes()
    for end in (0, 10, len(content) // 2, len(content) - 10):
        npz.write_bytes(content[:end])
        with pytest.raises(DataError, match=r"signs\.npz: not a readable"):
            import_arrays(npz, tmp_path / "s")
    flipped = bytearray(content)
    flipped[2000] ^= 0xFF
    npz.write_bytes(flipped)
    with pytest.raises(DataError, match=r"signs\.npz"):
        import_arrays(npz, tmp_path / "s")
    with pytest.raises(DataError, match="no such file"):
        import_arrays(tmp_path / "nowhere.npz", tmp_path / "s")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(DataError, match="not a readable"):
            import_arrays(path, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2**40, 33, 3), "declares shape"), ((2**62, 4), "declares shape"), ((-5, 3), "negative size")],
)
def test_a_header_that_asks_for_more_than_the_file_holds_is_refused_before_allocation(tmp_path, shape, message):
    with zipfile.ZipFile(tmp_path / "signs.npz", "w") as archive:
        archive.writestr("pose.npy", header(shape) + b"\0" * 64)
    with pytest.raises(DataError, match=message):
        read_npz(tmp_path / "signs.npz")


def test_headers_that_are_no_headers_are_refused(tmp_path):
    good = header((2, 3)) + b"\0" * 24
    start, end = good.index(b"{"), good.index(b"}")
    forged = [
        good[:start] + b"(" + good[start + 1 :],
        good[:end] + b" " + good[end + 1 :],
        good.replace(b"<f4", b"|O "),
        good.replace(b"<f4", b"zzz"),
        good.replace(b"(2, 3)", b"2, 3, "),
        good.replace(b"(2, 3)", b"(2, x)"),
        good.replace(b"{", b"[" * 60, 1),
        b"\x93NUMPY\x09\x00" + good[8:],
        good[:9],
        good + b"\0",
        good[:-1],
    ]
    for content in forged:
        with zipfile.ZipFile(tmp_path / "signs.npz", "w") as archive:
            archive.writestr("pose.npy", content)
        with pytest.raises(DataError, match=r"signs\.npz: .pose\.npy"):
            read_npz(tmp_path / "signs.npz")


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    path = tmp_path / "signs.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pose.npy", header((4, 3)) + b"\0" * 48)
    content = path.read_bytes()
    entry = content.rindex(b"PK\x01\x02")
    forged = content[: entry + 24] + (2**31).to_bytes(4, "little") + content[entry + 28 :]  # uncompressed size
    path.write_bytes(forged)
    with pytest.raises(DataError, match="claims 2147483648 bytes, which the file cannot hold"):
        read_npz(path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """A zip bomb: a thousand entries of the directory point to the same compressed piece of data."""
    path = tmp_path / "signs.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header((1 << 20,)) + bytes(4 << 20))
        for n in range(1000):
            entry = copy.copy(archive.filelist[0])
            entry.filename = f"{n}.npy"
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
    with pytest.raises(DataError, match="claim more bytes than the file has"):
        read_npz(path)


def test_arrays_beyond_memory_are_refused_before_they_are_decompressed(tmp_path, monkeypatch):
    npz = tmp_path / "signs.npz"
    np.savez_compressed(npz, pose=np.zeros((1 << 20,), np.float32))
    assert npz.stat().st_size < 10_000
    monkeypatch.setattr(untrusted, "_memory", lambda: 4 << 20)
    with pytest.raises(DataError, match=r"signs\.npz: needs 0\.0 GB of memory, and this machine can spare 0\.0"):
        read_npz(npz)


def test_other_compressions_and_names_given_twice_are_refused(tmp_path):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "signs.npz", "w", method) as archive:
            archive.writestr("pose.npy", header((4,)) + bytes(16))
        with pytest.raises(DataError, match=f"compressed by method {method}"):
            read_npz(tmp_path / "signs.npz")
    with zipfile.ZipFile(tmp_path / "signs.npz", "w") as archive:
        archive.writestr("pose.npy", header((4,)) + bytes(16))
        archive.writestr("pose", header((4,)) + bytes(16))
    with pytest.raises(DataError, match="two arrays named 'pose'"):
        read_npz(tmp_path / "signs.npz")


def test_read_npz_agrees_with_numpy(tmp_path):
    given = arrays(
        fortran=np.asfortranarray(np.random.default_rng(0).random((3, 4))), scalar=np.array(3), none=np.zeros((0, 2))
    )
    npz = save(tmp_path, given)
    found = read_npz(npz)
    assert found.keys() == given.keys()
    for name, expected in np.load(npz).items():
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == expected.dtype


REAL_FILES = {
    "asl33": ("session", 1740, {"test": 700, "train": 1040}, 16, 765, 17, 20, "holistic75"),
    "asl21_face": (None, 840, {"": 840}, 21, 0, 0, 30, "holistic87"),
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_recordings(tmp_path, name):
    if not (REAL / f"{name}.npz").exists():
        pytest.skip(f"real data is not at hand: no {REAL / name}.npz")
    group, imported, by_split, classes, unused, dropped, frames, layout = REAL_FILES[name]
    summary = import_arrays(REAL / f"{name}.npz", tmp_path / "s", group=group)
    assert (summary.imported, summary.by_split, len(summary.classes)) == (imported, by_split, classes)
    assert (summary.unused, len(summary.dropped_classes), summary.missing) == (unused, dropped, ())
    report = check_store(tmp_path / "s")
    assert report.ok, report.problems
    assert (report.clips, report.frames, report.layout) == (imported, (frames,) * 3, layout)
