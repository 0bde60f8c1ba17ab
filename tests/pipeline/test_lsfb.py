"""LSFB's layout, version 2: what comes in, what is refused, and that an export gives the same store again."""

import dataclasses
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lsfb_folder import ids_of, lsfb_folder, save, write_csv, write_list
from tiny_recipe import one_line_error, run_cli

from handcraft.data.lsfb import RAW_LAYOUTS, export_lsfb, import_lsfb
from handcraft.data.store import Store, StoreWriter
from handcraft.data.untrusted import file_name
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import LAYOUTS, layout

REAL = Path(__file__).parents[3] / "shared" / "data" / "asl33.npz"


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


text = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12)


def names_a_file(value: str) -> bool:
    try:
        return bool(file_name(value, "id"))
    except DataError:
        return False


def unlike(values: list[str]) -> bool:
    """Whether the names differ on any file system."""
    return len({value.casefold() for value in values}) == len(values)


def random_store(path: Path, data: st.DataObject) -> Store:
    """A store of any layout, stage, dtype and text that can be exported; one class has no clip."""
    stage = data.draw(st.sampled_from(["raw", "centred"]))
    name, coordinates = data.draw(st.sampled_from(sorted(LAYOUTS))), data.draw(st.sampled_from(["xyz", "xy"]))
    dtype = data.draw(st.sampled_from([np.float32, np.float16])) if stage == "centred" else np.float32
    classes = data.draw(st.lists(text.filter(bool), min_size=2, max_size=4, unique=True))
    splits = data.draw(st.lists(text.filter(names_a_file), min_size=1, max_size=3).filter(unlike))
    splits = [split for split in splits if split.casefold() != "all"] + [""]
    ids = data.draw(st.lists(text.filter(names_a_file), min_size=1, max_size=5).filter(unlike))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    options = {"preprocessing": "p", "statistics": {"mean": [0.5]}} if stage == "centred" else {"aspect": 1.5}
    with StoreWriter(
        path,
        layout=name,
        stage=stage,
        classes=classes,
        coordinates=coordinates,
        dtype=dtype,
        fps=data.draw(st.sampled_from([None, 25.0])),
        licence=data.draw(st.none() | text),
        seen_clips=["0123456789abcdef"],
        source={"command": "test", "seed": 3},
        **options,
    ) as writer:
        for id in ids:
            frames = rng.normal(size=(int(rng.integers(1, 5)), LAYOUTS[name].landmarks, len(coordinates)))
            frames[rng.random(frames.shape) < 0.2] = np.nan
            frames[rng.random(len(frames)) < 0.3] = 0  # zeros are values here
            writer.add(
                frames,
                id=id,
                label=data.draw(st.sampled_from(classes[:-1])),
                group=data.draw(text),
                split=data.draw(st.sampled_from(splits)),
                provenance=data.draw(st.text(st.sampled_from('a,"é\r\n\0'), max_size=6)),
                digest=data.draw(st.none() | st.integers(0, 2**64 - 1)),
            )
    return Store(path)


def assert_equal(first: Store, second: Store) -> None:
    """The same clips bit for bit, and the same manifest but for the division into parts."""
    for name in ("ids", "labels", "groups", "splits", "frames", "digests", "provenance"):
        assert list(getattr(first, name)) == list(getattr(second, name)), name
    assert first.dtype == second.dtype
    assert first.rows(first.dtype).tobytes() == second.rows(first.dtype).tobytes()
    assert dataclasses.replace(first.manifest, parts=()) == dataclasses.replace(second.manifest, parts=())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_store_comes_back_from_its_export(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("export")
    store = random_store(place / "store", data)
    assert export_lsfb(store.path, place / "lsfb") == len(store)
    summary = import_lsfb(place / "lsfb", place / "again")
    assert_equal(store, Store(place / "again"))
    assert summary.imported == len(store)


def small_store(path: Path, fps: float | None = 25.0, **clip: str) -> Store:
    with StoreWriter(path, layout="holistic75", stage="raw", classes=["no", "yes"], fps=fps) as writer:
        for i, frames in enumerate((5, 7, 4)):
            array = np.random.default_rng(i).normal(size=(frames, 75, 3))
            column = {"id": f"c{i}", "label": ("yes", "no")[i % 2], "group": f"s{i}", "split": ("train", "test")[i % 2]}
            writer.add(array, **(column | (clip if i == 2 else {})))
    return Store(path)


def test_an_export_is_what_lsfb_loaders_expect(tmp_path):
    """Read as lsfb-dataset does: pandas for the tables, json for the lists, numpy for the landmarks."""
    store = small_store(tmp_path / "store")
    export_lsfb(store.path, tmp_path / "lsfb")
    table = pd.read_csv(tmp_path / "lsfb" / "instances.csv")
    assert table.columns.tolist() == ["id", "sign", "signer", "start", "end"]
    assert table["id"].tolist() == ["c0", "c1", "c2"]
    assert table["sign"].tolist() == ["yes", "no", "yes"]
    assert table["signer"].tolist() == ["s0", "s1", "s2"]
    assert table["start"].tolist() == [0, 0, 0]
    assert table["end"].tolist() == [200, 280, 160]
    signs = pd.read_csv(tmp_path / "lsfb" / "metadata" / "sign_to_index.csv")
    assert dict(signs.to_records(index=False).tolist()) == {"no": 0, "yes": 1}
    lists = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "lsfb/metadata/splits").iterdir()}
    assert lists == {"train": ["c0", "c2"], "test": ["c1"], "all": ["c0", "c1", "c2"]}
    for clip, id in enumerate(table["id"]):
        found = joined(tmp_path / "lsfb", id, ("pose", "left_hand", "right_hand"))
        assert found.dtype == np.float32
        assert np.array_equal(found, store.landmarks(clip))


