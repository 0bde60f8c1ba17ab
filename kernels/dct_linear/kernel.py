"""dct_linear on a GPU, in Triton.

    tokens_b = C_T (x_b W') + bias + position,  [CLS] first or last;  x (B,T,D), weight W (H,D) -> (B,T+1,H)

Projecting first leaves the transform H columns instead of D, and C_T is orthonormal, so what is rounded between the two
products is as large as the tokens. Several clips make one tile of `ROWS` rows, to which C_T is applied as one
block-diagonal matrix: matrix units take no fewer than 64 rows. With g_b the rows of the gradient that belong to tokens:

    dx_b = C_T' (g_b W),  dW = sum_b g_b' (C_T x_b),  dbias = sum_bt g_bt,  dposition and dcls: sums over b of rows

dx_b is the same kernel with W for W' and C_T' for C_T. Sums over the batch have two stages: each program sums a run of
clips that depends on the shape alone, then torch adds the runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from handcraft.kernels import triton_support
from handcraft.kernels.dct import dct_matrix
from handcraft.kernels.dct_linear.kernel_gradient import mix_precision, row_sums, weight_gradient
from handcraft.kernels.triton_support import AotCase, block_diagonal, dot, meta, offsets, rounded

ROWS = 64
"""Rows of a tile: of BLOCK_T rows for each of its clips. A longer clip is projected in slices of so many rows, or
in one tile of 128 where nothing mixes its frames."""
WARPS = 8
"""Two groups of four, each with half of a tile's columns: with four warps alone the tiles spill (`make test-aot`)."""
RESIDENT_BYTES = 48 << 10
"""Largest weight tile that stays in shared memory while a program walks the batch; three tiles of x fit beside it."""
SHARED_BY_TWO = 96 << 10
"""Two programs a multiprocessor where their tiles take no more than this each, else one."""
STAGES = 3
"""Tiles of x under way or in use."""


@dataclass(frozen=True)
class Config:
    """How a product (B,T,D) x (D,H) is cut up; chosen by the shape, never by the batch."""

    block_d: int
    block_h: int
    programs: int
    """A multiprocessor. Each loads its weight tile once and walks the batch. 0: the weight tile is too large; tiles of
    it and of x stream by, and each group of clips has a program."""


def config(frames: int, dim: int, width: int, dtype: torch.dtype) -> Config:
    """The reviewed config of a shape."""
    # Up to 128 columns in one tile: x is then read once. Beyond them 64 where 128 would pad more than an eighth.
    block_h = min(128, triton_support.block(width))
    if width > 128 and 8 * (triton.cdiv(width, 128) * 128 - width) > width:
        block_h = 64
    if frames > ROWS:
        block_h = min(block_h, 64)
    # Three TF32 products take each operand twice, in registers and in shared memory: smaller tiles, never resident.
    if dtype == torch.float32:
        return Config(32, min(block_h, 32), programs=0)
    # The longest steps along D that pad at most an eighth of the work: 64 for D = 180, 32 for D = 144.
    fitting = (step for step in (64, 32, 16) if 8 * (triton.cdiv(dim, step) * step - dim) <= dim)
    block_d = next(fitting, 16)
    deep = triton.cdiv(dim, block_d) * block_d
    if frames > ROWS or deep * block_h * dtype.itemsize > RESIDENT_BYTES:
        return Config(64, block_h, programs=0)
    shared = (block_h + STAGES * ROWS) * deep * dtype.itemsize
    return Config(block_d, block_h, programs=2 if shared <= SHARED_BY_TWO else 1)


@triton.jit
def _weight_tile(weight_ptr, offs_d, offs_h, stride_wd, stride_wh, D: tl.constexpr, H: tl.constexpr):
    """W' (BLOCK_D,BLOCK_H), 0 outside."""
    at = weight_ptr + offsets(offs_d, stride_wd)[:, None] + offsets(offs_h, stride_wh)[None, :]
    return tl.load(at, mask=(offs_d < D)[:, None] & (offs_h < H)[None, :], other=0.0)


@triton.jit
def _count(lengths_ptr, clip, batch, frames):
    """Frames of each clip that count, 0 beyond the batch."""
    if lengths_ptr is not None:
        return tl.load(lengths_ptr + clip, mask=clip < batch, other=0).to(tl.int32)
    return tl.where(clip < batch, frames, 0)


