"""The same recordings in the three layouts that the field keeps them in: each is imported, checked and made ready for
training, and each gives the clips that were recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_recipe import run_cli, write_toy

from handcraft.config import PreprocessConfig
from handcraft.data.clips import load_clips
from handcraft.data.store import Store
from handcraft.layouts import layout

COORDINATES = PreprocessConfig(coordinates="xy")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Store:
    return Store(write_toy(tmp_path_factory.mktemp("toy") / "recorded"))


def write_lsfb(store: Store, folder: Path) -> Path:
    """As LSFB-Team/lsfb-dataset lays its second version out: a file for each clip and part."""
    rows = ["id,sign,signer,start,end"]
    for id, label, group, landmarks in zip(store.ids, store.labels, store.groups, store, strict=True):
        rows.append(f"{id},{store.classes[label]},{group},0,{40 * len(landmarks)}")
        for part, place in layout(store.manifest.layout).slices.items():
            path = folder / "poses" / part / f"{id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, landmarks[:, place])
    (folder / "instances.csv").write_text("\n".join(rows) + "\n")
    (folder / "metadata" / "splits").mkdir(parents=True)
    (folder / "metadata" / "sign_to_index.csv").write_text(
        "\n".join(["sign,class", *(f"{name},{index}" for index, name in enumerate(store.classes))])
    )
    test = store.groups == store.groups[0]
    for name, chosen in (("train", ~test), ("test", test)):
        (folder / "metadata" / "splits" / f"{name}.json").write_text(json.dumps(store.ids[chosen].tolist()))
    return folder


def write_pose_files(store: Store, folder: Path) -> Path:
    """A folder of files for each class."""
    pytest.importorskip("pose_format", reason="pose-format (extra [pose]) is not installed")
    from handcraft.data.pose_file import write_pose

    for id, label, landmarks in zip(store.ids, store.labels, store, strict=True):
        path = folder / store.classes[label] / f"{id}.pose"
        write_pose(path, landmarks, store.manifest.layout, fps=store.manifest.fps, aspect=store.manifest.aspect)
    return folder


def write_mp_data(store: Store, folder: Path) -> Path:
    """A folder for each clip and a file for each frame, of 258 numbers: no face, zeros for a missing part."""
    slices = layout(store.manifest.layout).slices
    for at, (label, landmarks) in enumerate(zip(store.labels, store, strict=True)):
        place = folder / store.classes[label] / str(at)
        place.mkdir(parents=True)
        for number, frame in enumerate(np.nan_to_num(landmarks.astype(np.float64))):
            seen = np.concatenate([frame[slices["pose"]], np.ones((33, 1))], axis=1)
            pose = seen if frame[slices["pose"]].any() else np.zeros((33, 4))
            hands = [frame[slices[part]].ravel() for part in ("left_hand", "right_hand")]
            np.save(place / f"{number}.npy", np.concatenate([pose.ravel(), *hands]))
    return folder


def imported(store: Store, kind: str, folder: Path) -> Path:
    """The store that the command makes of the recordings in layout `kind`, after `data check` found nothing wrong."""
    write, command, options = {
        "lsfb": (write_lsfb, "import-lsfb", ("--aspect", store.manifest.aspect, "--fps", store.manifest.fps)),
        "pose": (write_pose_files, "import-pose", ()),
        "mp-data": (write_mp_data, "import-mp-data", ("--aspect", store.manifest.aspect, "--fps", store.manifest.fps)),
    }[kind]
    assert run_cli("data", command, write(store, folder / kind), folder / "store", *options) == 0
    assert run_cli("data", "check", folder / "store") == 0
    return folder / "store"


@pytest.mark.parametrize("kind", ["lsfb", "pose", "mp-data"])
def test_from_the_fields_folders_to_clips_for_training(recorded, tmp_path, kind):
    place = imported(recorded, kind, tmp_path)
    expected, found = load_clips(recorded, COORDINATES), load_clips(place, COORDINATES)
    assert found.classes == expected.classes
    assert len(found) == len(expected) == len(recorded)
    if kind == "lsfb":
        assert found.group.tolist() == expected.group.tolist()
        assert set(found.split) == {"train", "test"}
    # MP_Data keeps no names of clips, and .pose files are named by folder and file: both keep the order within a class
    order = np.argsort(expected.label.numpy(), kind="stable")
    again = np.argsort(found.label.numpy(), kind="stable")
    for before, after in zip(order, again, strict=True):
        assert expected.label[before] == found.label[after]
        np.testing.assert_allclose(found.clip(int(after)), expected.clip(int(before)), atol=2e-6)
