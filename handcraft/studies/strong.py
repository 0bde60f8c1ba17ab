"""The study `strong`: changes of a recipe, each alone, and together those that made it into the recipe `strong`."""

from dataclasses import replace

from handcraft.config import Recipe
from handcraft.studies.changes import BASE, TOGETHER, Change, all_of, of_classifiers, of_generators, of_preprocessing
from handcraft.studies.setting import Setting, Study, arms
from handcraft.training import CLASSIFIERS

_PREFIX = "generators: "


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


OF_CLASSIFIERS: dict[str, Change] = {
    "missing landmarks interpolated": of_preprocessing(missing="interpolate"),
    "velocities": of_classifiers("model", velocity=2.0),
    "hands dropped": of_classifiers("augment", drop_hand=0.15),
    "jitter": of_classifiers("augment", jitter=0.03),
    "shear": of_classifiers("augment", shear=0.2),
    "mirror": of_classifiers("augment", mirror=0.5),
    "sub-windows of 80 %": of_classifiers("augment", subwindow=0.8),
    "moving average": of_classifiers("train", ema=0.99),
    "twice the steps": _longer,
    "no validation clips": _all_train,
}
"""Measured by the accuracy of classifiers that were trained on real clips with augmentation."""

OF_GENERATORS: dict[str, Change] = {
    _PREFIX + "adaLN-zero": of_generators("model", adaln_zero=True),
    _PREFIX + "moving average": of_generators("train", ema=0.99),
}
"""Measured by the error of the generators on held-out clips, and by how their clips are distributed."""

KEPT = ("jitter", "no validation clips")
"""Of both kinds: what the recipe `strong` is made of."""

_REAL = arms((False, True))
_SYNTHETIC = arms((True, True))


def _settings(base: Recipe) -> tuple[Setting, ...]:
    together = all_of((OF_CLASSIFIERS | OF_GENERATORS)[name] for name in KEPT)(base)
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
