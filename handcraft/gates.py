"""Gates: which generated clips are good enough to keep.

Each looks at finished clips beside the real ones they come from and passes or rejects them:

    confidence:P   a classifier gives the clip's own class at least probability P
    distance:Q     it is no further from the nearest real clip of its class than Q % of the real clips are from theirs
    bones:R        no bone is longer or shorter than its source's by more than the factor R, the clip's size aside
    speed:Q        its fastest movement is no faster than that of Q % of the real clips

A rejected clip is replaced by another of its class, until one passes. Place i of a store of N clips tries the numbers
i, i + S, i + 2 S, ..., S being N rounded up to whole rounds of the classes: so no number serves two places, the class
stays, and what a place ends up with depends on nothing that is made beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from handcraft.checkpoint import Checkpoint
from handcraft.config import WindowConfig
from handcraft.data.clips import Clips
from handcraft.data.statistics import Statistics
from handcraft.data.window import windows
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import layout as find_layout
from handcraft.match import require_classifier, require_data
from handcraft.predict import classify
from handcraft.render.skeleton import skeleton
from handcraft.synthesis import Synthesizer, Synthetic

TRIES = 100  # numbers that one place of a store tries before its class is given up
SAMPLED = 8  # frames of a window that distances are measured in: 60 landmarks of 65,000 clips are then 0.4 GB
_CHUNK = 1024  # real clips looked at together
_SHORT = 1e-3  # a bone shorter than that, in the unit of the coordinates, has no meaningful ratio


class Gate(Protocol):
    """A rule for clips. `text` is what it is asked for with, such as `speed:99`."""

    text: str
    seen_clips: tuple[str, ...]
    """Digests of the real clips that it has learned from, beside the sources."""

    def passes(self, made: Synthetic) -> Tensor:
        """(B,) bool, which of the clips are kept."""

    def describe(self) -> dict[str, Any]:
        """What it measures with, plain values for the store's manifest."""


class Confidence:
    """Passes clips that `classifier` gives their own class with at least the probability `least`, 0 to 1."""

    def __init__(self, classifier: Checkpoint, clips: Clips, least: float):
        require_classifier(classifier)
        require_data(classifier, clips)
        self.text = f"confidence:{least:g}"
        self.seen_clips = classifier.seen_clips
        self._classifier, self._clips, self._least = classifier, clips, least

    def passes(self, made: Synthetic) -> Tensor:
        return self.confidence(made) >= self._least

    def confidence(self, made: Synthetic) -> Tensor:
        """(B,) float32, the probability of each clip's own class."""
        on_cpu = Synthetic(*(column.cpu() for column in made))  # where the classifier is
        probability = classify(self._classifier, _as_clips(on_cpu, self._clips), len(on_cpu.label)).softmax(1)
        return probability.gather(1, on_cpu.label[:, None])[:, 0].to(made.label.device)

    def describe(self) -> dict[str, Any]:
        return {"classifier": self._classifier.sha256}


