"""Windows: hand-made answers, a plain NumPy loop over clips, and motion that must stay what it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_clips import tiny_clips

from handcraft.config import WindowConfig
from handcraft.data.window import windows
from handcraft.errors import ConfigError


def clip_of(values, frames_of_others=(4, 6)):
    """Clips around one whose landmarks all take `values` (T,); the others hold 1e9, so reading them shows."""
    before, after = frames_of_others
    clips = tiny_clips([before, len(values), after], missing=0)
    clips.frames[:] = 1e9
    clips.frames[before : before + len(values)] = torch.tensor(values, dtype=torch.float32)[:, None, None]
    return clips


def window_of(values, config, **where):
    """The window of that clip as (W,) values (every landmark and coordinate must agree) and its valid mask."""
    x, valid = windows(clip_of(values), torch.tensor([1]), config, **{k: torch.tensor([v]) for k, v in where.items()})
    assert x.shape == (1, config.frames, 48, 3)
    assert x.dtype == torch.float32
    np.testing.assert_array_equal(x[0].flatten(1).numpy(), np.repeat(x[0, :, :1, 0].numpy(), 144, axis=1))
    return x[0, :, 0, 0].tolist(), valid[0].tolist()


NAN = float("nan")


@pytest.mark.parametrize(
    ("mode", "values", "frames", "expected", "valid"),
    [
        ("wrap", [1, 2, 3], 8, [1, 2, 3, 1, 2, 3, 1, 2], [True] * 8),
        ("wrap", [1, 2, 3], 3, [1, 2, 3], [True] * 3),
        ("wrap", [0, 1, 2, 3, 4, 5, 6], 4, [1, 2, 3, 4], [True] * 4),
        ("zero", [1, 2, 3], 5, [1, 2, 3, NAN, NAN], [True] * 3 + [False] * 2),
        ("zero", [1, NAN, 3], 4, [1, NAN, 3, NAN], [True] * 3 + [False]),
        ("zero", [0, 1, 2, 3, 4, 5], 4, [1, 2, 3, 4], [True] * 4),
        ("resample", [0, 2, 4], 5, [0, 1, 2, 3, 4], [True] * 5),
        ("resample", [0, 1, 2, 3, 4, 5, 6], 4, [0, 2, 4, 6], [True] * 4),
        ("resample", [7], 3, [7, 7, 7], [True] * 3),
        ("resample", [1, 5, 3], 1, [5], [True]),
        # between a frame and a missing one stands the frame; on a missing one, and between two, nothing
        ("resample", [1, NAN, NAN, 4], 7, [1, 1, NAN, NAN, NAN, 4, 4], [True] * 7),
    ],
)
def test_known_answers(mode, values, frames, expected, valid):
    found, mask = window_of(values, WindowConfig(frames=frames, mode=mode))
    np.testing.assert_allclose(found, expected)
    assert mask == valid


@pytest.mark.parametrize(
    ("mode", "begin", "span", "expected"),
    [
        ("wrap", 2, 4, [2, 3, 4, 5]),
        ("wrap", 5, 2, [5, 6, 5, 6]),
        ("zero", 3, 3, [3, 4, 5, NAN]),
        ("zero", 9, 4, [9, 9, 9, 9]),  # held inside the clip
        ("resample", 2.0, 4.0, [2, 3, 4, 5]),
        ("resample", 0.5, 5.5, [0.5, 2, 3.5, 5]),
        ("resample", 8.0, 4.0, [8, 9, 9, 9]),
    ],
)
def test_crops_and_sub_windows(mode, begin, span, expected):
    found, valid = window_of(list(range(10)), WindowConfig(frames=4, mode=mode), begin=begin, span=span)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert valid == (~np.isnan(expected)).tolist()


def plain(clip, config):
    """One clip (T,J,C) -> (W,J,C), the straightforward way."""
    frames, width = len(clip), config.frames
    if config.mode == "wrap" or config.mode == "zero":
        if frames >= width:
            start = (frames - width) // 2
            return clip[start : start + width]
        if config.mode == "wrap":
            return np.stack([clip[t % frames] for t in range(width)])
        return np.concatenate([clip, np.full((width - frames, *clip.shape[1:]), np.nan, clip.dtype)])
    out = np.empty((width, *clip.shape[1:]), clip.dtype)
    for t in range(width):
        time = t * (frames - 1) / (width - 1)
        a, b = clip[int(np.floor(time))], clip[int(np.ceil(time))]
        share = np.float32(time - np.floor(time))
        mixed = a * (1 - share) + b * share
        out[t] = np.where(np.isnan(a), b, np.where(np.isnan(b), a, mixed))
    return out


@pytest.mark.parametrize("mode", ["wrap", "zero", "resample"])
@pytest.mark.parametrize("coordinates", [2, 3])
def test_a_mixed_batch_is_its_clips_one_by_one(mode, coordinates):
    clips = tiny_clips([1, 31, 32, 33, 2, 64, 20, 7], missing=0.4, coordinates=coordinates)
    config = WindowConfig(mode=mode)
    index = torch.tensor([7, 0, 3, 3, 5, 1, 2, 4, 6])
    x, valid = windows(clips, index, config)
    for row, i in enumerate(index.tolist()):
        np.testing.assert_allclose(x[row].numpy(), plain(clips.clip(i).numpy(), config), atol=1e-6)
        padded = max(0, 32 - int(clips.length[i])) if mode == "zero" else 0
        assert valid[row].tolist() == [True] * (32 - padded) + [False] * padded
    assert x.isnan().any()


def test_resampling_to_the_own_length_is_the_identity():
    clips = tiny_clips([32, 20, 27])
    for i, frames in enumerate((32, 20, 27)):
        x, _ = windows(clips, torch.tensor([i]), WindowConfig(frames=frames))
        np.testing.assert_array_equal(x[0].numpy(), clips.clip(i).numpy())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.floats(-3, 3), st.floats(-10, 10))
def test_linear_motion_stays_linear(frames, width, speed, offset):
    values = [offset + speed * t for t in range(frames)]
    found, _ = window_of(values, WindowConfig(frames=width))
    if width == 1:
        expected = [offset + speed * (frames - 1) / 2]
    else:
        expected = np.linspace(values[0], values[-1], width)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(0, 1000))
def test_a_clip_played_backwards_gives_the_window_backwards(frames, seed):
    clips = tiny_clips([frames, frames], missing=0.3, seed=seed)
    clips.frames[frames:] = clips.frames[:frames].flip(0)
    (forwards, backwards), _ = windows(clips, torch.tensor([0, 1]), WindowConfig())
    np.testing.assert_allclose(forwards.numpy(), backwards.flip(0).numpy(), atol=1e-5)


@pytest.mark.parametrize("mode", ["wrap", "zero", "resample"])
def test_the_frames_are_not_written_to(mode):
    clips = tiny_clips([5, 40, 32])
    before = clips.frames.clone()
    x, _ = windows(clips, torch.arange(3), WindowConfig(mode=mode))
    x.fill_(5)
    np.testing.assert_array_equal(clips.frames.numpy(), before.numpy())


def test_an_empty_batch():
    for mode in ("wrap", "zero", "resample"):
        x, valid = windows(tiny_clips([5]), torch.zeros(0, dtype=torch.int64), WindowConfig(mode=mode))
        assert x.shape == (0, 32, 48, 3)
        assert valid.shape == (0, 32)


def test_bad_configs():
    clips = tiny_clips([5])
    with pytest.raises(ConfigError, match=r"window\.frames is 0"):
        windows(clips, torch.tensor([0]), WindowConfig(frames=0))
    with pytest.raises(ConfigError, match="'loop'"):
        windows(clips, torch.tensor([0]), WindowConfig(mode="loop"))
