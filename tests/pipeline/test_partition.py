"""Which clips train, validate and test: the data's marks, whole groups, or a share of each class."""

from dataclasses import replace

import numpy as np
import pytest
from small_clips import small_clips

from handcraft.data.manifest import split_hash
from handcraft.errors import ConfigError, DataError
from handcraft.partition import partition, without_test


def clips_of(groups=None, split=None, classes=3, per_class=12):
    clips = small_clips(classes=classes, per_class=per_class, lengths=(2, 4), missing=False)
    count = len(clips)
    columns = {"group": groups or [""] * count, "split": split or [""] * count}
    return replace(clips, **{name: np.array(column) for name, column in columns.items()})


def parts(part):
    return {name: set(getattr(part, name).tolist()) for name in ("train", "valid", "test")}


def test_the_datas_own_split_is_kept_and_the_rest_left_out():
    marks = [("train", "train", "test", "train", "spare")[i % 5] for i in range(36)]
    clips = clips_of(split=marks)
    part = partition(clips, seed=3)
    found = parts(part)
    assert found["test"] == {i for i in range(36) if marks[i] == "test"}
    assert found["train"] | found["valid"] == {i for i in range(36) if marks[i] == "train"}
    assert not found["train"] & found["valid"]
    assert part.how == "the data's own split; 7 clips marked neither train nor test are left out"
    assert part.test_groups == ()
    only = clips_of(split=["train"] * 24 + ["test"] * 12)
    with pytest.raises(DataError, match="1 classes have no training clip: sign2"):
        partition(only, seed=0)
    assert "left out" not in partition(clips_of(split=["train", "test"] * 18), seed=0).how


def test_groups_in_train_and_test_are_not_called_held_out():
    groups = ["a", "b", "c"] * 12
    marks = ["test" if name == "c" or i < 2 else "train" for i, name in enumerate(groups)]
    assert partition(clips_of(groups, marks), seed=0).test_groups == ("c",)


def test_whole_groups_are_held_out():
    groups = [f"signer{i % 5}" for i in range(36)]
    clips = clips_of(groups)
    part = partition(clips, seed=0, test_share=0.4)
    found = parts(part)
    tested = {groups[i] for i in found["test"]}
    assert set(part.test_groups) == tested
    assert tested.isdisjoint({groups[i] for i in found["train"] | found["valid"]})
    assert len(tested) == 2
    assert set(clips.label[part.test].tolist()) == {0, 1, 2}
    assert part.how == "whole groups held out, 40% of the clips wanted"
    assert found["train"] | found["valid"] | found["test"] == set(range(36))


@pytest.mark.parametrize("group", ["", "alone"])
def test_without_groups_each_class_gives_its_share(group):
    clips = clips_of([group] * 36)
    part = partition(clips, seed=0, test_share=0.25)
    assert np.bincount(clips.label[part.test]).tolist() == [3, 3, 3]
    assert np.bincount(clips.label[np.concatenate([part.train, part.valid])]).tolist() == [9, 9, 9]
    assert "signers may be in both" in part.how
    assert part.test_groups == ()


@pytest.mark.parametrize("groups", [None, [f"signer{i % 5}" for i in range(36)]])
def test_the_seed_draws_training_and_validation_clips_alone(groups):
    clips = clips_of(groups)
    found = [partition(clips, seed=seed, clips_per_class=5) for seed in range(4)]
    assert all(np.array_equal(part.test, found[0].test) for part in found)
    assert len({part.train.tobytes() for part in found}) == 4
    whole = [partition(clips, seed=seed) for seed in range(4)]
    assert all(np.array_equal(part.test, found[0].test) for part in whole)
    assert len({part.valid.tobytes() for part in whole}) > 1
    again = partition(clips, seed=2, clips_per_class=5)
    assert np.array_equal(again.train, found[2].train)
    assert np.array_equal(again.valid, found[2].valid)


