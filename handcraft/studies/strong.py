"""The study `strong`: changes of a recipe, each alone, and together those that made it into the recipe `strong`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from handcraft.config import Recipe
from handcraft.studies.setting import Arm, Setting, Study
from handcraft.training import CLASSIFIERS

BASE, TOGETHER = "as it is", "together"
_PREFIX = "generators: "

Change = Callable[[Recipe], Recipe]


def _classifiers(part: str, **fields: Any) -> Change:
    """Sets fields of a part ("model", "train", "augment") of both classifiers."""

    def change(recipe: Recipe) -> Recipe:
        return replace(recipe, **{name: _with(getattr(recipe, name), part, fields) for name in CLASSIFIERS})

    return change


def _generators(part: str, **fields: Any) -> Change:
    """Sets fields of a part of the generators."""
    return lambda recipe: replace(recipe, generator=_with(recipe.generator, part, fields))


def _with(owner: Any, part: str, fields: dict[str, Any]) -> Any:
    return replace(owner, **{part: replace(getattr(owner, part), **fields)})


def _longer(recipe: Recipe) -> Recipe:
    parts = {name: getattr(recipe, name) for name in CLASSIFIERS}
    return replace(
        recipe,
        **{
            name: replace(part, train=replace(part.train, steps=2 * part.train.steps, epochs=2 * part.train.epochs))
            for name, part in parts.items()
        },
    )


def _all_train(recipe: Recipe) -> Recipe:
    return replace(recipe, validation_share=0.0)


def _interpolated(recipe: Recipe) -> Recipe:
    return replace(recipe, preprocess=replace(recipe.preprocess, missing="interpolate"))


OF_CLASSIFIERS: dict[str, Change] = {
    "missing landmarks interpolated": _interpolated,
    "velocities": _classifiers("model", velocity=2.0),
    "hands dropped": _classifiers("augment", drop_hand=0.15),
    "jitter": _classifiers("augment", jitter=0.03),
    "shear": _classifiers("augment", shear=0.2),
    "mirror": _classifiers("augment", mirror=0.5),
    "sub-windows of 80 %": _classifiers("augment", subwindow=0.8),
    "moving average": _classifiers("train", ema=0.99),
    "twice the steps": _longer,
    "no validation clips": _all_train,
}
"""Measured by the accuracy of classifiers that were trained on real clips with augmentation."""

OF_GENERATORS: dict[str, Change] = {
    _PREFIX + "adaLN-zero": _generators("model", adaln_zero=True),
    _PREFIX + "moving average": _generators("train", ema=0.99),
}
"""Measured by the error of the generators on held-out clips, and by how their clips are distributed."""

KEPT = ("jitter", "no validation clips")
"""Of both kinds: what the recipe `strong` is made of."""

_REAL = tuple(Arm(model, pretrained=False, augment=True) for model in CLASSIFIERS)
_SYNTHETIC = tuple(Arm(model, pretrained=True, augment=True) for model in CLASSIFIERS)


def _settings(base: Recipe) -> tuple[Setting, ...]:
    together = base
    for name in KEPT:
        together = (OF_CLASSIFIERS | OF_GENERATORS)[name](together)
    return (
        Setting(BASE, base, _REAL),
        *(Setting(name, change(base), _REAL) for name, change in OF_CLASSIFIERS.items()),
        Setting(TOGETHER, together, _REAL),
        Setting(_named(BASE), base, _SYNTHETIC, generators=True),
        *(Setting(name, change(base), generators=True) for name, change in OF_GENERATORS.items()),
        Setting(_named(TOGETHER), together, _SYNTHETIC, generators=True),
    )


def _named(setting: str) -> str:
    """The setting that measures the generators, too, and what their clips are worth to the classifiers."""
    return f"{_PREFIX}{setting}"


def _compared_with(name: str) -> str:
    baseline = _named(BASE) if name.startswith(_PREFIX) else BASE
    return "" if name == baseline else baseline


STRONG = Study(
    "strong", "Which changes of a recipe are worth it, alone and together?", _settings, partner=_compared_with
)
