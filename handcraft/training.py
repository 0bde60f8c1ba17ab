"""The three trainings of the pipeline, from clips and a recipe to a finished run's folder: twin generators, synthetic
pretraining, classifier. The command line and `handcraft.run` both call these, so a step has one meaning.

A run that stopped half way is continued, a finished one is left as it is (`handcraft.engine`).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from handcraft.checkpoint import load
from handcraft.clip_task import planned_steps
from handcraft.config import GeneratorRecipe, MambaRecipe, Recipe, TransformerRecipe
from handcraft.data.clips import Clips
from handcraft.data.residence import Residence, open_clips
from handcraft.data.statistics import Statistics, authors, compute
from handcraft.data.store import Store
from handcraft.distributed import on_first
from handcraft.engine import Trained, train
from handcraft.errors import ConfigError, DataError
from handcraft.match import require_data, require_unseen
from handcraft.online import OnlineTask
from handcraft.partition import Partition, whole
from handcraft.sequential import SequentialTask
from handcraft.synthesis import Synthesizer, seen_by
from handcraft.tasks import ClassifierTask, GeneratorTask
from handcraft.tracking import Track

TWINS = ("forward", "reversed")
UNLABELLED = "unlabelled"
CLASSIFIERS = ("transformer", "mamba")


@dataclass(frozen=True, eq=False)
class Data:
    """Clips and what each is used for."""

    clips: Clips
    part: Partition
    residence: Residence = "auto"
    """Where clips are kept, those of synthetic stores too: see `handcraft.data.residence`."""

    def statistics(self, recipe: GeneratorRecipe | TransformerRecipe | MambaRecipe) -> Statistics:
        """Those of the training clips (validation clips left out), or the authors' constants where the recipe says."""
        if recipe.statistics == "authors":
            return authors(self.clips.layout, self.clips.frames.shape[2])
        return compute(self.clips.subset(self.part.train))


def train_generator(
    data: Data,
    recipe: Recipe,
    out: Path,
    *,
    reverse: bool,
    seed: int,
    resume: bool = True,
    init_from: Path | None = None,
    progress: bool | None = None,
    track: Track | None = None,
) -> Trained:
    """Train one of the twin generators, or of the pair of sequential ones, on the training clips.

    init_from: a run or checkpoint of the same generator to start from, whose classes may be others: one that was
    trained without labels, or on another language (`without_labels`). It is refused where it has seen a test clip.
    """
    part = recipe.generator
    initial = None if init_from is None else load(init_from)
    if initial is not None:
        require_unseen(initial.seen_clips, data.clips.subset(data.part.test), str(init_from))
    kind = SequentialTask if part.method == "sequential" else GeneratorTask
    task = kind(
        data.clips,
        part,
        reverse=reverse,
        train=data.part.train,
        valid=data.part.valid,
        seed=seed,
        statistics=data.statistics(part),
        init_from=initial,
    )
    return train(task, out, resume=resume, progress=progress, track=track)


def without_labels(clips: Clips, seed: int) -> Data:
    """All clips as one class, "unlabelled", for a generator that others are to start from; a tenth validates."""
    clips = replace(clips, label=torch.zeros_like(clips.label), classes=(UNLABELLED,))
    return Data(clips, whole(clips, seed=seed))


def classifier_recipe(recipe: Recipe, model: str) -> TransformerRecipe | MambaRecipe:
    """The part of a recipe for "transformer" or "mamba"; `ConfigError` for another name."""
    if model not in CLASSIFIERS:
        raise ConfigError(f"model is {model!r}; expected one of {', '.join(CLASSIFIERS)}")
    return getattr(recipe, model)


