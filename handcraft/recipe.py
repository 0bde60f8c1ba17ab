"""Recipes: named YAML files that fill a `Recipe`, checked field by field while they are read.

A file states only what differs from the defaults in `handcraft.config`. Nothing in it can run code, it cannot grow by
referring to itself (YAML's aliases), and a key given twice is an error, where YAML would take the last.
"""

import math
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from handcraft.config import CMLPeConfig, ModelConfig, PreprocessConfig, Recipe, TransformerSLConfig, WindowConfig
from handcraft.errors import ConfigError
from handcraft.files import is_printable
from handcraft.layouts import LAYOUTS

FROM_DATA = ("classes", "dim")
"""Sizes of a model that are filled in from the data."""
_LARGEST = 64 << 10  # bytes; a recipe is a page of text
_LARGEST_NUMBER = 1 << 31
_LARGEST_SIZE = 1 << 16  # of a model, in any direction: 64 times the largest width that is of use
_LONGEST_WINDOW = 4096  # frames

Rule = tuple[bool, str, Any, str]
"""Whether it is kept, the field, what was found there, what was expected."""


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
            if path.exists() and not path.is_file():
                raise ConfigError(f"{path}: is no ordinary file and cannot be read; give a YAML file with a recipe")
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


class _Loader(yaml.SafeLoader):
    """YAML without aliases and without keys given twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not read in recipes", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        known = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in known:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!a:.80} is given twice", key.start_mark)
            known.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader) or {}  # _Loader is a safe loader
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
    elif hint is float and type(value) in (int, float) and abs(value) < _LARGEST_NUMBER:  # so it is finite
        return float(value)
    elif type(value) is hint and _is_plain(value):
        return value
    else:
        number = f"number below {_LARGEST_NUMBER}"
        names = {str: "text of printable characters", int: f"a whole {number}", float: f"a {number}"}
        expected = names.get(hint, "true or false")
    raise ConfigError(f"{where}: found {value!r:.60}, expected {expected}")


def _is_plain(value: Any) -> bool:
    """Whether a value of the right type is also within bounds."""
    if isinstance(value, str):
        return is_printable(value.replace("\n", ""))  # a description may have several lines
    return isinstance(value, bool) or (math.isfinite(value) and abs(value) < _LARGEST_NUMBER)


def check_recipe(recipe: Recipe, where: str = "recipe") -> None:
    """`ConfigError` naming the first field whose value cannot work, alone or beside another."""
    generator, classifiers = recipe.generator, {"transformer": recipe.transformer, "mamba": recipe.mamba}
    before = recipe.preprocess
    rules = [
        *_preprocess_rules(before),
        (0 <= recipe.pretrain < 1, "pretrain", recipe.pretrain, "a share in [0, 1)"),
        (0 <= recipe.validation_share < 1, "validation_share", recipe.validation_share, "a share in [0, 1)"),
        (0 < recipe.test_share < 1, "test_share", recipe.test_share, "a share between 0 and 1"),
        (recipe.synthetic_per_class >= 1, "synthetic_per_class", recipe.synthetic_per_class, "at least 1"),
        (generator.model.noise >= 0, "generator.model.noise", generator.model.noise, "0 or more"),
    ]
    if generator.method == "sequential":
        together, context = generator.rollout * generator.step, generator.model.context
        rules += [
            (generator.step >= 1, "generator.step", generator.step, "at least 1"),
            (
                1 <= together <= context,
                "generator.rollout",
                generator.rollout,
                f"at least 1, and times generator.step ({generator.step}) at most generator.model.context ({context})",
            ),
        ]
    for name, part in classifiers.items():
        rules.append((0 < part.finetune <= 1, f"{name}.finetune", part.finetune, "a share in (0, 1]"))
    dropout = recipe.transformer.model.dropout
    rules.append((0 <= dropout < 1, "transformer.model.dropout", dropout, "a share in [0, 1)"))
    for name, part in {"generator": generator, **classifiers}.items():
        train, augment = part.train, part.augment
        rules += _model_rules(part.model, part.window, f"{name}.")
        rules += [
            (getattr(train, field) >= 1, f"{name}.train.{field}", getattr(train, field), "at least 1")
            for field in ("validate_every", "checkpoint_every", "accumulate")
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
            (
                train.batch >= train.accumulate,
                f"{name}.train.batch",
                train.batch,
                f"at least 1 and {name}.train.accumulate ({train.accumulate})",
            ),
            (train.lr > 0, f"{name}.train.lr", train.lr, "above 0"),
            (0 <= train.ema < 1, f"{name}.train.ema", train.ema, "in [0, 1)"),
            (0 <= train.label_smoothing < 1, f"{name}.train.label_smoothing", train.label_smoothing, "in [0, 1)"),
            (0 < train.warmup < 1, f"{name}.train.warmup", train.warmup, "a share between 0 and 1"),
            (0 < augment.subwindow <= 1, f"{name}.augment.subwindow", augment.subwindow, "in (0, 1]"),
            (augment.rotation >= 0, f"{name}.augment.rotation", augment.rotation, "0 or more degrees"),
            (0 <= augment.scale < 1, f"{name}.augment.scale", augment.scale, "in [0, 1)"),
            (augment.shear >= 0, f"{name}.augment.shear", augment.shear, "0 or more"),
            (augment.jitter >= 0, f"{name}.augment.jitter", augment.jitter, "0 or more"),
            (0 <= augment.drop_hand < 1, f"{name}.augment.drop_hand", augment.drop_hand, "a probability in [0, 1)"),
            (0 <= augment.mirror <= 1, f"{name}.augment.mirror", augment.mirror, "a probability in [0, 1]"),
            (
                part.statistics == "train" or before.centre == "paper",
                f"{name}.statistics",
                part.statistics,
                "train, since the authors' constants belong to preprocess.centre: paper",
            ),
        ]
    _apply(rules, where)


def check_input(preprocess: PreprocessConfig | None, window: WindowConfig, model: ModelConfig, where: str) -> None:
    """`check_recipe` of the parts that a checkpoint keeps, since they say what a trained model is given."""
    _apply([*(_preprocess_rules(preprocess) if preprocess else []), *_model_rules(model, window, "")], where)


def _preprocess_rules(before: PreprocessConfig) -> list[Rule]:
    return [
        (before.layout in LAYOUTS, "preprocess.layout", before.layout, f"one of {', '.join(LAYOUTS)}"),
        (
            before.smooth_window == 0 or (before.smooth_window > before.smooth_order and before.smooth_window % 2 == 1),
            "preprocess.smooth_window",
            before.smooth_window,
            f"0 (off), or odd and larger than preprocess.smooth_order ({before.smooth_order})",
        ),
        (before.smooth_window <= _LONGEST_WINDOW, "preprocess.smooth_window", before.smooth_window, "4096 or less"),
        (before.smooth_order >= 0, "preprocess.smooth_order", before.smooth_order, "0 or more"),
        (before.fill >= 0, "preprocess.fill", before.fill, "0 or more"),
    ]


def _model_rules(model: ModelConfig, window: WindowConfig, name: str) -> list[Rule]:
    """Of a model and the window it sees; `name` is what stands before `model.` and `window.` in the recipe."""
    rules: list[Rule] = [
        (1 <= size <= _LARGEST_SIZE, f"{name}model.{field}", size, f"at least 1 and at most {_LARGEST_SIZE}")
        for field, size in asdict(model).items()
        if type(size) is int and field not in FROM_DATA
    ]
    if isinstance(model, CMLPeConfig):
        wanted, of = 2 * model.context, f"twice {name}model.context ({model.context})"
    else:
        wanted, of = model.frames, f"{name}model.frames ({model.frames})"
    rules += [
        (window.frames == wanted, f"{name}window.frames", window.frames, of),
        (window.frames <= _LONGEST_WINDOW, f"{name}window.frames", window.frames, f"at most {_LONGEST_WINDOW}"),
    ]
    if not isinstance(model, CMLPeConfig):
        rules.append((model.velocity >= 0, f"{name}model.velocity", model.velocity, "0 or more"))
    if isinstance(model, TransformerSLConfig):
        good = model.heads > 0 and model.width % model.heads == 0
        rules.append((good, f"{name}model.width", model.width, f"a multiple of {name}model.heads ({model.heads})"))
    return rules


def _apply(rules: list[Rule], where: str) -> None:
    for good, name, found, expected in rules:
        if not good:
            raise ConfigError(f"{where}: {name} is {found}; expected {expected}")
