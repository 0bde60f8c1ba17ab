"""adaln_mlp and its stack in Triton: h (B,D,M) stays in registers from the first block to the last.

    shift, scale, gate = split(SiLU(e_k) mod_weight_k' + mod_bias_k), or given         each (B,M)
    n = LayerNorm_D(h; norm_weight_k, norm_bias_k)
    h = h + gate * ((n (1 + scale) + shift) fc_weight_k' + fc_bias_k)                  for k = 1..K

`block` has the mathematics of a block, `op` the contract.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from handcraft.kernels.adaln_mlp.block import (
    block_forward,
    block_modulation,
    load_tiles,
    store_tiles,
    tiling,
    with_constant,
)
from handcraft.kernels.adaln_mlp.block_backward import stack_backward
from handcraft.kernels.adaln_mlp.streamed import enter_clip, leave_clip, padded, stack_streamed, streaming
from handcraft.kernels.triton_support import launch, offsets, operand_dtype, product_precision

PARTS = 256
"""Programs of a backward pass, at most: about two a multiprocessor. Fixed, so that sums do not depend on the device."""
STREAMS = 1024
"""Programs of a forward pass through memory, at most: about eight a multiprocessor, 12 MB for D = 180 and M = 16."""


@triton.jit(do_not_specialize=("batch", "blocks"))
def adaln_forward_kernel(
    h_ptr, stride_hb, stride_hd, stride_hm, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr,
    mod_bias_ptr, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, out_ptr, batch, blocks,
    D: tl.constexpr, M: tl.constexpr, E: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr, CLIPS: tl.constexpr,
    EMBEDDING: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program takes CLIPS clips through all blocks. E = 0: the modulation is given, (B,K,3M)."""
    offs_b = tl.program_id(0).to(tl.int64) * CLIPS + tl.arange(0, CLIPS)
    mask_b = offs_b < batch
    h = load_tiles(h_ptr, stride_hb, stride_hd, stride_hm, offs_b, mask_b, D, M, TILES, WIDTH)
    total = tl.zeros((CLIPS, WIDTH), tl.float32)
    for k in range(blocks):
        shift, scale, gate = block_modulation(
            k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr, offs_b, mask_b,
            E, M, WIDTH, EMBEDDING,
        )  # fmt: skip
        h, constant = block_forward(
            h, shift, scale, gate, norm_weight_ptr + k * D, norm_bias_ptr + k * D, fc_weight_ptr + k * M * M,
            fc_bias_ptr + k * M, D, M, TILES, WIDTH, OPERAND, PRECISION,
        )  # fmt: skip
        total += constant
    store_tiles(out_ptr, with_constant(h, total, TILES), offs_b, mask_b, D, M, TILES, WIDTH)


