"""The backward pass through the blocks of CMLPe on the clips of a Triton program; `block` describes the tiles.

A program recomputes h before each block and leaves it, in fp32, in memory of its own that it writes again for its next
clips: 12 KB a clip and block for D = 180, M = 16. Of that it then needs a tile at a time, beside the gradient in
registers. From the gradient dh of a block's output, with n_d = (h_d - mu) r:

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

from handcraft.kernels.adaln_mlp.block import (
    all_channels,
    block_forward,
    block_modulation,
    channels,
    load_channels,
    load_matrix,
    load_row,
    mix,
    norm_statistics,
    only_channels,
    store_modulation,
    sum_channels,
    sum_weighted_channels,
)


@triton.jit
def own_tile(ptr, TILES: tl.constexpr, i: tl.constexpr, WIDTH: tl.constexpr, CLIPS: tl.constexpr):
    """Where the program keeps tile i of its clips: pointers (CLIPS,TILES[i],WIDTH)."""
    offs_b = tl.arange(0, CLIPS)[:, None, None]
    offs_d = channels(TILES, i)[None, :, None]
    offs_m = tl.arange(0, WIDTH)[None, None, :]
    return ptr + (offs_b * all_channels(TILES) + offs_d) * WIDTH + offs_m


@triton.jit
def own_row(ptr, WIDTH: tl.constexpr, CLIPS: tl.constexpr):
    """Where the program keeps a number for each coefficient of its clips: pointers (CLIPS,WIDTH)."""
    return ptr + tl.arange(0, CLIPS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]


@triton.jit
def save_block(
    kept_ptr, statistics_ptr, h, mean, deviation, TILES: tl.constexpr, WIDTH: tl.constexpr, CLIPS: tl.constexpr
):
    """Keep h before a block, and its mean and reciprocal deviation."""
    for i in tl.static_range(len(TILES)):
        tl.store(own_tile(kept_ptr, TILES, i, WIDTH, CLIPS), h[i])
    tl.store(own_row(statistics_ptr, WIDTH, CLIPS), mean)
    tl.store(own_row(statistics_ptr + CLIPS * WIDTH, WIDTH, CLIPS), deviation)


@triton.jit
def recompute(
    h, kept_ptr, statistics_ptr, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr,
    norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, offs_b, mask_b, blocks, D: tl.constexpr,
    M: tl.constexpr, E: tl.constexpr, TILES: tl.constexpr, WIDTH: tl.constexpr, CLIPS: tl.constexpr,
    EMBEDDING: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Keep what each block begins with, from h before the first; return h before the last.

    Loops of a backward pass keep their addresses inside: carried out of them these take the registers that h needs.
    """
    size: tl.constexpr = CLIPS * all_channels(TILES) * WIDTH
    for k in tl.range(0, blocks - 1, disable_licm=True):
        shift, scale, gate = block_modulation(
            k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr, offs_b, mask_b,
            E, M, WIDTH, EMBEDDING,
        )  # fmt: skip
        before = h
        h, mean, deviation = block_forward(
            h, shift, scale, gate, norm_weight_ptr + k * D, norm_bias_ptr + k * D, fc_weight_ptr + k * M * M,
            fc_bias_ptr + k * M, D, M, TILES, WIDTH, OPERAND, PRECISION,
        )  # fmt: skip
        to_ptr = statistics_ptr + k * 2 * CLIPS * WIDTH
        save_block(kept_ptr + k * size, to_ptr, before, mean, deviation, TILES, WIDTH, CLIPS)
    mean, deviation = norm_statistics(h, D, TILES)
    to_ptr = statistics_ptr + (blocks - 1) * 2 * CLIPS * WIDTH
    save_block(kept_ptr + (blocks - 1) * size, to_ptr, h, mean, deviation, TILES, WIDTH, CLIPS)
    return h


@triton.jit
def add_to(ptr, value, mask):
    """Add to numbers that this program alone writes."""
    tl.store(ptr, tl.load(ptr, mask=mask, other=0.0) + value, mask=mask)


