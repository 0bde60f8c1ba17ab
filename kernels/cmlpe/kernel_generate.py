"""cmlpe_generate in Triton: one launch a twin, from the gathered context window to the stored frames.

A program reads M frames of CLIPS clips, standardises them, and predicts the next M: h stays in registers from the first
map to the last; see `generator` and `adaln_mlp.block`. The reversed twin reads its frames, and stores them, from the
last to the first. Without noise all clips of a class share their modulation: it is computed beforehand, for each class
once. A clip's bytes do not depend on the clips beside it: each keeps to its own columns and its own sums.
"""

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from handcraft.kernels import philox, triton_support
from handcraft.kernels.adaln_mlp.block import block_forward, channels, load_modulation, modulation, rounded
from handcraft.kernels.adaln_mlp.kernel import STREAMS
from handcraft.kernels.adaln_mlp.streamed import (
    block_streamed,
    load_rows,
    load_tile,
    own_tile,
    padded,
    store_tile,
    streaming,
)
from handcraft.kernels.cmlpe.generator import enter, generator_tiling, leave, padded_weight
from handcraft.kernels.cmlpe.streamed import enter_blocks, frame_sums, leave_blocks, map_tile, own_memory
from handcraft.kernels.dct import dct_matrix
from handcraft.kernels.params import CMLPeParams
from handcraft.kernels.triton_support import (
    AOT_SIZES,
    AotCase,
    alignment,
    launch,
    meta,
    offsets,
    operand_dtype,
    product_precision,
)

TWO_PI = tl.constexpr(2 * math.pi)
ALONE = 96
"""Channels beyond which a program has one clip, not four, on GPUs before Hopper: their matrix unit takes both operands
of a map from registers, and four clips of 180 channels spill 1,556 bytes, of 120 channels 72."""


@triton.jit
def uniform(word):
    """((word>>9) + 0.5) 2^-23 of uint32 words, in fp32."""
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def cosine_sine(turn):
    """cos and sin of 2 pi turn, 0 < turn < 1, to 2 units in the last place (coefficients of Cephes' sinf and cosf).

    CUDA's own reduce angles of any size, through memory; here the nearest quarter turn is exact.
    """
    quarter = (turn * 4 + 0.5).to(tl.int32)
    angle = (turn - quarter.to(tl.float32) * 0.25) * TWO_PI  # within an eighth of a turn
    square = angle * angle
    sine = ((-1.9515295891e-4 * square + 8.3321608736e-3) * square - 1.6666654611e-1) * square * angle + angle
    cosine = (2.443315711809948e-5 * square - 1.388731625493765e-3) * square + 4.166664568298827e-2
    cosine = cosine * square * square - 0.5 * square + 1
    odd = (quarter & 1) == 1
    first, second = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    first = tl.where(((quarter + 1) & 2) == 0, first, -first)
    return first, tl.where((quarter & 2) == 0, second, -second)