def pretrain_classifier(
    data: Data,
    part: TransformerRecipe | MambaRecipe,
    share: float,
    synthetic: Store,
    out: Path,
    *,
    seed: int,
    resume: bool = True,
    progress: bool | None = None,
    track: Track | None = None,
) -> Trained:
    """Train on synthetic clips only, for `share` of the steps that the recipe spends on real ones.

    Statistics are those of the real training clips. `DataError`: the store is damaged or not of generated clips, the
    generators behind it have seen a test clip (docs/method.md), or its classes are others.
    """
    part = _for_pretraining(data, part, share)
    if not synthetic.manifest.seen_clips:  # then nobody can tell whether test clips are behind it
        raise DataError(
            f"{synthetic.path}: names no clip that a generator has seen, so it is no store of synthetic clips; make "
            "one with `handcraft generate`"
        )
    on_first(synthetic.verify)
    test = data.clips.subset(data.part.test)
    require_unseen(synthetic.manifest.seen_clips, test, f"the generators of {synthetic.path}")
    if tuple(synthetic.classes) != data.clips.classes:
        raise DataError(
            f"{synthetic.path}: has {len(synthetic.classes)} classes, the training data {len(data.clips.classes)}, and "
            "they differ; generate from the same data"
        )
    if data.clips.preprocess is None:
        raise DataError("synthetic pretraining needs clips that were loaded from a store")
    made = open_clips(synthetic, data.clips.preprocess, data.residence)
    source = synthetic.manifest.source
    task = ClassifierTask(
        made,
        part,
        train=np.arange(len(made)),
        valid=(),
        seed=seed,
        augment=False,
        statistics=data.statistics(part),
        seen=synthetic.manifest.seen_clips,
        generators=[source[name] for name in TWINS if isinstance(source.get(name), str)],
    )
    return train(task, out, resume=resume, progress=progress, track=track)


def pretrain_online(
    data: Data,
    part: TransformerRecipe | MambaRecipe,
    share: float,
    generator: Path,
    out: Path,
    *,
    seed: int,
    resume: bool = True,
    progress: bool | None = None,
    track: Track | None = None,
) -> Trained:
    """What `pretrain_classifier` does, on clips that are generated batch by batch and seen once (`handcraft.online`).

    generator: folder with forward/ and reversed/. The sources are the clips of `data` that the generators were trained
    on. `DataError`: none of them is there, or the generators have seen a test clip; `CheckpointError`: the generators
    do not belong together or to the data.
    """
    part = _for_pretraining(data, part, share)
    forward, reverse = (load(generator / twin) for twin in TWINS)
    require_data(forward, data.clips)
    test = data.clips.subset(data.part.test)
    for checkpoint in (forward, reverse):
        require_unseen(checkpoint.seen_clips, test, f"the generator {checkpoint.path}")
    synthesizer = Synthesizer(forward, reverse, seen_by(forward, data.clips), seed=seed)
    task = OnlineTask(synthesizer, part, statistics=data.statistics(part))
    return train(task, out, resume=resume, progress=progress, track=track)


def train_classifier(
    data: Data,
    part: TransformerRecipe | MambaRecipe,
    out: Path,
    *,
    augment: bool,
    seed: int,
    init_from: Path | None = None,
    resume: bool = True,
    progress: bool | None = None,
    track: Track | None = None,
) -> Trained:
    """Train on the real training clips, from fresh weights or from a pretrained checkpoint.

    Optimiser and schedule are fresh either way; with `init_from` the learning rate is `part.finetune` times the
    recipe's. A pretrained model is refused where it has seen a test clip.
    """
    if init_from is not None:
        part = replace(part, train=replace(part.train, lr=part.finetune * part.train.lr))
    task = ClassifierTask(
        data.clips,
        part,
        train=data.part.train,
        valid=data.part.valid,
        seed=seed,
        augment=augment,
        init_from=init_from,
        statistics=data.statistics(part),
    )
    if task.initial is not None:
        require_unseen(task.initial.seen_clips, data.clips.subset(data.part.test), str(init_from))
    return train(task, out, resume=resume, progress=progress, track=track)


def _for_pretraining(
    data: Data, part: TransformerRecipe | MambaRecipe, share: float
) -> TransformerRecipe | MambaRecipe:
    """The same training for `share` of its steps on `data`, its checkpoints and validations no further apart than the
    run is long."""
    if not 0 < share < 1:
        raise ConfigError(f"pretrain is {share}; expected a share of the steps between 0 and 1, such as 0.1")
    config = part.train
    steps = max(1, round(share * planned_steps(config, data.clips.subset(data.part.train))))
    every = {name: min(getattr(config, name), steps) for name in ("validate_every", "checkpoint_every")}
    return replace(part, train=replace(config, steps=steps, epochs=0.0, **every))
