"""The sequential generator: a few frames at a time from the M before them and the label, for as long as a sign lasts.

It is CMLPe, whose prediction is a drift from the last frame; of its M frames out only the first x are kept. They
become context, and the next x follow from them. Beside it a linear model says whether the sign has ended.
"""

import torch
from torch import Tensor, nn

from handcraft.config import SequentialConfig
from handcraft.kernels import philox
from handcraft.models.cmlpe import CMLPe


class Sequential(CMLPe):
    """CMLPe called again and again. Its parameters are those of `CMLPeParams` and of the linear model of the end:
    `end_weight (2D+E,)` on the last frame, the mean motion over the context and the class embedding, `end_bias (1,)`.
    """

    def __init__(self, config: SequentialConfig):
        super().__init__(config)
        self.end_weight = nn.Parameter(torch.zeros(2 * config.dim + config.embedding))
        self.end_bias = nn.Parameter(torch.zeros(1))

    def draw_noise(self, seed: int, sample_id: Tensor, *, reverse: bool, steps: int | None = None) -> Tensor:
        """Noise for `steps` steps (`rollout` of them by default), s * eps: (B,steps*K,E) float32, a function of (seed,
        sample_id (B,) int64) alone; block `t*K + k` of the counter is block k of step t."""
        stream = philox.STREAM_REVERSED if reverse else philox.STREAM_FORWARD
        blocks = self.config.blocks * (self.config.rollout if steps is None else steps)
        return self.config.noise * philox.normal(seed, sample_id, stream, blocks, self.config.embedding)

    def forward(
        self, x: Tensor, label: Tensor, noise: Tensor | None = None, frames: int | None = None, ends: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The next `frames` frames (M by default) of contexts x (B,M,D) standardised, label (B,) int64: (B,frames,D).

        noise: (B,S*K,E) for the S = ceil(frames / x) steps, already scaled; None: no noise. ends: return also (B,S)
        logits of "the sign ends in the frames of this step", which train the linear model of the end alone.
        """
        config = self.config
        frames = config.context if frames is None else frames
        steps = -(-frames // config.step)
        found, logits = [], []
        for t in range(steps):
            here = None if noise is None else noise[:, t * config.blocks : (t + 1) * config.blocks]
            if ends:
                logits.append(self.end(x, label))
            new = super().forward(x, label, here)[:, : config.step]  # (B,x,D)
            found.append(new)
            x = torch.cat([x[:, config.step :], new], 1) if config.step < config.context else new
        made = torch.cat(found, 1)[:, :frames] if found else x[:, :0]
        return (made, torch.stack(logits, 1)) if ends else made

    def end(self, x: Tensor, label: Tensor) -> Tensor:
        """Logits (B,) that the sign ends within the next x frames after the contexts x (B,M,D)."""
        motion = x.diff(dim=1).abs().mean(1) if x.shape[1] > 1 else torch.zeros_like(x[:, 0])
        seen = torch.cat([x[:, -1], motion, self.class_embedding[label]], 1).detach()
        return seen @ self.end_weight + self.end_bias


def roll_both(
    models: tuple[Sequential, Sequential], window: Tensor, label: Tensor, clip_id: Tensor, seed: int
) -> Tensor:
    """Clips (B,W,D) from windows (B,W,D), both standardised, by the forward and the reversed sequential generator; the
    noise is a function of (seed, clip_id (B,)).

    The forward generator continues the first M frames of the window to its end; the reversed one continues the last M
    of these back to the beginning. So all frames are generated: the second half follows from the window's first half,
    and the first half from the second half that was made.
    """
    forward, reverse = models
    context, frames = forward.config.context, window.shape[1]
    steps = -(-(frames - context) // forward.config.step)
    noise = forward.draw_noise(seed, clip_id, reverse=False, steps=steps)
    second = forward(window[:, :context], label, noise, frames - context)  # (B,W-M,D)
    tail = torch.cat([window[:, :context], second], 1)[:, -context:]
    noise = reverse.draw_noise(seed, clip_id, reverse=True, steps=steps)
    first = reverse(tail.flip(1), label, noise, frames - context).flip(1)
    return torch.cat([first, tail], 1)
