"""One `.pose` file, the exchange format of sign-language processing, read and written. Needs pose-format (`[pose]`).

A file names its components and their points, says how large the picture is, and holds the coordinates and a confidence
of each point of each frame. What becomes of them:

    components     POSE_LANDMARKS, FACE_LANDMARKS, LEFT_HAND_LANDMARKS and RIGHT_HAND_LANDMARKS, any of MediaPipe's
                   points in any order; other components (POSE_WORLD_LANDMARKS) are left out
    x, y           pixels in a file, fractions of the picture's width and height here
    z              the same number in both: MediaPipe's own, as pose-format's extraction writes it
    confidence     0 = missing, here NaN; whatever is not missing is written with confidence 1

The format is specified in docs/specs of github.com/sign-language-processing/pose. Versions 0.1 and 0.2 are read, 0.2 is
written. The library believes what a header says, so the header is held against the file's size first.
"""

import io
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np

from handcraft.data.untrusted import require_file, require_memory
from handcraft.errors import DataError
from handcraft.files import atomic_path
from handcraft.layouts import Layout
from handcraft.layouts import layout as find_layout
from handcraft.render.skeleton import skeleton

HEIGHT = 720  # pixels of a picture that we write: a store knows its shape at most
FPS = 25.0  # written where nobody knows the frame rate, which the format demands
LARGEST = 1 << 30  # bytes of a file: an hour of all landmarks at 25 frames a second
LARGEST_HEADER = 1 << 18  # bytes; with all points of the face and their mesh a header has 15,000

COMPONENTS = {
    "pose": "POSE_LANDMARKS",
    "face": "FACE_LANDMARKS",
    "left_hand": "LEFT_HAND_LANDMARKS",
    "right_hand": "RIGHT_HAND_LANDMARKS",
}
"""Our part -> the format's component, in the order in which files have them."""

_SIDES = ("LEFT", "RIGHT")
_BODY = ("SHOULDER", "ELBOW", "WRIST", "PINKY", "INDEX", "THUMB", "HIP", "KNEE", "ANKLE", "HEEL", "FOOT_INDEX")
_HAND = (
    "WRIST",
    *(f"THUMB_{joint}" for joint in ("CMC", "MCP", "IP", "TIP")),
    *(
        f"{finger}_{joint}"
        for finger in ("INDEX_FINGER", "MIDDLE_FINGER", "RING_FINGER", "PINKY")
        for joint in ("MCP", "PIP", "DIP", "TIP")
    ),
)
POINTS = {
    "pose": (
        "NOSE",
        *(f"{side}_{point}" for side in _SIDES for point in ("EYE_INNER", "EYE", "EYE_OUTER")),
        *("LEFT_EAR", "RIGHT_EAR", "MOUTH_LEFT", "MOUTH_RIGHT"),
        *(f"{side}_{point}" for point in _BODY for side in _SIDES),
    ),
    "face": tuple(map(str, range(478))),
    "left_hand": _HAND,
    "right_hand": _HAND,
}
"""Part -> MediaPipe's names of its landmarks, by index."""

_COLOURS = {"pose": (90, 90, 90), "face": (140, 140, 140), "left_hand": (0, 114, 178), "right_hand": (213, 94, 0)}
_LAYOUTS = ("holistic553", "holistic543", "holistic87", "holistic75")  # raw ones, by how much of the face they hold
Point = tuple[str, str]
"""Names of a component and of a point of it."""


@dataclass(frozen=True)
class PoseHead:
    """What the beginning of a `.pose` file says, after it was held against the file's size."""

    width: int
    height: int
    fps: float | None
    """Frames a second; None where the file gives no positive number."""
    frames: int
    coordinates: str
    """xyz, or xy where the file has no z."""
    columns: Mapping[Point, int]
    """Where each point lies along the file's axis of points."""


@dataclass(frozen=True, eq=False)
class PoseClip:
    """A clip read from a `.pose` file."""

    landmarks: np.ndarray
    """(T,J,C) float32: x and y as fractions of the picture, NaN = missing, then in all coordinates."""
    layout: str
    coordinates: str
    fps: float | None
    aspect: float
    """Width / height of the picture."""


def read_head(path: Path | str) -> PoseHead:
    """The beginning of a `.pose` file.

    `DataError`: no such file, a link, over `LARGEST` bytes, cut short or damaged, another version, not one person in
    the picture, no picture size, or a pose that is not MediaPipe's (OpenPose, say).
    """
    path = Path(path)
    size = require_file(path, LARGEST)
    with path.open("rb") as file:
        return _head(path, file.read(LARGEST_HEADER), size)


