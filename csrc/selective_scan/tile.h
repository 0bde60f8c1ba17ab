// How the CUDA kernels of the scan cut a call into blocks, warps and lanes, and move tiles between global and shared
// memory.
//
// A block owns a tile of channels and walks through a run of batch items, for each through chunks of steps. A warp owns
// `warp_channels` of these channels with all their states: a lane 4 channels and `states` states of them, so that a
// number read from shared memory (a step of 4 channels, B and C of 4 states) serves 4 or 16 recurrences, and sums over
// states and over channels begin in registers. With 16 states: 4 lanes a channel, 32 channels a warp.
//
// The module is compiled for one set of these constants (kernels/selective_scan/cuda.py chooses):
//     HANDCRAFT_T        float, bf16 or f16: the activations
//     HANDCRAFT_STATES   1, 2 or 4 states a lane          HANDCRAFT_LANES   4, 8, 16 or 32 lanes a channel
//     HANDCRAFT_WARPS    1, 2 or 4 warps a block          HANDCRAFT_GATED   there is a z
//     HANDCRAFT_FORWARD_WARPS, HANDCRAFT_BACKWARD_WARPS   warps a multiprocessor that the registers are to allow
//     HANDCRAFT_FIXED_B, HANDCRAFT_FIXED_C                B, C are (dim, state)
//     HANDCRAFT_SEGMENT  steps whose states the backward kernel keeps in registers, 32 a step; constant B and C with
//                        their gradients take 32 each, too
#pragma once

#include "device.h"
#include "params.h"
#include "scan.h"

