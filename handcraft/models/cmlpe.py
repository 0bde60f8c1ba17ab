"""CMLPe, the class-conditional generator (docs/method.md), and how a window becomes its input and target."""

import torch

from handcraft.config import CMLPeConfig
from handcraft.kernels import modules, philox


class CMLPe(modules.CMLPe):
    """`handcraft.kernels.modules.CMLPe` built from its config; state-dict names are those of `CMLPeParams`."""

    def __init__(self, config: CMLPeConfig):
        super().__init__(
            config.classes,
            config.dim,
            context=config.context,
            blocks=config.blocks,
            embedding=config.embedding,
            adaln_zero=config.adaln_zero,
        )
        self.config = config

    def draw_noise(self, seed: int, sample_id: torch.Tensor, *, reverse: bool) -> torch.Tensor:
        """Noise on the class embedding, s * eps: (B,K,E) float32, a function of (seed, sample_id (B,) int64) alone."""
        stream = philox.STREAM_REVERSED if reverse else philox.STREAM_FORWARD
        return self.config.noise * philox.normal(seed, sample_id, stream, self.config.blocks, self.config.embedding)


def twin_view(window: torch.Tensor, *, reverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a window (B,2M,...) along time into context and target (B,M,...) of one twin.

    Forward: frames 0..M-1 and M..2M-1. Reversed: the clip played backwards, frames 2M-1..M and M-1..0.
    """
    if reverse:
        window = window.flip(1)
    half = window.shape[1] // 2
    return window[:, :half], window[:, half:]
