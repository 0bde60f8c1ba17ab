"""Landmarks on the video they were detected in."""

import json
from dataclasses import replace

import numpy as np
import pytest
from drawn import person
from PIL import Image
from scripted_detector import write_video
from tiny_recipe import one_line_error, run_cli

from handcraft.data.store import Store, StoreWriter
from handcraft.errors import ConfigError, DataError
from handcraft.files import sha256_file
from handcraft.layouts import layout
from handcraft.render.choose import Shown
from handcraft.render.overlay import Overlay, taken_from, write_overlay
from handcraft.render.palette import DARK

av = pytest.importorskip("av", reason="PyAV is not installed")
SIZE = (320, 180)
WIDE = 16 / 9
LAYOUT = layout("holistic75")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "film.mp4", 12, size=SIZE)


def shown(frames=12, **changes):
    clip = Shown(person(frames, aspect=WIDE), LAYOUT, "yes", "0-0", 25.0, WIDE)
    return replace(clip, **changes)


def coloured(picture, side):
    """Where a picture has about the colour of a side: middle x and y of these pixels above the caption."""
    pixels = np.asarray(picture).astype(int)[: SIZE[1]]
    y, x = np.nonzero(np.abs(pixels - list(bytes.fromhex(DARK[side][1:]))).sum(axis=2) < 60)
    return x.mean(), y.mean()


def test_landmarks_lie_where_they_were_detected_and_sides_are_the_signers(video):
    clip = shown()
    for frame, picture in enumerate(Overlay(clip, video)):
        for side, wrist, hand in (("left", 15, "left_hand"), ("right", 16, "right_hand")):
            arm = clip.landmarks[frame, [LAYOUT.position("pose", wrist - step) for step in (0, 2, 4)], :2]
            points = np.concatenate([arm, clip.landmarks[frame, LAYOUT.slices[hand], :2]]) * SIZE
            x, y = coloured(picture, side)
            assert points[:, 0].min() < x < points[:, 0].max()
            assert points[:, 1].min() < y < points[:, 1].max()
    assert coloured(picture, "right")[0] < coloured(picture, "left")[0], "the signer's right is on our left"


def test_a_frame_is_the_videos_where_nothing_is_drawn(video):
    overlay = Overlay(shown(), video)
    assert overlay.frames == 12
    picture = next(iter(overlay))
    assert picture.size == overlay.size
    assert np.abs(np.asarray(picture)[5:20, 5:20].astype(int) - 128).max() < 4


def test_x_is_a_fraction_of_the_width_that_the_clips_aspect_gives(video):
    narrow = shown()
    narrow.landmarks[..., 0] *= WIDE / 1.0
    narrow = replace(narrow, aspect=1.0)  # as in a store of square pictures
    one, other = (next(iter(Overlay(clip, video))) for clip in (shown(), narrow))
    assert coloured(one, "right") == pytest.approx(coloured(other, "right"), abs=1)


def test_a_clip_that_samples_the_video_meets_its_frames(video):
    assert Overlay(shown(6, fps=12.5), video).frames == 6
    assert len(list(Overlay(shown(6, fps=12.5), video))) == 6
    piece = Overlay(shown(5), video, start=0.08, end=0.28)
    assert len(list(piece)) == 5


def test_another_number_of_frames_is_an_error_with_the_numbers(video):
    with pytest.raises(DataError, match=r"film.mp4: has 12 frames in 0.48 s, .* has 20 frames at 25 a second, 0.80 s"):
        Overlay(shown(20), video)
    with pytest.raises(DataError, match="has 7 frames; give the video"):
        Overlay(shown(7, fps=None), video)


def test_what_has_no_place_in_a_picture_is_refused(video):
    with pytest.raises(DataError, match="is preprocessed"):
        Overlay(shown(raw=False), video)
    with pytest.raises(DataError, match="nothing to draw"):
        Overlay(shown(landmarks=np.full((12, 75, 3), np.nan)), video)


def test_landmarks_far_outside_are_no_trouble(video):
    clip = shown()
    clip.landmarks[3] = 3e38
    clip.landmarks[4, 20:40] = -1e30
    assert len(list(Overlay(clip, video))) == 12


