"""Batches: balanced, reproducible from (seed, step) alone, standardised with the given statistics, nothing left out."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_clips import tiny_clips

from handcraft.config import AugmentConfig, WindowConfig
from handcraft.data import ready
from handcraft.data import window as data_window
from handcraft.data.augment import augment, sub_windows
from handcraft.data.batches import evaluation_batches, sample_batch, training_batch
from handcraft.data.host import HostFrames
from handcraft.data.ready import ReadyWindows
from handcraft.data.statistics import compute
from handcraft.data.window import windows
from handcraft.distributed import Share
from handcraft.errors import ConfigError, DataError
from handcraft.kernels import philox

MODES = ("resample", "wrap", "zero")
AUGMENT = AugmentConfig(rotation=5, scale=0.05, subwindow=0.8)


@pytest.fixture
def clips():
    return tiny_clips([5, 9, 40, 12, 64, 32, 1, 33, 20, 50])


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


# --- drawing


def test_classes_are_drawn_evenly_and_clips_evenly_within():
    labels = [0] * 1 + [1] * 10 + [2] * 89
    clips = tiny_clips([2] * 100, labels=labels)
    drawn = torch.cat([sample_batch(step, 100, 0, clips)[0] for step in range(300)])
    share = clips.label[drawn].bincount() / len(drawn)
    assert share.numpy() == pytest.approx([1 / 3] * 3, abs=0.01)
    within = drawn[clips.label[drawn] == 1].bincount()[1:11] / (len(drawn) / 3)
    assert within.numpy() == pytest.approx([0.1] * 10, abs=0.02)
    assert set(drawn.tolist()) == set(range(100))


def test_a_draw_is_a_function_of_seed_and_step(clips):
    index, sample_id = sample_batch(7, 16, 3, clips)
    assert sample_id.tolist() == list(range(112, 128))
    assert torch.equal(index, sample_batch(7, 16, 3, clips)[0])
    assert not torch.equal(index, sample_batch(8, 16, 3, clips)[0])
    assert not torch.equal(index, sample_batch(7, 16, 4, clips)[0])
    # the documented words: stream 3, the first for the class, the second for the clip in it
    words = philox.words(3, sample_id, 3, 0, 1)[:, 0].tolist()
    for i, (word, second, *_) in zip(index.tolist(), words, strict=True):
        members = [k for k in range(10) if k % 3 == word * 3 >> 32]
        assert i == members[second * len(members) >> 32]


def test_batches_of_another_size_continue_the_same_stream(clips):
    large = sample_batch(0, 32, 1, clips)[0]
    small = torch.cat([sample_batch(step, 8, 1, clips)[0] for step in range(4)])
    assert torch.equal(large, small)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("laid_out", [False, True])
def test_shares_together_are_the_batch(clips, mode, laid_out):
    window, statistics = WindowConfig(mode=mode), compute(clips)
    if laid_out:
        make = ReadyWindows(clips, window, statistics, batch=11, seed=2)
    else:
        make = functools.partial(training_batch, clips, batch=11, seed=2, window=window, statistics=statistics)
    whole, shares = make(4), [make(4, share=Share(i, 3)) for i in range(3)]
    assert [len(share) for share in shares] == [3, 4, 4]
    for name in vars(whole):
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(whole, name))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("subset", [None, [7, 2, 4, 0, 1, 3]])
def test_windows_that_lie_ready_are_the_same(clips, mode, subset, monkeypatch):
    """The clips have from 1 to 64 frames around the window's 32: repeated, padded and cropped ones are among them."""
    monkeypatch.setattr(ready, "_CHUNK", 3)
    if subset is not None:
        clips = clips.subset(subset)
    options = {"batch": 40, "seed": 2}
    window, statistics = WindowConfig(mode=mode), compute(clips)
    laid_out = ReadyWindows(clips, window, statistics, **options)
    for step in (0, 3, 102, 103):
        expected = training_batch(clips, step, window=window, statistics=statistics, **options)
        assert same(laid_out(step), expected)


@pytest.mark.parametrize("mode", MODES)
def test_frames_in_half_precision_give_the_windows_of_the_same_numbers(clips, mode):
    half = replace(clips, frames=clips.frames.half())
    full = replace(clips, frames=half.frames.float())
    statistics = compute(full)
    assert torch.equal(compute(half).mean, statistics.mean)
    assert torch.equal(compute(half).std, statistics.std)
    options = {"batch": 40, "seed": 2, "window": WindowConfig(mode=mode), "statistics": statistics}
    for turned in (None, AUGMENT):
        one, other = (training_batch(of, 3, augment=turned, **options) for of in (half, full))
        assert same(one, other)
    assert one.x.dtype == torch.float32
    one, other = (ReadyWindows(of, options["window"], statistics, batch=9, seed=1)(3) for of in (half, full))
    assert same(one, other)


def test_an_empty_class_is_named(clips):
    part = clips.subset(clips.label != 1)
    with pytest.raises(DataError, match="1 of 3 classes have no clip to sample: sign1"):
        sample_batch(0, 4, 0, part)
    with pytest.raises(ConfigError, match="batch is 0"):
        sample_batch(0, 0, 0, clips)
    with pytest.raises(ConfigError, match="step -1"):
        sample_batch(-1, 4, 0, clips)


# --- training


