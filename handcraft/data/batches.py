"""Batches for training and evaluation.

Training batch n is a pure function of (clips, configs, seed, n): no state to save, and a resumed run sees the same
batches. Classes are drawn uniformly, then a clip of the class, so rare signs count as much as frequent ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from handcraft.config import AugmentConfig, WindowConfig
from handcraft.data.augment import draw_turns, sub_windows
from handcraft.data.clips import Clips, Motion
from handcraft.data.statistics import Statistics
from handcraft.data.window import windows
from handcraft.distributed import WHOLE, Share
from handcraft.errors import ConfigError, DataError
from handcraft.kernels import philox


@dataclass(frozen=True, eq=False)
class Batch:
    """What a model and its loss need of B windows."""

    x: Tensor
    """(B,W,D) float32, standardised; 0 where missing or padding. D = J*C."""
    present: Tensor
    """(B,W,J) bool, False where missing or padding."""
    valid: Tensor
    """(B,W) bool, False where padding."""
    label: Tensor
    """(B,) int64."""
    index: Tensor
    """(B,) int64, position in the clips."""
    sample_id: Tensor
    """(B,) int64, counter of the sample's random numbers."""

    def __len__(self) -> int:
        return len(self.label)

    def take(self, where: slice | Tensor) -> "Batch":
        """The samples at `where`: a slice, or positions (n,) int64."""
        return replace(self, **{field.name: getattr(self, field.name)[where] for field in fields(self)})

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def sample_ids(step: int, batch: int, share: Share = WHOLE) -> Tensor:
    """Counters of the samples of training step `step`, or of a share of them: step * batch + i for sample i, int64."""
    if batch < 1 or step < 0:
        raise ConfigError(f"batch is {batch} and step {step}; expected a batch of at least 1 and a step of at least 0")
    return step * batch + torch.arange(batch)[share.of(batch)]


def sample_batch(step: int, batch: int, seed: int, clips: Clips, share: Share = WHOLE) -> tuple[Tensor, Tensor]:
    """Balanced draw for training step `step` -> index (B,) and sample_id (B,), int64, of this share of the batch.

    Sample i of the batch has sample_id = step * batch + i; its class and its clip within the class are each uniform,
    from the Philox stream for batch sampling. `DataError` names a class without clips.
    """
    sample_id = sample_ids(step, batch, share).to(clips.start.device)
    order, first, count = clips.by_class
    if not bool((count > 0).all()):
        empty = [clips.classes[i] for i in (count == 0).nonzero().flatten().tolist()]
        raise DataError(
            f"{len(empty)} of {len(clips.classes)} classes have no clip to sample: {', '.join(empty[:10])}; add "
            "clips or leave these classes out of the data"
        )
    words = philox.words(seed, sample_id, philox.STREAM_BATCH, 0, 1)[:, 0]  # (B,4)
    label = philox.integers(words[:, 0], len(clips.classes))
    return order[first[label] + philox.integers(words[:, 1], count[label])], sample_id


def training_batch(
    clips: Clips,
    step: int,
    *,
    batch: int,
    seed: int,
    window: WindowConfig,
    statistics: Statistics,
    augment: AugmentConfig | None = None,
    share: Share = WHOLE,
) -> Batch:
    """The balanced, augmented batch of training step `step`, or a share of it. Without `augment` only longer clips'
    crops are random."""
    index, sample_id = sample_batch(step, batch, seed, clips, share)
    augment = AugmentConfig() if augment is None else augment
    begin, span = sub_windows(clips.length[index], augment, window, seed, sample_id)
    turns = draw_turns(augment, seed, sample_id)
    return assemble(clips, index, clips.label[index], sample_id, window, statistics, begin, span, turns)


def evaluation_batches(
    clips: Clips, window: WindowConfig, statistics: Statistics, batch: int, share: Share = WHOLE
) -> Iterator[Batch]:
    """Every clip (of this share of them) once, in order, without augmentation; the last batch may be shorter.
    sample_id is the position."""
    if batch < 1:
        raise ConfigError(f"batch is {batch}; expected at least 1")
    for index in torch.arange(len(clips), device=clips.start.device)[share.of(len(clips))].split(batch):
        if len(index):
            yield assemble(clips, index, clips.label[index], index, window, statistics)


def assemble(
    clips: Motion,
    index: Tensor,
    label: Tensor,
    sample_id: Tensor,
    window: WindowConfig,
    statistics: Statistics,
    begin: Tensor | None = None,
    span: Tensor | None = None,
    turns: Tensor | None = None,
) -> Batch:
    """Steps 5 and 6, and augmentation between them: the batch of the clips at `index`, which have these labels.

    begin, span: what each window reads, see `windows`; turns: from `draw_turns`. All (B, ...).
    """
    present = torch.empty(len(index), window.frames, clips.frames.shape[1], dtype=torch.bool, device=index.device)
    x, valid = windows(clips, index, window, begin, span, turns=turns, statistics=statistics, present=present)
    return Batch(x.flatten(2), present, valid, label, index, sample_id)
