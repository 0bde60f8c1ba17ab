"""Raw landmarks of one person from wherever they come: a video, a `.pose` file, a clip of a raw store, or an array."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.data.clip_files import entries
from handcraft.data.manifest import MANIFEST
from handcraft.data.recorded import Recorded, plain_detector
from handcraft.data.store import Store
from handcraft.errors import DataError
from handcraft.extract.landmarker import Settings, detector_of
from handcraft.extract.video import VIDEO_SUFFIXES, is_image_clip
from handcraft.layouts import LAYOUTS
from handcraft.layouts import layout as find_layout

POSE = ".pose"
CLIPS = frozenset({POSE, *VIDEO_SUFFIXES})
"""Endings of the files that `sources` finds in a folder."""
DETECTOR = Settings()
"""How landmarks of a video are detected unless somebody says otherwise."""


@dataclass(frozen=True, eq=False)
class Recording:
    """What a detector saw of one person, of any length."""

    landmarks: np.ndarray
    """(T,J,C) floating, C 2 or 3; x and y as fractions of the picture, NaN = missing."""
    layout: str
    id: str
    """A clip's id, or the path of a file as it was given."""
    label: str | None = None
    """The sign it is said to show."""
    fps: float | None = None
    aspect: float | None = None
    """Width / height of the picture."""
    varies: bool = False
    """Whether the steps from frame to frame differ; `fps` is then their average."""
    detector: Mapping[str, Any] = field(default_factory=dict)
    """What found the landmarks, see `data.recorded.IDENTITY`; empty where not known."""

    def seen(self) -> dict[str, float]:
        """Part of the layout -> the share of frames in which any landmark of it was detected."""
        present = ~np.isnan(self.landmarks[..., 0])
        return {
            name: float(present[:, where].any(axis=1).mean()) if len(present) else 0.0
            for name, where in find_layout(self.layout).slices.items()
        }


def as_recording(
    landmarks: np.ndarray, layout: str | None = None, fps: float | None = None, aspect: float | None = None
) -> Recording:
    """An array (T,J,C) as a recording; layout: the one that has J landmarks. `DataError` where none has."""
    landmarks = np.asarray(landmarks)
    sizes = {known.landmarks: name for name, known in LAYOUTS.items()}
    if landmarks.ndim != 3 or landmarks.dtype.kind != "f" or (layout is None and landmarks.shape[1] not in sizes):
        known = ", ".join(f"{size} ({name})" for size, name in sizes.items())
        raise DataError(
            f"an array of {landmarks.dtype} and shape {landmarks.shape}, expected floating point (frames, landmarks, "
            f"2 or 3); numbers of landmarks known: {known}"
        )
    return Recording(landmarks, layout or sizes[landmarks.shape[1]], "array", None, fps, aspect)


def of_store(store: Store, places: np.ndarray, fps: float | None = None) -> Iterator[Recording]:
    """Clips of a raw store, after a look at the checksums of the parts they lie in.

    fps: where neither the store nor the clip's provenance says one.

    `DataError`: a centred store, or a damaged one.
    """
    manifest = store.manifest
    if manifest.stage != "raw":
        raise DataError(
            f"{store.path}: holds preprocessed clips, of which no shorter ones can be cut; give the raw recordings"
        )
    store.verify(places)
    known = Recorded.of(manifest).detectors
    for place in places.tolist():
        label = store.classes[int(store.labels[place])]
        rate = manifest.fps or _own_rate(store, place) or fps
        about = (manifest.layout, str(store.ids[place]), label, rate, manifest.aspect)
        yield Recording(store.landmarks(place), *about, detector=known[0] if len(known) == 1 else {})


def _own_rate(store: Store, place: int) -> float | None:
    """Frames a second of a clip of a store whose clips differ in them, as `handcraft extract` notes them."""
    rate = store.provenance_of(place).get("fps")
    return rate if isinstance(rate, float) and 0 < rate < float("inf") else None


@dataclass(frozen=True)
class Source:
    """A video, a folder of numbered images, or a `.pose` file."""

    path: Path
    label: str | None = None
    """Name of the folder that it lies in, where folders sort the files by sign."""


def sources(path: Path | str) -> list[Source]:
    """The sources that a path means: a file or a folder of images itself, all those in another folder.

    In a folder: videos and `.pose` files, by the numbers in their names, then its folders of images, and what lies in
    its other folders, which are signs (FOLDER/SIGN/FILE, FOLDER/SIGN/CLIP/0001.jpg). Hidden names are passed over, and
    images beside clips or folders.
    `DataError`: no such path, a folder that cannot be read or holds none. A folder of a sign that cannot be read is a
    source of its own, to fail by itself.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such store, video or .pose file")
    if not path.is_dir() or is_image_clip(path, CLIPS):
        return [Source(path)]
    found = [Source(file) for file in entries(path, CLIPS)]
    for folder in entries(path, ""):
        try:
            found += _in_folder(folder)
        except DataError:
            found.append(Source(folder, folder.name))
    if not found:
        raise DataError(f"{path}: neither a store nor a folder with videos, images or .pose files")
    return found


def read(source: Source, settings: Settings = DETECTOR) -> Recording:
    """The landmarks of a source; those of a video are detected now, with `settings`.

    `DataError`: a file that cannot be read, is damaged or has no frame. `ConfigError`: the detector or PyAV is not
    installed; the message says how to get it.
    """
    if source.path.suffix.lower() == POSE:
        from handcraft.data.pose_file import read_pose

        clip = read_pose(source.path)
        return Recording(clip.landmarks, clip.layout, str(source.path), source.label, clip.fps, clip.aspect)
    from handcraft.extract.worker import ClipSource, extract_clip

    found = extract_clip(ClipSource(source.path, id=str(source.path), label=source.label or ""), settings)
    return Recording(
        found.landmarks,
        settings.layout.name,
        str(source.path),
        source.label,
        found.fps,
        found.width / found.height,
        found.varies,
        plain_detector(detector_of(settings).describe(settings)),
    )


def _in_folder(folder: Path) -> list[Source]:
    """The clips of a sign, or the one whose images these are."""
    if is_image_clip(folder, CLIPS):
        return [Source(folder)]
    images = [inside for inside in entries(folder, "") if is_image_clip(inside, CLIPS)]
    return [Source(clip, folder.name) for clip in (*entries(folder, CLIPS), *images)]


def is_store(path: Path | str) -> bool:
    """Whether a folder looks like a store; one that cannot be read does not."""
    return os.path.exists(Path(path) / MANIFEST)
