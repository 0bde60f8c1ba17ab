"""The clips that `report.html` plays: a synthetic clip of a class beside the recorded one it was generated from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from handcraft.config import WindowConfig
from handcraft.data.clips import Clips
from handcraft.data.store import Store
from handcraft.data.window import windows
from handcraft.render.page import clip_payload

SHOWN_CLASSES = 6


@dataclass(frozen=True)
class ClipPair:
    """Payloads of one class for `handcraft.render.page.page`."""

    label: str
    real: dict[str, Any]
    synthetic: dict[str, Any]


def clip_pairs(
    synthetic: Store, clips: Clips, window: WindowConfig, fps: float | None, wanted: int = SHOWN_CLASSES
) -> list[ClipPair]:
    """The first synthetic clip of `wanted` classes, evenly spaced among those that have one: not chosen by its looks.

    clips: those the store was generated from, found by the id in the clips' provenance; shown as the window that the
    generators continue, so that frame t of both is the same moment. fps: of the recordings, None = unknown. A class is
    left out where that clip or its source has nothing to draw.
    """
    labels, first = np.unique(synthetic.labels, return_index=True)
    if len(labels) > wanted:
        first = first[np.linspace(0, len(labels) - 1, wanted).round().astype(int)]
    place = {id: at for at, id in enumerate(clips.ids.tolist())}
    found = []
    for clip in first.tolist():
        source = place[synthetic.provenance_of(clip)["source"]]
        x, valid = windows(clips, torch.tensor([source]), window)
        real, made = x[0][valid[0]].numpy(), np.asarray(synthetic.landmarks(clip), dtype=np.float32)
        if np.isnan(real).all() or np.isnan(made).all():
            continue
        resampled = window.frames / int(clips.length[source]) if window.mode == "resample" else 1.0
        rate = None if fps is None else fps * resampled
        found.append(
            ClipPair(
                synthetic.classes[synthetic.labels[clip]],
                clip_payload(real, clips.layout, rate, "real", str(clips.ids[source])),
                clip_payload(made, clips.layout, rate, "synthetic", str(synthetic.ids[clip])),
            )
        )
    return found
