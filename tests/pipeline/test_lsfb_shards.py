"""LSFB's shards, version 3: where their landmarks go, how they are divided, and what is refused."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from lsfb_folder import SHARD_PARTS, lsfb_sample, lsfb_shards, npy, write_shard
from tiny_recipe import one_line_error, run_cli

from handcraft.data.lsfb_shards import FACE12_AT, FACE_PARTS, LEFT_EYE, LIPS, POINTS, RIGHT_EYE, import_shards
from handcraft.data.store import Store
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import FACE12, layout

HOLISTIC87 = layout("holistic87").slices


def array(fields: dict[str, bytes], part: str) -> np.ndarray:
    return np.load(io.BytesIO(fields[f"pose.{part}.npy"]))


def test_everything_arrives(tmp_path):
    folder = lsfb_shards(tmp_path / "500")
    summary = import_shards(folder, tmp_path / "store", licence="CC BY-NC-SA 4.0")
    store = Store(tmp_path / "store")
    assert store.ids.tolist() == [f"CLSFBI{i:02d}" for i in range(8)]
    assert [store.classes[label] for label in store.labels] == ["signe 0", "signe 1"] * 4
    assert store.groups.tolist() == [f"S00{i % 3}" for i in range(8)]
    assert store.splits.tolist() == ["test"] * 2 + ["validation"] * 4 + ["train"] * 2
    assert (store.manifest.layout, store.manifest.coordinates, store.manifest.fps) == ("holistic87", "xyz", 50)
    for i, frames in enumerate(store):
        fields = lsfb_sample(i)
        assert np.array_equal(frames[:, :23], array(fields, "upper_pose"))
        assert np.isnan(frames[:, 23:33]).all()
        for hand in ("left_hand", "right_hand"):
            assert np.array_equal(frames[:, HOLISTIC87[hand]], array(fields, hand))
    assert summary.notes == (
        "shards: train 3; validation 1, 2; test 0",
        "missing in every frame: hips and legs (pose 23 to 32), which LSFB's shards do not hold",
        "of the face: the 12 points of the paper, from lips and eyes",
    )


def test_face_points_come_from_their_vertices(tmp_path):
    """With each vertex at its own number, the store's face points lie at the numbers of `FACE12`."""
    fields = lsfb_sample(0)
    for part, vertices in FACE_PARTS.items():
        fields[f"pose.{part}.npy"] = npy(np.tile(np.array(vertices, "f4")[None, :, None], (4, 1, 3)))
    write_shard(tmp_path / "in" / "shard_000000.tar", {"a": fields})
    import_shards(tmp_path / "in", tmp_path / "store", test_shards=(), validation_shards=())
    assert Store(tmp_path / "store").landmarks(0)[0, HOLISTIC87["face"], 0].tolist() == list(FACE12)


def test_vertices_are_those_of_the_face_mesh():
    """In ascending order; both eyes have the same outline, so a vertex and its mirror image have the same place."""
    mirror = {33: 263, 133: 362, 159: 386, 145: 374, 7: 249, 144: 373, 153: 380, 154: 381, 155: 382, 157: 384, 158: 385}
    assert (len(set(LIPS)), len(set(LEFT_EYE)), len(set(RIGHT_EYE))) == (40, 16, 16)
    for vertices in FACE_PARTS.values():
        assert list(vertices) == sorted(vertices)
    for right, left in mirror.items():
        assert RIGHT_EYE.index(right) == LEFT_EYE.index(left)
    assert len(FACE12_AT) == 12
    assert POINTS == SHARD_PARTS


def test_without_lips_and_eyes_there_is_no_face(tmp_path):
    fields = lsfb_sample(0)
    del fields["pose.left_eye.npy"]
    extra = {"pose.left_iris.npy": npy(np.zeros((4, 4, 3))), "json": b"{}"}
    write_shard(tmp_path / "in" / "shard_000000.tar", {"a": fields | extra})
    summary = import_shards(tmp_path / "in", tmp_path / "store", test_shards=(), validation_shards=())
    assert Store(tmp_path / "store").manifest.layout == "holistic75"
    assert summary.notes[-1] == "of the face: nothing; passed over: left_iris, lips, right_eye"


