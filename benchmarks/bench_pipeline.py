"""What users wait for: training steps of the three models, and data on its way to the model."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from providers import Case
from torch.utils.data import DataLoader, Dataset

from handcraft.config import (
    AugmentConfig,
    CMLPeConfig,
    GeneratorRecipe,
    MambaRecipe,
    PreprocessConfig,
    TrainConfig,
    TransformerRecipe,
    WindowConfig,
)
from handcraft.data.batches import evaluation_batches
from handcraft.data.clips import Clips
from handcraft.data.host import HostFrames
from handcraft.kernels import CMLPeParams
from handcraft.kernels.dispatch import VARIABLE
from handcraft.layouts import layout
from handcraft.machine import keep_memory
from handcraft.models import TransformerSL
from handcraft.optim import build_optimizer, clip_gradients
from handcraft.tasks import ClassifierTask, GeneratorTask

LAYOUT = layout("handcraft60")
CLASSES = 100
LENGTHS = (20, 60)
"""Frames of a clip, as LSFB has them."""
TRAIN = TrainConfig(steps=1000, lr=1e-7, schedule="constant", weight_decay=0.0)
"""A rate that leaves the weights as they were drawn, however often a step is repeated."""
RECIPES = {"cmlpe": GeneratorRecipe, "transformer_sl": TransformerRecipe, "mamba_sl": MambaRecipe}
WORKERS = 2


def random_clips(count: int, seed: int = 0) -> Clips:
    """Smooth random motion in the paper's layout; each hand is missing in some frames, every class has clips."""
    rng = np.random.default_rng(seed)
    length = torch.from_numpy(rng.integers(*LENGTHS, size=count, endpoint=True))
    rows = int(length.sum())
    frames = np.cumsum(rng.normal(size=(rows, LAYOUT.landmarks, 3)) * 0.1, axis=0).astype(np.float32)
    for part in ("right_hand", "left_hand"):
        frames[rng.uniform(size=rows) < 0.1, LAYOUT.slices[part]] = np.nan
    names = np.array([f"clip{i:06d}" for i in range(count)])
    return Clips(
        frames=torch.from_numpy(frames),
        start=length.cumsum(0) - length,
        length=length,
        label=torch.arange(count) % CLASSES,
        ids=names,
        group=np.array([""] * count),
        split=np.array(["train"] * count),
        digest=np.arange(count, dtype=np.uint64),
        classes=tuple(f"sign{i:03d}" for i in range(CLASSES)),
        layout=LAYOUT.name,
        preprocess=PreprocessConfig(layout=LAYOUT.name),
    )


