"""The main job: a recipe, a store, and the question what synthetic clips are worth on it.

For every seed: train both generators, generate, train both classifiers in four arms (real; with augmentation; with
synthetic pretraining; with both), score them on the test split, and a linear model on the same clips beside them.
Stopped at any moment, the same call continues: trainings from their last checkpoint, finished ones at once.
"""

import contextlib
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from handcraft.checkpoint import load
from handcraft.config import Recipe
from handcraft.data.residence import open_clips
from handcraft.data.resumable import SETTINGS, UNFINISHED
from handcraft.data.store import Store, split_hash
from handcraft.distributed import is_first, on_first
from handcraft.errors import ConfigError, DataError
from handcraft.evaluate import evaluate_classifier, evaluate_generator
from handcraft.files import read_json, write_json, write_text
from handcraft.generate import generate
from handcraft.linear import linear_baseline
from handcraft.machine import machine, versions
from handcraft.metrics.accuracy import write_confusion
from handcraft.partition import partition
from handcraft.recipe import check_recipe, from_plain, to_plain
from handcraft.report import arm_name, markdown
from handcraft.report.html import html_report
from handcraft.resume import LOCK, locked
from handcraft.tracking import Track
from handcraft.training import (
    CLASSIFIERS,
    TWINS,
    Data,
    classifier_recipe,
    pretrain_classifier,
    train_classifier,
    train_generator,
)

logger = logging.getLogger("handcraft")

ARMS = {
    "real": (False, False),
    "augmentation": (False, True),
    "synthetic": (True, False),
    "synthetic-augmentation": (True, True),
}
"""Name of each arm's folder -> (synthetic pretraining, augmentation)."""
FIGURES = ("rows", "generators", "splits")
"""What decides whether a run on disk is the same: how long it took and where is not part of that."""
MARK = "run.json"
STAGES = len(TWINS) + 1 + len(CLASSIFIERS) * (1 + len(ARMS))  # of one seed, for the progress bar


@dataclass(frozen=True)
class Outcome:
    """What a run wrote."""

    metrics: dict
    report: Path
    """For a terminal or an editor."""
    page: Path
    """For a browser: the same, with curves, matrices and clips."""


