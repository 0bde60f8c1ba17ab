"""Mamba-SL (docs/method.md): DCT or frame tokens, [CLS] last (a causal model must have seen all), Mamba-1 blocks."""

import math

import torch
from torch import nn

from handcraft.config import MambaSLConfig
from handcraft.kernels.modules import DCTLinear, MambaBlock
from handcraft.models.head import ClassificationHead
from handcraft.models.velocity import frame_size, with_velocity


class MambaSL(nn.Module):
    """Window (B,T,D) of standardised landmarks, missing ones 0 -> logits (B,classes).

    tokens="dct": `lengths` is not looked at and [CLS] is row T. tokens="frames": [CLS] sits right after
    each clip's last frame, row `lengths[b]`; the rows behind it come later in a causal model and cannot change it.
    Norms and the residual stream are fp32 also under autocast.
    """

    def __init__(self, config: MambaSLConfig):
        super().__init__()
        self.config = config
        transform = "dct" if config.tokens == "dct" else "none"
        dim = frame_size(config.dim, config.velocity)
        self.embedding = DCTLinear(dim, config.width, bias=True, cls="last", transform=transform)
        self.norms = nn.ModuleList(nn.RMSNorm(config.width, eps=1e-5) for _ in range(config.layers))
        self.blocks = nn.ModuleList(
            MambaBlock(config.width, state=config.state, conv=config.conv, expand=config.expand)
            for _ in range(config.layers)
        )
        # As mamba-ssm: a residual stream that sums the outputs of several blocks starts with unit-size sums.
        with torch.no_grad():
            for block in self.blocks:
                block.out_proj.weight /= math.sqrt(config.layers)
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.head = ClassificationHead(config.width, config.head, config.classes)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """x (B,T,D); lengths (B,) valid frames of each window, all when None -> logits (B,classes)."""
        if self.config.tokens == "dct":
            lengths = None
        residual = self.embedding(with_velocity(x, self.config.velocity), lengths=lengths).float()  # (B,T+1,H)
        if lengths is None:
            lengths = torch.full((len(x),), x.shape[1], device=x.device)
        cls = lengths.long()  # (B,) row of [CLS]
        for norm, block in zip(self.norms[:-1], self.blocks[:-1], strict=True):
            residual = block(residual, norm=norm.weight)
        # of the last block nothing but the row of [CLS] is read
        last = self.blocks[-1](residual, at=cls, norm=self.norms[-1].weight)  # (B,H)
        return self.head(self.norm(last))
