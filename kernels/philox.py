"""Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

A word is a pure function of (seed, clip_id, stream, block, quad), so a clip is the same whatever the batch, worker
or device that makes it: key = (seed low, seed high),
counter = (clip_id low, clip_id high, stream<<24 | block<<8 | quad%256, quad>>8).
Arithmetic is exact: 32-bit words live in int64 tensors, and a 64-bit product that wraps keeps the bits it needs. On a
CPU the compiled library computes the same words in a hundredth of the time, where it is there.
"""

import math
import os

import torch
from torch import Tensor

from handcraft.kernels import dispatch, env, native

STREAM_FORWARD = 0  # noise of the forward twin
STREAM_REVERSED = 1  # noise of the reversed twin
STREAM_SOURCE = 2  # choice of the source clip
STREAM_BATCH = 3  # batch sampling
STREAM_AUGMENT = 4  # augmentation
STREAM_DROPOUT = 5  # what drops out of a network in training
STREAM_JITTER = 6  # noise on the landmarks of training windows

MAX_QUADS = 1 << 40
MAX_BLOCKS = 1 << 16
MAX_STREAMS = 1 << 8

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """The ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors of one shape (or broadcastable), values in [0, 2^32).
        key: two integers in [0, 2^32).

    Returns:
        four int64 tensors, the output words, values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0 = c0 * _MULTIPLIERS[0]
        p1 = c2 * _MULTIPLIERS[1]
        # the shift of a negative int64 is arithmetic, so the high word needs the mask as much as the low one
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0 = (k0 + _WEYL[0]) & _MASK
        k1 = (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _check(seed: int, clip_id: Tensor, stream: int, first: int, blocks: int, quads: int) -> None:
    if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ValueError(f"philox: seed is {seed!r}, expected an integer in [0, 2^64)")
    if clip_id.dtype != torch.int64 or clip_id.dim() != 1:
        raise ValueError(f"philox: clip_id is {clip_id.dtype} {tuple(clip_id.shape)}, expected int64 of shape (B,)")
    if not 0 <= stream < MAX_STREAMS:
        raise ValueError(f"philox: stream is {stream}, expected 0 <= stream < {MAX_STREAMS}")
    if first < 0 or blocks < 0 or first + blocks > MAX_BLOCKS:
        raise ValueError(f"philox: blocks {first}..{first + blocks - 1} asked for, expected within 0..{MAX_BLOCKS - 1}")
    if not 0 <= quads <= MAX_QUADS:
        raise ValueError(f"philox: {quads} quads asked for, expected at most {MAX_QUADS}")


def _grid(seed: int, clip_id: Tensor, stream: int, first: int, blocks: int, quads: int) -> Tensor:
    """Words of blocks first..first+blocks-1: (B, blocks, quads, 4) int64."""
    _check(seed, clip_id, stream, first, blocks, quads)
    if _compiled(clip_id):
        out = torch.empty(len(clip_id), blocks, quads, 4, dtype=torch.int64)
        given = {"seed": _signed(seed), "stream": stream, "block": first, "blocks": blocks, "quads": quads}
        native.call("philox_words", torch.float32, clip_id=clip_id.contiguous(), out=out, batch=len(clip_id), **given)
        return out
    device = clip_id.device
    block = torch.arange(first, first + blocks, device=device)[:, None] << 8  # (blocks,1)
    quad = torch.arange(quads, device=device)
    place = (stream << 24) | block | (quad & 255)  # (blocks,quads)
    shape = (clip_id.shape[0], blocks, quads)
    low = (clip_id & _MASK)[:, None, None].expand(shape)
    high = ((clip_id >> 32) & _MASK)[:, None, None].expand(shape)
    counter = (low, high, place.expand(shape), (quad >> 8).expand(shape))
    return torch.stack(philox4x32(counter, (seed & _MASK, seed >> 32)), dim=-1)


def _compiled(clip_id: Tensor) -> bool:
    """Whether the CPU library serves: the words are the same, so nothing else depends on it."""
    if torch.compiler.is_compiling() or clip_id.device.type != "cpu":
        return False
    return os.environ.get(dispatch.VARIABLE) != "reference" and env.backend("cpu").available


def _signed(seed: int) -> int:
    """The 64 bits of a seed as the int64 that a C struct takes."""
    return seed - (1 << 64) if seed >> 63 else seed


def words(seed: int, clip_id: Tensor, stream: int, block: int, quads: int) -> Tensor:
    """Random 32-bit words.

    Args:
        seed: integer in [0, 2^64).
        clip_id: (B,) int64, any value.
        stream: one of the STREAM constants, below 256.
        block: below 65536.
        quads: number of groups of four words.

    Returns:
        (B, quads, 4) int64, values in [0, 2^32).

    Raises:
        ValueError: an argument outside its range.
    """
    return _grid(seed, clip_id, stream, block, 1, quads)[:, 0]


def _to_uniform(word: Tensor) -> Tensor:
    return ((word >> 9).to(torch.float32) + 0.5) * 2.0**-23


def uniform(seed: int, clip_id: Tensor, stream: int, block: int, quads: int) -> Tensor:
    """Uniform numbers ((word>>9) + 0.5) * 2^-23, never 0 or 1: (B, quads, 4) float32. Arguments as in `words`."""
    return _to_uniform(words(seed, clip_id, stream, block, quads))


def normal(seed: int, clip_id: Tensor, stream: int, blocks: int, size: int) -> Tensor:
    """Standard normal numbers of blocks 0..blocks-1, by Box and Muller on the word pairs (w0,w1) and (w2,w3).

    Quad q of a block gives its elements 4q..4q+3: sqrt(-2 ln u0) * (cos, sin)(2 pi u1) of each pair.

    Args:
        seed, clip_id, stream: as in `words`.
        blocks: number of blocks.
        size: elements a block, at most 1024; the last quad may be used in part.

    Returns:
        (B, blocks, size) float32.
    """
    quads = -(-size // 4)
    pair = _to_uniform(_grid(seed, clip_id, stream, 0, blocks, quads)).unflatten(-1, (2, 2))  # (B,K,Q,pair,2)
    radius = torch.sqrt(-2.0 * torch.log(pair[..., 0].contiguous()))
    angle = (2.0 * math.pi) * pair[..., 1].contiguous()
    value = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)  # (B,K,Q,pair,2)
    return value.flatten(2)[..., :size]


def integers(word: Tensor, n: int | Tensor) -> Tensor:
    """Integers in [0, n) from words: (word * n) >> 32, for 1 <= n < 2^31 (a number, or int64 that broadcasts)."""
    return (word * n) >> 32


def keep(seed: int, clip_id: Tensor, size: int, rate: float) -> Tensor:
    """What to multiply activations with in training: 0 with probability `rate`, else 1 / (1 - rate).

    Element i of a clip looks at half i % 2 (the low one first) of word i / 2 % 4 of quad i / 8 of the stream for
    dropout: it stays if that half is at least the rate in units of 2^-16, to the nearest, which is also the rate that
    the factor makes up for.

    Args:
        seed, clip_id: as in `words`.
        size: elements a clip.
        rate: in [0, 1).

    Returns:
        (B, size) float32.

    Raises:
        ValueError: an argument outside its range.
    """
    threshold = round(rate * (1 << 16))
    if not 0 <= threshold < 1 << 16:
        raise ValueError(f"philox: rate is {rate}, expected in [0, 1)")
    scale = (1 << 16) / ((1 << 16) - threshold)
    quads = -(-size // 8)
    _check(seed, clip_id, STREAM_DROPOUT, 0, 1, quads)
    if _compiled(clip_id):
        out = torch.empty(len(clip_id), size)
        given = {"stream": STREAM_DROPOUT, "size": size, "threshold": threshold, "scale": scale}
        ids = clip_id.contiguous()
        native.call("philox_keep", torch.float32, clip_id=ids, out=out, batch=len(ids), seed=_signed(seed), **given)
        return out
    word = _grid(seed, clip_id, STREAM_DROPOUT, 0, 1, quads)[:, 0]  # (B,Q,4)
    halves = torch.stack((word & 0xFFFF, word >> 16), dim=-1).flatten(1)[:, :size]
    return torch.where(halves >= threshold, scale, 0.0).to(torch.float32)