@triton.jit
def words(clip_id, seed_low, seed_high, place, SIZE: tl.constexpr):
    """Four words of SIZE/4 quads, each uint32 (CLIPS,SIZE/4), as `philox.words`; place: stream << 24 | block << 8."""
    quad = tl.arange(0, SIZE // 4)[None, :]
    zero = (clip_id[:, None] * 0 + quad * 0).to(tl.uint32)  # (CLIPS,SIZE/4)
    low = (clip_id & 0xFFFFFFFF).to(tl.uint32)[:, None] + zero
    high = ((clip_id >> 32) & 0xFFFFFFFF).to(tl.uint32)[:, None] + zero
    key_low, key_high = seed_low.to(tl.uint32, bitcast=True), seed_high.to(tl.uint32, bitcast=True)
    return tl.philox_impl(low, high, (place | quad).to(tl.uint32) + zero, zero, key_low, key_high)


@triton.jit
def normal(clip_id, seed_low, seed_high, place, SIZE: tl.constexpr):
    """Standard normal numbers (CLIPS,SIZE) as `philox.normal` defines them from these words."""
    w0, w1, w2, w3 = words(clip_id, seed_low, seed_high, place, SIZE)
    radius, other_radius = tl.sqrt(-2 * tl.log(uniform(w0))), tl.sqrt(-2 * tl.log(uniform(w2)))
    cosine, sine = cosine_sine(uniform(w1))
    other_cosine, other_sine = cosine_sine(uniform(w3))
    cosines = tl.join(radius * cosine, other_radius * other_cosine)  # (CLIPS,SIZE/4,pair)
    sines = tl.join(radius * sine, other_radius * other_sine)
    return tl.reshape(tl.join(cosines, sines), (clip_id.shape[0], SIZE))


@triton.jit(do_not_specialize=("batch", "blocks", "seed_low", "seed_high", "noise"))
def generate_kernel(
    context_ptr, stride_sb, stride_st, stride_sd, row_ptr, label_ptr, clip_id_ptr, mean_ptr, std_ptr,
    dct_ptr, in_weight_ptr, in_bias_ptr, class_embedding_ptr, mod_ptr, mod_weight_ptr, mod_bias_ptr,
    norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, out_weight_ptr, out_bias_ptr,
    out_ptr, stride_ob, stride_ot, stride_od, batch, blocks, seed_low, seed_high, noise,
    STREAM: tl.constexpr, REVERSED: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_MEAN: tl.constexpr,
    HAS_STD: tl.constexpr, ALIGN: tl.constexpr, OUT_ALIGN: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    E: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr, CLIPS: tl.constexpr, EMBEDDING: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program predicts the M frames of CLIPS clips. Strides of clips and frames are in units of ALIGN, OUT_ALIGN."""
    offs_b = tl.program_id(0).to(tl.int64) * CLIPS + tl.arange(0, CLIPS)
    mask_b = offs_b < batch
    offs_t = tl.arange(0, WIDTH)
    mask_t = mask_b[None, :, None] & (offs_t < M)[None, None, :]
    frame = M - 1 - offs_t if REVERSED else offs_t
    last: tl.constexpr = 0 if REVERSED else M - 1
    row = tl.load(row_ptr + offs_b, mask=mask_b, other=0)
    source = context_ptr + offsets(row, stride_sb) * ALIGN

    x = ()
    for j in tl.static_range(len(TILES)):
        offs_d = channels(TILES, j)
        at = source[None, :, None] + (offsets(frame, stride_st) * ALIGN)[None, None, :]
        at += offsets(offs_d, stride_sd)[:, None, None]
        value = tl.load(at, mask=(offs_d < D)[:, None, None] & mask_t, other=0.0)  # (R,CLIPS,WIDTH)
        value = tl.reshape(value, (value.shape[0], CLIPS * WIDTH)).to(tl.float32)
        if HAS_MEAN:
            value -= tl.load(mean_ptr + offs_d, mask=offs_d < D, other=0.0)[:, None]
        if HAS_STD:
            value *= 1 / tl.load(std_ptr + offs_d, mask=offs_d < D, other=1.0)[:, None]
        value = tl.where(value == value, value, 0.0)  # NaN is a missing landmark
        x += (rounded(value, OPERAND),)
    h = enter(x, in_weight_ptr, in_bias_ptr, dct_ptr, D, M, TILES, WIDTH, CLIPS, OPERAND, PRECISION)

    # 32 bits, for registers: tables of the classes with 2^31 numbers would take 8 GB
    label = tl.load(label_ptr + offs_b, mask=mask_b, other=0).to(tl.int32)
    if HAS_NOISE:
        clip_id = tl.load(clip_id_ptr + offs_b, mask=mask_b, other=0)
        offs_e = tl.arange(0, EMBEDDING)[None, :]
        embedding = tl.load(class_embedding_ptr + label[:, None] * E + offs_e, mask=offs_e < E, other=0.0)
    total = tl.zeros((CLIPS, WIDTH), tl.float32)
    for k in range(blocks):
        if HAS_NOISE:
            e = embedding + noise * normal(clip_id, seed_low, seed_high, (STREAM << 24) | (k << 8), EMBEDDING)
            weight_ptr, bias_ptr = mod_weight_ptr + k * 3 * M * E, mod_bias_ptr + k * 3 * M
            shift, scale, gate = modulation(e, weight_ptr, bias_ptr, E, M, WIDTH, EMBEDDING)
        else:
            shift, scale, gate = load_modulation(mod_ptr + (label * blocks + k) * (3 * M), mask_b, M, WIDTH)
        h, constant = block_forward(
            h, shift, scale, gate, norm_weight_ptr + k * D, norm_bias_ptr + k * D, fc_weight_ptr + k * M * M,
            fc_bias_ptr + k * M, D, M, TILES, WIDTH, OPERAND, PRECISION,
        )  # fmt: skip
        total += constant

    y = leave(h, total, out_weight_ptr, out_bias_ptr, dct_ptr, D, M, TILES, WIDTH, CLIPS, OPERAND, PRECISION)
    target = out_ptr + offsets(offs_b, stride_ob) * OUT_ALIGN
    for i in tl.static_range(len(TILES)):
        offs_d = channels(TILES, i)
        mask_d = offs_d < D
        at = source[None, :] + offsets(last, stride_st) * ALIGN + offsets(offs_d, stride_sd)[:, None]
        residual = tl.load(at, mask=mask_d[:, None] & mask_b[None, :], other=0.0).to(tl.float32)  # (R,CLIPS)
        # y std + mean, where the residual is the last frame: it need not be standardised before
        centre = tl.load(mean_ptr + offs_d, mask=mask_d, other=0.0)[:, None] if HAS_MEAN else 0.0
        residual = tl.where(residual == residual, residual, centre)
        value = tl.reshape(y[i], (y[i].shape[0], CLIPS, WIDTH))
        if HAS_STD:
            value *= tl.load(std_ptr + offs_d, mask=mask_d, other=1.0)[:, None, None]
        value += residual[:, :, None]
        at = target[None, :, None] + (offsets(frame, stride_ot) * OUT_ALIGN)[None, None, :]
        at += offsets(offs_d, stride_od)[:, None, None]
        tl.store(at, rounded(value, out_ptr.dtype.element_ty), mask=mask_d[:, None, None] & mask_t)


@triton.jit(do_not_specialize=("batch", "blocks", "seed_low", "seed_high", "noise"))
def generate_streamed_kernel(
    context_ptr, stride_sb, stride_st, stride_sd, row_ptr, label_ptr, clip_id_ptr, mean_ptr, std_ptr,
    dct_ptr, in_weight_ptr, in_bias_ptr, class_embedding_ptr, mod_ptr, mod_weight_ptr, mod_bias_ptr,
    norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, out_weight_ptr, out_bias_ptr, kept_ptr,
    statistics_ptr, columns_ptr, out_ptr, stride_ob, stride_ot, stride_od, batch, blocks, seed_low, seed_high, noise,
    STREAM: tl.constexpr, REVERSED: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_MEAN: tl.constexpr,
    HAS_STD: tl.constexpr, ALIGN: tl.constexpr, OUT_ALIGN: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    E: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr, EMBEDDING: tl.constexpr, OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """As `generate_kernel`: a program takes every so many clips, one after the other, through its own memory."""
    part = tl.program_id(0)
    size: tl.constexpr = padded(D, TILE) * WIDTH
    kept_ptr += part.to(tl.int64) * size
    statistics_ptr += part * 2 * WIDTH
    columns_ptr += part.to(tl.int64) * size
    first: tl.constexpr = M - 1 if REVERSED else 0
    last: tl.constexpr = M - 1 - first
    turn: tl.constexpr = -1 if REVERSED else 1
    stride_sb, stride_st = offsets(stride_sb, ALIGN), offsets(stride_st, ALIGN)
    stride_ob, stride_ot = offsets(stride_ob, OUT_ALIGN), offsets(stride_ot, OUT_ALIGN)
    for clip in tl.range(part.to(tl.int64), batch, tl.num_programs(0), disable_licm=True):
        source = context_ptr + tl.load(row_ptr + clip) * stride_sb
        for start in tl.range(0, D, TILE, disable_licm=True):
            value = load_tile(source + first * stride_st, stride_sd, turn * stride_st, start, D, M, TILE, WIDTH)
            if HAS_MEAN:
                value -= load_rows(mean_ptr, start, D, TILE)
            if HAS_STD:
                offs_d = start + tl.arange(0, TILE)
                value *= 1 / tl.load(std_ptr + offs_d, mask=offs_d < D, other=1.0)[:, None]
            # NaN is a missing landmark; past M the mean was taken from nothing
            value = tl.where((value == value) & (tl.arange(0, WIDTH) < M)[None, :], value, 0.0)
            tl.store(own_tile(columns_ptr, start, TILE, WIDTH), rounded(value, OPERAND))
        tl.debug_barrier()
        enter_blocks(
            columns_ptr, in_weight_ptr, in_bias_ptr, dct_ptr, kept_ptr, statistics_ptr, D, M, TILE, WIDTH, OPERAND,
            PRECISION,
        )  # fmt: skip
        label = tl.load(label_ptr + clip)
        total = tl.zeros((WIDTH,), tl.float32)
        for k in tl.range(0, blocks, disable_licm=True):
            if HAS_NOISE:
                offs_e = tl.arange(0, EMBEDDING)[None, :]
                embedding = tl.load(class_embedding_ptr + label * E + offs_e, mask=offs_e < E, other=0.0)
                clip_id = tl.load(clip_id_ptr + clip + tl.arange(0, 1))
                e = embedding + noise * normal(clip_id, seed_low, seed_high, (STREAM << 24) | (k << 8), EMBEDDING)
                weight_ptr, bias_ptr = mod_weight_ptr + k * 3 * M * E, mod_bias_ptr + k * 3 * M
                shift, scale, gate = modulation(e, weight_ptr, bias_ptr, E, M, WIDTH, EMBEDDING)
            else:
                one = tl.arange(0, 1)
                shift, scale, gate = load_modulation(mod_ptr + (label * blocks + k) * (3 * M) + one, one >= 0, M, WIDTH)
            total += block_streamed(
                kept_ptr, kept_ptr, statistics_ptr, statistics_ptr, tl.reshape(shift, (WIDTH,)),
                tl.reshape(scale, (WIDTH,)), tl.reshape(gate, (WIDTH,)), norm_weight_ptr + k * D, norm_bias_ptr + k * D,
                fc_weight_ptr + k * M * M, fc_bias_ptr + k * M, D, M, TILE, WIDTH, OPERAND, PRECISION,
            )  # fmt: skip
        leave_blocks(kept_ptr, total, dct_ptr, columns_ptr, None, D, M, TILE, WIDTH, OPERAND, PRECISION)
        target = out_ptr + offsets(clip, stride_ob) + first * stride_ot
        for start in tl.range(0, D, TILE, disable_licm=True):
            y = map_tile(out_weight_ptr, columns_ptr, start, D, TILE, WIDTH, PRECISION)
            y += load_rows(out_bias_ptr, start, D, TILE) * frame_sums(dct_ptr, M, WIDTH)
            if HAS_STD:
                y *= load_rows(std_ptr, start, D, TILE)
            residual = load_tile(source + last * stride_st, stride_sd, 0, start, D, 1, TILE, 1)
            centre = load_rows(mean_ptr, start, D, TILE) if HAS_MEAN else tl.zeros((TILE, 1), tl.float32)
            y += tl.where(residual == residual, residual, centre)
            store_tile(target, stride_od, turn * stride_ot, y, start, D, M)
        tl.debug_barrier()


def cmlpe_generate(
    params: CMLPeParams,
    reverse_params: CMLPeParams | None,
    context: Tensor,
    row: Tensor,
    label: Tensor,
    clip_id: Tensor,
    seed: int,
    noise: float,
    mean: Tensor | None,
    std: Tensor | None,
    out: Tensor,
) -> None:
    """See `generate.cmlpe_generate`; the arguments are checked there. Fills `out`."""
    frames = params.fc_weight.shape[1]
    index = [value.contiguous() for value in (row, label, clip_id)]
    statistics = [None if value is None else value.contiguous() for value in (mean, std)]
    if reverse_params is not None:
        _run(reverse_params, context[:, frames:], *index, seed, noise, *statistics, out[:, :frames], reverse=True)
        out = out[:, frames:]
    _run(params, context[:, :frames], *index, seed, noise, *statistics, out, reverse=False)


def _run(
    params: CMLPeParams,
    context: Tensor,
    row: Tensor,
    label: Tensor,
    clip_id: Tensor,
    seed: int,
    noise: float,
    mean: Tensor | None,
    std: Tensor | None,
    out: Tensor,
    *,
    reverse: bool,
) -> None:
    """One twin: from context (clips,M,D) to out (B,M,D)."""
    batch, frames, dim = out.shape
    blocks, _, embedding = params.mod_weight.shape
    alone = triton_support.capability(context.device) < 90 and dim > ALONE
    cut = generator_tiling(dim, frames, context.dtype, alone=alone)
    way = streaming(dim, frames, context.dtype) if cut is None else cut
    in_weight, out_weight = (
        padded_weight(weight, way.channels, context.dtype) for weight in (params.in_weight, params.out_weight)
    )
    params = CMLPeParams(*(value.contiguous() for value in params))
    align, out_align = alignment(context, dim), alignment(out, dim)
    arguments = {
        **{f"{name}_ptr": value for name, value in params._asdict().items()},
        "in_weight_ptr": in_weight,
        "out_weight_ptr": out_weight,
        "dct_ptr": dct_matrix(frames, torch.float32, context.device),
        "mod_ptr": None if noise else _class_modulation(params),
        "context_ptr": context,
        "row_ptr": row,
        "label_ptr": label,
        "clip_id_ptr": clip_id,
        "mean_ptr": mean,
        "std_ptr": std,
        "out_ptr": out,
        **_strides("s", context, align),
        **_strides("o", out, out_align),
        "batch": batch,
        "blocks": blocks,
        "seed_low": _signed(seed & 0xFFFFFFFF),
        "seed_high": _signed(seed >> 32),
        "noise": noise,
        "STREAM": philox.STREAM_REVERSED if reverse else philox.STREAM_FORWARD,
        "REVERSED": reverse,
        "HAS_NOISE": bool(noise),
        "HAS_MEAN": mean is not None,
        "HAS_STD": std is not None,
        "ALIGN": align,
        "OUT_ALIGN": out_align,
        "D": dim,
        "M": frames,
        "E": embedding,
        "EMBEDDING": max(4, triton.next_power_of_2(embedding)),
        "OPERAND": operand_dtype(context),
        "PRECISION": product_precision(context.dtype),
        **way.constants(),
    }
    if cut is None:
        parts = min(STREAMS, batch)
        arguments |= own_memory(context, way, parts)
        launch(generate_streamed_kernel, (parts,), context, arguments, num_warps=way.warps, num_stages=1)
        return
    # One stage: prefetching the parameters of a block takes registers that h needs, and they come from the cache.
    launch(generate_kernel, (cut.programs(batch),), context, arguments, num_warps=cut.warps, num_stages=1)


def _class_modulation(params: CMLPeParams) -> Tensor:
    """Shift, scale and gate of every class and block without noise: (classes,K,3M)."""
    active = F.silu(params.class_embedding).expand(params.mod_weight.shape[0], -1, -1)  # (K,classes,E)
    return torch.baddbmm(params.mod_bias[:, None], active, params.mod_weight.mT).transpose(0, 1).contiguous()


def _strides(letter: str, tensor: Tensor, align: int) -> dict[str, int]:
    clip, frame, channel = tensor.stride()
    names = (f"stride_{letter}b", f"stride_{letter}t", f"stride_{letter}d")
    return dict(zip(names, (clip // align, frame // align, channel), strict=True))


def _signed(word: int) -> int:
    """The int32 of the same bits: arguments keep one type whatever the seed."""
    return word - (1 << 32) if word >= 1 << 31 else word


def _aot_case(name: str, dtype: torch.dtype, dim: int, frames: int, common: bool, noise: float = 0.1) -> AotCase:
    """One twin with statistics, from contexts of `dtype` to clips of the same."""

    def run() -> None:
        params = CMLPeParams(*(meta(*value.shape) for value in CMLPeParams.random(8, dim, frames)))
        context, out = meta(64, 2 * frames, dim, dtype=dtype), meta(64, frames, dim, dtype=dtype)
        index = (meta(64, dtype=torch.int64) for _ in range(3))
        cmlpe_generate(params, None, context, *index, 7, noise, meta(dim), meta(dim), out)

    return AotCase(f"cmlpe_generate {name}", run, {"generate_kernel": "own", "generate_streamed_kernel": "any"}, common)


AOT_CASES = (
    *(_aot_case(*size) for size in AOT_SIZES),
    _aot_case("bf16 D180 M16 without noise", torch.bfloat16, 180, 16, True, noise=0.0),
)
