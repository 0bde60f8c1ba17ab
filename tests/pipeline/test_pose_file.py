"""One `.pose` file: what is written, the format's own library reads; what a header claims is held against the file."""

import struct
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pose_clips import ROUNDING, SHOULDERS, clip, custom, pose_format

from handcraft.data.pose_file import (
    COMPONENTS,
    FPS,
    POINTS,
    largest_layout,
    layout_points,
    picture_size,
    read_head,
    read_pose,
    write_pose,
)
from handcraft.errors import DataError
from handcraft.layouts import LAYOUTS, layout

REAL = Path(__file__).parents[3] / "shared" / "data" / "pose"


def written(tmp_path: Path, landmarks: np.ndarray | None = None, name: str = "holistic75", **options: float) -> Path:
    path = tmp_path / "clip.pose"
    write_pose(path, clip(name) if landmarks is None else landmarks, name, **options)
    return path


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(set(LAYOUTS) - {"holistic543", "holistic553"})),
    frames=st.integers(1, 4),
    axes=st.sampled_from([2, 3]),
    aspect=st.sampled_from([None, 1.0, 16 / 9, 0.75, 0.5625]),
    fps=st.sampled_from([None, 12.5, 29.97, 50.0]),
    lost=st.integers(0, 2**32 - 1),
)
def test_a_clip_comes_back_within_float32(tmp_path_factory, name, frames, axes, aspect, fps, lost):
    landmarks = clip(name, frames, axes, seed=lost)
    landmarks[np.random.default_rng(lost).random(landmarks.shape[:2]) < 0.3] = np.nan
    path = written(tmp_path_factory.mktemp("pose"), landmarks, name, aspect=aspect, fps=fps)
    found = read_pose(path, layout=name)
    np.testing.assert_allclose(found.landmarks, landmarks, rtol=ROUNDING, atol=0)
    np.testing.assert_array_equal(found.landmarks[..., 2:], landmarks[..., 2:])
    assert found.landmarks.dtype == np.float32
    assert (found.layout, found.coordinates) == (name, "xyz"[:axes])
    assert (found.fps, found.aspect) == (fps or FPS, aspect or 1.0)


@pytest.mark.parametrize("name", ["holistic75", "holistic87", "holistic543", "holistic553"])
def test_the_layout_is_the_one_with_the_most_of_the_face(tmp_path, name):
    assert read_pose(written(tmp_path, name=name)).layout == name
    assert largest_layout(set(layout_points(name)) - {("FACE_LANDMARKS", "0")}) == "holistic75"


def test_the_library_reads_pixels_names_and_confidences(tmp_path):
    landmarks = clip("holistic87")
    path = written(tmp_path, landmarks, "holistic87", aspect=16 / 9, fps=50.0)
    pose = pose_format.Pose.read(path.read_bytes())
    header, data = pose.header, pose.body.data
    assert (round(header.version, 3), header.dimensions.width, header.dimensions.height) == (0.2, 1280, 720)
    assert (pose.body.fps, data.shape) == (50.0, (3, 1, 87, 3))
    assert [(part.name, len(part.points), part.format) for part in header.components] == [
        ("POSE_LANDMARKS", 33, "XYZC"),
        ("FACE_LANDMARKS", 12, "XYZC"),
        ("LEFT_HAND_LANDMARKS", 21, "XYZC"),
        ("RIGHT_HAND_LANDMARKS", 21, "XYZC"),
    ]
    wrist = header.get_point_index("RIGHT_HAND_LANDMARKS", "WRIST")
    expected = landmarks[:, layout("holistic87").position("right_hand", 0)] * np.array([1280, 720, 1], "f4")
    np.testing.assert_allclose(data.data[:, 0, wrist], expected, rtol=ROUNDING)
    corner = header.get_point_index("FACE_LANDMARKS", "291")
    assert data.data[0, 0, corner, 1] == np.float32(
        np.float64(landmarks[0, layout("holistic87").position("face", 291), 1]) * 720
    )
    left = slice(header.get_point_index("LEFT_HAND_LANDMARKS", "WRIST"), None)
    assert pose.body.confidence[:, 0, left][:, :21].tolist() == [[1.0] * 21, [0.0] * 21, [1.0] * 21]
    assert (pose.body.confidence[:, 0, : left.start] == 1).all()
    assert not data.data[pose.body.confidence == 0].any()


