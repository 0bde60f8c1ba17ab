"""What should make one doubt a prediction: each sentence where it is due, and none where all is as in the training."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import person, write_recorded
from scripted_detector import script, write_video
from twins import classifier

from handcraft.config import PreprocessConfig, WindowConfig
from handcraft.data.clips import load_clips
from handcraft.data.recorded import Recorded
from handcraft.layouts import layout
from handcraft.predict import predict


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model of clips in square pictures."""
    store = write_recorded(tmp_path_factory.mktemp("doubts") / "s", fps=25.0)
    return classifier(load_clips(store, PreprocessConfig()))


def test_models_of_frames_as_they_are_say_what_they_see(checkpoint):
    cropping = replace(checkpoint, window=WindowConfig(frames=16, mode="zero"))
    clip = person(40)
    assert predict(checkpoint, clip, fps=30)[0]["notes"] == []
    rate, middle = predict(cropping, clip, fps=30)[0]["notes"]
    assert "its training clips have 25 frames a second, this one has 30; sample" in rate
    assert middle == "of 40 frames of the clip only the middle 16 are looked at"
    assert predict(cropping, clip[:16], fps=25.2)[0]["notes"] == []
    assert "25 frames a second, this one has an unknown number" in predict(cropping, clip[:16])[0]["notes"][0]
    old = replace(cropping, recorded=None)
    assert "have an unknown number of frames a second, this one has 25" in predict(old, clip, fps=25)[0]["notes"][0]
    assert "of 20 frames of each window" in predict(cropping, clip, fps=10, window=2)[0]["notes"][1]
    hidden = clip.copy()
    hidden[:, layout("holistic75").slices["left_hand"]] = np.nan
    (row,) = predict(checkpoint, hidden)
    assert row["notes"] == ["left hand not detected in any frame"]
    assert row["seen"] == {"pose": 1, "right_hand": 1, "left_hand": 0}


@pytest.mark.parametrize(
    ("centre", "theirs", "its", "words"),
    [
        ("shoulder", 1.5, 0.7, None),
        ("shoulder", None, None, None),
        ("shoulder", None, 1.0, None),
        (
            "shoulder",
            None,
            1.5,
            "clips are of unknown shape (taken as square), these are 1.50 times as wide as high:",
        ),
        (
            "shoulder",
            1.5,
            None,
            "1.50 times as wide as high, these are of unknown shape (taken as square): people",
        ),
        ("paper", 1.5, 0.7, "clips are 1.50 times as wide as high, these are 0.70 times as wide as high: people"),
        ("paper", 1.5, 1.51, None),
    ],
)
def test_pictures_of_another_shape_are_said_where_nothing_makes_up_for_them(checkpoint, centre, theirs, its, words):
    config = replace(checkpoint.preprocess, centre=centre)
    checkpoint = replace(checkpoint, preprocess=config, recorded=Recorded(aspect=theirs))
    notes = predict(checkpoint, person(16), aspect=its)[0]["notes"]
    assert [words in note for note in notes] == ([] if words is None else [True])
    assert predict(replace(checkpoint, recorded=None), person(16), aspect=its)[0]["notes"] == []


def test_another_detector_than_that_of_the_training_clips_is_said(checkpoint, tmp_path, monkeypatch):
    script(monkeypatch, {90: (person(18), "holistic75")})
    video = write_video(tmp_path / "a.mp4", 18, 90, size=(64, 64))
    other = {"backend": "holistic", "mediapipe": "0.10.21", "model_sha256": 64 * "a"}
    for known, notes in (
        (({"backend": "scripted"},), []),
        ((), []),
        ((other, {"backend": "scripted"}), []),
        (
            (other,),
            [
                "its landmarks were detected otherwise than those of the training clips: backend scripted instead of "
                "holistic, mediapipe None instead of 0.10.21, model_sha256 None instead of aaaaaaaaaaaa"
            ],
        ),
    ):
        told = replace(checkpoint, recorded=Recorded(aspect=1.0, detectors=known))
        assert predict(told, video)[0]["notes"] == notes
    mine = write_recorded(tmp_path / "s", fps=25.0, aspect=1.0, source={"extraction": {"backend": "x"}})
    assert "backend x instead of holistic" in predict(told, mine, ["0-0"], window=0.4)[0]["notes"][0]
