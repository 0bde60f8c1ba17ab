"""The trainings behind a study's rows, each done once: a stage's folder is named after everything that shapes it, so
settings and studies that share a stage share its folder, and a study that stopped goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from handcraft.checkpoint import Checkpoint, load
from handcraft.config import AugmentConfig, PreprocessConfig, Recipe
from handcraft.data.clips import Clips, load_clips
from handcraft.data.store import Store, split_hash
from handcraft.errors import DataError
from handcraft.evaluate import evaluate_classifier, evaluate_generator
from handcraft.files import read_json, write_json
from handcraft.generate import generate
from handcraft.metrics.distribution import compare, median_nearest
from handcraft.partition import partition, without_test
from handcraft.studies.setting import Arm, Setting
from handcraft.training import (
    TWINS,
    Data,
    classifier_recipe,
    pretrain_classifier,
    train_classifier,
    train_generator,
    without_labels,
)

DRAWS = 5
"""Of the distribution figures of one seed; the spread over the seeds is what a study reports."""


@dataclass(frozen=True)
class Twins:
    """Trained generators: their best checkpoints."""

    forward: Checkpoint
    reversed: Checkpoint


class Stages:
    """Everything that one seed of a study trains, in `root`. `clips_per_class` draws that many training clips; `judge`
    gives the classifier in whose features clips are compared; `source` other clips, to train generators on without
    labels."""

    def __init__(
        self,
        root: Path,
        clips: Callable[[Recipe], Clips],
        seed: int,
        clips_per_class: int | None,
        judge: Callable[[PreprocessConfig], Checkpoint],
        source: Callable[[Recipe], Clips] | None = None,
    ):
        self.root, self.clips, self.seed = root, clips, seed
        self.clips_per_class, self.judge, self.source = clips_per_class, judge, source

    def data(self, setting: Setting, drawn: bool = True) -> Data:
        """The clips of a setting, partitioned for this seed. drawn: the training clips that the study draws, or all."""
        clips = self.clips(setting.recipe)
        part = partition(
            clips,
            seed=self.seed,
            test_share=setting.recipe.test_share,
            clips_per_class=(setting.clips_per_class or self.clips_per_class) if drawn else None,
            share=setting.share if drawn else 1.0,
            validation_share=setting.recipe.validation_share,
        )
        return Data(clips, part)

    def generators(self, setting: Setting) -> Twins:
        """Both twins, trained on the setting's training clips."""
        return Twins(**{twin: load(self._generator(setting, twin)) for twin in TWINS})

    def _generator(self, setting: Setting, twin: str) -> Path:
        data, recipe = self.data(setting), setting.recipe
        options: dict[str, Any] = {"reverse": twin == "reversed", "seed": self.seed, "progress": False}
        if not setting.start:
            return train_generator(
                data, recipe, self._folder(f"generator-{twin}", data, recipe.generator), **options
            ).best
        others = without_labels(self.source(recipe), self.seed)
        place = self._folder(f"unlabelled-{twin}", others, recipe.generator)
        start = train_generator(others, recipe, place, **options).best
        place = self._folder(f"generator-{twin}", data, recipe.generator, load(start).sha256)
        return train_generator(data, recipe, place, init_from=start, **options).best

    def synthetic(self, setting: Setting) -> Store:
        """The synthetic store of a setting's generators."""
        data, twins = self.data(setting), self.generators(setting)
        count = setting.recipe.synthetic_per_class
        place = self._folder("synthetic", data, count, twins.forward.sha256, twins.reversed.sha256)
        sources = data.clips.subset(data.part.train)
        if not (place / "manifest.json").exists():
            generate(twins.forward, twins.reversed, sources, place, per_class=count, seed=self.seed, progress=False)
        return Store(place)

    def trained(self, setting: Setting, arm: Arm) -> Path:
        """The folder of one arm's classifier, trained."""
        data, part = self.data(setting), classifier_recipe(setting.recipe, arm.model)
        plain = replace(part, augment=AugmentConfig())  # what pretraining and plain arms depend on
        options: dict[str, Any] = {"seed": self.seed, "progress": False}
        start, behind = None, ""
        if arm.pretrained:
            store = self.synthetic(setting)
            behind = split_hash(store.digests)
            place = self._folder(f"{arm.model}-pretraining", data, plain, setting.recipe.pretrain, behind)
            start = pretrain_classifier(data, part, setting.recipe.pretrain, store, place, **options).last
        place = self._folder(
            f"{arm.model}-{'augmented' if arm.augment else 'plain'}",
            data,
            part if arm.augment else plain,
            [setting.recipe.pretrain, behind] if arm.pretrained else None,
        )
        train_classifier(data, part, place, augment=arm.augment, init_from=start, **options)
        return place

    def classifier(self, setting: Setting, arm: Arm) -> dict[str, Any]:
        """Accuracy of one arm on the test clips, `evaluate_classifier`'s row without the confusion matrix."""
        place = self.trained(setting, arm)
        scored = place / "test.json"
        if scored.exists():
            return read_json(scored)
        data = self.data(setting)
        row = evaluate_classifier(place, data.clips.subset(data.part.test))
        kept = {name: value for name, value in row.items() if name != "confusion"}
        write_json(scored, kept)
        return kept

    def generator_figures(self, setting: Setting) -> dict[str, Any]:
        """Errors of the generators on test clips, and how their clips compare with the real test clips, and with the
        training clips, which they might copy. Under `floor` the same figures of test clips, under `training` those of
        real training clips, all there are, in place of the synthetic ones."""
        data, store, twins = self.data(setting), self.synthetic(setting), self.generators(setting)
        judge = self.judge(setting.recipe.preprocess)
        scored = self._folder("figures", data, split_hash(store.digests), judge.sha256) / "test.json"
        if scored.exists():
            return read_json(scored)
        test, train = (data.clips.subset(index) for index in (data.part.test, data.part.train))
        errors = evaluate_generator(twins.forward, twins.reversed, test, seed=self.seed)
        made = load_clips(store, setting.recipe.preprocess)
        near = self._compared(test, made, judge)
        ahead = np.mean([errors[twin]["per_frame"] for twin in TWINS], axis=0).tolist()
        jump = errors["splice_jump"]
        figures = {
            "mpjpe": errors["mpjpe"],
            "splice_jump": jump["generated"],
            "per_frame": ahead,
            "mpjpe_first": ahead[0],
            "mpjpe_last": ahead[-1],
            **{name: entry["value"] for name, entry in near.items()},
            "recognised": evaluate_classifier(judge, made, "synthetic")["top1"],
            "nearest_train": median_nearest(made, train),
            "floor": {
                "splice_jump": jump["real"],
                **{name: entry["floor"] for name, entry in near.items()},
                "recognised": evaluate_classifier(judge, test)["top1"],
                "nearest_train": median_nearest(test, train),
            },
            "training": self._training_figures(setting, judge),
        }
        scored.parent.mkdir(parents=True, exist_ok=True)
        write_json(scored, figures)
        return figures

    def _training_figures(self, setting: Setting, judge: Checkpoint) -> dict[str, float | None]:
        """How the real training clips compare with the test clips: what other signers or sessions make of a figure."""
        data = self.data(setting, drawn=False)
        scored = self._folder("training-figures", data, judge.sha256) / "test.json"
        if scored.exists():
            return read_json(scored)
        test, train = (data.clips.subset(index) for index in (data.part.test, data.part.train))
        figures = {name: entry["value"] for name, entry in self._compared(test, train, judge).items()}
        scored.parent.mkdir(parents=True, exist_ok=True)
        write_json(scored, figures)
        return figures

    def _compared(self, real: Clips, others: Clips, judge: Checkpoint) -> dict[str, dict]:
        """The distribution figures, in poses; Fréchet distance and coverage in the judge's features, too."""
        found, judged = (
            compare(real, others, classifier=classifier, seed=self.seed, draws=DRAWS)["metrics"]
            for classifier in (None, judge)
        )
        return found | {f"{name}_judged": judged[name] for name in ("frechet", "coverage")}

    def _folder(self, kind: str, data: Data, *rest: Any) -> Path:
        """`root/kind-HASH`, the hash being that of the training clips, the seed and all of `rest`."""
        clips = data.clips.digest
        about = {
            "clips": [split_hash(clips[index]) for index in (data.part.train, data.part.valid, data.part.test)],
            "preprocess": asdict(data.clips.preprocess),
            "seed": self.seed,
            "rest": [asdict(value) if is_dataclass(value) else value for value in rest],
        }
        text = json.dumps(about, sort_keys=True)
        return self.root / f"{kind}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def shared_judge(
    root: Path, clips: Callable[[Recipe], Clips], base: Recipe
) -> Callable[[PreprocessConfig], Checkpoint]:
    """Gives the classifier that judges clips of a preprocessing, one for all settings and seeds: Transformer-SL
    of the recipe `base`, trained with augmentation on all real training clips, once, and kept under `root/judge`."""
    kept: dict[PreprocessConfig, Checkpoint] = {}

    def judge(preprocess: PreprocessConfig) -> Checkpoint:
        if preprocess not in kept:
            recipe = replace(base, preprocess=preprocess)
            stages = Stages(root / "judge", clips, 0, None, judge)
            kept[preprocess] = load(stages.trained(Setting("", recipe), Arm("transformer", False, True)))
        return kept[preprocess]

    return judge


def shared_clips(store: Store, training_only: bool = False) -> Callable[[Recipe], Clips]:
    """Loads a store with a recipe's preprocessing, once for each preprocessing; of it the training clips alone, see
    `partition.without_test`, where that is asked for."""
    kept: dict[Any, Clips] = {}

    def clips(recipe: Recipe) -> Clips:
        if recipe.preprocess not in kept:
            found = load_clips(store, recipe.preprocess)
            kept[recipe.preprocess] = without_test(found, recipe.test_share) if training_only else found
        return kept[recipe.preprocess]

    if not len(store):
        raise DataError(f"{store.path}: holds no clips")
    return clips
