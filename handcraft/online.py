"""Endless synthetic clips: every training batch is generated when it is needed, on the device that trains.

No clip is trained on twice, and none touches the disk. Sample n of a run of seed s is clip n of the store that
`handcraft generate` would write with that seed (`handcraft.synthesis`), rounded to float16 as there.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from handcraft.config import MambaRecipe, TransformerRecipe
from handcraft.data.augment import sub_windows
from handcraft.data.batches import Batch, assemble, sample_ids
from handcraft.data.clips import Motion
from handcraft.data.statistics import Statistics
from handcraft.distributed import WHOLE, Share
from handcraft.synthesis import Synthesizer
from handcraft.tasks import ClassifierTask


class OnlineTask(ClassifierTask):
    """Train a classifier on the clips that `synthesizer` makes, each once, without validation.

    Batch n holds the clips n * batch to (n + 1) * batch - 1 of the synthesizer's seed, which is the run's. A clip
    longer than the classifier's window is cropped at random, as training crops the clips of a store. statistics: those
    of the real training clips.
    """

    def __init__(
        self, synthesizer: Synthesizer, recipe: TransformerRecipe | MambaRecipe, *, statistics: Statistics | None = None
    ):
        super().__init__(
            synthesizer.clips,
            recipe,
            train=np.arange(len(synthesizer.clips)),
            valid=(),
            seed=synthesizer.seed,
            augment=False,
            statistics=statistics,
            seen=sorted(synthesizer.seen_clips),
            generators=(synthesizer.forward.sha256, synthesizer.reversed.sha256),
        )
        self.synthesizer = synthesizer.over(self.clips)  # where training has found room for them
        made, self._reading = synthesizer.window, self.window
        if made == self.window and made.mode == "resample":  # then a clip is its own window, and wrap only copies it
            self._reading = replace(self.window, mode="wrap")

    def batch(self, step: int, share: Share = WHOLE) -> Batch:
        """Training batch `step`, a function of (generators, sources, seed, step), or a share of its samples.

        `index` is the source of each clip.
        """
        sample_id = sample_ids(step, self.config.batch, share).to(self.clips.start.device)
        made = self.synthesizer.make(sample_id)
        size, width = made.landmarks.shape[:2]
        place = torch.arange(size, device=sample_id.device)
        clips = Motion(made.landmarks.flatten(0, 1), place * width, made.length)
        begin, span = sub_windows(made.length, self.augment, self.window, self.seed, sample_id)
        batch = assemble(clips, place, made.label, sample_id, self._reading, self.statistics, begin, span)
        return replace(batch, index=made.row)

    def fingerprint(self) -> dict[str, Any]:
        ways = {"missing": self.synthesizer.missing, "vary": self.synthesizer.vary}
        return super().fingerprint() | {"synthetic": ways}
