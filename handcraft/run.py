"""The main job: a recipe, a store, and the question what synthetic clips are worth on it.

For every seed: train both generators, generate, train both classifiers in four arms (real; with augmentation; with
synthetic pretraining; with both), score them on the test split, and a linear model on the same clips beside them.
Stopped at any moment, the same call continues: trainings from their last checkpoint, finished ones at once.
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import handcraft
from handcraft.config import Recipe
from handcraft.data.clips import load_clips
from handcraft.data.store import Store, split_hash
from handcraft.errors import ConfigError, DataError
from handcraft.evaluate import evaluate_classifier, evaluate_generator
from handcraft.files import read_json, write_json, write_text
from handcraft.generate import generate
from handcraft.linear import linear_baseline
from handcraft.partition import partition
from handcraft.recipe import check_recipe, to_plain
from handcraft.report import arm_name, markdown
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
STAGES = len(TWINS) + 1 + len(CLASSIFIERS) * (1 + len(ARMS))  # of one seed, for the progress bar


@dataclass(frozen=True)
class Outcome:
    """What a run wrote."""

    metrics: dict
    report: Path


def run(
    recipe: Recipe,
    data: Path | str,
    out: Path | str,
    *,
    seeds: int = 3,
    clips_per_class: int | None = None,
    progress: bool | None = None,
) -> Outcome:
    """Run `recipe` on the store `data` into the folder `out`, for the seeds 0 to `seeds` - 1.

    Writes `out/metrics.json` (`rows`, one for each model, arm and seed; `generators`; `recipe`; `splits`; `versions`),
    `out/report.md`, and under `out/seed-N/` every checkpoint, the synthetic store and the confusion matrices.
    clips_per_class: draw that many training clips a class by seed; the generators see only those. `ConfigError` if
    `out` holds a run of other settings or data; else what the parts raise.
    """
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}; expected at least 1")
    check_recipe(recipe)
    started = time.monotonic()
    store, out = Store(data), Path(out)
    settings = {
        "recipe": to_plain(recipe),
        "clips_per_class": clips_per_class,
        "data": {"clips": len(store), "hash": split_hash(store.digests), "classes": list(store.classes)},
    }
    _claim(out, settings)
    clips = load_clips(store, recipe.preprocess)
    found = _Found([], [], {})
    show = sys.stderr.isatty() if progress is None else progress
    with tqdm(total=seeds * STAGES, desc="all stages", unit="stage", disable=not show, position=0) as bar:
        for seed in range(seeds):
            part = partition(clips, seed=seed, test_share=recipe.test_share, clips_per_class=clips_per_class)
            found.splits[str(seed)] = part.describe(clips)
            _Seed(recipe, store, Data(clips, part), out, seed, bar.update, show).go(found)
    metrics = {
        "rows": found.rows,
        "generators": found.generators,
        **settings,
        "seeds": seeds,
        "splits": found.splits,
        "data_source": {"path": str(store.path), "source": store.manifest.source, "licence": store.manifest.licence},
        "seconds": round(time.monotonic() - started, 1),
        "threads": torch.get_num_threads(),
        "versions": {
            "handcraft": handcraft.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": sys.version.split()[0],
        },
    }
    write_json(out / "metrics.json", metrics)
    report = out / "report.md"
    write_text(report, markdown(metrics))
    return Outcome(metrics, report)


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
    progress: bool

    def go(self, found: _Found) -> None:
        folder, options = self.out / f"seed-{self.seed}", {"seed": self.seed, "progress": self.progress}
        test = self.data.clips.subset(self.data.part.test)
        twins = {}
        for twin in TWINS:
            place = folder / "generator" / twin
            twins[twin] = train_generator(self.data, self.recipe, place, reverse=twin == "reversed", **options).best
            self.done()
        scores = evaluate_generator(twins["forward"], twins["reversed"], test, seed=self.seed)
        found.generators.append({"seed": self.seed, **scores})
        synthetic = self._synthetic(folder / "synthetic", twins)
        self.done()
        fitted = np.sort(np.concatenate([self.data.part.train, self.data.part.valid]))  # it selects nothing
        self._add(found, linear_baseline(self.store, fitted, self.data.part.test), "none", False, None)
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
                    row = evaluate_classifier(trained.best, test, confusion=place / "confusion.csv")
                    mpjpe = scores["mpjpe"] if pretrained else None
                    self._add(found, row, "synthetic" if pretrained else "none", augment, mpjpe)
                self.done()

    def _add(self, found: _Found, row: dict, pretraining: str, augment: bool, mpjpe: float | None) -> None:
        """One row of `metrics.json`. mpjpe: test error of the generators behind the pretraining, if there was any."""
        first = {"model": row["model"], "pretraining": pretraining, "augmentation": augment, "seed": self.seed}
        rest = {name: value for name, value in row.items() if name not in {*first, "confusion"}}
        found.rows.append({**first, "split": "test", **rest, "mpjpe": mpjpe})
        name = f"{row['model']}, {arm_name(pretraining, augment)}"
        logger.info("seed %d: %s: top-1 %.3f on %d test clips", self.seed, name, row["top1"], row["clips"])

    def _synthetic(self, path: Path, twins: dict[str, Path]) -> Store:
        """The synthetic store: the one that is there if it is whole and from these generators, else a new one."""
        if path.exists():
            try:
                kept = Store(path)
                kept.verify()
                return kept
            except DataError as error:
                logger.warning("%s; it is generated again", error)
                shutil.rmtree(path)
        sources = self.data.clips.subset(self.data.part.train)
        count = self.recipe.synthetic_per_class
        return generate(*twins.values(), sources, path, per_class=count, seed=self.seed, progress=self.progress)


def _claim(out: Path, settings: dict) -> None:
    """Mark `out` as this run's folder, or make sure that it is."""
    mark = out / "run.json"
    if mark.exists():
        before = read_json(mark)
        changed = _first_difference(before, settings)
        if changed:
            raise ConfigError(
                f"{out}: holds a run with another {changed}; continue it with the settings in {mark.name}, or choose "
                "another folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty and holds no run; choose a new folder")
    else:
        write_json(mark, settings)


def _first_difference(before: object, now: object, name: str = "") -> str:
    """Name of the first field in which two nested values differ; "" if they are equal."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**now, **before}:
            found = _first_difference(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
            if found:
                return found
        return ""
    return "" if before == now else f"{name} (was {before!r:.60}, is {now!r:.60})"
