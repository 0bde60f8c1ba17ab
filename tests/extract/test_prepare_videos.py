"""INCLUDE from real videos with the real MediaPipe (`make test-extract`), through the command line."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from downloads import display_folder, include_lists

from handcraft.data.clips import load_clips
from handcraft.data.store import Store
from handcraft.recipe import load_recipe

pytest.importorskip("mediapipe.python.solutions.holistic", reason="needs the extra extract", exc_type=ImportError)
VIDEOS = Path(__file__).parents[3] / "shared/data/videos"


def prepare(*words):
    command = [sys.executable, "-m", "handcraft", "data", "prepare", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="the real videos are not beside the repository")
def test_include(tmp_path):
    clips = "Pronouns/40. I/MVI_0001.MOV", "Jobs/81. Doctor/MVI_0001.MOV"
    for clip, name in zip(clips, ("yo", "doctor"), strict=True):
        (tmp_path / "include" / clip).parent.mkdir(parents=True)
        shutil.copy(VIDEOS / f"msl150_{name}.mp4", tmp_path / "include" / clip)
    include_lists(tmp_path / "include/train_test_paths", train=clips)
    done = prepare("include", tmp_path / "include", tmp_path / "store", "--min-clips", 1, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "videos: 2, fewer than the 4,284 expected (Zenodo record 4010759)" in done.stdout
    store = Store(tmp_path / "store")
    assert store.ids.tolist() == ["Jobs-Doctor-MVI_0001", "Pronouns-I-MVI_0001"]
    assert store.frames.tolist() == [62, 55]
    assert store.splits.tolist() == ["train", "train"]
    clips = load_clips(store, load_recipe("include").preprocess)
    assert np.isfinite(clips.frames[:, :6].numpy()).all()  # shoulders, elbows and wrists in every frame


def test_display_without_a_person(tmp_path):
    display_folder(tmp_path / "display", signs=1, performers=1, frames=2)
    done = prepare("display", tmp_path / "display", tmp_path / "store")
    assert done.returncode == 2
    assert done.stdout.count("nobody was found in any of its frames") == 2
    assert not (tmp_path / "store").exists()
