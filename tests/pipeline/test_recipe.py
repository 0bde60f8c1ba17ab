"""Recipes: the shipped ones load, and a wrong field is named before anything is trained."""

import os
from dataclasses import replace

import pytest
import yaml

from handcraft.config import PreprocessConfig, Recipe
from handcraft.errors import ConfigError
from handcraft.recipe import check_recipe, from_plain, load_recipe, recipe_names, to_plain


def test_the_promised_recipes_are_there():
    assert {"demo", "small", "strong", "paper", "lsfb", "include", "display"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_and_survives_a_round_trip(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    check_recipe(recipe)
    assert from_plain(Recipe, yaml.safe_load(yaml.safe_dump(to_plain(recipe))), "again") == recipe


@pytest.mark.parametrize("name", ["lsfb", "include", "display"])
def test_paper_recipes_have_the_papers_form(name):
    recipe = load_recipe(name)
    assert (recipe.preprocess.centre, recipe.preprocess.layout) == ("paper", "handcraft60")
    for part in (recipe.generator, recipe.transformer, recipe.mamba):
        assert part.statistics == "authors"
        assert part.train.epoch == "oversampled"
    assert recipe.generator.window.mode == "wrap"
    assert recipe.transformer.window.mode == "zero"


def test_the_recipe_paper_is_that_of_include_on_landmarks_that_every_store_has():
    paper, include = to_plain(load_recipe("paper")), to_plain(load_recipe("include"))
    for part in ("generator", "transformer", "mamba"):
        assert paper[part].pop("statistics") == "train"
        assert include[part].pop("statistics") == "authors"
    assert paper["preprocess"].pop("layout") == "pose_hands48"
    assert include["preprocess"].pop("layout") == "handcraft60"
    for plain in (paper, include):
        del plain["name"], plain["description"]
    assert paper == include


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_file_states_what_differs_from_the_defaults(tmp_path):
    path = write(tmp_path, "pretrain: 0\nmamba: {train: {steps: 7, lr: 1}}\n" + STEPS)
    recipe = load_recipe(path)
    assert (recipe.name, recipe.pretrain, recipe.mamba.train.steps) == ("mine", 0.0, 7)
    assert type(recipe.mamba.train.lr) is float
    assert recipe.preprocess == PreprocessConfig()
    assert recipe.mamba.model == Recipe().mamba.model
    assert load_recipe(write(tmp_path, "name: other\nmamba: {train: {steps: 7}}\n" + STEPS)).name == "other"


STEPS = "generator: {train: {steps: 5}}\ntransformer: {train: {steps: 5}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nme: x", "unknown field 'nme'; known: name, description"),
        ("generator: {train: {stepz: 3}}", "generator: train: unknown field 'stepz'"),
        ("generator: {train: {steps: 3.5}}", "generator: train: steps: found 3.5, expected a whole number"),
        ("generator: {train: {steps: true}}", "steps: found True, expected a whole number"),
        ("generator: {train: {lr: fast}}", "lr: found 'fast', expected a number"),
        ("generator: {train: {lr: true}}", "lr: found True, expected a number"),
        ("generator: {train: {lookahead: 1}}", "lookahead: found 1, expected true or false"),
        ("description: 3", "description: found 3, expected text"),
        ("mamba: {model: {tokens: words}}", "tokens: found 'words', expected one of dct, frames"),
        ("mamba: {model: {tokens: [dct]}}", "tokens: found ['dct'], expected one of dct, frames"),
        ("mamba:", "mamba: found None, expected fields of MambaRecipe"),
        ("[1, 2]", "found [1, 2], expected fields of Recipe"),
        ("3: 4", "unknown field '3'"),
        ("a: [", "not readable as YAML"),
        ("!!python/object/apply:os.getcwd []", "not readable as YAML"),
        ("[" * 5000, "not readable as YAML"),
        ("pretrain: 0.1\nname: x\npretrain: 0.2", "'pretrain' is given twice"),
        ("mamba: {train: {lr: 1, lr: 1}}", "'lr' is given twice"),
        ("a: &a [x]\nb: *a", "aliases (*name) are not read in recipes"),
        ("a: &a {<<: *a}", "aliases (*name) are not read in recipes"),
        ("pretrain: .nan", "pretrain: found nan, expected a number below"),
        ("pretrain: .inf", "pretrain: found inf, expected a number below"),
        ("pretrain: 1" + "0" * 400, "expected a number below"),
        ("synthetic_per_class: 3000000000", "found 3000000000, expected a whole number below 2147483648"),
        ("synthetic_per_class: " + "9" * 5000, "not readable as YAML"),
        ('description: "\\e[2J"', "expected text of printable characters"),
        ("? [a]\n: 1", "not readable as YAML"),
        ("{[a]: 1, [a]: 1}", "not readable as YAML"),
        ("generator: 2026-13-45", "not readable as YAML"),
    ],
)
def test_a_wrong_file_is_refused_naming_the_field(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "folder.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="no ordinary file"):
        load_recipe(tmp_path / "pipe.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b" " * ((64 << 10) + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_recipe(tmp_path / "large.yaml")
    for name in ("smal", "../small", "small.yml.txt", ""):
        with pytest.raises(ConfigError, match="unknown recipe"):
            load_recipe(name)


def test_a_recipe_cannot_grow_by_referring_to_itself(tmp_path):
    """A billion laughs: nine lists of nine aliases each would be 3 GB."""
    lines = ["a0: &a0 [lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(ConfigError, match="aliases"):
        load_recipe(write(tmp_path, "\n".join(lines)))


def test_a_window_longer_than_any_clip_is_refused():
    recipe = changed(load_recipe("demo"), "mamba.model.frames", 5000)
    with pytest.raises(ConfigError, match=r"mamba\.window\.frames is 5000; expected at most 4096"):
        check_recipe(changed(recipe, "mamba.window.frames", 5000))


def changed(recipe, path, value):
    """The recipe with the field at `path` set to `value`."""
    first, _, rest = path.partition(".")
    return replace(recipe, **{first: changed(getattr(recipe, first), rest, value) if rest else value})


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("pretrain", 1.0, "a share in [0, 1)"),
        ("pretrain", -0.1, "a share in [0, 1)"),
        ("validation_share", 1.0, "a share in [0, 1)"),
        ("validation_share", -0.1, "a share in [0, 1)"),
        ("test_share", 0.0, "a share between 0 and 1"),
        ("synthetic_per_class", 0, "at least 1"),
        ("preprocess.fill", -1, "0 or more"),
        ("preprocess.layout", "holistic", "one of holistic75"),
        ("preprocess.smooth_window", 4, "odd and larger than preprocess.smooth_order (2)"),
        ("preprocess.smooth_window", 1, "odd and larger"),
        ("preprocess.smooth_order", -1, "0 or more"),
        ("generator.window.frames", 30, "twice generator.model.context (16)"),
        ("generator.model.noise", -1.0, "0 or more"),
        ("generator.model.blocks", 0, "at least 1"),
        ("mamba.model.width", 1 << 30, "at most 65536"),
        ("preprocess.smooth_window", 4097, "4096 or less"),
        ("generator.statistics", "authors", "train, since the authors' constants belong to preprocess.centre: paper"),
        ("transformer.window.frames", 30, "transformer.model.frames (32)"),
        ("transformer.model.width", 81, "a multiple of transformer.model.heads (4)"),
        ("transformer.model.heads", 0, "at least 1"),
        ("transformer.model.dropout", 1.0, "a share in [0, 1)"),
        ("mamba.window.frames", 30, "mamba.model.frames (32)"),
        ("mamba.model.state", -1, "at least 1"),
        ("mamba.train.steps", 0, "exactly one of steps and epochs (0.0) above 0"),
        ("mamba.train.steps", -5, "0 or more"),
        ("mamba.train.epochs", 2.0, "exactly one of steps and epochs (2.0) above 0"),
        ("mamba.train.batch", 0, "at least 1"),
        ("mamba.train.validate_every", 0, "at least 1"),
        ("mamba.train.checkpoint_every", 0, "at least 1"),
        ("mamba.train.lr", 0.0, "above 0"),
        ("mamba.train.lr", float("nan"), "above 0"),
        ("mamba.train.warmup", 1.0, "a share between 0 and 1"),
        ("mamba.train.weight_decay", -1.0, "0 or more"),
        ("mamba.train.clip_norm", -1.0, "0 or more"),
        ("mamba.train.label_smoothing", 1.0, "in [0, 1)"),
        ("mamba.augment.subwindow", 0.0, "in (0, 1]"),
        ("mamba.augment.rotation", -1.0, "0 or more degrees"),
        ("mamba.augment.scale", 1.0, "in [0, 1)"),
        ("mamba.augment.shear", -0.1, "0 or more"),
        ("mamba.augment.jitter", -0.1, "0 or more"),
        ("mamba.augment.drop_hand", 1.0, "a probability in [0, 1)"),
        ("generator.augment.mirror", 1.5, "a probability in [0, 1]"),
        ("transformer.model.velocity", -1.0, "0 or more"),
    ],
)
def test_values_that_cannot_work_are_named(path, value, expected):
    recipe = load_recipe("demo")
    recipe = replace(recipe, transformer=replace(recipe.transformer, model=Recipe().transformer.model))
    check_recipe(recipe)
    with pytest.raises(ConfigError) as error:
        check_recipe(changed(recipe, path, value), "here")
    message = str(error.value)
    assert message.startswith("here: ")
    assert expected in message
    named = "mamba.train.steps" if path == "mamba.train.epochs" else path
    assert f"{named} is " in message