def test_the_end_is_in_frames_where_fps_is_unknown(tmp_path):
    small_store(tmp_path / "store", fps=None)
    export_lsfb(tmp_path / "store", tmp_path / "lsfb")
    assert pd.read_csv(tmp_path / "lsfb" / "instances.csv")["end"].tolist() == [5, 7, 4]


@pytest.mark.parametrize(
    ("clip", "match"),
    [
        ({"id": "../c2"}, "cannot be the name of a file"),
        ({"id": "a/b"}, "cannot be the name of a file"),
        ({"split": "../../x"}, "cannot be the name of a file"),
        ({"split": "all"}, "'all'"),
    ],
)
def test_a_store_that_has_no_place_in_the_layout_is_refused(tmp_path, clip, match):
    small_store(tmp_path / "store", **clip)
    with pytest.raises(DataError, match=match):
        export_lsfb(tmp_path / "store", tmp_path / "lsfb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_an_export_replaces_nothing(tmp_path):
    small_store(tmp_path / "store")
    (tmp_path / "lsfb").mkdir()
    with pytest.raises(DataError, match="exists already"):
        export_lsfb(tmp_path / "store", tmp_path / "lsfb")


def test_a_damaged_store_is_not_exported(tmp_path):
    small_store(tmp_path / "store")
    with (tmp_path / "store" / "part-00000" / "landmarks.npy").open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x01")
    with pytest.raises(DataError, match="SHA-256"):
        export_lsfb(tmp_path / "store", tmp_path / "lsfb")


@pytest.mark.parametrize(
    "name",
    [
        "instances.csv",
        "metadata/handcraft.csv",
        "metadata/handcraft.json",
        "metadata/splits/train.json",
        "poses/left_hand/c1.npy",
    ],
)
def test_an_export_that_was_changed_is_refused(tmp_path, name):
    small_store(tmp_path / "store")
    export_lsfb(tmp_path / "store", tmp_path / "lsfb")
    path = tmp_path / "lsfb" / name
    content = path.read_bytes()
    changed = {"instances.csv": (b"s1", b"s2"), "metadata/handcraft.json": (b"25.0", b"26.0")}
    old, new = changed.get(name, (content[-9:], content[-8:] + content[-9:-8]))
    path.write_bytes(content.replace(old, new))
    assert path.read_bytes() != content
    with pytest.raises(DataError, match=path.name if path.suffix != ".npy" else "'c1'"):
        import_lsfb(tmp_path / "lsfb", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_export_is_imported_whole_or_as_any_other_folder(tmp_path):
    store = small_store(tmp_path / "store")
    export_lsfb(store.path, tmp_path / "lsfb")
    with pytest.raises(ConfigError, match=r"delete metadata/handcraft\.json"):
        import_lsfb(tmp_path / "lsfb", tmp_path / "again", keep="holistic75")
    import_lsfb(tmp_path / "lsfb", tmp_path / "licensed", licence="MIT")
    assert Store(tmp_path / "licensed").manifest == dataclasses.replace(store.manifest, licence="MIT")
    (tmp_path / "lsfb" / "metadata" / "handcraft.json").unlink()
    import_lsfb(tmp_path / "lsfb", tmp_path / "again")
    again = Store(tmp_path / "again")
    assert again.manifest.fps is None
    assert np.array_equal(again.digests, store.digests)
    assert again.splits.tolist() == store.splits.tolist()
    assert np.array_equal(again.rows(), store.rows())


def test_commands(tmp_path, capfd):
    folder = lsfb_folder(tmp_path / "lsfb")
    words = ("data", "import-lsfb", folder, tmp_path / "store", "--keep", "holistic87", "--splits", "train", "test")
    assert run_cli(*words, "--fps", 50) == 0
    assert "6 clips of 2 classes, layout holistic87" in capfd.readouterr().out
    assert run_cli("data", "export-lsfb", tmp_path / "store", tmp_path / "export") == 0
    assert "6 clips" in capfd.readouterr().out
    assert run_cli("data", "import-lsfb", tmp_path / "export", tmp_path / "again") == 0
    assert_equal(Store(tmp_path / "store"), Store(tmp_path / "again"))
    assert "exists already" in one_line_error(capfd, "data", "export-lsfb", tmp_path / "store", tmp_path / "export")


@pytest.mark.skipif(not REAL.exists(), reason="the real data (../shared/data) is not here")
def test_real_clips_come_back(tmp_path):
    from handcraft.data.arrays import import_arrays

    import_arrays(REAL, tmp_path / "store", group="session")
    export_lsfb(tmp_path / "store", tmp_path / "lsfb")
    import_lsfb(tmp_path / "lsfb", tmp_path / "again")
    assert_equal(Store(tmp_path / "store"), Store(tmp_path / "again"))
