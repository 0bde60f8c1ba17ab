"""`handcraft extract` with the real MediaPipe (`make test-extract`): real videos, where they are, and what is no video.

What is expected of the real videos comes from a loop over frames that uses PyAV and MediaPipe and nothing of this
package.
"""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_landmarker import video
from permissions import held_back

from handcraft.data.store import Store
from handcraft.layouts import layout

av = pytest.importorskip("av", reason="needs the extra extract")
HOLISTIC = pytest.importorskip(
    "mediapipe.python.solutions.holistic", reason="needs the extra extract: make test-extract", exc_type=ImportError
).Holistic
VIDEOS = Path(__file__).parents[3] / "shared/data/videos"
COUNTS = {"msl150_ambulancia": 66, "msl150_doctor": 62, "msl150_yo": 55, "slp_pose_test_video": 58}
"""Frames of each video: its README says 55 to 66 of three and 58 of the last."""
real = pytest.mark.skipif(not VIDEOS.is_dir(), reason="the real videos are not beside the repository")


def extract(*words, kill_when=None):
    """The command in a process of its own, which permissions hold back: exit code, what it printed; killed as soon as
    `kill_when` holds."""
    command = [sys.executable, "-m", "handcraft", "extract", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=held_back) as process:
        while kill_when is not None and not kill_when():
            assert process.poll() is None
            time.sleep(0.02)
        if kill_when is not None:
            process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
    return process.returncode, out, err