@triton.jit
def _addend(bias_ptr, position_ptr, t, offs_h, frames, SHIFT: tl.constexpr, H: tl.constexpr):
    """Bias and position (ROWS,BLOCK_H) fp32: the same for every group of clips."""
    mask = (t < frames)[:, None] & (offs_h < H)[None, :]
    addend = tl.zeros((t.shape[0], offs_h.shape[0]), tl.float32)
    if bias_ptr is not None:
        addend += tl.load(bias_ptr + offs_h, mask=offs_h < H, other=0.0)[None, :]
    if position_ptr is not None:
        addend += tl.load(position_ptr + (t + SHIFT)[:, None] * H + offs_h[None, :], mask=mask, other=0.0)
    return addend


@triton.jit(do_not_specialize=["batch", "frames", "stride_xb", "stride_xt"])
def _embed_kernel(
    x_ptr,  # (B,T,D), or in the backward pass the gradient (B,T+1,H), with H for D and D for H
    weight_ptr,
    basis_ptr,  # (T,T) fp32, or None
    bias_ptr,
    cls_ptr,
    position_ptr,
    lengths_ptr,
    out_ptr,  # (B,T+1,H) contiguous, (B,T,H) without cls
    batch,
    frames,
    stride_xb,  # in units of ALIGN, as stride_xt
    stride_xt,
    stride_xd,
    stride_wd,
    stride_wh,
    TURNED: tl.constexpr,  # whether to apply C_T'
    X_SHIFT: tl.constexpr,
    OUT_SHIFT: tl.constexpr,
    ALIGN: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    CLIPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    SLICES: tl.constexpr,  # of a clip, projected one after the other
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr,
    MIX_PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    TILES: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H  # tl.cdiv of constants is no constant in Triton 3.6
    CHUNKS: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    ROWS: tl.constexpr = CLIPS * BLOCK_T // SLICES
    CLS_AFTER: tl.constexpr = cls_ptr is not None and OUT_SHIFT == 0
    operand = x_ptr.dtype.element_ty
    # programs of one group of clips are neighbours, so that the tiles after the first find x in the L2 cache
    tile = tl.program_id(0) % TILES
    rows_out = frames + (cls_ptr is not None)
    offs_out = tl.arange(0, CLIPS * BLOCK_T)
    offs_row = tl.arange(0, ROWS)
    clip_out, t_out = offs_out // BLOCK_T, offs_out % BLOCK_T
    offs_d = tl.arange(0, BLOCK_D)
    offs_h = tile * BLOCK_H + tl.arange(0, BLOCK_H)
    mask_h = offs_h < H

    if RESIDENT:
        addend = _addend(bias_ptr, position_ptr, t_out, offs_h, frames, OUT_SHIFT, H)
        if basis_ptr is not None:
            basis = block_diagonal(basis_ptr, clip_out, t_out, clip_out, t_out, frames, TURNED)
        weights = ()
        for i in tl.static_range(CHUNKS):
            chunk = _weight_tile(weight_ptr, i * BLOCK_D + offs_d, offs_h, stride_wd, stride_wh, D, H)
            weights = weights + (rounded(chunk, operand),)  # noqa: RUF005 - Triton has no starred tuples

    first, programs = tl.program_id(0) // TILES, tl.num_programs(0) // TILES
    for group in tl.range(first, tl.cdiv(batch, CLIPS), programs, num_stages=STAGES):
        count_out = _count(lengths_ptr, group * CLIPS + clip_out, batch, frames)
        if RESIDENT:
            token = addend
        else:
            token = _addend(bias_ptr, position_ptr, t_out, offs_h, frames, OUT_SHIFT, H)
        for part in tl.range(0, SLICES, num_stages=1):
            clip, t = group * CLIPS + offs_row // BLOCK_T, part * ROWS + offs_row % BLOCK_T
            used = (t < _count(lengths_ptr, clip, batch, frames))[:, None]
            x_rows = x_ptr + (offsets(clip, stride_xb) + offsets(t + X_SHIFT, stride_xt))[:, None] * ALIGN
            product = tl.zeros((ROWS, BLOCK_H), tl.float32)
            if RESIDENT:
                for i in tl.static_range(CHUNKS):
                    columns = i * BLOCK_D + offs_d
                    at = x_rows + offsets(columns, stride_xd)[None, :]
                    x = tl.load(at, mask=used & (columns < D)[None, :], other=0.0)
                    product = dot(x, weights[i], product, PRECISION)
            else:
                for start in tl.range(0, D, BLOCK_D, num_stages=STAGES):
                    columns = start + offs_d
                    at = x_rows + offsets(columns, stride_xd)[None, :]
                    x = tl.load(at, mask=used & (columns < D)[None, :], other=0.0)
                    chunk = _weight_tile(weight_ptr, columns, offs_h, stride_wd, stride_wh, D, H)
                    product = dot(x, rounded(chunk, operand), product, PRECISION)
                if basis_ptr is not None:
                    in_clip = offs_row // BLOCK_T
                    basis = block_diagonal(basis_ptr, clip_out, t_out, in_clip, t, frames, TURNED)
            if basis_ptr is None:
                token += product
            else:
                token = dot(basis, product, token, MIX_PRECISION)

        clip = group * CLIPS + clip_out
        row = t_out + OUT_SHIFT
        if lengths_ptr is not None:
            token = tl.where((t_out < count_out)[:, None], token, 0.0)
            if CLS_AFTER:
                row += t_out >= count_out  # [CLS] takes the row after the last frame
        at = out_ptr + (offsets(clip, rows_out) + row)[:, None] * H + offs_h[None, :]
        tl.store(at, rounded(token, operand), mask=((clip < batch) & (t_out < frames))[:, None] & mask_h[None, :])
        if cls_ptr is not None:
            clips = group * CLIPS + tl.arange(0, CLIPS)
            cls_row = _count(lengths_ptr, clips, batch, frames) if CLS_AFTER else tl.zeros((CLIPS,), tl.int32)
            value = tl.load(cls_ptr + offs_h, mask=mask_h, other=0.0)[None, :]
            if position_ptr is not None:
                value += tl.load(position_ptr + cls_row[:, None] * H + offs_h[None, :], mask=mask_h[None, :], other=0.0)
            cls_at = out_ptr + (offsets(clips, rows_out) + cls_row)[:, None] * H + offs_h[None, :]
            tl.store(cls_at, rounded(value, operand), mask=(clips < batch)[:, None] & mask_h[None, :])


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cls: Tensor | None,
    position: Tensor | None,
    lengths: Tensor | None,
    cls_at: str,
    transform: str,
) -> tuple[Tensor]:
    """The embedding (B,T+1,H), or (B,T,H) without cls; see `op.dct_linear`."""
    batch, frames, _ = x.shape
    out = torch.empty(batch, frames + (cls is not None), weight.shape[0], dtype=x.dtype, device=x.device)
    basis = _basis(transform, x)
    shift = int(cls is not None and cls_at == "first")
    _embed(x, weight, basis, bias, cls, position, lengths, out, turned=False, x_shift=0, out_shift=shift)
    return (out,)