def run(
    recipe: Recipe,
    data: Path | str,
    out: Path | str,
    *,
    seeds: int = 3,
    clips_per_class: int | None = None,
    progress: bool | None = None,
    track: Track | None = None,
) -> Outcome:
    """Run `recipe` on the store `data` into the folder `out`, for the seeds 0 to `seeds` - 1.

    Writes `out/metrics.json` (`rows`, one for each model, arm and seed; `generators`; `recipe`; `splits`; `machine`;
    `versions`), `out/report.md` and `out/report.html`, and under `out/seed-N/` every checkpoint, the synthetic store
    and the confusion matrices. A finished run is scored again; where the figures are those on disk, `metrics.json` and
    the reports stay as they are.
    clips_per_class: draw that many training clips a class by seed; the generators see only those. track: see
    `handcraft.engine.train`. In a process group the trainings are shared, and the first process does the rest while the
    others wait. `ConfigError` if `out` holds a run of other settings or data, `TrainingError` if another process works
    there; else what the parts raise. Settings or data that cannot work are refused before anything is written.
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; expected at least 1")
    check_recipe(recipe)
    store, out = Store(data), Path(out)
    settings = {
        "recipe": to_plain(recipe),
        "clips_per_class": clips_per_class,
        "data": {"clips": len(store), "hash": split_hash(store.digests), "classes": list(store.classes)},
    }
    on_first(lambda: _require_own(out, settings))
    on_first(store.verify)
    clips = open_clips(store, recipe.preprocess)
    parts = [
        partition(
            clips,
            seed=seed,
            test_share=recipe.test_share,
            clips_per_class=clips_per_class,
            validation_share=recipe.validation_share,
        )
        for seed in range(seeds)
    ]
    with contextlib.ExitStack() as held:
        on_first(lambda: held.enter_context(locked(out)))
        on_first(lambda: write_json(out / MARK, settings))
        found = _Found([], [], {str(seed): part.describe(clips) for seed, part in enumerate(parts)})
        show = (sys.stderr.isatty() if progress is None else progress) and is_first()
        clock = _Clock(out / "seconds.json")
        file, report, page = out / "metrics.json", out / "report.md", out / "report.html"
        before = _earlier(file)
        finished = before is not None and before.get("seeds") == seeds and report.exists() and page.exists()
        with tqdm(total=seeds * STAGES, desc="all stages", unit="stage", disable=not show, position=0) as bar:

            def done() -> None:
                if not finished and is_first():
                    clock.save()
                bar.update()

            for seed, part in enumerate(parts):
                _Seed(recipe, store, Data(clips, part), out, seed, done, {"progress": show, "track": track}).go(found)
        metrics = {
            "rows": found.rows,
            "generators": found.generators,
            **settings,
            "seeds": seeds,
            "splits": found.splits,
            "data_source": {
                "path": str(store.path),
                "source": store.manifest.source,
                "licence": store.manifest.licence,
            },
            "seconds": round(clock.seconds(), 1),
            "machine": machine(),
            "versions": versions(),
        }
        metrics = json.loads(json.dumps(metrics))  # as a reader of the file sees it

        def write() -> Outcome:
            if finished and all(before.get(name) == metrics[name] for name in FIGURES):
                return Outcome(before, report, page)
            write_json(file, metrics)
            write_text(report, markdown(metrics))
            write_text(page, html_report(metrics, out, clips, store.manifest.fps))
            return Outcome(metrics, report, page)

        return on_first(write)


@dataclass
class _Found:
    rows: list[dict]
    generators: list[dict]
    splits: dict[str, dict]


@dataclass
class _Seed:
    """One seed's stages, in order."""

    recipe: Recipe
    store: Store
    data: Data
    out: Path
    seed: int
    done: Callable[[], object]
    watch: dict
    """How the trainings are watched: `progress` and `track`."""

    def go(self, found: _Found) -> None:
        folder, options = self.out / f"seed-{self.seed}", {"seed": self.seed, **self.watch}
        test = self.data.clips.subset(self.data.part.test)
        twins = {}
        for twin in TWINS:
            place = folder / "generator" / twin
            twins[twin] = train_generator(self.data, self.recipe, place, reverse=twin == "reversed", **options).best
            self.done()
        scores = on_first(lambda: evaluate_generator(twins["forward"], twins["reversed"], test, seed=self.seed))
        found.generators.append({"seed": self.seed, **scores})
        synthetic = Store(on_first(lambda: self._synthetic(folder / "synthetic", twins).path))
        self.done()
        fitted = np.sort(np.concatenate([self.data.part.train, self.data.part.valid]))  # it selects nothing
        row, place = on_first(lambda: self._linear(folder / "linear", fitted)), folder / "linear"
        self._add(found, row, place, "none", False, None)
        for model in CLASSIFIERS:
            part = classifier_recipe(self.recipe, model)
            start = None
            if self.recipe.pretrain:
                place = folder / model / "pretraining"
                start = pretrain_classifier(self.data, part, self.recipe.pretrain, synthetic, place, **options).last
            self.done()
            for arm, (pretrained, augment) in ARMS.items():
                if not pretrained or start is not None:
                    place, init = folder / model / arm, start if pretrained else None
                    trained = train_classifier(self.data, part, place, augment=augment, init_from=init, **options)
                    score = partial(evaluate_classifier, trained.best, test, confusion=place / "confusion.csv")
                    row = on_first(score)
                    mpjpe = scores["mpjpe"] if pretrained else None
                    self._add(found, row, place, "synthetic" if pretrained else "none", augment, mpjpe)
                self.done()

    def _linear(self, place: Path, fitted: np.ndarray) -> dict:
        """The row of the linear model that is fitted to these clips; its confusion matrix goes to `place`."""
        row = linear_baseline(self.store, fitted, self.data.part.test)
        write_confusion(place / "confusion.csv", row["confusion"], self.store.classes)
        return row

    def _add(self, found: _Found, row: dict, place: Path, pretraining: str, augment: bool, mpjpe: float | None) -> None:
        """One row of `metrics.json`. place: where its model and matrix are; mpjpe: test error of the generators behind
        the pretraining, if there was any."""
        first = {"model": row["model"], "pretraining": pretraining, "augmentation": augment, "seed": self.seed}
        first["folder"] = place.relative_to(self.out).as_posix()
        rest = {name: value for name, value in row.items() if name not in {*first, "confusion"}}
        found.rows.append({**first, "split": "test", **rest, "mpjpe": mpjpe})
        name = f"{row['model']}, {arm_name(pretraining, augment)}"
        logger.info("seed %d: %s: top-1 %.3f on %d test clips", self.seed, name, row["top1"], row["clips"])

    def _synthetic(self, path: Path, twins: dict[str, Path]) -> Store:
        """The synthetic store: the one that is there if it is from these generators and whole, or begun and then
        finished; else a new one."""
        if path.exists() and not _begun(path, twins):
            try:
                kept = Store(path)
                kept.verify()
                if all(kept.manifest.source.get(twin) == load(place).sha256 for twin, place in twins.items()):
                    return kept
                logger.warning("%s: comes from other generators; it is generated again", path)
            except DataError as error:
                logger.warning("%s; it is generated again", error)
            shutil.rmtree(path)
        sources = self.data.clips.subset(self.data.part.train)
        count = self.recipe.synthetic_per_class
        return generate(
            *twins.values(), sources, path, per_class=count, seed=self.seed, progress=self.watch["progress"]
        )