def test_limbs_join_the_points_that_viewers_expect_them_to(tmp_path):
    for name in ("holistic75", "handcraft60"):
        header = pose_format.Pose.read(written(tmp_path, name=name).read_bytes()).header
        limbs = {
            component.name: {(component.points[first], component.points[second]) for first, second in component.limbs}
            for component in header.components
        }
        assert {("LEFT_SHOULDER", "LEFT_ELBOW"), ("RIGHT_ELBOW", "RIGHT_WRIST")} <= limbs["POSE_LANDMARKS"]
        for hand in ("LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS"):
            assert ("INDEX_FINGER_DIP", "INDEX_FINGER_TIP") in limbs[hand]
            assert len(limbs[hand]) == 21
        assert all(len(component.colors) for component in header.components)


def test_points_are_found_by_name_wherever_they_lie(tmp_path):
    parts = {"LEFT_HAND_LANDMARKS": ["PINKY_TIP"], "POSE_WORLD_LANDMARKS": ["NOSE"]} | SHOULDERS
    found = read_pose(custom(tmp_path, parts, kind="XYZKC"))
    place = layout("holistic75").position
    frame = found.landmarks[1]
    np.testing.assert_allclose(frame[place("left_hand", 20)], [17 / 100, 18 / 50, 19], rtol=ROUNDING)
    np.testing.assert_allclose(frame[place("pose", 12)], [25 / 100, 26 / 50, 27], rtol=ROUNDING)
    np.testing.assert_allclose(frame[place("pose", 11)], [29 / 100, 30 / 50, 31], rtol=ROUNDING)
    assert np.isnan(found.landmarks).all(axis=2).sum() == 2 * (75 - 3)
    assert (found.layout, found.coordinates, found.fps, found.aspect) == ("holistic75", "xyz", 30.0, 2.0)


def test_points_without_confidence_or_number_are_missing(tmp_path):
    data, confidence = np.full((4, 1, 2, 3), 5.0), np.ones((4, 1, 2))
    confidence[0, 0, 0], confidence[1, 0, 0], data[2, 0, 0, 1] = 0.0, np.nan, np.nan
    found = read_pose(custom(tmp_path, SHOULDERS, frames=4, data=data, confidence=confidence)).landmarks
    right = found[:, layout("holistic75").position("pose", 12)]
    assert np.isnan(right).all(axis=1).tolist() == [True, True, True, False]
    assert not np.isnan(found[:, layout("holistic75").position("pose", 11)]).any()