class Distance:
    """Passes clips no further from the nearest real clip of their class than `percent` % of the real clips are from
    the nearest other one of theirs.

    The distance of two windows is the root mean square difference of their standardised coordinates, over the landmarks
    that both show in `SAMPLED` frames spread over the window.
    """

    seen_clips = ()

    def __init__(self, clips: Clips, window: WindowConfig, statistics: Statistics, percent: float):
        self.text = f"distance:{percent:g}"
        self._statistics = statistics.to(clips.start.device)
        self._frame = torch.linspace(0, window.frames - 1, min(SAMPLED, window.frames)).long()
        found = [
            self._points(x, valid)
            for at in torch.arange(len(clips)).split(_CHUNK)
            for x, valid in [windows(clips, at.to(clips.start.device), window)]
        ]
        self._x, self._square, self._mask = (torch.cat(column) for column in zip(*found, strict=True))
        order, first, count = clips.by_class
        self._members = [
            order[start : start + size] for start, size in zip(first.tolist(), count.tolist(), strict=True)
        ]
        nearest = torch.cat([self._nearest_other(members) for members in self._members])
        nearest = nearest[nearest.isfinite()]
        if not len(nearest):
            raise DataError(f"gate {self.text}: no class has two real clips that can be compared; leave this gate out")
        self.limit = _rounded(torch.quantile(nearest.double(), percent / 100))

    def passes(self, made: Synthetic) -> Tensor:
        return self.distance(made) <= self.limit

    def distance(self, made: Synthetic) -> Tensor:
        """(B,) float32, of each clip to the nearest real clip of its class; infinite where none shares a landmark."""
        x = made.landmarks.float()
        valid = torch.arange(x.shape[1], device=x.device) < made.length[:, None]
        points = self._points(x, valid)
        found = torch.full(made.label.shape, torch.inf, device=x.device)
        for label in made.label.unique().tolist():
            these = made.label == label
            found[these] = self._between(tuple(part[these] for part in points), self._members[label]).amin(1)
        return found

    def describe(self) -> dict[str, Any]:
        return {"limit": self.limit}

    def _points(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised coordinates (B,P*C), 0 where missing, their squares by landmark (B,P), and which count (B,P)."""
        x = x[:, self._frame]
        mask = ~x[..., 0].isnan() & valid[:, self._frame, None]
        x = self._statistics.standardise(x) * mask[..., None]
        return x.flatten(1), x.square().sum(-1).flatten(1), mask.float().flatten(1)

    def _between(self, points: tuple[Tensor, Tensor, Tensor], members: Tensor) -> Tensor:
        """Distances (B,n) to the real clips `members (n,)`: |a-b|^2 over common landmarks, as three products."""
        x, square, mask = points
        total = square @ self._mask[members].T + mask @ self._square[members].T - 2 * (x @ self._x[members].T)
        common = mask @ self._mask[members].T
        coordinates = x.shape[1] // mask.shape[1]
        return (total.clamp(min=0) / (common * coordinates)).sqrt().nan_to_num(torch.inf)

    def _nearest_other(self, members: Tensor) -> Tensor:
        if len(members) < 2:
            return self._x.new_empty(0)
        points = (self._x[members], self._square[members], self._mask[members])
        return self._between(points, members).fill_diagonal_(torch.inf).amin(1)


class Bones:
    """Passes clips none of whose bones is longer or shorter than its source's by more than the factor `factor`.

    A bone is a line of pose or hands; its length is the median over the frames that show both ends. The median ratio of
    a clip's bones is its size beside the source's (which variation changes on purpose) and divided out.
    """

    seen_clips = ()

    def __init__(self, clips: Clips, window: WindowConfig, factor: float):
        self.text, self._factor = f"bones:{factor:g}", factor
        pairs = [
            pair
            for line in skeleton(find_layout(clips.layout)).lines
            if line.part != "face"
            for pair in zip(line.points, line.points[1:], strict=False)
            if pair[0] != pair[1]
        ]
        self._ends = torch.tensor(pairs, device=clips.start.device).T
        self._real = _of_real(clips, window, self._lengths)

    def passes(self, made: Synthetic) -> Tensor:
        return self.deviation(made) <= self._factor

    def deviation(self, made: Synthetic) -> Tensor:
        """(B,) float32, the largest factor, at least 1, by which a bone is off; 1 where no bone can be compared."""
        real = self._real[made.row]
        ratio = (self._lengths(_shown(made)) / real).masked_fill(real < _SHORT, torch.nan)
        ratio = (ratio / ratio.nanmedian(1, keepdim=True).values).clamp(min=1e-6)
        return torch.maximum(ratio, 1 / ratio).nan_to_num(1.0).amax(1)

    def describe(self) -> dict[str, Any]:
        return {}

    def _lengths(self, x: Tensor) -> Tensor:
        """Median length of each bone (B,bones) of windows (B,W,J,C); NaN where it is never seen."""
        return torch.linalg.vector_norm(x[:, :, self._ends[0]] - x[:, :, self._ends[1]], dim=-1).nanmedian(1).values


class Speed:
    """Passes clips whose fastest landmark moves no further from one frame to the next than that of `percent` % of the
    real clips, in windows of the same length."""

    seen_clips = ()

    def __init__(self, clips: Clips, window: WindowConfig, percent: float):
        self.text = f"speed:{percent:g}"
        self.limit = _rounded(torch.quantile(_of_real(clips, window, self._fastest).double(), percent / 100))

    def passes(self, made: Synthetic) -> Tensor:
        return self.speed(made) <= self.limit

    def speed(self, made: Synthetic) -> Tensor:
        """(B,) float32, the longest way of a landmark between two frames that both show it, in the clips' unit."""
        return self._fastest(_shown(made))

    def describe(self) -> dict[str, Any]:
        return {"limit": self.limit}

    @staticmethod
    def _fastest(x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x.diff(dim=1), dim=-1).nan_to_num(0.0).flatten(1).amax(1)


def build_gates(
    texts: Sequence[str], clips: Clips, generator: Checkpoint, classifier: Checkpoint | None = None
) -> list[Gate]:
    """Gates from their texts (`confidence:0.5`, `speed:99`, ...), in that order, measured on the real `clips`, the
    sources. `ConfigError` for an unknown gate, a value out of range, or confidence without a classifier."""
    found: list[Gate] = []
    for text in texts:
        name, _, number = text.partition(":")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        low, high = RANGES.get(name, (1, 0))
        if not low <= value <= high:
            known = ", ".join(f"{gate}:{first:g}..{last:g}" for gate, (first, last) in RANGES.items())
            raise ConfigError(f"gate {text!r} is none of {known}")
        if name == "confidence":
            if classifier is None:
                raise ConfigError(f"gate {text!r} needs a classifier; give one")
            found.append(Confidence(classifier, clips, value))
        elif name == "distance":
            found.append(Distance(clips, generator.window, generator.statistics, value))
        elif name == "bones":
            found.append(Bones(clips, generator.window, value))
        else:
            found.append(Speed(clips, generator.window, value))
    return found


RANGES = {"confidence": (0, 1), "distance": (0, 100), "bones": (1, 1e6), "speed": (0, 100)}
"""Gates that can be asked for, with the smallest and the largest value of each."""


@dataclass
class Tally:
    """By class, how many clips were made and how many of them each gate rejected: the first one that did."""

    made: np.ndarray
    """(classes,) int64"""
    rejected: np.ndarray
    """(gates, classes) int64"""

    @classmethod
    def empty(cls, gates: Sequence[Gate], classes: int) -> "Tally":
        return cls(np.zeros(classes, np.int64), np.zeros((len(gates), classes), np.int64))

    def add(self, other: "Tally") -> None:
        self.made += other.made
        self.rejected += other.rejected

    def notes(self) -> dict[str, Any]:
        """Plain values, from which `rates` makes the sum of many."""
        return {"made": self.made.tolist(), "rejected": self.rejected.tolist()}

    @staticmethod
    def rates(notes: Sequence[dict[str, Any]], gates: Sequence[Gate], classes: Sequence[str]) -> dict[str, Any]:
        """What the manifest says about the gates' work: `rates` with clips made, kept and rejected by each gate, in all
        and by class; nothing without gates."""
        if not gates:
            return {}
        made = np.sum([note["made"] for note in notes], axis=0)
        rejected = np.sum([note["rejected"] for note in notes], axis=0)
        names = [gate.text for gate in gates]

        def row(made: int, rejected: np.ndarray) -> dict[str, Any]:
            by_gate = dict(zip(names, rejected.tolist(), strict=True))
            return {"made": int(made), "kept": int(made - rejected.sum()), "rejected": by_gate}

        by_class = {name: row(made[at], rejected[:, at]) for at, name in enumerate(classes)}
        return {"rates": row(made.sum(), rejected.sum(1)) | {"classes": by_class}}


def kept(synthesizer: Synthesizer, gates: Sequence[Gate], places: range, count: int) -> tuple[Synthetic, Tensor, Tally]:
    """The clips at these places of a store of `count`: clips, their numbers (B,) int64, and what it took.

    `DataError` where `TRIES` numbers of one place all fail: it names the class and the gate that rejects most of it.
    """
    classes = len(synthesizer.clips.classes)
    clip_id = torch.arange(places.start, places.stop)
    made, tally = synthesizer.make(clip_id), Tally.empty(gates, classes)
    if not gates:
        return made, clip_id, tally
    stride = -(-count // classes) * classes
    open_, fresh = torch.arange(len(clip_id), device=made.label.device), made
    for _ in range(TRIES):
        rejected = _judge(fresh, gates, tally)
        open_ = open_[rejected]
        if not len(open_):
            return made, clip_id, tally
        clip_id[open_.cpu()] += stride
        fresh = synthesizer.make(clip_id[open_.cpu()])
        for ours, theirs in zip(made, fresh, strict=True):
            ours[open_] = theirs
    label = int(made.label[open_[0]])
    worst = int(tally.rejected[:, label].argmax())
    raise DataError(
        f"class {synthesizer.clips.classes[label]!r} cannot be filled: {TRIES} clips for one place were all rejected, "
        f"most of this class by gate {gates[worst].text}; loosen or drop that gate, or train the generators further"
    )


def _judge(made: Synthetic, gates: Sequence[Gate], tally: Tally) -> Tensor:
    """Which clips are rejected (B,) bool, counted for the first gate that rejects them."""
    label = made.label.cpu().numpy()
    tally.made += np.bincount(label, minlength=len(tally.made))
    rejected = torch.zeros(made.label.shape, dtype=torch.bool, device=made.label.device)
    for at, gate in enumerate(gates):
        fails = ~gate.passes(made) & ~rejected
        tally.rejected[at] += np.bincount(label[fails.cpu().numpy()], minlength=len(tally.made))
        rejected |= fails
    return rejected


def _rounded(limit: Tensor) -> float:
    """To five digits: machines whose products differ in the last bits agree on it, and so can make a store together."""
    return float(f"{float(limit):.5g}")


def _shown(made: Synthetic) -> Tensor:
    """Landmarks (B,W,J,C) float32; NaN also in the frames after a clip's end."""
    x = made.landmarks.float()
    after = torch.arange(x.shape[1], device=x.device) >= made.length[:, None]
    return x.masked_fill_(after[..., None, None], torch.nan)


def _of_real(clips: Clips, window: WindowConfig, measure) -> Tensor:
    """`measure` of the windows (B,W,J,C) of all clips, NaN where missing or padding, a chunk at a time."""
    places = torch.arange(len(clips), device=clips.start.device)
    return torch.cat([measure(windows(clips, at, window)[0]) for at in places.split(_CHUNK)])


def _as_clips(made: Synthetic, real: Clips) -> Clips:
    """Generated clips as the classifier's input, of the real ones' classes and layout."""
    count, width = made.landmarks.shape[:2]
    names = np.array([""] * count)
    return Clips(
        frames=made.landmarks.flatten(0, 1).float(),
        start=torch.arange(count) * width,
        length=made.length,
        label=made.label,
        ids=np.array([f"generated clip {i}" for i in range(count)]),
        group=names,
        split=names,
        digest=np.zeros(count, np.uint64),
        classes=real.classes,
        layout=real.layout,
        preprocess=real.preprocess,
    )