def test_a_draw_is_taken_from_the_training_clips():
    clips = clips_of([f"signer{i % 5}" for i in range(36)])
    whole, part = partition(clips, seed=1), partition(clips, seed=1, clips_per_class=4)
    drawn = np.concatenate([part.train, part.valid])
    assert np.bincount(clips.label[drawn]).tolist() == [4, 4, 4]
    assert set(drawn.tolist()) <= parts(whole)["train"] | parts(whole)["valid"]
    assert part.how.endswith("; 4 training clips a class drawn with seed 1")
    two = partition(clips, seed=1, clips_per_class=2)
    assert (len(two.train), len(two.valid)) == (6, 0)
    with pytest.raises(ConfigError, match="clips per class is 0"):
        partition(clips, seed=1, clips_per_class=0)


def test_impossible_splits_say_why():
    with pytest.raises(DataError, match="expected both 'train' and 'test', or no marks at all"):
        partition(clips_of(split=["train"] * 36), seed=0)
    with pytest.raises(DataError, match="marked '', 'test'; expected both"):
        partition(clips_of(split=["", "test"] * 18), seed=0)
    alone = [f"signer{i % 3}" if i < 24 else "only" for i in range(36)]
    with pytest.raises(DataError, match=r"no split of whole groups exists: class sign2 .*'only'"):
        partition(clips_of(alone), seed=0)
    with pytest.raises(DataError, match="18 clips have no group"):
        partition(clips_of(["", "a"] * 18), seed=0)
    with pytest.raises(DataError, match="single clip"):
        partition(clips_of(per_class=1), seed=0)
    with pytest.raises(ConfigError, match="share is 1"):
        partition(clips_of(), seed=0, test_share=1.0)


def test_the_same_content_in_train_and_test_is_refused_before_training():
    clips = clips_of(split=["train", "test", "train"] * 12)
    digest = clips.digest.copy()
    digest[4] = digest[3]
    with pytest.raises(DataError, match="1 test clips have the content of a training clip: clip004"):
        partition(replace(clips, digest=digest), seed=0)
    digest = clips.digest.copy()
    digest[0] = digest[2]  # twice in train does no harm
    partition(replace(clips, digest=digest), seed=0)


def test_describe_gives_sizes_and_hashes():
    clips = clips_of([f"signer{i % 5}" for i in range(36)])
    part = partition(clips, seed=0)
    found = part.describe(clips)
    assert list(found) == ["how", "test_groups", "train", "valid", "test"]
    assert found["test_groups"] == list(part.test_groups)
    for name in ("train", "valid", "test"):
        index = getattr(part, name)
        assert found[name] == {"clips": len(index), "hash": split_hash(clips.digest[index])}


def test_recipes_are_chosen_without_the_test_clips():
    groups = [f"signer{i % 6}" for i in range(36)]
    marks = ["test" if name == "signer5" else "train" for name in groups]
    clips = clips_of(groups, marks)
    left = without_test(clips, 0.3)
    assert sorted(left.ids) == sorted(clips.ids[np.array(marks) == "train"])
    assert set(left.split) == {""}
    assert left.classes == clips.classes
    unmarked = clips_of(groups)
    tested = set(unmarked.ids[partition(unmarked, seed=0, test_share=0.3).test])
    assert set(without_test(unmarked, 0.3).ids) == set(unmarked.ids) - tested
    assert set(partition(left, seed=0).test_groups) < set(groups) - {"signer5"}


def test_a_class_of_one_group_cannot_be_chosen_by():
    groups = ["a" if i < 12 else "abc"[i % 3] for i in range(36)]  # class 0 in group a alone
    marks = ["test" if i % 12 == 11 else "train" for i in range(36)]
    clips = clips_of(groups, marks)
    left = without_test(clips, 0.3)
    assert left.classes == clips.classes[1:]
    by_id = dict(zip(clips.ids, clips.label.tolist(), strict=True))
    assert [by_id[name] - 1 for name in left.ids] == left.label.tolist()
    with pytest.raises(DataError, match="1 classes have training clips of two groups"):
        without_test(clips_of(["a" if i < 24 else "ab"[i % 2] for i in range(36)], marks), 0.3)


def test_the_share_of_validation_clips():
    clips = clips_of([f"signer{i % 5}" for i in range(36)])
    none = partition(clips, seed=3, validation_share=0)
    some = partition(clips, seed=3, validation_share=0.25)
    assert len(none.valid) == 0
    assert len(some.valid) == round(0.25 * len(none.train))
    assert parts(none)["train"] == parts(some)["train"] | parts(some)["valid"]
    assert np.array_equal(none.test, some.test)
