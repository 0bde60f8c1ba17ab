"""Recipes: named YAML files that fill a `Recipe`, checked field by field while they are read.

A file states only what differs from the defaults in `handcraft.config`. Nothing in it can run code (`yaml.safe_load`).
"""

from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from handcraft.config import Recipe
from handcraft.errors import ConfigError
from handcraft.layouts import LAYOUTS

FROM_DATA = ("classes", "dim")
"""Sizes of a model that are filled in from the data."""
_LARGEST = 1 << 20  # bytes; a recipe is a page of text


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files("handcraft.recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """The recipe of that name, or the one in that `.yaml` file.

    `ConfigError` names the file and the field: unknown fields, values of the wrong kind, combinations that cannot work.
    """
    name = str(name)
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        where, stem = str(path), path.stem
        try:
            if path.stat().st_size > _LARGEST:
                raise ConfigError(f"{path}: larger than {_LARGEST} bytes, which no recipe is")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); give a YAML file with a recipe") from None
    elif name in recipe_names():
        where, stem = f"recipe {name}", name
        text = (resources.files("handcraft.recipes") / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise ConfigError(
            f"unknown recipe {name!r}; known: {', '.join(recipe_names())}, or the path of a .yaml file of your own"
        )
    recipe = from_plain(Recipe, _parse(text, where), where, {"name": stem})
    check_recipe(recipe, where)
    return recipe


def _parse(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: not readable as YAML ({' '.join(str(error).split())})") from None


def to_plain(recipe: Recipe) -> dict[str, Any]:
    """All fields of a recipe as plain values, ready for YAML or JSON."""
    return asdict(recipe)


def from_plain(kind: type, value: Any, where: str, defaults: dict[str, Any] | None = None) -> Any:
    """Build the frozen dataclass `kind` from plain values; fields left out keep their defaults."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: found {value!r:.60}, expected fields of {kind.__name__}")
    hints = get_type_hints(kind)
    unknown = sorted(str(name) for name in value if name not in hints)
    if unknown:
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}; known: {', '.join(hints)}")
    given = dict(defaults or {})
    for name, entry in value.items():
        given[name] = _convert(hints[name], entry, f"{where}: {name}")
    missing = [f.name for f in fields(kind) if f.name not in given and f.default is MISSING is f.default_factory]
    if missing:
        raise ConfigError(f"{where}: the field {missing[0]!r} is missing")
    return kind(**given)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return from_plain(hint, value, where)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        expected = "one of " + ", ".join(map(str, get_args(hint)))
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is hint:
        return value
    else:
        expected = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[hint]
    raise ConfigError(f"{where}: found {value!r:.60}, expected {expected}")


def check_recipe(recipe: Recipe, where: str = "recipe") -> None:
    """`ConfigError` naming the first field whose value cannot work, alone or beside another."""
    generator, classifiers = recipe.generator, {"transformer": recipe.transformer, "mamba": recipe.mamba}
    before = recipe.preprocess
    rules = [
        (before.layout in LAYOUTS, "preprocess.layout", before.layout, f"one of {', '.join(LAYOUTS)}"),
        (
            before.smooth_window == 0 or (before.smooth_window > before.smooth_order and before.smooth_window % 2 == 1),
            "preprocess.smooth_window",
            before.smooth_window,
            f"0 (off), or odd and larger than preprocess.smooth_order ({before.smooth_order})",
        ),
        (before.smooth_order >= 0, "preprocess.smooth_order", before.smooth_order, "0 or more"),
        (0 <= recipe.pretrain < 1, "pretrain", recipe.pretrain, "a share in [0, 1)"),
        (0 < recipe.test_share < 1, "test_share", recipe.test_share, "a share between 0 and 1"),
        (recipe.synthetic_per_class >= 1, "synthetic_per_class", recipe.synthetic_per_class, "at least 1"),
        (before.fill >= 0, "preprocess.fill", before.fill, "0 or more"),
        (generator.model.noise >= 0, "generator.model.noise", generator.model.noise, "0 or more"),
        (
            generator.window.frames == 2 * generator.model.context,
            "generator.window.frames",
            generator.window.frames,
            f"twice generator.model.context ({generator.model.context})",
        ),
    ]
    for name, part in classifiers.items():
        rules += [
            (
                part.window.frames == part.model.frames,
                f"{name}.window.frames",
                part.window.frames,
                f"{name}.model.frames ({part.model.frames})",
            ),
            (0 < part.finetune <= 1, f"{name}.finetune", part.finetune, "a share in (0, 1]"),
        ]
    dropout = recipe.transformer.model.dropout
    rules.append((0 <= dropout < 1, "transformer.model.dropout", dropout, "a share in [0, 1)"))
    for name, part in {"generator": generator, **classifiers}.items():
        train, augment = part.train, part.augment
        rules += [
            (size >= 1, f"{name}.model.{size_name}", size, "at least 1")
            for size_name, size in asdict(part.model).items()
            if type(size) is int and size_name not in FROM_DATA
        ]
        rules += [
            (getattr(train, field) >= 1, f"{name}.train.{field}", getattr(train, field), "at least 1")
            for field in ("batch", "validate_every", "checkpoint_every")
        ]
        rules += [
            (getattr(train, field) >= 0, f"{name}.train.{field}", getattr(train, field), "0 or more")
            for field in ("steps", "epochs", "weight_decay", "clip_norm")
        ]
        rules += [
            (
                (train.steps > 0) != (train.epochs > 0),
                f"{name}.train.steps",
                train.steps,
                f"exactly one of steps and epochs ({train.epochs}) above 0",
            ),
            (train.lr > 0, f"{name}.train.lr", train.lr, "above 0"),
            (0 <= train.label_smoothing < 1, f"{name}.train.label_smoothing", train.label_smoothing, "in [0, 1)"),
            (0 < train.warmup < 1, f"{name}.train.warmup", train.warmup, "a share between 0 and 1"),
            (0 < augment.subwindow <= 1, f"{name}.augment.subwindow", augment.subwindow, "in (0, 1]"),
            (augment.rotation >= 0, f"{name}.augment.rotation", augment.rotation, "0 or more degrees"),
            (0 <= augment.scale < 1, f"{name}.augment.scale", augment.scale, "in [0, 1)"),
            (
                part.statistics == "train" or before.centre == "paper",
                f"{name}.statistics",
                part.statistics,
                "train, since the authors' constants belong to preprocess.centre: paper",
            ),
        ]
    heads = recipe.transformer.model.heads
    rules.append(
        (
            heads > 0 and recipe.transformer.model.width % heads == 0,
            "transformer.model.width",
            recipe.transformer.model.width,
            f"a multiple of transformer.model.heads ({heads})",
        )
    )
    for good, name, found, expected in rules:
        if not good:
            raise ConfigError(f"{where}: {name} is {found}; expected {expected}")
