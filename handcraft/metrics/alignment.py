"""Two recordings of one sign, compared frame by frame after dynamic time warping: DTW-MJE and PCK."""

import numpy as np
from dtaidistance import dtw, dtw_ndim

from handcraft.errors import DataError

THRESHOLD = 0.2
"""Of PCK, in the unit of the coordinates (shoulder widths with `centre: shoulder`)."""


def dtw_mje(x: np.ndarray, y: np.ndarray, threshold: float = THRESHOLD) -> tuple[float, float] | None:
    """Mean joint error and PCK of x (T,J,C) and y (S,J,C) after aligning them in time.

    The path is dtaidistance's: least sum of squared distances over all coordinates, where missing values are filled in
    from the frames around them (and a landmark never seen in one of the two plays no part). The error is the mean over
    the path's frame pairs and the landmarks that both show, of the Euclidean distance; PCK the share of these points
    nearer than `threshold`. None if the two show no landmark in common. `DataError`: shapes that do not fit.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 3 or x.shape[1:] != y.shape[1:] or not len(x) or not len(y):
        raise DataError(f"dtw_mje: shapes {x.shape} and {y.shape}; expected (T,J,C) and (S,J,C) with T, S >= 1")
    both = ~(np.isnan(x).any(2).all(0) | np.isnan(y).any(2).all(0))  # (J,)
    if not both.any():
        return None
    _, costs = dtw_ndim.warping_paths_fast(_filled(x[:, both]), _filled(y[:, both]))
    path = np.array(dtw.best_path(costs))  # (P,2)
    error = np.linalg.norm(x[path[:, 0]][:, both] - y[path[:, 1]][:, both], axis=2)  # (P,J)
    error = error[~np.isnan(error)]
    return (float(error.mean()), float((error < threshold).mean())) if len(error) else None


def _filled(x: np.ndarray) -> np.ndarray:
    """x (T,J,C) as (T,J*C), gaps filled linearly and ends with the nearest value seen; each landmark is seen once."""
    flat = x.reshape(len(x), -1).copy()
    for column in flat.T:
        seen = np.flatnonzero(~np.isnan(column))
        if len(seen) < len(column):
            column[:] = np.interp(np.arange(len(column)), seen, column[seen])
    return flat