@pytest.mark.parametrize("mode", MODES)
def test_a_training_batch_is_its_steps_one_after_another(clips, mode):
    window, statistics = WindowConfig(mode=mode), compute(clips)
    batch = training_batch(clips, 5, batch=12, seed=9, window=window, statistics=statistics, augment=AUGMENT)
    index, sample_id = sample_batch(5, 12, 9, clips)
    begin, span = sub_windows(clips.length[index], AUGMENT, window, 9, sample_id)
    x, valid = windows(clips, index, window, begin, span)
    x = augment(x, AUGMENT, 9, sample_id)
    assert batch.x.shape == (12, 32, 144)
    assert batch.x.dtype == torch.float32
    assert torch.equal(batch.x, statistics.standardise(x).flatten(2))
    assert torch.equal(batch.present, ~x.isnan().any(-1))
    assert torch.equal(batch.valid, valid)
    assert torch.equal(batch.label, clips.label[index])
    assert torch.equal(batch.index, index)
    assert torch.equal(batch.sample_id, sample_id)
    assert batch.x.isfinite().all()
    assert (batch.x.view(12, 32, 48, 3)[~batch.present] == 0).all()
    assert len(batch) == 12


@pytest.mark.parametrize("mode", MODES)
def test_pieces_and_call_order_do_not_matter(clips, mode, monkeypatch):
    options = {"batch": 40, "seed": 2, "window": WindowConfig(mode=mode), "statistics": compute(clips)}
    third = training_batch(clips, 3, augment=AUGMENT, **options)
    training_batch(clips, 0, augment=AUGMENT, **options)
    torch.manual_seed(123)
    monkeypatch.setattr(data_window, "_PIECE_BYTES", 3 * 32 * 144 * 4)  # frames on the host come in pieces
    clips = replace(clips, frames=HostFrames.of(clips.frames))
    assert same(training_batch(clips, 3, augment=AUGMENT, **options), third)


def test_without_augmentation_only_crops_of_longer_clips_are_random(clips):
    statistics = compute(clips)
    plain = {batch.index.item(): batch for batch in evaluation_batches(clips, WindowConfig(), statistics, 1)}
    batch = training_batch(clips, 0, batch=64, seed=0, window=WindowConfig(), statistics=statistics)
    for i, k in enumerate(batch.index.tolist()):
        assert torch.equal(batch.x[i], plain[k].x[0])
    window = WindowConfig(mode="zero")
    plain = {batch.index.item(): batch for batch in evaluation_batches(clips, window, statistics, 1)}
    batch = training_batch(clips, 0, batch=64, seed=0, window=window, statistics=statistics)
    differs = dict.fromkeys(range(len(clips)), False)
    for i, k in enumerate(batch.index.tolist()):
        differs[k] |= not torch.equal(batch.x[i], plain[k].x[0])
    assert [k for k in differs if differs[k]] == [k for k in range(10) if clips.length[k] > 32]


def test_statistics_are_the_given_ones(clips):
    given = compute(clips.subset([0, 1]))
    batch = next(evaluation_batches(clips, WindowConfig(), given, 4))
    x = batch.x.view(4, 32, 48, 3)
    raw, _ = windows(clips, torch.arange(4), WindowConfig())
    torch.testing.assert_close(given.unstandardise(x)[batch.present], raw[batch.present], rtol=1e-5, atol=1e-5)


# --- evaluation


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 3, 5, 10, 64])
def test_every_clip_is_scored_once_in_order(clips, mode, size):
    statistics = compute(clips)
    found = list(evaluation_batches(clips, WindowConfig(mode=mode), statistics, size))
    assert [len(batch) for batch in found] == [size] * (10 // size) + [10 % size] * (10 % size > 0)
    assert torch.cat([batch.index for batch in found]).tolist() == list(range(10))
    assert torch.equal(torch.cat([batch.label for batch in found]), clips.label)
    whole = next(evaluation_batches(clips, WindowConfig(mode=mode), statistics, 10))
    assert torch.equal(torch.cat([batch.x for batch in found]), whole.x)


def test_evaluation_of_a_subset_and_of_nothing(clips):
    statistics = compute(clips)
    part = clips.subset([8, 2])
    (batch,) = evaluation_batches(part, WindowConfig(), statistics, 4)
    assert batch.index.tolist() == [0, 1]
    expected, _ = windows(clips, torch.tensor([8, 2]), WindowConfig())
    assert torch.equal(batch.x, statistics.standardise(expected).flatten(2))
    assert list(evaluation_batches(clips.subset([]), WindowConfig(), statistics, 4)) == []
    with pytest.raises(ConfigError, match="batch is 0"):
        next(evaluation_batches(clips, WindowConfig(), statistics, 0))


def test_zero_padding_is_zero_absent_and_invalid(clips):
    (batch,) = evaluation_batches(clips.subset([1]), WindowConfig(mode="zero"), compute(clips), 1)
    assert batch.valid[0].tolist() == [True] * 9 + [False] * 23
    assert (batch.x[0, 9:] == 0).all()
    assert not batch.present[0, 9:].any()
    assert np.abs(batch.x[0, :9].numpy()).max() > 0.1


def test_to_a_device(clips):
    (batch,) = evaluation_batches(clips, WindowConfig(), compute(clips), 16)
    assert {tensor.device.type for tensor in vars(batch.to("meta")).values()} == {"meta"}
