"""Run a study: every setting with every seed, rows kept as they come, and a report of what they say."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from handcraft.config import Recipe
from handcraft.data.store import Store, split_hash
from handcraft.errors import ConfigError, DataError
from handcraft.files import read_json, write_json, write_text
from handcraft.machine import machine, versions
from handcraft.recipe import check_recipe, from_plain, load_recipe, recipe_names, to_plain
from handcraft.resume import locked
from handcraft.studies.page import page_of
from handcraft.studies.report import markdown
from handcraft.studies.setting import Setting, Study
from handcraft.studies.stages import Stages, shared_clips, shared_judge
from handcraft.training import CLASSIFIERS

SEEDS = 5


def run_study(
    study: Study,
    recipe: Recipe,
    data: Path | str,
    out: Path | str,
    *,
    seeds: int = SEEDS,
    clips_per_class: int | None = None,
    models: tuple[str, ...] = CLASSIFIERS,
    source: Path | str | None = None,
    only: tuple[str, ...] = (),
    training_only: bool = False,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Run `study` with `recipe` as its base on the store `data`, for the seeds 0 to `seeds` - 1.

    Writes `out/NAME/study.json` (`settings`, `rows`: one for each setting, arm and seed; `generators`: one for each
    setting and seed where the study measures them; `command`; `seconds` and `cpu_seconds`, over all the calls that it
    took), `report.md` and `report.html` beside it, and every training under `out/stages/seed-N`, where studies with the
    same `out` find each other's. Stopped at any moment, the same call goes on; rows that are there are not measured
    again. models: the classifiers to train. source: store whose clips generators see first, without labels (the study
    `transfer`). only: names of the settings to run (empty: all); what they are compared with should be among them.
    training_only: leave the test clips out, and test on groups of the training clips that are held out instead: a
    recipe that is chosen so has not seen the test. Returns what `study.json` holds.

    `ConfigError`: settings that cannot work, before anything is trained, or that do not exist; `out/NAME` holds the
    study with another recipe, data or draw. `DataError`: a source that shares clips with the data. `TrainingError`:
    another process works on this study.
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; expected at least 1")
    if not models or set(models) - set(CLASSIFIERS):
        raise ConfigError(f"models is {models}; expected one or more of {', '.join(CLASSIFIERS)}")
    if study.needs_source != (source is not None):
        raise ConfigError(
            f"study {study.name}: source is {source}; expected "
            + ("a store with other clips, to train generators on without labels" if study.needs_source else "none")
        )
    settings = _chosen(study, recipe, only)
    for setting in settings:
        check_recipe(setting.recipe, f"study {study.name}, setting {setting.name}")
    store, out = Store(data), Path(out)
    store.verify()
    about = {
        "study": study.name,
        "question": study.question,
        "against": study.against(setting.name for setting in settings),
        "between": study.between,
        "settings": [setting.name for setting in settings],
        "recipe": to_plain(recipe),
        "clips_per_class": clips_per_class,
        "data": {"clips": len(store), "hash": split_hash(store.digests), "path": str(store.path)},
    }
    other = None
    if source is not None:
        other = Store(source)
        other.verify()
        shared = len(set(other.digests) & set(store.digests))
        if shared:
            raise DataError(f"{source}: {shared} of its clips are in {data}, too; give a source with other clips")
        about["source"] = split_hash(other.digests)
    if training_only:
        about["training_only"] = True
    clips = shared_clips(store, training_only)
    others = None if other is None else shared_clips(other)
    judge = shared_judge(out / "stages", clips, recipe)
    stages = [
        Stages(out / "stages" / f"seed-{seed}", clips, seed, clips_per_class, judge, others) for seed in range(seeds)
    ]
    options = {"data": store.path, "out": out, "recipe": _recipe_name(recipe), "seeds": seeds}
    options |= {"clips_per_class": clips_per_class, "models": () if set(models) == set(CLASSIFIERS) else models}
    options |= {"source": source, "only": only, "training_only": training_only}
    show = sys.stderr.isatty() if progress is None else progress
    file = out / study.name / "study.json"
    _earlier(file, about)  # what is there, and what cannot be split, is refused before anything is written
    for setting in settings:
        stages[0].data(setting)
    with locked(file.parent):
        found = _earlier(file, about) | {"command": _command(study.name, options)}
        _measure(study, settings, stages, models, file, found, show)
        measured = {row["seed"] for name in ("rows", "generators") for row in found[name]}
        found |= {"seeds": len(measured), "machine": machine(), "versions": versions()}
        write_json(file, found)
        write_text(file.with_name("report.md"), markdown(found))
        write_text(file.with_name("report.html"), page_of(found))
    return found


def _measure(
    study: Study,
    settings: tuple[Setting, ...],
    stages: list[Stages],
    models: tuple[str, ...],
    file: Path,
    found: dict[str, Any],
    show: bool,
) -> None:
    """Add the rows that `found` lacks, seed by seed, each to the file as soon as it is there."""
    clock = _Clock(found)
    jobs = [
        (setting, seed, arm)
        for seed in range(len(stages))
        for setting in settings
        for arm in (*((None,) if setting.generators else ()), *(arm for arm in setting.arms if arm.model in models))
    ]
    for setting, seed, arm in tqdm(jobs, desc=study.name, unit="row", disable=not show):
        label = {"setting": setting.name, "seed": seed}
        if arm is not None:
            label |= {"model": arm.model, "pretrained": arm.pretrained, "augmented": arm.augment}
        rows = found["generators" if arm is None else "rows"]
        if any(all(row.get(name) == value for name, value in label.items()) for row in rows):
            continue
        stage = stages[seed]
        figures = stage.generator_figures(setting) if arm is None else stage.classifier(setting, arm)
        rows.append({**label, **figures, **label})  # the label's words for a model are the study's
        found |= clock.spent()
        write_json(file, found)


class _Clock:
    """Time spent on a study, over all the calls that it took; a call that is killed counts up to its last row. Nothing
    is known of rows from before it was counted, so then nothing is said."""

    def __init__(self, found: dict[str, Any]):
        self.before = {name: found.get(name, 0.0) for name in ("seconds", "cpu_seconds")}
        self.known = "seconds" in found or not (found["rows"] or found["generators"])
        self.started = self._now()

    def spent(self) -> dict[str, float]:
        """`seconds` by the clock and `cpu_seconds`, those of child processes included."""
        if not self.known:
            return {}
        return {name: round(self.before[name] + now - self.started[name], 1) for name, now in self._now().items()}

    @staticmethod
    def _now() -> dict[str, float]:
        return {"seconds": time.monotonic(), "cpu_seconds": sum(os.times()[:4])}


def _command(name: str, options: dict[str, Any]) -> str:
    """The command that does what this call does."""
    words: list[Any] = ["handcraft", "study", name]
    for option, value in options.items():
        if value not in (None, False, ()):
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [f"--{option.replace('_', '-')}", *values]
    return shlex.join(map(str, words))


def _recipe_name(recipe: Recipe) -> str:
    """What the command calls it: its name, or the file of its name if it is not one of ours."""
    ours = recipe.name in recipe_names() and load_recipe(recipe.name) == recipe
    return recipe.name if ours else f"{recipe.name}.yaml"


def _chosen(study: Study, recipe: Recipe, only: tuple[str, ...]) -> tuple[Setting, ...]:
    """The settings of a study, or those named in `only`."""
    settings = study.settings(recipe)
    unknown = set(only) - {setting.name for setting in settings}
    if unknown:
        names = ", ".join(repr(setting.name) for setting in settings)
        raise ConfigError(f"study {study.name} has no setting {sorted(unknown)[0]!r}; expected some of {names}")
    return tuple(setting for setting in settings if not only or setting.name in only)


def _earlier(file: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The rows of an earlier call that asked the same, or none."""
    if not file.exists():
        return about | {"rows": [], "generators": []}
    found = read_json(file)
    if not isinstance(found, dict) or not all(isinstance(found.get(name), list) for name in ("rows", "generators")):
        raise DataError(f"{file}: holds no study; move it away, or choose another folder")
    if isinstance(found.get("recipe"), dict):  # fields that came later had their defaults then
        found["recipe"] = to_plain(from_plain(Recipe, found["recipe"], str(file)))
    for name in ("recipe", "clips_per_class", "settings", "source", "training_only"):
        if found.get(name) != about.get(name):
            raise ConfigError(f"{file}: holds this study with another {name}; choose another folder")
    if found.get("data", {}).get("hash") != about["data"]["hash"]:
        raise ConfigError(f"{file}: holds this study of other data; choose another folder")
    return found