def read_pose(
    path: Path | str, *, layout: str | None = None, coordinates: str | None = None, aspect: float | None = None
) -> PoseClip:
    """The clip in a `.pose` file.

    layout: default `largest_layout` of its points; landmarks that the file does not name are missing. coordinates:
    "xyz" or "xy", default all that it has. aspect: default the file's own; another one makes x and z fractions of the
    width that a picture of this height and that aspect has, so that clips of differently shaped pictures can share a
    store. `DataError` as from `read_head`, and where the file has no z, no frames or infinite coordinates.
    """
    path = Path(path)
    require_memory(6 * require_file(path, LARGEST), path)  # the library's copy and masks, and ours in float64
    data = path.read_bytes()
    head = _head(path, data[:LARGEST_HEADER], len(data))
    layout, coordinates = layout or largest_layout(head.columns), coordinates or head.coordinates
    if len(coordinates) > len(head.coordinates):
        raise DataError(f"{path}: has x and y only, expected z as well; read it as 'xy'")
    try:
        body = _library().Pose.read(data).body
    except (struct.error, ValueError, TypeError, ArithmeticError) as error:
        raise DataError(f"{path}: pose-format cannot read it ({error}); it is damaged, get it again") from None
    found = [head.columns.get(point) for point in layout_points(layout)]
    places = [place for place, column in enumerate(found) if column is not None]
    columns = [found[place] for place in places]
    own = head.width / head.height
    aspect = aspect or own
    landmarks = np.full((head.frames, len(found), len(coordinates)), np.nan, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # overflows show as infinity just below; a NaN may signal
        points = body.data.data[:, 0, columns, : len(coordinates)].astype(np.float64)
        points[~(body.confidence[:, 0, columns] > 0)] = np.nan  # a confidence that is NaN is none, too
        points[np.isnan(points).any(axis=2)] = np.nan
        points[..., 0] /= head.height * aspect
        points[..., 1] /= head.height
        points[..., 2:] *= own / aspect
        landmarks[:, places] = points
    if np.isinf(landmarks).any():
        raise DataError(f"{path}: holds infinite coordinates; a missing point has confidence 0")
    return PoseClip(landmarks, layout, coordinates, head.fps, aspect)


def write_pose(
    path: Path | str, landmarks: np.ndarray, layout: str, *, fps: float | None = None, aspect: float | None = None
) -> None:
    """Write a clip as a `.pose` file; see `encode_pose`."""
    content = encode_pose(landmarks, layout, fps=fps, aspect=aspect)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def encode_pose(landmarks: np.ndarray, layout: str, *, fps: float | None = None, aspect: float | None = None) -> bytes:
    """A clip as the content of a `.pose` file of version 0.2.

    landmarks (T,J,C) floating, C 2 or 3, in `layout`: x and y as fractions of the picture, NaN = missing. fps: default
    `FPS`. aspect: width / height of the picture, default 1; its size in the file is `picture_size`. `DataError`:
    landmarks of another shape, or an aspect that no picture has.
    """
    package, named = _library(), find_layout(layout)
    if landmarks.ndim != 3 or landmarks.shape[1] != named.landmarks or landmarks.shape[2] not in (2, 3):
        raise DataError(
            f"landmarks of shape {landmarks.shape}, expected (frames, {named.landmarks}, 2 or 3) for layout {layout}"
        )
    width, height = picture_size(aspect)
    order = [name for name in COMPONENTS if name in named.slices]
    points = np.concatenate([landmarks[:, named.slices[name]] for name in order], axis=1, dtype=np.float64)
    seen = ~np.isnan(points).any(axis=2)
    points[~seen] = 0.0
    points[..., 0] *= width
    points[..., 1] *= height
    kind = "XYZC" if landmarks.shape[2] == 3 else "XYC"
    heads, file = package.pose_header, io.BytesIO()
    components = [
        heads.PoseHeaderComponent(COMPONENTS[name], *_points_and_limbs(named, name), [_COLOURS[name]], kind)
        for name in order
    ]
    header = heads.PoseHeader(0.2, heads.PoseHeaderDimensions(width, height), components)
    body = package.numpy.NumPyPoseBody(fps or FPS, points[:, None].astype("<f4"), seen[:, None].astype("<f4"))
    package.Pose(header, body).write(file)
    return file.getvalue()


def picture_size(aspect: float | None) -> tuple[int, int]:
    """(width, height) in pixels of a picture of this aspect ratio (None: 1), as exact as whole numbers up to `HEIGHT`
    high can be: 16 / 9 gives (1280, 720). `DataError` if the format knows no such width."""
    ratio = Fraction(1.0 if aspect is None else aspect).limit_denominator(HEIGHT)
    height = HEIGHT // ratio.denominator * ratio.denominator
    width = int(ratio * height)
    if not 1 <= width < 1 << 16:
        raise DataError(f"the aspect ratio (width / height) is {aspect}, expected 1/720 to 91: no file can say another")
    return width, height


def largest_layout(points: Collection[Point]) -> str:
    """The raw layout with the most of the face that these points hold all of; it always has the pose and both hands."""
    for name in _LAYOUTS[:-1]:
        if all(point in points for point in layout_points(name) if point[0] == COMPONENTS["face"]):
            return name
    return _LAYOUTS[-1]


def layout_points(layout: str) -> Iterator[Point]:
    """The format's name of each landmark of a layout, in order."""
    for part in find_layout(layout).parts:
        for index in part.indices:
            yield COMPONENTS[part.name], POINTS[part.name][index]


def _points_and_limbs(layout: Layout, part: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Names of the points of a component, and the pairs of its points between which viewers draw a line."""
    indices = next(entry.indices for entry in layout.parts if entry.name == part)
    start = layout.slices[part].start
    lines = [line.points for line in skeleton(layout).lines if line.part == part]
    limbs = [(first - start, second - start) for line in lines for first, second in pairwise(line)]
    return [POINTS[part][index] for index in indices], limbs


def _head(path: Path, data: bytes, size: int) -> PoseHead:
    """`read_head` of a file of `size` bytes that begins with `data`."""
    package = _library()
    reader = package.utils.reader.BufferReader(data)
    try:
        header = package.pose_header.PoseHeader.read(reader)  # whatever it counts, it ends where `data` does
        coordinates = _coordinates(path, header.components)
        version, start = round(header.version, 3), reader.read_offset
        if version not in (0.1, 0.2):
            raise DataError(f"{path}: version {version} of the format, expected 0.1 or 0.2; write it anew (Pose.write)")
        fps, declared, people = struct.unpack_from("<HHH" if version == 0.1 else "<fIH", data, start)
    except (struct.error, ValueError, TypeError) as error:
        raise DataError(f"{path}: no .pose file, or a damaged one: its header cannot be read ({error})") from None
    if people != 1:
        raise DataError(f"{path}: {people} people, expected 1, the signer of the clip; write a file for each person")
    held = size - start - (6 if version == 0.1 else 10)
    frame = 4 * header.total_points() * (header.num_dims() + 1)  # bytes, with the confidences
    frames = held // frame if frame else 0
    overflown = version == 0.1 and frames >= 1 << 16  # its count has two bytes, so readers go by the file's size
    if held != frame * frames or (frames != declared and not overflown):
        raise DataError(f"{path}: {held} bytes of frames, its header says {declared} of {frame}; it is cut or damaged")
    if not frames:
        raise DataError(f"{path}: has no frames; leave it out")
    width, height = header.dimensions.width, header.dimensions.height
    if not (width and height):
        raise DataError(f"{path}: its picture is {width} x {height}, expected a size in pixels, by which x and y scale")
    points = [(component.name, point) for component in header.components for point in component.points]
    columns = {point: column for column, point in enumerate(points)}
    if len(columns) != len(points):
        raise DataError(f"{path}: names {len(points) - len(columns)} of its points twice; it is damaged")
    rate = float(str(np.float32(fps)))  # 29.97, not the 29.969999313354492 that is nearest to it in float32
    return PoseHead(width, height, rate if 0 < rate < np.inf else None, frames, coordinates, columns)


def _coordinates(path: Path, components: list) -> str:
    """xyz or xy: what the components that we take have; `DataError` if they are not MediaPipe's."""
    names = [component.name for component in components]
    if COMPONENTS["pose"] not in names:
        raise DataError(
            f"{path}: its components are {ascii(', '.join(names))[:120]}, expected those of MediaPipe Holistic, "
            f"{', '.join(COMPONENTS.values())}: the points of other detectors lie elsewhere on the body; "
            "detect the landmarks with MediaPipe (video_to_pose --format mediapipe)"
        )
    formats = [component.format for component in components if component.name in COMPONENTS.values()]
    if not all(kind.startswith("XY") and kind.endswith("C") for kind in formats):
        raise DataError(f"{path}: its points are {ascii(', '.join(formats))[:80]}, expected XYZC or XYC")
    return "xyz" if all(kind.startswith("XYZ") for kind in formats) else "xy"


def _library() -> ModuleType:
    """The package pose_format, which is optional."""
    try:
        import pose_format
    except ImportError as error:
        raise DataError(f'.pose files need pose-format ({error}): pip install "handcraft[pose]"') from None
    return pose_format
