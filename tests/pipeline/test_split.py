"""Splits: whole groups, every class on both sides, deterministic, and an impossible request names the class."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from handcraft.data.split import draw_clips_per_class, group_split, stratified_split, validation_split
from handcraft.errors import ConfigError, DataError

REAL = Path(__file__).parents[3] / "shared" / "data" / "asl33.npz"


def as_clips(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (G,C) -> the group and class of each clip."""
    places = [(g, c) for g, c in np.ndindex(counts.shape) for _ in range(counts[g, c])]
    groups, labels = np.array(places).T
    return np.array([f"g{g}" for g in groups]), labels


def left_out(counts: np.ndarray, chosen: np.ndarray) -> int:
    test = counts[chosen].sum(axis=0)
    return int(((test == 0) | (test == counts.sum(axis=0))).sum())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_group_split_finds_the_best_there_is(data):
    """Against every subset of up to eight groups: no class left out if that is possible, and the nearest test share."""
    groups, classes = data.draw(st.integers(2, 8)), data.draw(st.integers(1, 5))
    rows = st.lists(st.integers(0, 4), min_size=classes, max_size=classes)
    counts = np.array(data.draw(st.lists(rows, min_size=groups, max_size=groups)))
    counts = counts[counts.sum(axis=1) > 0]
    assume(len(counts) and ((counts > 0).sum(axis=0) >= 2).all())
    share = data.draw(st.sampled_from([0.1, 0.2, 0.3, 0.5]))
    subsets = [np.array(bits, dtype=bool) for bits in itertools.product([0, 1], repeat=len(counts))]
    possible = [counts[bits].sum() for bits in subsets if left_out(counts, bits) == 0]
    names, labels = as_clips(counts)
    seed = data.draw(st.integers(0, 5))
    if not possible:
        with pytest.raises(DataError, match="no split of the"):
            group_split(names, labels, share, seed)
        return
    train, test = group_split(names, labels, share, seed)
    assert (train ^ test).all()
    assert not set(names[train]) & set(names[test])
    assert set(labels[train]) == set(labels[test]) == set(labels)
    target = max(1, round(share * len(labels)))
    assert abs(test.sum() - target) == min(abs(int(size) - target) for size in possible)


def test_group_split_covers_classes_where_scikit_learn_leaves_some_out():
    """On 22 real recording sessions, with the classes recorded in at least two of them."""
    if not REAL.exists():
        pytest.skip(f"real data is not at hand: no {REAL}")
    with np.load(REAL) as arrays:
        labels, sessions, names = arrays["y"], arrays["session"], arrays["class_names"]
    with pytest.raises(DataError, match=r"classes b, c, e, f, g and 12 more recorded in one group only"):
        group_split(sessions, labels, 0.3, 0, names)
    twice = [label for label in range(len(names)) if len(set(sessions[labels == label])) > 1]
    kept = np.isin(labels, twice)
    labels, sessions = labels[kept], sessions[kept]
    assert len(twice) == 16
    for folds in (3, 4, 5):
        theirs = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(labels, labels, sessions)
        assert any(len(set(labels[test])) < 16 for _, test in theirs)
        train, test = group_split(sessions, labels, 1 / folds, 0)
        assert set(labels[train]) == set(labels[test]) == set(twice)
        assert not set(sessions[train]) & set(sessions[test])
    assert abs(group_split(sessions, labels, 0.3, 0)[1].mean() - 0.3) < 0.01


def test_group_split_is_a_function_of_the_seed():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 30, 600).astype(str), rng.integers(0, 5, 600)
    first = group_split(groups, labels, 0.25, 3)[1]
    assert (group_split(groups, labels, 0.25, 3)[1] == first).all()
    assert any((group_split(groups, labels, 0.25, seed)[1] != first).any() for seed in range(4, 9))
    names = np.array(list("abcde"))[labels]
    assert (group_split(groups, names, 0.25, 3)[1] == first).all()


def test_a_class_of_one_group_is_named():
    groups = ["ann", "ann", "bob", "bob", "cid"]
    with pytest.raises(DataError, match=r"class tea recorded in one group only \(tea in 'ann'\)"):
        group_split(groups, ["yes", "tea", "yes", "no", "no"], 0.4, 0)
    with pytest.raises(DataError, match="tea in 'ann'"):
        group_split(groups, [1, 0, 1, 2, 2], 0.4, 0, classes=["tea", "yes", "no"])


def test_classes_that_exclude_each_other_are_refused():
    """Three signers, each pair sharing a class: whoever is alone on a side leaves the others' class out."""
    with pytest.raises(DataError, match=r"no split of the 3 groups was found.*leaves out class (x|y|z);"):
        group_split(["a", "a", "b", "b", "c", "c"], ["x", "y", "x", "z", "y", "z"], 0.3, 0)


