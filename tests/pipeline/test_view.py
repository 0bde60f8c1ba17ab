"""The drawing plane: one place and size for every clip."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import person
from hypothesis import given, settings
from hypothesis import strategies as st

from handcraft.config import PreprocessConfig
from handcraft.data.preprocess import preprocess
from handcraft.errors import DataError
from handcraft.layouts import layout
from handcraft.render.view import FARTHEST, MARGIN, SIGNING_SPACE, joint_box, view

RAW = layout("holistic75")


def test_the_shoulders_are_the_unit_and_their_middle_the_origin():
    points = view(person(), RAW).points
    np.testing.assert_allclose(points[:, RAW.position("pose", 11)], [[0.5, 0]] * 12, atol=1e-6)
    np.testing.assert_allclose(points[:, RAW.position("pose", 12)], [[-0.5, 0]] * 12, atol=1e-6)
    assert (points[:, RAW.position("pose", 0), 1] < 0).all(), "y points down"


@settings(max_examples=25, deadline=None)
@given(
    x=st.floats(-3, 3), y=st.floats(-3, 3), scale=st.floats(0.01, 50), aspect=st.floats(0.3, 4), seed=st.integers(0, 9)
)
def test_where_the_signer_stands_how_large_and_in_what_picture_does_not_matter(x, y, scale, aspect, seed):
    expected = view(person(seed=seed), RAW)
    moved = person(seed=seed).astype(np.float64)
    moved[..., :2] = moved[..., :2] * scale + (x, y)
    moved[..., 0] /= aspect
    found = view(moved, RAW, aspect)
    np.testing.assert_allclose(found.points, expected.points, atol=1e-3)
    np.testing.assert_allclose(found.box, expected.box, atol=1e-3)


def test_a_preprocessed_clip_lies_where_its_raw_one_does():
    aspect = 16 / 9
    raw = person(aspect=aspect)
    config = replace(PreprocessConfig(), fill=0, smooth_window=0, layout="pose_hands48", coordinates="xy")
    small = layout("pose_hands48")
    ready = view(preprocess(raw, RAW, config, aspect), small)
    np.testing.assert_allclose(ready.points, view(raw, RAW, aspect).points[:, RAW.take(small)], atol=1e-4)


def test_missing_landmarks_stay_missing_and_half_missing_ones_become_so():
    clip = person()
    clip[3, 40] = np.nan
    clip[4, 41, 1] = np.nan
    clip[5, 42, 2] = np.nan
    points = view(clip, RAW).points
    missing = np.isnan(points).any(axis=2)
    assert missing[3, 40]
    assert missing[4, 41]
    assert np.isnan(points[4, 41]).all()
    assert missing.sum() == 2, "z is not drawn, so its absence hides nothing"


def test_without_shoulders_a_clip_is_scaled_to_its_extent():
    clip = person()
    clip[:, [11, 12]] = np.nan
    points = view(clip, RAW).points
    low, high = np.nanmin(points, axis=(0, 1)), np.nanmax(points, axis=(0, 1))
    assert (high - low).max() == pytest.approx(2)
    np.testing.assert_allclose(low + high, 0, atol=1e-9)
    clip[:, :] = np.nan
    clip[0, 5] = 0.3
    assert np.isfinite(view(clip, RAW).points[0, 5]).all(), "a single point has no extent"


def test_the_box_holds_the_signing_space_and_all_that_is_drawn_but_no_glitch():
    clip = person()
    assert view(clip, RAW).box == pytest.approx(SIGNING_SPACE), "nothing here leaves it"
    clip[2, RAW.position("right_hand", 8), 0] = 0.5 - 2.5 * 0.2  # 2.5 shoulder widths to the left
    assert view(clip, RAW).box == pytest.approx((-2.5 - MARGIN, *SIGNING_SPACE[1:]))
    clip[2, RAW.position("right_hand", 8), 0] = 0.5 - (FARTHEST + 1) * 0.2
    assert view(clip, RAW).box == pytest.approx(SIGNING_SPACE)
    clip[:, RAW.position("pose", 31), 1] = 0.9  # a foot is not drawn
    assert view(clip, RAW).box == pytest.approx(SIGNING_SPACE)
    assert joint_box([(0, -3, 1, 1), (-2, 0, 0.5, 4)]) == (-2, -3, 1, 4)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((4, 74, 3)), "holistic75 has"),
        (np.zeros((4, 75)), "holistic75 has"),
        (np.zeros((4, 75, 4)), "holistic75 has"),
        (np.zeros((0, 75, 3)), "0 frames"),
        (np.full((4, 75, 3), np.inf), "infinite"),
        (np.full((4, 75, 3), np.nan), "nothing to draw"),
    ],
)
def test_what_cannot_be_drawn_is_refused(clip, message):
    with pytest.raises(DataError, match=message):
        view(clip, RAW)
