"""Random clips in memory for the tests of windows, statistics and batches."""

import numpy as np
import torch

from handcraft.data.clips import Clips


def tiny_clips(lengths, labels=None, classes=3, missing=0.2, coordinates=3, seed=0) -> Clips:
    """Clips of layout `pose_hands48` with these lengths; each hand is missing in a share `missing` of the frames."""
    rng = np.random.default_rng(seed)
    rows = int(sum(lengths))
    frames = rng.normal(size=(rows, 48, coordinates)).astype(np.float32) + 0.5
    for hand in (slice(6, 27), slice(27, 48)):
        frames[rng.uniform(size=rows) < missing, hand] = np.nan
    length = torch.tensor(lengths, dtype=torch.int64)
    count = len(lengths)
    return Clips(
        frames=torch.from_numpy(frames),
        start=length.cumsum(0) - length,
        length=length,
        label=torch.arange(count) % classes if labels is None else torch.tensor(labels),
        ids=np.array([f"c{i}" for i in range(count)], dtype=str),
        group=np.array([""] * count),
        split=np.array(["train" if i % 3 else "test" for i in range(count)]),
        digest=np.arange(count, dtype=np.uint64),
        classes=tuple(f"sign{i}" for i in range(classes)),
        layout="pose_hands48",
    )