def test_numbers_of_any_bits_give_no_warning(tmp_path):
    """A signalling NaN is a NaN; z that grows too large for float32 in another width is infinite."""
    content = custom(tmp_path, SHOULDERS).read_bytes()
    path = tmp_path / "odd.pose"
    path.write_bytes(forged(content, HEAD + 10, b"\x01\x00\x80\x7f"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = read_pose(path).landmarks[:, layout("holistic75").position("pose", 12)]
    assert np.isnan(right).all(axis=1).tolist() == [True, False]
    path.write_bytes(forged(content, HEAD + 18, struct.pack("<f", 3e38)))
    with pytest.raises(DataError, match="infinite coordinates"):
        read_pose(path, aspect=0.5)


def test_files_without_z_and_without_a_frame_rate(tmp_path):
    path = custom(tmp_path, SHOULDERS, kind="XYC", fps=0.0)
    found = read_pose(path)
    assert (found.coordinates, found.landmarks.shape, found.fps) == ("xy", (2, 75, 2), None)
    with pytest.raises(DataError, match="has x and y only"):
        read_pose(path, coordinates="xyz")


def test_another_aspect_keeps_the_shapes(tmp_path):
    """x and z become fractions of another width; in units of the height nothing moves."""
    path = custom(tmp_path, SHOULDERS)  # 100 x 50 pixels
    own, other = read_pose(path), read_pose(path, aspect=0.5)
    assert (own.aspect, other.aspect) == (2.0, 0.5)
    np.testing.assert_allclose(other.landmarks[..., ::2] * 0.5, own.landmarks[..., ::2] * 2.0, rtol=ROUNDING)
    np.testing.assert_array_equal(other.landmarks[..., 1], own.landmarks[..., 1])


def test_version_0_1_counts_long_films_by_the_size_of_the_file(tmp_path):
    """Its count of frames has two bytes, and films with more frames exist."""
    for frames in (2, (1 << 16) + 3):
        data = np.ones((frames, 1, 2, 3))
        content = custom(tmp_path, SHOULDERS, frames=frames, data=data).read_bytes()
        head = len(content) - frames * 2 * 16 - 10
        body = struct.pack("<HHH", 30, frames & 0xFFFF, 1) + content[head + 10 :]
        path = tmp_path / "old.pose"
        path.write_bytes(struct.pack("<f", 0.1) + content[4:head] + body)
        assert (read_head(path).frames, read_head(path).fps) == (frames, 30.0)
        assert read_pose(path).landmarks.shape == (frames, 75, 3)


def test_pictures_have_the_aspect_ratio(tmp_path):
    assert picture_size(None) == picture_size(1.0) == (720, 720)
    assert picture_size(16 / 9) == (1280, 720)
    assert picture_size(540 / 720) == (540, 720)
    width, height = picture_size(1.2345678)
    assert abs(width / height - 1.2345678) < 1e-5
    for aspect in (1000.0, 1e-5):
        with pytest.raises(DataError, match="aspect ratio"):
            picture_size(aspect)


def test_landmarks_of_another_layout_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"\(2, 60, 3\), expected \(frames, 75, 2 or 3\) for layout holistic75"):
        write_pose(tmp_path / "clip.pose", np.zeros((2, 60, 3)), "holistic75")
    assert not list(tmp_path.iterdir())


def forged(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]


HEAD = 4 + 6 + 2 + (2 + 14) + (2 + 4) + 6 + (2 + 14) + (2 + 13) + 6  # of `custom(SHOULDERS)`, up to its body
FORGERIES = {
    "cut short": (lambda c: c[:-1], "cut or damaged"),
    "longer": (lambda c: c + b"\0", "cut or damaged"),
    "four thousand million frames": (lambda c: forged(c, HEAD + 4, b"\xff" * 4), "cut or damaged"),
    "no frames": (lambda c: forged(c[: HEAD + 10], HEAD + 4, b"\0" * 4), "no frames"),
    "no people": (lambda c: forged(c, HEAD + 8, b"\0\0"), "0 people"),
    "a crowd": (lambda c: forged(c, HEAD + 8, b"\xff\xff"), "65535 people"),
    "many components": (lambda c: forged(c, 10, b"\xff\xff"), "header cannot be read"),
    "many points": (lambda c: forged(c, 34, b"\xff\xff"), "header cannot be read"),
    "many limbs": (lambda c: forged(c, 36, b"\xff\xff"), "header cannot be read"),
    "many colours": (lambda c: forged(c, 38, b"\xff\xff"), "header cannot be read"),
    "a long name": (lambda c: forged(c, 12, b"\xff\xff"), "header cannot be read"),
    "a name that is no text": (lambda c: forged(c, 20, b"\xff"), "header cannot be read"),
    "a picture without width": (lambda c: forged(c, 4, b"\0\0"), "picture is 0 x 50"),
    "a picture without height": (lambda c: forged(c, 6, b"\0\0"), "picture is 100 x 0"),
    "version 0": (lambda c: forged(c, 0, struct.pack("<f", 0.0)), "version 0.0 of the format"),
    "a version that is no number": (lambda c: forged(c, 0, struct.pack("<f", np.nan)), "version nan"),
    "one name twice": (
        lambda c: c.replace(b"\x0e\0RIGHT_SHOULDER", b"\x0d\0LEFT_SHOULDER", 1),
        "1 of its points twice",
    ),
    "other coordinates": (lambda c: c.replace(b"XYZC", b"RTPC", 1), "expected XYZC or XYC"),
    "no components": (lambda c: forged(c, 10, b"\0\0"), "components are ''"),
    "nothing": (lambda c: b"", "header cannot be read"),
    "infinite coordinates": (lambda c: forged(c, HEAD + 10, struct.pack("<f", np.inf)), "infinite coordinates"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_what_a_header_claims_is_held_against_the_file(tmp_path, what):
    change, message = FORGERIES[what]
    content = custom(tmp_path, SHOULDERS).read_bytes()
    assert len(content) == HEAD + 10 + 2 * 2 * 16
    path = tmp_path / "forged.pose"
    path.write_bytes(change(content))
    with pytest.raises(DataError, match=message) as error:
        read_pose(path)
    assert str(error.value).startswith(str(path))


def test_a_header_costs_little_memory_however_much_it_claims(tmp_path):
    """It is looked for in the first bytes of a file alone, however large the file is."""
    path = tmp_path / "huge.pose"
    path.write_bytes(struct.pack("<fHHHHHHHHH", 0.2, 9, 9, 9, 0xFFFF, 0, 0, 0xFFFF, 0xFFFF, 0xFFFF))
    with path.open("r+b") as file:
        file.truncate(1 << 29)  # a hole: no disk is used
    tracemalloc.start()
    with pytest.raises(DataError, match="header cannot be read"):
        read_head(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255), cut=st.booleans())
def test_damage_is_refused_or_leaves_a_clip_of_the_same_shape(tmp_path_factory, place, flip, cut):
    folder = tmp_path_factory.mktemp("damage")
    content = bytearray(written(folder, clip("pose_hands48", 2), "pose_hands48").read_bytes())
    place %= len(content)
    content[place] ^= flip
    path = folder / "damaged.pose"
    path.write_bytes(content[:place] if cut else content)
    try:
        outcome = read_pose(path).landmarks.shape
    except DataError as error:
        outcome = str(error).split(":")[0]
    # the format has no checksum: where the letter Z of "XYZC" is hit, the points are read as plane ones
    assert outcome in ([str(path)] if cut else [str(path), (2, 75, 3), (2, 75, 2)])


def test_no_file_a_link_and_no_library(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such file"):
        read_pose(tmp_path / "absent.pose")
    (tmp_path / "link.pose").symlink_to(written(tmp_path))
    with pytest.raises(DataError, match="symbolic link"):
        read_pose(tmp_path / "link.pose")
    monkeypatch.setitem(sys.modules, "pose_format", None)
    with pytest.raises(DataError, match=r'pip install "handcraft\[pose\]"'):
        read_pose(tmp_path / "clip.pose")
    with pytest.raises(DataError, match=r'pip install "handcraft\[pose\]"'):
        write_pose(tmp_path / "new.pose", clip(), "holistic75")


@pytest.mark.skipif(not REAL.is_dir(), reason="real files are not beside the repository (../shared/data/pose)")
@pytest.mark.parametrize(("name", "frames"), [("mediapipe", 170), ("mediapipe_long", 278)])
def test_real_files_are_read(name, frames):
    content = (REAL / f"{name}.pose").read_bytes()
    pose, found = pose_format.Pose.read(content), read_pose(REAL / f"{name}.pose")
    assert (found.layout, found.landmarks.shape, found.fps, found.aspect) == ("holistic87", (frames, 87, 3), 24.0, 1.0)
    names = {component.name: component.points for component in pose.header.components}
    assert tuple(names["LEFT_HAND_LANDMARKS"]) == tuple(names["RIGHT_HAND_LANDMARKS"]) == POINTS["left_hand"]
    assert set(names["POSE_LANDMARKS"]) < set(POINTS["pose"])
    tip = pose.body.data[:, 0, pose.header.get_point_index("RIGHT_HAND_LANDMARKS", "INDEX_FINGER_TIP")]
    ours = found.landmarks[:, layout("holistic87").position("right_hand", 8)]
    np.testing.assert_allclose(ours[:, :2], tip[:, :2].filled(np.nan) / 1250, rtol=ROUNDING)
    assert np.isnan(ours).all(axis=1).tolist() == tip.mask[:, 0].tolist()
    assert np.isnan(found.landmarks[:, layout("holistic87").slices["left_hand"]]).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="real files are not beside the repository (../shared/data/pose)")
def test_another_detectors_file_is_refused_with_the_reason():
    with pytest.raises(DataError, match=r"components are 'pose_keypoints_2d.*expected those of MediaPipe Holistic"):
        read_pose(REAL / "openpose.pose")


def test_every_landmark_has_a_name_of_its_own():
    assert {part: (len(names), len(set(names))) for part, names in POINTS.items()} == {
        "pose": (33, 33),
        "face": (478, 478),
        "left_hand": (21, 21),
        "right_hand": (21, 21),
    }
    sides = {11: "LEFT_SHOULDER", 16: "RIGHT_WRIST", 4: "RIGHT_EYE_INNER", 10: "MOUTH_RIGHT", 32: "RIGHT_FOOT_INDEX"}
    assert {index: POINTS["pose"][index] for index in sides} == sides
    assert list(COMPONENTS) == ["pose", "face", "left_hand", "right_hand"]
