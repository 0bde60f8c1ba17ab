"""The three trainings: statistics, lengths, starts, and what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_clips import RECIPES, small_clips

from handcraft.checkpoint import load
from handcraft.config import Recipe
from handcraft.data.statistics import authors, compute
from handcraft.data.store import Store, StoreWriter, hex_digests
from handcraft.errors import CheckpointError, ConfigError, DataError
from handcraft.generate import generate
from handcraft.partition import partition
from handcraft.training import Data, classifier_recipe, pretrain_classifier, train_classifier, train_generator

RECIPE = Recipe(
    generator=RECIPES["cmlpe"],
    transformer=RECIPES["transformer_sl"],
    mamba=RECIPES["mamba_sl"],
)


def shortened(part, **changes):
    return replace(part, train=replace(part.train, **({"steps": 6, "validate_every": 3} | changes)))


@pytest.fixture(scope="module")
def data():
    clips = small_clips(per_class=12)
    clips = replace(clips, split=np.array([""] * len(clips)))
    return Data(clips, partition(clips, seed=0))


@pytest.fixture(scope="module")
def synthetic(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    recipe = replace(RECIPE, generator=shortened(RECIPE.generator))
    twins = [
        train_generator(data, recipe, folder / str(reverse), reverse=reverse, seed=0).best for reverse in (False, True)
    ]
    return generate(*twins, data.clips.subset(data.part.train), folder / "store", per_class=4)


def test_statistics_are_those_of_the_training_clips(data):
    found, expected = data.statistics(RECIPE.mamba), compute(data.clips.subset(data.part.train))
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.std, expected.std)
    assert not torch.equal(found.mean, compute(data.clips).mean)
    loaded = data.statistics(replace(RECIPE.mamba, statistics="authors"))
    assert torch.equal(loaded.mean, authors("pose_hands48", 2).mean)


def test_generator_twins(data, synthetic):
    for reverse in (False, True):
        found = load(synthetic.path.parent / str(reverse))
        assert found.reverse == reverse
        assert torch.equal(found.statistics.mean, data.statistics(RECIPE.generator).mean)
        seen = np.concatenate([data.part.train, data.part.valid])
        assert list(found.seen_clips) == sorted(hex_digests(data.clips.digest[seen]))


def test_classifier_recipe():
    assert classifier_recipe(RECIPE, "mamba") is RECIPE.mamba
    assert classifier_recipe(RECIPE, "transformer") is RECIPE.transformer
    with pytest.raises(ConfigError, match="model is 'lstm'; expected one of transformer, mamba"):
        classifier_recipe(RECIPE, "lstm")


def test_pretraining_takes_its_share_of_the_steps_and_the_real_statistics(data, synthetic, tmp_path):
    part = shortened(RECIPE.transformer, steps=20)
    trained = pretrain_classifier(data, part, 0.15, synthetic, tmp_path / "a", seed=1)
    found = load(trained.last)
    assert (trained.steps, found.step, found.seed) == (3, 3, 1)
    assert torch.equal(found.statistics.mean, data.statistics(part).mean)
    assert found.augment.rotation == 0  # whatever the recipe augments real clips with
    assert list(found.seen_clips) == list(synthetic.manifest.seen_clips)
    # an epoch is one of the real training clips: 2 epochs of 23 clips in batches of 8 are 6 steps
    train = len(data.part.train)
    part = replace(part, train=replace(part.train, steps=0, epochs=2.0))
    steps = pretrain_classifier(data, part, 0.5, synthetic, tmp_path / "b", seed=1).steps
    assert steps == round(0.5 * -(-2 * train // 8))
    assert pretrain_classifier(data, part, 0.01, synthetic, tmp_path / "c", seed=1).steps == 1


def test_fine_tuning_starts_from_the_pretrained_weights(data, synthetic, tmp_path):
    part = shortened(RECIPE.mamba)
    start = pretrain_classifier(data, part, 0.5, synthetic, tmp_path / "p", seed=0).last
    still = replace(part, train=replace(part.train, lr=1e-12, weight_decay=0.0, steps=1))
    options = {"augment": False, "seed": 0}
    moved = load(train_classifier(data, still, tmp_path / "c", init_from=start, **options).last)
    fresh = load(train_classifier(data, still, tmp_path / "f", **options).last)
    pretrained = load(start)
    assert moved.initial == pretrained.sha256
    assert fresh.initial == ""
    for name, value in pretrained.model.state_dict().items():
        torch.testing.assert_close(moved.model.state_dict()[name], value, rtol=0, atol=1e-6)
    assert any(
        (fresh.model.state_dict()[name] - value).abs().max() > 1e-3
        for name, value in pretrained.model.state_dict().items()
    )
    with pytest.raises(CheckpointError, match="cannot start from it: its model"):
        train_classifier(data, shortened(RECIPE.transformer), tmp_path / "x", init_from=start, **options)


def test_fine_tuning_has_its_own_rate_and_fresh_training_has_not(data, synthetic, tmp_path):
    part = replace(shortened(RECIPE.transformer), finetune=0.25)
    start = pretrain_classifier(data, part, 0.5, synthetic, tmp_path / "pre", seed=2).last
    tuned = train_classifier(data, part, tmp_path / "a", augment=False, seed=2, init_from=start)
    fresh = train_classifier(data, part, tmp_path / "b", augment=False, seed=2)
    assert load(tuned.last).train.lr == 0.25 * part.train.lr
    assert load(fresh.last).train.lr == load(start).train.lr == part.train.lr


def test_augmentation_is_the_recipes_or_none(data, tmp_path):
    part = shortened(RECIPE.transformer, steps=1)
    for augment, rotation in ((True, 10.0), (False, 0.0)):
        trained = train_classifier(data, part, tmp_path / str(augment), augment=augment, seed=0)
        assert load(trained.last).augment.rotation == rotation


def test_leaks_of_test_clips_are_refused(data, synthetic, tmp_path):
    """The same generators, but now some of the clips they have seen are tested with."""
    part = shortened(RECIPE.mamba)
    swapped = replace(data.part, train=data.part.test, test=data.part.train)
    leaky = Data(data.clips, swapped)
    with pytest.raises(DataError, match="test clips"):
        pretrain_classifier(leaky, part, 0.5, synthetic, tmp_path / "a", seed=0)
    start = pretrain_classifier(data, part, 0.5, synthetic, tmp_path / "b", seed=0).last
    with pytest.raises(DataError, match=r"b/step-00000003: was trained on \d+ of the test clips"):
        train_classifier(leaky, part, tmp_path / "c", augment=False, seed=0, init_from=start)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "c").exists()


def test_pretraining_refuses_other_stores(data, synthetic, tmp_path):
    part = shortened(RECIPE.mamba)

    def refused(match, kind=DataError, share=0.5, store=synthetic, of=data):
        with pytest.raises(kind, match=match):
            pretrain_classifier(of, part, share, store, tmp_path / "x", seed=0)

    refused("pretrain is 0; expected a share", ConfigError, share=0)
    refused("pretrain is 1; expected a share", ConfigError, share=1)
    manifest = synthetic.manifest
    for name, classes, seen, match in (
        ("real", manifest.classes, (), "is no store of synthetic clips"),
        ("more", (*manifest.classes, "zebra"), manifest.seen_clips, "has 4 classes, the training data 3"),
    ):
        with StoreWriter(
            tmp_path / name,
            layout=manifest.layout,
            stage="centred",
            classes=classes,
            coordinates="xy",
            preprocessing=manifest.preprocessing,
            seen_clips=seen,
            dtype=np.float16,
        ) as writer:
            for i in range(len(synthetic)):
                writer.add(synthetic.landmarks(i), id=f"s{i}", label=int(synthetic.labels[i]), split="train")
        refused(match, store=Store(tmp_path / name))
    refused("loaded from a store", of=Data(replace(data.clips, preprocess=None), data.part))
    other = replace(data.clips.preprocess, fill=1)
    refused("preprocessed with another signature", of=Data(replace(data.clips, preprocess=other), data.part))
    assert not (tmp_path / "x").exists()


def test_a_damaged_synthetic_store_is_refused(data, synthetic, tmp_path):
    bad = shutil.copytree(synthetic.path, tmp_path / "bad")
    with open(bad / "part-00000" / "landmarks.npy", "r+b") as file:
        file.seek(-2, 2)
        file.write(b"\x00\x01")
    with pytest.raises(DataError, match="SHA-256"):
        pretrain_classifier(data, shortened(RECIPE.mamba), 0.5, Store(bad), tmp_path / "x", seed=0)


def test_a_finished_training_is_left_as_it_is(data, tmp_path):
    part = shortened(RECIPE.mamba, steps=2)
    first = train_classifier(data, part, tmp_path / "a", augment=False, seed=0)
    written = (first.last / "model.safetensors").stat().st_mtime_ns
    assert train_classifier(data, part, tmp_path / "a", augment=False, seed=0) == first
    assert (first.last / "model.safetensors").stat().st_mtime_ns == written