def task_of(
    model: str,
    clips: Clips,
    batch: int,
    mode: str = "resample",
    *,
    reverse: bool = False,
    frames: int = 32,
    augment: AugmentConfig | None = None,
):
    """A training task of one of the three models, with random weights in place of its degenerate start."""
    recipe = RECIPES[model](window=WindowConfig(frames=frames, mode=mode), train=replace(TRAIN, batch=batch))
    where = {"train": np.arange(len(clips)), "valid": np.arange(0), "seed": 0}
    if model == "cmlpe":
        recipe = replace(recipe, model=CMLPeConfig(context=frames // 2))
        task = GeneratorTask(clips, recipe, reverse=reverse, **where)
        config = task.model_config
        weights = CMLPeParams.random(config.classes, config.dim, config.context, config.blocks, config.embedding)
        task.model.load_state_dict(weights._asdict())
        return task
    if augment is not None:
        recipe = replace(recipe, augment=augment)
    return randomised(ClassifierTask(clips, recipe, augment=augment is not None, **where))


def randomised(task: ClassifierTask) -> ClassifierTask:
    """The task with random numbers of some size added to all weights."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in task.model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) / max(parameter.shape[-1], 4) ** 0.5
    return task


def setup_step(case: Case, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """One step as the engine takes it, on one batch that lies ready: data loading is measured below."""
    shape = case.shape
    keep_memory()
    if case.provider != "auto":
        monkeypatch.setenv(VARIABLE, "reference")
        # PyTorch's own dropout, which is faster than counters in PyTorch's integers
        monkeypatch.setattr(TransformerSL, "_dropper", lambda model, rows, dropout: model.dropout)
    task = task_of(shape.model, random_clips(2 * CLASSES), shape.batch, frames=shape.frames)
    task.model.to(case.device).train()
    batch = task.batch(0).to(case.device)
    optimizer = build_optimizer(task.model, TRAIN)
    parameters = list(task.model.parameters())
    if case.provider == "compile":
        task.network = torch.compile(task.model, dynamic=False)

    def step() -> None:
        task.batch_loss(batch).backward()
        clip_gradients(parameters, TRAIN.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


@pytest.mark.cases("step training")
def bench_step(case, measure, monkeypatch):
    measure(setup_step(case, monkeypatch))


class FourFiles(Dataset):
    """A clip as four .npy files, one a part of the body, opened clip by clip as the authors' code does.

    Generous to them: the files hold the landmarks of the layout only and lie in the page cache, and preprocessing
    steps 1 to 4 are done. What is left is to read, join, window and standardise.
    """

    def __init__(self, clips: Clips, folder: Path, mode: str, frames: int, statistics):
        self.label, self.mode, self.frames = clips.label.numpy(), mode, frames
        self.mean, self.std = statistics.mean.numpy(), statistics.std.numpy()
        self.folders = [folder / part.name for part in LAYOUT.parts]
        self.names = [f"{name}.npy" for name in clips.ids]
        for path, part in zip(self.folders, LAYOUT.slices.values(), strict=True):
            path.mkdir(parents=True, exist_ok=True)
            for i, name in enumerate(self.names):
                np.save(path / name, clips.clip(i)[:, part].numpy())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        clip = np.concatenate([np.load(folder / self.names[i]) for folder in self.folders], axis=1)  # (T,J,C)
        if self.mode == "resample":
            time = np.arange(self.frames) * (len(clip) - 1) / (self.frames - 1)
            low, high = np.floor(time).astype(np.int64), np.ceil(time).astype(np.int64)
            share = (time - low)[:, None, None].astype(np.float32)
            one, other = clip[low], clip[high]
            one, other = np.where(np.isnan(one), other, one), np.where(np.isnan(other), one, other)
            window = one + share * (other - one)
        else:
            begin = random.randrange(max(len(clip) - self.frames, 0) + 1)
            window = clip[begin + np.arange(self.frames) % (len(clip) - begin)]
        window = np.nan_to_num((window - self.mean) / self.std, nan=0.0)
        return torch.from_numpy(window.reshape(self.frames, -1)), int(self.label[i])


def setup_loading(case: Case, folder: Path) -> Callable[[], None]:
    """One epoch of batches: from `Clips` in memory or in a mapped file, as training takes them, or from four files a
    clip by a torch DataLoader."""
    shape = case.shape
    clips = random_clips(shape.clips)
    augment = AugmentConfig(rotation=5, scale=0.05) if shape.augment else None
    if case.provider == "mapped":
        file = folder / "frames.npy"
        np.save(file, clips.frames.numpy())
        clips = replace(clips, frames=HostFrames.of(np.load(file, mmap_mode="r")))
    task = task_of("transformer_sl", clips, shape.batch, shape.window, frames=shape.frames, augment=augment)
    steps = iter(range(1 << 30))
    if case.provider == "mapped":
        task._ready = None  # which would copy the file to memory: this measures a store that does not fit
    if case.provider in ("memory", "mapped"):

        def epoch() -> None:
            for _ in range(shape.clips // shape.batch):
                task.batch(next(steps))

        return epoch
    data = FourFiles(clips, folder, shape.window, shape.frames, task.statistics)
    if shape.window == "resample":
        _require_same(data, clips, task)
    workers = WORKERS if case.provider == "files_workers" else 0
    loader = DataLoader(data, shape.batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def files() -> None:
        for _ in loader:
            pass

    return files


def _require_same(data: FourFiles, clips: Clips, task) -> None:
    """Both ways must give the model the same numbers."""
    ours = next(evaluation_batches(clips.subset(range(8)), task.window, task.statistics, 8))
    theirs = torch.stack([data[i][0] for i in range(8)])
    torch.testing.assert_close(theirs, ours.x, rtol=1e-3, atol=1e-4)


@pytest.mark.cases("loading forward")
def bench_loading(case, measure, tmp_path):
    measure(setup_loading(case, tmp_path))
