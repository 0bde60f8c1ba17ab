"""Statistics per part and coordinate: against NumPy, and what they must not see."""

import json

import numpy as np
import pytest
import torch
from tiny_clips import tiny_clips

from handcraft.data import statistics
from handcraft.data.statistics import Statistics, compute
from handcraft.errors import DataError
from handcraft.layouts import layout


def test_compute_against_numpy():
    clips = tiny_clips([5, 9, 3, 12])
    clips.frames[..., 1] *= 7
    clips.frames[..., 2] += 100
    found = compute(clips)
    assert found.mean.shape == found.std.shape == (48, 3)
    assert found.mean.dtype == found.std.dtype == torch.float32
    frames = clips.frames.numpy().astype(np.float64)
    for part in layout(clips.layout).slices.values():
        mean, std = np.nanmean(frames[:, part], axis=(0, 1)), np.nanstd(frames[:, part], axis=(0, 1))
        np.testing.assert_allclose(found.mean[part], np.tile(mean, (part.stop - part.start, 1)), rtol=1e-6)
        np.testing.assert_allclose(found.std[part], np.tile(std, (part.stop - part.start, 1)), rtol=1e-6)
    assert len(np.unique(found.mean[:, 0])) == 3, "one value a part, and a value of its own for each part"


def test_only_the_given_clips_count():
    clips = tiny_clips([5, 9, 3, 12])
    train = clips.subset([3, 1])
    before = compute(train)
    clips.frames[:5] += 1000  # clip 0
    clips.frames[14:17] = torch.nan  # clip 2
    after = compute(train)
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.std, after.std)
    assert not torch.allclose(compute(clips).mean, after.mean, atol=1)


def test_chunks_do_not_matter(monkeypatch):
    clips = tiny_clips([5, 9, 3, 12])
    whole = compute(clips)
    monkeypatch.setattr(statistics, "_CHUNK", 7)
    parts = compute(clips)
    torch.testing.assert_close(whole.mean, parts.mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(whole.std, parts.std, rtol=1e-6, atol=0)


def test_constant_and_absent_coordinates_are_divided_by_one():
    clips = tiny_clips([8, 8], missing=0)
    slices = layout(clips.layout).slices
    clips.frames[:, slices["left_hand"], 2] = 3.25  # z of a hand set to a constant
    clips.frames[:, slices["pose"], 0] = 1e3 + 1e-7 * torch.arange(16.0)[:, None]  # below float32's step: constant
    clips.frames[:, slices["right_hand"]] = torch.nan
    found = compute(clips)
    assert (found.std[slices["left_hand"], 2] == 1).all()
    assert (found.mean[slices["left_hand"], 2] == 3.25).all()
    assert (found.std[slices["pose"], 0] == 1).all()
    assert (found.mean[slices["right_hand"]] == 0).all()
    assert (found.std[slices["right_hand"]] == 1).all()
    assert (found.standardise(clips.frames)[:, slices["left_hand"], 2] == 0).all()


def test_a_small_deviation_far_from_zero_is_kept():
    clips = tiny_clips([64], missing=0)
    clips.frames[:] = 1.0 + 1e-4 * torch.randn(clips.frames.shape, generator=torch.Generator().manual_seed(0))
    assert compute(clips).std.numpy() == pytest.approx(1e-4, rel=0.1)


def test_standardise_and_back():
    clips = tiny_clips([20, 11])
    found = compute(clips)
    x = clips.frames.clone()
    y = found.standardise(x)
    assert torch.equal(x.isnan(), clips.frames.isnan()), "the input must not change"
    missing = x.isnan()
    assert missing.any()
    assert (y[missing] == 0).all()
    expected = (x - found.mean) / found.std
    torch.testing.assert_close(y[~missing], expected[~missing])
    torch.testing.assert_close(found.unstandardise(y)[~missing], x[~missing], rtol=1e-5, atol=1e-6)
    pose = layout(clips.layout).slices["pose"]
    assert y[:, pose].mean((0, 1)).numpy() == pytest.approx(np.zeros(3), abs=1e-5)
    assert y[:, pose].std((0, 1), correction=0).numpy() == pytest.approx(np.ones(3), abs=1e-5)
    batch = clips.frames[:24].view(2, 3, 4, 48, 3)
    torch.testing.assert_close(found.standardise(batch).view(24, 48, 3), y[:24])


def test_json_round_trip_is_exact():
    found = compute(tiny_clips([20, 11]))
    again = Statistics.from_dict(json.loads(json.dumps(found.to_dict())))
    assert torch.equal(again.mean, found.mean)
    assert torch.equal(again.std, found.std)


def test_damaged_statistics_are_refused():
    good = compute(tiny_clips([4])).to_dict()
    for bad in (
        {},
        {"mean": good["mean"]},
        {"mean": "x", "std": good["std"]},
        {"mean": good["mean"][1:], "std": good["std"]},
        {"mean": [1.0], "std": [1.0]},
        {"mean": good["mean"], "std": [[0.0] * 3] * 48},
        {"mean": [[float("nan")] * 3] * 48, "std": good["std"]},
        {"mean": [[1.0, 2.0], [1.0]], "std": good["std"]},
        None,
    ):
        with pytest.raises(DataError, match="statistics are damaged"):
            Statistics.from_dict(bad)


def test_no_clips():
    with pytest.raises(DataError, match="at least one training clip"):
        compute(tiny_clips([4]).subset([]))
