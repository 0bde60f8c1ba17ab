"""`MP_Data/WORD/CLIP/FRAME.npy` folders: every number in its place, everything in numeric order, damage refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_recipe import one_line_error, run_cli

from handcraft.data.mp_data import ROWS, import_mp_data, read_clip
from handcraft.data.store import Store
from handcraft.errors import DataError
from handcraft.layouts import layout

PARTS = {1662: ("pose", "face", "left_hand", "right_hand"), 258: ("pose", "left_hand", "right_hand")}


def row(numbers: int = 258, seed: int = 0, missing: tuple[str, ...] = ()) -> np.ndarray:
    """One frame as the tutorial saves it: float64, part after part, a part that was not detected as zeros."""
    rng = np.random.default_rng(seed)
    sizes = {"pose": 33 * 4, "face": 468 * 3, "left_hand": 21 * 3, "right_hand": 21 * 3}
    return np.concatenate(
        [np.zeros(sizes[part]) if part in missing else rng.uniform(0.1, 0.9, sizes[part]) for part in PARTS[numbers]]
    )


def clip_folder(place: Path, rows: list[np.ndarray], first: int = 0) -> Path:
    place.mkdir(parents=True)
    for number, values in enumerate(rows, first):
        np.save(place / f"{number}.npy", values)
    return place


def mp_data(root: Path, words: tuple[str, ...] = ("hello", "thanks"), clips: int = 2, numbers: int = 258) -> Path:
    for at, word in enumerate(words):
        for clip in range(clips):
            rows = [row(numbers, seed=100 * at + 10 * clip + frame) for frame in range(3)]
            clip_folder(root / word / str(clip), rows)
    return root


@pytest.mark.parametrize("numbers", [1662, 258])
def test_every_number_has_its_place(tmp_path, numbers):
    values = row(numbers)
    found = read_clip(clip_folder(tmp_path / "0", [values]), numbers)
    named = layout(ROWS[numbers][0])
    assert (found.shape, found.dtype) == ((1, named.landmarks, 3), np.float32)
    pose = values[:132].reshape(33, 4)[:, :3].astype("f4")
    np.testing.assert_array_equal(found[0, named.slices["pose"]], pose)
    start = 132
    for part, points in (("face", 468), ("left_hand", 21), ("right_hand", 21)):
        if part in PARTS[numbers]:
            expected = values[start : start + 3 * points].reshape(points, 3).astype("f4")
            np.testing.assert_array_equal(found[0, named.slices[part]], expected)
            start += 3 * points
    assert start == numbers


@settings(max_examples=25, deadline=None)
@given(
    numbers=st.sampled_from([1662, 258]),
    missing=st.lists(st.sets(st.sampled_from(["pose", "face", "left_hand", "right_hand"])), min_size=1, max_size=4),
)
def test_zeros_are_missing_parts_and_nothing_else_is(tmp_path_factory, numbers, missing):
    rows = [row(numbers, seed, tuple(parts)) for seed, parts in enumerate(missing)]
    found = read_clip(clip_folder(tmp_path_factory.mktemp("mp") / "0", rows), numbers)
    for name, where in layout(ROWS[numbers][0]).slices.items():
        lost = np.isnan(found[:, where])
        assert lost.all(axis=(1, 2)).tolist() == lost.any(axis=(1, 2)).tolist() == [name in parts for parts in missing]


def test_a_point_at_the_corner_of_the_picture_is_not_missing(tmp_path):
    values = row()
    values[132:135] = 0.0  # a wrist exactly at the origin, in a hand that was detected
    values[-2] = np.nan
    found = read_clip(clip_folder(tmp_path / "0", [values]), 258)
    assert found[0, layout("holistic75").position("left_hand", 0)].tolist() == [0, 0, 0]
    assert np.isnan(found[0, -1]).all()
    assert np.isnan(found).sum() == 3


def test_frames_and_clips_come_in_the_order_of_their_numbers(tmp_path):
    rows = [row(seed=frame) for frame in range(12)]
    for clip in (10, 9, 2):
        clip_folder(tmp_path / "mp" / "hello" / str(clip), rows, first=1)
    (tmp_path / "mp" / "hello" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "mp" / "hello" / "notes.txt").write_text("x")
    summary = import_mp_data(tmp_path / "mp", tmp_path / "store", fps=30.0, licence="CC0", aspect=4 / 3)
    store = Store(tmp_path / "store")
    assert store.ids.tolist() == ["hello-2", "hello-9", "hello-10"]
    assert (store.manifest.layout, store.manifest.fps, store.manifest.licence) == ("holistic75", 30.0, "CC0")
    assert (store.manifest.aspect, store.manifest.source["command"]) == (4 / 3, "import-mp-data")
    assert store.landmarks(0)[:, 0, 0].tolist() == [np.float32(values[0]) for values in rows]
    assert summary.lines() == [f"{tmp_path / 'store'}: 3 clips of 1 class, layout holistic75"]


def test_folders_become_classes(tmp_path):
    import_mp_data(mp_data(tmp_path / "mp", ("thanks", "I love you"), numbers=1662), tmp_path / "store")
    store = Store(tmp_path / "store")
    assert store.classes == ("I love you", "thanks")
    assert store.ids.tolist() == ["I love you-0", "I love you-1", "thanks-0", "thanks-1"]
    assert store.labels.tolist() == [0, 0, 1, 1]
    assert store.manifest.layout == "holistic543"
    assert set(store.groups) == set(store.splits) == {""}


def damaged(root: Path, what: str) -> None:
    frame = root / "hello" / "1" / "1.npy"
    if what == "gap":
        frame.unlink()
    elif what == "twice":
        np.save(frame.with_name("01.npy"), row())
    elif what == "name":
        np.save(frame.with_name("last.npy"), row())
    elif what == "width":
        np.save(frame, row(1662))
    elif what == "integers":
        np.save(frame, np.zeros(258, dtype=np.int64))
    elif what == "matrix":
        np.save(frame, row()[None])
    elif what == "infinite":
        np.save(frame, np.full(258, 1e300))
    elif what == "pickle":
        np.save(frame, np.array([{}] * 258), allow_pickle=True)
    elif what == "forged":
        frame.write_bytes(frame.read_bytes().replace(b"(258,)", b"(259,)"))
    elif what == "cut":
        os.truncate(frame, frame.stat().st_size - 8)
    elif what == "link":
        frame.rename(root / "elsewhere.npy")
        frame.symlink_to(root / "elsewhere.npy")
    elif what == "no frames":
        for path in list(frame.parent.iterdir()):
            path.unlink()
    elif what == "no clips":
        (root / "empty").mkdir()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("gap", r"2\.npy: expected frame 1 here"),
        ("twice", r"npy: expected frame 2 here"),
        ("name", r"last\.npy: its name is no number"),
        ("width", r"1\.npy: holds float64 of shape \(1662,\), expected a row of 258"),
        ("integers", r"1\.npy: holds int64 of shape \(258,\), expected a row of 258 floating-point"),
        ("matrix", r"1\.npy: holds float64 of shape \(1, 258\)"),
        ("infinite", r"1: holds infinite coordinates"),
        ("pickle", r"1\.npy: not a readable .npy file: it holds pickled Python objects"),
        ("forged", r"1\.npy: not a readable .npy file: it declares shape \(259,\)"),
        ("cut", r"1\.npy: not a readable .npy file"),
        ("link", r"1\.npy: is a symbolic link"),
        ("no frames", r"1: holds no frame, expected files 0\.npy"),
        ("no clips", r"empty: holds no folder of a clip, expected the clips of class 'empty'"),
    ],
)
def test_what_is_wrong_is_named_and_no_store_is_left(tmp_path, what, message):
    damaged(mp_data(tmp_path / "mp"), what)
    with pytest.raises(DataError, match=message):
        import_mp_data(tmp_path / "mp", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_clips_without_a_landmark_are_refused_or_left_out(tmp_path):
    root = mp_data(tmp_path / "mp", clips=7)
    for clip in range(6):
        nothing = row(missing=PARTS[258])
        for frame in range(3):
            np.save(root / "thanks" / str(clip) / f"{frame}.npy", nothing)
    with pytest.raises(DataError, match=r"6 of 14 clips: thanks-0, .*thanks-4 and 1 more; take them out"):
        import_mp_data(root, tmp_path / "store")
    summary = import_mp_data(root, tmp_path / "store", leave_out_missing=True)
    assert (summary.imported, summary.missing) == (8, tuple(f"thanks-{clip}" for clip in range(6)))
    assert len(Store(tmp_path / "store")) == 8
    for frame in range(3):
        np.save(root / "thanks" / "6" / f"{frame}.npy", nothing)
    with pytest.raises(DataError, match="no clip of class thanks has a single landmark"):
        import_mp_data(root, tmp_path / "other", leave_out_missing=True)
    assert not (tmp_path / "other").exists()


def test_the_command(tmp_path, capfd):
    words = ("data", "import-mp-data", mp_data(tmp_path / "mp"), tmp_path / "store")
    assert run_cli(*words, "--fps", 30, "--licence", "MIT", "--aspect", 1.5) == 0
    assert "4 clips of 2 classes, layout holistic75" in capfd.readouterr().out
    manifest = Store(tmp_path / "store").manifest
    assert (manifest.fps, manifest.licence, manifest.aspect) == (30.0, "MIT", 1.5)
    assert "already holds a store" in one_line_error(capfd, *words)
    assert "not a folder that can be read" in one_line_error(
        capfd, "data", "import-mp-data", tmp_path / "absent", tmp_path / "new"
    )
