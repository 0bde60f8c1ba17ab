"""MediaPipe's two detectors without MediaPipe: what they ask of it, what they make of its answers, what they say where
it is absent. `tests/extract` runs the real one. The file of models that the Tasks detector needs is not here, so a
stand-in answers in its place; its names are those of mediapipe 1.2.2."""

import hashlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from handcraft.errors import ConfigError, DataError
from handcraft.extract import holistic, tasks_backend
from handcraft.extract.holistic import Holistic
from handcraft.extract.landmarker import Settings, detector_of
from handcraft.extract.tasks_backend import Tasks


@pytest.fixture(autouse=True)
def _forget():
    """What is found once is remembered, and each test finds something else."""
    for cached in (holistic._solution, tasks_backend._mediapipe, tasks_backend._checked_hash):
        cached.cache_clear()
    yield
    for cached in (holistic._solution, tasks_backend._mediapipe, tasks_backend._checked_hash):
        cached.cache_clear()


def marks(count, visibility=None):
    return [SimpleNamespace(x=at / 100, y=at / 200, z=-at / 300, visibility=visibility) for at in range(count)]


def expected(count):
    at = np.arange(count)
    return np.stack([at / 100, at / 200, -at / 300], axis=1).astype(np.float32)


class Graph:
    """`mediapipe.solutions.holistic.Holistic`, with answers of every kind."""

    made = ()

    def __init__(self, **options):
        Graph.made = (*Graph.made, options)
        self.closed = False

    def process(self, picture):
        def found(points, **more):
            return SimpleNamespace(landmark=marks(points, **more))

        if picture.max():
            return SimpleNamespace(
                pose_landmarks=found(33, visibility=0.75),
                left_hand_landmarks=found(21),
                right_hand_landmarks=None,
                face_landmarks=found(478),
            )
        return SimpleNamespace(
            pose_landmarks=None, left_hand_landmarks=None, right_hand_landmarks=None, face_landmarks=None
        )

    def close(self):
        self.closed = True


def test_holistic_reads_what_the_graph_answers(monkeypatch):
    monkeypatch.setattr(holistic, "_solution", lambda: Graph)
    with Holistic(Settings(detection=0.25, tracking=0.75)) as landmarker:
        somebody = landmarker.detect(np.full((4, 4, 3), 9, np.uint8), 0.0)
        nobody = landmarker.detect(np.zeros((4, 4, 3), np.uint8), 0.1)
        graph = landmarker._graph
    assert graph.closed
    assert Graph.made[-1] == {
        "static_image_mode": False,
        "model_complexity": 1,
        "smooth_landmarks": True,
        "refine_face_landmarks": True,
        "min_detection_confidence": 0.25,
        "min_tracking_confidence": 0.75,
    }
    np.testing.assert_array_equal(somebody.pose, expected(33))
    np.testing.assert_array_equal(somebody.visibility, np.full(33, 0.75, np.float32))
    np.testing.assert_array_equal(somebody.left_hand, expected(21))
    np.testing.assert_array_equal(somebody.face, expected(478))
    assert somebody.right_hand is None
    assert nobody == (None,) * 5


class Stand:
    """`mediapipe` with its Tasks interface; notes what it is asked."""

    def __init__(self):
        self.options, self.stamps, self.closed = None, [], 0
        stand = self

        class Landmarker:
            @staticmethod
            def create_from_options(options):
                stand.options = options
                return Landmarker()

            def detect_for_video(self, image, stamp):
                stand.stamps.append(stamp)
                assert image.format == "SRGB"
                return SimpleNamespace(
                    pose_landmarks=marks(33, visibility=0.5),
                    left_hand_landmarks=[],
                    right_hand_landmarks=marks(21, visibility=None),
                    face_landmarks=[],
                )

            def close(self):
                stand.closed += 1

        self.tasks = SimpleNamespace(
            BaseOptions=lambda model_asset_path: model_asset_path,
            vision=SimpleNamespace(
                RunningMode=SimpleNamespace(VIDEO="VIDEO"),
                HolisticLandmarkerOptions=lambda **options: options,
                HolisticLandmarker=Landmarker,
            ),
        )
        self.ImageFormat = SimpleNamespace(SRGB="SRGB")
        self.Image = lambda image_format, data: SimpleNamespace(format=image_format, data=data)


