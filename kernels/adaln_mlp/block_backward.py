"""The backward pass through the blocks of CMLPe on one clip of a Triton program; `streamed` describes its memory.

h before each block and the gradient dh stand there, in fp32. From the gradient dh of a block's output, with
n_d = (h_d - mu) r:

    Q[n][m] = sum_d dh_d[n] alpha_d n_d[m],  S[n] = sum_d beta_d dh_d[n],  T[n] = sum_d dh_d[n]
    U = (Q + S) (1 + scale) + shift T                                 the gradient of F before the gate
    dF = gate U,  df = gate T,  dgate = sum_m F U + f T,  dscale[m] = sum_n gate F (Q + S),  dshift[m] = sum_n gate F T
    v_d = dh_d G,  G = diag(gate) F diag(1 + scale)                   the gradient of LayerNorm's output
    dalpha_d = sum_m v_d n_d,  dbeta_d = sum_m v_d
    dh_d += r (alpha_d v_d - mean_d(alpha v) - n_d mean_d(alpha v n)) both means from Q and sum_d alpha_d dh_d

Sums over clips have two stages and no atomics: a program adds to numbers that no other touches, torch adds those up.
"""

import triton
import triton.language as tl

from handcraft.kernels.adaln_mlp.block import load_matrix, load_row
from handcraft.kernels.adaln_mlp.streamed import (
    clip_modulation,
    load_rows,
    load_statistics,
    only_rows,
    own_tile,
    padded,
    product,
)


@triton.jit
def add_to(ptr, value, mask):
    """Add to numbers that this program alone writes."""
    tl.store(ptr, tl.load(ptr, mask=mask, other=0.0) + value, mask=mask)


@triton.jit
def block_backward(
    dh_ptr, kept_ptr, statistics_ptr, shift, scale, gate, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr,
    dnorm_weight_ptr, dnorm_bias_ptr, dfc_weight_ptr, dfc_bias_ptr, D: tl.constexpr, M: tl.constexpr,
    TILE: tl.constexpr, WIDTH: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dh of a block's output becomes that of its input, in place; returns the gradients of shift, scale, gate (WIDTH,).

    Adds to the gradients of the parameters.
    """
    mean, deviation = load_statistics(statistics_ptr, WIDTH)
    centre = mean * deviation
    total, by_alpha, by_beta = (tl.zeros((WIDTH,), tl.float32),) * 3  # T, sum of alpha dh, S
    q = tl.zeros((WIDTH, WIDTH), tl.float32)  # Q: (n,m)
    for start in tl.range(0, D, TILE, disable_licm=True):
        dh = tl.load(own_tile(dh_ptr, start, TILE, WIDTH))
        alpha = load_rows(norm_weight_ptr, start, D, TILE)
        normal = tl.load(own_tile(kept_ptr, start, TILE, WIDTH)) * deviation[None, :] - centre[None, :]
        q = product(tl.trans(dh), alpha * normal, q, OPERAND, PRECISION)
        total += tl.sum(dh, 0)
        by_alpha += tl.sum(dh * alpha, 0)
        by_beta += tl.sum(dh * load_rows(norm_bias_ptr, start, D, TILE), 0)

    fc = tl.reshape(load_matrix(fc_weight_ptr, M, WIDTH), (WIDTH, WIDTH))  # F: (n,m)
    before_gate = (q + by_beta[:, None]) * (1 + scale)[None, :] + shift[None, :] * total[:, None]  # U
    offs_m = tl.arange(0, WIDTH)
    mask = (offs_m < M)[:, None] & (offs_m < M)[None, :]
    add_to(dfc_weight_ptr + offs_m[:, None] * M + offs_m[None, :], before_gate * gate[:, None], mask)
    add_to(dfc_bias_ptr + offs_m, gate * total, offs_m < M)
    dgate = tl.sum(fc * before_gate, 1) + tl.reshape(load_row(fc_bias_ptr, M, WIDTH), (WIDTH,)) * total
    gated = fc * gate[:, None]
    from_q = tl.sum(gated * q, 0)
    dscale = from_q + tl.sum(gated * by_beta[:, None], 0)
    dshift = tl.sum(gated * total[:, None], 0)
    mean_vn = (1 + scale) * from_q / D * deviation
    matrix = gated * (1 + scale)[None, :]  # G
    mean_v = tl.sum(matrix * by_alpha[:, None], 0) / D * deviation

    for start in tl.range(0, D, TILE, disable_licm=True):
        at, offs_d = own_tile(dh_ptr, start, TILE, WIDTH), start + tl.arange(0, TILE)
        dh = tl.load(at)
        normal = tl.load(own_tile(kept_ptr, start, TILE, WIDTH)) * deviation[None, :] - centre[None, :]
        v = product(dh, matrix, tl.zeros((TILE, WIDTH), tl.float32), OPERAND, PRECISION)
        add_to(dnorm_weight_ptr + offs_d, tl.sum(v * normal, 1), offs_d < D)
        add_to(dnorm_bias_ptr + offs_d, tl.sum(v, 1), offs_d < D)
        gradient = load_rows(norm_weight_ptr, start, D, TILE) * v * deviation[None, :]
        gradient -= mean_v[None, :] + normal * mean_vn[None, :]
        tl.store(at, only_rows(dh + gradient, start, D))
    tl.debug_barrier()
    return dshift, dscale, dgate


@triton.jit
def stack_backward(
    dh_ptr, kept_ptr, statistics_ptr, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr,
    norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, dmod_ptr, dnorm_weight_ptr, dnorm_bias_ptr,
    dfc_weight_ptr, dfc_bias_ptr, clip, blocks, D: tl.constexpr, M: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr,
    WIDTH: tl.constexpr, EMBEDDING: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dh after the last block becomes that of h before the first; stores the gradients of the modulation.

    kept, statistics: of what each block began with, as `stack_streamed` left them. dmod (B,K,3M) in fp32; the gradients
    of the parameters are this program's own.
    """
    size: tl.constexpr = padded(D, TILE) * WIDTH
    for step in tl.range(0, blocks, disable_licm=True):
        k = blocks - 1 - step
        shift, scale, gate = clip_modulation(
            k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr, clip, E, M, WIDTH,
            EMBEDDING,
        )  # fmt: skip
        dshift, dscale, dgate = block_backward(
            dh_ptr, kept_ptr + k * size, statistics_ptr + k * (2 * WIDTH), shift, scale, gate, norm_weight_ptr + k * D,
            norm_bias_ptr + k * D, fc_weight_ptr + k * M * M, fc_bias_ptr + k * M, dnorm_weight_ptr + k * D,
            dnorm_bias_ptr + k * D, dfc_weight_ptr + k * M * M, dfc_bias_ptr + k * M, D, M, TILE, WIDTH, OPERAND,
            PRECISION,
        )  # fmt: skip
        at, offs_m = dmod_ptr + (clip * blocks + k) * (3 * M), tl.arange(0, WIDTH)
        tl.store(at + offs_m, dshift, mask=offs_m < M)
        tl.store(at + M + offs_m, dscale, mask=offs_m < M)
        tl.store(at + 2 * M + offs_m, dgate, mask=offs_m < M)
