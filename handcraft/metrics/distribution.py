"""Are synthetic clips like real ones? Every figure stands beside the same figure of real clips against real clips, its
floor, with 95 % intervals.

In each draw the real clips are halved, class by class; as many synthetic clips of each class are drawn as the first
half has. A figure compares the first half with them, its floor with the second half. The intervals are the 2.5 % and
97.5 % quantiles over the draws: they say how much the figure depends on which clips were drawn, not how it would vary
with other signers. Speeds, accelerations and poses are those of 32 frames that cover a clip, whatever its length.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from handcraft.checkpoint import Checkpoint
from handcraft.data.clips import Clips
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import layout as find_layout
from handcraft.metrics import motion_histograms as motion
from handcraft.metrics import neighbours
from handcraft.metrics.alignment import THRESHOLD, dtw_mje
from handcraft.metrics.features import FRAMES, classifier_features, pose_features, pose_windows
from handcraft.metrics.frechet import frechet_distance

VERSION = "v1"
DRAWS = 20
LIMIT = 2000
"""Clips of each side that are compared; of more, a balanced draw."""
_AT_ONCE = 256
"""Clips whose distances to all others are in memory together."""
PAIRS = 100
"""Pairs of clips that are aligned in time in each draw."""

MEANING = {
    "frechet": "squared Fréchet distance of features; lower is nearer",
    "kl_speed": "KL(real || synthetic) of speed, mean over landmarks, nats; lower is nearer",
    "kl_acceleration": "KL of acceleration, nats; lower is nearer",
    "kl_bone_length": "KL of bone length, mean over bones, nats; lower is nearer",
    "diversity": "mean feature distance of any two clips; near the floor is right",
    "multimodality": "mean feature distance of two clips of one class; near the floor is right",
    "coverage": f"share of real clips with a synthetic one within their {neighbours.NEIGHBOURS}-neighbourhood; higher",
    "dtw_mje": "mean joint error to a random real clip of the class after time warping; near the floor is right",
    "pck": f"share of these points nearer than {THRESHOLD}; near the floor is right",
    "nearest_real": "median distance to the nearest real clip of any class; far below the floor is copying",
}


@dataclass(frozen=True, eq=False)
class _Side:
    """One side's clips in every form that a figure wants."""

    label: np.ndarray
    features: np.ndarray
    windows: np.ndarray
    counts: dict[str, motion.Histograms]


def compare(
    real: Clips, synthetic: Clips, *, classifier: Checkpoint | None = None, seed: int = 0, draws: int = DRAWS
) -> dict:
    """Compare two sets of clips that share classes, layout and preprocessing.

    Returns plain values: `metrics`, each name of `MEANING` -> `value`, `interval`, `floor`, `floor_interval`,
    `difference_interval` (of value - floor, paired by draw) and its `meaning`, figures None where nothing could be
    compared; `clips` (of each side, and how many of them are drawn), `classes` (of the real clips, and how many are
    drawn: one without a synthetic clip, or with a single real one, is left out), `features`, `draws`, `seed`,
    `signature`. Features are those of `classifier`, or principal components of the real poses.

    `DataError`: clips that do not belong together, or a class with fewer than two real clips and one synthetic in all
    classes. `ConfigError`: fewer than two draws, a negative seed.
    """
    if draws < 2:
        raise ConfigError(f"compare: draws is {draws}; expected at least 2")
    if seed < 0:
        raise ConfigError(f"compare: seed is {seed}; expected 0 or more")
    for name in ("classes", "layout", "preprocess"):
        found, wanted = getattr(synthetic, name), getattr(real, name)
        if found != wanted:
            raise DataError(f"compare: the synthetic clips have {name} {found!r:.200}, the real ones {wanted!r:.200}")
    generator = np.random.default_rng(seed)
    real, synthetic = (_limited(clips, generator) for clips in (real, synthetic))
    space = pose_features(real) if classifier is None else classifier_features(classifier)
    quantities = _quantities(real.layout)
    windows = [pose_windows(clips) for clips in (real, synthetic)]
    inner = {name: motion.edges(of(windows[0])) for name, of in quantities.items()}
    sides = [
        _Side(
            label=clips.label.numpy(),
            features=space.of(clips),
            windows=poses.numpy(),
            counts={name: motion.histograms(of(poses), inner[name]) for name, of in quantities.items()},
        )
        for clips, poses in zip((real, synthetic), windows, strict=True)
    ]
    found: dict[str, list[tuple[float | None, float | None]]] = {name: [] for name in MEANING}
    to_real = neighbours.nearest(neighbours.pose_distances(windows[1], windows[0]))
    among_real = neighbours.nearest(neighbours.pose_distances(windows[0], windows[0]), leave_out_self=True)
    for _ in range(draws):
        first, second, made = _draw(sides[0].label, sides[1].label, generator)
        for name, pair in _figures(sides[0], sides[1], first, second, made, generator).items():
            found[name].append(pair)
        found["nearest_real"].append((float(np.median(to_real[made])), float(np.median(among_real[first]))))
    return {
        "metrics": {name: _summary(pairs) | {"meaning": MEANING[name]} for name, pairs in found.items()},
        "clips": {"real": len(real), "synthetic": len(synthetic), "drawn": len(first)},
        "classes": {"real": len(np.unique(sides[0].label)), "drawn": len(np.unique(sides[0].label[first]))},
        "features": space.name,
        "draws": draws,
        "seed": seed,
        "signature": f"distribution|points:{real.layout}|frames:{FRAMES}|features:{space.name}|halves|{VERSION}",
    }


