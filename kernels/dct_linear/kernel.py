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
from handcraft.kernels.triton_support import AotCase, dot, offsets

ROWS = 64
"""Rows of a tile: of BLOCK_T rows for each of its clips; 128 if a clip alone has more than 64."""
WARPS = 8
"""Two groups of four, each with half of a tile's columns: with four warps alone the tiles spill (`make test-aot`)."""
RESIDENT_BYTES = 48 << 10
"""Largest weight tile that stays in shared memory while a program walks the batch; three tiles of x fit beside it."""
SHARED_BY_TWO = 96 << 10
"""Two programs a multiprocessor where their tiles take no more than this each, else one."""
GRADIENT_ROWS, GRADIENT_STAGES = 32, 3
"""Of the weight gradient, which sums over rows: a step needs no 64, and longer ones hold more operands in registers."""
SUM_PROGRAMS = 256
"""Programs of the sums over the batch, about: two a multiprocessor, and as many partial sums in memory."""
SUM_CLIPS, SUM_BLOCK, SUM_WARPS, SUM_STAGES = 8, 256, 4, 3
"""One step of the row sums reads so many numbers of so many clips: 16 numbers a thread, three steps under way."""


@dataclass(frozen=True)
class Config:
    """How a product (B,T,D) x (D,H) is cut up; chosen by the shape, never by the batch."""

    block_d: int
    block_h: int
    resident: bool
    """The weight tile is loaded once a program, which walks the batch, with the next tiles of x under way. Otherwise
    tiles of x and of the weight stream by, one group of clips a program."""
    programs: int
    """A multiprocessor, where the weight is resident."""
    num_stages: int = 3


def config(frames: int, dim: int, width: int, dtype: torch.dtype) -> Config:
    """The reviewed config of a shape."""
    # Up to 128 columns in one tile: x is then read once. Beyond them 64 where 128 would pad more than an eighth.
    block_h = min(128, _block(width))
    if width > 128 and 8 * (triton.cdiv(width, 128) * 128 - width) > width:
        block_h = 64
    block_h = min(block_h, _widest(frames, dtype))
    # The longest steps along D that pad at most an eighth of the work: 64 for D = 180, 32 for D = 144.
    fitting = (step for step in (64, 32, 16) if 8 * (triton.cdiv(dim, step) * step - dim) <= dim)
    block_d = next(fitting, 16)
    deep = triton.cdiv(dim, block_d) * block_d
    if dtype == torch.float32 or deep * block_h * dtype.itemsize > RESIDENT_BYTES:
        return Config(32 if dtype == torch.float32 else 64, block_h, resident=False, programs=0)
    block_t, clips = _group(frames)
    shared = (block_h + Config.num_stages * clips * block_t) * deep * dtype.itemsize
    return Config(block_d, block_h, resident=True, programs=2 if shared <= SHARED_BY_TWO else 1)


def _widest(frames: int, dtype: torch.dtype) -> int:
    """Columns of a tile that fit: three TF32 products take each operand twice, and C_T has T rows and columns."""
    if dtype == torch.float32:
        return 64 if frames <= ROWS else 32
    return 128 if frames <= ROWS else 64


