"""Transformer-SL (docs/method.md): DCT or frame tokens, a learned [CLS] in front, a small pre-norm encoder, a head."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handcraft.config import TransformerSLConfig
from handcraft.kernels import philox
from handcraft.kernels.modules import DCTLinear
from handcraft.models.head import ClassificationHead
from handcraft.models.velocity import frame_size, with_velocity

Drop = Callable[[Tensor], Tensor]


class EncoderLayer(nn.TransformerEncoderLayer):
    """torch's pre-norm layer, with its parameters, names and initialisation; the caller says what drops out."""

    def forward(self, x: Tensor, padding: Tensor | None, drop: Drop) -> Tensor:
        """x (B,L,H); padding (B,L) bool, True for keys that nobody may look at -> (B,L,H)."""
        x = x + drop(self._attend(self.norm1(x), padding, drop))
        return x + drop(self.linear2(drop(F.gelu(self.linear1(self.norm2(x))))))

    def _attend(self, x: Tensor, padding: Tensor | None, drop: Drop) -> Tensor:
        own, (batch, length, width) = self.self_attn, x.shape
        projected = F.linear(x, own.in_proj_weight, own.in_proj_bias).view(batch, length, 3, own.num_heads, -1)
        q, k, v = projected.permute(2, 0, 3, 1, 4).contiguous()  # (B,heads,L,H/heads) each
        weight = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # (B,heads,L,L)
        if padding is not None:
            weight = weight.masked_fill(padding[:, None, None], -torch.inf)
        mixed = drop(weight.softmax(3)) @ v
        return own.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class TransformerSL(nn.Module):
    """Window (B,T,D) of standardised landmarks, missing ones 0 -> logits (B,classes).

    tokens="dct": every token is one DCT coefficient of the whole window, so no token can be padding and `lengths` is
    not looked at (docs/method.md). tokens="frames": tokens are frames; those from `lengths[b]` on are masked as keys,
    and what they hold cannot change the logits.
    """

    def __init__(self, config: TransformerSLConfig):
        super().__init__()
        self.config = config
        transform = "dct" if config.tokens == "dct" else "none"
        self.embedding = DCTLinear(
            frame_size(config.dim, config.velocity),
            config.width,
            bias=False,
            cls="first",
            position=config.frames,
            transform=transform,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(
                config.width,
                config.heads,
                config.mlp,
                config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = ClassificationHead(config.width, config.head, config.classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None, dropout: tuple[int, Tensor] | None = None) -> Tensor:
        """x (B,T,D); lengths (B,) valid frames of each window, all when None -> logits (B,classes).

        dropout: (seed, sample_id (B,) int64), which decide what drops out of each sample in training, whatever batch or
        process it is in; by default torch's generator decides.
        """
        if self.config.tokens == "dct":
            lengths = None
        tokens = self.embedding(with_velocity(x, self.config.velocity), lengths=lengths)  # (B,T+1,H)
        drop = self._dropper(tokens.shape[1], dropout)
        tokens = drop(tokens)
        padding = None
        if lengths is not None:
            place = torch.arange(tokens.shape[1], device=x.device)
            padding = place > lengths[:, None]  # (B,T+1); row 0 is [CLS], so frame t is row t+1
        for layer in self.layers:
            tokens = layer(tokens, padding, drop)
        return self.head(self.norm(tokens[:, 0]))

    def _dropper(self, rows: int, dropout: tuple[int, Tensor] | None) -> Drop:
        """What is applied, in the order of the forward pass, wherever something may drop out."""
        config = self.config
        if dropout is None or not self.training or not config.dropout:
            return self.dropout
        tokens = rows * config.width
        sizes = [tokens, *config.layers * [config.heads * rows**2, tokens, rows * config.mlp, tokens]]
        kept = iter(philox.keep(*dropout, sum(sizes), config.dropout).split(sizes, dim=1))
        return lambda value: value * next(kept).view(value.shape).to(value.dtype)
