"""Changes of a recipe, which studies try alone and together."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from handcraft.config import Recipe
from handcraft.training import CLASSIFIERS

BASE, TOGETHER = "as it is", "together"

Change = Callable[[Recipe], Recipe]


def of_classifiers(part: str, **fields: Any) -> Change:
    """Sets fields of a part ("model", "window", "train", "augment") of both classifiers."""

    def change(recipe: Recipe) -> Recipe:
        return replace(recipe, **{name: _with(getattr(recipe, name), part, fields) for name in CLASSIFIERS})

    return change


def of_generators(part: str, **fields: Any) -> Change:
    """Sets fields of a part of the generators."""
    return lambda recipe: replace(recipe, generator=_with(recipe.generator, part, fields))


def of_preprocessing(**fields: Any) -> Change:
    """Sets fields of the preprocessing."""
    return lambda recipe: _with(recipe, "preprocess", fields)


def all_of(changes: Iterable[Change]) -> Change:
    """One change after the other."""
    changes = tuple(changes)

    def change(recipe: Recipe) -> Recipe:
        for one in changes:
            recipe = one(recipe)
        return recipe

    return change


def _with(owner: Any, part: str, fields: dict[str, Any]) -> Any:
    return replace(owner, **{part: replace(getattr(owner, part), **fields)})
