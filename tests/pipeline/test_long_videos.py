"""Memory of long recordings: that of their landmarks once, and of those alone that somebody will look at."""

import pytest
from drawn import write_recorded
from long_video import FPS, measured, play
from twins import classifier

from handcraft.config import PreprocessConfig
from handcraft.data.clips import load_clips
from handcraft.extract.landmarker import DETECTED, Settings
from handcraft.extract.worker import ClipSource, extract_clip
from handcraft.predict import predict

HALF_AN_HOUR = 30 * 60 * FPS  # frames
POINT = 3 * 4  # bytes


@pytest.mark.parametrize("keep", ["holistic87", "holistic553"])
def test_extraction_holds_the_landmarks_once(tmp_path, monkeypatch, keep):
    frames = HALF_AN_HOUR // 10
    play(monkeypatch, frames)
    settings = Settings(keep=keep)
    with measured() as most:
        found = extract_clip(ClipSource(tmp_path, "a", "x"), settings)
    assert found.landmarks.shape == (frames, settings.layout.landmarks, 3)
    result = frames * (settings.layout.landmarks * POINT + DETECTED["pose"] * 4)
    assert found.landmarks.nbytes + found.visibility.nbytes == result
    assert most[0] < 1.2 * result + 2e6


def test_a_time_line_takes_the_landmarks_that_the_model_looks_at(tmp_path, monkeypatch):
    """Body and hands, 75 points, where the detector finds 553."""
    checkpoint = classifier(load_clips(write_recorded(tmp_path / "s", fps=30.0), PreprocessConfig()))
    play(monkeypatch, HALF_AN_HOUR)
    (tmp_path / "long.mp4").touch()
    with measured() as most:
        (row,) = predict(checkpoint, tmp_path / "long.mp4", window=2.0, step=20.0, top=1)
    assert len(row["windows"]) == 91
    assert most[0] < 1.6 * HALF_AN_HOUR * 75 * POINT
