"""Clips as points of a space in which likeness can be measured: what a fixed classifier makes of a clip, or principal
components of its poses where there is none.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from handcraft.checkpoint import Checkpoint
from handcraft.config import WindowConfig
from handcraft.data.batches import evaluation_batches
from handcraft.data.clips import Clips
from handcraft.data.statistics import compute
from handcraft.data.window import windows
from handcraft.errors import CheckpointError
from handcraft.match import require_classifier, require_data

FRAMES = 32
COMPONENTS = 64
WINDOW = WindowConfig(frames=FRAMES, mode="resample")
"""Clips of any length are compared on one clock: 32 frames over the whole clip."""
_BATCH = 256


@dataclass(frozen=True)
class Features:
    """A feature space: `name` says which, `of` maps clips to (N,F) float64."""

    name: str
    of: Callable[[Clips], np.ndarray]


def classifier_features(checkpoint: Checkpoint) -> Features:
    """What the classifier's head sees of a clip: the normalised [CLS] token, F = its width.

    The classifier's own window and statistics are used. `CheckpointError`: clips of another preprocessing than its own,
    or features that are not finite.
    """
    require_classifier(checkpoint)

    @torch.inference_mode()
    def of(clips: Clips) -> np.ndarray:
        require_data(checkpoint, clips)
        seen: list[Tensor] = []
        hook = checkpoint.model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            for part in evaluation_batches(clips, checkpoint.window, checkpoint.statistics, _BATCH):
                checkpoint.model.eval()(part.x, part.valid.sum(1))
        finally:
            hook.remove()
        features = torch.cat(seen).double()
        if not features.isfinite().all():
            raise CheckpointError(
                f"{checkpoint.path}: makes features that are not finite of some of the {len(clips)} clips; use another "
                "checkpoint"
            )
        return features.numpy()

    return Features(f"{checkpoint.kind} {checkpoint.sha256[:12]}", of)


def pose_features(real: Clips) -> Features:
    """The first 64 principal components of the standardised 32-frame windows of `real`, missing values at the mean."""
    statistics = compute(real)

    def flat(clips: Clips) -> np.ndarray:
        parts = [part.x.flatten(1) for part in evaluation_batches(clips, WINDOW, statistics, _BATCH)]
        return torch.cat(parts).double().numpy()

    pca = PCA(n_components=min(COMPONENTS, len(real) - 1), svd_solver="full" if len(real) < 500 else "randomized")
    pca.set_params(random_state=0).fit(flat(real))
    return Features(f"{pca.n_components} principal components of the poses", lambda clips: pca.transform(flat(clips)))


def pose_windows(clips: Clips) -> Tensor:
    """All clips on the common clock: (N,32,J,C) float32 in the clips' centred unit, NaN = missing."""
    index = torch.arange(len(clips))
    return torch.cat([windows(clips, part, WINDOW)[0].float() for part in index.split(_BATCH)])
