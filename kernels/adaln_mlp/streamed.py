"""The conditional MLP blocks on a clip that lies in memory of its Triton program, a tile of channels at a time.

`block` keeps h of four clips in registers. Clips that do not fit there, and every backward pass, take this way: h of
one clip stands in fp32 in memory that the program writes again for its next clip (12 KB for D = 180, M = 16), so that
it comes from the L1 or the L2 cache. What is held in registers then does not grow with D.

A clip there is (padded(D, TILE), WIDTH) numbers, 0 past D and past M; with it go its mean and reciprocal deviation over
D, (2,WIDTH). Tiles are a loop at run time, whose addresses stay inside: unrolled, the loads of all tiles are asked for
at once and take the registers.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from handcraft.kernels.adaln_mlp.block import EPS, block_modulation, load_row, load_turned, rounded
from handcraft.kernels.triton_support import dot, offsets


@dataclass(frozen=True)
class Streaming:
    """How a program walks over a clip."""

    tile: int
    """Channels of a tile."""
    channels: int
    """D rounded up to whole tiles."""
    width: int
    """M, at least 16: the least that a matrix unit multiplies."""
    warps: int

    @property
    def size(self) -> int:
        """Numbers of a clip."""
        return self.channels * self.width

    def constants(self) -> dict[str, object]:
        return {"TILE": self.tile, "WIDTH": self.width}


def streaming(dim: int, frames: int, dtype: torch.dtype) -> Streaming:
    """The way of clips of (`dim`, `frames`) numbers whose products have operands of `dtype`.

    Tiles of 64 channels spill, in fp32, with its three TF32 products, those of 32 as well (`make test-aot`). D is
    padded by less than 16 channels, or by less than 32 where that is at most a tenth.
    """
    width = max(16, frames)
    padded = -(-dim // 32) * 32  # to tiles of 32
    tile = 32 if width == 16 and dtype.itemsize == 2 and 10 * padded <= 11 * dim else 16
    return Streaming(tile, -(-dim // tile) * tile, width, warps=8 if width == 64 else 4)


@triton.constexpr_function
def padded(D, TILE):
    return (D + TILE - 1) // TILE * TILE


@triton.jit
def own_tile(ptr, start, TILE: tl.constexpr, WIDTH: tl.constexpr):
    """Where the program keeps channels start..start+TILE-1: pointers (TILE,WIDTH)."""
    return ptr + (start + tl.arange(0, TILE))[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@triton.jit
def load_rows(ptr, start, D: tl.constexpr, TILE: tl.constexpr):
    """A number for each channel of a tile from a vector (D,), 0 past D: (TILE,1)."""
    offs_d = start + tl.arange(0, TILE)
    return tl.load(ptr + offs_d, mask=offs_d < D, other=0.0)[:, None]


@triton.jit
def only_rows(tile, start, D: tl.constexpr):
    """A tile with 0 past D."""
    return tl.where((start + tl.arange(0, tile.shape[0]) < D)[:, None], tile, 0.0)


@triton.jit
def load_tile(
    ptr, stride_d, stride_m, start, D: tl.constexpr, M: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr
):
    """A tile of a clip's (D,M) numbers in fp32, 0 outside: (TILE,WIDTH)."""
    offs_d, offs_m = start + tl.arange(0, TILE)[:, None], tl.arange(0, WIDTH)[None, :]
    at = ptr + offsets(offs_d, stride_d) + offsets(offs_m, stride_m)
    return tl.load(at, mask=(offs_d < D) & (offs_m < M), other=0.0).to(tl.float32)


@triton.jit
def store_tile(ptr, stride_d, stride_m, tile, start, D: tl.constexpr, M: tl.constexpr):
    """The inverse of `load_tile`, rounded to the dtype of ptr."""
    offs_d, offs_m = start + tl.arange(0, tile.shape[0])[:, None], tl.arange(0, tile.shape[1])[None, :]
    at = ptr + offsets(offs_d, stride_d) + offsets(offs_m, stride_m)
    tl.store(at, rounded(tile, ptr.dtype.element_ty), mask=(offs_d < D) & (offs_m < M))


