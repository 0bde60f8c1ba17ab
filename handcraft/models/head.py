"""The classification head that both classifiers share."""

import torch
from torch import nn


class ClassificationHead(nn.Module):
    """Linear to `hidden`, tanh, Linear to `classes`; the last one starts at zero: all classes equally likely."""

    def __init__(self, width: int, hidden: int, classes: int):
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, classes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B,H) -> logits (B,classes)."""
        return self.out(torch.tanh(self.hidden(x)))
