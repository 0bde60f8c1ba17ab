"""Results kept, a file a clip, until the store is written: whole or absent, whenever a run is stopped."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.errors import DataError
from handcraft.extract.video import image_files
from handcraft.extract.worker import ClipSource, Extracted
from handcraft.files import atomic_path, sha256_file

ARRAYS = ("landmarks", "visibility")


@dataclass(frozen=True)
class Task:
    """A clip, and the file that keeps its result."""

    source: ClipSource
    file: Path


@dataclass(frozen=True)
class Facts:
    """What is known about a result without its arrays; the fields are those of `Extracted`."""

    fps: float | None
    width: int
    height: int
    varies: bool
    counts: dict[str, int]
    provenance: dict[str, Any]
    """What the store will say about the making of the clip."""


def task(source: ClipSource, folder: Path) -> Task:
    """The task of a clip; its file's name depends on the clip and on the video as it is now, so that a video that has
    changed is extracted again. `OSError`, `DataError`: the video cannot be found."""
    changed = max((file.stat().st_mtime_ns for file in files_of(source.path)), default=0)
    name = hashlib.sha256(json.dumps([source.id, changed, origin(source)]).encode()).hexdigest()[:32]
    return Task(source, folder / f"{name}.npz")


def save(extracted: Extracted, made: Task) -> None:
    """Keep a result: numpy's arrays, and the facts as JSON text in one of them."""
    plain = {name: value for name, value in vars(extracted).items() if name not in ARRAYS}
    facts = json.dumps({**plain, "provenance": _provenance(made.source, extracted)})
    with atomic_path(made.file) as temporary, open(temporary, "wb") as target:
        np.savez(target, landmarks=extracted.landmarks, visibility=extracted.visibility, facts=np.array(facts))


def load_arrays(made: Task) -> tuple[np.ndarray, np.ndarray]:
    """landmarks (T,J,3) and visibility (T,33) that `save` kept. `DataError`: the file is damaged."""
    with _opened(made.file) as arrays:
        return arrays["landmarks"], arrays["visibility"]


def load_facts(made: Task) -> Facts:
    """The rest of what `save` kept. `DataError`: the file is damaged."""
    with _opened(made.file) as arrays:
        return Facts(**json.loads(str(arrays["facts"])))


def files_of(path: Path) -> list[Path]:
    """The file of a video, or those of a folder of images. `DataError`: a folder that cannot be read."""
    return image_files(path) if path.is_dir() else [path]


def origin(clip: ClipSource) -> dict[str, Any]:
    """What a clip is made of, as its provenance says it: file, bytes, start and end. `OSError`: there is no file."""
    size = sum(file.stat().st_size for file in files_of(clip.path))
    found = {"file": clip.name or clip.path.name, "bytes": size, "start": clip.start, "end": clip.end}
    return {name: value for name, value in found.items() if value is not None}


def _provenance(clip: ClipSource, found: Extracted) -> dict[str, Any]:
    hashes = [sha256_file(file) for file in files_of(clip.path)]
    return {
        **origin(clip),
        "sha256": hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        "width": found.width,
        "height": found.height,
        "fps": found.fps,
        "found": dict(found.counts),
    }


@contextmanager
def _opened(file: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except Exception as error:  # numpy raises whatever its readers raise
        raise DataError(f"{file}: not a result that can be read ({error}); delete it and run again") from None