@pytest.mark.parametrize("kind", ["mp4", "gif", "png"])
def test_every_kind_is_written(video, tmp_path, kind):
    out = tmp_path / f"a.{kind}"
    write_overlay(shown(), video, out, kind, width=160)
    size = Overlay(shown(), video, width=160).size
    if kind == "mp4":
        with av.open(str(out)) as container:
            assert container.streams.video[0].average_rate == 25
            frames = [frame.to_image() for frame in container.decode(video=0)]
        assert len(frames) == 12
    elif kind == "gif":
        with Image.open(out) as gif:
            assert (gif.n_frames, gif.size) == (12, size)
    else:
        with Image.open(out) as picture:
            assert picture.size == (4 * size[0], 2 * size[1])


def test_choices_that_make_no_file_are_refused(video, tmp_path):
    with pytest.raises(ConfigError, match="html over a video"):
        write_overlay(shown(), video, tmp_path / "a.html", "html")
    with pytest.raises(ConfigError, match="a width of 3 pixels"):
        write_overlay(shown(), video, tmp_path / "a.gif", "gif", width=3)
    with pytest.raises(ConfigError, match="is a folder"):
        write_overlay(shown(), video, tmp_path, "gif")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def store(video, tmp_path):
    """Clips that say what they were extracted from: one from the video, a piece of another, one from nobody knows."""
    with StoreWriter(
        tmp_path / "store", layout="holistic75", stage="raw", classes=["no", "yes"], aspect=WIDE
    ) as writer:
        about = {"file": "film.mp4", "sha256": sha256_file(video), "fps": 25.0}
        writer.add(shown().landmarks, id="whole", label="yes", provenance=about)
        piece = {"file": "other.mp4", "sha256": "0" * 64, "fps": 25.0, "start": 0.08, "end": 0.28}
        writer.add(shown(5).landmarks, id="piece", label="yes", provenance=piece)
        writer.add(shown().landmarks, id="unknown", label="no")
    return Store(tmp_path / "store")


def test_the_clip_of_a_video_is_found_by_what_the_store_says(store, video, caplog):
    clip, piece = taken_from(store.path, (), video)
    assert (clip.note, clip.fps, clip.aspect, piece) == ("whole", 25.0, WIDE, {})
    clip, piece = taken_from(store.path, ("unknown",), video)
    assert (clip.note, clip.fps, piece) == ("unknown", None, {})
    assert not caplog.records
    clip, piece = taken_from(store.path, ("piece",), video)
    assert (clip.note, piece) == ("piece", {"start": 0.08, "end": 0.28})
    assert "is not the file that clip piece was extracted from" in caplog.text


def test_a_video_of_no_clip_is_named(store, video, tmp_path):
    other = write_video(tmp_path / "other.mp4", 3)
    with pytest.raises(DataError, match=r"no clip is known to be from .*other.mp4; .*: whole, piece, unknown"):
        taken_from(store.path, (), other)
    with pytest.raises(ConfigError, match="2 ids"):
        taken_from(store.path, ("whole", "piece"), video)
    np.save(tmp_path / "a.npy", person(12))
    assert taken_from(tmp_path / "a.npy", (), video)[0].landmarks.shape == (12, 75, 3)
    with pytest.raises(ConfigError, match="is one clip"):
        taken_from(tmp_path / "a.npy", ("x",), video)


def test_the_command(store, video, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run_cli("render", store.path, "--over", video, "--width", 96) == 0
    assert capfd.readouterr().out == "film-landmarks.mp4: yes, 12 frames\n"
    assert (tmp_path / "film-landmarks.mp4").stat().st_size
    assert run_cli("render", store.path, "--over", video, "--ids", "piece", "--out", "a.gif", "--width", 96) == 0
    assert "piece of it" not in capfd.readouterr().out
    text = tmp_path / "text.mp4"
    text.write_text(json.dumps("no video") * 99)
    assert "text.mp4: no video" in one_line_error(capfd, "render", store.path, "--ids", "whole", "--over", text)
    assert "--over draws one clip" in one_line_error(capfd, "render", store.path, "--over", video, "--sheet")
    assert "html over a video" in one_line_error(capfd, "render", store.path, "--over", video, "--to", "html")
