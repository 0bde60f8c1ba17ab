"""The linear model that stands beside the classifiers: what landmark positions alone are worth, without a network.

Features of a clip: x and y of seven pose points (nose, shoulders, elbows, wrists) and of both hands in twelve evenly
spaced frames, minus the frame's shoulder midpoint, divided by its shoulder width; a missing point is 0. Then PCA (at
most 120 components) and linear discriminant analysis with Ledoit-Wolf shrinkage. It reads landmarks as the detector
gave them, so it is measured on a raw store; a centred layout has no nose, and the row's signature says so.
"""

from collections.abc import Sequence

import numpy as np
import torch

from handcraft.data.clips import Clips
from handcraft.data.store import Store
from handcraft.errors import DataError
from handcraft.layouts import LEFT_SHOULDER, NOSE, RIGHT_SHOULDER, Layout
from handcraft.layouts import layout as find_layout
from handcraft.metrics.accuracy import accuracy

TIMES = 12
COMPONENTS = 120
POSE = (NOSE, LEFT_SHOULDER, RIGHT_SHOULDER, 13, 14, 15, 16)  # then elbows and wrists, left before right
_NARROWEST = 1e-6  # shoulder width below which dividing by it is meaningless


def linear_baseline(
    source: Store | Clips, train: Sequence[int] | np.ndarray, test: Sequence[int] | np.ndarray, *, split: str = "test"
) -> dict:
    """Fit on the clips `train`, score the clips `test` (positions in `source`): `accuracy`'s row with `model` and
    `points` added. `DataError` for an empty split, a single class, or a clip without visible shoulders."""
    # scikit-learn takes a second to import and nothing else here needs it.
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    classes, label, layout = _describe(source)
    train, test = np.asarray(train, dtype=np.int64), np.asarray(test, dtype=np.int64)
    known = np.unique(label[train])
    if len(known) < 2:
        raise DataError(f"the linear model needs training clips of at least two classes, found {len(known)}")
    fitted, held_out = linear_features(source, train), linear_features(source, test)
    # Centred on their mean, n clips span n - 1 directions.
    components = min(COMPONENTS, len(train) - 1, fitted.shape[1])
    pca = PCA(components, svd_solver="full").fit(fitted)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(pca.transform(fitted), label[train])
    scores = torch.full((len(test), len(classes)), -torch.inf, dtype=torch.float64)
    if len(test):
        scores[:, known] = torch.from_numpy(lda.predict_log_proba(pca.transform(held_out)))
    row = accuracy(scores, torch.from_numpy(label[test]), classes, split=split)
    points = f"{len(_pose(layout))} pose and 42 hand points of {layout.name}"
    signature = f"|linear:{points} x {TIMES} times, PCA {components}, shrinkage LDA"
    row["signatures"] = {name: text + signature for name, text in row["signatures"].items()}
    return {"model": "linear", "points": points, **row}


def linear_features(source: Store | Clips, index: Sequence[int] | np.ndarray) -> np.ndarray:
    """Features (len(index), TIMES * points * 2) float64 of the clips `index`; 0 where a point is missing."""
    _, _, layout = _describe(source)
    pose, slices = _pose(layout), layout.slices
    chosen = [layout.position("pose", i) for i in pose]
    chosen += [j for hand in ("left_hand", "right_hand") for j in range(slices[hand].start, slices[hand].stop)]
    left, right = pose.index(LEFT_SHOULDER), pose.index(RIGHT_SHOULDER)
    features = np.empty((len(index), TIMES * len(chosen) * 2))
    for row, i in enumerate(index):
        landmarks = _landmarks(source, i)
        times = np.linspace(0, len(landmarks) - 1, TIMES).round().astype(np.int64)
        points = landmarks[times][:, chosen, :2].astype(np.float64)
        width = np.linalg.norm(points[:, left] - points[:, right], axis=-1)
        width[width < _NARROWEST] = np.nan  # seen exactly from the side: a frame without a scale
        if np.isnan(width).all():
            raise DataError(
                f"clip {source.ids[i]}: no frame shows both shoulders, so the linear model cannot scale it; "
                "leave the clip out"
            )
        points -= points[:, [left, right]].mean(1, keepdims=True)
        features[row] = np.nan_to_num(points / width[:, None, None]).ravel()
    return features


def _pose(layout: Layout) -> tuple[int, ...]:
    stored = next(part.indices for part in layout.parts if part.name == "pose")
    return tuple(i for i in POSE if i in stored)


def _describe(source: Store | Clips) -> tuple[tuple[str, ...], np.ndarray, Layout]:
    if isinstance(source, Clips):
        return source.classes, source.label.cpu().numpy(), find_layout(source.layout)
    return source.classes, source.labels, find_layout(source.manifest.layout)


def _landmarks(source: Store | Clips, i: int) -> np.ndarray:
    return source.clip(i).cpu().numpy() if isinstance(source, Clips) else source.landmarks(int(i))
