"""One conditional MLP block on the clips of a Triton program: what the kernels of adaln_mlp and cmlpe are made of.

h of CLIPS clips lies in registers as a tuple of tiles along D, tile i of shape (CLIPS, TILES[i], M): D need not be a
power of two, and at most 15 rows are padding. Rows past D hold 0 throughout; M below 16 is padded with zeros to WIDTH,
the least that a matrix unit multiplies. With several clips in a program each warp has a clip of its own, so that no
sum over D and no product crosses warps, and the (D,M) rows of a product leave the matrix unit in the registers in which
the next one takes them as 16-bit operands. One clip a program, for large D times M, spreads its rows over all warps.

Modulation and gate fold into the FC, LayerNorm stays outside of it:

    h_d += n_d G + t,  n_d = alpha_d (h_d - mu) r + beta_d                            for each channel d
    G = diag(1 + scale) F' diag(gate),  t = gate (F shift + f)

LayerNorm takes away what all channels share, so that no block needs the t of those before it: they are summed beside h,
(CLIPS,M), and added once after the last block. That leaves five and a half instructions an element and block beside the
product: three for the mean and the variance, one for (h - mu) r, one for the affine map, half of one to round. Section
8 of the design folds LayerNorm too; but a product of 16-bit operands h would lose as many bits as the mean is larger
than the deviation, and mu G, alpha and beta b then come after it, in two instructions more. `csrc/cpu/adaln_tile.h`
derives the backward pass.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from handcraft.kernels.triton_support import INTERPRETED, dot, offsets

EPS = tl.constexpr(1e-5)


@dataclass(frozen=True)
class Tiling:
    """How the clips of a batch are cut into programs."""

    tiles: tuple[int, ...]
    """Channels of each tile of h; their sum is D rounded up to a multiple of 16."""
    width: int
    """M, at least 16."""
    clips: int
    """Clips of a program."""
    warps: int

    @property
    def channels(self) -> int:
        """D rounded up to whole tiles."""
        return sum(self.tiles)

    def programs(self, batch: int) -> int:
        return -(-batch // self.clips)

    def constants(self) -> dict[str, object]:
        return {"TILES": self.tiles, "WIDTH": self.width, "CLIPS": self.clips}


def tiling(dim: int, frames: int, dtype: torch.dtype, *, alone: bool = False) -> Tiling | None:
    """The tiling of clips of (`dim`, `frames`) numbers whose products have operands of `dtype`.

    A warp has a clip to itself while h takes at most 96 of a thread's registers (D = 192, M = 16), which leaves as
    many again for products; four such warps fill the 64 columns that Hopper's matrix unit wants. 3xTF32 splits each
    operand in two and keeps two sums: a clip is spread over four warps.

    Args:
        alone: a clip a program, where batches are too small to fill the device with four.

    Returns:
        None for larger clips, and for M > 16, where a product has too many operands: they go through memory, see
        `streamed`.
    """
    channels, width = -(-dim // 16) * 16, max(16, frames)
    tiles = (64,) * (channels // 64) + tuple(size for size in (32, 16) if channels & size)
    if width > 16 or channels > 192:
        return None
    four = dtype.itemsize == 2 and not alone
    return Tiling(tiles, width, clips=4 if four else 1, warps=4)


@triton.jit
def rounded(value, DTYPE: tl.constexpr):
    """fp32 numbers in DTYPE, to nearest; the interpreters of Triton 3.6 to 3.9 cut bf16 off instead."""
    if INTERPRETED and tl.bfloat16 == DTYPE:
        bits = value.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        value = tl.where(value == value, bits.to(tl.float32, bitcast=True), value)
    return value.to(DTYPE)


@triton.constexpr_function
def first_channel(tiles, i):
    return sum(tiles[:i])


@triton.constexpr_function
def all_channels(tiles):
    return sum(tiles)


@triton.jit
def channels(TILES: tl.constexpr, i: tl.constexpr):
    """Numbers of the channels of tile i: (TILES[i],)."""
    return first_channel(TILES, i) + tl.arange(0, TILES[i])


@triton.jit
def only_channels(tile, D: tl.constexpr, TILES: tl.constexpr, i: tl.constexpr):
    """Tile i with 0 in its rows past D."""
    if first_channel(TILES, i) + TILES[i] > D:
        return tl.where((channels(TILES, i) < D)[None, :, None], tile, 0.0)
    return tile


@triton.jit
def load_channels(ptr, D: tl.constexpr, TILES: tl.constexpr, i: tl.constexpr):
    """Values of tile i of a vector (D,), 0 past D: (TILES[i],)."""
    offs_d = channels(TILES, i)
    return tl.load(ptr + offs_d, mask=offs_d < D, other=0.0)


@triton.jit
def load_tiles(
    ptr, stride_b, stride_d, stride_m, offs_b, mask_b, D: tl.constexpr, M: tl.constexpr, TILES: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Tiles of (B,D,M) numbers in fp32; offs_b (CLIPS,) in int64, mask_b tells which of them exist."""
    offs_m = tl.arange(0, WIDTH)[None, None, :]
    tiles = ()
    for i in tl.static_range(len(TILES)):
        offs_d = channels(TILES, i)[None, :, None]
        at = ptr + offs_b[:, None, None] * stride_b + offsets(offs_d, stride_d) + offsets(offs_m, stride_m)
        mask = mask_b[:, None, None] & (offs_d < D) & (offs_m < M)
        tiles += (tl.load(at, mask=mask, other=0.0).to(tl.float32),)
    return tiles


