"""Which clips train, validate and test in a run: the data's own split, or one made of whole groups.

The test clips depend on the data alone, never on the run's seed; the draw of training clips and the validation clips
depend on the seed (docs/method.md).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from handcraft.data.clips import Clips
from handcraft.data.split import draw_clips_per_class, draw_share, group_split, stratified_split, validation_split
from handcraft.data.store import split_hash
from handcraft.errors import DataError

SPLIT_SEED = 0  # of the search for test groups: fixed, so that every run on a store is tested on the same clips
VALIDATION_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Partition:
    """Positions in `Clips`, int64. `train` and `valid` together are the training split, or the draw from it."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    how: str
    """In words: where the split comes from."""
    test_groups: tuple[str, ...]
    """Signers or sessions that are in the test alone; empty where the clips have no groups."""

    def describe(self, clips: Clips) -> dict:
        """Plain values for `metrics.json`: sizes, hashes of the clips, held-out groups."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {
            "how": self.how,
            "test_groups": list(self.test_groups),
            **{name: {"clips": len(index), "hash": split_hash(clips.digest[index])} for name, index in parts.items()},
        }


def partition(
    clips: Clips,
    *,
    seed: int,
    test_share: float = 0.3,
    clips_per_class: int | None = None,
    share: float = 1.0,
    validation_share: float = VALIDATION_SHARE,
) -> Partition:
    """Split `clips` for the run of `seed`.

    Clips marked train and test keep their marks. Unmarked clips are split by whole groups where there are at least two
    groups, else by class. clips_per_class: draw that many training clips of each class, by seed; share: of these take
    that share of each class. Validation is a stratified share of the training clips, at 0 none. `DataError`: only one
    of train and test is marked, a class without training clips, the same content in train and in test, or no possible
    split.
    """
    labels, marks = clips.label.numpy(), set(np.unique(clips.split).tolist())
    groups = np.unique(clips.group)
    if {"train", "test"} <= marks:
        train, test, how = clips.split == "train", clips.split == "test", "the data's own split"
        unused = len(clips) - int(train.sum()) - int(test.sum())
        if unused:
            how += f"; {unused} clips marked neither train nor test are left out"
    elif marks & {"train", "test"}:
        found = ", ".join(sorted(repr(mark) for mark in marks))
        raise DataError(f"the clips are marked {found}; expected both 'train' and 'test', or no marks at all")
    elif len(groups) > 1:
        train, test = group_split(clips.group, labels, test_share, SPLIT_SEED, clips.classes)
        how = f"whole groups held out, {test_share:.0%} of the clips wanted"
    else:
        train, test = stratified_split(labels, test_share, SPLIT_SEED)
        how = f"{test_share:.0%} of each class held out: the clips have no groups, so signers may be in both"
    chosen = np.flatnonzero(train)
    without = sorted(set(range(len(clips.classes))) - set(labels[chosen].tolist()))
    if without:
        names = ", ".join(clips.classes[i] for i in without[:5])
        raise DataError(f"{len(without)} classes have no training clip: {names}; leave them out of the store")
    shared = np.isin(clips.digest, np.intersect1d(clips.digest[train], clips.digest[test]))
    if shared.any():
        names = ", ".join(str(name) for name in clips.ids[shared & test][:5])
        raise DataError(
            f"{int((shared & test).sum())} test clips have the content of a training clip: {names}; keep one of each "
            "(`handcraft data check` lists them)"
        )
    if clips_per_class is not None:
        chosen = draw_clips_per_class(chosen, labels, clips_per_class, seed)
        how += f"; {clips_per_class} training clips a class drawn with seed {seed}"
    if share != 1:
        chosen = draw_share(chosen, labels, share, seed)
        how += f"; {share:.0%} of the training clips of each class drawn with seed {seed}"
    train_index, valid_index = np.sort(chosen), np.empty(0, np.int64)
    if validation_share:
        train_index, valid_index = validation_split(chosen, labels, validation_share, seed)
    held_out = set(clips.group[test].tolist()) - set(clips.group[train].tolist()) - {""}
    return Partition(train_index, valid_index, np.flatnonzero(test), how, tuple(sorted(held_out)))


def without_test(clips: Clips, test_share: float) -> Clips:
    """The training clips alone, without marks, to be split anew: recipes are chosen there, before one is tested.

    Classes that are left in one group only are left out, since no split by groups could train and test them.
    `DataError` if fewer than two are left.
    """
    part = partition(clips, seed=0, test_share=test_share)
    clips = clips.subset(np.sort(np.concatenate([part.train, part.valid])))
    labels = clips.label.numpy()
    kept = np.arange(len(clips.classes))
    if len(np.unique(clips.group)) > 1:
        kept = np.array([k for k in kept if len(np.unique(clips.group[labels == k])) > 1], dtype=np.int64)
    if len(kept) < 2:
        raise DataError(f"{len(kept)} classes have training clips of two groups; expected at least 2 to choose by")
    clips = clips.subset(np.isin(labels, kept))
    return replace(
        clips,
        label=torch.from_numpy(np.searchsorted(kept, clips.label.numpy())),
        classes=tuple(clips.classes[k] for k in kept),
        split=np.full(len(clips), ""),
    )


def whole(clips: Clips, *, seed: int) -> Partition:
    """All clips train, but for a stratified tenth that validates; none is left to test with."""
    train, valid = validation_split(np.arange(len(clips)), clips.label.numpy(), VALIDATION_SHARE, seed)
    return Partition(train, valid, np.empty(0, np.int64), "all clips", ())