def median_nearest(clips: Clips, others: Clips) -> float:
    """Median distance of `clips` (of more than `LIMIT`, of a balanced draw) to the nearest of all `others`, of any
    class: root mean square per landmark on the common clock, in the unit of the coordinates. Of clips that were made
    from `others`, far below that of other real clips is copying."""
    clips = _limited(clips, np.random.default_rng(0))
    windows, there = pose_windows(clips), pose_windows(others)
    near = [neighbours.nearest(neighbours.pose_distances(part, there)) for part in windows.split(_AT_ONCE)]
    return float(np.median(np.concatenate(near)))


def _quantities(layout: str) -> dict[str, Callable]:
    places = find_layout(layout)
    return {
        "kl_speed": motion.speeds,
        "kl_acceleration": motion.accelerations,
        "kl_bone_length": lambda windows: motion.bone_lengths(windows, places),
    }


def _figures(
    real: _Side, synthetic: _Side, first: np.ndarray, second: np.ndarray, made: np.ndarray, generator
) -> dict[str, tuple[float | None, float | None]]:
    """One draw: name -> (figure of the synthetic clips, floor)."""
    x, y, z = real.features[first], real.features[second], synthetic.features[made]
    found = {
        "frechet": (frechet_distance(x, z), frechet_distance(x, y)),
        "diversity": (neighbours.diversity(z, generator), neighbours.diversity(x, generator)),
        "multimodality": (
            neighbours.multimodality(z, synthetic.label[made], generator),
            neighbours.multimodality(x, real.label[first], generator),
        ),
        "coverage": (neighbours.coverage(x, z), neighbours.coverage(x, y)),
    }
    for name, counts in real.counts.items():
        here = counts.of(first)
        found[name] = (
            motion.kl_divergence(here, synthetic.counts[name].of(made)),
            motion.kl_divergence(here, counts.of(second)),
        )
    aligned = _aligned(real, first, synthetic, made, generator), _aligned(real, first, real, second, generator)
    for place, name in enumerate(("dtw_mje", "pck")):
        found[name] = tuple(None if pair is None else pair[place] for pair in aligned)
    return found


def _aligned(real: _Side, first: np.ndarray, other: _Side, chosen: np.ndarray, generator) -> tuple[float, float] | None:
    """Means of DTW-MJE and PCK over random pairs of one class, a clip of `other` at `chosen` and a real one."""
    results = []
    for place in generator.choice(chosen, min(PAIRS, len(chosen)), replace=False):
        partner = generator.choice(first[real.label[first] == other.label[place]])
        pair = dtw_mje(other.windows[place], real.windows[partner])
        if pair is not None:
            results.append(pair)
    return tuple(np.mean(results, axis=0).tolist()) if results else None


def _draw(real: np.ndarray, synthetic: np.ndarray, generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two halves of the real clips and as many synthetic clips as the halves have, of each class equally many."""
    first, second, made = [], [], []
    for k in np.unique(real):
        ours, theirs = (generator.permutation(np.flatnonzero(label == k)) for label in (real, synthetic))
        size = min(len(ours) // 2, len(theirs))
        first.append(ours[:size])
        second.append(ours[size : 2 * size])
        made.append(theirs[:size])
    chosen = tuple(np.concatenate(places) for places in (first, second, made))
    if len(chosen[0]) <= neighbours.NEIGHBOURS:
        raise DataError(
            f"compare: only {len(chosen[0])} clips can be compared: half of the {len(real)} real ones, class by class, "
            f"as far as the {len(synthetic)} synthetic ones go; give more than {neighbours.NEIGHBOURS}"
        )
    return chosen


def _limited(clips: Clips, generator: np.random.Generator) -> Clips:
    """At most `LIMIT` clips, the classes as even as can be."""
    if len(clips) <= LIMIT:
        return clips
    label = clips.label.numpy()
    order = generator.permutation(len(clips))
    rank = np.empty(len(clips), np.int64)  # place among the clips of its class, in random order
    for k in np.unique(label):
        mine = order[label[order] == k]
        rank[mine] = np.arange(len(mine))
    return clips.subset(np.sort(order[np.argsort(rank[order], kind="stable")[:LIMIT]]))


def _summary(pairs: list[tuple[float | None, float | None]]) -> dict:
    kept = np.array([pair for pair in pairs if None not in pair], dtype=np.float64)
    if not len(kept):
        return dict.fromkeys(("value", "interval", "floor", "floor_interval", "difference_interval"))
    value, floor = kept.T
    return {
        "value": float(value.mean()),
        "interval": _interval(value),
        "floor": float(floor.mean()),
        "floor_interval": _interval(floor),
        "difference_interval": _interval(value - floor),
    }


def _interval(values: np.ndarray) -> list[float]:
    return np.quantile(values, (0.025, 0.975)).tolist()
