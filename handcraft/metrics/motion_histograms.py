"""Do synthetic clips move like real ones? Distributions of speed, acceleration and bone length, landmark by landmark,
as histograms a clip that add up to those of any set of clips.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from handcraft.layouts import Layout
from handcraft.render.skeleton import skeleton

BINS = 32
_FEW = 100  # values of a landmark below which its distribution is not compared


@dataclass(frozen=True)
class Histograms:
    """`counts (N,K,BINS)` int64 of N clips, K landmarks or bones."""

    counts: np.ndarray

    def of(self, index: np.ndarray) -> np.ndarray:
        """The histograms (K,BINS) of the clips at `index` together."""
        return self.counts[index].sum(0)


def speeds(windows: Tensor) -> Tensor:
    """Displacement per frame (N,T-1,J) of `windows (N,T,J,C)`; NaN where the landmark is missing on either side."""
    return torch.linalg.vector_norm(windows.diff(dim=1), dim=-1)


def accelerations(windows: Tensor) -> Tensor:
    """Norm of the second difference (N,T-2,J), per frame squared."""
    return torch.linalg.vector_norm(windows.diff(n=2, dim=1), dim=-1)


def bones(layout: Layout) -> list[tuple[int, int]]:
    """Pairs of landmarks (places on the layout's axis) that a line of the skeleton joins, each once."""
    pairs = {tuple(sorted(pair)) for line in skeleton(layout).lines for pair in itertools.pairwise(line.points)}
    return sorted(pairs)


def bone_lengths(windows: Tensor, layout: Layout) -> Tensor:
    """Length (N,T,bones) of each bone in the coordinates at hand: in the picture's plane where those are x and y."""
    first, second = (list(side) for side in zip(*bones(layout), strict=True))
    return torch.linalg.vector_norm(windows[:, :, first] - windows[:, :, second], dim=-1)


def edges(values: Tensor) -> np.ndarray:
    """Inner bin edges (K,BINS-1) for `values (N,T,K)`: quantiles, so that each bin holds as many of these values."""
    flat = values.flatten(0, 1).double().numpy()  # (N*T,K)
    share = np.linspace(0, 1, BINS + 1)[1:-1]
    with np.errstate(all="ignore"):
        return np.stack([_quantiles(column[np.isfinite(column)], share) for column in flat.T])


def histograms(values: Tensor, inner: np.ndarray) -> Histograms:
    """Count `values (N,T,K)`, NaN left out, into the bins between the inner edges (K,BINS-1)."""
    clips, _, columns = values.shape
    place = torch.searchsorted(
        torch.from_numpy(inner), values.double().permute(2, 0, 1).reshape(columns, -1).contiguous()
    ).view(columns, clips, -1)  # (K,N,T); NaN sorts last
    seen = ~values.isnan().permute(2, 0, 1)
    counts = torch.zeros(columns, clips, BINS, dtype=torch.int64)
    counts.scatter_add_(2, place.clamp(max=BINS - 1), seen.long())
    return Histograms(counts.permute(1, 0, 2).contiguous().numpy())


def kl_divergence(real: np.ndarray, synthetic: np.ndarray) -> float | None:
    """Mean over the K rows of KL(real || synthetic) in nats, from histograms (K,BINS) of counts.

    Half a count is added to every bin (Jeffreys' prior), so that an empty bin is no infinity. Rows in which one of the
    two has fewer than 100 values are left out; None if that is all of them.
    """
    enough = (real.sum(1) >= _FEW) & (synthetic.sum(1) >= _FEW)
    if not enough.any():
        return None
    p, q = (_smoothed(counts[enough]) for counts in (real, synthetic))
    return float((p * np.log(p / q)).sum(1).mean())


def _smoothed(counts: np.ndarray) -> np.ndarray:
    padded = counts + 0.5
    return padded / padded.sum(1, keepdims=True)


def _quantiles(column: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.quantile(column, share) if len(column) else np.zeros(len(share))
