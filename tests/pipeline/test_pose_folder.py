"""Folders of `.pose` files: a store comes back out of them, files that differ share a store, and nothing is left of a
failure."""

import csv
from pathlib import Path

import numpy as np
import pytest
from pose_clips import ROUNDING, SHOULDERS, clip, custom, pose_format
from tiny_recipe import one_line_error, run_cli

from handcraft.config import PreprocessConfig
from handcraft.data.pose_file import read_pose, write_pose
from handcraft.data.pose_folder import export_pose, import_pose
from handcraft.data.preprocess import preprocess, signature
from handcraft.data.store import Store, StoreWriter
from handcraft.errors import DataError
from handcraft.layouts import layout


def store(place: Path, name: str = "holistic75", **options) -> Store:
    """Six clips of three classes; one id and one class name need quotes in a table."""
    settings = {"stage": "raw", "layout": name, "fps": 29.97, "aspect": 16 / 9} | options
    axes = len(settings.get("coordinates", "xyz"))
    with StoreWriter(place, classes=("b", "a", 'say "hi", twice'), **settings) as writer:
        for i in range(6):
            writer.add(
                clip(name, frames=i + 1, axes=axes, seed=i),
                id=f"c {i}, é",
                label=("b", 'say "hi", twice', "a")[i % 3],
                group=f"s{i // 2}",
                split=("train", "test", "")[i // 2],
            )
    return Store(place)


def folders(root: Path, *names: str, **options) -> Path:
    """Files CLASS/CLIP.pose."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_pose(root / f"{name}.pose", clip(seed=seed), "holistic75", **options)
    return root


@pytest.mark.parametrize("name", ["holistic75", "holistic87", "holistic543", "holistic553"])
def test_a_store_comes_back(tmp_path, name):
    given = store(tmp_path / "given", name)
    export_pose(given, tmp_path / "files")
    summary = import_pose(tmp_path / "files", tmp_path / "back", licence="CC BY 4.0")
    back = Store(tmp_path / "back")
    for column in ("ids", "labels", "groups", "splits", "frames"):
        assert getattr(back, column).tolist() == getattr(given, column).tolist()
    assert back.classes == given.classes
    manifest = back.manifest
    assert (manifest.layout, manifest.coordinates, manifest.fps) == (name, "xyz", 29.97)
    assert (manifest.aspect, manifest.licence, manifest.source["command"]) == (16 / 9, "CC BY 4.0", "import-pose")
    for before, after in zip(given, back, strict=True):
        np.testing.assert_allclose(after, before, rtol=ROUNDING)
    assert summary.lines() == [f"{tmp_path / 'back'}: 6 clips of 3 classes, layout {name} (2 test, 2 train)"]


def test_some_clips_in_the_order_asked_for(tmp_path):
    given = store(tmp_path / "given", fps=None, aspect=None)
    lines = export_pose(tmp_path / "given", tmp_path / "files", ids=["c 4, é", "c 0, é"])
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["c 0, é.pose", "c 4, é.pose", "clips.csv"]
    with (tmp_path / "files" / "clips.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["c 4, é", "c 0, é"]
    assert rows[0] == {
        "path": "c 4, é.pose", "id": "c 4, é", "label": 'say "hi", twice', "group": "s2", "split": ""
    }  # fmt: skip
    np.testing.assert_allclose(
        read_pose(tmp_path / "files" / "c 4, é.pose").landmarks, given.landmarks(4), rtol=ROUNDING
    )
    assert lines == [
        f"{tmp_path / 'files'}: 2 clips, a .pose file each, and clips.csv, in pictures of 720 x 720",
        "the store names no frame rate; the files say 25 frames a second",
        "the store does not know the shape of its pictures; the files say square",
    ]


@pytest.mark.parametrize("coordinates", ["xyz", "xy"])
def test_clips_in_shoulder_widths_come_back_out_of_their_picture(tmp_path, coordinates):
    """Synthetic clips have no picture; centred anew, what was drawn of them is what they were."""
    config = PreprocessConfig(coordinates=coordinates, layout="handcraft60", fill=0, smooth_window=0)
    raw = clip("holistic87", frames=5, seed=3)
    raw[:, layout("holistic87").slices["right_hand"]] = np.nan
    centred = preprocess(raw, layout("holistic87"), config, aspect=1.5)
    with StoreWriter(
        tmp_path / "centred",
        layout="handcraft60",
        stage="centred",
        classes=["a"],
        coordinates=coordinates,
        preprocessing=signature(config),
        aspect=1.5,
    ) as writer:
        writer.add(centred, id="s0", label="a")
    export_pose(tmp_path / "centred", tmp_path / "files")
    shoulders = pose_format.Pose.read((tmp_path / "files" / "s0.pose").read_bytes()).body.data.data[:, 0, [3, 0], :2]
    middle, width = np.median(shoulders.mean(axis=1), axis=0), np.linalg.norm(shoulders[:, 0] - shoulders[:, 1], axis=1)
    np.testing.assert_allclose(middle, [360, 360], atol=1e-3)
    np.testing.assert_allclose(np.median(width), 0.4 * 720, rtol=1e-5)
    import_pose(tmp_path / "files", tmp_path / "back")
    back = Store(tmp_path / "back")
    again = preprocess(back.landmarks(0), layout(back.manifest.layout), config, back.manifest.aspect)
    np.testing.assert_allclose(again, centred, atol=2e-6)


def test_clips_centred_on_the_nose_keep_the_shape_of_their_picture(tmp_path):
    config = PreprocessConfig(centre="paper")
    with StoreWriter(
        tmp_path / "centred",
        layout="pose_hands48",
        stage="centred",
        classes=["a"],
        preprocessing=signature(config),
        aspect=0.75,
    ) as writer:
        writer.add(np.full((1, 48, 3), 0.25, "f4"), id="s0", label="a")
    export_pose(tmp_path / "centred", tmp_path / "files")
    found = read_pose(tmp_path / "files" / "s0.pose", layout="pose_hands48")
    assert found.aspect == 0.75
    np.testing.assert_allclose(found.landmarks[0, 0], [0.75, 0.55, 0.25], rtol=ROUNDING)


def test_a_centred_store_without_a_known_centre_is_refused(tmp_path):
    with StoreWriter(
        tmp_path / "centred", layout="pose_hands48", stage="centred", classes=["a"], preprocessing="centre=navel"
    ) as writer:
        writer.add(np.zeros((1, 48, 3), "f4"), id="s0", label="a")
    with pytest.raises(DataError, match="'centre=navel' names no centre"):
        export_pose(tmp_path / "centred", tmp_path / "files")


def test_a_folder_for_each_class(tmp_path):
    root = folders(tmp_path / "signs", "hello/10", "hello/9", "bye/a", fps=50.0, aspect=0.75)
    (root / "hello" / "notes.txt").write_text("x")
    (root / "readme.txt").write_text("x")
    import_pose(root, tmp_path / "store")
    found = Store(tmp_path / "store")
    assert found.ids.tolist() == ["bye-a", "hello-9", "hello-10"]
    assert [found.classes[label] for label in found.labels] == ["bye", "hello", "hello"]
    assert (found.manifest.fps, found.manifest.aspect, found.manifest.layout) == (50.0, 0.75, "holistic75")
    np.testing.assert_allclose(found.landmarks(2), clip(seed=0), rtol=ROUNDING)


def test_a_table_gives_labels_groups_and_splits(tmp_path):
    root = folders(tmp_path, "2020/anna/1", "2021/1")
    (root / "list.csv").write_text(
        "label,split,path,group,remark\nhello,train,2020/anna/1.pose,anna,x\nbye,test,2021/1.pose,,\n"
    )
    import_pose(root / "list.csv", tmp_path / "store")
    found = Store(tmp_path / "store")
    assert found.ids.tolist() == ["2020-anna-1", "2021-1"]
    assert found.classes == ("bye", "hello")
    assert (found.labels.tolist(), found.groups.tolist()) == ([1, 0], ["anna", ""])
    assert found.splits.tolist() == ["train", "test"]


def test_files_that_differ_share_a_store(tmp_path):
    """The layout is what all can fill, the picture's shape that of the most; shapes on the body stay what they are."""
    root = tmp_path / "signs"
    (root / "a").mkdir(parents=True)
    big, small = clip("holistic553", seed=1), clip("holistic87", axes=2, seed=2)
    write_pose(root / "a" / "1.pose", big, "holistic553", fps=25.0, aspect=0.5)
    write_pose(root / "a" / "2.pose", small, "holistic87", fps=50.0, aspect=1.5)
    write_pose(root / "a" / "3.pose", small, "holistic87", fps=50.0, aspect=1.5)
    parts = {"POSE_WORLD_LANDMARKS": ["NOSE"], "FACE_LANDMARKS": ["468"]}
    custom(root / "a", SHOULDERS | parts, kind="XYC", size=(150, 100)).rename(root / "a" / "4.pose")
    summary = import_pose(root, tmp_path / "store")
    found = Store(tmp_path / "store")
    manifest = found.manifest
    assert (manifest.layout, manifest.coordinates, manifest.fps, manifest.aspect) == ("holistic75", "xy", None, 1.5)
    first = found.landmarks(0) * np.array([1.5, 1.0])
    np.testing.assert_allclose(first, big[:, :75, :2] * np.array([0.5, 1.0]), rtol=2 * ROUNDING)
    np.testing.assert_allclose(found.landmarks(1), small[:, :75], rtol=ROUNDING)
    lines = summary.lines()[1:]
    assert lines[:3] == [
        "missing where a file lacks them: 31 of the 33 points of POSE_LANDMARKS",
        "missing where a file lacks them: 21 of the 21 points of LEFT_HAND_LANDMARKS",
        "missing where a file lacks them: 21 of the 21 points of RIGHT_HAND_LANDMARKS",
    ]
    assert lines[3:5] == [
        "left out, since layout holistic75 has no place for them: 478 points of FACE_LANDMARKS",
        "left out, since layout holistic75 has no place for them: 1 points of POSE_WORLD_LANDMARKS",
    ]
    assert lines[5:] == [
        "z left out: 3 of 4 clips have none",
        "pictures differ in shape: x and z of 1 clips are given as fractions of a width of 1.5 times their height, the "
        "shape of the other 3",
        "frames a second differ, and the store names none: 25.0, 50.0, 30.0",
    ]


def test_what_is_wrong_is_named_and_no_store_is_left(tmp_path):
    root = folders(tmp_path / "signs", "a/1", "b/1")
    content = (root / "b" / "1.pose").read_bytes()
    (root / "b" / "1.pose").write_bytes(content[:-4])
    with pytest.raises(DataError, match=r"b/1\.pose: .*cut or damaged"):
        import_pose(root, tmp_path / "store")
    nothing = np.full((2, 75, 3), np.nan)
    write_pose(root / "b" / "1.pose", nothing, "holistic75")
    with pytest.raises(DataError, match=r"b/1\.pose: no landmark in any frame; so it is with 1 of 2 clips: b-1"):
        import_pose(root, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    write_pose(root / "b" / "2.pose", clip(), "holistic75")
    summary = import_pose(root, tmp_path / "store", leave_out_missing=True)
    assert (summary.imported, summary.missing) == (2, ("b-1",))
    for source, message in (
        (root / "a" / "1.pose", "no folder and no table"),
        (root / "a", "holds no folder, expected one for each class"),
        (tmp_path / "absent", "no folder and no table"),
        (tmp_path / "absent.csv", "no such file"),
    ):
        with pytest.raises(DataError, match=message):
            import_pose(source, tmp_path / "new")


def test_exports_are_whole_or_absent(tmp_path, monkeypatch):
    given = store(tmp_path / "given")
    monkeypatch.setattr("handcraft.data.pose_folder.encode_pose", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_pose(given, tmp_path / "files")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["given"]
    export_pose(given, tmp_path / "files")
    with pytest.raises(DataError, match="exists already"):
        export_pose(given, tmp_path / "files")
    with pytest.raises(DataError, match="has no clip 'x'"):
        export_pose(given, tmp_path / "new", ids=["x"])
    with pytest.raises(DataError, match=r"c 0, é\.pose: two clips need this file"):
        export_pose(given, tmp_path / "new", ids=["c 0, é", "c 0, é"])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("id", ["../../outside", "/etc/passwd", "..", ".hidden", "a\\b"])
def test_ids_cannot_lead_out_of_the_folder(tmp_path, id):
    with StoreWriter(tmp_path / "s", layout="holistic75", stage="raw", classes=["a"]) as writer:
        writer.add(clip(), id=id, label="a")
    with pytest.raises(DataError, match="cannot be the name of a file"):
        export_pose(tmp_path / "s", tmp_path / "files")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_damaged_store_and_impossible_pictures_are_not_exported(tmp_path):
    store(tmp_path / "wide", aspect=1000.0)
    with pytest.raises(DataError, match=r"aspect ratio \(width / height\) is 1000"):
        export_pose(tmp_path / "wide", tmp_path / "files")
    store(tmp_path / "damaged")
    path = tmp_path / "damaged" / "part-00000" / "landmarks.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="SHA-256"):
        export_pose(tmp_path / "damaged", tmp_path / "files")
    assert not (tmp_path / "files").exists()


def test_the_commands(tmp_path, capfd):
    store(tmp_path / "given")
    assert run_cli("data", "export-pose", tmp_path / "given", tmp_path / "files", "--ids", "c 1, é", "c 2, é") == 0
    assert "2 clips, a .pose file each, and clips.csv, in pictures of 1280 x 720" in capfd.readouterr().out
    assert run_cli("data", "import-pose", tmp_path / "files", tmp_path / "back", "--licence", "MIT") == 0
    assert "2 clips of 2 classes, layout holistic75 (1 test, 1 train)" in capfd.readouterr().out
    assert Store(tmp_path / "back").manifest.licence == "MIT"
    assert "already holds a store" in one_line_error(
        capfd, "data", "import-pose", tmp_path / "files", tmp_path / "back"
    )
    assert "has no clip 'x'" in one_line_error(
        capfd, "data", "export-pose", tmp_path / "given", tmp_path / "new", "--ids", "x"
    )
