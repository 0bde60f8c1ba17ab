"""Run a study: every setting with every seed, rows kept as they come, and a report of what they say."""

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from handcraft.config import Recipe
from handcraft.data.store import Store, split_hash
from handcraft.errors import ConfigError, DataError
from handcraft.files import read_json, write_json, write_text
from handcraft.machine import machine, versions
from handcraft.recipe import check_recipe, to_plain
from handcraft.studies.page import page_of
from handcraft.studies.report import markdown
from handcraft.studies.setting import Setting, Study
from handcraft.studies.stages import Stages, shared_clips
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
    setting and seed where the study measures them), `report.md` and `report.html` beside it, and every training under
    `out/stages/seed-N`, where studies with the same `out` find each other's. Stopped at any moment, the same call goes
    on; rows that are there are not measured again. models: the classifiers to train. source: store whose clips
    generators see first, without labels (the study `transfer`). only: names of the settings to run (empty: all); what
    they are compared with should be among them. training_only: leave the test clips out, and test on groups of the
    training clips that are held out instead: a recipe that is chosen so has not seen the test.
    Returns what `study.json` holds.

    `ConfigError`: settings that cannot work, before anything is trained, or that do not exist; `out/NAME` holds the
    study with another recipe, data or draw.
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; expected at least 1")
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
        about["source"] = split_hash(other.digests)
    if training_only:
        about["training_only"] = True
    file = out / study.name / "study.json"
    found = _earlier(file, about)
    clips = shared_clips(store, training_only)
    show = sys.stderr.isatty() if progress is None else progress
    others = None if other is None else shared_clips(other)
    stages = [
        Stages(out / "stages" / f"seed-{seed}", clips, seed, clips_per_class, False, others) for seed in range(seeds)
    ]
    jobs = [
        (setting, seed, arm)
        for seed in range(seeds)
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
        write_json(file, found)
    found |= {"seeds": seeds, "machine": machine(), "versions": versions()}
    write_json(file, found)
    write_text(file.with_name("report.md"), markdown(found))
    write_text(file.with_name("report.html"), page_of(found))
    return found


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
    for name in ("recipe", "clips_per_class", "settings", "source", "training_only"):
        if found.get(name) != about.get(name):
            raise ConfigError(f"{file}: holds this study with another {name}; choose another folder")
    if found.get("data", {}).get("hash") != about["data"]["hash"]:
        raise ConfigError(f"{file}: holds this study of other data; choose another folder")
    return found
