"""How spread out clips are, how much of the real ones synthetic clips cover, and whether they copy them."""

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

PAIRS = 20
"""Pairs drawn for each clip (diversity) or class (multimodality)."""
NEIGHBOURS = 5


def diversity(features: np.ndarray, generator: np.random.Generator) -> float:
    """Mean distance of random pairs among `features (N,F)`, N >= 2, of any class."""
    first = np.tile(np.arange(len(features)), PAIRS)
    second = (first + generator.integers(1, len(features), len(first))) % len(features)  # never the clip itself
    return float(np.linalg.norm(features[first] - features[second], axis=1).mean())


def multimodality(features: np.ndarray, label: np.ndarray, generator: np.random.Generator) -> float | None:
    """Mean over classes of the mean distance of random pairs within the class; None if no class has two clips."""
    means = [diversity(features[label == k], generator) for k in np.unique(label) if np.count_nonzero(label == k) > 1]
    return float(np.mean(means)) if means else None


def coverage(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Share of real clips (N,F) that have a synthetic one (M,F) among or nearer than their 5 nearest real ones
    (Naeem et al. 2020, arXiv 2002.09797); N > 5."""
    own = np.sort(cdist(real, real), axis=1)[:, NEIGHBOURS]  # column 0 is the clip itself
    return float((cdist(real, synthetic).min(1) <= own).mean())


def pose_distances(x: Tensor, y: Tensor) -> np.ndarray:
    """Root mean square distance per landmark of clips x (N,T,J,C) and y (M,T,J,C) on one clock -> (N,M) float64, in the
    unit of the coordinates; over the points that both show, infinite where there is none. NaN = missing."""
    axes = x.shape[-1]
    x, y = (clips.flatten(1).double() for clips in (x, y))
    seen_x, seen_y = ((~clips.isnan()).double() for clips in (x, y))
    x, y = (clips.nan_to_num(0.0) for clips in (x, y))
    square = x.square() @ seen_y.T + seen_x @ y.square().T - 2 * x @ y.T
    points = seen_x @ seen_y.T / axes
    return (square.clamp(min=0) / points).sqrt().nan_to_num(nan=torch.inf).numpy()


def nearest(distances: np.ndarray, *, leave_out_self: bool = False) -> np.ndarray:
    """Distance of each row to its nearest column; with `leave_out_self`, (N,N), its own column does not count."""
    if leave_out_self:
        distances = distances.copy()
        np.fill_diagonal(distances, np.inf)
    return distances.min(1)