def _block(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


@triton.jit
def _weight_tile(weight_ptr, offs_d, offs_h, stride_wd, stride_wh, D: tl.constexpr, H: tl.constexpr):
    """W' (BLOCK_D,BLOCK_H), 0 outside."""
    at = weight_ptr + offsets(offs_d, stride_wd)[:, None] + offsets(offs_h, stride_wh)[None, :]
    return tl.load(at, mask=(offs_d < D)[:, None] & (offs_h < H)[None, :], other=0.0)


@triton.jit
def _block_diagonal(basis_ptr, clip, k, t, frames):
    """(ROWS,ROWS): rows k and columns t of the contiguous (T,T) matrix for each clip on the diagonal, 0 elsewhere."""
    mask = (clip[:, None] == clip[None, :]) & (k < frames)[:, None] & (t < frames)[None, :]
    return tl.load(basis_ptr + k[:, None] * frames + t[None, :], mask=mask, other=0.0)


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
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    TILES: tl.constexpr = tl.cdiv(H, BLOCK_H)
    CHUNKS: tl.constexpr = tl.cdiv(D, BLOCK_D)
    CLS_AFTER: tl.constexpr = cls_ptr is not None and OUT_SHIFT == 0
    operand = x_ptr.dtype.element_ty
    # programs of one group of clips are neighbours, so that the tiles after the first find x in the L2 cache
    tile = tl.program_id(0) % TILES
    rows_out = frames + (cls_ptr is not None)
    offs_row = tl.arange(0, CLIPS * BLOCK_T)
    offs_clip, t = offs_row // BLOCK_T, offs_row % BLOCK_T
    offs_d = tl.arange(0, BLOCK_D)
    offs_h = tile * BLOCK_H + tl.arange(0, BLOCK_H)
    mask_h = offs_h < H

    addend = tl.zeros((CLIPS * BLOCK_T, BLOCK_H), tl.float32)  # bias and position, the same for every group
    if bias_ptr is not None:
        addend += tl.load(bias_ptr + offs_h, mask=mask_h, other=0.0)[None, :]
    if position_ptr is not None:
        places = (t + OUT_SHIFT)[:, None] * H + offs_h[None, :]
        addend += tl.load(position_ptr + places, mask=(t < frames)[:, None] & mask_h[None, :], other=0.0)
    if basis_ptr is not None:
        basis = _block_diagonal(basis_ptr, offs_clip, t, t, frames)
        basis = (tl.trans(basis) if TURNED else basis).to(operand)
    if RESIDENT:
        weights = ()
        for i in tl.static_range(CHUNKS):
            chunk = _weight_tile(weight_ptr, i * BLOCK_D + offs_d, offs_h, stride_wd, stride_wh, D, H)
            weights = weights + (chunk.to(operand),)  # noqa: RUF005 - Triton has no starred tuples

    first, programs = tl.program_id(0) // TILES, tl.num_programs(0) // TILES
    for group in tl.range(first, tl.cdiv(batch, CLIPS), programs, num_stages=STAGES):
        clip = group * CLIPS + offs_clip  # (ROWS,)
        here = (clip < batch) & (t < frames)
        used = here
        if lengths_ptr is not None:
            length = tl.load(lengths_ptr + clip, mask=clip < batch, other=0)
            used = here & (t < length)
        x_rows = x_ptr + (offsets(clip, stride_xb) + offsets(t + X_SHIFT, stride_xt))[:, None] * ALIGN
        if basis_ptr is None:
            token = addend
        else:
            token = tl.zeros((CLIPS * BLOCK_T, BLOCK_H), tl.float32)
        if RESIDENT:
            for i in tl.static_range(CHUNKS):
                columns = i * BLOCK_D + offs_d
                mask = used[:, None] & (columns < D)[None, :]
                x = tl.load(x_rows + offsets(columns, stride_xd)[None, :], mask=mask, other=0.0)
                token = dot(x, weights[i], token, PRECISION)
        else:
            for start in tl.range(0, D, BLOCK_D, num_stages=STAGES):
                columns = start + offs_d
                mask = used[:, None] & (columns < D)[None, :]
                x = tl.load(x_rows + offsets(columns, stride_xd)[None, :], mask=mask, other=0.0)
                chunk = _weight_tile(weight_ptr, columns, offs_h, stride_wd, stride_wh, D, H)
                token = dot(x, chunk.to(operand), token, PRECISION)
        if basis_ptr is not None:
            token = dot(basis, token.to(operand), addend, PRECISION)

        row = t + OUT_SHIFT
        if lengths_ptr is not None:
            token = tl.where(used[:, None], token, 0.0)
            if CLS_AFTER:
                row += t >= length  # [CLS] takes the row after the last frame
        out_rows = out_ptr + (offsets(clip, rows_out) + row)[:, None] * H
        tl.store(out_rows + offs_h[None, :], token, mask=here[:, None] & mask_h[None, :])

        if cls_ptr is not None:
            clips = group * CLIPS + tl.arange(0, CLIPS)
            if not CLS_AFTER:
                cls_row = tl.zeros((CLIPS,), tl.int64)
            elif lengths_ptr is not None:
                cls_row = tl.load(lengths_ptr + clips, mask=clips < batch, other=0)
            else:
                cls_row = tl.zeros((CLIPS,), tl.int64) + frames
            value = tl.load(cls_ptr + offs_h, mask=mask_h, other=0.0)[None, :]
            if position_ptr is not None:
                value += tl.load(position_ptr + cls_row[:, None] * H + offs_h[None, :], mask=mask_h[None, :], other=0.0)
            cls_rows = out_ptr + (offsets(clips, rows_out) + cls_row)[:, None] * H
            tl.store(cls_rows + offs_h[None, :], value, mask=(clips < batch)[:, None] & mask_h[None, :])


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
    STAGES: tl.constexpr,
):
    D_TILES: tl.constexpr = tl.cdiv(D, BLOCK_D)
    TILES: tl.constexpr = D_TILES * tl.cdiv(H, BLOCK_H)
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
        basis = _block_diagonal(basis_ptr, offs_clip, offs_t, offs_t, frames).to(operand)

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
            for i in tl.static_range(SLICES):
                g_t = i * ROWS + offs_t
                at = g_clips + offsets(g_t + G_SHIFT, stride_gr)[:, None] * G_ALIGN
                gradient = tl.load(at, mask=(g_t < count)[:, None] & mask_h, other=0.0)
                if SLICES > 1:
                    basis = _block_diagonal(basis_ptr, offs_clip, g_t, t, frames).to(operand)
                sums = dot(tl.trans(gradient), basis, sums, PRECISION)
            turned = sums.to(operand)  # stays in registers, where the next product takes it from
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
        dweight = _weight_gradient(gradient, x, basis, lengths, weight.shape[0], int(first))
    if any(needed[2:5]):
        after = cls is not None and not first
        tokens, own = _row_sums(gradient, lengths, int(cls is not None), cls_at_length=after and lengths is not None)
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
    block_t, clips = _group(frames)
    groups, tiles = triton.cdiv(batch, clips), triton.cdiv(width, chosen.block_h)
    programs = groups
    if chosen.resident:
        programs = min(groups, max(1, chosen.programs * triton_support.multiprocessors(x.device) // tiles))
    arguments = {
        "x_ptr": x,
        "weight_ptr": weight,
        "basis_ptr": basis,
        "bias_ptr": _plain(bias),
        "cls_ptr": _plain(cls),
        "position_ptr": _plain(position),
        "lengths_ptr": _plain(lengths),
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
        "BLOCK_D": chosen.block_d,
        "BLOCK_H": chosen.block_h,
        "RESIDENT": chosen.resident,
        "PRECISION": triton_support.product_precision(x.dtype),
        "STAGES": chosen.num_stages,
    }
    stages = chosen.num_stages
    triton_support.launch(_embed_kernel, (programs * tiles,), x, arguments, num_warps=WARPS, num_stages=stages)


def _weight_gradient(
    gradient: Tensor, x: Tensor, basis: Tensor | None, lengths: Tensor | None, width: int, shift: int
) -> Tensor:
    """dW (H,D) fp32; tokens start at row `shift` of the gradient."""
    batch, frames, dim = x.shape
    block_h = min(64 if x.dtype == torch.float32 else 128, _block(width))
    block_t, clips = _group(min(frames, GRADIENT_ROWS), GRADIENT_ROWS)
    slices = triton.cdiv(frames, clips * block_t)
    block_d = min(32 if slices > 1 and x.dtype == torch.float32 else 64, _block(dim))
    tiles = triton.cdiv(dim, block_d) * triton.cdiv(width, block_h)
    groups = triton.cdiv(batch, clips)
    run = triton.cdiv(groups, max(1, SUM_PROGRAMS // tiles)) or 1
    runs = triton.cdiv(groups, run)
    sums = torch.empty(runs, width, dim, dtype=torch.float32, device=x.device)
    g_align, x_align = triton_support.alignment(gradient, width), triton_support.alignment(x, dim)
    arguments = {
        "gradient_ptr": gradient,
        "x_ptr": x,
        "basis_ptr": basis,
        "lengths_ptr": _plain(lengths),
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
        "STAGES": GRADIENT_STAGES,
    }
    options = {"num_warps": WARPS, "num_stages": GRADIENT_STAGES}
    triton_support.launch(_weight_gradient_kernel, (runs * tiles,), x, arguments, **options)
    return sums.sum(0)


def _row_sums(
    gradient: Tensor, lengths: Tensor | None, length_rows: int, *, cls_at_length: bool
) -> tuple[Tensor, Tensor | None]:
    """Sums over the batch, (rows,H) fp32 each: of rows but those at lengths[b] if [CLS] sits there, and of these."""
    batch, rows, width = gradient.shape
    blocks = triton.cdiv(rows * width, SUM_BLOCK)
    run = triton.cdiv(batch, max(1, SUM_PROGRAMS // blocks))
    run = triton.cdiv(run, SUM_CLIPS) * SUM_CLIPS or SUM_CLIPS
    runs = triton.cdiv(batch, run)
    tokens = torch.empty(runs, rows, width, dtype=torch.float32, device=gradient.device)
    own = torch.empty_like(tokens) if cls_at_length else None
    arguments = {
        "gradient_ptr": gradient,
        "lengths_ptr": _plain(lengths),
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


def _group(frames: int, rows: int = ROWS) -> tuple[int, int]:
    """BLOCK_T and the clips of a tile of `rows` rows."""
    block_t = triton.next_power_of_2(frames)
    return block_t, max(1, rows // block_t)


def _basis(transform: str, x: Tensor) -> Tensor | None:
    return dct_matrix(x.shape[1], torch.float32, x.device) if transform == "dct" else None


def _plain(small: Tensor | None) -> Tensor | None:
    return None if small is None else small.contiguous()


def _aot_case(name: str, dtype: torch.dtype, frames: int, dim: int, width: int, transform: str = "dct") -> AotCase:
    """Forward and backward pass with everything that is optional; in "none" mode [CLS] sits after the last frame."""

    def run() -> None:
        def make(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        x = make(64, frames, dim, dtype=dtype)
        lengths = make(64, dtype=torch.int64) if transform == "none" else None
        tensors = (x, make(width, dim), make(width), make(width), make(frames + 1, width), lengths)
        options = ("last" if transform == "none" else "first", transform)
        (out,) = forward(*tensors, *options)
        backward((True,) * 5, out, *tensors, *options)

    return AotCase(f"dct_linear {name}", run, matrix=("_embed_kernel", "_weight_gradient_kernel"))


AOT_CASES = (
    _aot_case("bf16 T32 D180 H80", torch.bfloat16, 32, 180, 80),
    _aot_case("bf16 T32 D180 H128", torch.bfloat16, 32, 180, 128),
    _aot_case("bf16 T32 D144 H512", torch.bfloat16, 32, 144, 512),
    _aot_case("fp16 T32 D180 H80 frames", torch.float16, 32, 180, 80, "none"),
    _aot_case("fp32 T32 D180 H80", torch.float32, 32, 180, 80),
    _aot_case("fp32 T128 D512 H1024", torch.float32, 128, 512, 1024),
    _aot_case("bf16 T128 D512 H1024", torch.bfloat16, 128, 512, 1024),
)
