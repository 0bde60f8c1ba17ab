"""Preprocessing steps 1 to 4, against answers worked out by hand and SciPy on each run by itself."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from handcraft.config import PreprocessConfig
from handcraft.data.preprocess import (
    centre,
    fill_gaps,
    from_signature,
    interpolate,
    preprocess,
    select,
    signature,
    smooth,
)
from handcraft.errors import ConfigError, DataError
from handcraft.layouts import layout

RAW = layout("holistic75")
POSE, LEFT_HAND, RIGHT_HAND = (RAW.slices[name] for name in ("pose", "left_hand", "right_hand"))
DATA = Path(__file__).parents[3] / "shared" / "data" / "asl33.npz"


def person(frames=20, seed=0):
    """A raw clip (T,75,3) with nothing missing: the shoulders about 0.25 apart, every landmark moving by itself."""
    rng = np.random.default_rng(seed)
    clip = rng.uniform(0.2, 0.8, (75, 3)) + 0.02 * rng.normal(size=(frames, 75, 3)).cumsum(0)
    clip[:, 11, :2] = (0.62, 0.4) + 0.01 * rng.normal(size=(frames, 2))
    clip[:, 12, :2] = (0.37, 0.41) + 0.01 * rng.normal(size=(frames, 2))
    return clip.astype(np.float32)


def runs_of(present):
    """[first, one past the last) of each run of True, found the plain way."""
    found, start = [], None
    for t, here in enumerate([*present, False]):
        if here and start is None:
            start = t
        if not here and start is not None:
            found.append((start, t))
            start = None
    return found


# --- signature


def test_signature_names_every_parameter():
    base = PreprocessConfig()
    other = {"fill": 4, "smooth_window": 5, "smooth_order": 3, "centre": "paper", "layout": "handcraft60"}
    other |= {"coordinates": "xy", "missing": "interpolate"}
    assert set(other) == {field.name for field in fields(base)}
    signatures = {signature(replace(base, **{name: value})) for name, value in other.items()} | {signature(base)}
    assert len(signatures) == len(other) + 1
    assert signature(PreprocessConfig()) == signature(base)
    changed = replace(base, **other)
    assert from_signature(signature(changed)) == changed


def test_a_field_that_came_later_leaves_earlier_signatures_as_they_were():
    assert "missing" not in signature(PreprocessConfig())
    assert from_signature(signature(PreprocessConfig())).missing == "keep"
    assert "missing=interpolate" in signature(PreprocessConfig(missing="interpolate"))


@pytest.mark.parametrize(
    "text", ["", "preprocess/0 fill=5", "preprocess/1 fill=five", signature(PreprocessConfig()) + " x=1"]
)
def test_a_signature_of_another_version_is_refused(text):
    with pytest.raises(DataError, match="signature"):
        from_signature(text)


# --- 1 fill


def test_fill_known_answer():
    clip = np.full((9, 1, 1), np.nan)
    clip[[1, 4, 6], 0, 0] = [10, 40, 50]  # gaps: leading 1, interior 2 and 1, trailing 2
    filled = fill_gaps(clip, 5)[:, 0, 0]
    np.testing.assert_allclose(filled, [np.nan, 10, 20, 30, 40, 45, 50, np.nan, np.nan])
    assert np.isnan(clip).sum() == 6, "the input must not change"


@pytest.mark.parametrize(("gap", "filled"), [(1, True), (5, True), (6, False)])
def test_fill_longest_gap(gap, filled):
    clip = person(20)
    clip[4 : 4 + gap, LEFT_HAND] = np.nan
    assert np.isnan(fill_gaps(clip, 5)).any() != filled
    assert np.isnan(fill_gaps(clip, 0)).any()


def test_fill_stays_within_a_part():
    clip = person(20)
    clip[8:10, LEFT_HAND] = np.nan
    clip[5:12, RIGHT_HAND] = np.nan  # too long to fill, and no help for the other hand
    filled = fill_gaps(clip, 5)
    for t, weight in ((8, 1 / 3), (9, 2 / 3)):
        expected = clip[7, LEFT_HAND] * (1 - weight) + clip[10, LEFT_HAND] * weight
        np.testing.assert_allclose(filled[t, LEFT_HAND], expected, rtol=1e-6)
    assert np.isnan(filled[5:12, RIGHT_HAND]).all()
    seen = ~np.isnan(clip)
    np.testing.assert_array_equal(filled[seen], clip[seen])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=3, max_size=30), st.integers(0, 6))
def test_fill_of_linear_motion_is_exact(present, longest):
    """Filled values lie on the line, detected ones are untouched, and exactly the short interior gaps are filled."""
    present = np.array(present)
    line = np.arange(len(present))[:, None, None] * np.array([[[0.5, -2.0]]]) + 3.0
    clip = np.where(present[:, None, None], line, np.nan)
    filled = fill_gaps(clip, longest)
    expected = present.copy()
    for (_, before), (after, _) in zip(runs_of(present)[:-1], runs_of(present)[1:], strict=True):
        expected[before:after] |= after - before <= longest
    np.testing.assert_allclose(filled, np.where(expected[:, None, None], line, np.nan), atol=1e-12)


def test_fill_refuses_a_negative_length():
    with pytest.raises(ConfigError, match=r"preprocess\.fill is -1"):
        fill_gaps(person(), -1)


# --- 2 smooth


@pytest.mark.parametrize("frames", [7, 20, 128, 129, 200])
def test_smooth_is_savitzky_golay_on_every_run(frames):
    rng = np.random.default_rng(frames)
    clip = person(frames).astype(np.float64)
    for part in (LEFT_HAND, RIGHT_HAND):
        clip[rng.uniform(size=frames) < 0.1, part] = np.nan
    clip[rng.uniform(size=frames) < 0.05, 3] = np.nan  # one landmark lost by itself
    expected = clip.copy()
    for j in range(75):
        for start, stop in runs_of(~np.isnan(clip[:, j, 0])):
            if stop - start >= 7:
                expected[start:stop, j] = savgol_filter(clip[start:stop, j], 7, 2, axis=0)
    smoothed = smooth(clip, 7, 2)
    np.testing.assert_allclose(smoothed, expected, atol=1e-12)
    assert np.nanmax(np.abs(smoothed - clip)) > 1e-3, "something must have been smoothed"


def test_smooth_never_crosses_missing_frames_and_leaves_short_runs_alone():
    clip = person(20)
    clip[6, LEFT_HAND] = np.nan  # runs of 6 and 13 frames
    other = clip.copy()
    other[7:, LEFT_HAND] += 5.0
    smoothed, shifted = smooth(clip, 7, 2), smooth(other, 7, 2)
    np.testing.assert_array_equal(smoothed[:6, LEFT_HAND], clip[:6, LEFT_HAND])
    np.testing.assert_array_equal(smoothed[:7, LEFT_HAND], shifted[:7, LEFT_HAND])
    np.testing.assert_array_equal(smoothed[:, RIGHT_HAND], shifted[:, RIGHT_HAND])


def test_smooth_keeps_parabolas_and_lowers_noise():
    t = np.arange(15.0)[:, None, None]
    parabola = 0.3 * t**2 - 2 * t + np.arange(6.0).reshape(1, 2, 3)
    np.testing.assert_allclose(smooth(parabola, 7, 2), parabola, atol=1e-10)
    noise = np.random.default_rng(0).normal(size=(200, 5, 3))
    assert smooth(noise, 7, 2).std() < 0.7 * noise.std()  # sqrt(1/3) = 0.58 for window 7, order 2


def test_smooth_off_and_refused():
    clip = person()
    np.testing.assert_array_equal(smooth(clip, 0, 2), clip)
    for window, order in ((6, 2), (-7, 2), (3, 3), (7, -1)):
        with pytest.raises(ConfigError, match="smooth_window"):
            smooth(clip, window, order)


# --- 3 centre


def test_shoulder_known_answer():
    clip = np.zeros((3, 75, 3))
    clip[:, 11] = [0.6, 0.5, 0.1]
    clip[:, 12] = [0.4, 0.5, 0.3]
    clip[:, 0] = [0.55, 0.25, -0.2]
    clip[:, LEFT_HAND] = [0.7, 0.75, 0.05]
    # aspect 2: in units of the height the shoulders are 0.4 apart, their midpoint is (1.0, 0.5, 0.4)
    centred = centre(clip, RAW, "shoulder", aspect=2.0)
    np.testing.assert_allclose(centred[:, 11], np.tile([0.5, 0, -0.5], (3, 1)), atol=1e-12)
    np.testing.assert_allclose(centred[:, 12], np.tile([-0.5, 0, 0.5], (3, 1)), atol=1e-12)
    np.testing.assert_allclose(centred[1, 0], [0.25, -0.625, -2.0], atol=1e-12)
    np.testing.assert_allclose(centred[1, 40], [1.0, 0.625, 0.25], atol=1e-12)  # a hand's z starts at its wrist


def test_shoulder_uses_medians_over_the_frames_that_show_both():
    clip = person(11).astype(np.float64)
    expected = centre(clip, RAW, "shoulder")
    outlier = clip.copy()
    outlier[3, [11, 12], :2] = [[5.0, 7.0], [-9.0, 2.0]]
    moved = np.delete(centre(outlier, RAW, "shoulder"), 3, axis=0)
    assert np.abs(moved - np.delete(expected, 3, axis=0)).max() < 0.5  # a mean would move everything by several widths
    clip[4, 11] = np.nan  # the right shoulder alone must not count in frame 4
    seen = np.delete(clip, 4, axis=0)
    middle = np.median((seen[:, 11] + seen[:, 12]) / 2, axis=0)[:2]
    width = np.median(np.linalg.norm(seen[:, 11, :2] - seen[:, 12, :2], axis=1))
    np.testing.assert_allclose(centre(clip, RAW, "shoulder")[:, 12, :2], (clip[:, 12, :2] - middle) / width, rtol=1e-12)


def test_shoulder_cancels_place_size_and_aspect():
    clip = person().astype(np.float64)
    expected = centre(clip, RAW, "shoulder", aspect=1.0)
    moved = clip * 0.4
    moved[..., :2] += [0.3, -0.1]
    np.testing.assert_allclose(centre(moved, RAW, "shoulder"), expected, atol=1e-9)
    wide = clip.copy()  # the same scene filmed in a frame 1.6 times as wide as high: x and z are fractions of the width
    wide[..., [0, 2]] /= 1.6
    np.testing.assert_allclose(centre(wide, RAW, "shoulder", aspect=1.6), expected, atol=1e-9)
    assert np.abs(centre(wide, RAW, "shoulder") - expected).max() > 0.1


def test_paper_known_answer():
    clip = person(6)
    clip[0, POSE] = np.nan
    clip[2, LEFT_HAND] = np.nan
    expected = clip - clip[1, 0]  # the first frame with a pose is frame 1
    expected[:, 33:, 2] = np.where(np.isnan(expected[:, 33:, 2]), np.nan, 0.0)
    np.testing.assert_array_equal(centre(clip, RAW, "paper", aspect=1.7), expected)


def test_paper_centres_layouts_without_a_nose_from_the_full_pose():
    clip, config = person(), PreprocessConfig(centre="paper", smooth_window=0, layout="pose_hands48")
    out = preprocess(clip, RAW, config)
    np.testing.assert_allclose(out[:, 0], clip[:, 12] - clip[0, 0], atol=1e-6)


def test_centre_refuses_what_it_cannot_use():
    clip = person()
    with pytest.raises(ConfigError, match="'hips'"):
        centre(clip, RAW, "hips")
    for aspect in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(DataError, match="aspect ratio"):
            centre(clip, RAW, "shoulder", aspect)
    headless = clip.copy()
    headless[:, 0] = np.nan
    with pytest.raises(DataError, match="nose"):
        centre(headless, RAW, "paper")
    split = clip.copy()  # each shoulder is seen, but never both
    split[::2, 11] = np.nan
    split[1::2, 12] = np.nan
    with pytest.raises(DataError, match="both shoulders"):
        centre(split, RAW, "shoulder")
    flat = clip.copy()
    flat[:, 11] = flat[:, 12]
    with pytest.raises(DataError, match="apart"):
        centre(flat, RAW, "shoulder")
    with pytest.raises(ConfigError, match="no landmark 0 of part pose"):
        centre(clip[:, :48], layout("pose_hands48"), "paper")


# --- 4 select, and all together


def test_select_order():
    clip = np.arange(2 * 75 * 3, dtype=np.float32).reshape(2, 75, 3)
    chosen = select(clip, RAW, layout("pose_hands48"), "xy")
    assert chosen.shape == (2, 48, 2)
    np.testing.assert_array_equal(chosen[:, :6], clip[:, [12, 14, 16, 11, 13, 15], :2])
    np.testing.assert_array_equal(chosen[:, 6:27], clip[:, RIGHT_HAND, :2])
    np.testing.assert_array_equal(chosen[:, 27:], clip[:, LEFT_HAND, :2])


@pytest.mark.parametrize("mode", ["shoulder", "paper"])
def test_the_steps_run_in_order(mode):
    """Two runs of 5 frames join to one long enough to smooth only if gaps are filled first."""
    clip = person(12)
    clip[5:7, LEFT_HAND] = np.nan
    before = clip.copy()
    config = PreprocessConfig(centre=mode)
    out = preprocess(clip, RAW, config, aspect=1.5)
    assert out.dtype == np.float32
    assert out.shape == (12, 48, 3)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(clip, before)
    steps = smooth(fill_gaps(clip.astype(np.float64), 5), 7, 2)
    steps = select(centre(steps, RAW, mode, 1.5), RAW, layout("pose_hands48"), "xyz")
    np.testing.assert_allclose(out, steps, atol=1e-6)
    unfilled = smooth(clip.astype(np.float64), 7, 2)[:, LEFT_HAND]
    assert np.abs(unfilled - smooth(fill_gaps(clip.astype(np.float64), 5), 7, 2)[:, LEFT_HAND])[:5].max() > 1e-4


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_clip_played_backwards_comes_out_backwards(frames, seed):
    clip = person(frames, seed)
    rng = np.random.default_rng(seed)
    for part in (LEFT_HAND, RIGHT_HAND):
        clip[rng.uniform(size=frames) < 0.3, part] = np.nan
    forwards = preprocess(clip, RAW, PreprocessConfig())
    backwards = preprocess(clip[::-1], RAW, PreprocessConfig())[::-1]
    np.testing.assert_allclose(forwards, backwards, atol=2e-6)


# --- what is missing still


def test_interpolation_known_answer():
    clip = np.full((12, 2, 2), np.nan)
    clip[[2, 9], 0] = [[1, 10], [8, 3]]  # a gap of 6 frames, 2 missing before and 2 behind
    kept = interpolate(clip, "keep")
    np.testing.assert_array_equal(kept, clip)
    filled = interpolate(clip, "interpolate")
    np.testing.assert_allclose(filled[:, 0, 0], [1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8])
    np.testing.assert_allclose(filled[:, 0, 1], [10, 10, 10, 9, 8, 7, 6, 5, 4, 3, 3, 3])
    assert np.isnan(filled[:, 1]).all(), "a landmark that is in no frame stays missing"
    assert np.isnan(clip[0]).all(), "the input must not change"
    with pytest.raises(ConfigError, match=r"preprocess\.missing is 'zero'; expected 'keep' or 'interpolate'"):
        interpolate(clip, "zero")


def test_preprocessing_interpolates_last_and_changes_no_detection():
    clip = person(30)
    clip[:4, LEFT_HAND] = np.nan
    clip[10:20, RIGHT_HAND] = np.nan
    config = PreprocessConfig()
    kept = preprocess(clip, RAW, config)
    filled = preprocess(clip, RAW, replace(config, missing="interpolate"))
    assert np.isnan(kept).any()
    assert not np.isnan(filled).any()
    np.testing.assert_array_equal(filled[~np.isnan(kept)], kept[~np.isnan(kept)])
    lost = layout("pose_hands48").slices["left_hand"]
    np.testing.assert_array_equal(filled[:4, lost], np.repeat(kept[4:5, lost], 4, axis=0))


def test_of_a_face_mesh_only_what_is_kept_is_filled_and_smoothed(monkeypatch):
    raw, config, sizes = layout("holistic553"), PreprocessConfig(layout="handcraft60"), []
    clip = np.random.default_rng(0).uniform(0, 1, (20, 553, 3)).astype(np.float32)
    clip[5:8, raw.slices["face"]] = np.nan
    whole = smooth(fill_gaps(clip.astype(float), config.fill), config.smooth_window, config.smooth_order)
    whole = select(centre(whole, raw, config.centre, 1.5), raw, layout("handcraft60"), "xyz")
    spied = lambda x, most: sizes.append(x.shape) or fill_gaps(x, most)  # noqa: E731
    monkeypatch.setattr("handcraft.data.preprocess.fill_gaps", spied)
    np.testing.assert_allclose(preprocess(clip, raw, config, 1.5), whole, rtol=0, atol=1e-5)
    assert sizes == [(20, 61, 3)]


def test_one_missing_coordinate_is_a_missing_landmark():
    clip = person()
    clip[7, 40, 1] = np.nan
    out = preprocess(clip, RAW, PreprocessConfig(fill=0, smooth_window=0))
    place = layout("pose_hands48").position("left_hand", 40 - 33)
    assert np.isnan(out[7, place]).all()
    assert np.isnan(out).sum() == 3


def test_xy_ignores_z_wholly():
    clip = person()
    flat = clip.copy()
    flat[..., 2] = np.nan
    config = PreprocessConfig(coordinates="xy")
    expected = preprocess(clip, RAW, config)
    assert expected.shape == (20, 48, 2)
    np.testing.assert_array_equal(preprocess(flat, RAW, config), expected)
    np.testing.assert_array_equal(preprocess(clip[..., :2], RAW, config), expected)
    np.testing.assert_allclose(expected, preprocess(clip, RAW, PreprocessConfig())[..., :2], atol=1e-6)


def test_bad_clips_are_refused():
    clip, config = person(), PreprocessConfig()
    infinite = clip.copy()
    infinite[3, 2, 1] = np.inf
    for bad, message in (
        (clip[:, :74], r"\(20, 74, 3\); layout holistic75"),
        (clip[0], r"\(75, 3\); layout holistic75"),
        (clip[..., :2], "x and y only"),
        (clip[:0], "0 frames"),
        (np.full_like(clip, np.nan), "no landmark was detected"),
        (infinite, "infinite"),
    ):
        with pytest.raises(DataError, match=message):
            preprocess(bad, RAW, config)
    with pytest.raises(ConfigError, match="no landmark 61 of part face"):
        preprocess(clip, RAW, replace(config, layout="handcraft60"))
    with pytest.raises(ConfigError, match="'yz'"):
        preprocess(clip, RAW, replace(config, coordinates="yz"))


@pytest.mark.skipif(not DATA.exists(), reason="real clips are not beside the repository (../shared/data/asl33.npz)")
def test_real_clips():
    arrays = np.load(DATA)
    clips = np.concatenate([arrays[name][::25] for name in ("pose", "left_hand", "right_hand")], axis=2)
    for clip in clips:
        out = preprocess(clip, RAW, PreprocessConfig(), aspect=4 / 3)
        width = np.linalg.norm(out[:, 0, :2] - out[:, 3, :2], axis=1)
        assert np.nanmedian(width) == pytest.approx(1, abs=1e-5)
        assert np.nanmedian(out[:, 0, :2] + out[:, 3, :2], axis=0) == pytest.approx([0, 0], abs=1e-5)
        assert np.nanmax(np.abs(out)) < 20  # shoulder widths
        raw = np.isnan(clip[:, RIGHT_HAND, 0])
        assert (np.isnan(out[:, 6:27, 0]) <= raw).all(), "preprocessing never loses a landmark"