def content(store):
    return {path.relative_to(store): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def by_hand(path):
    """(T,553,3) and (T,33): what MediaPipe says of a video's frames, in the order pose, left hand, right hand, face."""

    def points(found, count):
        if found is None:
            return np.full((count, 3), np.nan)
        return np.array([[mark.x, mark.y, mark.z] for mark in found.landmark])

    landmarks, visibility = [], []
    graph = HOLISTIC(model_complexity=1, refine_face_landmarks=True)
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            found = graph.process(frame.to_ndarray(format="rgb24"))
            parts = [(found.pose_landmarks, 33), (found.left_hand_landmarks, 21), (found.right_hand_landmarks, 21)]
            landmarks.append(np.concatenate([points(*part) for part in [*parts, (found.face_landmarks, 478)]]))
            visibility.append([mark.visibility for mark in found.pose_landmarks.landmark])
    graph.close()
    return np.array(landmarks, np.float32), np.array(visibility, np.float32)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    """The store of all four videos, made by two workers, and what the command said."""
    if not VIDEOS.is_dir():
        pytest.skip("the real videos are not beside the repository")
    place = tmp_path_factory.mktemp("real")
    code, out, err = extract(VIDEOS, place / "two", "--workers", "2")
    assert code == 0, err
    return Store(place / "two"), out


@real
def test_every_frame_is_there(extracted):
    store, said = extracted
    assert dict(zip(store.ids.tolist(), store.frames.tolist(), strict=True)) == COUNTS
    assert f"4 clips of 1 class, {sum(COUNTS.values())} frames, layout holistic553" in said
    assert "found in frames: pose 100%" in said
    assert store.manifest.source["extraction"] == {
        "backend": "holistic",
        "mediapipe": "0.10.21",
        "model_sha256": "911867dd8eef29276d3a5c560cc9a0063106c0bee902e69f20e783f7b4c8e5ca",
        "detection": 0.5,
        "tracking": 0.5,
    }
    assert store.manifest.source["versions"]["av"] == av.__version__
    for clip, id in enumerate(store.ids.tolist()):
        about = store.provenance_of(clip)
        assert (about["width"], about["height"]) == ((540, 720) if id.startswith("slp") else (1280, 720))
        assert about["fps"] == pytest.approx(29.95, abs=0.05)


@real
@pytest.mark.parametrize("id", COUNTS)
def test_the_landmarks_are_mediapipes_own_bit_for_bit(extracted, id):
    """The last video is of another shape than the first, which the store's x and z are fractions of."""
    store, _ = extracted
    clip = store.ids.tolist().index(id)
    landmarks, visibility = by_hand(VIDEOS / f"{id}.mp4")
    if id.startswith("slp"):
        landmarks = landmarks * np.array([540 / 720 / (1280 / 720), 1, 540 / 720 / (1280 / 720)], np.float32)
    np.testing.assert_array_equal(store.landmarks(clip), landmarks)
    np.testing.assert_array_equal(store.visibility(clip), visibility)


@real
def test_one_worker_gives_the_same_bytes(extracted, tmp_path):
    code, _, err = extract(VIDEOS, tmp_path / "one")
    assert code == 0, err
    assert content(tmp_path / "one") == content(extracted[0].path)


@real
def test_hands_are_the_signers_own_and_the_papers_landmarks_are_there(extracted):
    store, _ = extracted
    names = layout("holistic553")
    for clip in store:
        for hand, wrist in (("left_hand", 15), ("right_hand", 16)):
            own, other = names.position("pose", wrist), names.position("pose", 31 - wrist)
            gap = np.linalg.norm(clip[:, names.slices[hand].start, :2] - clip[:, own, :2], axis=1)
            wrong = np.linalg.norm(clip[:, names.slices[hand].start, :2] - clip[:, other, :2], axis=1)
            seen = ~np.isnan(gap)
            assert not seen.any() or np.median(gap[seen]) < 0.1 < np.median(wrong[seen])
    signer = store.landmarks(store.ids.tolist().index("slp_pose_test_video"))
    chosen = signer[:, names.take(layout("handcraft60"))]
    assert not np.isnan(chosen[:, 48:]).any()


@real
def test_a_killed_run_loses_and_repeats_nothing(tmp_path):
    table = tmp_path / "labels.csv"
    lines = [f"{id}.mp4,{id[:6]},0.5,{end}" for id in COUNTS for end in (0.9, 1.2)]
    table.write_text("\n".join(["path,label,start,end", *lines]) + "\n")
    words = ["--labels", table, "--workers", "2"]
    code, _, err = extract(VIDEOS, tmp_path / "whole", *words)
    assert code == 0, err
    kept = tmp_path / "s.extracting/clips"

    def done():
        return {path.name: path.stat().st_mtime_ns for path in kept.glob("[0-9a-f]*.npz")}

    code, _, _ = extract(VIDEOS, tmp_path / "s", *words, kill_when=lambda: len(done()) >= 3)
    assert code == -signal.SIGKILL
    assert not (tmp_path / "s").exists()
    before = done()
    code, _, err = extract(VIDEOS, tmp_path / "s", *words, kill_when=lambda: len(done()) >= 6)
    assert done().items() >= before.items()
    code, out, err = extract(VIDEOS, tmp_path / "s", *words)
    assert code == 0, err
    assert content(tmp_path / "s") == content(tmp_path / "whole")
    assert "8 clips of 2 classes" in out


@real
def test_frames_are_those_of_another_reader(extracted):
    """The same frames; the same colours, too, but that OpenCV takes the matrix of old television for every video, and
    three of these name another."""
    cv2 = pytest.importorskip("cv2")
    from handcraft.extract.video import read_frames

    for id, count in COUNTS.items():
        reader, worst, frames = cv2.VideoCapture(str(VIDEOS / f"{id}.mp4")), 0.0, 0
        for _, picture in read_frames(VIDEOS / f"{id}.mp4"):
            good, other = reader.read()
            assert good
            worst = max(worst, np.abs(picture[::8, ::8].astype(int) - other[::8, ::8, ::-1]).mean())
            frames += 1
        assert not reader.read()[0]
        assert frames == count
        assert worst == 0 if id.startswith("slp") else worst < 3


def test_what_is_no_video_is_a_line_each_and_the_rest_is_done(tmp_path):
    folder = tmp_path / "v"
    whole = video(folder / "sign/nobody.mp4", frames=4, size=(320, 240)).read_bytes()
    (folder / "sign/cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "sign/text.mp4").write_text("hello")
    (folder / "sign/bytes.mp4").write_bytes(b"")
    (folder / "sign/secret.mp4").write_bytes(whole)
    (folder / "sign/secret.mp4").chmod(0)
    with av.open(str(folder / "sign/frames.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    if VIDEOS.is_dir():
        (folder / "sign/zgood.mp4").write_bytes((VIDEOS / "msl150_yo.mp4").read_bytes())
    (folder / "locked").mkdir(mode=0)
    code, out, err = extract(folder, tmp_path / "s", "--workers", "2", "--fps", "5")
    no_video = r"no video that can be read \(.*\); it is damaged, cut short or of another kind than its name says: .*"
    expected = [
        ("locked", r"not a folder that can be read \(Permission denied\)"),
        ("sign/bytes.mp4", no_video),
        ("sign/cut.mp4", no_video),
        ("sign/frames.avi", "has no frame; fetch it again, or take it out"),
        ("sign/secret.mp4", r"cannot be read \(Permission denied\)"),
        ("sign/text.mp4", no_video),
        ("sign/nobody.mp4", r"nobody was found in any of its frames; is a person in view\?"),
    ]
    lines = out.splitlines()[-1 - len(expected) :]
    assert lines[0] == "failed: 7"
    for line, (name, words) in zip(lines[1:], expected, strict=True):
        assert re.fullmatch(f"  {re.escape(str(folder / name))}: {words}", line), line
    assert "Traceback" not in err
    if VIDEOS.is_dir():
        assert code == 1
        store = Store(tmp_path / "s")
        assert (store.ids.tolist(), store.frames.tolist(), store.manifest.fps) == (["sign-zgood"], [10], 5.0)
        before = content(tmp_path / "s")
        code, out, _ = extract(folder, tmp_path / "s", "--fps", "5")
        assert (code, out.splitlines()[:2]) == (1, [f"{tmp_path / 's'}: nothing new", "already there: 1 clip"])
        assert content(tmp_path / "s") == before
    else:
        assert code == 2
        assert not (tmp_path / "s").exists()
