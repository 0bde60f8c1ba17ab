"""The commands of `handcraft train`. See `cli` for how commands are written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from handcraft.cli.data import Command, Folder, Store
from handcraft.config import Recipe
from handcraft.errors import ConfigError

ONLINE = "online:"
"""What `--synthetic` begins with where generators follow instead of a store."""


@dataclass(frozen=True)
class TrainGenerator:
    """Train the twin generators on a store's training clips, into OUT/forward and OUT/reversed."""

    data: Store
    """Store with the clips."""
    out: Folder
    """Folder for logs and checkpoints."""
    twin: Literal["both", "forward", "reversed"] = "both"
    """Which of the two to train."""
    unlabelled: bool = False
    """Train on all clips of the store without their labels, for --init-from of a generator of other signs."""
    init_from: Annotated[Path, arg(metavar="DIR")] | None = None
    """Generators to start from (a folder with forward/ and reversed/); their signs may be others."""
    seed: int = 0
    """Of initial weights, batches and validation clips; the same seed gives the same run."""
    clips_per_class: int | None = None
    """Draw that many training clips of each class, by seed."""
    resume: bool = False
    """Continue a stopped run; the result is that of an uninterrupted one."""
    residence: Literal["auto", "memory", "mapped"] = "auto"
    """Where clips are kept: on the device that trains, else in the host's memory, else read from files batch by batch,
    whichever has room first; or at best in memory, or in files. The result is the same."""
    track: Literal["tensorboard"] | None = None
    """Beside the JSON lines, write what `tensorboard --logdir OUT` shows."""
    recipe: Recipe = field(default_factory=Recipe)


def train_generator(options: TrainGenerator) -> int:
    from handcraft.commands import training_data
    from handcraft.distributed import joined
    from handcraft.training import TWINS
    from handcraft.training import train_generator as train

    common = {"seed": options.seed, "resume": options.resume, "track": options.track}
    chosen = (options.data, options.recipe, options.seed, options.clips_per_class, options.residence)
    with joined():
        data = training_data(*chosen, unlabelled=options.unlabelled)
        for twin in TWINS if options.twin == "both" else (options.twin,):
            start = None if options.init_from is None else options.init_from / twin
            place = options.out / twin
            trained = train(data, options.recipe, place, reverse=twin == "reversed", init_from=start, **common)
            _print_trained(twin, trained)
    return 0


@dataclass(frozen=True)
class TrainClassifier:
    """Train Transformer-SL or Mamba-SL on a store's training clips, if wished after pretraining on synthetic ones."""

    data: Store
    """Store with the real clips."""
    out: Folder
    """Folder for logs and checkpoints."""
    model: Literal["transformer", "mamba"] = "transformer"
    """Which classifier."""
    synthetic: Annotated[str, arg(metavar="STORE|online:DIR")] | None = None
    """Synthetic clips to pretrain on: a store of them (`handcraft generate`), or `online:` and the folder with the
    generators forward/ and reversed/, which then make every batch anew, nothing of it on disk."""
    pretrain: float | None = None
    """Share of the steps spent on synthetic clips first; the recipe's where not given."""
    augment: bool = False
    """Use the recipe's augmentation."""
    seed: int = 0
    """Of initial weights, batches and validation clips; the same seed gives the same run."""
    clips_per_class: int | None = None
    """Draw that many training clips of each class, by seed."""
    resume: bool = False
    """Continue a stopped run; the result is that of an uninterrupted one."""
    residence: Literal["auto", "memory", "mapped"] = "auto"
    """Where clips are kept: on the device that trains, else in the host's memory, else read from files batch by batch,
    whichever has room first; or at best in memory, or in files. The result is the same."""
    track: Literal["tensorboard"] | None = None
    """Beside the JSON lines, write what `tensorboard --logdir OUT` shows."""
    recipe: Recipe = field(default_factory=Recipe)


def train_classifier(options: TrainClassifier) -> int:
    from handcraft.commands import training_data
    from handcraft.data.store import Store as Opened
    from handcraft.distributed import joined
    from handcraft.training import classifier_recipe, pretrain_classifier, pretrain_online
    from handcraft.training import train_classifier as train

    if options.pretrain is not None and options.synthetic is None:
        raise ConfigError(f"--pretrain is {options.pretrain}, but no --synthetic is given to pretrain on")
    part = classifier_recipe(options.recipe, options.model)
    start, common = None, {"seed": options.seed, "resume": options.resume, "track": options.track}
    with joined():
        data = training_data(options.data, options.recipe, options.seed, options.clips_per_class, options.residence)
        if options.synthetic is not None:
            share = options.recipe.pretrain if options.pretrain is None else options.pretrain
            place = options.out / "pretraining"
            if options.synthetic.startswith(ONLINE):
                generator = Path(options.synthetic.removeprefix(ONLINE))
                start = pretrain_online(data, part, share, generator, place, **common).last
            else:
                start = pretrain_classifier(data, part, share, Opened(options.synthetic), place, **common).last
        trained = train(data, part, options.out / "classifier", augment=options.augment, init_from=start, **common)
        _print_trained("classifier", trained)
    return 0


def _print_trained(name: str, trained) -> None:
    from handcraft.distributed import is_first

    if not is_first():
        return
    metrics = ", ".join(f"{key} {value:.4g}" for key, value in (trained.best_metrics or {}).items())
    print(
        f"{name}: {trained.steps} steps, best checkpoint {trained.best}" + (f" (validation {metrics})" * bool(metrics))
    )


COMMANDS: dict[tuple[str, ...], Command] = {
    ("train", "generator"): (train_generator, "train the twin generators", TrainGenerator),
    ("train", "classifier"): (train_classifier, "train Transformer-SL or Mamba-SL", TrainClassifier),
}
