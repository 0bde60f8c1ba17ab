"""What surrounds the blocks of CMLPe on the clips of a Triton program: the maps over D and the transforms.

    h = (W_in x) C' + b_in,  y = W_out (h C) + b_out sum_k C_k            x, y (D,M) of a clip, C the transform (M,M)

Both maps come where the frames or coefficients of all CLIPS clips are columns of one matrix, (D, CLIPS WIDTH): that
fills the matrix unit, with the weight read once for all of them. Both transforms come beside the blocks, where h
lies clip by clip in registers. C commutes with the maps; so it stands where the layout suits it, not where section 4.1
of the design writes it. A column is clip * WIDTH + frame.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from handcraft.kernels.adaln_mlp.block import (
    Tiling,
    all_channels,
    channels,
    load_channels,
    load_matrix,
    load_turned,
    mix,
    rounded,
    tiling,
    with_constant,
)
from handcraft.kernels.triton_support import dot, offsets


def generator_tiling(dim: int, frames: int, dtype: torch.dtype, *, alone: bool) -> Tiling | None:
    """`tiling` of kernels with maps; None also in fp32, whose unrolled maps spill 320 to 900 bytes at D = 180."""
    return None if dtype == torch.float32 else tiling(dim, frames, dtype, alone=alone)


def padded_weight(weight: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """(D,D) in the dtype of operands, padded with zeros to the channels of whole tiles: loaded without masks."""
    missing = channels - weight.shape[0]
    return F.pad(weight.to(dtype), (0, missing, 0, missing)).contiguous()


@triton.jit
def map_channels(weight_ptr, x, TILES: tl.constexpr, PRECISION: tl.constexpr):
    """weight x in fp32 as tiles (TILES[i],columns); x as such tiles of operands, weight from `padded_weight`."""
    total: tl.constexpr = all_channels(TILES)
    result = ()
    for i in tl.static_range(len(TILES)):
        row = weight_ptr + channels(TILES, i)[:, None] * total
        acc = tl.zeros((row.shape[0], x[0].shape[1]), tl.float32)
        for j in tl.static_range(len(TILES)):
            acc = dot(tl.load(row + channels(TILES, j)[None, :]), x[j], acc, PRECISION)
        result += (acc,)
    return result


@triton.jit
def by_clip(columns, CLIPS: tl.constexpr, WIDTH: tl.constexpr):
    """(R, CLIPS WIDTH) -> (CLIPS,R,WIDTH)."""
    return tl.permute(tl.reshape(columns, (columns.shape[0], CLIPS, WIDTH)), (1, 0, 2))


@triton.jit
def as_columns(tile):
    """(CLIPS,R,WIDTH) -> (R, CLIPS WIDTH)."""
    return tl.reshape(tl.permute(tile, (1, 0, 2)), (tile.shape[1], tile.shape[0] * tile.shape[2]))


@triton.jit
def load_frames(
    ptr, stride_b, stride_t, stride_d, offs_b, mask_b, D: tl.constexpr, M: tl.constexpr, TILES: tl.constexpr,
    i: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Tile i of (B,M,D) numbers as they are: (R,CLIPS,WIDTH)."""
    offs_d, offs_t = channels(TILES, i)[:, None, None], tl.arange(0, WIDTH)[None, None, :]
    at = ptr + offs_b[None, :, None] * stride_b + offsets(offs_t, stride_t) + offsets(offs_d, stride_d)
    return tl.load(at, mask=mask_b[None, :, None] & (offs_d < D) & (offs_t < M), other=0.0)


@triton.jit
def store_frames(
    ptr, value, offs_b, mask_b, D: tl.constexpr, M: tl.constexpr, TILES: tl.constexpr, i: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Store tile i (R,CLIPS,WIDTH) of contiguous (B,M,D) numbers in the dtype of ptr."""
    offs_d, offs_t = channels(TILES, i)[:, None, None], tl.arange(0, WIDTH)[None, None, :]
    at = ptr + offs_b[None, :, None] * (M * D) + offs_t * D + offs_d
    mask = mask_b[None, :, None] & (offs_d < D) & (offs_t < M)
    tl.store(at, rounded(value, ptr.dtype.element_ty), mask=mask)


@triton.jit
def operand_columns(
    ptr, stride_b, stride_t, stride_d, offs_b, mask_b, D: tl.constexpr, M: tl.constexpr, TILES: tl.constexpr,
    WIDTH: tl.constexpr, CLIPS: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """All tiles of (B,M,D) numbers as operands of a map: (R, CLIPS WIDTH)."""
    tiles = ()
    for i in tl.static_range(len(TILES)):
        value = load_frames(ptr, stride_b, stride_t, stride_d, offs_b, mask_b, D, M, TILES, i, WIDTH)
        tiles += (rounded(tl.reshape(value, (value.shape[0], CLIPS * WIDTH)).to(tl.float32), OPERAND),)
    return tiles


@triton.jit
def transform(tiles, matrix, OPERAND: tl.constexpr, PRECISION: tl.constexpr, TILES: tl.constexpr):
    """Each tile (CLIPS,R,WIDTH) times a matrix (1,WIDTH,WIDTH)."""
    result = ()
    for i in tl.static_range(len(TILES)):
        every = tl.broadcast_to(matrix, tiles[i].shape[0], matrix.shape[1], matrix.shape[2])
        result += (mix(tiles[i], every, tl.zeros_like(tiles[i]), OPERAND, PRECISION),)
    return result


@triton.jit
def enter(
    x, weight_ptr, bias_ptr, dct_ptr, D: tl.constexpr, M: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr,
    CLIPS: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Tiles of h (CLIPS,R,WIDTH) from operands x (R, CLIPS WIDTH): the first line above."""
    mapped = map_channels(weight_ptr, x, TILES, PRECISION)
    tiles = ()
    for i in tl.static_range(len(TILES)):
        tiles += (by_clip(mapped[i], CLIPS, WIDTH),)
    tiles = transform(tiles, load_turned(dct_ptr, M, WIDTH), OPERAND, PRECISION, TILES)
    h = ()
    for i in tl.static_range(len(TILES)):
        h += (tiles[i] + load_channels(bias_ptr, D, TILES, i)[None, :, None],)
    return h


@triton.jit
def leave(
    h, constant, weight_ptr, bias_ptr, dct_ptr, D: tl.constexpr, M: tl.constexpr, TILES: tl.constexpr,
    WIDTH: tl.constexpr, CLIPS: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Tiles of y (R, CLIPS WIDTH) from tiles of h (CLIPS,R,WIDTH) plus `constant`: the second line above.

    Rows of h past D need not be 0: the weight's columns there are.
    """
    frames = transform(with_constant(h, constant, TILES), load_matrix(dct_ptr, M, WIDTH), OPERAND, PRECISION, TILES)
    operands = ()
    for i in tl.static_range(len(TILES)):
        operands += (as_columns(rounded(frames[i], OPERAND)),)
    mapped = map_channels(weight_ptr, operands, TILES, PRECISION)
    offs_k, offs_t = tl.arange(0, WIDTH)[:, None], tl.arange(0, CLIPS * WIDTH)[None, :] % WIDTH
    column = tl.load(dct_ptr + offs_k * M + offs_t, mask=(offs_k < M) & (offs_t < M), other=0.0)
    sums = tl.sum(column, 0)[None, :]  # what a constant in all coefficients adds to each frame
    y = ()
    for i in tl.static_range(len(TILES)):
        y += (mapped[i] + load_channels(bias_ptr, D, TILES, i)[:, None] * sums,)
    return y
