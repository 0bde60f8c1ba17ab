"""cmlpe in Triton: the whole generator in one launch each way; h stays in registers between its two maps.

    h = (C x) W_in' + b_in,  K blocks with e,  y = C' (h W_out' + b_out) + x_{M-1}              x, y (B,M,D), e (B,K,E)

`generator` and `adaln_mlp.block` have the mathematics forward. Backward, with g = h C after the last block, and dz the
gradient of z = W_in x:

    dg = W_out' dy,  dh = dg C',  through the blocks,  dz = dh C,  dx = W_in' dz, and sum_t dy_t on the last frame
    dW_out = sum dy g',  dW_in = sum dz x',  db_out = sum_t dy_t sum_k C_kt,  db_in = sum_t dz_t sum_k C_kt

The kernel recomputes h and writes g and dz; their products with dy and x, over all frames of the batch, are two of
(D, B M) by (B M, D), for which PyTorch's library is made.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from handcraft.kernels.adaln_mlp.block import block_forward, block_modulation
from handcraft.kernels.adaln_mlp.block_backward import stack_backward
from handcraft.kernels.adaln_mlp.kernel import PARTS, STREAMS
from handcraft.kernels.adaln_mlp.kernel_stack import modulation_backward
from handcraft.kernels.adaln_mlp.streamed import (
    load_rows,
    load_tile,
    padded,
    stack_streamed,
    store_tile,
    streaming,
)
from handcraft.kernels.cmlpe.generator import (
    enter,
    generator_tiling,
    leave,
    load_frames,
    operand_columns,
    padded_weight,
    store_frames,
)
from handcraft.kernels.cmlpe.streamed import (
    enter_blocks,
    frame_sums,
    keep_frames,
    leave_blocks,
    map_tile,
    own_memory,
)
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

PARAMETERS = tuple(name for name in CMLPeParams._fields if name != "class_embedding")
"""The fields of CMLPeParams that the op reads, in their order there and in the arguments here."""
SUMS = ("norm_weight", "norm_bias", "fc_weight", "fc_bias")
"""Parameters whose gradients the kernel sums."""


@triton.jit(do_not_specialize=("batch", "blocks"))
def cmlpe_forward_kernel(
    x_ptr, stride_xb, stride_xt, stride_xd, e_ptr, stride_eb, stride_ek, stride_ee, dct_ptr, in_weight_ptr,
    in_bias_ptr, mod_weight_ptr, mod_bias_ptr, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr,
    out_weight_ptr, out_bias_ptr, y_ptr, batch, blocks, ALIGN: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    E: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr, CLIPS: tl.constexpr, EMBEDDING: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program predicts the frames of CLIPS clips. Strides of x between clips and frames are in units of ALIGN."""
    offs_b = tl.program_id(0).to(tl.int64) * CLIPS + tl.arange(0, CLIPS)
    mask_b = offs_b < batch
    stride_xb, stride_xt = offsets(stride_xb, ALIGN), offsets(stride_xt, ALIGN)
    x = operand_columns(
        x_ptr, stride_xb, stride_xt, stride_xd, offs_b, mask_b, D, M, TILES, WIDTH, CLIPS, OPERAND
    )  # fmt: skip
    h = enter(x, in_weight_ptr, in_bias_ptr, dct_ptr, D, M, TILES, WIDTH, CLIPS, OPERAND, PRECISION)
    total = tl.zeros((CLIPS, WIDTH), tl.float32)
    for k in range(blocks):
        shift, scale, gate = block_modulation(
            k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, None, mod_weight_ptr, mod_bias_ptr, offs_b, mask_b, E,
            M, WIDTH, EMBEDDING,
        )  # fmt: skip
        h, constant = block_forward(
            h, shift, scale, gate, norm_weight_ptr + k * D, norm_bias_ptr + k * D, fc_weight_ptr + k * M * M,
            fc_bias_ptr + k * M, D, M, TILES, WIDTH, OPERAND, PRECISION,
        )  # fmt: skip
        total += constant
    y = leave(h, total, out_weight_ptr, out_bias_ptr, dct_ptr, D, M, TILES, WIDTH, CLIPS, OPERAND, PRECISION)
    for i in tl.static_range(len(TILES)):
        last_ptr = x_ptr + (M - 1) * stride_xt
        last = load_frames(last_ptr, stride_xb, 0, stride_xd, offs_b, mask_b, D, 1, TILES, i, 1).to(tl.float32)
        value = tl.reshape(y[i], (y[i].shape[0], CLIPS, WIDTH)) + last
        store_frames(y_ptr, value, offs_b, mask_b, D, M, TILES, i, WIDTH)


