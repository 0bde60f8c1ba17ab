"""What is trained: the generator of either twin, and the two classifiers. The loop around them is `handcraft.engine`.

Both tasks take clips in memory, the training and validation clips as positions among them, and a recipe. Batches,
noise and initial weights are functions of the seed; validation sees every validation clip once, whole, unaugmented and
without noise (docs/method.md).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from handcraft import distributed
from handcraft.checkpoint import Checkpoint, load
from handcraft.clip_task import ClipTask, Positions
from handcraft.config import (
    AugmentConfig,
    GeneratorRecipe,
    MambaRecipe,
    TransformerRecipe,
    TransformerSLConfig,
)
from handcraft.data.batches import Batch
from handcraft.data.clips import Clips
from handcraft.data.statistics import Statistics
from handcraft.errors import CheckpointError, ConfigError
from handcraft.losses import motion_counts, motion_loss
from handcraft.metrics.motion import PointError, comparable
from handcraft.models.cmlpe import twin_view

_NEAR = 0.1  # deviation of new classes' embeddings around what a generator of other classes had learned


class GeneratorTask(ClipTask):
    """Train CMLPe to continue a window: its second half from its first, or with `reverse` the same on the clip played
    backwards. `statistics` replaces the training clips' own. The noise on the class embedding is counter-based.
    init_from: start from its weights, of the same twin and model; its classes may be others."""

    def __init__(
        self,
        clips: Clips,
        recipe: GeneratorRecipe,
        *,
        reverse: bool,
        train: Positions,
        valid: Positions,
        seed: int,
        statistics: Statistics | None = None,
        init_from: Checkpoint | None = None,
    ):
        if recipe.window.frames != 2 * recipe.model.context:
            raise ConfigError(
                f"generator: window.frames is {recipe.window.frames}; expected twice model.context "
                f"({recipe.model.context}), since one half is predicted from the other"
            )
        self.reverse = reverse
        super().__init__(
            clips,
            recipe,
            train,
            valid,
            seed,
            augment=recipe.augment,
            statistics=statistics,
            initial=init_from,
            seen=None,
        )

    def _check_initial(self, initial: Checkpoint) -> None:
        """The classes may be others: a generator can start from one that has seen another language, or no labels."""
        if initial.reverse != self.reverse:
            wanted, found = (("reversed" if reverse else "forward") for reverse in (self.reverse, initial.reverse))
            raise CheckpointError(f"{initial.path}: is the {found} generator; start from the {wanted} one")
        same = replace(initial, config=replace(initial.config, classes=len(self.clips.classes)))
        super()._check_initial(replace(same, classes=self.clips.classes))

    def _start_from(self, initial: Checkpoint) -> None:
        """All weights but, for other classes, the class embedding: it starts around the mean of the old one."""
        state = initial.model.state_dict()
        if initial.classes != self.clips.classes:
            fresh = self.model.class_embedding.detach()
            state |= {"class_embedding": state["class_embedding"].mean(0) + _NEAR * fresh}
        self.model.load_state_dict(state)

    def weights(self, batch: Batch) -> Tensor:
        return motion_counts(*self._target_masks(batch))

    def batch_loss(self, batch: Batch, weights: Tensor | None = None) -> Tensor:
        noise = self.model.draw_noise(self.seed, batch.sample_id, reverse=self.reverse)
        context, target = twin_view(batch.x, reverse=self.reverse)
        return motion_loss(self.network(context, batch.label, noise), target, *self._target_masks(batch), weights)

    def score(self, batches: list[Batch]) -> dict[str, float] | None:
        """`mpjpe`, the mean error per landmark in the clips' centred unit; the mask rule is `metrics.motion`'s."""
        error = PointError.empty(self.statistics.mean.shape[0])
        for batch in batches:
            context, target = twin_view(batch.x, reverse=self.reverse)
            predicted = self.network(context, batch.label)
            present, valid = (mask.flip(1) if self.reverse else mask for mask in (batch.present, batch.valid))
            error.update(
                self._landmarks(predicted), self._landmarks(target), comparable(present, valid, context.shape[1])
            )
        error.total, error.count = distributed.total(error.total), distributed.total(error.count)
        return None if error.value is None else {"mpjpe": error.value}

    def rank(self, metrics: dict[str, float]) -> tuple[float, ...]:
        return (metrics["mpjpe"],)

    def _target_masks(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`present` (B,M,J) and `valid` (B,M) of the frames that are predicted."""
        present, valid = (twin_view(mask, reverse=self.reverse)[1] for mask in (batch.present, batch.valid))
        return present, valid

    def _landmarks(self, x: Tensor) -> Tensor:
        """Standardised (B,M,D) -> centred coordinates (B,M,J,C)."""
        return self.statistics.unstandardise(x.unflatten(-1, tuple(self.statistics.mean.shape)))


