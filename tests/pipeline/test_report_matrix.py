"""Cells, pictures, confused pairs and changes of confusion matrices small enough to count."""

import base64
import io

import numpy as np
from PIL import Image

from handcraft.report.matrix import Cell, Pair, cells, class_changes, confused_pairs, ends, opacity, picture

MATRIX = np.array([[8, 2, 0], [0, 0, 0], [1, 3, 12]])
CLASSES = ["a", "b", "c"]


def test_cells_are_those_with_clips_as_shares_of_their_row():
    assert [(cell.row, cell.column, cell.count, cell.share) for cell in cells(MATRIX)] == [
        (0, 0, 8, 0.8),
        (0, 1, 2, 0.2),
        (2, 0, 1, 1 / 16),
        (2, 1, 3, 3 / 16),
        (2, 2, 12, 0.75),
    ]
    assert cells(MATRIX)[0] == Cell(0, 0, 8, 0.8, opacity(0.8))
    assert 0.2 < opacity(0.001) < opacity(0.5) < opacity(1.0) == 1.0


def test_a_picture_shows_the_same_cells():
    url = picture(MATRIX)
    assert url.startswith("data:image/png;base64,")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
    assert pixels.shape == (3, 3, 4)
    np.testing.assert_array_equal(pixels[..., 3] > 0, MATRIX > 0)
    for cell in cells(MATRIX):
        red, green, _, alpha = (int(value) for value in pixels[cell.row, cell.column])
        assert (green > red) == (cell.row == cell.column)
        assert alpha == round(255 * cell.opacity)


def test_pairs_most_often_confused():
    assert confused_pairs(MATRIX, CLASSES) == [Pair("c", "b", 3, 16), Pair("a", "b", 2, 10), Pair("c", "a", 1, 16)]
    assert confused_pairs(MATRIX, CLASSES, wanted=1) == [Pair("c", "b", 3, 16)]
    assert confused_pairs(np.eye(3, dtype=int), CLASSES) == []


def test_changes_by_class_largest_gain_first():
    after = np.array([[6, 4, 0], [0, 0, 0], [0, 0, 16]])
    found = class_changes(MATRIX, after, CLASSES, seeds=2)
    assert [(change.name, change.clips, change.before, change.after) for change in found] == [
        ("c", 8, 0.75, 1.0),
        ("a", 5, 0.8, 0.6),
    ]
    assert found[0].gain == 0.25


def test_of_many_classes_only_the_ends_are_shown():
    gains = np.array([5, 4, 3, 0, 0, 0, 0, -1])
    before = np.diag(np.full(8, 10))
    before[np.arange(8), (np.arange(8) + 1) % 8] = 10
    after = before + np.diag(gains)
    after[np.arange(8), (np.arange(8) + 1) % 8] -= gains
    found = class_changes(before, after, [f"s{i}" for i in range(8)], seeds=1)
    shown, left_out = ends(found, wanted=2)
    assert ([change.name for change in shown], left_out) == (["s0", "s1", "s7"], 5)
    assert ends(found, wanted=4) == (found, 0)
