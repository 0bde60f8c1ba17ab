"""LSFB as downloaded: the clips and signs that the paper took."""

import numpy as np
import pytest
from lsfb_folder import ids_of, lsfb_folder, save

from handcraft.data.clips import load_clips
from handcraft.data.prepare_lsfb import prepare_lsfb
from handcraft.data.store import Store
from handcraft.errors import DataError
from handcraft.recipe import load_recipe

RULE = {"least": 2, "longest": 8}
"""Of the folder's clips of 4, 5, ..., 9 frames, signs SIGN-0 and SIGN-1 in turn, the last is too long, and SIGN-1 has
two clips to train with only with it."""


def folder_of(path, **options):
    folder = lsfb_folder(path, **options)
    rng = np.random.default_rng(1)
    for id in ids_of(folder):  # a nose to centre on and shoulders apart, as the recipe asks of every clip
        file = folder / "poses" / "pose" / f"{id}.npy"
        pose = np.load(file) + rng.normal(0, 0.01)
        pose[:, 11, 0], pose[:, 12, 0] = 0.7, 0.3
        np.save(file, pose)
    return folder


def test_the_rules(tmp_path):
    summary = prepare_lsfb(folder_of(tmp_path / "lsfb"), tmp_path / "store", **RULE)
    store = Store(tmp_path / "store")
    assert store.classes == ("SIGN-0",)
    assert store.frames.tolist() == [4, 6, 8]
    assert store.splits.tolist() == ["test", "train", "train"]
    assert store.groups.tolist() == ["S000", "S002", "S001"]
    assert store.manifest.layout == "holistic87"
    assert store.manifest.fps == 50.0
    assert "clips: 6, fewer than the 120,739 expected (LSFB isol, version 2)" in summary.notes
    assert "signs: 2, fewer than the 4,657 expected (the same)" in summary.notes
    assert "left out: 1 clip without frames or of over 8" in summary.notes
    assert "left out: 2 clips of 1 sign with fewer than 2 clips to train with: SIGN-1" in summary.notes
    assert not any("610" in note for note in summary.notes)
    assert not any("nan" in line for line in summary.lines())


def test_all_clips_that_fit(tmp_path):
    summary = prepare_lsfb(folder_of(tmp_path / "lsfb"), tmp_path / "store", least=1, longest=9, keep="holistic75")
    assert summary.imported == 6
    assert Store(tmp_path / "store").manifest.layout == "holistic75"


def test_the_papers_own_rules_are_compared(tmp_path):
    folder = folder_of(tmp_path / "lsfb", clips=44, face=None, splits=False)
    summary = prepare_lsfb(folder, tmp_path / "store", keep="holistic75")
    assert any(note.startswith("signs kept: 2, fewer than the 610 expected") for note in summary.notes)


def test_clips_without_frames(tmp_path):
    folder = folder_of(tmp_path / "lsfb")
    for part, points in (("pose", 33), ("left_hand", 21), ("right_hand", 21), ("face", 478)):
        save(folder / "poses" / part / f"{ids_of(folder)[2]}.npy", np.empty((0, points, 3)))
    prepare_lsfb(folder, tmp_path / "store", least=1, longest=60)
    assert Store(tmp_path / "store").frames.tolist() == [4, 5, 7, 8, 9]


def test_nothing_left(tmp_path):
    with pytest.raises(DataError, match=r"no sign has 20 training clips of 1 to 60 frames"):
        prepare_lsfb(folder_of(tmp_path / "lsfb"), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_damaged_file(tmp_path):
    folder = folder_of(tmp_path / "lsfb")
    (folder / "poses" / "pose" / f"{ids_of(folder)[3]}.npy").write_text("no array")
    with pytest.raises(DataError, match=r"_600_783\.npy: not a readable \.npy file"):
        prepare_lsfb(folder, tmp_path / "store", **RULE)


def test_the_recipe_takes_the_store(tmp_path):
    prepare_lsfb(folder_of(tmp_path / "lsfb"), tmp_path / "store", least=1, longest=9)
    clips = load_clips(tmp_path / "store", load_recipe("lsfb").preprocess)
    assert len(clips) == 6
    assert clips.frames.shape[1:] == (60, 3)