def _begun(path: Path, twins: dict[str, Path]) -> bool:
    """Whether an unfinished store of these generators is there."""
    settings = _earlier(path / UNFINISHED / SETTINGS)
    source = settings.get("source") if settings else None
    return isinstance(source, dict) and all(source.get(twin) == load(place).sha256 for twin, place in twins.items())


class _Clock:
    """Seconds spent on a run, over all the calls that it took; a call that is killed counts up to its last stage."""

    def __init__(self, file: Path):
        self.file, self.started = file, time.monotonic()
        found = _earlier(file)
        self.earlier = found["seconds"] if found and isinstance(found.get("seconds"), int | float) else 0.0

    def seconds(self) -> float:
        return self.earlier + time.monotonic() - self.started

    def save(self) -> None:
        write_json(self.file, {"seconds": self.seconds()})


def _earlier(file: Path) -> dict | None:
    """What a file of an earlier call says; None where there is none, or none that can be read: it is written anew."""
    try:
        found = read_json(file)
    except DataError:
        return None
    return found if isinstance(found, dict) else None


def _require_own(out: Path, settings: dict) -> None:
    """`ConfigError` unless `out` is new, empty, or the folder of a run with these settings."""
    mark = out / MARK
    if mark.exists():
        before = read_json(mark)
        if isinstance(before, dict) and isinstance(before.get("recipe"), dict):  # what came later had its default then
            before["recipe"] = to_plain(from_plain(Recipe, before["recipe"], str(mark)))
        changed = _first_difference(before, settings)
        if changed:
            raise ConfigError(
                f"{out}: holds a run with another {changed}; continue it with the settings in {mark.name}, or choose "
                "another folder"
            )
    elif out.exists() and any(entry.name != LOCK for entry in out.iterdir()):
        raise ConfigError(f"{out}: is not empty and holds no run; choose a new folder")


def _first_difference(before: object, now: object, name: str = "") -> str:
    """Name of the first field in which two nested values differ; "" if they are equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**now, **before}:
            found = _first_difference(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
            if found:
                return found
        return ""
    return "" if before == now else f"{name} (was {before!r:.60}, is {now!r:.60})"
