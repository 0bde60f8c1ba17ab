"""What a study varies: settings, each a whole recipe and the trainings it is measured by."""

from collections.abc import Callable
from dataclasses import dataclass

from handcraft.config import Recipe
from handcraft.training import CLASSIFIERS


@dataclass(frozen=True)
class Arm:
    """One training of a classifier."""

    model: str
    """"transformer" or "mamba"."""
    pretrained: bool
    """On synthetic clips first."""
    augment: bool
    """With the recipe's augmentation, on the real clips."""


@dataclass(frozen=True)
class Setting:
    """One point of a study."""

    name: str
    recipe: Recipe
    arms: tuple[Arm, ...] = ()
    generators: bool = False
    """Measure the generators themselves, too: their error on test clips and how their clips are distributed."""
    share: float = 1.0
    """Of the training clips that are used, drawn class by class."""
    sequential: bool = False
    """Synthetic clips come from the sequential generator instead of the twins."""


@dataclass(frozen=True)
class Study:
    """A question, its settings and which of them the others are compared with."""

    name: str
    question: str
    settings: Callable[[Recipe], tuple[Setting, ...]]
    baseline: str
    """Name of the setting that the others are compared with, arm by arm and seed by seed."""
    between: str = "settings"
    """What is compared: "settings" with the baseline, or "arms", pretrained with not pretrained, within a setting."""


def arms(*kinds: tuple[bool, bool]) -> tuple[Arm, ...]:
    """An arm for each classifier and each (pretrained, augment)."""
    return tuple(Arm(model, *kind) for model in CLASSIFIERS for kind in kinds)
