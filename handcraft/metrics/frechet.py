"""Fréchet distance between two sets of features, as the FID of images and the FGD of gestures use it."""

import numpy as np
from numpy.linalg import eigvalsh

from handcraft.errors import DataError


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Fréchet (2-Wasserstein) distance of the Gaussians fitted to x (N,F) and y (M,F), N, M >= 2.

    |mean_x - mean_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^1/2) with the unbiased covariances S (Dowson and Landau 1982). The
    estimate grows as samples get few: compare figures of equal N and M only. `DataError`: shapes that do not fit.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise DataError(f"frechet_distance: shapes {x.shape} and {y.shape}; expected (N,F) and (M,F), N and M >= 2")
    offset = x.mean(0) - y.mean(0)
    # With X and Y centred and scaled, S_x = X'X: the eigenvalues of S_x S_y are the squared singular values of X Y',
    # so the trace of the root is the sum of singular values, and no root of a near-singular matrix is needed.
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    root = _nuclear_norm(x, y)
    return float(max(offset @ offset + (x * x).sum() + (y * y).sum() - 2 * root, 0.0))


def _nuclear_norm(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of the singular values of x y', from the smaller of the matrices that have them."""
    if min(len(x), len(y)) <= x.shape[1]:
        return float(np.linalg.svd(x @ y.T, compute_uv=False).sum())
    # S_y = R R'; then R' S_x R is symmetric and has the eigenvalues of S_x S_y.
    triangle = np.linalg.qr(y, mode="r")  # y'y = r'r
    return float(np.sqrt(np.clip(eigvalsh(triangle @ (x.T @ x) @ triangle.T), 0, None)).sum())
