"""The visibility of the pose beside the landmarks of a store."""

import json

import numpy as np
import pandas as pd
import pytest

from handcraft.data.merge import merge_stores
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError

LENGTHS = (3, 5, 2)


def write(path, clips, part_clips=4096):
    """A raw store of (id, visibility or None) with clips of random landmarks."""
    random = np.random.default_rng(0)
    with StoreWriter(path, layout="holistic75", stage="raw", classes=["a"], part_clips=part_clips) as writer:
        for (id, seen), length in zip(clips, LENGTHS, strict=False):
            writer.add(random.random((length, 75, 3), np.float32), id=id, label="a", visibility=seen)
    return Store(path)


def seen(frames, seed=1):
    return np.random.default_rng(seed).random((frames, 33), np.float32)


def test_comes_back_clip_by_clip_and_by_numpy_alone(tmp_path):
    values = [seen(length, seed) for seed, length in enumerate(LENGTHS)]
    store = write(tmp_path / "s", list(zip("xyz", values, strict=True)), part_clips=2)
    for clip, value in enumerate(values):
        np.testing.assert_array_equal(store.visibility(clip), value)
    table = pd.read_parquet(tmp_path / "s/part-00000/clips.parquet")
    rows = np.load(tmp_path / "s/part-00000/visibility.npy")
    first, frames = table["first"][1], table["frames"][1]
    np.testing.assert_array_equal(rows[first : first + frames], values[1])
    with pytest.raises(IndexError):
        store.visibility(3)


def test_a_clip_without_it_is_missing_and_a_part_without_it_has_no_file(tmp_path):
    store = write(tmp_path / "s", [("x", None), ("y", seen(5)), ("z", None)], part_clips=2)
    assert np.isnan(store.visibility(0)).all()
    np.testing.assert_array_equal(store.visibility(1), seen(5))
    assert store.visibility(2) is None
    assert not (tmp_path / "s/part-00001/visibility.npy").exists()


def test_lengths_of_a_batch_count_for_it_too(tmp_path):
    frames, values = np.zeros((2, 4, 75, 3), np.float32), np.stack([seen(4, 1), seen(4, 2)])
    with StoreWriter(tmp_path / "s", layout="holistic75", stage="raw", classes=["a"]) as writer:
        writer.add_batch(frames, ids=["x", "y"], labels=["a", "a"], lengths=np.array([2, 3]), visibility=values)
    store = Store(tmp_path / "s")
    np.testing.assert_array_equal(store.visibility(0), values[0, :2])
    np.testing.assert_array_equal(store.visibility(1), values[1, :3])


def test_another_shape_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"visibility of clip 'x' has shape \(2, 33\), expected \(3, 33\)"):
        write(tmp_path / "s", [("x", seen(2))])


def test_damage_is_noticed(tmp_path):
    store = write(tmp_path / "s", [("x", seen(3))])
    file = tmp_path / "s/part-00000/visibility.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert any("visibility.npy" in line for line in store.damage())
    file.write_bytes(content[:-4])
    with pytest.raises(DataError, match=r"visibility\.npy: has .* bytes"):
        Store(tmp_path / "s")
    file.unlink()
    with pytest.raises(DataError, match=r"visibility\.npy: no such file"):
        Store(tmp_path / "s")


def test_no_other_file_may_stand_in_the_manifest(tmp_path):
    write(tmp_path / "s", [("x", seen(3))])
    manifest = json.loads((tmp_path / "s/manifest.json").read_text())
    del manifest["checksum"]
    manifest["parts"][0]["sha256"]["other.npy"] = "0" * 64
    (tmp_path / "s/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="sha256"):
        Store(tmp_path / "s")


def test_merging_keeps_it(tmp_path):
    write(tmp_path / "a", [("x", seen(3))])
    write(tmp_path / "b", [("y", None)])
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c", progress=False)
    store = Store(tmp_path / "c")
    np.testing.assert_array_equal(store.visibility(0), seen(3))
    assert np.isnan(store.visibility(1)).all()
