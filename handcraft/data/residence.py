"""Where a data set is kept while it is trained on: on the training device if it fits, else in the host's memory, else
in files that are mapped and read batch by batch. Training sees the same numbers wherever it is.
"""

import contextlib
import hashlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from handcraft.config import PreprocessConfig
from handcraft.data.clips import Clips, check_frames, describe, load_clips, points, preprocessed, require_readable
from handcraft.data.host import HostFrames
from handcraft.data.npy import read_header
from handcraft.data.preprocess import signature
from handcraft.data.store import Store
from handcraft.errors import ConfigError, DataError
from handcraft.files import TEMPORARY, atomic_path
from handcraft.locks import held
from handcraft.memory import free_memory

logger = logging.getLogger("handcraft")

Residence = Literal["auto", "memory", "mapped"]
CACHE_VARIABLE = "HANDCRAFT_CLIP_CACHE"
"""Folder of preprocessed frames; by default handcraft/clips in $XDG_CACHE_HOME or ~/.cache."""
_SHARE = 2  # a data set may take one part in so many of the free memory: the rest is for training


def open_clips(store: Store | Path | str, preprocess: PreprocessConfig, residence: Residence = "auto") -> Clips:
    """The clips of a store as `load_clips` gives them, with their frames in memory or mapped from files.

    auto: in memory where they take at most half of what is free, as float32 or as they are stored, else mapped; the log
    says so. memory, mapped: there, and nowhere nearer to the device that trains (see `place`); only windows that need
    but be copied are laid out on it, from either, where they take little of its memory (`handcraft.data.ready`). Mapped
    frames of a centred store are the store's own files. Those of a raw store are preprocessed once, into a file that is
    named by what it was made from, in `cache_folder()`; of several processes one makes it.
    """
    if residence not in ("auto", "memory", "mapped"):
        raise ConfigError(f"residence is {residence!r}; expected auto, memory or mapped")
    if isinstance(store, str | Path):
        store = Store(store)
    require_readable(store, preprocess)
    raw = store.manifest.stage == "raw"
    numbers, free = int(store.frames.sum()) * math.prod(points(preprocess)), free_memory()
    kinds = (torch.float32, torch.float16) if not raw and store.dtype == np.float16 else (torch.float32,)
    fitting = [kind for kind in kinds if numbers * kind.itemsize * _SHARE <= free]
    if residence == "mapped" or (residence == "auto" and not fitting):
        if residence == "auto":
            size = numbers * kinds[-1].itemsize
            logger.info(
                "%s: %s of clips for %s of free memory: read from files, batch by batch", store.path, *_gb(size, free)
            )
        return describe(store, preprocess, _cached(store, preprocess) if raw else _mapped(store))
    clips = load_clips(store, preprocess, fitting[0] if fitting else kinds[-1])
    return clips if residence == "auto" else replace(clips, frames=HostFrames.of(clips.frames))


def place(clips: Clips, device: torch.device | str) -> Clips:
    """The same clips for training on `device`: all there if that takes at most half of its free memory, else with their
    frames in the host's memory, which the log says. Frames that `open_clips` was told to keep elsewhere stay there."""
    device = torch.device(device)
    if device.type == "cuda" and isinstance(clips.frames, torch.Tensor) and clips.frames.device != device:
        size, free = clips.frames.nbytes, free_memory(device)
        if size * _SHARE > free:
            logger.info("%s of clips for %s of free memory on %s: kept in the host's memory", *_gb(size, free), device)
            clips = replace(clips, frames=HostFrames.of(clips.frames))
    return clips.to(device)


def _mapped(store: Store) -> HostFrames:
    """The files of a centred store, looked through once."""
    bounds = np.cumsum([0] + [part.rows for part in store.manifest.parts])
    halves = [check_frames(store, int(bounds[i]), store.part(i)) for i in range(len(bounds) - 1)]
    dtype = torch.float16 if store.dtype == np.float16 else torch.float32
    return HostFrames(bounds, store.part, store.manifest.points, dtype, mend=any(halves))


def _cached(store: Store, preprocess: PreprocessConfig) -> HostFrames:
    """The preprocessed frames of a raw store, from a file that is made if it is not there."""
    shape = (int(store.frames.sum()), *points(preprocess))
    path = cache_folder() / f"{_key(store, preprocess)}.npy"
    if not path.exists():
        with _making(path):  # of the processes that want it one makes it, and the others wait
            if not path.exists():
                logger.info("%s: preprocessing its clips once, into %s", store.path, path)
                with atomic_path(path) as temporary, open(temporary, "wb") as file:
                    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                    for clip in preprocessed(store, preprocess):
                        file.write(clip.tobytes())
    try:
        with path.open("rb") as file:
            found = read_header(file)
            start = file.tell()
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a readable array file ({error}); delete it, it will be made again") from None
    if found != (shape, False, np.dtype("<f4")) or path.stat().st_size != start + 4 * math.prod(shape):
        raise DataError(f"{path}: does not hold {shape} numbers of float32; delete it, it will be made again")
    return HostFrames.of(np.memmap(path, dtype="<f4", mode="r", offset=start, shape=shape))


@contextlib.contextmanager
def _making(path: Path) -> Iterator[None]:
    """Be the one process that makes this file of the cache; `_clear` first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _claimed(path, None) as ours:
        _clear(path.parent, path.name if ours else None)
        yield


def _clear(folder: Path, mine: str | None) -> None:
    """Remove what killed processes have left half made, of the file `mine`, which this one may make, or of others."""
    for left in folder.glob(f"{TEMPORARY}*.npy"):
        name = left.name.removeprefix(TEMPORARY).partition("-")[2]
        with contextlib.suppress(BlockingIOError), contextlib.ExitStack() as stack:
            if name == mine or stack.enter_context(_claimed(folder / name, BlockingIOError())):
                left.unlink(missing_ok=True)


def _claimed(path: Path, refusal: Exception | None) -> contextlib.AbstractContextManager[bool]:
    """Hold the right to make `path`, see `held`. What is held is an empty file beside it, which stays: another process
    may be waiting for it."""
    lock = path.with_name(f".{path.stem}.lock")
    lock.touch()
    return held(lock, refusal)


def cache_folder() -> Path:
    """Where preprocessed frames of raw stores that do not fit in memory are kept: see `CACHE_VARIABLE`."""
    own = os.environ.get(CACHE_VARIABLE)
    return (
        Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "handcraft" / "clips"
    )


def _key(store: Store, preprocess: PreprocessConfig) -> str:
    """All that decides the preprocessed frames, hashed: a store that was changed has another one."""
    manifest = store.manifest
    facts = [signature(preprocess), manifest.layout, manifest.coordinates, repr(manifest.aspect)]
    facts += [f"{name} {digest}" for part in manifest.parts for name, digest in sorted(part.sha256.items())]
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=16).hexdigest()


def _gb(*sizes: int) -> tuple[str, ...]:
    return tuple(f"{size / 1e9:.3g} GB" for size in sizes)
