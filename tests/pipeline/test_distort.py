"""Distortions of training windows: known answers, what they leave alone, and that they belong to the sample."""

from dataclasses import replace

import pytest
import torch

from handcraft.config import AugmentConfig, WindowConfig
from handcraft.data.batches import Batch
from handcraft.data.distort import distort, distorts
from handcraft.data.ready import ReadyWindows
from handcraft.data.statistics import Statistics
from handcraft.kernels import philox
from handcraft.layouts import layout

LAYOUT = "pose_hands48"
RIGHT, LEFT = layout(LAYOUT).slices["right_hand"], layout(LAYOUT).slices["left_hand"]
FULL = AugmentConfig(shear=0.2, jitter=0.05, drop_hand=0.3, mirror=0.5)


def batch_of(size=32, frames=6, coordinates=2):
    """A batch, its clips in the centred unit, and the statistics that lie between the two."""
    generator = torch.Generator().manual_seed(1)
    points = layout(LAYOUT).landmarks
    centred = torch.randn(size, frames, points, coordinates, generator=generator)
    mean, std = torch.zeros(points, coordinates), torch.ones(points, coordinates)
    for part, place in enumerate(layout(LAYOUT).slices.values()):
        mean[place], std[place] = 0.3 * part + 0.1, 0.5 + 0.25 * part
    statistics = Statistics(mean, std)
    present = torch.ones(size, frames, points, dtype=torch.bool)
    present[:, 2, LEFT] = False
    centred[~present] = torch.nan
    valid = torch.ones(size, frames, dtype=torch.bool)
    valid[:, -1] = False
    present[:, -1] = False
    centred[:, -1] = torch.nan
    x = statistics.standardise(centred).flatten(2)
    number = torch.arange(size)
    return Batch(x, present, valid, number % 3, number, 100 + number), centred, statistics


def centred_of(batch, statistics):
    x = statistics.unstandardise(batch.x.unflatten(2, tuple(statistics.mean.shape)))
    return x.masked_fill(~batch.present[..., None], torch.nan)


def test_off_is_the_batch_itself():
    batch, _, statistics = batch_of()
    assert not distorts(AugmentConfig(rotation=20, scale=0.2, subwindow=0.7))
    assert distort(batch, AugmentConfig(rotation=20, scale=0.2), statistics, LAYOUT, 0) is batch


@pytest.mark.parametrize("name", ["shear", "jitter", "drop_hand", "mirror"])
def test_windows_that_are_distorted_are_not_ready_ones(name):
    config = AugmentConfig(**{name: 0.1})
    assert distorts(config)
    assert not ReadyWindows.serves(config, WindowConfig())


def test_missing_landmarks_and_padding_stay_missing():
    batch, _, statistics = batch_of()
    before = batch.x.clone(), batch.present.clone()
    made = distort(batch, FULL, statistics, LAYOUT, 7)
    assert torch.equal(batch.x, before[0])
    assert torch.equal(batch.present, before[1])
    assert not made.present[:, -1].any()
    wide = made.present[..., None].expand(-1, -1, -1, 2).flatten(2)
    assert not made.x[~wide].any()
    assert torch.equal(made.valid, batch.valid)
    assert torch.equal(made.label, batch.label)


def test_shear_moves_x_by_y():
    batch, centred, statistics = batch_of()
    made = centred_of(distort(batch, AugmentConfig(shear=0.2), statistics, LAYOUT, 7), statistics)
    u = philox.uniform(7, batch.sample_id, 4, 1, 1)[:, 0]
    expected = centred.clone()
    expected[..., 0] += ((2 * u[:, 1] - 1) * 0.2)[:, None, None] * centred[..., 1]
    torch.testing.assert_close(made, expected, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert (made - centred).nan_to_num().abs().max() > 0.1


def test_jitter_has_its_deviation_in_the_centred_unit():
    batch, centred, statistics = batch_of(size=128)
    made = centred_of(distort(batch, AugmentConfig(jitter=0.05), statistics, LAYOUT, 7), statistics)
    for part in (slice(0, 6), RIGHT, LEFT):
        noise = (made - centred)[:, :, part]
        noise = noise[~noise.isnan()]
        assert noise.std().item() == pytest.approx(0.05, rel=0.03)
        assert abs(noise.mean().item()) < 0.002
    noise = (made - centred)[:, :2].flatten(0, 1)  # of neighbouring frames, landmarks and clips: independent
    assert abs(torch.corrcoef(noise[:, :6, 0].T)[0, 1]) < 0.2
    assert (noise[0] - noise[1]).abs().max() > 0.05


def test_a_dropped_hand_is_missing_in_the_whole_window():
    batch, _, statistics = batch_of(size=512)
    made = distort(batch, AugmentConfig(drop_hand=0.3), statistics, LAYOUT, 7)
    gone = {hand: ~made.present[:, :2, place].any(2).any(1) for hand, place in (("right", RIGHT), ("left", LEFT))}
    for place, hand in ((RIGHT, "right"), (LEFT, "left")):
        assert gone[hand].float().mean().item() == pytest.approx(0.3, abs=0.07)
        assert torch.equal(made.present[~gone[hand]][..., place], batch.present[~gone[hand]][..., place])
        assert not made.present[gone[hand]][..., place].any()
    assert (gone["right"] & gone["left"]).float().mean().item() == pytest.approx(0.09, abs=0.05)
    assert torch.equal(made.present[..., :6], batch.present[..., :6])
    assert torch.equal(made.x[..., :12], batch.x[..., :12]), "the pose is left as it was"


def test_a_mirror_exchanges_the_hands():
    batch, centred, statistics = batch_of(coordinates=3)
    made = centred_of(distort(batch, AugmentConfig(mirror=1.0), statistics, LAYOUT, 7), statistics)
    expected = centred[:, :, list(layout(LAYOUT).flip)] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(made, expected, equal_nan=True, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made[:, :, RIGHT, 1], centred[:, :, LEFT, 1], equal_nan=True, rtol=1e-4, atol=1e-5)
    some = centred_of(distort(batch, AugmentConfig(mirror=0.5), statistics, LAYOUT, 7), statistics)
    mirrored = (some[:, 0, 0, 0] - expected[:, 0, 0, 0]).abs() < 1e-4
    assert 8 < mirrored.sum() < 24
    torch.testing.assert_close(some[~mirrored], centred[~mirrored], equal_nan=True, rtol=1e-4, atol=1e-5)


def test_a_sample_is_distorted_alike_in_any_batch():
    batch, _, statistics = batch_of()
    whole = distort(batch, FULL, statistics, LAYOUT, 7)
    part = distort(batch.take(slice(5, 9)), FULL, statistics, LAYOUT, 7)
    assert torch.equal(part.x, whole.x[5:9])
    assert torch.equal(part.present, whole.present[5:9])
    assert not torch.equal(distort(batch, FULL, statistics, LAYOUT, 8).x, whole.x)
    later = replace(batch, sample_id=batch.sample_id + 1)
    assert not torch.equal(distort(later, FULL, statistics, LAYOUT, 7).x, whole.x)
