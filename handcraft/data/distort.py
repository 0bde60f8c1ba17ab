"""Augmentation beyond rotation and scale, on batches that are standardised already: windows seen in a mirror, sheared,
with noise on their landmarks, without a hand.

Random numbers come from the Philox streams for augmentation (block 1) and for jitter with the sample's own counter, so
that a sample is distorted alike whatever batch, worker or device it is in.
"""

from dataclasses import replace

import torch
from torch import Tensor

from handcraft.config import AugmentConfig
from handcraft.data.batches import Batch
from handcraft.data.statistics import Statistics
from handcraft.kernels import philox
from handcraft.layouts import layout as find_layout

HANDS = ("right_hand", "left_hand")


def distorts(config: AugmentConfig) -> bool:
    """Whether `distort` would change anything."""
    return bool(config.mirror or config.shear or config.jitter or config.drop_hand)


def distort(batch: Batch, config: AugmentConfig, statistics: Statistics, layout: str, seed: int) -> Batch:
    """Mirror, shear, jitter and drop hands, in this order, in the clips' centred unit.

    `batch` as `batches.assemble` makes it of clips in `layout`, with `statistics`; missing landmarks stay missing and
    0. Of the four uniform numbers of a sample the first decides on the mirror, the second is the shear in +- its
    limit, the others decide on the right and the left hand. Returns a new batch, or `batch` itself where all is off.
    """
    if not distorts(config):
        return batch
    u = philox.uniform(seed, batch.sample_id, philox.STREAM_AUGMENT, 1, 1)[:, 0]  # (B,4)
    present, found = batch.present, find_layout(layout)
    x = statistics.unstandardise(batch.x.unflatten(2, tuple(statistics.mean.shape)))  # (B,W,J,C)
    if config.mirror:
        other = torch.tensor(found.flip, device=x.device)
        seen_in_one = (u[:, 0] < config.mirror)[:, None, None]
        x = torch.where(seen_in_one[..., None], _negated(x[:, :, other]), x)
        present = torch.where(seen_in_one, present[:, :, other], present)
    if config.shear:
        x[..., 0] += ((2 * u[:, 1] - 1) * config.shear)[:, None, None] * x[..., 1]
    if config.jitter:
        frames, size = x.shape[1], x.shape[2] * x.shape[3]
        noise = philox.normal(seed, batch.sample_id, philox.STREAM_JITTER, frames, size)  # (B,W,J*C)
        x += config.jitter * noise.view(x.shape)
    if config.drop_hand:
        present = present.clone()
        for chance, hand in zip((u[:, 2], u[:, 3]), HANDS, strict=True):
            present[:, :, found.slices[hand]] &= (chance >= config.drop_hand)[:, None, None]
    return replace(batch, x=_masked(statistics.standardise(x), present), present=present)


def _negated(x: Tensor) -> Tensor:
    """x (B,W,J,C) with its first coordinate's sign changed, in place."""
    x[..., 0].neg_()
    return x


def _masked(x: Tensor, present: Tensor) -> Tensor:
    """x (B,W,J,C) with 0 where missing -> (B,W,D)."""
    return x.masked_fill_(~present[..., None], 0.0).flatten(2)
