"""From results, a file a clip, to the store; and the exchange of a store for a larger one."""

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.data.manifest import MANIFEST
from handcraft.data.merge import merge_stores
from handcraft.data.recorded import SAME_RATE
from handcraft.data.store import StoreWriter
from handcraft.extract.kept import Task, load_arrays, load_facts
from handcraft.words import counted

NEW, MERGED, OLD = "new", "merged", "old"  # stores in the folder of an unfinished run


@dataclass(frozen=True)
class Written:
    """What `write` wrote."""

    frames: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    """Frames in which each part was found."""
    notes: tuple[str, ...] = ()


def write(
    tasks: Sequence[Task],
    out: Path,
    labels: Collection[str],
    *,
    aspect: float | None,
    fps: float | None,
    **manifest: Any,
) -> Written:
    """The raw store `out` of the results of `tasks`, in their order; memory is that of a clip.

    x and z of a clip whose picture has another shape than `aspect` (width / height) are made fractions of the width
    that a picture of its height and that aspect has. fps: the store's, unless a clip has another. manifest: more of
    what `StoreWriter` takes.
    """
    facts = [load_facts(task) for task in tasks]
    rates = sorted({found.fps for found in facts if found.fps is not None})
    same = fps is not None and all(abs(rate - fps) <= SAME_RATE * fps for rate in rates)
    frames, shapes = 0, 0
    with StoreWriter(out, stage="raw", classes=labels, aspect=aspect, fps=fps if same else None, **manifest) as writer:
        for task, found in zip(tasks, facts, strict=True):
            landmarks, visibility = load_arrays(task)
            own, clip = found.width / found.height, task.source
            if aspect is not None and own != aspect:
                landmarks = landmarks * np.array([own / aspect, 1, own / aspect], dtype=np.float32)
                shapes += 1
            writer.add(
                landmarks,
                id=clip.id,
                label=clip.label,
                group=clip.signer,
                split=clip.split,
                provenance=found.provenance,
                visibility=visibility,
            )
            frames += len(landmarks)
    notes = []
    if shapes:
        notes.append(f"{counted(shapes, 'clip')} of another shape: x and z are fractions of {aspect:.4g} x the height")
    varying = sum(found.varies for found in facts)
    if varying:
        notes.append(f"{counted(varying, 'clip')} of variable frame rate, kept frame by frame; --fps samples evenly")
    if not same and rates:
        notes.append(f"frame rates differ, {rates[0]:.4g} to {rates[-1]:.4g}: the store names none, each clip its own")
    counts = {name: sum(found.counts[name] for found in facts) for name in facts[0].counts}
    return Written(frames, counts, tuple(notes))


def exchange(out: Path, work: Path) -> None:
    """Put the clips of the store `work/new` behind those of `out`. Whatever stops it, `finish_exchange` mends it."""
    shutil.rmtree(work / MERGED, ignore_errors=True)
    merge_stores([out, work / NEW], work / MERGED, mix=["classes", "fps", "backend"], progress=False)
    os.replace(out, work / OLD)
    os.replace(work / MERGED, out)


def finish_exchange(out: Path, work: Path) -> None:
    """End an exchange that was stopped between its two steps, and clear what one left behind that had no effect."""
    if not out.exists() and (work / OLD).exists() and (work / MERGED / MANIFEST).exists():
        os.replace(work / MERGED, out)
    for name in (NEW, MERGED, OLD):
        shutil.rmtree(work / name, ignore_errors=True)
