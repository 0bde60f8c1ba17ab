"""What commands do beyond one call of the library."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_clips import small_clips
from twins import classifier, twin

from handcraft import commands
from handcraft.checkpoint import save
from handcraft.config import Recipe
from handcraft.data.clips import load_clips
from handcraft.data.manifest import split_hash
from handcraft.data.preprocess import signature
from handcraft.data.store import StoreWriter, hex_digests
from handcraft.errors import ConfigError, DataError
from handcraft.evaluate import evaluate_classifier, evaluate_generator
from handcraft.partition import partition
from handcraft.recipe import load_recipe
from handcraft.synthesis import seen_by


def write_store(path, clips, split=None, ids=None):
    with StoreWriter(
        path,
        layout=clips.layout,
        stage="centred",
        classes=clips.classes,
        coordinates="xy",
        preprocessing=signature(clips.preprocess),
    ) as writer:
        for i in range(len(clips)):
            mark, name = split[i] if split else "", ids[i] if ids else str(clips.ids[i])
            writer.add(clips.clip(i).numpy(), id=name, label=int(clips.label[i]), split=mark)
    return path


@pytest.fixture(scope="module")
def clips():
    found = small_clips(per_class=9)
    return replace(found, split=np.array([""] * len(found)))


def trained_on(checkpoint, clips):
    return replace(checkpoint, seen_clips=tuple(sorted(hex_digests(clips.digest))))


def test_without_labels_all_clips_of_any_store_are_used(clips, tmp_path):
    """Also of one that labelled training refuses, since it has nothing to test with."""
    store = write_store(tmp_path / "s", clips, split=["train"] * len(clips))
    recipe = replace(load_recipe("small"), preprocess=clips.preprocess)
    with pytest.raises(DataError, match="expected both 'train' and 'test'"):
        commands.training_data(store, recipe, 0, None)
    data = commands.training_data(store, recipe, 0, None, unlabelled=True)
    assert data.clips.classes == ("unlabelled",)
    assert sorted([*data.part.train, *data.part.valid]) == list(range(len(clips)))
    with pytest.raises(ConfigError, match="--clips-per-class is 2, but --unlabelled"):
        commands.training_data(store, recipe, 0, 2, unlabelled=True)


def test_unmarked_stores_are_scored_on_what_training_holds_out(clips, tmp_path):
    store = write_store(tmp_path / "s", clips)
    for share in (0.3, 0.5):
        part = partition(clips, seed=7, test_share=share)
        kept, held_out = clips.subset(np.concatenate([part.train, part.valid])), clips.subset(part.test)
        save(tmp_path / f"c{share}", trained_on(classifier(kept), kept), None)
        found = commands.evaluation(tmp_path / f"c{share}", store, "test", share, None)
        assert found["clips"] == len(part.test)
        expected = evaluate_classifier(trained_on(classifier(kept), kept), held_out)
        assert found["confusion"] == expected["confusion"].tolist()
        json.dumps(found)
    with pytest.raises(DataError, match="of the test clips"):  # another share holds out clips that were trained on
        commands.evaluation(tmp_path / "c0.3", store, "test", 0.6, None)
    with pytest.raises(DataError, match="no clip is marked 'valid'"):
        commands.evaluation(tmp_path / "c0.3", store, "valid", 0.3, None)
    assert commands.evaluation(tmp_path / "c0.3", store, "all", 0.3, None)["clips"] == 27


def test_marked_stores_are_scored_on_their_marks(clips, tmp_path):
    marks = ["test" if i % 3 else "train" for i in range(27)]
    store = write_store(tmp_path / "s", clips, marks)
    save(tmp_path / "c", trained_on(classifier(clips), clips.subset(np.arange(27) % 3 == 0)), None)
    assert commands.evaluation(tmp_path / "c", store, "test", 0.3, None)["clips"] == 18
    assert commands.evaluation(tmp_path / "c", store, "train", 0.3, None)["clips"] == 9


def test_generators_are_told_from_classifiers(clips, tmp_path):
    part = partition(clips, seed=0)
    kept, held_out = clips.subset(part.train), clips.subset(part.test)
    for name in ("forward", "reversed"):
        save(tmp_path / "g" / name, trained_on(twin(kept, reverse=name == "reversed"), kept), None)
    store = write_store(tmp_path / "s", clips)
    found = commands.evaluation(tmp_path / "g", store, "test", 0.3, None)
    expected = evaluate_generator(tmp_path / "g" / "forward", tmp_path / "g" / "reversed", held_out)
    assert found == expected
    assert commands.evaluation(tmp_path / "g", store, "all", 0.3, None)["clips"] == 27
    with pytest.raises(ConfigError, match="holds generators, which recognise nothing"):
        commands.evaluation(tmp_path / "g", store, "test", 0.3, tmp_path / "c.csv")


def test_sources_are_the_training_clips(clips):
    part = partition(clips, seed=5)
    seen = clips.subset(np.concatenate([part.train, part.valid]))
    made = trained_on(twin(clips, reverse=False), seen)
    made = replace(made, seed=5, split_hashes={"train": split_hash(clips.digest[part.train])})
    assert len(part.valid)
    assert seen_by(made, clips).ids.tolist() == clips.ids[part.train].tolist()
    # in a store with other clips beside them, they are still found
    more = small_clips(per_class=9, seed=3)
    assert len(seen_by(replace(made, seen_clips=(*made.seen_clips, "0" * 16)), clips)) == len(part.train)
    with pytest.raises(DataError, match="none of the 27 clips is among those"):
        seen_by(made, more)
    # of a generator that was validated some other way, all clips it has seen
    other = replace(made, split_hashes={"train": "0" * 32})
    assert sorted(seen_by(other, clips).ids) == sorted(seen.ids)


def test_training_data_is_checked_before_it_is_loaded(clips, tmp_path):
    store = write_store(tmp_path / "s", clips)
    demo = load_recipe("demo")
    recipe = replace(demo, preprocess=clips.preprocess)
    data = commands.training_data(store, recipe, 3, 4)
    again = partition(load_clips(store, clips.preprocess), seed=3, clips_per_class=4)
    assert np.array_equal(data.part.train, again.train)
    assert np.array_equal(data.part.test, again.test)
    for seed in (-1, 1 << 63):
        with pytest.raises(ConfigError, match=f"--seed is {seed}; expected 0 to"):
            commands.training_data(store, recipe, seed, None)
    with pytest.raises(ConfigError, match="exactly one of steps and epochs"):
        commands.training_data(store, Recipe(preprocess=clips.preprocess), 0, None)
    with pytest.raises(DataError, match="preprocessed with another signature"):
        commands.training_data(store, demo, 0, None)


def test_folder_of_a_trained_classifier(tmp_path):
    assert commands.classifier_folder(tmp_path) == tmp_path
    (tmp_path / "classifier").mkdir()
    assert commands.classifier_folder(tmp_path) == tmp_path / "classifier"


def test_figures_without_lists():
    figures = {"a": 1, "b": [1], "c": {"d": [2], "e": {"f": None, "g": []}}}
    assert commands.without_lists(figures) == {"a": 1, "c": {"e": {"f": None}}}