def backward(
    needed: Sequence[bool],
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    cls: Tensor | None,
    position: Tensor | None,
    lengths: Tensor | None,
    cls_at: str,
    transform: str,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight, bias, cls and position where needed (lengths have none)."""
    gradient, basis = gradient.to(x.dtype), _basis(transform, x)
    first = cls is not None and cls_at == "first"
    dx = dweight = dbias = dcls = dposition = None
    if needed[0]:
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        shifts = {"x_shift": int(first), "out_shift": 0}
        _embed(gradient, weight.t(), basis, None, None, None, lengths, dx, turned=True, **shifts)
    if needed[1]:
        dweight = weight_gradient(gradient, x, basis, lengths, weight.shape[0], int(first))
    if any(needed[2:5]):
        after = cls is not None and not first
        tokens, own = row_sums(gradient, lengths, int(cls is not None), cls_at_length=after and lengths is not None)
        dposition = tokens if own is None else tokens + own
        if own is not None:
            dcls = own.sum(0)
        elif cls is not None:
            dcls, tokens = (tokens[0], tokens[1:]) if first else (tokens[-1], tokens[:-1])
        dbias = tokens.sum(0)
    return dx, dweight, dbias, dcls, dposition, None


def _embed(
    x: Tensor,
    weight: Tensor,
    basis: Tensor | None,
    bias: Tensor | None,
    cls: Tensor | None,
    position: Tensor | None,
    lengths: Tensor | None,
    out: Tensor,
    *,
    turned: bool,
    x_shift: int,
    out_shift: int,
) -> None:
    """Fill out with basis (x weight') + bias + position and [CLS]; tokens start at row x_shift and row out_shift.

    turned: apply the transpose of the basis.
    """
    batch, frames = x.shape[0], out.shape[1] - (cls is not None)
    width, dim = weight.shape
    chosen = config(frames, dim, width, x.dtype)
    align = triton_support.alignment(x, dim)
    block_t, clips = triton_support.clips_in(ROWS, frames)
    groups, tiles = triton.cdiv(batch, clips), triton.cdiv(width, chosen.block_h)
    programs = groups
    if chosen.programs:
        programs = min(groups, max(1, chosen.programs * triton_support.multiprocessors(x.device) // tiles))
    arguments = {
        "x_ptr": x,
        "weight_ptr": weight,
        "basis_ptr": basis,
        "bias_ptr": triton_support.contiguous(bias),
        "cls_ptr": triton_support.contiguous(cls),
        "position_ptr": triton_support.contiguous(position),
        "lengths_ptr": triton_support.contiguous(lengths),
        "out_ptr": out,
        "batch": batch,
        "frames": frames,
        "stride_xb": x.stride(0) // align,
        "stride_xt": x.stride(1) // align,
        "stride_xd": x.stride(2),
        "stride_wd": weight.stride(1),
        "stride_wh": weight.stride(0),
        "TURNED": turned,
        "X_SHIFT": x_shift,
        "OUT_SHIFT": out_shift,
        "ALIGN": align,
        "D": dim,
        "H": width,
        "CLIPS": clips,
        "BLOCK_T": block_t,
        "SLICES": 1 if basis is None else max(1, block_t // ROWS),
        "BLOCK_D": chosen.block_d,
        "BLOCK_H": chosen.block_h,
        "RESIDENT": chosen.programs > 0,
        "PRECISION": triton_support.product_precision(x.dtype),
        "MIX_PRECISION": mix_precision(x.dtype),
        "STAGES": STAGES,
    }
    triton_support.launch(_embed_kernel, (programs * tiles,), x, arguments, num_warps=WARPS, num_stages=STAGES)


def _basis(transform: str, x: Tensor) -> Tensor | None:
    return dct_matrix(x.shape[1], torch.float32, x.device) if transform == "dct" else None


def _aot_case(
    name: str, dtype: torch.dtype, frames: int, dim: int, width: int, transform: str = "dct", *, common: bool = True
) -> AotCase:
    """Forward and backward pass with everything that is optional; in "none" mode [CLS] sits after the last frame."""

    def run() -> None:
        x = meta(64, frames, dim, dtype=dtype)
        lengths = meta(64, dtype=torch.int64) if transform == "none" else None
        tensors = (x, meta(width, dim), meta(width), meta(width), meta(frames + 1, width), lengths)
        options = ("last" if transform == "none" else "first", transform)
        (out,) = forward(*tensors, *options)
        backward((True,) * 5, out, *tensors, *options)

    return AotCase(f"dct_linear {name}", run, {"_embed_kernel": "own", "_weight_gradient_kernel": "own"}, common)


AOT_CASES = (
    _aot_case("bf16 T32 D180 H80", torch.bfloat16, 32, 180, 80),
    _aot_case("bf16 T32 D180 H128", torch.bfloat16, 32, 180, 128, common=False),
    _aot_case("bf16 T32 D144 H512", torch.bfloat16, 32, 144, 512, common=False),
    _aot_case("fp16 T32 D180 H80 frames", torch.float16, 32, 180, 80, "none"),
    _aot_case("fp32 T32 D180 H80", torch.float32, 32, 180, 80),
    _aot_case("fp32 T128 D512 H1024", torch.float32, 128, 512, 1024, common=False),
    _aot_case("bf16 T128 D512 H1024", torch.bfloat16, 128, 512, 1024, common=False),
)
