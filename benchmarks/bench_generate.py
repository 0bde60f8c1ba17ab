"""Generation of clips by both twins: by the op alone into a buffer that exists already; by all that makes a clip (its
source, the variation, what is missing) in memory; and by `handcraft generate` into a store on disk."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_pipeline import CLASSES, random_clips, task_of
from providers import Case

from handcraft import checkpoint
from handcraft.checkpoint import Checkpoint
from handcraft.config import AugmentConfig
from handcraft.data.clips import Clips
from handcraft.data.window import windows
from handcraft.generate import generate
from handcraft.kernels import cmlpe_generate
from handcraft.synthesis import Synthesizer, sources

SOURCES = 5 * CLASSES
BATCH = 2048
"""Clips made at a time in memory, as `handcraft generate` makes them."""
VARIED = AugmentConfig(rotation=20, scale=0.25, subwindow=0.7)
"""As in the recipe `small`."""


def twin(clips: Clips, folder: Path, frames: int, augment: AugmentConfig, *, reverse: bool) -> Checkpoint:
    """A generator with random weights, saved and loaded."""
    made = task_of("cmlpe", clips, 1, reverse=reverse, frames=2 * frames).checkpoint()
    return checkpoint.load(checkpoint.save(folder / f"reverse-{reverse}", replace(made, augment=augment)))


def setup(case: Case, folder: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """The call that is timed, and one that clears what it wrote."""
    shape = case.shape
    clips = random_clips(SOURCES)
    augment = VARIED if shape.varied else AugmentConfig()
    twins = [twin(clips, folder, shape.frames, augment, reverse=reverse) for reverse in (False, True)]
    out, clip_id = folder / "store", torch.arange(shape.batch)

    def remove() -> None:
        shutil.rmtree(out, ignore_errors=True)

    if case.provider == "store":
        return lambda: generate(*twins, clips, out, total=shape.batch, progress=False), remove
    if case.provider == "memory":
        synthesizer = Synthesizer(*twins, clips, seed=0)
        return lambda: [synthesizer.make(part) for part in clip_id.split(BATCH)], remove
    statistics = twins[0].statistics
    context = windows(clips, torch.arange(len(clips)), twins[0].window)[0].flatten(2)
    label, row = sources(clips, clip_id, 0)
    params = [made.model.params() for made in twins]
    buffer = torch.empty(shape.batch, 2 * shape.frames, shape.dim, dtype=torch.float16)
    mean, std = statistics.mean.flatten(), statistics.std.flatten()
    return (
        lambda: cmlpe_generate(*params, context, row, label, clip_id, seed=0, mean=mean, std=std, out=buffer),
        remove,
    )


@pytest.mark.cases("disk forward")
def bench_disk(case, measure, tmp_path):
    call, remove = setup(case, tmp_path)
    measure(call, remove)
    remove()
