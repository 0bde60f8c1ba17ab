"""What a classifier took for what: the confusion matrix as cells to draw or, for many classes, as a picture; the pairs
most often confused; and what synthetic pretraining changed for each class.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWN_CLASSES = 40  # up to here a matrix is drawn cell by cell with names; beyond, names would be too small to read
NUMBERED_CLASSES = 20  # up to here each cell says its number
SHOWN_PAIRS = 10
SHOWN_CHANGES = 12  # most gained, and most lost, of many classes
RIGHT, WRONG = (16, 138, 110), (208, 62, 62)  # of the picture: seen on light and on dark ground
_FAINTEST = 0.25  # opacity of a cell with a single clip: one confusion must be seen


@dataclass(frozen=True)
class Cell:
    """A cell that holds clips. share: of the clips of its true class; opacity: how strongly it is drawn."""

    row: int
    column: int
    count: int
    share: float
    opacity: float


@dataclass(frozen=True)
class Pair:
    """Clips of one class taken for another."""

    true: str
    predicted: str
    count: int
    of: int
    """Clips of the true class."""


@dataclass(frozen=True)
class Change:
    """Share of a class's test clips that are recognised, over all seeds, before and after."""

    name: str
    clips: int
    """Test clips of one seed."""
    before: float
    after: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def shares(confusion: np.ndarray) -> np.ndarray:
    """Rows of `confusion` (classes, classes) as shares of the true class; 0 where a class has no clip."""
    return confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def cells(confusion: np.ndarray) -> list[Cell]:
    """The cells with clips in them, row by row."""
    share = shares(confusion)
    return [
        Cell(row, column, int(confusion[row, column]), float(share[row, column]), opacity(float(share[row, column])))
        for row, column in np.argwhere(confusion).tolist()
    ]


def opacity(share: float | np.ndarray) -> float | np.ndarray:
    """Strength of a cell: the root of its share, from a visible least on, since errors are small beside hits."""
    return _FAINTEST + (1 - _FAINTEST) * share**0.5


def picture(confusion: np.ndarray) -> str:
    """The matrix as a PNG in a data URL, a pixel a cell: hits in green, confusions in red, the rest transparent."""
    from PIL import Image

    share = shares(confusion)
    pixels = np.zeros((*confusion.shape, 4), np.uint8)
    pixels[..., :3] = WRONG
    pixels[np.diag_indices(len(confusion))] = (*RIGHT, 0)
    pixels[..., 3] = np.where(confusion > 0, np.round(255 * opacity(share)), 0)
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def confused_pairs(confusion: np.ndarray, classes: Sequence[str], wanted: int = SHOWN_PAIRS) -> list[Pair]:
    """The pairs of classes with most confusions, the most frequent first, then by class."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    places = np.argwhere(wrong)
    order = np.argsort(-wrong[tuple(places.T)], kind="stable")[:wanted]
    of = confusion.sum(axis=1)
    return [
        Pair(classes[true], classes[predicted], int(wrong[true, predicted]), int(of[true]))
        for true, predicted in places[order].tolist()
    ]


def class_changes(before: np.ndarray, after: np.ndarray, classes: Sequence[str], seeds: int) -> list[Change]:
    """The change of every class that has test clips, the largest gain first; `before` and `after` are confusion
    matrices summed over `seeds` runs on the same test clips."""
    clips = before.sum(axis=1)
    hits = [shares(confusion).diagonal() for confusion in (before, after)]
    found = [
        Change(classes[at], int(clips[at]) // seeds, float(hits[0][at]), float(hits[1][at]))
        for at in np.flatnonzero(clips).tolist()
    ]
    return sorted(found, key=lambda change: -change.gain)


def ends(found: Sequence[Change], wanted: int = SHOWN_CHANGES) -> tuple[list[Change], int]:
    """The changes that are shown (all of a few classes; of many those most gained and most lost, without those that
    stayed as they were), and how many are left out."""
    if len(found) <= 2 * wanted:
        return list(found), 0
    gained = [change for change in found[:wanted] if change.gain > 0]
    lost = [change for change in found[-wanted:] if change.gain < 0]
    return gained + lost, len(found) - len(gained) - len(lost)
