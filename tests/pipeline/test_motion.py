"""Generation metrics against figures worked out by hand and against float64 NumPy."""

import math

import numpy as np
import pytest
import torch

from handcraft.metrics.motion import (
    FrameError,
    PointError,
    comparable,
    constant_velocity,
    frame_error,
    mpjpe,
    repeat_last,
    signatures,
    splice_jump,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mpjpe_is_the_mean_of_distances_not_a_norm_over_all_coordinates():
    target = torch.zeros(1, 2, 2, 3)
    predicted = torch.zeros(1, 2, 2, 3)
    predicted[0, 0, 0] = torch.tensor([3.0, 4, 0])  # 5
    predicted[0, 1, 1] = torch.tensor([0.0, 0, 1])  # 1
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    assert mpjpe(predicted, target, mask) == pytest.approx((5 + 0 + 0 + 1) / 4)
    assert frame_error(predicted, target, mask) == pytest.approx((5 + 1) / 2)
    predicted[0, 0, 1] = torch.tensor([0.0, 0, 12])
    assert frame_error(predicted, target, mask) == pytest.approx((13 + 1) / 2)


def test_masked_points_are_left_out_even_where_they_are_nan():
    predicted, target = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    mask = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[1, 3] = False  # a frame without any point
    target = target.where(mask[..., None], torch.tensor(math.nan))
    distance = np.linalg.norm(predicted.numpy().astype(np.float64) - target.numpy(), axis=-1)
    assert mpjpe(predicted, target, mask) == pytest.approx(distance[mask.numpy()].mean())
    per_frame = [np.sqrt(np.nansum(f**2)) for clip in distance for f in clip if not np.isnan(f).all()]
    assert len(per_frame) == 7
    assert frame_error(predicted, target, mask) == pytest.approx(np.mean(per_frame))


def test_nothing_to_compare_is_none_not_zero():
    x, mask = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, dtype=torch.bool)
    assert mpjpe(x, x, mask) is None
    assert frame_error(x, x, mask) is None
    assert splice_jump(x, mask, 1) is None


def test_batches_of_any_size_give_the_same_figure():
    predicted, target = random(7, 4, 3, 2), random(7, 4, 3, 2, seed=1)
    mask = torch.rand(7, 4, 3, generator=torch.Generator().manual_seed(2)) > 0.3
    points, frames = PointError.empty(3), FrameError()
    for part in (slice(0, 1), slice(1, 6), slice(6, 7)):
        points.update(predicted[part], target[part], mask[part])
        frames.update(predicted[part], target[part], mask[part])
    assert points.value == pytest.approx(mpjpe(predicted, target, mask), rel=1e-12)
    assert frames.value == pytest.approx(frame_error(predicted, target, mask), rel=1e-12)


def test_baselines_continue_as_they_say():
    context = torch.tensor([9.0, 1.0, 3.0]).reshape(1, 3, 1, 1)
    assert repeat_last(context, 2).flatten().tolist() == [3, 3]
    assert constant_velocity(context, 3).flatten().tolist() == [5, 7, 9]
    line = torch.arange(8.0)[None, :, None, None] * random(1, 1, 5, 3)
    everything = torch.ones(1, 4, 5, dtype=torch.bool)
    assert mpjpe(constant_velocity(line[:, :4], 4), line[:, 4:], everything) == pytest.approx(0, abs=1e-6)
    still = random(1, 1, 5, 3).expand(1, 8, 5, 3)
    assert mpjpe(repeat_last(still[:, :4], 4), still[:, 4:], everything) == 0


def test_a_landmark_without_its_last_two_context_frames_is_compared_for_nobody():
    present = torch.ones(1, 6, 4, dtype=torch.bool)
    present[0, 2, 0] = False  # landmark 0: last context frame missing
    present[0, 1, 1] = False  # landmark 1: the one before it
    present[0, 0, 2] = False  # landmark 2: an earlier one, which no baseline needs
    present[0, 4, 2] = False  # and one of its target frames
    valid = torch.tensor([[True, True, True, True, True, False]])
    mask = comparable(present, valid, 3)
    assert mask.shape == (1, 3, 4)
    assert mask[0].tolist() == [[False, False, True, True], [False, False, False, True], [False] * 4]
    assert not comparable(present, valid & (torch.arange(6) != 2), 3).any(), "the last context frame is padding"


def test_per_landmark_errors_and_margin():
    target = torch.zeros(1, 2, 4, 1)
    mask = torch.ones(1, 2, 4, dtype=torch.bool)
    mask[..., 3] = False
    better, worse = PointError.empty(4), PointError.empty(4)
    better.update(torch.tensor([1.0, 1, 3, 0]).reshape(1, 1, 4, 1).expand(1, 2, 4, 1), target, mask)
    worse.update(torch.tensor([2.0, 4, 2, 0]).reshape(1, 1, 4, 1).expand(1, 2, 4, 1), target, mask)
    assert better.per_landmark == [1, 1, 3, None]
    margin = better.margin(worse)
    assert margin == {"share": pytest.approx(2 / 3), "median": 0.5, "worst": 1.5}
    assert PointError.empty(4).margin(worse) == {"share": None, "median": None, "worst": None}


def test_splice_jump_looks_at_the_two_frames_of_the_splice_only():
    clips = random(2, 8, 3, 3)
    mask = torch.ones(2, 8, 3, dtype=torch.bool)
    clips[:, 4] = clips[:, 3] + torch.tensor([0.0, 0, 2])
    clips[0, 4, 1] += torch.tensor([0.0, 0, 4])
    assert splice_jump(clips, mask, 4) == pytest.approx((5 * 2 + 6) / 6)
    mask[0, 3, 1] = False
    clips[0, 3, 1] = math.nan
    assert splice_jump(clips, mask, 4) == pytest.approx(2)
    into = PointError.empty(3)
    splice_jump(clips[:1], mask[:1], 4, into)
    assert splice_jump(clips[1:], mask[1:], 4, into) == pytest.approx(2)
    assert into.count.tolist() == [2, 1, 2]


def test_signatures_name_points_unit_frames_rule_and_version():
    lines = signatures("pose_hands48", "shoulder widths", 32, 16, "test")
    for name, line in lines.items():
        assert line.startswith(name)
        assert line.endswith("|clips:test|v1")
        assert "pose_hands48" in line
        assert "mask:" in line
    assert "unit:shoulder widths|frames:16 of 32" in lines["mpjpe"]
    assert "unit:standardised" in lines["frame_error"]
    assert "frames:15 to 16" in lines["splice_jump"]