class ClassifierTask(ClipTask):
    """Train Transformer-SL or Mamba-SL, whichever the recipe holds.

    augment: use the recipe's augmentation (random crops of longer clips in wrap and zero mode are part of windowing
    and always on). init_from: a checkpoint of the same model whose weights are the start, and whose statistics are
    used; optimiser and schedule are fresh. statistics: use these, as pretraining on synthetic clips does with the
    real training clips'. seen: digests of the real clips behind synthetic training clips (`seen_clips` of their store);
    by default the clips are real and count themselves. generators: SHA-256 of those behind synthetic training clips.
    """

    def __init__(
        self,
        clips: Clips,
        recipe: TransformerRecipe | MambaRecipe,
        *,
        train: Positions,
        valid: Positions,
        seed: int,
        augment: bool,
        init_from: Checkpoint | Path | str | None = None,
        statistics: Statistics | None = None,
        seen: Sequence[str] | None = None,
        generators: Sequence[str] = (),
    ):
        if recipe.window.frames != recipe.model.frames:
            raise ConfigError(
                f"classifier: window.frames is {recipe.window.frames}; expected model.frames ({recipe.model.frames})"
            )
        super().__init__(
            clips,
            recipe,
            train,
            valid,
            seed,
            augment=recipe.augment if augment else AugmentConfig(),
            statistics=statistics,
            initial=load(init_from) if isinstance(init_from, str | Path) else init_from,
            seen=seen,
            generators=generators,
        )

    def weights(self, batch: Batch) -> Tensor:
        return batch.label.new_tensor([len(batch)])

    def batch_loss(self, batch: Batch, weights: Tensor | None = None) -> Tensor:
        logits, smoothing = self._logits(batch), self.config.label_smoothing
        if weights is None:
            return F.cross_entropy(logits, batch.label, label_smoothing=smoothing)
        return F.cross_entropy(logits, batch.label, reduction="sum", label_smoothing=smoothing) / weights[0]

    def score(self, batches: list[Batch]) -> dict[str, float] | None:
        """`top1`, the share of clips recognised, and `loss`, the mean cross-entropy without label smoothing."""
        # The first pieces are empty: with fewer clips than processes, one of them has no batch.
        none = self.statistics.mean.new_empty(0, len(self.clips.classes))
        logits = torch.cat([none, *map(self._logits, batches)]).double()  # (N,classes)
        label = torch.cat([self.clips.label[:0], *(batch.label for batch in batches)])
        right, loss = (logits.argmax(1) == label).sum(), F.cross_entropy(logits, label, reduction="sum")
        right, loss, clips = distributed.total(torch.stack([right, loss, loss.new_tensor(len(label))])).tolist()
        return {"top1": right / clips, "loss": loss / clips}

    def rank(self, metrics: dict[str, float]) -> tuple[float, ...]:
        return (-metrics["top1"], metrics["loss"])

    def _logits(self, batch: Batch) -> Tensor:
        lengths = batch.valid.sum(1)
        if isinstance(self.model_config, TransformerSLConfig):
            return self.network(batch.x, lengths, (self.seed, batch.sample_id))
        return self.network(batch.x, lengths)