def test_two_coordinates_and_no_signer(tmp_path):
    fields = lsfb_sample(0, coordinates=2)
    del fields["signer.txt"]
    write_shard(tmp_path / "in" / "shard_000000.tar", {"a": fields})
    import_shards(tmp_path / "in", tmp_path / "store", test_shards=(), validation_shards=())
    store = Store(tmp_path / "store")
    assert (store.manifest.coordinates, store.groups.tolist(), store.splits.tolist()) == ("xy", [""], [""])
    assert np.array_equal(store.landmarks(0)[:, :23], array(fields, "upper_pose"))


def test_shards_are_divided_by_number(tmp_path):
    folder = lsfb_shards(tmp_path / "500", shards=11, clips=1)
    (folder / "shard_000009.tar").rename(folder / "shard_9.tar")  # by value, not by name
    import_shards(folder, tmp_path / "store", test_shards=(9, 10), validation_shards=())
    store = Store(tmp_path / "store")
    assert store.splits.tolist() == ["train"] * 9 + ["test"] * 2
    assert store.ids.tolist() == [f"CLSFBI{i:02d}" for i in range(11)]


def test_clips_without_a_landmark_are_named(tmp_path):
    samples = {f"c{i}": lsfb_sample(2 * i) for i in range(3)}
    for part, points in SHARD_PARTS.items():
        samples["c1"][f"pose.{part}.npy"] = npy(np.full((5, points, 3), np.nan, "f2"))
    write_shard(tmp_path / "in" / "shard_000000.tar", samples)
    options = {"test_shards": (), "validation_shards": ()}
    with pytest.raises(DataError, match="1 of 3 clips: c1"):
        import_shards(tmp_path / "in", tmp_path / "store", **options)
    summary = import_shards(tmp_path / "in", tmp_path / "store", leave_out_missing=True, **options)
    assert (summary.missing, summary.imported) == (("c1",), 2)


def samples(case: str) -> dict[str, dict[str, bytes]]:
    """Two samples, the second spoiled in one way."""
    good, bad = lsfb_sample(0), lsfb_sample(1)
    hand = array(bad, "left_hand")
    changes = {
        "other points": {"pose.left_hand.npy": npy(hand[:, :20])},
        "fewer frames": {"pose.left_hand.npy": npy(hand[1:])},
        "two coordinates": {"pose.left_hand.npy": npy(hand[:, :, :2])},
        "no array": {"pose.left_hand.npy": b"no array"},
        "integers": {"pose.left_hand.npy": npy(hand.astype("i4"))},
        "infinite": {"pose.left_hand.npy": npy(np.full_like(hand, np.inf))},
        "long label": {"label.txt": b"x" * 2000},
        "no text": {"label.txt": b"\xff"},
        "many files": {f"x{i}": b"" for i in range(80)},
    }
    bad |= changes.get(case, {})
    for field in {"no label": ["label.txt"], "no part": ["pose.right_eye.npy"]}.get(case, []):
        del bad[field]
    return {"a": good, {"empty key": "", "key out": "../b"}.get(case, "b"): bad}


