"""dct_linear's gradients of parameters on a GPU, in Triton: sums over the batch; formulas in `kernel.py`.

Each program sums a run of clips that the shape alone determines, in order; torch adds what the programs found. So no
sum depends on the GPU or on what else runs there.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from handcraft.kernels import triton_support
from handcraft.kernels.triton_support import block_diagonal, dot, offsets, rounded

ROWS = 32
"""Of a step of the weight gradient, which sums over rows: longer steps hold more operands in registers."""
WARPS = 8
"""Of the weight gradient: with 82 registers a thread, two or three programs share a multiprocessor (H = 80, sm_90)."""
PROGRAMS = 256
"""Of a sum, about: two a multiprocessor, and as many partial sums in memory."""
SUM_CLIPS, SUM_BLOCK, SUM_WARPS, SUM_STAGES = 8, 256, 4, 3
"""One step of the row sums reads so many numbers of so many clips: 16 numbers a thread, three steps under way."""


@triton.jit(do_not_specialize=["batch", "frames", "run", "stride_gb", "stride_gr", "stride_xb", "stride_xt"])
def _weight_gradient_kernel(
    gradient_ptr,  # (B,T+1,H)
    x_ptr,  # (B,T,D)
    basis_ptr,
    lengths_ptr,
    out_ptr,  # (runs,H,D) fp32
    batch,
    frames,
    run,  # groups of clips a program sums
    stride_gb,  # in units of G_ALIGN, as stride_gr
    stride_gr,
    stride_gh,
    stride_xb,
    stride_xt,
    stride_xd,
    G_SHIFT: tl.constexpr,
    G_ALIGN: tl.constexpr,
    X_ALIGN: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    CLIPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    SLICES: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
    MIX_PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    D_TILES: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D  # tl.cdiv of constants is no constant in Triton 3.6
    TILES: tl.constexpr = D_TILES * ((H + BLOCK_H - 1) // BLOCK_H)
    ROWS: tl.constexpr = CLIPS * BLOCK_T
    operand = x_ptr.dtype.element_ty
    tile, which = tl.program_id(0) % TILES, tl.program_id(0) // TILES
    offs_row = tl.arange(0, ROWS)
    offs_clip, offs_t = offs_row // BLOCK_T, offs_row % BLOCK_T
    offs_d = tile % D_TILES * BLOCK_D + tl.arange(0, BLOCK_D)
    offs_h = tile // D_TILES * BLOCK_H + tl.arange(0, BLOCK_H)
    x_columns, g_columns = offsets(offs_d, stride_xd)[None, :], offsets(offs_h, stride_gh)[None, :]
    mask_d, mask_h = (offs_d < D)[None, :], (offs_h < H)[None, :]
    if basis_ptr is not None and SLICES == 1:
        basis = block_diagonal(basis_ptr, offs_clip, offs_t, offs_clip, offs_t, frames, False)

    total = tl.zeros((BLOCK_H, BLOCK_D), tl.float32)
    last = tl.minimum((which + 1) * run, tl.cdiv(batch, CLIPS)) * SLICES
    for step in tl.range(which * run * SLICES, last, num_stages=STAGES):
        clip = step // SLICES * CLIPS + offs_clip
        t = step % SLICES * ROWS + offs_t  # one slice of a long clip, or all of some short ones
        count = tl.where(clip < batch, frames, 0)
        if lengths_ptr is not None:
            count = tl.load(lengths_ptr + clip, mask=clip < batch, other=0)
        x_rows = x_ptr + (offsets(clip, stride_xb) + offsets(t, stride_xt))[:, None] * X_ALIGN
        x = tl.load(x_rows + x_columns, mask=(t < count)[:, None] & mask_d, other=0.0)
        g_clips = gradient_ptr + offsets(clip, stride_gb)[:, None] * G_ALIGN + g_columns
        if basis_ptr is None:
            at = g_clips + offsets(t + G_SHIFT, stride_gr)[:, None] * G_ALIGN
            turned = tl.trans(tl.load(at, mask=(t < count)[:, None] & mask_h, other=0.0))  # (BLOCK_H,ROWS)
        else:
            sums = tl.zeros((BLOCK_H, ROWS), tl.float32)
            for i in tl.range(0, SLICES, num_stages=STAGES):
                g_t = i * ROWS + offs_t
                at = g_clips + offsets(g_t + G_SHIFT, stride_gr)[:, None] * G_ALIGN
                gradient = tl.load(at, mask=(g_t < count)[:, None] & mask_h, other=0.0)
                if SLICES > 1:
                    basis = block_diagonal(basis_ptr, offs_clip, g_t, offs_clip, t, frames, False)
                sums = dot(tl.trans(gradient).to(tl.float32), basis, sums, MIX_PRECISION)
            turned = rounded(sums, operand)  # stays in registers, where the next product takes it from
        total = dot(turned, x, total, PRECISION)
    rows = out_ptr + (offsets(which, H) + offs_h)[:, None] * D
    tl.store(rows + offs_d[None, :], total, mask=(offs_h < H)[:, None] & mask_d)


@triton.jit(do_not_specialize=["batch", "rows", "run", "stride_gb", "stride_gr"])
def _row_sums_kernel(
    gradient_ptr,  # (B,rows,H)
    lengths_ptr,
    token_ptr,  # (runs,rows,H) fp32: rows of tokens, and [CLS] where it has a row of its own
    cls_ptr,  # (runs,rows,H) fp32: rows lengths[b] alone; None unless [CLS] sits there
    batch,
    rows,
    run,  # clips a program sums, a multiple of CLIPS
    stride_gb,
    stride_gr,
    stride_gh,
    LENGTH_ROWS: tl.constexpr,
    H: tl.constexpr,
    CLIPS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of a clip's rows*H numbers
    row, here = offs // H, offs < rows * H
    columns = offsets(row, stride_gr) + offsets(offs % H, stride_gh)
    which = tl.program_id(1)
    token = tl.zeros((CLIPS, BLOCK), tl.float32)
    cls = tl.zeros((CLIPS, BLOCK), tl.float32)
    for start in tl.range(which * run, tl.minimum((which + 1) * run, batch), CLIPS, num_stages=STAGES):
        clip = start + tl.arange(0, CLIPS)
        mask = (clip < batch)[:, None] & here[None, :]
        if lengths_ptr is not None:
            length = tl.load(lengths_ptr + clip, mask=clip < batch, other=0)[:, None]
            mask &= row[None, :] < length + LENGTH_ROWS
        value = tl.load(gradient_ptr + offsets(clip, stride_gb)[:, None] + columns[None, :], mask=mask, other=0.0)
        value = value.to(tl.float32)
        if cls_ptr is not None:
            is_cls = row[None, :] == length
            cls += tl.where(is_cls, value, 0.0)
            value = tl.where(is_cls, 0.0, value)
        token += value
    at = offsets(which, rows * H) + offs
    tl.store(token_ptr + at, tl.sum(token, 0), mask=here)
    if cls_ptr is not None:
        tl.store(cls_ptr + at, tl.sum(cls, 0), mask=here)


def mix_precision(dtype: torch.dtype) -> str:
    """Of C_T and what it mixes: in bf16 they would lose as much again as the operands of the other product do."""
    return triton_support.product_precision(dtype) if dtype == torch.float32 else "tf32"


def weight_gradient(
    gradient: Tensor, x: Tensor, basis: Tensor | None, lengths: Tensor | None, width: int, shift: int
) -> Tensor:
    """dW (H,D) fp32; tokens start at row `shift` of the gradient, which has the dtype of x."""
    batch, frames, dim = x.shape
    block_t, clips = triton_support.clips_in(ROWS, min(frames, ROWS))
    slices = triton.cdiv(frames, clips * block_t)
    single = x.dtype == torch.float32  # three TF32 products take each operand twice
    block_h = min(64 if single else 128, triton_support.block(width))
    block_d = min(32 if single and slices > 1 else 64, triton_support.block(dim))
    tiles = triton.cdiv(dim, block_d) * triton.cdiv(width, block_h)
    groups = triton.cdiv(batch, clips)
    run = triton.cdiv(groups, max(1, PROGRAMS // tiles)) or 1
    runs = triton.cdiv(groups, run)
    sums = torch.empty(runs, width, dim, dtype=torch.float32, device=x.device)
    stages = 3 if slices == 1 else 2  # a step on slices of long clips loads several of them
    g_align, x_align = triton_support.alignment(gradient, width), triton_support.alignment(x, dim)
    arguments = {
        "gradient_ptr": gradient,
        "x_ptr": x,
        "basis_ptr": basis,
        "lengths_ptr": triton_support.contiguous(lengths),
        "out_ptr": sums,
        "batch": batch,
        "frames": frames,
        "run": run,
        "stride_gb": gradient.stride(0) // g_align,
        "stride_gr": gradient.stride(1) // g_align,
        "stride_gh": gradient.stride(2),
        "stride_xb": x.stride(0) // x_align,
        "stride_xt": x.stride(1) // x_align,
        "stride_xd": x.stride(2),
        "G_SHIFT": shift,
        "G_ALIGN": g_align,
        "X_ALIGN": x_align,
        "D": dim,
        "H": width,
        "CLIPS": clips,
        "BLOCK_T": block_t,
        "SLICES": slices,
        "BLOCK_D": block_d,
        "BLOCK_H": block_h,
        "PRECISION": triton_support.product_precision(x.dtype),
        "MIX_PRECISION": mix_precision(x.dtype),
        "STAGES": stages,
    }
    grid = (runs * tiles,)
    triton_support.launch(_weight_gradient_kernel, grid, x, arguments, num_warps=WARPS, num_stages=stages)
    return sums.sum(0)


def row_sums(
    gradient: Tensor, lengths: Tensor | None, length_rows: int, *, cls_at_length: bool
) -> tuple[Tensor, Tensor | None]:
    """Sums over the batch, (rows,H) fp32 each: of rows but those at lengths[b] if [CLS] sits there, and of these."""
    batch, rows, width = gradient.shape
    blocks = triton.cdiv(rows * width, SUM_BLOCK)
    run = triton.cdiv(batch, max(1, PROGRAMS // blocks))
    run = triton.cdiv(run, SUM_CLIPS) * SUM_CLIPS or SUM_CLIPS
    runs = triton.cdiv(batch, run)
    tokens = torch.empty(runs, rows, width, dtype=torch.float32, device=gradient.device)
    own = torch.empty_like(tokens) if cls_at_length else None
    arguments = {
        "gradient_ptr": gradient,
        "lengths_ptr": triton_support.contiguous(lengths),
        "token_ptr": tokens,
        "cls_ptr": own,
        "batch": batch,
        "rows": rows,
        "run": run,
        "stride_gb": gradient.stride(0),
        "stride_gr": gradient.stride(1),
        "stride_gh": gradient.stride(2),
        "LENGTH_ROWS": length_rows,
        "H": width,
        "CLIPS": SUM_CLIPS,
        "BLOCK": SUM_BLOCK,
        "STAGES": SUM_STAGES,
    }
    options = {"num_warps": SUM_WARPS, "num_stages": SUM_STAGES}
    triton_support.launch(_row_sums_kernel, (blocks, runs), gradient, arguments, **options)
    return tokens.sum(0), None if own is None else own.sum(0)