@triton.jit(do_not_specialize=("batch", "blocks"))
def cmlpe_streamed_kernel(
    x_ptr, stride_xb, stride_xt, stride_xd, e_ptr, stride_eb, stride_ek, stride_ee, dct_ptr, in_weight_ptr,
    in_bias_ptr, mod_weight_ptr, mod_bias_ptr, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr,
    out_weight_ptr, out_bias_ptr, kept_ptr, statistics_ptr, columns_ptr, y_ptr, batch, blocks, ALIGN: tl.constexpr,
    D: tl.constexpr, M: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
    EMBEDDING: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `cmlpe_forward_kernel`: a program takes every so many clips, one after the other, through its own memory."""
    part = tl.program_id(0)
    size: tl.constexpr = padded(D, TILE) * WIDTH
    kept_ptr += part.to(tl.int64) * size
    statistics_ptr += part * 2 * WIDTH
    columns_ptr += part.to(tl.int64) * size
    stride_xb, stride_xt = offsets(stride_xb, ALIGN), offsets(stride_xt, ALIGN)
    for clip in tl.range(part.to(tl.int64), batch, tl.num_programs(0), disable_licm=True):
        x_clip_ptr = x_ptr + offsets(clip, stride_xb)
        keep_frames(x_clip_ptr, stride_xd, stride_xt, columns_ptr, D, M, TILE, WIDTH)
        enter_blocks(
            columns_ptr, in_weight_ptr, in_bias_ptr, dct_ptr, kept_ptr, statistics_ptr, D, M, TILE, WIDTH, OPERAND,
            PRECISION,
        )  # fmt: skip
        total = stack_streamed(
            kept_ptr, statistics_ptr, 0, e_ptr, stride_eb, stride_ek, stride_ee, None, mod_weight_ptr, mod_bias_ptr,
            norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, clip, blocks, blocks, D, M, E, TILE, WIDTH,
            EMBEDDING, OPERAND, PRECISION,
        )  # fmt: skip
        leave_blocks(kept_ptr, total, dct_ptr, columns_ptr, None, D, M, TILE, WIDTH, OPERAND, PRECISION)
        for start in tl.range(0, D, TILE, disable_licm=True):
            y = map_tile(out_weight_ptr, columns_ptr, start, D, TILE, WIDTH, PRECISION)
            y += load_rows(out_bias_ptr, start, D, TILE) * frame_sums(dct_ptr, M, WIDTH)
            y += load_tile(x_clip_ptr + (M - 1) * stride_xt, stride_xd, 0, start, D, 1, TILE, 1)
            store_tile(y_ptr + clip * (D * M), 1, D, y, start, D, M)
        tl.debug_barrier()


@triton.jit(do_not_specialize=("batch", "blocks"))
def cmlpe_backward_kernel(
    dy_ptr, stride_gb, stride_gt, stride_gd, x_ptr, stride_xb, stride_xt, stride_xd, e_ptr, stride_eb, stride_ek,
    stride_ee, dct_ptr, in_weight_ptr, in_turned_ptr, in_bias_ptr, mod_weight_ptr, mod_bias_ptr, norm_weight_ptr,
    norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, out_turned_ptr, kept_ptr, statistics_ptr, columns_ptr, g_ptr, dz_ptr,
    dx_ptr, dmod_ptr, dnorm_weight_ptr, dnorm_bias_ptr, dfc_weight_ptr, dfc_bias_ptr, batch, blocks,
    HAS_DX: tl.constexpr, ALIGN: tl.constexpr, D: tl.constexpr, M: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr,
    WIDTH: tl.constexpr, EMBEDDING: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program takes every so many clips back; see `adaln_backward_kernel` for what it keeps."""
    part = tl.program_id(0)
    size: tl.constexpr = padded(D, TILE) * WIDTH
    kept_ptr += part.to(tl.int64) * (blocks + 1) * size
    statistics_ptr += part.to(tl.int64) * (blocks + 1) * (2 * WIDTH)
    columns_ptr += part.to(tl.int64) * size
    last_ptr, last_statistics_ptr = kept_ptr + blocks * size, statistics_ptr + blocks * (2 * WIDTH)
    dnorm_weight_ptr += part * blocks * D
    dnorm_bias_ptr += part * blocks * D
    dfc_weight_ptr += part * blocks * M * M
    dfc_bias_ptr += part * blocks * M
    stride_xb, stride_xt = offsets(stride_xb, ALIGN), offsets(stride_xt, ALIGN)
    for clip in tl.range(part.to(tl.int64), batch, tl.num_programs(0), disable_licm=True):
        dy_clip_ptr = dy_ptr + offsets(clip, stride_gb)
        keep_frames(x_ptr + offsets(clip, stride_xb), stride_xd, stride_xt, columns_ptr, D, M, TILE, WIDTH)
        enter_blocks(
            columns_ptr, in_weight_ptr, in_bias_ptr, dct_ptr, kept_ptr, statistics_ptr, D, M, TILE, WIDTH, OPERAND,
            PRECISION,
        )  # fmt: skip
        total = stack_streamed(
            kept_ptr, statistics_ptr, 1, e_ptr, stride_eb, stride_ek, stride_ee, None, mod_weight_ptr, mod_bias_ptr,
            norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, clip, blocks, blocks, D, M, E, TILE, WIDTH,
            EMBEDDING, OPERAND, PRECISION,
        )  # fmt: skip
        g_clip_ptr = g_ptr + clip * (D * M)
        leave_blocks(last_ptr, total, dct_ptr, columns_ptr, g_clip_ptr, D, M, TILE, WIDTH, OPERAND, PRECISION)
        # what came out of the last block is not read again: its place is the gradient's now
        keep_frames(dy_clip_ptr, stride_gd, stride_gt, columns_ptr, D, M, TILE, WIDTH)
        enter_blocks(
            columns_ptr, out_turned_ptr, None, dct_ptr, last_ptr, last_statistics_ptr, D, M, TILE, WIDTH, OPERAND,
            PRECISION,
        )  # fmt: skip
        stack_backward(
            last_ptr, kept_ptr, statistics_ptr, e_ptr, stride_eb, stride_ek, stride_ee, None, mod_weight_ptr,
            mod_bias_ptr, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, dmod_ptr, dnorm_weight_ptr,
            dnorm_bias_ptr, dfc_weight_ptr, dfc_bias_ptr, clip, blocks, D, M, E, TILE, WIDTH, EMBEDDING, OPERAND,
            PRECISION,
        )  # fmt: skip
        dz_clip_ptr = dz_ptr + clip * (D * M)
        leave_blocks(last_ptr, None, dct_ptr, columns_ptr, dz_clip_ptr, D, M, TILE, WIDTH, OPERAND, PRECISION)
        if HAS_DX:
            is_last = (tl.arange(0, WIDTH) == M - 1)[None, :]
            for start in tl.range(0, D, TILE, disable_licm=True):
                dx = map_tile(in_turned_ptr, columns_ptr, start, D, TILE, WIDTH, PRECISION)
                dy = load_tile(dy_clip_ptr, stride_gd, stride_gt, start, D, M, TILE, WIDTH)
                dx += tl.where(is_last, tl.sum(dy, 1)[:, None], 0.0)
                store_tile(dx_ptr + clip * (D * M), 1, D, dx, start, D, M)
            tl.debug_barrier()


def forward(x: Tensor, e: Tensor, *parameters: Tensor) -> tuple[Tensor]:
    """`parameters`: the fields of CMLPeParams but class_embedding; see `op.cmlpe`."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    batch, frames, dim = x.shape
    cut = generator_tiling(dim, frames, x.dtype, alone=True)  # a training step's batch is small
    arguments, weights = _inputs(x, e, parameters)
    way = streaming(dim, frames, x.dtype) if cut is None else cut
    maps = {
        name: padded_weight(weights[name[:-4]], way.channels, x.dtype) for name in ("in_weight_ptr", "out_weight_ptr")
    }
    arguments |= {**maps, **way.constants(), "out_bias_ptr": weights["out_bias"].contiguous(), "y_ptr": y}
    if cut is not None:
        launch(cmlpe_forward_kernel, (cut.programs(batch),), x, arguments, num_warps=cut.warps, num_stages=1)
        return (y,)
    parts = min(STREAMS, batch)
    arguments |= own_memory(x, way, parts)
    launch(cmlpe_streamed_kernel, (parts,), x, arguments, num_warps=way.warps, num_stages=1)
    return (y,)


def backward(
    needed: Sequence[bool], dy: Tensor, x: Tensor, e: Tensor, *parameters: Tensor
) -> tuple[Tensor | None, ...]:
    """Arguments as in `forward`; every gradient is computed, but that of x only where it is needed."""
    batch, frames, dim = x.shape
    way = streaming(dim, frames, x.dtype)
    arguments, weights = _inputs(x, e, parameters)
    blocks, parts = e.shape[1], min(PARTS, batch)

    def numbers(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    sums = {name: numbers(parts, *weights[name].shape).zero_() for name in SUMS}
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needed[0] else None
    g, dz = numbers(batch, frames, dim), numbers(batch, frames, dim)
    dmod = numbers(batch, blocks, 3 * frames)
    arguments |= {
        "dy_ptr": dy,
        **dict(zip(("stride_gb", "stride_gt", "stride_gd"), dy.stride(), strict=True)),
        "in_weight_ptr": padded_weight(weights["in_weight"], way.channels, x.dtype),
        "in_turned_ptr": padded_weight(weights["in_weight"].t(), way.channels, x.dtype),
        "out_turned_ptr": padded_weight(weights["out_weight"].t(), way.channels, x.dtype),
        **way.constants(),
        **own_memory(x, way, parts, places=blocks + 1),
        "g_ptr": g,
        "dz_ptr": dz,
        "dx_ptr": dx,
        "dmod_ptr": dmod,
        **{f"d{name}_ptr": value for name, value in sums.items()},
        "HAS_DX": dx is not None,
    }
    launch(cmlpe_backward_kernel, (parts,), x, arguments, num_warps=way.warps, num_stages=1)

    wide_dy, wide_x = (value.reshape(-1, dim).float() for value in (dy, x))
    columns = dct_matrix(frames, torch.float32, x.device).sum(0)  # what a constant in all coefficients adds to a frame
    de, dmod_weight, dmod_bias = modulation_backward(dmod, e, weights["mod_weight"])
    gradients = {
        "in_weight": dz.view(-1, dim).t() @ wide_x,
        "in_bias": columns @ dz.sum(0),
        "mod_weight": dmod_weight,
        "mod_bias": dmod_bias,
        **{name: value.sum(0) for name, value in sums.items()},
        "out_weight": wide_dy.t() @ g.view(-1, dim),
        "out_bias": columns @ wide_dy.view(batch, frames, dim).sum(0),
    }
    return (dx, de, *(gradients[name] for name in PARAMETERS))


def _inputs(x: Tensor, e: Tensor, parameters: Sequence[Tensor]) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Arguments that all kernels take, and the parameters by name."""
    _, frames, dim = x.shape
    weights = dict(zip(PARAMETERS, parameters, strict=True))
    align = alignment(x, dim)
    clip, frame, channel = x.stride()
    arguments = {
        "x_ptr": x,
        **dict(zip(("stride_xb", "stride_xt", "stride_xd"), (clip // align, frame // align, channel), strict=True)),
        "e_ptr": e,
        **dict(zip(("stride_eb", "stride_ek", "stride_ee"), e.stride(), strict=True)),
        "dct_ptr": dct_matrix(frames, torch.float32, x.device),
        **{f"{name}_ptr": weights[name].contiguous() for name in ("in_bias", "mod_weight", "mod_bias", *SUMS)},
        "batch": x.shape[0],
        "blocks": e.shape[1],
        "ALIGN": align,
        "D": dim,
        "M": frames,
        "E": e.shape[2],
        "EMBEDDING": triton.next_power_of_2(e.shape[2]),
        "OPERAND": operand_dtype(x),
        "PRECISION": product_precision(x.dtype),
    }
    return arguments, weights


def _aot_case(name: str, dtype: torch.dtype, dim: int, frames: int, common: bool) -> AotCase:
    """Both passes, with a gradient of x."""

    def run() -> None:
        params = CMLPeParams.random(2, dim, frames)._asdict()
        x, e = meta(64, frames, dim, dtype=dtype), meta(64, 6, 32, dtype=dtype)
        tensors = (x, e, *(meta(*params[name].shape) for name in PARAMETERS))
        forward(*tensors)
        backward((True,) * len(tensors), x, *tensors)

    kernels = {"cmlpe_forward_kernel": "own", "cmlpe_streamed_kernel": "any", "cmlpe_backward_kernel": "any"}
    return AotCase(f"cmlpe {name}", run, kernels, common)


AOT_CASES = tuple(_aot_case(*size) for size in AOT_SIZES)