@pytest.mark.parametrize(
    ("case", "match"),
    [
        ("other points", r"shape \(5, 20, 3\), expected floating point \(frames, 21, 2 or 3\)"),
        ("fewer frames", "parts of sample 'b'"),
        ("two coordinates", "parts of sample 'b'"),
        ("no array", "is not readable"),
        ("integers", "int32"),
        ("infinite", "infinite"),
        ("long label", "is not a short text"),
        ("no text", "is not a short text"),
        ("no label", "is not a short text: there is none"),
        ("no part", "has no pose.right_eye.npy"),
        ("many files", "over 64 files"),
        ("empty key", "expected text"),
        ("key out", "no path inside"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused_and_leaves_no_store(tmp_path, case, match):
    write_shard(tmp_path / "in" / "shard_000000.tar", samples(case))
    with pytest.raises(DataError, match=match):
        import_shards(tmp_path / "in", tmp_path / "store", test_shards=(), validation_shards=())
    assert not (tmp_path / "store").exists()


def test_folders_that_are_no_shards_of_one_vocabulary(tmp_path):
    def refused(match: str, **options: object) -> None:
        with pytest.raises((DataError, ConfigError), match=match):
            import_shards(folder, tmp_path / "store", **options)
        assert not (tmp_path / "store").exists()

    folder = tmp_path / "none"
    refused("not a folder")
    folder.mkdir()
    refused(r"no \.tar file")
    lsfb_shards(folder, shards=2)
    refused("has no shard 2; it has 0, 1")  # of the default division
    refused("has no shard 5; it has 0, 1", test_shards=(5,), validation_shards=())
    (folder / "shard_000001.tar").write_bytes((folder / "shard_000000.tar").read_bytes())
    refused("'CLSFBI00' occurs twice", test_shards=(1,), validation_shards=())
    (folder / "shard_000001.tar").write_bytes(gzip.compress((folder / "shard_000000.tar").read_bytes()))
    refused("compressed", test_shards=(1,), validation_shards=())
    (folder / "shard_000001.tar").rename(folder / "other_0.tar")
    refused("a number of their own", test_shards=(0,), validation_shards=())
    (folder / "other_0.tar").unlink()
    with tarfile.open(folder / "shard_0.tar", "w") as tar:
        for name in ("a.label.txt", "a.label.txt"):
            tar.addfile(tarfile.TarInfo(name))
    (folder / "shard_000000.tar").unlink()
    refused("two files 'label.txt'", test_shards=(), validation_shards=())
    write_shard(folder / "shard_0.tar", {})
    refused("no sample", test_shards=(), validation_shards=())
    refused("shard 0 is for test and for validation", test_shards=(0,), validation_shards=(0,))


def test_a_shard_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    folder = lsfb_shards(tmp_path / "500", shards=1)

    def write(*args, **options):
        write_shard(folder / "shard_000000.tar", {"other": lsfb_sample(0), "CLSFBI01": lsfb_sample(1)})
        return store(*args, **options)

    store = import_shards.__globals__["write_store"]
    monkeypatch.setitem(import_shards.__globals__, "write_store", write)
    with pytest.raises(DataError, match="has changed while it was read"):
        import_shards(folder, tmp_path / "store", test_shards=(), validation_shards=())


def test_shards_of_the_webdataset_package(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="the webdataset package is not installed")
    (tmp_path / "in").mkdir()
    with webdataset.TarWriter(str(tmp_path / "in" / "shard_000000.tar")) as tar:
        for i in range(2):
            tar.write({"__key__": f"CLSFBI{i:02d}"} | lsfb_sample(i))
    import_shards(tmp_path / "in", tmp_path / "store", test_shards=(), validation_shards=())
    store = Store(tmp_path / "store")
    assert np.array_equal(store.landmarks(1)[:, :23], array(lsfb_sample(1), "upper_pose"))


def test_command(tmp_path, capfd):
    folder: Path = lsfb_shards(tmp_path / "500")
    assert run_cli("data", "import-lsfb-shards", folder, tmp_path / "store", "--test-shards", 3) == 0
    assert "shards: train 0; validation 1, 2; test 3" in capfd.readouterr().out
    assert run_cli("data", "import-lsfb-shards", folder, tmp_path / "bare", "--test-shards", "--validation-shards") == 0
    assert set(Store(tmp_path / "bare").splits.tolist()) == {""}
    assert "import-lsfb-shards" in one_line_error(capfd, "data", "import-lsfb", folder, tmp_path / "other")