@triton.jit
def store_tiles(ptr, tiles, offs_b, mask_b, D: tl.constexpr, M: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr):
    """Store tiles as contiguous (B,D,M) in the dtype of ptr."""
    offs_m = tl.arange(0, WIDTH)[None, None, :]
    for i in tl.static_range(len(TILES)):
        offs_d = channels(TILES, i)[None, :, None]
        at = ptr + offs_b[:, None, None] * (D * M) + offs_d * M + offs_m
        mask = mask_b[:, None, None] & (offs_d < D) & (offs_m < M)
        tl.store(at, rounded(tiles[i], ptr.dtype.element_ty), mask=mask)


@triton.jit
def sum_channels(tiles, TILES: tl.constexpr):
    """Sum over D: (CLIPS,WIDTH). Tiles of one size are added first: then threads exchange their sums only once."""
    alike = tiles[0]
    for i in tl.static_range(1, len(TILES)):
        if TILES[i] == TILES[0]:
            alike += tiles[i]
    total = tl.sum(alike, 1)
    for i in tl.static_range(1, len(TILES)):
        if TILES[i] != TILES[0]:
            total += tl.sum(tiles[i], 1)
    return total


@triton.jit
def sum_weighted_channels(tiles, weight_ptr, D: tl.constexpr, TILES: tl.constexpr):
    """Sum over D of each channel times its weight (D,): (CLIPS,WIDTH). As `sum_channels`, a tile at a time."""
    alike = tiles[0] * load_channels(weight_ptr, D, TILES, 0)[None, :, None]
    for i in tl.static_range(1, len(TILES)):
        if TILES[i] == TILES[0]:
            alike += tiles[i] * load_channels(weight_ptr, D, TILES, i)[None, :, None]
    total = tl.sum(alike, 1)
    for i in tl.static_range(1, len(TILES)):
        if TILES[i] != TILES[0]:
            total += tl.sum(tiles[i] * load_channels(weight_ptr, D, TILES, i)[None, :, None], 1)
    return total


@triton.jit
def norm_statistics(h, D: tl.constexpr, TILES: tl.constexpr):
    """Mean and reciprocal deviation over D: two (CLIPS,WIDTH)."""
    mean = sum_channels(h, TILES) / D
    squares = ()
    for i in tl.static_range(len(TILES)):
        centred = only_channels(h[i] - mean[:, None, :], D, TILES, i)
        squares += (centred * centred,)
    return mean, tl.rsqrt(sum_channels(squares, TILES) / D + EPS)


