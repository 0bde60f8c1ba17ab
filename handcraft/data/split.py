"""Which clips train, validate and test. Everything is a function of the seed alone, on every machine.

Random order comes from the raw words of a PCG64, whose stream numpy promises not to change (that of its shuffles may).
"""

from collections.abc import Sequence

import numpy as np

from handcraft.errors import ConfigError, DataError
from handcraft.words import some

_GROUPS, _STRATIFIED, _VALIDATION, _DRAW = range(4)  # one stream of random words for each purpose
SEARCH_WORK = 2 * 10**8  # elements the group search may visit: a second or two


def group_split(
    groups: Sequence[str] | np.ndarray,
    labels: Sequence[str] | np.ndarray,
    test_share: float,
    seed: int,
    classes: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out whole groups (signers, sessions) so that every class occurs in both train and test.

    groups (N,) text; labels (N,) class names, or indices into `classes`; test_share in (0,1) of the clips. Returns the
    masks (train, test), (N,) bool. Among the splits visited by a seeded local search (flip one group, kick up to three,
    keep what is better) the order of preference is: fewest classes left out, test share nearest to the request, class
    shares nearest to the request. `DataError` names the classes that cannot be in both, or that no visited split has.
    """
    _check(test_share, seed)
    group_names, group_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    label_names, class_of = np.unique(np.asarray(labels), return_inverse=True)
    if len(group_of) != len(class_of) or not len(group_of):
        raise DataError(f"{len(group_of)} groups for {len(class_of)} labels; expected one of each for every clip")
    if "" in group_names:
        raise DataError(
            f"{int((np.asarray(groups, dtype=str) == '').sum())} clips have no group; name the array of signers or "
            "sessions on import, or split without groups"
        )
    counts = np.zeros((len(group_names), len(label_names)), dtype=np.int64)
    np.add.at(counts, (group_of, class_of), 1)
    names = [str(name) if classes is None or isinstance(name, str) else classes[int(name)] for name in label_names]
    single = np.flatnonzero((counts > 0).sum(axis=0) < 2)
    if single.size:
        only = str(group_names[int(counts[:, single[0]].argmax())])
        raise DataError(
            f"no split of whole groups exists: {_listed(names, single)} recorded in one group only "
            f"({names[single[0]]} in {only!r}), so not both in train and in test; leave such classes out, or split "
            "without groups"
        )
    chosen = _search(counts, test_share, seed)
    test = counts[chosen].sum(axis=0)
    left = np.flatnonzero((test == 0) | (test == counts.sum(axis=0)))
    if left.size:
        raise DataError(
            f"no split of the {len(group_names)} groups was found with every class in train and in test: the best "
            f"leaves out {_listed(names, left)}; leave such classes out, or split without groups"
        )
    mask = chosen[group_of]
    return ~mask, mask


def _search(counts: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Best set of test groups (G,) bool found for counts (G,C): local search with seeded kicks, from the empty set."""
    groups, width = counts.shape
    total, sizes = counts.sum(axis=0), counts.sum(axis=1)
    clips = int(sizes.sum())
    target = max(1, round(share * clips))

    def scores(chosen: np.ndarray) -> np.ndarray:
        """(G+1, 3) costs, first to matter first, of flipping each group and, in the last row, of flipping none."""
        sign = np.append(np.where(chosen, -1, 1), 0)
        test = counts[chosen].sum(axis=0) + sign[:, None] * np.vstack([counts, np.zeros_like(total)])
        left_out = ((test == 0) | (test == total)).sum(axis=1)
        return np.stack([left_out, abs(test.sum(axis=1) - target), abs(test * clips - target * total).sum(axis=1)], 1)

    def descend(chosen: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        while True:
            costs = scores(chosen)
            best = int(np.lexsort(costs.T[::-1])[0])
            if tuple(costs[best]) >= tuple(costs[-1]):
                return chosen, tuple(costs[-1].tolist())
            chosen = chosen.copy()
            chosen[best] = ~chosen[best]

    best, best_cost = descend(np.zeros(groups, dtype=bool))
    current, current_cost = best, best_cost
    kicks = int(np.clip(SEARCH_WORK // (8 * groups * width), 20, 400))
    words = _words(seed, _GROUPS, 4 * kicks).reshape(kicks, 4)
    for number, (size, *places) in enumerate(words.tolist()):
        kicked = (best if number % 20 == 0 else current).copy()
        for place in places[: 1 + size % 3]:
            kicked[place % groups] ^= True
        kicked, cost = descend(kicked)
        if cost <= current_cost or number % 20 == 0:
            current, current_cost = kicked, cost
        if cost < best_cost:
            best, best_cost = kicked, cost
    return best


def stratified_split(labels: Sequence[str] | np.ndarray, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split without groups: each class gives its share of clips to the test, at least one, and keeps at least one.

    labels (N,). Returns the masks (train, test), (N,) bool. `DataError` names a class that has a single clip.
    """
    _check(test_share, seed)
    names, class_of = np.unique(np.asarray(labels), return_inverse=True)
    single = np.flatnonzero(np.bincount(class_of, minlength=len(names)) < 2)
    if not len(class_of) or single.size:
        what = _listed([str(name) for name in names], single) + " a single clip only" if single.size else "no clip"
        raise DataError(f"cannot split: there is {what}; train and test need one of each class")
    mask = np.zeros(len(class_of), dtype=bool)
    mask[_take(class_of, test_share, least=1, keep=1, keys=_words(seed, _STRATIFIED, len(class_of)))] = True
    return ~mask, mask


def validation_split(
    index: np.ndarray, labels: Sequence[int] | np.ndarray, share: float = 0.1, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Set a stratified share of the training clips aside to select checkpoints with.

    index (n,): places of the training clips; labels (N,): class of every clip of the table, so that `labels[index]` are
    theirs. Returns (train, valid), sorted places that together are `index`. The number set aside is `share` of n,
    rounded, spread over the classes by largest remainder. A class gives a clip only while two remain for training, so
    with two clips a class `valid` is empty: there is then nothing to select by, and the last checkpoint is the one.
    """
    _check(share, seed)
    places = np.sort(np.asarray(index, dtype=np.int64))
    _, class_of = np.unique(np.asarray(labels)[places], return_inverse=True)
    held = np.zeros(len(places), dtype=bool)
    held[_take(class_of, share, least=0, keep=2, keys=_words(seed, _VALIDATION, len(places)))] = True
    return places[~held], places[held]


def draw_clips_per_class(index: np.ndarray, labels: Sequence[int] | np.ndarray, clips: int, seed: int) -> np.ndarray:
    """Draw `clips` clips of each class out of `index` (all of a class that has fewer); sorted places, int64.

    index and labels as in `validation_split`. With the same seed a smaller draw is a subset of a larger one.
    """
    if clips < 1:
        raise ConfigError(f"clips per class is {clips}, expected at least 1")
    _check(0.5, seed)
    places = np.sort(np.asarray(index, dtype=np.int64))
    _, class_of = np.unique(np.asarray(labels)[places], return_inverse=True)
    order = np.lexsort((_words(seed, _DRAW, len(places)), class_of))
    return np.sort(places[order[_rank(class_of[order]) < clips]])


def draw_share(index: np.ndarray, labels: Sequence[int] | np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw `share` (0 to 1) of the clips of each class out of `index`, rounded up, two at least where a class has them;
    sorted places, int64. index and labels as in `validation_split`. With the same seed a smaller draw is a subset of a
    larger one."""
    _check(share, seed)
    places = np.sort(np.asarray(index, dtype=np.int64))
    _, class_of, count = np.unique(np.asarray(labels)[places], return_inverse=True, return_counts=True)
    wanted = np.maximum(np.ceil(count * share - 1e-9), 2)
    order = np.lexsort((_words(seed, _DRAW, len(places)), class_of))
    return np.sort(places[order[_rank(class_of[order]) < wanted[class_of[order]]]])


def _take(class_of: np.ndarray, share: float, *, least: int, keep: int, keys: np.ndarray) -> np.ndarray:
    """Places of a stratified share of clips, given their classes 0..C-1 (n,) and a random key each.

    A class gives at least `least` and keeps at least `keep`; the rounding goes to the largest remainders, ties by key.
    """
    counts = np.bincount(class_of)
    exact = counts * share
    room = np.maximum(counts - keep, 0)
    quota = np.minimum(np.maximum(np.floor(exact + 1e-9).astype(np.int64), least), room)
    order = np.lexsort((keys, class_of))
    target = int(np.floor(len(class_of) * share + 0.5))
    first_keys = keys[order][np.cumsum(counts) - counts] if len(counts) else keys
    for place in np.lexsort((first_keys, -np.round(exact - quota, 9))):
        if quota.sum() >= target:
            break
        if quota[place] < room[place] and quota[place] < exact[place]:
            quota[place] += 1
    return order[_rank(class_of[order]) < quota[class_of[order]]]


def _rank(ordered: np.ndarray) -> np.ndarray:
    """Position of each entry within its run of equal values: [3, 3, 5, 5, 5] -> [0, 1, 0, 1, 2]."""
    _, first, runs = np.unique(ordered, return_index=True, return_counts=True)
    return np.arange(len(ordered)) - np.repeat(first, runs)


def _words(seed: int, purpose: int, count: int) -> np.ndarray:
    """`count` random 64-bit words, a function of seed and purpose alone."""
    return np.random.PCG64(np.random.SeedSequence([seed, purpose])).random_raw(count)


def _check(share: float, seed: int) -> None:
    if not 0 < share < 1:
        raise ConfigError(f"the share is {share}, expected a number between 0 and 1 (0.3 holds out 30 %)")
    if seed < 0:
        raise ConfigError(f"the seed is {seed}, expected 0 or more")


def _listed(names: Sequence[str], chosen: np.ndarray) -> str:
    return f"class{'es' if len(chosen) > 1 else ''} {some([names[place] for place in chosen.tolist()])}"
