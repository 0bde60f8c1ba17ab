"""Augmentation: geometry that must hold, its limits, and random numbers that belong to the sample alone."""

import math

import numpy as np
import pytest
import torch

from handcraft.config import AugmentConfig, WindowConfig
from handcraft.data.augment import augment, sub_windows, turn
from handcraft.errors import ConfigError
from handcraft.kernels import philox


def sample_windows(batch=64, frames=4, landmarks=5, coordinates=3):
    x = torch.randn(batch, frames, landmarks, coordinates, generator=torch.Generator().manual_seed(0))
    x[:, 1, 2] = torch.nan
    return x, torch.arange(batch)


def test_off_is_the_identity():
    x, sample_id = sample_windows()
    assert augment(x, AugmentConfig(), 0, sample_id) is x
    length = torch.tensor([1, 20, 32, 90])
    begin, span = sub_windows(length, AugmentConfig(), WindowConfig(), 0, torch.arange(4))
    assert begin.tolist() == [0, 0, 0, 0]
    assert span.tolist() == length.tolist()


def test_turn_known_answer():
    x = torch.tensor([[[[1.0, 0.0, 0.5], [0.0, 2.0, -1.0], [torch.nan] * 3]]])
    quarter = turn(x, torch.tensor([[0.0, 2.0, 2.0]]))  # 90 degrees, x to y, and twice the size
    expected = torch.tensor([[[[0.0, 2.0, 1.0], [-4.0, 0.0, -2.0], [torch.nan] * 3]]])
    torch.testing.assert_close(quarter, expected, equal_nan=True)
    flat = turn(x[..., :2], torch.tensor([[0.0, 2.0, 2.0]]))
    torch.testing.assert_close(flat, expected[..., :2], equal_nan=True)


def test_augment_is_one_similarity_a_window():
    x, sample_id = sample_windows(256)
    config = AugmentConfig(rotation=30, scale=0.2)
    before = x.clone()
    y = augment(x, config, seed=5, sample_id=sample_id)
    assert torch.equal(x.isnan(), before.isnan())
    assert torch.equal(x[~x.isnan()], before[~x.isnan()])
    assert torch.equal(y.isnan(), x.isnan())
    # the angle and the factor as the documented words of stream 4 give them
    u = philox.uniform(5, sample_id, 4, 0, 1)[:, 0].double()
    angle, factor = (2 * u[:, 0] - 1) * math.radians(30), 1 + (2 * u[:, 1] - 1) * 0.2
    points = torch.complex(x[..., 0].double(), x[..., 1].double()) * torch.polar(factor, angle)[:, None, None]
    expected = torch.stack((points.real, points.imag, x[..., 2].double() * factor[:, None, None]), -1).float()
    torch.testing.assert_close(y, expected, equal_nan=True)
    assert angle.abs().max() <= math.radians(30)
    assert angle.min() < -0.4 < 0.4 < angle.max(), "both directions, up to nearly the limit"
    assert factor.min() < 0.82
    assert factor.max() > 1.18


def test_rotation_alone_and_scale_alone():
    x, sample_id = sample_windows()
    x = x.nan_to_num(1.0)
    turned = augment(x, AugmentConfig(rotation=5), 0, sample_id)
    torch.testing.assert_close(turned[..., :2].norm(dim=-1), x[..., :2].norm(dim=-1))
    torch.testing.assert_close(turned[..., 2], x[..., 2])
    assert (turned - x).abs().max() > 0.01
    scaled = augment(x, AugmentConfig(scale=0.05), 0, sample_id)
    factor = (scaled / x).flatten(1)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-4, atol=0)
    assert 0.95 <= factor.min() < factor.max() <= 1.05


def test_a_sample_is_augmented_alike_in_any_batch():
    x, sample_id = sample_windows()
    config = AugmentConfig(rotation=5, scale=0.05, subwindow=0.8)
    whole = augment(x, config, 3, sample_id)
    torch.testing.assert_close(augment(x[40:], config, 3, sample_id[40:]), whole[40:], equal_nan=True, rtol=0, atol=0)
    assert not torch.equal(augment(x, config, 4, sample_id).nan_to_num(), whole.nan_to_num())
    length = torch.full((64,), 50)
    begin, span = sub_windows(length, config, WindowConfig(), 3, sample_id)
    again = sub_windows(length[7:9], config, WindowConfig(), 3, sample_id[7:9])
    assert torch.equal(torch.stack(again), torch.stack((begin, span))[:, 7:9])


def test_sub_windows_of_a_resampled_clip():
    length = torch.randint(1, 100, (4000,), generator=torch.Generator().manual_seed(0))
    begin, span = sub_windows(length, AugmentConfig(subwindow=0.8), WindowConfig(), 0, torch.arange(4000))
    last = begin + span - 1
    assert (begin >= 0).all()
    assert (last <= length - 1 + 1e-9).all()
    share = ((span - 1) / (length - 1))[length > 1]
    assert 0.8 <= share.min() < 0.801
    assert 0.999 < share.max() <= 1
    assert share.mean().item() == pytest.approx(0.9, abs=0.005)
    place = (begin / (length - span))[length > 1]  # 0 = at the start, 1 = at the end
    assert place.mean().item() == pytest.approx(0.5, abs=0.02)
    u = philox.uniform(0, torch.arange(4000), 4, 0, 1)[:, 0].double()  # words 2 and 3 of the quad `augment` draws from
    torch.testing.assert_close(share, 0.8 + 0.2 * u[length > 1, 2])
    torch.testing.assert_close(place, u[length > 1, 3])
    assert np.corrcoef(place, share)[0, 1] == pytest.approx(0, abs=0.06)
    assert (span[length == 1] == 1).all()
    assert (begin[length == 1] == 0).all()


@pytest.mark.parametrize("mode", ["wrap", "zero"])
@pytest.mark.parametrize("subwindow", [1.0, 0.5])
def test_longer_clips_are_cropped_anywhere_and_shorter_ones_read_whole(mode, subwindow):
    length = torch.tensor([35, 32, 20]).repeat(2000)
    config, window = AugmentConfig(subwindow=subwindow), WindowConfig(mode=mode)
    begin, span = sub_windows(length, config, window, 1, torch.arange(len(length)))
    crops = begin[length == 35]
    assert (span[length == 35] == 32).all()
    share = crops.long().bincount(minlength=4) / len(crops)
    assert share.numpy() == pytest.approx([0.25] * 4, abs=0.04)
    assert (begin[length < 35] == 0).all()
    assert torch.equal(span[length < 35], length[length < 35].double())


@pytest.mark.parametrize("bad", [{"rotation": -1}, {"scale": 1.0}, {"scale": -0.1}, {"subwindow": 0}, {"subwindow": 2}])
def test_bad_configs(bad):
    x, sample_id = sample_windows()
    with pytest.raises(ConfigError, match="augment has rotation"):
        augment(x, AugmentConfig(**bad), 0, sample_id)
    with pytest.raises(ConfigError, match="augment has rotation"):
        sub_windows(sample_id + 1, AugmentConfig(**bad), WindowConfig(), 0, sample_id)
