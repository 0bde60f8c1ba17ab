"""Landmarks from files, folders, stores and arrays."""

import fake_landmarker
import numpy as np
import pytest
from drawn import person, write_recorded
from PIL import Image
from scripted_detector import script, write_video

from handcraft.errors import DataError
from handcraft.extract.landmarker import Settings
from handcraft.layouts import layout
from handcraft.recording import Recording, Source, as_recording, is_store, of_store, read, sources


def test_a_folder_means_its_files_and_those_of_its_signs(tmp_path):
    for name in ("b10.mp4", "b9.MOV", "yes/c.pose", "no/d.webm", "no/notes.txt", ".hidden.mp4", "deep/er/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sources(tmp_path) == [
        Source(tmp_path / "b9.MOV"),
        Source(tmp_path / "b10.mp4"),
        Source(tmp_path / "no" / "d.webm", "no"),
        Source(tmp_path / "yes" / "c.pose", "yes"),
    ]
    assert sources(tmp_path / "b10.mp4") == [Source(tmp_path / "b10.mp4")]
    assert sources(tmp_path / "no" / "notes.txt") == [Source(tmp_path / "no" / "notes.txt")], "read says what is wrong"


def test_a_folder_of_images_is_one_clip(tmp_path):
    for name in ("clip/1.png", "clip/2.png", "no/one/1.png", "yes/two/1.jpg", "yes/three.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save((tmp_path / name).with_suffix(".png"))
        (tmp_path / name).with_suffix(".png").rename(tmp_path / name)
    assert sources(tmp_path / "clip") == [Source(tmp_path / "clip")]
    assert sources(tmp_path) == [
        Source(tmp_path / "clip"),
        Source(tmp_path / "no" / "one", "no"),
        Source(tmp_path / "yes" / "three.mp4", "yes"),
        Source(tmp_path / "yes" / "two", "yes"),
    ]


def test_an_image_beside_clips_does_not_hide_them(tmp_path):
    for name in ("overview.png", "a.mp4", "yes/preview.jpg", "yes/b.pose", "no/clip/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [(source.path.relative_to(tmp_path).as_posix(), source.label) for source in sources(tmp_path)]
    assert found == [("a.mp4", None), ("no/clip", "no"), ("yes/b.pose", "yes")]


def test_paths_that_mean_nothing_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone: no such store, video or \.pose file"):
        sources(tmp_path / "gone")
    with pytest.raises(DataError, match="neither a store nor a folder with videos"):
        sources(tmp_path)


def test_a_sign_that_cannot_be_read_fails_by_itself(tmp_path, monkeypatch):
    (tmp_path / "no").mkdir()
    (tmp_path / "yes").mkdir()
    (tmp_path / "yes" / "a.mp4").touch()
    names = type(tmp_path).iterdir

    def refused(folder):
        if folder.name == "no":
            raise PermissionError(13, "Permission denied", str(folder))
        return names(folder)

    script(monkeypatch, {})
    monkeypatch.setattr(type(tmp_path), "iterdir", refused)
    found = sources(tmp_path)
    assert found == [Source(tmp_path / "no", "no"), Source(tmp_path / "yes" / "a.mp4", "yes")]
    with pytest.raises(DataError, match=r"no: .*Permission denied"):
        read(found[0])


def test_a_video_is_detected_frame_by_frame(tmp_path, monkeypatch):
    clip = person(6, "holistic87", seed=1)
    clip[2, layout("holistic87").slices["left_hand"]] = np.nan
    script(monkeypatch, {90: (clip, "holistic87")})
    video = write_video(tmp_path / "a.mp4", 6, grey=90, size=(64, 32), fps=20)
    found = read(Source(video, "yes"))
    assert (found.layout, found.id, found.label) == ("holistic553", str(video), "yes")
    assert (found.fps, found.aspect) == (pytest.approx(20), 2.0)
    held = layout("holistic553")
    np.testing.assert_array_equal(found.landmarks[:, held.take(layout("holistic87"))], clip)
    assert found.seen() == {"pose": 1, "left_hand": pytest.approx(5 / 6), "right_hand": 1, "face": 1}
    other = read(Source(video), Settings(keep="holistic75", fps=10))
    assert (other.layout, other.fps, len(other.landmarks), other.label) == ("holistic75", 10, 3, None)
    uneven = fake_landmarker.video(tmp_path / "b.mp4", frames=6, times=[0, 40, 80, 200, 240, 500])
    found = [(clip.varies, clip.fps) for clip in (other, read(Source(uneven)))]
    assert found == [(False, 10), (True, pytest.approx(10))]


def test_a_pose_file_is_read(tmp_path):
    pytest.importorskip("pose_format", reason="pose-format is not installed")
    from handcraft.data.pose_file import write_pose

    clip = person(4)
    write_pose(tmp_path / "a.pose", clip, "holistic75", fps=30, aspect=1.5)
    found = read(Source(tmp_path / "a.pose"))
    assert (found.layout, found.fps, found.aspect) == ("holistic75", 30, 1.5)
    np.testing.assert_allclose(found.landmarks, clip, atol=1e-6)


def test_what_is_no_video_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed")
    text = tmp_path / "text.mp4"
    text.write_text("not a video\n" * 50)
    (tmp_path / "empty.mp4").touch()
    whole = write_video(tmp_path / "whole.mp4", 20)
    (tmp_path / "half.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    script(monkeypatch, {})
    for name in ("text.mp4", "empty.mp4", "half.mp4"):
        with pytest.raises(DataError, match=name):
            read(Source(tmp_path / name))


def test_clips_of_a_raw_store(tmp_path):
    store = write_recorded(tmp_path / "s", fps=25.0, aspect=1.5)
    found = list(of_store(store, store.find(["1-2", "0-0"])))
    assert [(clip.id, clip.label, clip.fps, clip.aspect) for clip in found] == [
        ("1-2", "yes", 25, 1.5),
        ("0-0", "no", 25, 1.5),
    ]
    np.testing.assert_array_equal(found[1].landmarks, store.landmarks(0))
    silent = write_recorded(tmp_path / "t")
    assert next(of_store(silent, np.array([0]), 30.0)).fps == 30
    assert is_store(tmp_path / "s")
    assert not is_store(tmp_path)


def test_an_array_says_its_layout_by_its_landmarks():
    found = as_recording(np.zeros((2, 75, 3)), fps=25.0, aspect=1.5)
    assert (found.layout, found.fps, found.aspect, found.label) == ("holistic75", 25, 1.5, None)
    assert as_recording(np.zeros((2, 5, 3)), "holistic75").layout == "holistic75"
    for wrong in (np.zeros((2, 5, 3)), np.zeros((2, 75)), np.zeros((2, 75, 3), dtype=int)):
        with pytest.raises(DataError, match=r"75 \(holistic75\)"):
            as_recording(wrong)


def test_a_recording_without_frames_has_seen_nothing():
    assert set(Recording(np.zeros((0, 75, 3)), "holistic75", "a").seen().values()) == {0.0}
