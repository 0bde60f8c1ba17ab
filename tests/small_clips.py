"""Small clips in memory and small recipes for the tests of training: learnable signs, uneven lengths, missing hands."""

from dataclasses import replace

import numpy as np
import torch

from handcraft.config import (
    AugmentConfig,
    CMLPeConfig,
    GeneratorRecipe,
    MambaRecipe,
    MambaSLConfig,
    PreprocessConfig,
    TrainConfig,
    TransformerRecipe,
    TransformerSLConfig,
    WindowConfig,
)
from handcraft.data.clips import Clips
from handcraft.data.manifest import clip_digest
from handcraft.tasks import ClassifierTask, GeneratorTask

LANDMARKS, COORDINATES = 48, 2
PREPROCESS = PreprocessConfig(coordinates="xy")


def small_clips(classes=3, per_class=8, seed=0, lengths=(20, 45), missing=True) -> Clips:
    """Clips of the layout `pose_hands48` in which class c oscillates with its own frequency and direction."""
    rng = np.random.default_rng(seed)
    place = np.random.default_rng(1).normal(size=(LANDMARKS, COORDINATES))  # the same body in every set
    clips, label = [], np.repeat(np.arange(classes), per_class)
    for c in label:
        frames = int(rng.integers(*lengths))
        time = np.linspace(0, 1, frames)[:, None, None]
        axis = np.array([np.cos(c), np.sin(c)])
        wave = np.sin(2 * np.pi * ((1 + c) * time + rng.uniform(0, 0.2))) * axis
        clip = place + wave + 0.05 * rng.normal(size=(frames, LANDMARKS, COORDINATES))
        if missing and rng.uniform() < 0.5:
            gap = int(rng.integers(frames - 4))
            clip[gap : gap + 4, 27:] = np.nan  # the left hand is lost for a while
        clips.append(clip.astype(np.float32))
    length = torch.tensor([len(clip) for clip in clips])
    return Clips(
        frames=torch.from_numpy(np.concatenate(clips)),
        start=length.cumsum(0) - length,
        length=length,
        label=torch.from_numpy(label),
        ids=np.array([f"clip{i:03d}" for i in range(len(clips))]),
        group=np.array([""] * len(clips)),
        split=np.array(["train"] * len(clips)),
        digest=np.array([clip_digest(clip) for clip in clips], dtype=np.uint64),
        classes=tuple(f"sign{c}" for c in range(classes)),
        layout="pose_hands48",
        preprocess=PREPROCESS,
    )


TRAIN = TrainConfig(steps=24, batch=8, lr=3e-3, validate_every=6, checkpoint_every=5)
RECIPES = {
    "cmlpe": GeneratorRecipe(
        model=CMLPeConfig(context=8, blocks=2, embedding=8), window=WindowConfig(frames=16), train=TRAIN
    ),
    "transformer_sl": TransformerRecipe(
        model=TransformerSLConfig(frames=16, width=16, layers=1, heads=2, mlp=16, head=32),
        window=WindowConfig(frames=16),
        train=TRAIN,
        augment=AugmentConfig(rotation=10, scale=0.1, subwindow=0.8),
    ),
    "mamba_sl": MambaRecipe(
        model=MambaSLConfig(frames=16, width=16, state=4, head=32), window=WindowConfig(frames=16), train=TRAIN
    ),
}


def small_recipe(kind: str, **changes):
    """The small recipe of a model kind; `changes` go to its `TrainConfig`."""
    return replace(RECIPES[kind], train=replace(RECIPES[kind].train, **changes))


def small_task(kind: str, *, clips=None, recipe=None, seed=0, reverse=False, validation=True, **options):
    """A task on small clips: every fourth clip validates, unless `validation` is False."""
    clips = small_clips() if clips is None else clips
    recipe = RECIPES[kind] if recipe is None else recipe
    every = np.arange(len(clips))
    held = every % 4 == 0 if validation else np.zeros(len(clips), bool)
    where = {"train": every[~held], "valid": every[held], "seed": seed}
    if kind == "cmlpe":
        return GeneratorTask(clips, recipe, reverse=reverse, **where, **options)
    return ClassifierTask(clips, recipe, **where, **({"augment": False} | options))
