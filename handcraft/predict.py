"""Recognise clips with a trained classifier, given nothing but its checkpoint and a store.

Preprocessing, window and statistics are the checkpoint's; the store's class list plays no part.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from handcraft.checkpoint import Checkpoint
from handcraft.data.batches import evaluation_batches
from handcraft.data.clips import Clips, load_clips
from handcraft.data.selection import Selection
from handcraft.data.store import Store
from handcraft.errors import CheckpointError, ConfigError
from handcraft.match import as_checkpoint, require_classifier


def predict(
    checkpoint: Checkpoint | Path | str,
    store: Store | Path | str,
    ids: Iterable[str] | None = None,
    top: int = 5,
    *,
    batch: int = 256,
) -> list[dict]:
    """The `top` likeliest classes of the clips `ids` (None: all), in that order, from a raw or a centred store.

    Each row: `id`, `label` (what the store says), `top`: [{"class", "probability"}, ...], likeliest first, at most as
    many as there are classes. A raw store is preprocessed as the checkpoint says, only the clips asked for; a centred
    one must have been preprocessed that way. `DataError` names an unknown id and some known ones, or a clip that
    cannot be used; `CheckpointError`: a generator, or a model whose scores are not finite.
    """
    checkpoint = as_checkpoint(checkpoint)
    store = store if isinstance(store, Store) else Store(store)
    if top < 1:
        raise ConfigError(f"predict: top is {top}; expected at least 1")
    places = np.arange(len(store)) if ids is None else store.find(ids)
    if not len(places):
        return []
    clips = load_for(checkpoint, store, places)
    probability, order = classify(checkpoint, clips, batch).softmax(1).topk(min(top, len(checkpoint.classes)), dim=1)
    return [
        {
            "id": str(clips.ids[row]),
            "label": store.classes[int(clips.label[row])],
            "top": [
                {"class": checkpoint.classes[k], "probability": p}
                for k, p in zip(order[row].tolist(), probability[row].tolist(), strict=True)
            ],
        }
        for row in range(len(clips))
    ]


def load_for(checkpoint: Checkpoint, store: Store | Path | str, places: np.ndarray | None = None) -> Clips:
    """The clips of a store (those at `places`, or all) as this checkpoint wants them preprocessed.

    The files they lie in are compared with their checksums first: a score or a prediction is of the clips that the
    store was written with, or it is an error (`DataError`).
    """
    store = store if isinstance(store, Store) else Store(store)
    if checkpoint.preprocess is None:
        raise CheckpointError(
            f"{checkpoint.path}: does not say how its clips were preprocessed, so no store can be read for it; "
            "train on clips that were loaded from a store"
        )
    store.verify(places)
    return load_clips(store if places is None else Selection(store, places), checkpoint.preprocess)


@torch.inference_mode()
def classify(checkpoint: Checkpoint, clips: Clips, batch: int = 256) -> Tensor:
    """Logits (N,classes) float32 of every clip, in order. `CheckpointError` where one of them is not finite."""
    require_classifier(checkpoint)
    model = checkpoint.model.eval()
    found = [
        model(part.x, part.valid.sum(1)).float()
        for part in evaluation_batches(clips, checkpoint.window, checkpoint.statistics, batch)
    ]
    logits = torch.cat(found) if found else torch.empty(0, len(checkpoint.classes))
    broken = ~logits.isfinite().all(1)
    if broken.any():
        first = clips.ids[int(broken.nonzero()[0])]
        raise CheckpointError(
            f"{checkpoint.path}: gives scores that are not finite for {int(broken.sum())} of {len(clips)} clips (the "
            f"first: {first}); look at the clip for extreme values, or use another checkpoint"
        )
    return logits
