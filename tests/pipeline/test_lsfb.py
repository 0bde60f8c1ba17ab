"""LSFB's layout, version 2: what comes in, and what is refused."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from lsfb_folder import ids_of, lsfb_folder, save, write_csv, write_list

from handcraft.data.lsfb import RAW_LAYOUTS, export_lsfb, import_lsfb
from handcraft.data.store import Store
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import layout


def joined(folder: Path, id: str, parts=("pose", "left_hand", "right_hand", "face")) -> np.ndarray:
    return np.concatenate([np.load(folder / "poses" / part / f"{id}.npy") for part in parts], axis=1)


def test_everything_arrives(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb")
    summary = import_lsfb(folder, tmp_path / "store", fps=50, licence="CC BY-NC-SA 4.0", aspect=1.25)
    store, ids = Store(tmp_path / "store"), ids_of(folder)
    assert store.manifest.layout == "holistic553"
    assert store.manifest.stage == "raw"
    assert (store.manifest.fps, store.manifest.licence, store.manifest.aspect) == (50, "CC BY-NC-SA 4.0", 1.25)
    assert store.ids.tolist() == ids
    assert [store.classes[label] for label in store.labels] == ["SIGN-0", "SIGN-1"] * 3  # not the folder's own numbers
    assert store.groups.tolist() == ["S000", "S001", "S002"] * 2
    assert store.splits.tolist() == ["test"] * 2 + ["train"] * 4
    for clip, id in enumerate(ids):
        assert np.array_equal(store.landmarks(clip), joined(folder, id).astype(np.float32))
    assert summary.lines() == [f"{tmp_path / 'store'}: 6 clips of 2 classes, layout holistic553 (2 test, 4 train)"]
    assert [store.provenance_of(i) for i in (0, 5)] == [{"start": "0", "end": "183"}, {"start": "1000", "end": "1183"}]


@pytest.mark.parametrize(("face", "name"), [(None, "holistic75"), (12, "holistic87"), (468, "holistic543")])
def test_the_face_tells_the_layout(tmp_path, face, name):
    folder = lsfb_folder(tmp_path / "lsfb", face=face)
    import_lsfb(folder, tmp_path / "store")
    assert Store(tmp_path / "store").manifest.layout == name


@pytest.mark.parametrize("keep", RAW_LAYOUTS)
def test_keep_takes_the_landmarks_of_a_smaller_layout(tmp_path, keep):
    folder = lsfb_folder(tmp_path / "lsfb", clips=2)
    import_lsfb(folder, tmp_path / "store", keep=keep)
    store, take = Store(tmp_path / "store"), layout("holistic553").take(layout(keep))
    assert store.manifest.layout == keep
    assert np.array_equal(store.landmarks(1), joined(folder, ids_of(folder)[1])[:, take].astype(np.float32))


def test_a_layout_without_face_does_not_read_it(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb", clips=2)
    shutil.rmtree(folder / "poses" / "face")
    (folder / "poses" / "face").mkdir()
    import_lsfb(folder, tmp_path / "store", keep="holistic75")
    assert len(Store(tmp_path / "store")) == 2


def test_poses_may_lie_elsewhere(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb", face=None, clips=2)
    shutil.move(folder / "poses", folder / "poses_raw")
    import_lsfb(folder, tmp_path / "store", poses=folder / "poses_raw")
    assert len(Store(tmp_path / "store")) == 2


def test_a_part_of_zeros_is_missing_and_counted(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb", face=None, clips=2)
    path = folder / "poses" / "left_hand" / f"{ids_of(folder)[1]}.npy"
    hand = np.load(path)
    hand[1], hand[2, :20], hand[3] = 0, 0, np.nan  # 20 of 21 points at 0 were detected; NaN is missing as it is
    save(path, hand)
    summary = import_lsfb(folder, tmp_path / "store")
    hand[1] = np.nan
    assert np.array_equal(Store(tmp_path / "store").landmarks(1)[:, 33:54], hand.astype(np.float32), equal_nan=True)
    assert summary.notes == ("frames of nothing but zeros, taken as missing: 1 left_hand",)


def test_clips_without_a_landmark_are_named(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb", face=None)
    empty, unseen = ids_of(folder)[2:4]
    for part in ("pose", "left_hand", "right_hand"):
        save(folder / "poses" / part / f"{empty}.npy", np.array([]))  # so LSFB has clips of no frames
        save(folder / "poses" / part / f"{unseen}.npy", np.zeros((5, 33 if part == "pose" else 21, 3)))
    with pytest.raises(DataError, match=f"2 of 6 clips: {empty}, {unseen}"):
        import_lsfb(folder, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    summary = import_lsfb(folder, tmp_path / "store", leave_out_missing=True)
    assert summary.missing == (empty, unseen)
    assert summary.imported == 4
    assert not {empty, unseen} & set(Store(tmp_path / "store").ids.tolist())


def test_clips_in_no_list_are_left_out_and_counted(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb", face=None)
    ids = ids_of(folder)
    write_list(folder, "train", [ids[2], "not-there"])
    write_list(folder, "test", [ids[0]])
    summary = import_lsfb(folder, tmp_path / "store")
    assert Store(tmp_path / "store").ids.tolist() == [ids[0], ids[2]]
    assert (summary.unused, summary.dropped_classes) == (4, ("SIGN-1",))
    assert summary.notes == ("not in instances.csv, so passed over: 1 ids of train.json",)


def test_lists_by_name(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb", face=None)
    import_lsfb(folder, tmp_path / "one", splits=["mini_sample"])
    assert Store(tmp_path / "one").splits.tolist() == ["mini_sample"] * 2
    (folder / "metadata" / "splits" / "test.json").unlink()  # as HandCraft writes its synthetic sets
    import_lsfb(folder, tmp_path / "two")
    assert Store(tmp_path / "two").splits.tolist() == ["train"] * 4
    (folder / "metadata" / "splits" / "train.json").unlink()
    import_lsfb(folder, tmp_path / "three")
    assert Store(tmp_path / "three").splits.tolist() == [""] * 6


def test_signs_and_signers_stay_the_text_they_are(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb", face=None, clips=4, splits=False)
    signs, signers = ["NA", "01", 'say "no", twice', "ÇA-VA/ÇA"], ["007", "", "null", "1e3"]
    rows = zip(ids_of(folder), signs, signers, strict=True)
    write_csv(folder / "instances.csv", [["id", "sign", "signer"], *rows])
    import_lsfb(folder, tmp_path / "store")
    store = Store(tmp_path / "store")
    assert [store.classes[label] for label in store.labels] == signs
    assert store.groups.tolist() == signers


def broken(folder: Path, case: str) -> dict[str, object]:
    """Spoil a folder in one way; what import_lsfb is to be called with."""
    ids = ids_of(folder)
    hand = folder / "poses" / "left_hand" / f"{ids[3]}.npy"
    rows = [["id", "sign", "signer"], *([id, "a", "s"] for id in ids)]
    array, outside = np.load(hand), folder.parent / "outside.npy"
    match case:
        case "no table":
            (folder / "instances.csv").unlink()
        case "shards":
            (folder / "instances.csv").rename(folder / "shard_000000.tar")
        case "no clip":
            write_csv(folder / "instances.csv", rows[:1])
        case "no sign":
            write_csv(folder / "instances.csv", [["id", "label"], [ids[0], "a"]])
        case "id twice":
            write_csv(folder / "instances.csv", [*rows, rows[1]])
        case "id leaves":
            save(outside, array)
            write_csv(folder / "instances.csv", [*rows, ["../../../outside", "a", "s"]])
        case "id absolute":
            write_csv(folder / "instances.csv", [*rows, [str(folder), "a", "s"]])
        case "list leaves":
            return {"splits": ["../sign_to_index"]}
        case "list absent":
            return {"splits": ["fold_0"]}
        case "list is none":
            write_list(folder, "train", {"ids": ids})
        case "lists overlap":
            return {"splits": ["train", "all"]}
        case "lists of others":
            write_list(folder, "train", ["x"])
            write_list(folder, "test", [])
        case "no such layout":
            return {"keep": "handcraft60"}
        case "no face":
            return {"keep": "holistic87"}
        case "no part":
            shutil.rmtree(folder / "poses" / "right_hand")
        case "no file":
            hand.unlink()
        case "linked file":
            save(outside, array)
            hand.unlink()
            hand.symlink_to(outside)
        case "linked folder":
            shutil.move(hand.parent, folder.parent / "elsewhere")
            hand.parent.symlink_to(folder.parent / "elsewhere")
        case "other points":
            save(hand, array[:, :20])
        case "two coordinates":
            save(hand, array[:, :, :2])
        case "integers":
            save(hand, array.astype("i4"))
        case "fewer frames":
            save(hand, array[1:])
        case "infinite":
            save(hand, np.full_like(array, np.inf))
        case "too large for float32":
            save(hand, np.full_like(array, 1e300))
        case "pickle":
            save(hand, np.array([[{}]]), allow_pickle=True)
        case "forged header":
            hand.write_bytes(hand.read_bytes().replace(b"(7, 21, 3)", b"(9999999, 21, 3)").replace(b"      \n", b"\n"))
        case "cut short":
            hand.write_bytes(hand.read_bytes()[:-8])
    return {}


@pytest.mark.parametrize(
    ("case", "match"),
    [
        ("no table", "instances.csv: no such file"),
        ("shards", "import-lsfb-shards"),
        ("no clip", "lists no clip"),
        ("no sign", "no column 'sign'"),
        ("id twice", "twice"),
        ("id leaves", "cannot be the name of a file"),
        ("id absolute", "cannot be the name of a file"),
        ("list leaves", "cannot be the name of a file"),
        ("list absent", "fold_0.json: no such file"),
        ("list is none", "expected a list of clip ids"),
        ("lists overlap", "is in train.json, too"),
        ("lists of others", "train and test list no clip"),
        ("no such layout", "expected one of holistic75"),
        ("no face", "has no folder face"),
        ("no part", "right_hand: not a folder"),
        ("no file", "1 clips of instances.csv lack their file"),
        ("linked file", "symbolic link"),
        ("linked folder", "symbolic link"),
        ("other points", r"shape \(7, 20, 3\), expected floating point \(frames, 21, 3\)"),
        ("two coordinates", r"shape \(7, 21, 2\)"),
        ("integers", "int32"),
        ("fewer frames", "7 of pose, 6 of left_hand, 7 of right_hand frames"),
        ("infinite", "infinite"),
        ("too large for float32", "infinite"),
        ("pickle", "pickle"),
        ("forged header", "left_hand"),
        ("cut short", "left_hand"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_store(tmp_path, case, match):
    folder = lsfb_folder(tmp_path / "lsfb", face=None)
    options = broken(folder, case)
    with pytest.raises((DataError, ConfigError), match=match):
        import_lsfb(folder, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_a_class_that_loses_all_its_clips_is_named(tmp_path):
    folder = lsfb_folder(tmp_path / "lsfb", face=None, clips=2)
    for part in ("pose", "left_hand", "right_hand"):
        save(folder / "poses" / part / f"{ids_of(folder)[1]}.npy", np.array([]))
    with pytest.raises(DataError, match="no clip of class SIGN-1"):
        import_lsfb(folder, tmp_path / "store", leave_out_missing=True)


def test_an_unknown_face_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected \\(frames, 12 or 468 or 478, 3\\)"):
        import_lsfb(lsfb_folder(tmp_path / "lsfb", face=70), tmp_path / "store")


def test_clips_stream(tmp_path):
    """What is held at a time is far below the data: 24 clips of 1.8 MB each."""
    folder = tmp_path / "lsfb"
    ids = [f"c{i}" for i in range(24)]
    for part, points in (("pose", 33), ("left_hand", 21), ("right_hand", 21)):
        for id in ids:
            save(folder / "poses" / part / f"{id}.npy", np.random.default_rng(0).random((2000, points, 3), np.float32))
    write_csv(folder / "instances.csv", [["id", "sign"], *([id, "a"] for id in ids)])
    tracemalloc.start()
    import_lsfb(folder, tmp_path / "store")
    export_lsfb(tmp_path / "store", tmp_path / "back")
    import_lsfb(tmp_path / "back", tmp_path / "again")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 1.8e6
