"""Synthetic clips from the twin generators: real windows in, a store of generated clips out.

Clip number i (`clip_id`) of a store is a function of the generators, the source clips, the seed and i alone: its class
is i modulo the number of classes, so that any number of clips is as balanced as can be; its source is drawn from the
class's clips by Philox stream 2; its noise comes from streams 0 and 1, the variation of its source from stream 4. Batch
size changes nothing, not one byte.
"""

import json
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import handcraft
from handcraft.checkpoint import Checkpoint
from handcraft.config import AugmentConfig, WindowConfig
from handcraft.data.augment import augment as vary_windows
from handcraft.data.augment import sub_windows
from handcraft.data.clips import Clips
from handcraft.data.preprocess import signature
from handcraft.data.store import Store, StoreWriter, hex_digests, split_hash
from handcraft.data.window import windows
from handcraft.errors import ConfigError, DataError
from handcraft.kernels import cmlpe_generate, philox
from handcraft.match import as_checkpoint, require_data, require_twins


def sources(clips: Clips, clip_id: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Class (B,) and source clip (B,), a position in `clips`, of the generated clips `clip_id (B,)`, all int64.

    The class is clip_id modulo the number of classes; the source is uniform among that class's clips in their order,
    by word 0 of quad 0, block 0, Philox stream 2. `DataError` names a class without clips.
    """
    order, first, count = clips.by_class
    if not bool((count > 0).all()):
        empty = [clips.classes[i] for i in (count == 0).nonzero().flatten().tolist()]
        raise DataError(
            f"{len(empty)} of {len(clips.classes)} classes have no clip to generate from: {', '.join(empty[:10])}; "
            "give clips of every class"
        )
    label = clip_id % len(clips.classes)
    word = philox.words(seed, clip_id, philox.STREAM_SOURCE, 0, 1)[:, 0, 0]
    return label, order[first[label] + philox.integers(word, count[label])]


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
    require_twins(forward, reversed)
    require_data(forward, clips)
    if clips.preprocess is None:
        raise DataError(
            "generate: it is not known how the clips were preprocessed, so no store can say it; load a store"
        )
    count = _count(per_class, total, len(clips.classes))
    if not 0 <= seed < 1 << 64 or batch < 1 or missing not in ("source", "none"):
        raise ConfigError(
            f"generate: seed is {seed}, batch {batch}, missing {missing!r}; expected a seed in [0, 2^64), a batch of "
            "at least 1, missing 'source' or 'none'"
        )
    statistics, width = forward.statistics, forward.window.frames
    augment = forward.augment if vary else None
    length = torch.full((len(clips),), width)
    if forward.window.mode != "resample":
        length = clips.length.clamp(max=width)
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
        seen_clips={*forward.seen_clips, *reversed.seen_clips, *hex_digests(clips.digest)},
        source=store_source,
        dtype=np.float16,
    )
    show = sys.stderr.isatty() if progress is None else progress
    twins = [checkpoint.model.params() for checkpoint in (forward, reversed)]
    with writer, tqdm(total=count, desc="generate", unit="clip", disable=not show) as bar:
        for start in range(0, count, batch):
            clip_id = torch.arange(start, min(start + batch, count))
            label, row = sources(clips, clip_id, seed)
            context = _windows(clips, row, forward.window, augment, seed, clip_id)  # (B,W,J,C), NaN = missing
            made = torch.empty(len(clip_id), width, context[0, 0].numel(), dtype=torch.float16)
            cmlpe_generate(
                *twins,
                context.flatten(2),
                torch.arange(len(clip_id)),
                label,
                clip_id,
                seed=seed,
                noise=forward.config.noise,
                mean=statistics.mean.flatten(),
                std=statistics.std.flatten(),
                out=made,
            )
            made = made.unflatten(-1, context.shape[2:])
            if missing == "source":
                made.masked_fill_(context[..., :1].isnan(), torch.nan)
            places = row.numpy()
            writer.add_batch(
                made.numpy(),
                ids=[f"s{seed}-{number:09d}" for number in clip_id.tolist()],
                labels=label.numpy(),
                groups=clips.group[places].tolist(),
                splits=["train"] * len(clip_id),
                provenance=[
                    f'{texts[place]}, "clip_id": {number}}}'
                    for place, number in zip(places.tolist(), clip_id.tolist(), strict=True)
                ],
                lengths=length[row].numpy(),
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


def _windows(
    clips: Clips, row: Tensor, window: WindowConfig, augment: AugmentConfig | None, seed: int, clip_id: Tensor
) -> Tensor:
    """Windows of the sources `row (B,)`, (B,W,J,C) float32, NaN = missing or padding; varied where `augment` is given,
    by the random numbers of `clip_id`."""
    if augment is None:
        return windows(clips, row, window)[0]
    begin, span = sub_windows(clips.length[row], augment, window, seed, clip_id)
    return vary_windows(windows(clips, row, window, begin, span)[0], augment, seed, clip_id)


def _provenance(forward: Checkpoint, reversed: Checkpoint, clips: Clips, seed: int) -> list[str]:
    """JSON text of each source clip's provenance, left open for the clip_id: put together once, not once a clip."""
    twins = {"forward": forward.sha256, "reversed": reversed.sha256, "seed": seed}
    return [
        json.dumps({"source": str(name), "source_digest": f"{int(digest):016x}", "source_frames": frames, **twins})[:-1]
        for name, digest, frames in zip(clips.ids, clips.digest, clips.length.tolist(), strict=True)
    ]
