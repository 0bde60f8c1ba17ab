"""Transformer-SL (DESIGN 4.3): DCT or frame tokens, a learned [CLS] in front, a small pre-norm encoder, a head."""

import torch
from torch import nn

from handcraft.config import TransformerSLConfig
from handcraft.kernels.modules import DCTLinear
from handcraft.models.head import ClassificationHead


class TransformerSL(nn.Module):
    """Window (B,T,D) of standardised landmarks, missing ones 0 -> logits (B,classes).

    tokens="dct": every token is one DCT coefficient of the whole window, so no token can be padding and `lengths` is
    not looked at (DESIGN 4.4.3). tokens="frames": tokens are frames; those from `lengths[b]` on are masked as keys,
    and what they hold cannot change the logits.
    """

    def __init__(self, config: TransformerSLConfig):
        super().__init__()
        self.config = config
        transform = "dct" if config.tokens == "dct" else "none"
        self.embedding = DCTLinear(
            config.dim, config.width, bias=False, cls="first", position=config.frames, transform=transform
        )
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
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

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """x (B,T,D); lengths (B,) valid frames of each window, all when None -> logits (B,classes)."""
        if self.config.tokens == "dct":
            lengths = None
        tokens = self.dropout(self.embedding(x, lengths=lengths))  # (B,T+1,H)
        padding = None
        if lengths is not None:
            place = torch.arange(tokens.shape[1], device=x.device)
            padding = place > lengths[:, None]  # (B,T+1); row 0 is [CLS], so frame t is row t+1
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=padding)
        return self.head(self.norm(tokens[:, 0]))