@pytest.fixture
def stand(monkeypatch):
    found = Stand()
    monkeypatch.setitem(sys.modules, "mediapipe", found)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.2.2")
    return found


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "holistic_landmarker.task"
    path.write_bytes(b"models")
    return str(path)


def test_tasks_runs_in_the_mode_for_videos_with_times_that_rise(stand, model):
    with Tasks(Settings("tasks", model=model, detection=0.25, tracking=0.75)) as landmarker:
        found = [landmarker.detect(np.zeros((4, 4, 3), np.uint8), time)[:] for time in (0.0, 0.0331, 0.0332, 1.5)]
    assert stand.options["base_options"] == model
    assert stand.options["running_mode"] == "VIDEO"
    assert stand.options["min_pose_detection_confidence"] == 0.25
    assert stand.options["min_hand_landmarks_confidence"] == 0.75
    assert stand.stamps == [0, 33, 34, 1500]
    assert stand.closed == 1
    pose, visibility, left, right, face = found[0]
    np.testing.assert_array_equal(pose, expected(33))
    np.testing.assert_array_equal(visibility, np.full(33, 0.5, np.float32))
    np.testing.assert_array_equal(right, expected(21))
    assert left is None
    assert face is None


def test_the_hash_of_the_models_is_said_and_can_be_demanded(stand, model):
    digest = hashlib.sha256(b"models").hexdigest()
    assert Tasks.describe(Settings("tasks", model=model)) == {
        "backend": "tasks",
        "mediapipe": "1.2.2",
        "model_sha256": digest,
        "detection": 0.5,
        "tracking": 0.5,
    }
    assert Tasks.describe(Settings("tasks", model=model, model_sha256=digest.upper()))["model_sha256"] == digest
    wrong = Settings("tasks", model=model, model_sha256="0" * 64)
    for use in (Tasks.describe, Tasks):
        with pytest.raises(ConfigError, match=f"its SHA-256 is {digest}, expected 0000"):
            use(wrong)
    with pytest.raises(DataError, match="no such file"):
        Tasks.describe(Settings("tasks", model=model + "x"))


def test_a_file_that_holds_no_models_ends_the_run_and_not_a_clip(stand, model):
    def refuse(options):
        raise RuntimeError("Unable to open zip archive.")

    stand.tasks.vision.HolisticLandmarker.create_from_options = refuse
    with pytest.raises(ConfigError, match=r"holistic_landmarker\.task: mediapipe cannot use it .Unable to open zip"):
        Tasks(Settings("tasks", model=model))


@pytest.mark.parametrize(
    ("version", "good"), [("0.10.21", False), ("0.10.35", True), ("1.2.2", True), ("1.3rc1", True)]
)
def test_releases_without_the_interface_are_refused(stand, model, monkeypatch, version, good):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    settings = Settings("tasks", model=model)
    if good:
        assert Tasks.describe(settings)["mediapipe"] == version
    else:
        with pytest.raises(ConfigError, match=r"needs mediapipe 0\.10\.35 or newer.*; here is 0\.10\.21"):
            Tasks.describe(settings)


def test_without_mediapipe_each_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.holistic", None)
    with pytest.raises(ConfigError, match=r"mediapipe 0\.10\.21.*make extract-env.*constraints/extract\.txt"):
        Holistic.describe(Settings())
    with pytest.raises(ConfigError, match=r"pip install 'mediapipe>=0\.10\.35'.*report usage"):
        Tasks.describe(Settings("tasks", model=model))


def test_settings_name_the_detector():
    assert detector_of(Settings()) is Holistic
    assert detector_of(Settings("tasks", model="x")) is Tasks
