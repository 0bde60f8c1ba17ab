"""Small stores to draw: recorded clips, and synthetic ones that name them as their sources."""

import numpy as np

from handcraft.data.store import Store, StoreWriter
from handcraft.layouts import layout

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def person(frames=12, name="holistic75", aspect=1.0, seed=0) -> np.ndarray:
    """A raw clip (T,J,3) float32 of somebody whose right wrist goes up, as fractions of a picture of this aspect:
    shoulders a fifth of its height apart, in its middle."""
    rng = np.random.default_rng(seed)
    found = layout(name)
    clip = np.full((frames, found.landmarks, 3), 0.5) + rng.normal(0, 0.01, (frames, found.landmarks, 3))
    for part in found.parts:
        head = range(11) if part.name == "pose" else part.indices if part.name == "face" else ()
        clip[:, [found.position(part.name, index) for index in head if index in part.indices], 1] -= 0.15
    pose = {11: (0.6, 0.5), 12: (0.4, 0.5), 13: (0.65, 0.62), 14: (0.33, 0.62), 15: (0.66, 0.75)}
    pose |= {23: (0.57, 0.8), 24: (0.43, 0.8)}
    stored = next(part.indices for part in found.parts if part.name == "pose")
    for index in pose.keys() & set(stored):
        clip[:, found.position("pose", index), :2] = pose[index]
    wrist = np.stack([np.full(frames, 0.3), np.linspace(0.75, 0.4, frames)], axis=1)
    clip[:, found.position("pose", 16), :2] = wrist
    for hand, middle in (("right_hand", wrist), ("left_hand", np.array([[0.66, 0.75]]))):
        where = found.slices[hand]
        clip[:, where, :2] = middle[:, None] + rng.normal(0, 0.02, (1, 21, 2))
    clip[..., 0] = 0.5 + (clip[..., 0] - 0.5) / aspect
    return clip.astype(np.float32)


def write_recorded(path, classes=("no", "yes"), clips=3, frames=12, name="holistic75", **options) -> Store:
    """A raw store with `clips` clips of each class; clip k of class c is c-k, by signer k, the last one marked test."""
    with StoreWriter(path, layout=name, stage="raw", classes=classes, **options) as writer:
        for c, label in enumerate(classes):
            for k in range(clips):
                clip = person(frames + k, name, seed=100 * c + k)
                clip[: 3 * k, layout(name).slices["left_hand"]] = np.nan
                split = "test" if k == clips - 1 else "train"
                writer.add(clip, id=f"{c}-{k}", label=label, group=f"signer{k}", split=split)
    return Store(path)


def write_synthetic(path, real: Store, **changes) -> Store:
    """A centred store in which clip i says that it was made from clip i of `real`."""
    with StoreWriter(
        path, layout="pose_hands48", stage="centred", classes=real.classes, preprocessing="some", coordinates="xy"
    ) as writer:
        for i in range(len(real)):
            clip = np.random.default_rng(i).normal(0, 0.7, (8, 48, 2)).astype(np.float32)
            origin = {"source": real.ids[i].item(), "source_digest": f"{int(real.digests[i]):016x}"} | changes
            writer.add(clip, id=f"s{i}", label=real.classes[real.labels[i]], split="train", provenance=origin)
    return Store(path)
