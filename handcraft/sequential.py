"""The sequential generator: how it is trained on its own roll-outs, and how it continues a clip for as long as it goes
on. Synthetic clips come from it as from the twins, see `handcraft.synthesis`.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from handcraft.checkpoint import Checkpoint
from handcraft.config import GeneratorRecipe, SequentialConfig
from handcraft.data.batches import Batch
from handcraft.data.clips import Clips
from handcraft.data.statistics import Statistics
from handcraft.errors import ConfigError, DataError
from handcraft.kernels import philox
from handcraft.losses import motion_counts, motion_loss
from handcraft.match import as_checkpoint
from handcraft.tasks import GeneratorTask

LONGEST = 4096
"""Frames after which `extend` stops, whatever the learned end says."""


def sequential_config(recipe: GeneratorRecipe) -> SequentialConfig:
    """The model of a recipe with `method: sequential`."""
    return SequentialConfig(**asdict(recipe.model), step=recipe.step, rollout=recipe.rollout)


class SequentialTask(GeneratorTask):
    """Train the sequential generator on its own roll-outs.

    A sample is a window with its context anywhere in it, drawn by counter (Philox stream 4, block 1): `rollout` times
    `step` frames are predicted, each time from what was predicted before, and the gradient goes through all of it. What
    lies beyond the window's end is not compared; that the sign has ended there is what the model of the end learns.
    """

    def __init__(
        self,
        clips: Clips,
        recipe: GeneratorRecipe,
        *,
        reverse: bool,
        train: Sequence[int] | np.ndarray,
        valid: Sequence[int] | np.ndarray,
        seed: int,
        statistics: Statistics | None = None,
        init_from: Checkpoint | None = None,
    ):
        super().__init__(
            clips,
            replace(recipe, model=sequential_config(recipe)),
            reverse=reverse,
            train=train,
            valid=valid,
            seed=seed,
            statistics=statistics,
            init_from=init_from,
        )

    def weights(self, batch: Batch) -> Tensor:
        _, _, present, valid, _ = self._roll(batch)
        counts = motion_counts(present, valid)
        return torch.cat([counts, counts.new_tensor([len(batch) * self.model_config.rollout])])

    def batch_loss(self, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """The motion loss over the roll-out, plus the mean cross-entropy of the end over its steps."""
        weights = self.weights(batch) if weights is None else weights
        context, target, present, valid, ended = self._roll(batch)
        noise = self.model.draw_noise(self.seed, batch.sample_id, reverse=self.reverse)
        made, ends = self.network(context, batch.label, noise, target.shape[1], True)
        wrong = F.binary_cross_entropy_with_logits(ends, ended, reduction="sum") / weights[2].clamp(min=1)
        return motion_loss(made, target, present, valid, weights[:2]) + wrong

    def _roll(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Context (B,M,D), target (B,R*x,D), its `present` (B,R*x,J) and `valid` (B,R*x), and whether the sign ends in
        each step or has ended (B,R) float32."""
        config, frames = self.model_config, self.window.frames
        x, present, valid = (
            tensor.flip(1) if self.reverse else tensor for tensor in (batch.x, batch.present, batch.valid)
        )
        word = philox.words(self.seed, batch.sample_id, philox.STREAM_AUGMENT, 1, 1)[:, 0, 0]
        begin = philox.integers(word, torch.full_like(batch.label, frames - config.context + 1))
        length = config.context + config.step * config.rollout
        place = begin[:, None] + torch.arange(length + 1, device=x.device)  # (B,M+R*x+1), one more to see the end
        inside = place < frames
        place = place.clamp(max=frames - 1)
        x = x.gather(1, place[:, :-1, None].expand(-1, -1, x.shape[2]))
        present = present.gather(1, place[:, :-1, None].expand(-1, -1, present.shape[2]))
        valid = valid.gather(1, place) & inside
        context, target = x[:, : config.context], x[:, config.context :]
        goes_on = (valid[:, config.context : -1] & valid[:, config.context + 1 :]).unflatten(1, (config.rollout, -1))
        ended = ~goes_on.all(2)  # the clip's last frame is among the step's, or lies before
        valid = valid[:, :-1]
        return context, target, present[:, config.context :], valid[:, config.context :], ended.float()


@torch.no_grad()
def extend(
    checkpoint: Checkpoint | str, context: np.ndarray, label: str, *, frames: int | None = None, seed: int = 0
) -> np.ndarray:
    """Continue one clip: context (T,J,C) centred landmarks, T >= M, NaN = missing -> the new frames (n,J,C) float32.

    frames: how many; None: until the learned end, which is looked at before each step, at most `LONGEST` in all.
    label: name of the sign. A reversed generator continues to the past: the last frame returned is the one furthest
    back. `ConfigError`: another kind of checkpoint, or a number out of range; `DataError`: an unknown sign, another
    layout, or too few frames.
    """
    checkpoint = as_checkpoint(checkpoint)
    if not isinstance(checkpoint.config, SequentialConfig):
        raise ConfigError(f"{checkpoint.path}: holds a {checkpoint.kind}; expected a sequential generator")
    if label not in checkpoint.classes:
        raise DataError(f"extend: sign {label!r} is not one of the {len(checkpoint.classes)} of {checkpoint.path}")
    model, config, statistics = checkpoint.model.eval(), checkpoint.config, checkpoint.statistics
    given = torch.as_tensor(np.asarray(context, np.float32))
    if given.ndim != 3 or given.shape[1:] != statistics.mean.shape or len(given) < config.context:
        raise DataError(
            f"extend: the context has shape {tuple(given.shape)}, expected (T,{statistics.mean.shape[0]},"
            f"{statistics.mean.shape[1]}) with T of at least {config.context}"
        )
    if frames is not None and not 1 <= frames <= LONGEST:
        raise ConfigError(f"extend: frames is {frames}; expected 1 to {LONGEST}")
    given = given.flip(0)[-config.context :] if checkpoint.reverse else given[-config.context :]
    x = statistics.standardise(given).flatten(1)[None]  # (1,M,D)
    index = torch.tensor([checkpoint.classes.index(label)])
    wanted, made = frames or LONGEST, []
    steps = -(-wanted // config.step)
    noise = model.draw_noise(seed, torch.zeros(1, dtype=torch.int64), reverse=checkpoint.reverse, steps=steps)
    for t in range(steps):
        last = frames is None and float(model.end(x, index)) > 0
        new = model(x, index, noise[:, t * config.blocks : (t + 1) * config.blocks], config.step)
        made.append(new)
        x = torch.cat([x, new], 1)[:, -config.context :]
        if last:
            break
    standard = torch.cat(made, 1)[0, :wanted].unflatten(1, tuple(statistics.mean.shape))
    return statistics.unstandardise(standard).numpy()
