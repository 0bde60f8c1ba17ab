"""From real videos to signs on the command line, on a model trained on toy signs, with the real MediaPipe."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripted_detector import write_video
from tiny_recipe import run_cli, write_recipe, write_toy

from handcraft.layouts import layout
from handcraft.predict import predict
from handcraft.recording import Source, read
from handcraft.render.choose import Shown
from handcraft.render.overlay import Overlay

VIDEOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "videos"
VIDEO = VIDEOS / "msl150_yo.mp4"

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed"),
    pytest.mark.skipif(not VIDEO.exists(), reason="no real videos in ../shared/data"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_toy(folder / "toy")
    words = ("train", "classifier", write_recipe(folder), "--data", folder / "toy", "--out", folder / "run")
    assert run_cli(*words) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def recording():
    return read(Source(VIDEO))


def test_from_videos_to_signs(model, recording, tmp_path, capfd):
    nobody = write_video(tmp_path / "nobody.mp4", 5, size=(320, 240))
    text = tmp_path / "text.mp4"
    text.write_text("no video\n" * 99)
    capfd.readouterr()
    assert run_cli("predict", nobody, VIDEO, text, "--model", model, "--top", 3, "--json") == 1
    out, err = capfd.readouterr()
    (row,) = map(json.loads, out.splitlines())
    landmarks = {"layout": recording.layout, "fps": recording.fps, "aspect": recording.aspect}
    (expected,) = predict(model, recording.landmarks, top=3, **landmarks)
    assert row["id"] == str(VIDEO)
    assert row["seen"] == {"pose": 1.0, "right_hand": 1.0, "left_hand": 0.0}
    assert row["notes"] == ["left hand not detected in any frame"]
    assert row["top"] == expected["top"], "what is detected again is the same, bit for bit"
    assert err.splitlines()[-3:] == [
        f"handcraft: {nobody}: nobody was detected in any of its 5 frames; is a person in view?",
        next(line for line in err.splitlines() if line.startswith(f"handcraft: {text}: ")),
        "handcraft: 2 of 3 could not be recognised",
    ]


def test_the_time_line_of_a_video(model, recording, capfd):
    capfd.readouterr()
    assert run_cli("predict", VIDEO, "--model", model, "--window", 1, "--json") == 0
    (row,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert row["windows"][0]["end"] == pytest.approx(1, abs=0.02)
    assert row["timeline"][-1]["end"] == pytest.approx(len(recording.landmarks) / recording.fps)


def test_the_overlay_lies_on_the_signers_own_hand(recording):
    """The one hand of this signer is the right one, and to a viewer it moves on the left of the body's middle."""
    clip = Shown(recording.landmarks, layout(recording.layout), "yo", "", recording.fps, recording.aspect)
    overlay = Overlay(clip, VIDEO, width=640)
    bare = Overlay(clip, VIDEO, width=640)
    bare._points = np.full_like(bare._points, np.nan)
    middle = len(recording.landmarks) // 2
    drawn, plain = (np.asarray(next(picture for n, picture in enumerate(it) if n == middle)) for it in (overlay, bare))
    changed = np.argwhere((drawn != plain).any(axis=2))
    hand = recording.landmarks[middle, layout(recording.layout).slices["right_hand"], :2] * [640, 360]
    nearest = np.abs(changed[:, None, ::-1] - hand[None]).sum(axis=2).min(axis=0)
    assert nearest.max() < 4, "each landmark of the hand is drawn on"
    shoulders = [recording.landmarks[middle, layout(recording.layout).position("pose", side), 0] for side in (12, 11)]
    assert shoulders[0] < shoulders[1]
    assert isinstance(overlay.strip(), Image.Image)
