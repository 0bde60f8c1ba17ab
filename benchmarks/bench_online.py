"""Pretraining steps of a classifier: on batches of a stored data set that lies ready, and on batches that the twin
generators make for the step, from sources as they are or varied. The difference is what endless clips cost."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_generate import SOURCES, VARIED, twin
from bench_pipeline import TRAIN, random_clips, randomised
from providers import Case

from handcraft.config import AugmentConfig, TransformerRecipe, TransformerSLConfig
from handcraft.machine import keep_memory
from handcraft.online import OnlineTask
from handcraft.optim import build_optimizer, clip_gradients
from handcraft.synthesis import Synthesizer
from handcraft.tasks import ClassifierTask


def setup(case: Case, folder: Path) -> Callable[[], None]:
    """A batch and the step on it."""
    keep_memory()  # as every training does
    shape, clips = case.shape, random_clips(SOURCES)
    model = TransformerSLConfig(frames=shape.frames, width=shape.width)
    recipe = TransformerRecipe(model=model, train=replace(TRAIN, batch=shape.batch))
    if case.provider == "stored":
        task = ClassifierTask(clips, recipe, train=np.arange(len(clips)), valid=(), seed=0, augment=False)
    else:
        augment = VARIED if case.provider == "online_varied" else AugmentConfig()
        twins = [twin(clips, folder, shape.frames // 2, augment, reverse=reverse) for reverse in (False, True)]
        task = OnlineTask(Synthesizer(*twins, clips, seed=0), recipe)
    randomised(task).model.train()
    optimizer, parameters = build_optimizer(task.model, TRAIN), list(task.model.parameters())
    steps = iter(range(1 << 30))

    def step() -> None:
        task.batch_loss(task.batch(next(steps))).backward()
        clip_gradients(parameters, TRAIN.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.cases("online training")
def bench_online(case, measure, tmp_path):
    measure(setup(case, tmp_path))