@triton.jit
def block_backward(
    dh, kept_ptr, mean, deviation, shift, scale, gate, norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr,
    dnorm_weight_ptr, dnorm_bias_ptr, dfc_weight_ptr, dfc_bias_ptr, D: tl.constexpr, M: tl.constexpr,
    TILES: tl.constexpr, WIDTH: tl.constexpr, CLIPS: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient tiles of h before a block, and those of shift, scale and gate; adds to those of the parameters."""
    total = sum_channels(dh, TILES)  # T: (CLIPS,WIDTH)
    by_alpha = sum_weighted_channels(dh, norm_weight_ptr, D, TILES)
    by_beta = sum_weighted_channels(dh, norm_bias_ptr, D, TILES)  # S
    centre = mean * deviation
    q = tl.zeros((CLIPS, WIDTH, WIDTH), tl.float32)  # Q: (clip,n,m)
    for i in tl.static_range(len(TILES)):
        alpha = load_channels(norm_weight_ptr, D, TILES, i)[None, :, None]
        normal = tl.load(own_tile(kept_ptr, TILES, i, WIDTH, CLIPS)) * deviation[:, None, :] - centre[:, None, :]
        q = mix(tl.permute(dh[i], (0, 2, 1)), alpha * normal, q, OPERAND, PRECISION)
    full = q + by_beta[:, :, None]

    matrix = load_matrix(fc_weight_ptr, M, WIDTH)  # F: (1,n,m)
    gated = matrix * gate[:, :, None]
    before_gate = full * (1 + scale)[:, None, :] + shift[:, None, :] * total[:, :, None]  # U
    dgate = tl.sum(matrix * before_gate, 2) + load_row(fc_bias_ptr, M, WIDTH) * total
    dscale = tl.sum(gated * full, 1)
    dshift = tl.sum(gated * total[:, :, None], 1)
    product = gated * (1 + scale)[:, None, :]  # G
    mean_v = tl.sum(product * by_alpha[:, :, None], 1) / D * deviation
    mean_vn = tl.sum(product * q, 1) / D * deviation

    offs_n, offs_m = tl.arange(0, WIDTH)[:, None], tl.arange(0, WIDTH)[None, :]
    add_to(dfc_weight_ptr + offs_n * M + offs_m, tl.sum(before_gate * gate[:, :, None], 0), (offs_n < M) & (offs_m < M))
    offs_m = tl.arange(0, WIDTH)
    add_to(dfc_bias_ptr + offs_m, tl.sum(gate * total, 0), offs_m < M)

    after = ()
    for i in tl.static_range(len(TILES)):
        offs_d = channels(TILES, i)
        alpha = load_channels(norm_weight_ptr, D, TILES, i)[None, :, None]
        normal = tl.load(own_tile(kept_ptr, TILES, i, WIDTH, CLIPS)) * deviation[:, None, :] - centre[:, None, :]
        v = mix(dh[i], product, tl.zeros_like(dh[i]), OPERAND, PRECISION)
        add_to(dnorm_weight_ptr + offs_d, tl.sum(tl.sum(v * normal, 2), 0), offs_d < D)
        add_to(dnorm_bias_ptr + offs_d, tl.sum(tl.sum(v, 2), 0), offs_d < D)
        gradient = alpha * v * deviation[:, None, :] - mean_v[:, None, :] - normal * mean_vn[:, None, :]
        after += (only_channels(dh[i] + gradient, D, TILES, i),)
    return after, dshift, dscale, dgate


@triton.jit
def stack_backward(
    dh, kept_ptr, statistics_ptr, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr,
    norm_weight_ptr, norm_bias_ptr, fc_weight_ptr, fc_bias_ptr, dmod_ptr, dnorm_weight_ptr, dnorm_bias_ptr,
    dfc_weight_ptr, dfc_bias_ptr, offs_b, mask_b, blocks, D: tl.constexpr, M: tl.constexpr, E: tl.constexpr,
    TILES: tl.constexpr, WIDTH: tl.constexpr, CLIPS: tl.constexpr, EMBEDDING: tl.constexpr, OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient tiles of h before the first block, from those of h after the last; stores those of the modulation.

    dmod (B,K,3M) in fp32; the gradients of the parameters are this program's own.
    """
    size: tl.constexpr = CLIPS * all_channels(TILES) * WIDTH
    for step in tl.range(0, blocks, disable_licm=True):
        k = blocks - 1 - step
        shift, scale, gate = block_modulation(
            k, blocks, e_ptr, stride_eb, stride_ek, stride_ee, mod_ptr, mod_weight_ptr, mod_bias_ptr, offs_b, mask_b,
            E, M, WIDTH, EMBEDDING,
        )  # fmt: skip
        from_ptr = statistics_ptr + k * 2 * CLIPS * WIDTH
        mean = tl.load(own_row(from_ptr, WIDTH, CLIPS))
        deviation = tl.load(own_row(from_ptr + CLIPS * WIDTH, WIDTH, CLIPS))
        dh, dshift, dscale, dgate = block_backward(
            dh, kept_ptr + k * size, mean, deviation, shift, scale, gate, norm_weight_ptr + k * D,
            norm_bias_ptr + k * D, fc_weight_ptr + k * M * M, fc_bias_ptr + k * M, dnorm_weight_ptr + k * D,
            dnorm_bias_ptr + k * D, dfc_weight_ptr + k * M * M, dfc_bias_ptr + k * M, D, M, TILES, WIDTH, CLIPS,
            OPERAND, PRECISION,
        )  # fmt: skip
        store_modulation(dmod_ptr + (offs_b * blocks + k) * (3 * M), dshift, dscale, dgate, mask_b, M, WIDTH)
    return dh
