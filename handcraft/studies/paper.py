"""The study `paper`: what the authors of the paper later found stronger on INCLUDE, each change alone and together, and
our own recipes. Its base is meant to be the form that the paper has for a dataset, the recipe `paper` or `include`.
"""

from dataclasses import replace

from handcraft.config import Recipe
from handcraft.recipe import load_recipe
from handcraft.studies.changes import BASE, TOGETHER, Change, all_of, of_classifiers, of_preprocessing
from handcraft.studies.setting import Setting, Study, arms
from handcraft.training import CLASSIFIERS

_SPREAD = of_classifiers("window", mode="resample")


def _shoulders(recipe: Recipe) -> Recipe:
    """The authors' constants standardise their own centring only, so that statistics are the training clips' here."""
    recipe = of_preprocessing(centre="shoulder")(recipe)
    parts = {name: replace(getattr(recipe, name), statistics="train") for name in ("generator", *CLASSIFIERS)}
    return replace(recipe, **parts)


CHANGES: dict[str, Change] = {
    "frames spread evenly": _SPREAD,
    "spread evenly, sub-windows of 80 %": all_of((_SPREAD, of_classifiers("augment", subwindow=0.8))),
    "shoulders as the unit": _shoulders,
    "label smoothing": of_classifiers("train", label_smoothing=0.1),
    "frames as tokens": of_classifiers("model", tokens="frames"),
}
"""Sub-windows are cut from clips that are spread evenly, so these two are one step more than the first."""

OURS = ("small", "strong")

_REAL = arms((False, True))
_SYNTHETIC = arms((True, True))


def _settings(base: Recipe) -> tuple[Setting, ...]:
    return (
        Setting(BASE, base, _REAL + _SYNTHETIC),
        *(Setting(name, change(base), _REAL) for name, change in CHANGES.items()),
        Setting(TOGETHER, all_of(CHANGES.values())(base), _REAL + _SYNTHETIC),
        *(Setting(f"recipe {name}", _on_layout_of(base, load_recipe(name)), _REAL + _SYNTHETIC) for name in OURS),
    )


def _on_layout_of(base: Recipe, recipe: Recipe) -> Recipe:
    """The recipe, seeing the landmarks that the base sees."""
    return replace(recipe, preprocess=replace(recipe.preprocess, layout=base.preprocess.layout))


PAPER = Study("paper", "What is stronger than the paper's recipe, and by which change?", _settings, BASE)
