"""What the trainings on clips share: their batches, initial weights and the description that a checkpoint keeps.

Batches, noise and initial weights are functions of the seed; validation sees every validation clip once, whole,
unaugmented and without noise (docs/method.md).
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from handcraft import distributed
from handcraft.checkpoint import Checkpoint
from handcraft.config import (
    AugmentConfig,
    GeneratorRecipe,
    MambaRecipe,
    TrainConfig,
    TransformerRecipe,
)
from handcraft.data.batches import Batch, evaluation_batches, training_batch
from handcraft.data.clips import Clips
from handcraft.data.distort import distort
from handcraft.data.manifest import hex_digests, split_hash
from handcraft.data.prefetch import Prefetch
from handcraft.data.ready import ReadyWindows
from handcraft.data.residence import place
from handcraft.data.statistics import Statistics, authors, compute
from handcraft.distributed import WHOLE, Share
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.memory import free_memory
from handcraft.models import ModelConfig, build, kind_of

_EVALUATION_BATCH = 256
_READY_SHARE = 8  # training windows are laid out ready where that takes at most this part of the free memory

Positions = Sequence[int] | np.ndarray | Tensor


def planned_steps(config: TrainConfig, clips: Clips) -> int:
    """Steps of a run on the training clips `clips`: `config.steps`, or `config.epochs` rounded up to whole batches.

    A balanced epoch has as many samples as there are clips, an oversampled one classes x largest class.
    """
    if (config.steps > 0) == (config.epochs > 0):
        raise ConfigError(
            f"train.steps is {config.steps} and train.epochs {config.epochs}; expected exactly one of them above 0"
        )
    if config.batch < 1:
        raise ConfigError(f"train.batch is {config.batch}; expected at least 1")
    if config.steps:
        return config.steps
    samples = len(clips)
    if config.epoch == "oversampled":
        samples = len(clips.classes) * int(clips.by_class[2].max())
    return max(1, math.ceil(config.epochs * samples / config.batch))


class ClipTask(ABC):
    """What the tasks share: the data, its windows, the description of the run."""

    reverse = False

    def __init__(
        self,
        clips: Clips,
        recipe: GeneratorRecipe | TransformerRecipe | MambaRecipe,
        train: Positions,
        valid: Positions,
        seed: int,
        *,
        augment: AugmentConfig,
        statistics: Statistics | None,
        initial: Checkpoint | None,
        seen: Sequence[str] | None,
        generators: Sequence[str] = (),
    ):
        device = distributed.device(recipe.train.device)
        clips = place(clips, device)
        self.clips, self.valid_clips = clips.subset(train), clips.subset(valid)
        if not len(self.clips):
            raise DataError("there is no training clip")
        self.config, self.window, self.augment, self.seed = recipe.train, recipe.window, augment, seed
        self.model_config = _fill(recipe.model, clips)
        self.name = kind_of(self.model_config) + (" reversed" if self.reverse else "")
        self.steps = planned_steps(self.config, self.clips)
        self.initial = initial
        if initial is not None:
            self._check_initial(initial)
        if statistics is None:
            if initial is not None:
                statistics = initial.statistics
            elif recipe.statistics == "authors":
                statistics = authors(clips.layout, clips.frames.shape[2])
            else:
                statistics = compute(self.clips)
        self.statistics = statistics.to(device)
        if seen is None:
            seen = hex_digests(np.concatenate([self.clips.digest, self.valid_clips.digest]))
        self.generators = tuple(generators) or (() if initial is None else initial.generators)
        self.seen_clips = tuple(sorted({*seen, *(() if initial is None else initial.seen_clips)}))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.model = build(self.model_config)
        if initial is not None:
            self._start_from(initial)
        self.model.to(device)
        self.network: Callable[..., Tensor] = self.model
        self._valid_batches: list[Batch] | None = None

    @abstractmethod
    def weights(self, batch: Batch) -> Tensor:
        """What the loss of a batch is divided by; that of a batch is the sum of its parts'."""

    @abstractmethod
    def batch_loss(self, batch: Batch, weights: Tensor | None = None) -> Tensor:
        """Training loss of a batch, a scalar; of a part of one, whose `weights` are given, the part's share in it."""

    @abstractmethod
    def score(self, batches: list[Batch]) -> dict[str, float] | None:
        """Metrics over all clips of `batches`; None where nothing can be measured."""

    @abstractmethod
    def rank(self, metrics: dict[str, float]) -> tuple[float, ...]:
        """Sort key of validation metrics; the smallest is the best."""

    def batch(self, step: int, share: Share = WHOLE) -> Batch:
        """Training batch `step`, a function of (seed, step), or a share of its samples."""
        return self._feed(step, share)

    def _made(self, step: int, share: Share) -> Batch:
        """The same, put together from the clips here and now."""
        batch = training_batch(
            self.clips,
            step,
            batch=self.config.batch,
            seed=self.seed,
            window=self.window,
            statistics=self.statistics,
            augment=self.augment,
            share=share,
        )
        return distort(batch, self.augment, self.statistics, self.clips.layout, self.seed)

    @torch.no_grad()
    def validate(self) -> dict[str, float] | None:
        """Metrics over the validation clips, of which every process scores its share; None if there are none."""
        if not len(self.valid_clips):
            return None
        if self._valid_batches is None:
            self._valid_batches = list(self._validation(distributed.share()))
        return self.score(self._valid_batches)

    def _validation(self, share: Share) -> Iterator[Batch]:
        return evaluation_batches(self.valid_clips, self.window, self.statistics, _EVALUATION_BATCH, share)

    @torch.no_grad()
    def blame(self, step: int | None) -> list[str]:
        """Ids of the clips of batch `step`, or of the validation clips (None), whose own loss is not finite; of all
        of them if none stands out."""
        clips = self.valid_clips if step is None else self.clips
        batch = _join(self._validation(WHOLE)) if step is None else self.batch(step)
        alone = torch.stack([self.batch_loss(batch.take(slice(i, i + 1))) for i in range(len(batch))])
        culprits = batch.index if bool(alone.isfinite().all()) else batch.index[~alone.isfinite()]
        return [str(name) for name in clips.ids[culprits.unique().cpu().numpy()]]

    def checkpoint(self) -> Checkpoint:
        """The model as it is now, with all that using it takes."""
        return Checkpoint(
            model=self.model,
            config=self.model_config,
            reverse=self.reverse,
            classes=self.clips.classes,
            layout=self.clips.layout,
            preprocess=self.clips.preprocess,
            window=self.window,
            statistics=self.statistics.to("cpu"),
            train=self.config,
            augment=self.augment,
            seed=self.seed,
            split_hashes={"train": split_hash(self.clips.digest), "valid": split_hash(self.valid_clips.digest)},
            seen_clips=self.seen_clips,
            initial="" if self.initial is None else self.initial.sha256,
            generators=self.generators,
            recorded=self.clips.recorded,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Everything that shapes the run, as plain values: a resumed run must have the same."""
        found = self.checkpoint()
        values = {name: getattr(found, name) for name in ("kind", "reverse", "seed", "layout", "signature", "initial")}
        values |= {"model": asdict(self.model_config), "classes": list(found.classes)}
        values["generators"] = list(found.generators)
        values |= {name: asdict(getattr(found, name)) for name in ("train", "window", "augment")}
        values["data"] = {
            f"{name} clips": _hash(clips.digest, clips.label.cpu().numpy(), clips.length.cpu().numpy())
            for name, clips in (("training", self.clips), ("validation", self.valid_clips))
        }
        return values | {"statistics": _hash(found.statistics.mean.numpy(), found.statistics.std.numpy())}

    @cached_property
    def _feed(self) -> Callable[[int, Share], Batch]:
        """What gives the batches: copies of ready windows; else what makes them, ahead of time where clips are far."""
        if self._ready is not None:
            return self._ready
        if isinstance(self.clips.frames, Tensor):
            return self._made
        return Prefetch(self._made, self.clips.start.device, self.steps - 1)

    @cached_property
    def _ready(self) -> ReadyWindows | None:
        """The training windows, ready to be copied where they are of that kind and leave memory for the rest."""
        if not ReadyWindows.serves(self.augment, self.window):
            return None
        spare = free_memory(self.clips.start.device) // _READY_SHARE
        if ReadyWindows.bytes_needed(self.clips, self.window) > spare:
            return None
        return ReadyWindows(self.clips, self.window, self.statistics, batch=self.config.batch, seed=self.seed)

    def _start_from(self, initial: Checkpoint) -> None:
        """Give the new model the weights of `initial`, which `_check_initial` has let through."""
        self.model.load_state_dict(initial.model.state_dict())

    def _check_initial(self, initial: Checkpoint) -> None:
        """The weights that training starts from must belong to the same model, classes and input."""
        wanted = {
            "model": self.model_config,
            "classes": self.clips.classes,
            "layout": self.clips.layout,
            "preprocess": self.clips.preprocess,
            "window": self.window,
        }
        for name, value in wanted.items():
            found = getattr(initial, "config" if name == "model" else name)
            if found != value:
                raise CheckpointError(
                    f"{initial.path}: cannot start from it: its {name} is {found!r:.300}, expected {value!r:.300}"
                )


def _fill(config: ModelConfig, clips: Clips) -> ModelConfig:
    """Fill in `classes` and `dim` from the data; `ConfigError` if the recipe sets others."""
    found = {"classes": len(clips.classes), "dim": math.prod(clips.frames.shape[1:])}
    for name, value in found.items():
        if getattr(config, name) not in (0, value):
            raise ConfigError(f"model.{name} is {getattr(config, name)}, but the data has {value}; leave it at 0")
    return replace(config, **found)


def _join(batches: Any) -> Batch:
    """One batch of all samples."""
    batches = list(batches)
    return Batch(*(torch.cat([getattr(batch, field.name) for batch in batches]) for field in fields(Batch)))


def _hash(*arrays: np.ndarray) -> str:
    state = hashlib.blake2b(digest_size=16)
    for array in arrays:
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()
