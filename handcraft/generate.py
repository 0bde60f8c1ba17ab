"""Synthetic clips from the twin generators: real windows in, a store of generated clips out.

What clip number i (`clip_id`) of a store is made of, `handcraft.synthesis` says. Batch size changes nothing, not one
byte.
"""

import json
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

import handcraft
from handcraft.checkpoint import Checkpoint
from handcraft.data.clips import Clips
from handcraft.data.preprocess import signature
from handcraft.data.store import Store, StoreWriter, split_hash
from handcraft.errors import ConfigError, DataError
from handcraft.match import as_checkpoint
from handcraft.synthesis import Synthesizer


def generate(
    forward: Checkpoint | Path | str,
    reversed: Checkpoint | Path | str,
    clips: Clips,
    out: Path | str,
    *,
    per_class: int | None = None,
    total: int | None = None,
    seed: int = 0,
    batch: int = 1024,
    missing: Literal["source", "none"] = "source",
    vary: bool = True,
    progress: bool | None = None,
) -> Store:
    """Write a store of `per_class` clips a class, or of `total` clips, generated from `clips`, and open it.

    `clips` are the training clips, loaded with the generators' preprocessing. Of a window of the source the forward
    generator continues the first half and the reversed one continues the second half backwards: both halves of a clip
    are generated. The store is `centred`, float16, all of
    it split "train"; a clip's group is its source's.

    vary: read each source as training did, with the augmentation that the generators were trained with (rotated,
    scaled, a sub-window, a random crop of a longer clip); False: the whole clip, or the centred crop, as it is.
    missing: "source" marks a landmark missing in frame t of a clip where it is missing in frame t of the source window,
    so that a lost hand looks like one; "none" keeps what the generators put there. Where the window repeats or pads
    (wrap, zero) a clip has as many frames as its source, at most the window's; with resample all of the window's.

    Each clip's provenance names source clip, its digest and frames, both generators' weights, seed and clip_id. The
    manifest's `seen_clips` are all clips that either generator or this call has seen, so that training on the store
    can be refused where they meet the test clips.

    `CheckpointError`: the generators do not belong together or to these clips. `DataError`: a class without clips, an
    existing store at `out`. `ConfigError`: not exactly one of `per_class` and `total`, or a number out of range.
    """
    forward, reversed = as_checkpoint(forward), as_checkpoint(reversed)
    synthesizer = Synthesizer(forward, reversed, clips, seed=seed, missing=missing, vary=vary)
    if clips.preprocess is None:
        raise DataError(
            "generate: it is not known how the clips were preprocessed, so no store can say it; load a store"
        )
    count = _count(per_class, total, len(clips.classes))
    if batch < 1:
        raise ConfigError(f"generate: batch is {batch}; expected at least 1")
    texts = _provenance(forward, reversed, clips, seed)
    store_source = {
        "command": "generate",
        "forward": forward.sha256,
        "reversed": reversed.sha256,
        "seed": seed,
        "noise": forward.config.noise,
        "missing": missing,
        "vary": vary,
        "source_clips": split_hash(clips.digest),
        "versions": {"handcraft": handcraft.__version__, "torch": torch.__version__},
    }
    writer = StoreWriter(
        out,
        layout=clips.layout,
        stage="centred",
        classes=clips.classes,
        coordinates=clips.preprocess.coordinates,
        preprocessing=signature(clips.preprocess),
        seen_clips=synthesizer.seen_clips,
        source=store_source,
        dtype=np.float16,
    )
    show = sys.stderr.isatty() if progress is None else progress
    with writer, tqdm(total=count, desc="generate", unit="clip", disable=not show) as bar:
        for start in range(0, count, batch):
            clip_id = torch.arange(start, min(start + batch, count))
            made = synthesizer.make(clip_id)
            places = made.row.numpy()
            writer.add_batch(
                made.landmarks.numpy(),
                ids=[f"s{seed}-{number:09d}" for number in clip_id.tolist()],
                labels=made.label.numpy(),
                groups=clips.group[places].tolist(),
                splits=["train"] * len(clip_id),
                provenance=[
                    f'{texts[place]}, "clip_id": {number}}}'
                    for place, number in zip(places.tolist(), clip_id.tolist(), strict=True)
                ],
                lengths=made.length.numpy(),
            )
            bar.update(len(clip_id))
    return Store(out)


def _count(per_class: int | None, total: int | None, classes: int) -> int:
    if (per_class is None) == (total is None):
        raise ConfigError(f"generate: per_class is {per_class} and total {total}; give exactly one of them")
    count = total if per_class is None else per_class * classes
    if count < 1:
        raise ConfigError(f"generate: asked for {count} clips; expected at least 1")
    return count


def _provenance(forward: Checkpoint, reversed: Checkpoint, clips: Clips, seed: int) -> list[str]:
    """JSON text of each source clip's provenance, left open for the clip_id: put together once, not once a clip."""
    twins = {"forward": forward.sha256, "reversed": reversed.sha256, "seed": seed}
    return [
        json.dumps({"source": str(name), "source_digest": f"{int(digest):016x}", "source_frames": frames, **twins})[:-1]
        for name, digest, frames in zip(clips.ids, clips.digest, clips.length.tolist(), strict=True)
    ]
