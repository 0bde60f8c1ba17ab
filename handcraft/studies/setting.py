"""What a study varies: settings, each a whole recipe and the trainings it is measured by."""

from collections.abc import Callable, Iterable
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
    clips_per_class: int | None = None
    """Training clips of each class, drawn by seed, where the setting says how many."""
    start: bool = False
    """Start the generators from ones that were trained without labels on other data."""


@dataclass(frozen=True)
class Study:
    """A question, its settings and which of them the others are compared with."""

    name: str
    question: str
    settings: Callable[[Recipe], tuple[Setting, ...]]
    baseline: str = ""
    """Name of the setting that the others are compared with, arm by arm and seed by seed."""
    partner: Callable[[str], str] | None = None
    """Where each setting has one of its own to be compared with: its name by theirs, "" for those that have none."""
    between: str = "settings"
    """What is compared: "settings"; or "arms", pretrained with not pretrained, within a setting."""
    needs_source: bool = False
    """Whether it needs a second store, to train generators on without labels."""

    def against(self, names: Iterable[str]) -> dict[str, str]:
        """What each setting is compared with, by name; "" for none."""
        if self.partner is not None:
            return {name: self.partner(name) for name in names}
        return {name: "" if name == self.baseline else self.baseline for name in names}


def arms(*kinds: tuple[bool, bool]) -> tuple[Arm, ...]:
    """An arm for each classifier and each (pretrained, augment)."""
    return tuple(Arm(model, *kind) for model in CLASSIFIERS for kind in kinds)
