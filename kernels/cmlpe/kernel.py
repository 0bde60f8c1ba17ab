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

from handcraft.kernels.adaln_mlp.block import (
    Tiling,
    all_channels,
    block_forward,
    block_modulation,
    load_matrix,
    load_turned,
    rounded,
    tiling,
)
from handcraft.kernels.adaln_mlp.block_backward import recompute, stack_backward
from handcraft.kernels.adaln_mlp.kernel import PARTS
from handcraft.kernels.adaln_mlp.kernel_stack import modulation_backward
from handcraft.kernels.cmlpe.generator import (
    as_columns,
    by_clip,
    enter,
    leave,
    load_frames,
    map_channels,
    operand_columns,
    padded_weight,
    store_frames,
    transform,
)
from handcraft.kernels.dct import dct_matrix
from handcraft.kernels.params import CMLPeParams
from handcraft.kernels.triton_support import AotCase, alignment, launch, operand_dtype, product_precision

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
    stride_xb, stride_xt = stride_xb * ALIGN, stride_xt * ALIGN
    x = operand_columns(
        x_ptr, stride_xb, stride_xt, stride_xd, offs_b, mask_b, D, M, TILES, WIDTH, CLIPS, OPERAND
    )  # fmt: skip
    h = enter(x, in_weight_ptr, in_bias_ptr, dct_ptr, D, M, TILES, WIDTH, CLIPS, OPERAND, PRECISION)
    for k in range(blocks):
        shift, scale, gate = block_modulation(
            k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, None, mod_weight_ptr, mod_bias_ptr, offs_b, mask_b, E,
            M, WIDTH, EMBEDDING,
        )  # fmt: skip
        h, _, _ = block_forward(
            h, shift, scale, gate, norm_weight_ptr + k * D, norm_bias_ptr + k * D, fc_weight_ptr + k * M * M,
            fc_bias_ptr + k * M, D, M, TILES, WIDTH, OPERAND, PRECISION,
        )  # fmt: skip
    y = leave(h, out_weight_ptr, out_bias_ptr, dct_ptr, D, M, TILES, WIDTH, CLIPS, OPERAND, PRECISION)
    for i in tl.static_range(len(TILES)):
        last_ptr = x_ptr + (M - 1) * stride_xt
        last = load_frames(last_ptr, stride_xb, 0, stride_xd, offs_b, mask_b, D, 1, TILES, i, 1).to(tl.float32)
        value = tl.reshape(y[i], (y[i].shape[0], CLIPS, WIDTH)) + last
        store_frames(y_ptr, value, offs_b, mask_b, D, M, TILES, i, WIDTH)


