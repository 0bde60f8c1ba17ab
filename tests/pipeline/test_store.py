"""The store: what is written is read back, by us and by numpy and pandas alone, whatever interrupts the writing."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handcraft.data.store import (
    OPEN_PARTS,
    Store,
    StoreWriter,
    clip_digest,
    clip_digests,
    hex_digests,
    require_disjoint,
    split_hash,
)
from handcraft.errors import DataError

LAYOUT, J = "pose_hands48", 48


def clip(frames: int, seed: int = 0, coordinates: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, J, coordinates)).astype(np.float32)


def writer(path: Path, **options: object) -> StoreWriter:
    return StoreWriter(path, **({"layout": LAYOUT, "stage": "raw", "classes": ["no", "yes"]} | options))


def small_store(path: Path, clips: int = 5, **options: object) -> Store:
    with writer(path, **({"part_clips": 2} | options)) as out:
        for i in range(clips):
            out.add(clip(3 + i, seed=i), id=f"c{i}", label=("yes", "no")[i % 2], group=f"g{i}", split="train")
    return Store(path)


text = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read_back(tmp_path_factory, data):
    coordinates = data.draw(st.sampled_from(["xyz", "xy"]))
    dtype = data.draw(st.sampled_from([np.float32, np.float16]))
    classes = data.draw(st.lists(text.filter(bool), min_size=1, max_size=4, unique=True))
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=9))
    ids = data.draw(st.lists(text.filter(bool), min_size=len(lengths), max_size=len(lengths), unique=True))
    groups = data.draw(st.lists(text, min_size=len(lengths), max_size=len(lengths)))
    labels = data.draw(st.lists(st.sampled_from(classes), min_size=len(lengths), max_size=len(lengths)))
    made_from = data.draw(st.lists(st.dictionaries(text, st.integers() | text), min_size=len(ids), max_size=len(ids)))
    missing = data.draw(st.floats(0, 1))
    rng = np.random.default_rng(len(ids))
    clips = [clip(length, seed, len(coordinates)).astype(dtype) for seed, length in enumerate(lengths)]
    for frames in clips:
        frames[rng.random(frames.shape[:2]) < missing] = np.nan
    path = tmp_path_factory.mktemp("round") / "store"
    options = {"coordinates": coordinates, "stage": "centred", "preprocessing": "p", "dtype": dtype, "fps": 25.0}
    with writer(path, classes=classes, part_clips=data.draw(st.integers(1, 10)), **options) as out:
        for frames, id, label, group, source in zip(clips, ids, labels, groups, made_from, strict=True):
            out.add(frames, id=id, label=label, group=group, provenance=source)

    store = Store(path)
    store.verify()
    assert len(store) == len(ids)
    assert store.classes == tuple(sorted(classes))
    assert store.dtype == dtype
    assert store.manifest.fps == 25.0
    assert store.ids.tolist() == ids
    assert store.groups.tolist() == groups
    assert [store.classes[label] for label in store.labels] == labels
    assert [store.provenance_of(i) for i in range(len(store))] == made_from
    assert store.frames.tolist() == lengths
    rows = store.rows(dtype)
    for i, (frames, read) in enumerate(zip(clips, store, strict=True)):
        np.testing.assert_array_equal(read, frames)
        np.testing.assert_array_equal(rows[store.first[i] : store.first[i] + store.frames[i]], frames)
        assert clip_digest(frames) == store.digests[i]


def test_numpy_and_pandas_alone_read_a_store(tmp_path):
    clips = [clip(3 + i, seed=i) for i in range(5)]
    small_store(tmp_path / "s")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    assert manifest["classes"] == ["no", "yes"]
    assert [part["name"] for part in manifest["parts"]] == ["part-00000", "part-00001", "part-00002"]
    found = []
    for part in manifest["parts"]:
        folder = tmp_path / "s" / part["name"]
        for name, expected in part["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
        table = pd.read_parquet(folder / "clips.parquet")
        assert list(table) == ["id", "label", "group", "first", "frames", "split", "digest", "provenance"]
        frames = np.load(folder / "landmarks.npy", mmap_mode="r", allow_pickle=False)
        assert (len(table), len(frames)) == (part["clips"], part["rows"])
        found += [(row.id, row.label, frames[row.first : row.first + row.frames]) for row in table.itertuples()]
    assert [id for id, _, _ in found] == ["c0", "c1", "c2", "c3", "c4"]
    assert [label for _, label, _ in found] == ["yes", "no", "yes", "no", "yes"]
    for (_, _, frames), expected in zip(found, clips, strict=True):
        np.testing.assert_array_equal(frames, expected)


def test_bytes_do_not_depend_on_how_clips_are_handed_over(tmp_path):
    frames = np.stack([clip(6, seed) for seed in range(11)])
    ids = [f"c{i}" for i in range(11)]
    labels = np.arange(11) % 2
    for batch in (1, 3, 11):
        with writer(tmp_path / str(batch), part_clips=4) as out:
            for start in range(0, 11, batch):
                part = slice(start, start + batch)
                out.add_batch(frames[part], ids=ids[part], labels=labels[part], splits=["test"] * len(ids[part]))
    manifests = [(tmp_path / str(batch) / "manifest.json").read_bytes() for batch in (1, 3, 11)]
    assert manifests[0] == manifests[1] == manifests[2]  # they hold the hash of every file
    store = Store(tmp_path / "3")
    assert store.labels.tolist() == labels.tolist()
    assert [part.clips for part in store.manifest.parts] == [4, 4, 3]


def test_lengths_cut_the_padding_off(tmp_path):
    frames = np.stack([clip(6, seed) for seed in range(3)])
    with writer(tmp_path / "s") as out:
        out.add_batch(frames, ids=["a", "b", "c"], labels=["yes"] * 3, lengths=np.array([6, 1, 4]))
    store = Store(tmp_path / "s")
    assert store.frames.tolist() == [6, 1, 4]
    np.testing.assert_array_equal(store.landmarks(2), frames[2, :4])
    assert store.digests[2] == clip_digest(frames[2, :4])


def test_classes_are_sorted_whatever_order_they_come_in(tmp_path):
    with writer(tmp_path / "s", classes=["water", "Again", "tea"]) as out:
        for name in ("water", "tea", "Again"):
            out.add(clip(2), id=name, label=name)
    store = Store(tmp_path / "s")
    assert store.classes == ("Again", "tea", "water")
    assert store.labels.tolist() == [2, 1, 0]


def test_parts_beyond_the_open_ones_are_read(tmp_path):
    store = small_store(tmp_path / "s", clips=OPEN_PARTS + 3, part_clips=1)
    for i in (0, OPEN_PARTS + 2, 1, 0):
        np.testing.assert_array_equal(store.landmarks(i), clip(3 + i, seed=i))
    assert [span for span, _ in store.parts()][-1] == slice(OPEN_PARTS + 2, OPEN_PARTS + 3)


def test_clips_are_found_by_id(tmp_path):
    store = small_store(tmp_path / "s")
    assert store.find(["c3", "c0", "c3"]).tolist() == [3, 0, 3]
    with pytest.raises(DataError, match=r"no clip 'x' \(1 of 2"):
        store.find(["c0", "x"])
    with pytest.raises(IndexError):
        store.landmarks(5)
    with pytest.raises(IndexError):
        store.landmarks(-1)


def test_frames_of_a_store_cannot_be_overwritten(tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        small_store(tmp_path / "s").landmarks(0)[0] = 0


def test_digest_is_sha256_of_shape_and_bytes():
    frames = clip(4)
    expected = hashlib.sha256(np.array([4, J, 3], "<u4").tobytes() + frames.astype("<f4").tobytes())
    assert clip_digest(frames) == int.from_bytes(expected.digest()[:8], "little")
    assert clip_digest(frames[:, ::-1][:, ::-1]) == clip_digest(frames)
    assert clip_digest(frames.reshape(8, J // 2, 3)) != clip_digest(frames)
    changed = frames.copy()
    changed[2, 5, 1] += 1e-6
    assert clip_digest(changed) != clip_digest(frames)


@pytest.mark.parametrize(("dtype", "bits"), [(np.float32, np.uint32), (np.float16, np.uint16)])
def test_all_nans_are_the_same_to_a_digest(dtype, bits):
    frames = clip(4).astype(dtype)
    frames[1] = np.nan
    other = frames.copy()
    other.view(bits)[1] |= bits(1) << bits(bits().itemsize * 8 - 1)  # the sign bit: what 0/0 gives on x86
    assert np.isnan(other[1]).all()
    assert other.tobytes() != frames.tobytes()
    assert clip_digest(other) == clip_digest(frames)
    assert clip_digests(np.stack([frames, other]), np.array([4, 1])).tolist() == [
        clip_digest(frames),
        clip_digest(frames[:1]),
    ]


def test_a_copy_carries_the_digest_of_the_recording(tmp_path):
    with writer(tmp_path / "s", stage="centred", preprocessing="p") as out:
        out.add(clip(3), id="a", label="yes", digest=2**64 - 7)
    assert Store(tmp_path / "s").digests.tolist() == [2**64 - 7]


def test_split_hashes_name_the_clips_of_a_split(tmp_path):
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 2**63, 20, dtype=np.uint64)
    assert split_hash(digests) == split_hash(rng.permutation(digests)) == split_hash(digests.tolist())
    assert len({split_hash(digests), split_hash(digests[1:]), split_hash(digests[:0])}) == 3
    with writer(tmp_path / "s") as out:
        for i, split in enumerate(["train", "test", "train", ""]):
            out.add(clip(3, seed=i), id=f"{i}", label="yes", split=split)
    store = Store(tmp_path / "s")
    assert dict(store.manifest.split_hashes) == store.split_hashes()
    assert store.split_hashes() == {
        "train": split_hash([clip_digest(clip(3, seed=2)), clip_digest(clip(3, seed=0))]),
        "test": split_hash([clip_digest(clip(3, seed=1))]),
    }


def test_a_generator_that_saw_test_clips_is_refused(tmp_path):
    train, test = np.arange(1, 9, dtype=np.uint64), np.arange(8, 12, dtype=np.uint64)
    with writer(tmp_path / "s", seen_clips=hex_digests(train), stage="centred", preprocessing="p") as out:
        out.add(clip(3), id="a", label="yes")
    seen = Store(tmp_path / "s").manifest.seen_clips
    assert seen == tuple(hex_digests(train)) == tuple(f"{i:016x}" for i in range(1, 9))
    require_disjoint(seen, test[1:], "generator x")
    require_disjoint([], test, "recorded clips")
    with pytest.raises(DataError, match=r"generator x: was trained on 1 of the test clips.*0000000000000008"):
        require_disjoint(seen, test, "generator x")


BAD_CLIPS = {
    "landmark count": ({"landmarks": np.zeros((3, 47, 3), np.float32)}, r"'c'.*shape \(3, 47, 3\), expected.*48, 3"),
    "coordinates": ({"landmarks": clip(3, coordinates=2)}, "expected.*48, 3"),
    "no frame": ({"landmarks": clip(0)}, "T >= 1"),
    "integers": ({"landmarks": np.zeros((3, J, 3), int)}, "int64"),
    "long provenance": ({"provenance": "é" * 10_000}, "clip 'c' has a provenance of 20000 bytes"),
    "infinity": ({"landmarks": np.full((3, J, 3), np.inf)}, "clip 'c' holds infinite"),
    "unknown class": ({"label": "maybe"}, "clip 'c' has label 'maybe'"),
    "class index": ({"label": 2}, "clip 'c' has class 2, expected 0 to 1"),
    "empty id": ({"id": ""}, "has id ''"),
    "long group": ({"group": "g" * 300}, "clip 'c' has group"),
    "terminal control": ({"split": "\x1b[2J"}, "clip 'c' has split"),
    "half a surrogate pair": ({"group": "\ud800"}, "clip 'c' has group"),
}


@pytest.mark.parametrize("case", BAD_CLIPS)
def test_a_clip_that_does_not_fit_is_named_and_costs_nothing_else(tmp_path, case):
    change, message = BAD_CLIPS[case]
    good = {"landmarks": clip(3), "id": "c", "label": "yes"}
    with writer(tmp_path / "s") as out:
        out.add(clip(2), id="before", label="no")
        with pytest.raises(DataError, match=message):
            out.add(**(good | change))
        out.add(**good)
    store = Store(tmp_path / "s")
    store.verify()
    assert store.ids.tolist() == ["before", "c"]


def test_bad_batches_are_refused(tmp_path):
    frames = np.stack([clip(3), clip(3)])
    with writer(tmp_path / "s") as out:
        with pytest.raises(DataError, match="1 values of label for 2 clips"):
            out.add_batch(frames, ids=["a", "b"], labels=["yes"])
        for length in (0, 4):
            with pytest.raises(DataError, match=f"clip 'b' has length {length}, expected 1 to 3"):
                out.add_batch(frames, ids=["a", "b"], labels=["yes", "no"], lengths=np.array([3, length]))
        out.add(clip(1), id="c", label="no")
    with pytest.raises(DataError, match="only inside"):
        out.add(clip(1), id="d", label="no")
    with writer(tmp_path / "half", stage="centred", preprocessing="p", dtype=np.float16) as out:
        with pytest.raises(DataError, match=r"'big' holds infinite coordinates \(as float16"):
            out.add(np.full((1, J, 3), 1e6, np.float32), id="big", label="no")
        out.add(clip(1), id="c", label="no")


def test_ids_must_differ_across_parts(tmp_path):
    def write():
        with writer(tmp_path / "s", part_clips=1) as out:
            out.add(clip(2), id="a", label="no")
            out.add(clip(3), id="a", label="no")

    with pytest.raises(DataError, match="same id"):
        write()
    assert not (tmp_path / "s").exists()


BAD_STORES = {
    "class twice": ({"classes": ["a", "b", "a"]}, "'a' twice"),
    "no class": ({"classes": []}, "classes"),
    "layout": ({"layout": "openpose25"}, "openpose25"),
    "stage": ({"stage": "smoothed"}, "stage"),
    "half floats of raw landmarks": ({"dtype": np.float16}, "float16 in a raw store"),
    "centred without signature": ({"stage": "centred"}, "preprocessing"),
    "raw with signature": ({"preprocessing": "p"}, "preprocessing"),
    "frame rate": ({"fps": 0.0}, "fps"),
    "NaN": ({"statistics": {"mean": float("nan")}}, "JSON"),
    "digest": ({"seen_clips": ["xyz"]}, "seen_clips"),
    "part size": ({"part_clips": 0}, "part_clips"),
}


@pytest.mark.parametrize("case", BAD_STORES)
def test_a_store_that_makes_no_sense_is_refused_before_any_work(tmp_path, case):
    change, message = BAD_STORES[case]
    with pytest.raises(DataError, match=message):
        writer(tmp_path / "s", **change)
    assert not (tmp_path / "s").exists()


def test_an_error_in_the_block_leaves_nothing(tmp_path):
    def write(path):
        with writer(path, part_clips=2) as out:
            for i in range(5):
                out.add(clip(2), id=str(i), label="no")
            raise RuntimeError("stop")

    (tmp_path / "kept").mkdir()
    for path in (tmp_path / "s", tmp_path / "kept"):
        with pytest.raises(RuntimeError, match="stop"):
            write(path)
    assert not (tmp_path / "s").exists()
    assert list((tmp_path / "kept").iterdir()) == []


def test_an_empty_block_writes_no_store(tmp_path):
    with pytest.raises(DataError, match="no clip was added"), writer(tmp_path / "s"):
        pass
    assert not (tmp_path / "s").exists()


def test_what_is_there_is_never_overwritten(tmp_path):
    store = small_store(tmp_path / "s")
    with pytest.raises(DataError, match="already holds a store"), writer(tmp_path / "s"):
        pass
    store.verify()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match=r"not empty.*thesis\.txt"), writer(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    with pytest.raises(DataError, match="is a file"), writer(tmp_path / "mine" / "thesis.txt"):
        pass


def test_two_writers_of_one_store_do_not_mix(tmp_path):
    with writer(tmp_path / "s", part_clips=1) as out:
        out.add(clip(2), id="a", label="no")
        with pytest.raises(DataError, match="another process is writing"), writer(tmp_path / "s"):
            pass
        out.add(clip(2), id="b", label="no")
    assert Store(tmp_path / "s").ids.tolist() == ["a", "b"]


WRITE_SLOWLY = """
import sys, time
import numpy as np
import handcraft.data.writer as module

def wait(what):
    print(what, flush=True)
    if what == sys.argv[2]:
        time.sleep(60)

write = module.write_json
module.write_json = lambda path, value: (wait("manifest"), write(path, value))
with module.StoreWriter(sys.argv[1], layout="pose_hands48", stage="raw", classes=["a"], part_clips=2) as out:
    wait("open")
    for i in range(5):
        out.add(np.ones((2, 48, 3), np.float32), id=str(i), label="a")
        wait(f"clip {i}")
"""


@pytest.mark.parametrize("moment", ["open", "clip 0", "clip 3", "manifest"])
def test_a_killed_write_leaves_no_store_and_can_be_repeated(tmp_path, moment):
    path = tmp_path / "s"
    command = [sys.executable, "-c", WRITE_SLOWLY, str(path), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        assert moment in (line.strip() for line in run.stdout)  # stops reading at that line
        run.send_signal(signal.SIGKILL)
        run.wait(timeout=30)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Store(path)
    store = small_store(path)
    store.verify()
    assert sorted(entry.name for entry in path.iterdir()) == ["manifest.json", "part-00000", "part-00001", "part-00002"]
