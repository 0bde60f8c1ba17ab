"""Philox4x32-10 against published vectors, and the counter layout and normals against plain Python."""

import math

import numpy as np
import pytest
import torch

from handcraft.kernels import philox

# kat_vectors of the Random123 distribution, "philox4x32 10": counter, key, words
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def numbers(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_published_vectors(counter, key, expected):
    state = tuple(torch.tensor([value]) for value in numbers(counter))
    found = [int(word) for word in philox.philox4x32(state, tuple(numbers(key)))]
    assert found == numbers(expected)


def python_philox(counter, key):
    """Ten rounds with Python's unbounded integers."""
    c, k, mask = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & mask, (p0 >> 32) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


IDS = [0, 1, 2**32 - 1, 2**32, 2**53 + 7, 2**63 - 1, -1]


@pytest.mark.parametrize("seed", [0, 12345, 2**32 - 1, 2**64 - 1])
def test_counter_layout(seed):
    found = philox.words(seed, torch.tensor(IDS), philox.STREAM_SOURCE, 300, 3)
    assert found.shape == (len(IDS), 3, 4)
    assert found.dtype == torch.int64
    for i, clip in enumerate(IDS):
        for quad in range(3):
            clip_bits = clip & (2**64 - 1)
            counter = (clip_bits & 0xFFFFFFFF, clip_bits >> 32, 2 << 24 | 300 << 8 | quad, 0)
            assert found[i, quad].tolist() == python_philox(counter, (seed & 0xFFFFFFFF, seed >> 32))


def test_streams_are_those_of_the_design():
    streams = ("FORWARD", "REVERSED", "SOURCE", "BATCH", "AUGMENT")
    assert [getattr(philox, f"STREAM_{name}") for name in streams] == [0, 1, 2, 3, 4]


def test_uniform():
    clip = torch.arange(5)
    word = philox.words(7, clip, 1, 2, 4).numpy()
    value = philox.uniform(7, clip, 1, 2, 4)
    assert value.dtype == torch.float32
    np.testing.assert_array_equal(value.double().numpy(), ((word >> 9) + 0.5) * 2.0**-23)


def test_uniform_never_reaches_its_ends():
    ends = philox._to_uniform(torch.tensor([0, 2**32 - 1]))
    assert ends.tolist() == [2.0**-24, 1 - 2.0**-24]


def test_normal_is_box_and_muller_on_word_pairs():
    clip = torch.tensor([3, 2**40])
    found = philox.normal(11, clip, philox.STREAM_REVERSED, 3, 10)
    assert found.shape == (2, 3, 10)
    assert found.dtype == torch.float32
    for b in range(2):
        for block in range(3):
            for i in range(10):
                u = philox.uniform(11, clip, philox.STREAM_REVERSED, block, 3)[b, i // 4].double().tolist()
                first, second = u[2 * (i % 4 // 2) : 2 * (i % 4 // 2) + 2]
                turn = (math.cos, math.sin)[i % 2](2 * math.pi * second)
                assert found[b, block, i].item() == pytest.approx(math.sqrt(-2 * math.log(first)) * turn, abs=2e-6)


def test_normal_moments():
    value = philox.normal(1, torch.arange(2000), philox.STREAM_FORWARD, 6, 32).double()
    count = value.numel()
    assert abs(value.mean()) < 4 / count**0.5
    assert abs(value.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs((value**4).mean() - 3) < 0.1
    flat = value.flatten(1)
    correlation = torch.corrcoef(flat.T[:64]) - torch.eye(64)
    assert correlation.abs().max() < 6 / 2000**0.5


def test_numbers_do_not_depend_on_the_batch():
    clip = torch.arange(300) * 2**33
    whole = philox.normal(5, clip, 0, 6, 30)
    order = torch.randperm(300)
    for size in (1, 7, 300):
        part = order[:size]
        assert torch.equal(philox.normal(5, clip[part], 0, 6, 30), whole[part])


def test_seed_stream_block_and_clip_all_matter():
    def draw(seed=1, clip=1, stream=1, block=1):
        return tuple(philox.words(seed, torch.tensor([clip]), stream, block, 1).flatten().tolist())

    drawn = {draw(), draw(seed=2), draw(seed=1 + 2**32), draw(clip=2), draw(clip=1 + 2**32), draw(stream=2)}
    assert len(drawn | {draw(block=2)}) == 7


def test_integers():
    word = torch.tensor([0, 2**31, 2**32 - 1])
    assert philox.integers(word, 10).tolist() == [0, 5, 9]
    assert philox.integers(word, 2**31 - 1).tolist() == [0, (2**31 * (2**31 - 1)) >> 32, 2**31 - 2]
    assert philox.integers(word, torch.tensor([1, 2, 3])).tolist() == [0, 1, 2]
    drawn = philox.integers(philox.words(1, torch.arange(3000), 2, 0, 1), 6)
    counts = torch.bincount(drawn.flatten(), minlength=6)
    assert len(counts) == 6
    assert (counts - 2000).abs().max() < 5 * 2000**0.5


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, None])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="philox: seed is"):
        philox.words(seed, torch.arange(2), 0, 0, 1)


def test_bad_arguments():
    clip = torch.arange(2)
    with pytest.raises(ValueError, match=r"clip_id is torch\.float32 \(2,\), expected int64"):
        philox.words(0, clip.float(), 0, 0, 1)
    with pytest.raises(ValueError, match=r"clip_id is torch\.int64 \(2, 1\), expected int64 of shape \(B,\)"):
        philox.words(0, clip[:, None], 0, 0, 1)
    with pytest.raises(ValueError, match="stream is 256"):
        philox.words(0, clip, 256, 0, 1)
    with pytest.raises(ValueError, match=r"blocks 65536\.\.65536 asked for"):
        philox.words(0, clip, 0, 65536, 1)
    with pytest.raises(ValueError, match="quads asked for"):
        philox.words(0, clip, 0, 0, (1 << 40) + 1)
    with pytest.raises(ValueError, match=r"rate is 1\.0, expected in"):
        philox.keep(0, clip, 3, 1.0)


def test_keep_drops_at_the_rate_and_makes_up_for_it():
    kept = philox.keep(3, torch.arange(50), 4000, 0.2)
    assert kept.unique().tolist() == pytest.approx([0, 1.25], rel=1e-4)
    assert (kept == 0).float().mean().item() == pytest.approx(0.2, abs=0.003)
    assert abs(kept.mean().item() - 1) < 0.005
    assert torch.equal(philox.keep(3, torch.arange(50), 4000, 0.0), torch.ones(50, 4000))


def test_keep_is_a_function_of_seed_and_clip_alone():
    kept = philox.keep(3, torch.arange(5), 333, 0.5)
    assert torch.equal(philox.keep(3, torch.tensor([4, 1]), 333, 0.5), kept[[4, 1]])
    assert torch.equal(philox.keep(3, torch.arange(5), 100, 0.5), kept[:, :100])
    assert not torch.equal(philox.keep(4, torch.arange(5), 333, 0.5), kept)
    assert (kept[:, 1:] != kept[:, :-1]).float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_empty():
    assert philox.normal(0, torch.arange(0), 0, 6, 32).shape == (0, 6, 32)