namespace handcraft::cuda {

namespace scan = baseline::scan;

using T = HANDCRAFT_T;
template <typename>
using Compute = float;

constexpr int states = HANDCRAFT_STATES, lanes = HANDCRAFT_LANES, warps = HANDCRAFT_WARPS, segment = HANDCRAFT_SEGMENT;
constexpr bool gated = HANDCRAFT_GATED, fixed_B = HANDCRAFT_FIXED_B, fixed_C = HANDCRAFT_FIXED_C;

constexpr int quad = 4;                 // channels of a lane
constexpr int padded = states * lanes;  // states of a channel, those beyond `state` zero
constexpr int warp_channels = quad * 32 / lanes;
constexpr int tile_channels = warps * warp_channels;
constexpr int threads = 32 * warps;

constexpr int mixing = 2 - fixed_B - fixed_C;  // how many of B and C vary

// Shared memory has a row for each step of a chunk with all that belongs to it, so that a lane finds everything at
// fixed distances from a few addresses. A row is an odd number of 16 bytes long: steps of one channel spread over the
// banks.
template <int numbers>
inline constexpr int row_of = ((numbers + 3) / 4 | 1) * 4;

// What the launcher adds to the arguments of params.h: tiles of channels (a tile lies in one group), tiles of one
// group, steps of a chunk, batch items of a block, and the state before each chunk but the first, (batch, chunks - 1,
// dim, state). The field `y` of the backward pass is not used here.
#define HANDCRAFT_SCAN_TILING(POINTER, OPTIONAL, SIZE) \
    SIZE(tiles) SIZE(group_tiles) SIZE(rows) SIZE(run) OPTIONAL(float, bounds)

// Partial sums of gradients: over the batch items of a block (runs, dim, columns), a column a state of dA, then of
// constant B and C, then dD and ddelta_bias; and over the channels of a tile (batch, tiles, length, 1 or 2, padded),
// those of B before those of C.
#define HANDCRAFT_SCAN_PARTIALS(POINTER, OPTIONAL, SIZE) \
    SIZE(runs) SIZE(columns) POINTER(float, channel_sums) OPTIONAL(float, mixing_sums)

#define HANDCRAFT_MEMBER(type, name) type* name;
#define HANDCRAFT_NUMBER(name) Size name;
struct Forward {
    HANDCRAFT_SCAN_FORWARD(HANDCRAFT_MEMBER, HANDCRAFT_MEMBER, HANDCRAFT_MEMBER, HANDCRAFT_NUMBER, HANDCRAFT_NUMBER)
    HANDCRAFT_SCAN_TILING(HANDCRAFT_MEMBER, HANDCRAFT_MEMBER, HANDCRAFT_NUMBER)
};
struct Backward {
    HANDCRAFT_SCAN_BACKWARD(HANDCRAFT_MEMBER, HANDCRAFT_MEMBER, HANDCRAFT_MEMBER, HANDCRAFT_NUMBER, HANDCRAFT_NUMBER)
    HANDCRAFT_SCAN_TILING(HANDCRAFT_MEMBER, HANDCRAFT_MEMBER, HANDCRAFT_NUMBER)
    HANDCRAFT_SCAN_PARTIALS(HANDCRAFT_MEMBER, HANDCRAFT_MEMBER, HANDCRAFT_NUMBER)
};
#undef HANDCRAFT_MEMBER
#undef HANDCRAFT_NUMBER

// Where a lane is. `channel` counts in the block's tile, `own` is the channel whose sums over the states this lane gets
// from spread_sum, and `owner` whether it is the one lane that writes them.
struct Place {
    int warp, lane, state, channel, own;
    bool owner;
};
HANDCRAFT_DEVICE Place place() {
    Place here;
    here.warp = int(threadIdx.x) / 32, here.lane = int(threadIdx.x) % 32;
    const int sub = here.lane % lanes;
    here.state = sub * states;
    here.channel = here.warp * warp_channels + here.lane / lanes * quad;
    here.own = here.channel + sub / (lanes / quad);
    here.owner = sub % (lanes / quad) == 0;
    return here;
}

// What a block works on: channels first .. first + channels, batch items batch .. batch_end. In 32 bits, which the
// launcher checks: the backward kernel has no registers to spare.
struct Work {
    int tile, run, first, channels, group_B, group_C, batch, batch_end;
};
template <class Arguments>
HANDCRAFT_DEVICE Work work(const Arguments& p) {
    Work w;
    const int tiles = int(p.tiles), group_tiles = int(p.group_tiles);
    w.tile = int(blockIdx.x) % tiles, w.run = int(blockIdx.x) / tiles;
    const int group = w.tile / group_tiles, size = int(p.dim) / (tiles / group_tiles);
    const int within = w.tile % group_tiles * tile_channels;
    w.first = group * size + within;
    w.channels = min(size - within, tile_channels);
    w.group_B = p.groups_B > 1 ? group : 0, w.group_C = p.groups_C > 1 ? group : 0;
    w.batch = w.run * int(p.run);
    w.batch_end = min(w.batch + int(p.run), int(p.batch));
    return w;
}

// ------------------------------------------------------------------------------- between global and shared memory

// Which way a tile of channels and steps lies in memory: the faster of its two axes, so that the threads of a warp
// touch neighbouring elements whatever the layout, and whether 16 bytes at a time will do.
struct Walk {
    int fast, slow, fast_offset, slow_offset;  // extents; offsets in shared memory
    Size fast_stride, slow_stride;
    bool pieces;
};
HANDCRAFT_DEVICE Walk walk(const T* base, Size stride_d, Size stride_l, int channels, int steps, int pitch) {
    constexpr int piece = Piece<T>::count;
    const bool along = stride_l <= stride_d;  // steps are neighbours
    const Walk w = along ? Walk{steps, channels, pitch, 1, stride_l, stride_d, false}
                         : Walk{channels, steps, 1, pitch, stride_d, stride_l, false};
    const bool flat = w.slow_stride == w.fast && w.fast * w.slow % piece == 0;
    const bool cut = w.fast % piece == 0 && w.slow_stride % piece == 0;
    const bool aligned = reinterpret_cast<unsigned long long>(base) % 16 == 0;
    return {w.fast,
            w.slow,
            w.fast_offset,
            w.slow_offset,
            w.fast_stride,
            w.slow_stride,
            w.fast_stride == 1 && aligned && (flat || cut)};
}

// Where a thread is in a walk; it moves on by a whole block's elements.
struct Cursor {
    int slow, fast, slow_move, fast_move;
    HANDCRAFT_DEVICE Cursor(const Walk& w, int step) {
        const int start = int(threadIdx.x) * step, move = threads * step;
        slow = start / w.fast, fast = start % w.fast;
        slow_move = move / w.fast, fast_move = move % w.fast;
    }
    HANDCRAFT_DEVICE void next(const Walk& w) {
        slow += slow_move, fast += fast_move;
        if (fast >= w.fast) fast -= w.fast, ++slow;
    }
    HANDCRAFT_DEVICE Size address(const Walk& w) const { return slow * w.slow_stride + fast * w.fast_stride; }
    HANDCRAFT_DEVICE int offset(const Walk& w) const { return slow * w.slow_offset + fast * w.fast_offset; }
};

// Calls take(t * pitch + channel, element) for every element of a tile.
template <int pitch, class Take>
HANDCRAFT_DEVICE void load_tile(const T* base, Size stride_d, Size stride_l, int channels, int steps, Take take) {
    const Walk w = walk(base, stride_d, stride_l, channels, steps, pitch);
    if (w.pieces) {
        using P = Piece<T>;
        for (Cursor at(w, P::count); at.slow < w.slow; at.next(w)) {
            const P piece{*reinterpret_cast<const uint4*>(base + at.address(w))};
            int fast = at.fast, offset = at.offset(w);
#pragma unroll
            for (int i = 0; i < P::count; ++i) {
                take(offset, piece.get(i));
                offset += w.fast_offset;
                if (++fast == w.fast) fast = 0, offset += w.slow_offset - w.fast * w.fast_offset;
            }
        }
    } else {
#pragma unroll 2
        for (Cursor at(w, 1); at.slow < w.slow; at.next(w)) take(at.offset(w), base[at.address(w)]);
    }
}

// Stores give(t * pitch + channel) to every element of a tile.
template <int pitch, class Give>
HANDCRAFT_DEVICE void store_tile(T* base, Size stride_d, Size stride_l, int channels, int steps, Give give) {
    const Walk w = walk(base, stride_d, stride_l, channels, steps, pitch);
    if (w.pieces) {
        using P = Piece<T>;
        for (Cursor at(w, P::count); at.slow < w.slow; at.next(w)) {
            int fast = at.fast, offset = at.offset(w);
            const P piece = P::of([&](int) {
                const T element = give(offset);
                offset += w.fast_offset;
                if (++fast == w.fast) fast = 0, offset += w.slow_offset - w.fast * w.fast_offset;
                return element;
            });
            *reinterpret_cast<uint4*>(base + at.address(w)) = piece.words;
        }
    } else {
        for (Cursor at(w, 1); at.slow < w.slow; at.next(w)) base[at.address(w)] = give(at.offset(w));
    }
}

// B or C of every step, those of states beyond `state` zero.
template <int pitch>
HANDCRAFT_DEVICE void load_mixing(float* to, const T* base, Size stride_n, Size stride_l, int state, int steps) {
    const bool along = stride_l <= stride_n;
    for (int i = int(threadIdx.x); i < steps * padded; i += threads) {
        const int t = along ? i % steps : i / padded, n = along ? i / steps : i % padded;
        to[t * pitch + n] = n < state ? widen(base[n * stride_n + t * stride_l]) : 0;
    }
}

// A lane's part of a (.., dim, state) array: quad channels, `states` states; zero beyond its ends.
template <typename E, class Take>
HANDCRAFT_DEVICE void read_states(const E* from, Size stride_d, Size stride_n, const Place& here, const Work& w,
                                  int state, Take take) {
#pragma unroll
    for (int k = 0; k < quad; ++k) {
#pragma unroll
        for (int s = 0; s < states; ++s) {
            const bool inside = here.channel + k < w.channels && here.state + s < state;
            take(k, s,
                 inside ? widen(from[(w.first + here.channel + k) * stride_d + (here.state + s) * stride_n]) : 0.f);
        }
    }
}
template <class Give>
HANDCRAFT_DEVICE void write_states(float* to, Size stride_d, const Place& here, const Work& w, int state, Give give) {
#pragma unroll
    for (int k = 0; k < quad; ++k) {
#pragma unroll
        for (int s = 0; s < states; ++s) {
            const bool inside = here.channel + k < w.channels && here.state + s < state;
            if (inside) to[(w.first + here.channel + k) * stride_d + here.state + s] = give(k, s);
        }
    }
}

// The steps of a chunk as the recurrence takes them, in place, each warp its own channels: softplus once a channel and
// step instead of once a lane of the channel.
template <int pitch>
HANDCRAFT_DEVICE void prepare_steps(float* step, const float* delta_bias, bool softplus, const Place& here,
                                    const Work& w, int rows) {
    const int channel = here.warp * warp_channels + here.lane % warp_channels;
    if ((delta_bias != nullptr || softplus) && channel < w.channels) {
        const float bias = delta_bias != nullptr ? delta_bias[w.first + channel] : 0;
        for (int t = here.lane / warp_channels; t < rows; t += 32 / warp_channels) {
            float& at = step[t * pitch + channel];
            at = scan::step_size<Math>(at, bias, softplus);
        }
    }
    __syncwarp();
}

// Partial sums of dB or dC over the tile's channels: each warp leaves its own in shared memory.
//     rows (segment, mixing, padded) of one warp
HANDCRAFT_DEVICE void leave_mixing(float* rows, int row, int which, float (&sums)[states], int first,
                                   const Place& here) {
    constexpr int channel_lanes = 32 / lanes, kept = states > channel_lanes ? states / channel_lanes : 1;
    if ((here.lane & duplicate<16, lanes, states>) != 0) return;
#pragma unroll
    for (int i = 0; i < kept; ++i) rows[(row * mixing + which) * padded + here.state + first + i] = sums[i];
}

}  // namespace handcraft::cuda
