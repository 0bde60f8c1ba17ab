"""The maps over D and the transforms of CMLPe on a clip that lies in memory of its Triton program.

As `generator`, for clips that go the way of `adaln_mlp.streamed`: what a map takes lies there as well, operands
(padded(D, TILE), WIDTH), and a product over D is a loop at run time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from handcraft.kernels.adaln_mlp.block import load_matrix, load_turned, rounded
from handcraft.kernels.adaln_mlp.streamed import (
    Streaming,
    add_statistics,
    keep_statistics,
    load_rows,
    load_tile,
    own_tile,
    padded,
    product,
    store_tile,
)
from handcraft.kernels.triton_support import dot


def own_memory(first: Tensor, way: Streaming, parts: int, places: int = 1) -> dict[str, Tensor]:
    """What `parts` programs write for themselves: `places` clips with their statistics, and the columns of a map."""

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=first.device)

    return {
        "kept_ptr": make(parts, places, way.size),
        "statistics_ptr": make(parts, places, 2, way.width),
        "columns_ptr": make(parts, way.size, dtype=first.dtype),
    }


@triton.jit
def map_tile(
    weight_ptr, columns_ptr, start, D: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr
):
    """Rows start..start+TILE-1 of weight columns in fp32: (TILE,WIDTH); weight from `generator.padded_weight`."""
    offs = tl.arange(0, TILE)
    at = weight_ptr + (start + offs)[:, None] * padded(D, TILE) + offs[None, :]
    acc = tl.zeros((TILE, WIDTH), tl.float32)
    for j in tl.range(0, D, TILE, disable_licm=True):
        acc = dot(tl.load(at + j), tl.load(own_tile(columns_ptr, j, TILE, WIDTH)), acc, PRECISION)
    return acc


@triton.jit
def keep_frames(
    ptr, stride_d, stride_t, columns_ptr, D: tl.constexpr, M: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr
):
    """A clip's frames, channel d and frame t at ptr + d stride_d + t stride_t, as operands of a map."""
    for start in tl.range(0, D, TILE, disable_licm=True):
        value = load_tile(ptr, stride_d, stride_t, start, D, M, TILE, WIDTH)
        tl.store(own_tile(columns_ptr, start, TILE, WIDTH), rounded(value, columns_ptr.dtype.element_ty))
    tl.debug_barrier()


@triton.jit
def enter_blocks(
    columns_ptr, weight_ptr, bias_ptr, dct_ptr, to_ptr, statistics_ptr, D: tl.constexpr, M: tl.constexpr,
    TILE: tl.constexpr, WIDTH: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(weight columns) C' + bias into the program's memory, with its statistics: what the first block begins with."""
    turned = tl.reshape(load_turned(dct_ptr, M, WIDTH), (WIDTH, WIDTH))
    mean, squares = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for start in tl.range(0, D, TILE, disable_licm=True):
        h = map_tile(weight_ptr, columns_ptr, start, D, TILE, WIDTH, PRECISION)
        h = product(h, turned, tl.zeros((TILE, WIDTH), tl.float32), OPERAND, PRECISION)
        if bias_ptr is not None:
            h += load_rows(bias_ptr, start, D, TILE)
        tl.store(own_tile(to_ptr, start, TILE, WIDTH), h)
        mean, squares = add_statistics(mean, squares, h, start, D)
    keep_statistics(statistics_ptr, mean, squares, D, WIDTH)


@triton.jit
def leave_blocks(
    from_ptr, constant, dct_ptr, columns_ptr, frames_ptr, D: tl.constexpr, M: tl.constexpr, TILE: tl.constexpr,
    WIDTH: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """h C as operands of a map; where frames_ptr is given also as contiguous (M,D) numbers in its dtype.

    constant: (WIDTH,), what is still to be added to each channel of h, or None.
    """
    matrix = tl.reshape(load_matrix(dct_ptr, M, WIDTH), (WIDTH, WIDTH))
    for start in tl.range(0, D, TILE, disable_licm=True):
        tile = tl.load(own_tile(from_ptr, start, TILE, WIDTH))
        if constant is not None:
            tile += constant[None, :]
        tile = product(tile, matrix, tl.zeros((TILE, WIDTH), tl.float32), OPERAND, PRECISION)
        tl.store(own_tile(columns_ptr, start, TILE, WIDTH), rounded(tile, OPERAND))
        if frames_ptr is not None:
            store_tile(frames_ptr, 1, D, tile, start, D, M)
    tl.debug_barrier()


@triton.jit
def frame_sums(dct_ptr, M: tl.constexpr, WIDTH: tl.constexpr):
    """What a constant in all coefficients adds to each frame: (1,WIDTH)."""
    return tl.sum(tl.reshape(load_matrix(dct_ptr, M, WIDTH), (WIDTH, WIDTH)), 0)[None, :]