@triton.jit
def mix(a, b, acc, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a b clip by clip: (CLIPS,R,N) from (CLIPS,R,K) and (CLIPS,K,N), operands rounded to OPERAND."""
    a = rounded(a, OPERAND)
    b = rounded(b, OPERAND)
    if a.shape[0] == 1:  # a product of matrices spreads its rows over the warps, one of batches only its clips
        flat = dot(
            tl.reshape(a, (a.shape[1], a.shape[2])),
            tl.reshape(b, (b.shape[1], b.shape[2])),
            tl.reshape(acc, (acc.shape[1], acc.shape[2])),
            PRECISION,
        )
        return tl.reshape(flat, (1, acc.shape[1], acc.shape[2]))
    return dot(a, b, acc, PRECISION)


@triton.jit
def load_matrix(ptr, M: tl.constexpr, WIDTH: tl.constexpr):
    """A contiguous (M,M) matrix, padded with zeros: (1,WIDTH,WIDTH)."""
    offs_row, offs_column = tl.arange(0, WIDTH)[:, None], tl.arange(0, WIDTH)[None, :]
    return tl.load(ptr + offs_row * M + offs_column, mask=(offs_row < M) & (offs_column < M), other=0.0)[None]


@triton.jit
def load_turned(ptr, M: tl.constexpr, WIDTH: tl.constexpr):
    """The transpose of a contiguous (M,M) matrix, padded with zeros: (1,WIDTH,WIDTH)."""
    offs_row, offs_column = tl.arange(0, WIDTH)[:, None], tl.arange(0, WIDTH)[None, :]
    mask = (offs_row < M) & (offs_column < M)
    return tl.load(ptr + offs_column * M + offs_row, mask=mask, other=0.0)[None]


@triton.jit
def load_row(ptr, M: tl.constexpr, WIDTH: tl.constexpr):
    """A vector (M,), padded with zeros: (1,WIDTH)."""
    offs_m = tl.arange(0, WIDTH)
    return tl.load(ptr + offs_m, mask=offs_m < M, other=0.0)[None]


@triton.jit
def modulation_part(
    active, weight_ptr, bias_ptr, E: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr, EMBEDDING: tl.constexpr
):
    offs_m, offs_e = tl.arange(0, WIDTH)[:, None], tl.arange(0, EMBEDDING)[None, :]
    weight = tl.load(weight_ptr + offs_m * E + offs_e, mask=(offs_m < M) & (offs_e < E), other=0.0)
    return tl.sum(active[:, None, :] * weight[None], 2) + load_row(bias_ptr, M, WIDTH)


@triton.jit
def modulation(e, weight_ptr, bias_ptr, E: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr, EMBEDDING: tl.constexpr):
    """Shift, scale and gate (CLIPS,WIDTH) of a block from its embedding e (CLIPS,EMBEDDING) in fp32.

    weight (3M,E) and bias (3M,) are contiguous. Too small for a matrix unit, and in fp32 whatever the operands are.
    """
    active = e * tl.sigmoid(e)
    shift = modulation_part(active, weight_ptr, bias_ptr, E, M, WIDTH, EMBEDDING)
    scale = modulation_part(active, weight_ptr + M * E, bias_ptr + M, E, M, WIDTH, EMBEDDING)
    gate = modulation_part(active, weight_ptr + 2 * M * E, bias_ptr + 2 * M, E, M, WIDTH, EMBEDDING)
    return shift, scale, gate


@triton.jit
def load_modulation(ptr, mask_b, M: tl.constexpr, WIDTH: tl.constexpr):
    """Shift, scale and gate (CLIPS,WIDTH); ptr (CLIPS,) points at the 3M of each clip."""
    offs_m = tl.arange(0, WIDTH)[None, :]
    mask = mask_b[:, None] & (offs_m < M)
    shift = tl.load(ptr[:, None] + offs_m, mask=mask, other=0.0)
    scale = tl.load(ptr[:, None] + M + offs_m, mask=mask, other=0.0)
    gate = tl.load(ptr[:, None] + 2 * M + offs_m, mask=mask, other=0.0)
    return shift, scale, gate


@triton.jit
def store_modulation(ptr, shift, scale, gate, mask_b, M: tl.constexpr, WIDTH: tl.constexpr):
    """The inverse of `load_modulation`."""
    offs_m = tl.arange(0, WIDTH)[None, :]
    mask = mask_b[:, None] & (offs_m < M)
    tl.store(ptr[:, None] + offs_m, shift, mask=mask)
    tl.store(ptr[:, None] + M + offs_m, scale, mask=mask)
    tl.store(ptr[:, None] + 2 * M + offs_m, gate, mask=mask)


@triton.jit
def block_modulation(
    k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr, offs_b, mask_b,
    E: tl.constexpr, M: tl.constexpr, WIDTH: tl.constexpr, EMBEDDING: tl.constexpr,
):  # fmt: skip
    """Shift, scale and gate (CLIPS,WIDTH) of block k from e (B,K,E); where E is 0, as given in mod (B,K,3M)."""
    if E == 0:
        return load_modulation(mod_ptr + (offs_b * blocks + k) * (3 * M), mask_b, M, WIDTH)
    offs_e = tl.arange(0, EMBEDDING)[None, :]
    at = e_ptr + offs_b[:, None] * stride_eb + offsets(k, stride_ek) + offsets(offs_e, stride_ee)
    e = tl.load(at, mask=mask_b[:, None] & (offs_e < E), other=0.0).to(tl.float32)
    return modulation(e, mod_weight_ptr + k * 3 * M * E, mod_bias_ptr + k * 3 * M, E, M, WIDTH, EMBEDDING)


@triton.jit
def block_forward(
    h, shift, scale, gate, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, D: tl.constexpr,
    M: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Tiles after a block but for t, and t (CLIPS,WIDTH), which is the same for all channels.

    shift, scale, gate: (CLIPS,WIDTH); norm_weight, norm_bias (D,), fc_weight (M,M), fc_bias (M,): fp32, contiguous.
    """
    mean, deviation = norm_statistics(h, D, TILES)
    turned = load_turned(fc_weight_ptr, M, WIDTH)  # F': coefficient in, coefficient out
    product = turned * (1 + scale)[:, :, None] * gate[:, None, :]  # G
    constant = (tl.sum(turned * shift[:, :, None], 1) + load_row(fc_bias_ptr, M, WIDTH)) * gate  # t
    centre = mean * deviation
    after = ()
    for i in tl.static_range(len(TILES)):
        alpha = load_channels(norm_weight_ptr, D, TILES, i)[None, :, None]
        beta = load_channels(norm_bias_ptr, D, TILES, i)[None, :, None]
        n = alpha * (h[i] * deviation[:, None, :] - centre[:, None, :]) + beta
        after += (mix(n, product, h[i], OPERAND, PRECISION),)  # past D alpha, beta and h are 0, and stay so
    return after, constant


@triton.jit
def with_constant(h, constant, TILES: tl.constexpr):
    """Tiles of h plus the t of all blocks (CLIPS,WIDTH); rows past D hold it as well."""
    result = ()
    for i in tl.static_range(len(TILES)):
        result += (h[i] + constant[:, None, :],)
    return result