@triton.jit(do_not_specialize=("batch", "blocks"))
def cmlpe_backward_kernel(
    dy_ptr, stride_gb, stride_gt, stride_gd, x_ptr, stride_xb, stride_xt, stride_xd, e_ptr, stride_eb, stride_ek,
    stride_ee, dct_ptr, in_weight_ptr, in_turned_ptr, in_bias_ptr, mod_weight_ptr, mod_bias_ptr, norm_weight_ptr,
    norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, out_turned_ptr, kept_ptr, statistics_ptr, g_ptr, dz_ptr, dx_ptr,
    dmod_ptr, dnorm_weight_ptr, dnorm_bias_ptr, dfc_weight_ptr, dfc_bias_ptr, batch, blocks, HAS_DX: tl.constexpr,
    ALIGN: tl.constexpr, D: tl.constexpr, M: tl.constexpr, E: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr,
    CLIPS: tl.constexpr, EMBEDDING: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program takes every so many groups of CLIPS clips back; see `adaln_backward_kernel` for what it keeps."""
    part = tl.program_id(0)
    kept_ptr += part.to(tl.int64) * blocks * CLIPS * (all_channels(TILES) * WIDTH)
    statistics_ptr += part.to(tl.int64) * blocks * 2 * CLIPS * WIDTH
    dnorm_weight_ptr += part * blocks * D
    dnorm_bias_ptr += part * blocks * D
    dfc_weight_ptr += part * blocks * M * M
    dfc_bias_ptr += part * blocks * M
    stride_xb, stride_xt = stride_xb * ALIGN, stride_xt * ALIGN
    for group in tl.range(part, tl.cdiv(batch, CLIPS), tl.num_programs(0), disable_licm=True):
        offs_b = group * CLIPS + tl.arange(0, CLIPS).to(tl.int64)
        mask_b = offs_b < batch
        x = operand_columns(
            x_ptr, stride_xb, stride_xt, stride_xd, offs_b, mask_b, D, M, TILES, WIDTH, CLIPS, OPERAND
        )  # fmt: skip
        h = enter(x, in_weight_ptr, in_bias_ptr, dct_ptr, D, M, TILES, WIDTH, CLIPS, OPERAND, PRECISION)
        h = recompute(
            h, kept_ptr, statistics_ptr, e_ptr, stride_eb, stride_ek, stride_ee, None, mod_weight_ptr, mod_bias_ptr,
            norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, offs_b, mask_b, blocks, D, M, E, TILES, WIDTH,
            CLIPS, EMBEDDING, OPERAND, PRECISION,
        )  # fmt: skip
        last = blocks - 1
        shift, scale, gate = block_modulation(
            last, blocks, e_ptr, stride_eb, stride_ek, stride_ee, None, mod_weight_ptr, mod_bias_ptr, offs_b, mask_b,
            E, M, WIDTH, EMBEDDING,
        )  # fmt: skip
        h, _, _ = block_forward(
            h, shift, scale, gate, norm_weight_ptr + last * D, norm_bias_ptr + last * D,
            fc_weight_ptr + last * M * M, fc_bias_ptr + last * M, D, M, TILES, WIDTH, OPERAND, PRECISION,
        )  # fmt: skip
        g = transform(h, load_matrix(dct_ptr, M, WIDTH), OPERAND, PRECISION, TILES)
        for i in tl.static_range(len(TILES)):
            store_frames(g_ptr, tl.permute(g[i], (1, 0, 2)), offs_b, mask_b, D, M, TILES, i, WIDTH)
        tl.debug_barrier()  # what one thread kept another may read

        dy = operand_columns(
            dy_ptr, stride_gb, stride_gt, stride_gd, offs_b, mask_b, D, M, TILES, WIDTH, CLIPS, OPERAND
        )  # fmt: skip
        dg = map_channels(out_turned_ptr, dy, TILES, PRECISION)
        dh = ()
        for i in tl.static_range(len(TILES)):
            dh += (by_clip(dg[i], CLIPS, WIDTH),)
        dh = transform(dh, load_turned(dct_ptr, M, WIDTH), OPERAND, PRECISION, TILES)
        dh = stack_backward(
            dh, kept_ptr, statistics_ptr, e_ptr, stride_eb, stride_ek, stride_ee, None, mod_weight_ptr, mod_bias_ptr,
            norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, dmod_ptr, dnorm_weight_ptr, dnorm_bias_ptr,
            dfc_weight_ptr, dfc_bias_ptr, offs_b, mask_b, blocks, D, M, E, TILES, WIDTH, CLIPS, EMBEDDING, OPERAND,
            PRECISION,
        )  # fmt: skip
        dz = transform(dh, load_matrix(dct_ptr, M, WIDTH), OPERAND, PRECISION, TILES)
        columns = ()
        for i in tl.static_range(len(TILES)):
            store_frames(dz_ptr, tl.permute(dz[i], (1, 0, 2)), offs_b, mask_b, D, M, TILES, i, WIDTH)
            columns += (as_columns(rounded(dz[i], OPERAND)),)
        if HAS_DX:
            dx = map_channels(in_turned_ptr, columns, TILES, PRECISION)
            is_last = (tl.arange(0, WIDTH) == M - 1)[None, None, :]
            for i in tl.static_range(len(TILES)):
                seen = load_frames(dy_ptr, stride_gb, stride_gt, stride_gd, offs_b, mask_b, D, M, TILES, i, WIDTH)
                residual = tl.sum(seen.to(tl.float32), 2)[:, :, None]
                value = tl.reshape(dx[i], (dx[i].shape[0], CLIPS, WIDTH)) + tl.where(is_last, residual, 0.0)
                store_frames(dx_ptr, value, offs_b, mask_b, D, M, TILES, i, WIDTH)
        tl.debug_barrier()


def forward(x: Tensor, e: Tensor, *parameters: Tensor) -> tuple[Tensor]:
    """`parameters`: the fields of CMLPeParams but class_embedding; see `op.cmlpe`."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    cut = tiling(x.shape[2], x.shape[1], x.dtype, backward=True)  # a training batch is small
    arguments, weights = _inputs(x, e, parameters, cut)
    maps = {name: padded_weight(weights[name[:-4]], cut, x.dtype) for name in ("in_weight_ptr", "out_weight_ptr")}
    arguments |= {**maps, "out_bias_ptr": weights["out_bias"].contiguous(), "y_ptr": y}
    launch(cmlpe_forward_kernel, (cut.programs(x.shape[0]),), x, arguments, num_warps=cut.warps, num_stages=1)
    return (y,)


def backward(
    needed: Sequence[bool], dy: Tensor, x: Tensor, e: Tensor, *parameters: Tensor
) -> tuple[Tensor | None, ...]:
    """Arguments as in `forward`; every gradient is computed, but that of x only where it is needed."""
    batch, frames, dim = x.shape
    cut = tiling(dim, frames, x.dtype, backward=True)
    arguments, weights = _inputs(x, e, parameters, cut)
    blocks, parts = e.shape[1], min(PARTS, cut.programs(batch))

    def numbers(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    sums = {name: numbers(parts, *weights[name].shape).zero_() for name in SUMS}
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needed[0] else None
    g, dz = numbers(batch, frames, dim), numbers(batch, frames, dim)
    dmod = numbers(batch, blocks, 3 * frames)
    arguments |= {
        "dy_ptr": dy,
        **dict(zip(("stride_gb", "stride_gt", "stride_gd"), dy.stride(), strict=True)),
        "in_weight_ptr": padded_weight(weights["in_weight"], cut, x.dtype),
        "in_turned_ptr": padded_weight(weights["in_weight"].t(), cut, x.dtype),
        "out_turned_ptr": padded_weight(weights["out_weight"].t(), cut, x.dtype),
        "kept_ptr": numbers(parts, blocks, cut.clips, sum(cut.tiles), cut.width),
        "statistics_ptr": numbers(parts, blocks, 2, cut.clips, cut.width),
        "g_ptr": g,
        "dz_ptr": dz,
        "dx_ptr": dx,
        "dmod_ptr": dmod,
        **{f"d{name}_ptr": value for name, value in sums.items()},
        "HAS_DX": dx is not None,
    }
    launch(cmlpe_backward_kernel, (parts,), x, arguments, num_warps=cut.warps, num_stages=1)

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


def _inputs(
    x: Tensor, e: Tensor, parameters: Sequence[Tensor], cut: Tiling
) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Arguments that both kernels take, and the parameters by name."""
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
        **cut.constants(),
    }
    return arguments, weights


def _aot_case(name: str, dtype: torch.dtype, dim: int, frames: int) -> AotCase:
    """The forward pass; the backward pass still spills (docs/kernels.md)."""

    def run() -> None:
        def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        params = CMLPeParams.random(2, dim, frames)._asdict()
        forward(
            make(64, frames, dim, dtype=dtype),
            make(64, 6, 32, dtype=dtype),
            *(make(*params[name].shape) for name in PARAMETERS),
        )

    return AotCase(f"cmlpe {name}", run, matrix=("cmlpe_forward_kernel",))


AOT_CASES = (_aot_case("bf16 D180 M16 forward", torch.bfloat16, 180, 16),)
