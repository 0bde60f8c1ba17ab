"""Pages made from the command line's own help: every command with its options, every recipe with its fields."""

import argparse
import inspect
import re
import warnings
from pathlib import Path

import tyro

from handcraft import cli
from handcraft.config import Recipe
from handcraft.recipe import load_recipe, recipe_names, to_plain

_REPEATED = re.compile(r"\s*\((?:default: .*|required)\)\s*$", re.DOTALL)
_DEFAULT = re.compile(r"\(default: (.*)\)\s*$", re.DOTALL)


def write(folder: Path) -> None:
    """commands.md and recipes.md in `folder`; a file that would not change is left as it is."""
    folder.mkdir(exist_ok=True)
    for name, text in (("commands.md", commands_page()), ("recipes.md", recipes_page())):
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def commands_page() -> str:
    """A section for each command, in the order of the command line's own overview."""
    return "\n".join(["| command | does |", "| --- | --- |", *_overview(), "", *map(_section, cli.COMMANDS)])


def recipes_page() -> str:
    """What each named recipe is for, and all fields with their default and what the recipes set."""
    recipes = {name: load_recipe(name) for name in recipe_names()}
    lines = ["| recipe | is for |", "| --- | --- |"]
    lines += [*(f"| `{name}` | {_prose(recipe.description)} |" for name, recipe in recipes.items()), ""]
    plain, filled = _flat(to_plain(Recipe())), {name: _flat(to_plain(recipe)) for name, recipe in recipes.items()}
    options = {action.dest.removeprefix("recipe."): action for action in _parser(cli.Run, Recipe())._actions}
    group = None
    for field, default in plain.items():
        head, _, name = field.rpartition(".")
        if name in ("name", "description", "classes", "dim"):  # what a recipe is called, and what data decides
            continue
        if head != group:
            group = head
            lines += [f"## {head or 'The recipe itself'}", "", *_about(head)]
        action = options[field.replace("_", "-")]
        others = "; ".join(
            f"{recipe} `{values[field]}`" for recipe, values in filled.items() if values[field] != default
        )
        said = [_prose(_text(action)), _choices(action), others and f"Recipes: {others}."]
        lines += [f"`{name}`: `{default}`", f": {' '.join(filter(None, said)) or _words(name)}", ""]
    return "\n".join([*lines, ""])


def _overview() -> list[str]:
    return [
        f"| [`handcraft {' '.join(words)}`](#handcraft-{'-'.join(words)}) | {_prose(summary)} |"
        for words, (_, summary, _) in cli.COMMANDS.items()
    ]


def _section(words: tuple[str, ...]) -> str:
    function, _, options = cli.COMMANDS[words]
    parser = _parser(options or function, Recipe() if options else None)
    said = inspect.getdoc(options or function).split("\nArgs:")[0].strip()
    lines = [f"## handcraft {' '.join(words)}", "", _prose(said), ""]
    actions = [action for action in parser._actions if action.dest != "help" and not action.dest.startswith("recipe.")]
    lines += ["```text", " ".join(["handcraft", *words, *_usage(actions, options is not None)]), "```", ""]
    if options:
        lines += ["`RECIPE`", ": a name or a .yaml file: [recipes](recipes.md).", ""]
    for action in actions:
        lines += [_invocation(action), f": {_prose(_text(action))}{_default(action)}".rstrip(), ""]
    if options:
        lines += ["`--recipe.FIELD VALUE`", ": another value for [a field of the recipe](recipes.md).", ""]
    return "\n".join(lines)


def _usage(actions: list[argparse.Action], recipe: bool) -> list[str]:
    """The words after the command: what must be given, and that there are options."""
    needed = ["RECIPE"] * recipe + [_metavar(action) for action in actions if not action.option_strings]
    needed += [f"{a.option_strings[0]} {_metavar(a)}" for a in actions if a.option_strings and _required(a)]
    return needed + ["[options]"] * (recipe or any(a.option_strings and not _required(a) for a in actions))


def _invocation(action: argparse.Action) -> str:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    value = f"`{_metavar(action)}`" if action.nargs != 0 and not names.startswith("`--no-") else ""
    return " ".join(filter(None, [names, value]))


def _metavar(action: argparse.Action) -> str:
    """The value in words; what stands for "not given" is no value that one would write."""
    found = action.metavar or ""
    found = found if isinstance(found, str) else " ".join(found)
    return re.sub(r"^\{None\}\||(?<=\{)None,", "", found)


def _required(action: argparse.Action) -> bool:
    return (action.help or "").rstrip().endswith("(required)")


def _default(action: argparse.Action) -> str:
    found = _DEFAULT.search(action.help or "")
    none = found is None or found[1].strip() in ("", "None", "False")
    return "" if none else f" Default: `{found[1].strip()}`."


def _about(group: str) -> list[str]:
    """What the docstring of a group of fields says; a model's has its own page."""
    found = Recipe()
    for name in filter(None, group.split(".")):
        found = getattr(found, name)
    said = " ".join(inspect.getdoc(found).split())
    return [] if not group or group.endswith("model") else [_prose(said), ""]


def _words(name: str) -> str:
    """What can be said of a field without a help text."""
    return name.replace("_", " ").capitalize() + "."


def _choices(action: argparse.Action) -> str:
    """The values there are, where there are few."""
    found = re.fullmatch(r"\{(.*)\}", _metavar(action))
    return f"One of {', '.join(f'`{name}`' for name in found[1].split(','))}." if found else ""


def _text(action: argparse.Action) -> str:
    """The help of an option without its default, as a sentence or more."""
    said = " ".join(_REPEATED.sub("", action.help or "").split())
    first = said if said.partition(" ")[0].endswith(":") else said[:1].upper() + said[1:]
    return first + "." * (said[-1:] not in (*".!?", ""))


def _prose(text: str) -> str:
    """Plain text as Markdown; what is code stays code."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(piece if piece[:1] == "`" else re.sub(r"([\\*_<>|\[\]#$])", r"\\\1", piece) for piece in pieces)


def _parser(what, recipe: Recipe | None) -> argparse.ArgumentParser:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there is no other way yet to ask tyro for its options
        if recipe is None:
            return tyro.extras.get_parser(what)
        return tyro.extras.get_parser(what, default=what(data=tyro.MISSING, out=tyro.MISSING, recipe=recipe))


def _flat(values: dict, name: str = "") -> dict[str, object]:
    """Nested fields as `part.field`, plain ones of a part before those of its parts."""
    plain = {f"{name}{key}": value for key, value in values.items() if not isinstance(value, dict)}
    for key, value in values.items():
        if isinstance(value, dict):
            plain |= _flat(value, f"{name}{key}.")
    return plain