def test_bad_requests_for_a_split():
    for share in (0.0, 1.0, -0.1, 2.0, float("nan")):
        with pytest.raises(ConfigError, match="expected a number between 0 and 1"):
            group_split(["a", "b"], [0, 0], share, 0)
        with pytest.raises(ConfigError, match="expected a number between 0 and 1"):
            stratified_split([0, 0], share, 0)
    with pytest.raises(ConfigError, match="seed is -1"):
        group_split(["a", "b"], [0, 0], 0.5, -1)
    with pytest.raises(DataError, match="1 clips have no group"):
        group_split(["a", ""], [0, 0], 0.5, 0)
    with pytest.raises(DataError, match="2 groups for 3 labels"):
        group_split(["a", "b"], [0, 0, 0], 0.5, 0)
    with pytest.raises(DataError, match="class 7 a single clip only"):
        stratified_split([0, 0, 7], 0.5, 0)
    with pytest.raises(DataError, match="no clip"):
        stratified_split([], 0.5, 0)
    with pytest.raises(ConfigError, match="clips per class is 0"):
        draw_clips_per_class(np.arange(3), np.zeros(3), 0, 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=8), st.floats(0.05, 0.95), st.integers(0, 9))
def test_stratified_split_takes_a_share_of_every_class(sizes, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    train, test = stratified_split(labels, share, seed)
    assert (train ^ test).all()
    for label, size in enumerate(sizes):
        held = int(test[labels == label].sum())
        assert 1 <= held <= size - 1
        assert abs(held - share * size) <= 1
    if all(1 <= share * size <= size - 1 for size in sizes):
        assert abs(int(test.sum()) - share * len(labels)) <= 0.5 + 1e-6


def test_validation_is_a_stratified_share_of_the_training_clips():
    labels = np.repeat(np.arange(4), [100, 50, 30, 60])
    index = np.flatnonzero(np.arange(240) % 3 > 0)
    train, valid = validation_split(index, labels, 0.1, seed=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, valid])), index)
    assert len(valid) == 16
    for label in range(4):
        size = int((labels[index] == label).sum())
        assert abs(int((labels[valid] == label).sum()) - 0.1 * size) < 1
    shuffled = np.random.default_rng(0).permutation(index)
    np.testing.assert_array_equal(validation_split(shuffled, labels, 0.1, seed=1)[1], valid)
    assert (validation_split(index, labels, 0.1, seed=2)[1] != valid).any()


@pytest.mark.parametrize(("clips", "expected"), [(1, 0), (2, 0), (3, 5), (5, 8), (10, 16)])
def test_validation_of_few_clips_leaves_two_of_each_class(clips, expected):
    labels = np.arange(16 * clips) % 16
    train, valid = validation_split(np.arange(16 * clips), labels, 0.1, seed=0)
    assert len(valid) == expected
    assert np.bincount(labels[train], minlength=16).min() >= min(clips, 2)
    assert np.bincount(labels[valid], minlength=16).max() <= 1


def test_drawn_clips_are_so_many_of_each_class():
    labels = np.repeat([0, 1, 2], [20, 3, 9])
    index = np.arange(1, 32)
    drawn = draw_clips_per_class(index, labels, 5, seed=0)
    assert np.bincount(labels[drawn]).tolist() == [5, 3, 5]
    assert set(drawn) <= set(index)
    assert (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(draw_clips_per_class(index[::-1], labels, 5, seed=0), drawn)
    assert (draw_clips_per_class(index, labels, 5, seed=1) != drawn).any()
    assert set(draw_clips_per_class(index, labels, 2, seed=0)) < set(drawn)
    many = [draw_clips_per_class(np.arange(20), np.zeros(20), 5, seed) for seed in range(400)]
    uses = np.bincount(np.concatenate(many), minlength=20)
    assert uses.min() > 60  # 100 expected of each, standard deviation 9
    assert uses.max() < 140


def test_splits_are_the_same_everywhere_and_for_good():
    """Fixed values: a split is part of a published result, so no version or machine may change it."""
    labels, places = np.arange(40) % 4, np.arange(40)
    groups = (places // 5).astype(str)
    assert np.flatnonzero(group_split(groups, labels, 0.25, 0)[1]).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert np.flatnonzero(stratified_split(labels, 0.25, 0)[1]).tolist() == [4, 5, 7, 10, 11, 12, 17, 18, 35, 38]
    assert validation_split(places, labels, 0.1, 0)[1].tolist() == [14, 23, 24, 25]
    assert draw_clips_per_class(places, labels, 2, 0).tolist() == [8, 9, 20, 25, 26, 27, 34, 39]