@triton.jit
def product(a, b, acc, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a b, operands rounded to OPERAND."""
    return dot(rounded(a, OPERAND), rounded(b, OPERAND), acc, PRECISION)


@triton.jit
def add_statistics(mean, squares, tile, start, D: tl.constexpr):
    """Mean and sum of squared deviations (WIDTH,) of the first `start` channels -> the same with those of a tile.

    Two sets of numbers are united by the distance of their means (Chan, Golub and LeVeque, 1979).
    """
    end = tl.minimum(start + tile.shape[0], D)
    count = end - start
    own_mean = tl.sum(tile, 0) / count
    centred = only_rows(tile - own_mean[None, :], start, D)
    share = count / end
    away = own_mean - mean
    return mean + share * away, squares + tl.sum(centred * centred, 0) + share * start * away * away


@triton.jit
def keep_statistics(ptr, mean, squares, D: tl.constexpr, WIDTH: tl.constexpr):
    """Store mean and reciprocal deviation at ptr (2,WIDTH). Others may read them, and the tiles, afterwards."""
    tl.debug_barrier()  # until now others may have read what was there
    offs_m = tl.arange(0, WIDTH)
    tl.store(ptr + offs_m, mean)
    tl.store(ptr + WIDTH + offs_m, tl.rsqrt(squares / D + EPS))
    tl.debug_barrier()


@triton.jit
def load_statistics(ptr, WIDTH: tl.constexpr):
    offs_m = tl.arange(0, WIDTH)
    return tl.load(ptr + offs_m), tl.load(ptr + WIDTH + offs_m)


@triton.jit
def enter_clip(
    ptr, stride_d, stride_m, to_ptr, statistics_ptr, D: tl.constexpr, M: tl.constexpr, TILE: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """A clip's (D,M) numbers into the program's memory, with their statistics."""
    mean, squares = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for start in tl.range(0, D, TILE, disable_licm=True):
        h = load_tile(ptr, stride_d, stride_m, start, D, M, TILE, WIDTH)
        tl.store(own_tile(to_ptr, start, TILE, WIDTH), h)
        mean, squares = add_statistics(mean, squares, h, start, D)
    keep_statistics(statistics_ptr, mean, squares, D, WIDTH)


@triton.jit
def leave_clip(from_ptr, constant, ptr, D: tl.constexpr, M: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr):
    """A clip from the program's memory, plus `constant` in each channel, to contiguous (D,M) in the dtype of ptr."""
    for start in tl.range(0, D, TILE, disable_licm=True):
        tile = tl.load(own_tile(from_ptr, start, TILE, WIDTH))
        if constant is not None:
            tile += constant[None, :]
        store_tile(ptr, M, 1, tile, start, D, M)


@triton.jit
def clip_modulation(
    k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr, clip, E: tl.constexpr,
    M: tl.constexpr, WIDTH: tl.constexpr, EMBEDDING: tl.constexpr,
):  # fmt: skip
    """Shift, scale and gate (WIDTH,) of block k of one clip; see `block.block_modulation`."""
    offs_b = clip + tl.arange(0, 1)
    shift, scale, gate = block_modulation(
        k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr, offs_b, offs_b >= 0,
        E, M, WIDTH, EMBEDDING,
    )  # fmt: skip
    return tl.reshape(shift, (WIDTH,)), tl.reshape(scale, (WIDTH,)), tl.reshape(gate, (WIDTH,))


@triton.jit
def block_streamed(
    from_ptr, to_ptr, statistics_ptr, to_statistics_ptr, shift, scale, gate, norm_weight_ptr, norm_bias_ptr,
    fc_weight_ptr, fc_bias_ptr, D: tl.constexpr, M: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A clip and its statistics from one place to another, which may be the same. Shift, scale, gate: (WIDTH,).

    Returns t (WIDTH,), which is left out: see `block`.
    """
    before, deviation = load_statistics(statistics_ptr, WIDTH)
    centre = before * deviation
    turned = tl.reshape(load_turned(fc_weight_ptr, M, WIDTH), (WIDTH, WIDTH))  # F': coefficient in, coefficient out
    bias = tl.reshape(load_row(fc_bias_ptr, M, WIDTH), (WIDTH,))
    constant = (tl.sum(turned * shift[:, None], 0) + bias) * gate  # t
    matrix = turned * (1 + scale)[:, None] * gate[None, :]  # G
    mean, squares = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for start in tl.range(0, D, TILE, disable_licm=True):
        h = tl.load(own_tile(from_ptr, start, TILE, WIDTH))
        n = h * deviation[None, :] - centre[None, :]
        n = load_rows(norm_weight_ptr, start, D, TILE) * n + load_rows(norm_bias_ptr, start, D, TILE)
        h = product(n, matrix, h, OPERAND, PRECISION)  # past D alpha, beta and h are 0, and stay so
        tl.store(own_tile(to_ptr, start, TILE, WIDTH), h)
        mean, squares = add_statistics(mean, squares, h, start, D)
    keep_statistics(to_statistics_ptr, mean, squares, D, WIDTH)
    return constant


@triton.jit
def stack_streamed(
    kept_ptr, statistics_ptr, STEP: tl.constexpr, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr,
    mod_bias_ptr, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, clip, last, blocks, D: tl.constexpr,
    M: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr, EMBEDDING: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The first `last` blocks. STEP 1: what each begins with stays, the k-th at place k of kept; 0: one place.

    Returns what is still to be added to each channel: (WIDTH,).
    """
    total = tl.zeros((WIDTH,), tl.float32)
    for k in tl.range(0, last, disable_licm=True):
        shift, scale, gate = clip_modulation(
            k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr, clip, E, M, WIDTH,
            EMBEDDING,
        )  # fmt: skip
        size: tl.constexpr = STEP * padded(D, TILE) * WIDTH
        total += block_streamed(
            kept_ptr + k * size, kept_ptr + (k + 1) * size, statistics_ptr + k * (STEP * 2 * WIDTH),
            statistics_ptr + (k + 1) * (STEP * 2 * WIDTH), shift, scale, gate, norm_weight_ptr + k * D,
            norm_bias_ptr + k * D, fc_weight_ptr + k * M * M, fc_bias_ptr + k * M, D, M, TILE, WIDTH, OPERAND,
            PRECISION,
        )  # fmt: skip
    return total