@triton.jit(do_not_specialize=("batch", "blocks"))
def adaln_streamed_kernel(
    h_ptr, stride_hb, stride_hd, stride_hm, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr,
    mod_bias_ptr, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, kept_ptr, statistics_ptr, out_ptr,
    batch, blocks, D: tl.constexpr, M: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
    EMBEDDING: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `adaln_forward_kernel`: a program takes every so many clips, one after the other, through its own memory."""
    part = tl.program_id(0)
    kept_ptr += part.to(tl.int64) * (padded(D, TILE) * WIDTH)
    statistics_ptr += part * 2 * WIDTH
    for clip in tl.range(part.to(tl.int64), batch, tl.num_programs(0), disable_licm=True):
        enter_clip(h_ptr + offsets(clip, stride_hb), stride_hd, stride_hm, kept_ptr, statistics_ptr, D, M, TILE, WIDTH)
        total = stack_streamed(
            kept_ptr, statistics_ptr, 0, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr,
            norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, clip, blocks, blocks, D, M, E, TILE, WIDTH,
            EMBEDDING, OPERAND, PRECISION,
        )  # fmt: skip
        leave_clip(kept_ptr, total, out_ptr + clip * (D * M), D, M, TILE, WIDTH)
        tl.debug_barrier()


@triton.jit(do_not_specialize=("batch", "blocks"))
def adaln_backward_kernel(
    dout_ptr, stride_gb, stride_gd, stride_gm, h_ptr, stride_hb, stride_hd, stride_hm, e_ptr, stride_eb, stride_ek,
    stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr,
    kept_ptr, statistics_ptr, dh_ptr, dmod_ptr, dnorm_weight_ptr, dnorm_bias_ptr, dfc_weight_ptr, dfc_bias_ptr,
    batch, blocks, D: tl.constexpr, M: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr,
    EMBEDDING: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program takes every so many clips back; gradients of parameters add up in numbers of its own."""
    part = tl.program_id(0)
    size: tl.constexpr = padded(D, TILE) * WIDTH
    kept_ptr += part.to(tl.int64) * (blocks + 1) * size
    statistics_ptr += part.to(tl.int64) * (blocks + 1) * (2 * WIDTH)
    # the last place, which no block begins with, is the gradient's
    dh_own_ptr, no_statistics_ptr = kept_ptr + blocks * size, statistics_ptr + blocks * (2 * WIDTH)
    dnorm_weight_ptr += part * blocks * D
    dnorm_bias_ptr += part * blocks * D
    dfc_weight_ptr += part * blocks * M * M
    dfc_bias_ptr += part * blocks * M
    for clip in tl.range(part.to(tl.int64), batch, tl.num_programs(0), disable_licm=True):
        enter_clip(h_ptr + offsets(clip, stride_hb), stride_hd, stride_hm, kept_ptr, statistics_ptr, D, M, TILE, WIDTH)
        stack_streamed(
            kept_ptr, statistics_ptr, 1, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr,
            norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, clip, blocks - 1, blocks, D, M, E, TILE, WIDTH,
            EMBEDDING, OPERAND, PRECISION,
        )  # fmt: skip
        dout_clip_ptr = dout_ptr + offsets(clip, stride_gb)
        enter_clip(dout_clip_ptr, stride_gd, stride_gm, dh_own_ptr, no_statistics_ptr, D, M, TILE, WIDTH)
        stack_backward(
            dh_own_ptr, kept_ptr, statistics_ptr, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr,
            mod_bias_ptr, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, dmod_ptr, dnorm_weight_ptr,
            dnorm_bias_ptr, dfc_weight_ptr, dfc_bias_ptr, clip, blocks, D, M, E, TILE, WIDTH, EMBEDDING, OPERAND,
            PRECISION,
        )  # fmt: skip
        leave_clip(dh_own_ptr, None, dh_ptr + clip * (D * M), D, M, TILE, WIDTH)
        tl.debug_barrier()


def forward(
    h: Tensor,
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor,
) -> tuple[Tensor]:
    """One block, its modulation given; see `op.adaln_mlp`."""
    return (run_forward(h, None, _given(shift, scale, gate), norm_weight, norm_bias, fc_weight, fc_bias),)


def backward(
    needed: Sequence[bool],
    dout: Tensor,
    h: Tensor,
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc_weight: Tensor,
    fc_bias: Tensor,
) -> tuple[Tensor, ...]:
    """Arguments as in `forward`; every gradient is computed."""
    block = (norm_weight, norm_bias, fc_weight, fc_bias)
    dh, dmod, *parameters = run_backward(dout, h, None, _given(shift, scale, gate), *block)
    return (dh, *dmod[:, 0].chunk(3, dim=1), *(value[0] for value in parameters))


def run_forward(h: Tensor, e: Tensor | None, mod: Sequence[Tensor], *block: Tensor) -> Tensor:
    """(B,D,M) after all blocks.

    Args:
        h: (B,D,M).
        e: (B,K,E), or None for one block with its modulation given.
        mod: mod_weight (K,3M,E) and mod_bias (K,3M); without e the modulation (B,3M), fp32 and contiguous.
        block: norm_weight, norm_bias (K,D), fc_weight (K,M,M), fc_bias (K,M).
    """
    batch, dim, frames = h.shape
    out = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    cut = tiling(dim, frames, h.dtype)
    arguments = {**_inputs(h, e, mod, block), "out_ptr": out}
    if cut is not None:
        arguments |= cut.constants()
        launch(adaln_forward_kernel, (cut.programs(batch),), h, arguments, num_warps=cut.warps, num_stages=1)
        return out
    cut = streaming(dim, frames, h.dtype)
    parts = min(STREAMS, batch)
    arguments |= {"kept_ptr": _numbers(h, parts, cut.size), "statistics_ptr": _numbers(h, parts, 2, cut.width)}
    launch(adaln_streamed_kernel, (parts,), h, arguments | cut.constants(), num_warps=cut.warps, num_stages=1)
    return out


def run_backward(
    dout: Tensor, h: Tensor, e: Tensor | None, mod: Sequence[Tensor], *block: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of h, of the modulation (B,K,3M), and of `block` (K,...), the last five in fp32.

    Args:
        dout: (B,D,M), the gradient of what `run_forward` returns of the others.
    """
    batch, dim, frames = h.shape
    cut = streaming(dim, frames, h.dtype)
    inputs = _inputs(h, e, mod, block)
    blocks, parts = inputs["blocks"], min(PARTS, batch)
    sizes = {"norm_weight": (dim,), "norm_bias": (dim,), "fc_weight": (frames, frames), "fc_bias": (frames,)}
    sums = {name: _numbers(h, parts, blocks, *size).zero_() for name, size in sizes.items()}
    dh = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    dmod = _numbers(h, batch, blocks, 3 * frames)
    arguments = {
        **inputs,
        "dout_ptr": dout,
        **dict(zip(("stride_gb", "stride_gd", "stride_gm"), dout.stride(), strict=True)),
        "kept_ptr": _numbers(h, parts, blocks + 1, cut.size),
        "statistics_ptr": _numbers(h, parts, blocks + 1, 2, cut.width),
        "dh_ptr": dh,
        "dmod_ptr": dmod,
        **{f"d{name}_ptr": value for name, value in sums.items()},
        **cut.constants(),
    }
    launch(adaln_backward_kernel, (parts,), h, arguments, num_warps=cut.warps, num_stages=1)
    return dh, dmod, *(value.sum(0) for value in sums.values())


def _numbers(first: Tensor, *shape: int) -> Tensor:
    """Memory for fp32 numbers on the device of `first`."""
    return torch.empty(shape, dtype=torch.float32, device=first.device)


def _given(shift: Tensor, scale: Tensor, gate: Tensor) -> tuple[Tensor]:
    """The modulation (B,3M) in fp32, contiguous."""
    return (torch.cat([value.float() for value in (shift, scale, gate)], dim=1),)


def _inputs(h: Tensor, e: Tensor | None, mod: Sequence[Tensor], block: Sequence[Tensor]) -> dict[str, object]:
    """Arguments that all kernels take."""
    _, dim, frames = h.shape
    names = ("mod_ptr",) if e is None else ("mod_weight_ptr", "mod_bias_ptr")
    names += ("norm_weight_ptr", "norm_bias_ptr", "fc_weight_ptr", "fc_bias_ptr")
    embedding = 0 if e is None else e.shape[2]
    return {
        "h_ptr": h,
        **dict(zip(("stride_hb", "stride_hd", "stride_hm"), h.stride(), strict=True)),
        "e_ptr": e,
        **dict(zip(("stride_eb", "stride_ek", "stride_ee"), (0, 0, 0) if e is None else e.stride(), strict=True)),
        **dict.fromkeys(("mod_ptr", "mod_weight_ptr", "mod_bias_ptr")),
        **{name: value.contiguous() for name, value in zip(names, (*mod, *block), strict=True)},
        "batch": h.shape[0],
        "blocks": 1 if e is None else e.shape[1],
        "D": dim,
        "M": frames,
        "E": embedding,
        "EMBEDDING": triton.next_power_of_2(embedding) if e is not None else 1,
        "OPERAND": operand_dtype(h),
        "PRECISION": product_precision(h.dtype),
    }
