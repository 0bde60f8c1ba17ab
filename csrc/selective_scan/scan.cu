// The selective scan on a GPU, made for short sequences: one pass over the steps with the states in registers, no scan
// across threads. tile.h says how a call is cut up, scan.h what is computed; both passes walk a chunk of steps as
//
//     tiles from global to shared memory, in the order of memory, whichever axis is contiguous
//     the recurrence, every warp its own channels; results take the place of what they were computed from
//     tiles from shared to global memory
//
// Nothing is kept for the backward pass but the inputs. Per chunk it runs the states forward once, keeping the one
// before each segment of 4 steps in shared memory, then takes the segments from the last to the first: the states of
// these 4 steps again, now kept in registers, and the steps backwards. So a state costs a little over two
// exponentials.
//
// Sums over channels (dB, dC) and over the batch (dA, dD, ddelta_bias) are written as partial sums and added by a
// second kernel, always in the same order: no atomics, the same bits every time.
#include "tile.h"

namespace handcraft::cuda {

// The decays of a segment's first steps are computed once more when its steps are taken backwards: keeping them would
// cost 16 registers each, and all 255 are in use.
constexpr int again = 1;

template <typename S>
using States = S[quad][states];

// One step of the recurrence for a lane's states. B: of its states, or (fixed) of its channels and states.
template <class Seen>
HANDCRAFT_DEVICE void advance(States<float>& h, const States<float>& rate, const float (&step)[quad],
                              const float (&u)[quad], const float (&B)[states], const States<float>& B_fixed,
                              Seen seen) {
#pragma unroll
    for (int k = 0; k < quad; ++k) {
        const float drive = step[k] * u[k];
#pragma unroll
        for (int s = 0; s < states; ++s) {
            const float a = scan::decay<Math>(step[k], rate[k][s]), before = h[k][s];
            h[k][s] = scan::advance(a, before, drive, fixed_B ? B_fixed[k][s] : B[s]);
            seen(k, s, a, before);
        }
    }
}

extern "C" __global__ void __launch_bounds__(threads, HANDCRAFT_FORWARD_WARPS / warps)
    scan_forward(const __grid_constant__ Forward p) {
    const Place here = place();
    const Work w = work(p);
    HANDCRAFT_SHARED(memory);
    constexpr int pitch = row_of<2 * tile_channels + mixing * padded>;
    float* const step = memory;                           // a row: delta,
    float* const value = step + tile_channels;            // u, then y,
    float* const B_row = value + tile_channels;           // B
    float* const C_row = B_row + (fixed_B ? 0 : padded);  // and C

    States<float> rate, B_fixed = {}, C_fixed = {};
    read_states(p.A, p.state, 1, here, w, int(p.state),
                [&](int k, int s, float x) { rate[k][s] = x * float(scan::log2e); });
    if (fixed_B)
        read_states(p.B, p.B_g, p.B_n, here, w, int(p.state), [&](int k, int s, float x) { B_fixed[k][s] = x; });
    if (fixed_C)
        read_states(p.C, p.C_g, p.C_n, here, w, int(p.state), [&](int k, int s, float x) { C_fixed[k][s] = x; });
    const float D = p.D != nullptr && here.own < w.channels ? p.D[w.first + here.own] : 0;
    const int chunks = (int(p.length) - 1) / int(p.rows) + 1;

    for (int b = w.batch; b < w.batch_end; ++b) {
        States<float> h = {};
        for (int chunk = 0; chunk < chunks; ++chunk) {
            const int start = chunk * int(p.rows), rows = min(int(p.length) - start, int(p.rows));
            const auto at = [&](Size stride_b, Size stride_d, Size stride_l) {
                return b * stride_b + w.first * stride_d + start * stride_l;
            };
            if (chunk > 0 && p.bounds != nullptr) {
                write_states(p.bounds + (Size(b) * (chunks - 1) + chunk - 1) * p.dim * p.state, p.state, here, w,
                             int(p.state), [&](int k, int s) { return h[k][s]; });
            }
            __syncthreads();  // the chunk before is out
            load_tile<pitch>(p.u + at(p.u_b, p.u_d, p.u_l), p.u_d, p.u_l, w.channels, rows,
                             [&](int i, T x) { value[i] = widen(x); });
            load_tile<pitch>(p.delta + at(p.delta_b, p.delta_d, p.delta_l), p.delta_d, p.delta_l, w.channels, rows,
                             [&](int i, T x) { step[i] = widen(x); });
            if (!fixed_B) {
                load_mixing<pitch>(B_row, p.B + b * p.B_b + w.group_B * p.B_g + start * p.B_l, p.B_n, p.B_l,
                                   int(p.state), rows);
            }
            if (!fixed_C) {
                load_mixing<pitch>(C_row, p.C + b * p.C_b + w.group_C * p.C_g + start * p.C_l, p.C_n, p.C_l,
                                   int(p.state), rows);
            }
            __syncthreads();
            prepare_steps<pitch>(step, p.delta_bias, p.delta_softplus, here, w, rows);

            for (int t = 0; t < rows; ++t) {
                float delta[quad], u[quad], B[states] = {}, C[states] = {}, y[quad] = {};
                fetch(delta, step + t * pitch + here.channel);
                fetch(u, value + t * pitch + here.channel);
                if (!fixed_B) fetch(B, B_row + t * pitch + here.state);
                if (!fixed_C) fetch(C, C_row + t * pitch + here.state);
                advance(h, rate, delta, u, B, B_fixed,
                        [&](int k, int s, float, float) { y[k] += (fixed_C ? C_fixed[k][s] : C[s]) * h[k][s]; });
                spread_sum<lanes / 2, 1>(y, here.lane);
                __syncwarp();  // every lane has read this row
                float& own = value[t * pitch + here.own];
                if (here.owner) own = y[0] + D * own;
            }

            __syncthreads();
            if (gated) {
                load_tile<pitch>(p.z + at(p.z_b, p.z_d, p.z_l), p.z_d, p.z_l, w.channels, rows,
                                 [&](int i, T x) { value[i] *= scan::gate<Math>(widen(x)); });
                __syncthreads();
            }
            store_tile<pitch>(p.y + at(p.y_b, p.y_d, p.y_l), p.y_d, p.y_l, w.channels, rows,
                              [&](int i) { return narrow<T>(value[i]); });
        }
        if (p.last != nullptr) {
            write_states(p.last + b * p.dim * p.state, p.state, here, w, int(p.state),
                         [&](int k, int s) { return h[k][s]; });
        }
    }
}

extern "C" __global__ void __launch_bounds__(threads, HANDCRAFT_BACKWARD_WARPS / warps)
    scan_backward(const __grid_constant__ Backward p) {
    const Place here = place();
    const Work w = work(p);
    const int slots = max((int(p.rows) + segment - 1) / segment - 2, 0);  // segments but the first and the last
    constexpr int staged = segment * mixing * padded;                     // numbers of leave_mixing
    HANDCRAFT_SHARED(memory);
    constexpr int wide = sizeof(float) / sizeof(T);
    constexpr int pitch = row_of<2 * tile_channels + mixing * padded + tile_channels / wide>;
    float* const step = memory;                                             // a row: delta, then its gradient,
    float* const grad = step + tile_channels;                               // gradient of y, then y before the gate,
    float* const B_row = grad + tile_channels;                              // B,
    float* const C_row = B_row + (fixed_B ? 0 : padded);                    // C,
    T* const value = reinterpret_cast<T*>(C_row + (fixed_C ? 0 : padded));  // and u, then its gradient
    float* const staging = memory + p.rows * pitch;                         // (2, warps, segment, mixing, padded)
    float* const y_rows = staging + 2 * warps * staged;  // (segment, tile_channels) y before the gate, of a segment
    float* const kept = y_rows + (gated ? segment * tile_channels : 0) +
                        here.warp * slots * quad * states * 32;  // (slots, quad, 32, states)

    if (w.channels < tile_channels) {  // the others must not reach the sums over channels
        for (int i = int(threadIdx.x); i < p.rows * pitch; i += threads) memory[i] = 0;
    }

    States<float> rate, B_fixed = {}, C_fixed = {}, dA = {}, dB_fixed = {}, dC_fixed = {};
    read_states(p.A, p.state, 1, here, w, int(p.state),
                [&](int k, int s, float x) { rate[k][s] = x * float(scan::log2e); });
    if (fixed_B)
        read_states(p.B, p.B_g, p.B_n, here, w, int(p.state), [&](int k, int s, float x) { B_fixed[k][s] = x; });
    if (fixed_C)
        read_states(p.C, p.C_g, p.C_n, here, w, int(p.state), [&](int k, int s, float x) { C_fixed[k][s] = x; });
    const float D = p.D != nullptr && here.own < w.channels ? p.D[w.first + here.own] : 0;
    float dD = 0, ddelta_bias = 0;

    const int chunks = (int(p.length) - 1) / int(p.rows) + 1;

    for (int b = w.batch; b < w.batch_end; ++b) {
        States<float> carried = {};
        if (p.dlast != nullptr) {
            read_states(p.dlast + b * p.dim * p.state, p.state, 1, here, w, int(p.state),
                        [&](int k, int s, float x) { carried[k][s] = x; });
        }
        for (int chunk = chunks - 1; chunk >= 0; --chunk) {
            const int start = chunk * int(p.rows), rows = min(int(p.length) - start, int(p.rows));
            const int segments = (rows + segment - 1) / segment;
            const auto at = [&](Size stride_b, Size stride_d, Size stride_l) {
                return b * stride_b + w.first * stride_d + start * stride_l;
            };
            __syncthreads();  // the chunk before is out
            load_tile<pitch * wide>(p.u + at(p.u_b, p.u_d, p.u_l), p.u_d, p.u_l, w.channels, rows,
                                    [&](int i, T x) { value[i] = x; });
            load_tile<pitch>(p.delta + at(p.delta_b, p.delta_d, p.delta_l), p.delta_d, p.delta_l, w.channels, rows,
                             [&](int i, T x) { step[i] = widen(x); });
            load_tile<pitch>(p.dy + at(p.dy_b, p.dy_d, p.dy_l), p.dy_d, p.dy_l, w.channels, rows,
                             [&](int i, T x) { grad[i] = widen(x); });
            if (!fixed_B) {
                load_mixing<pitch>(B_row, p.B + b * p.B_b + w.group_B * p.B_g + start * p.B_l, p.B_n, p.B_l,
                                   int(p.state), rows);
            }
            if (!fixed_C) {
                load_mixing<pitch>(C_row, p.C + b * p.C_b + w.group_C * p.C_g + start * p.C_l, p.C_n, p.C_l,
                                   int(p.state), rows);
            }
            __syncthreads();
            if (gated) {
                load_tile<pitch>(p.z + at(p.z_b, p.z_d, p.z_l), p.z_d, p.z_l, w.channels, rows,
                                 [&](int i, T x) { grad[i] *= scan::gate<Math>(widen(x)); });
                __syncthreads();
            }
            prepare_steps<pitch>(step, p.delta_bias, p.delta_softplus, here, w, rows);

            const auto before_chunk = [&](States<float>& h) {
                if (chunk == 0) {
#pragma unroll
                    for (int k = 0; k < quad; ++k) {
#pragma unroll
                        for (int s = 0; s < states; ++s) h[k][s] = 0;
                    }
                } else {
                    read_states(p.bounds + (Size(b) * (chunks - 1) + chunk - 1) * p.dim * p.state, p.state, 1, here, w,
                                int(p.state), [&](int k, int s, float x) { h[k][s] = x; });
                }
            };
            const auto slot = [&](int i, int k) { return kept + ((i * quad + k) * 32 + here.lane) * states; };

            States<float> h;  // before the segment at hand
            before_chunk(h);
            for (int i = 0; i < segments - 1; ++i) {
                if (i > 0) {
#pragma unroll
                    for (int k = 0; k < quad; ++k) put(slot(i - 1, k), h[k]);
                }
#pragma unroll
                for (int j = 0; j < segment; ++j) {
                    const int t = i * segment + j;
                    float delta[quad], u[quad], B[states] = {};
                    fetch(delta, step + t * pitch + here.channel);
                    fetch(u, value + t * pitch * wide + here.channel);
                    if (!fixed_B) fetch(B, B_row + t * pitch + here.state);
                    advance(h, rate, delta, u, B, B_fixed, [](int, int, float, float) {});
                }
            }

            for (int i = segments - 1; i >= 0; --i) {
                if (i == 0 && segments > 1) {
                    before_chunk(h);
                } else if (i < segments - 1) {
#pragma unroll
                    for (int k = 0; k < quad; ++k) fetch(h[k], slot(i - 1, k));
                }
                float* const mine = staging + (i % 2 * warps + here.warp) * staged;
                States<float> a[segment], before[segment];
#pragma unroll
                for (int j = 0; j < segment; ++j) {
                    const int t = i * segment + j;
                    if (t < rows) {
                        float delta[quad], u[quad], B[states] = {}, C[states] = {}, dy[quad];
                        float y[quad] = {}, dC[states] = {};
                        fetch(delta, step + t * pitch + here.channel);
                        fetch(u, value + t * pitch * wide + here.channel);
                        fetch(dy, grad + t * pitch + here.channel);
                        if (!fixed_B) fetch(B, B_row + t * pitch + here.state);
                        if (!fixed_C) fetch(C, C_row + t * pitch + here.state);
                        advance(h, rate, delta, u, B, B_fixed, [&](int k, int s, float decay, float earlier) {
                            if (j >= again) a[j][k][s] = decay;
                            before[j][k][s] = earlier;
                            if (gated) y[k] += (fixed_C ? C_fixed[k][s] : C[s]) * h[k][s];
                            (fixed_C ? dC_fixed[k][s] : dC[s]) += dy[k] * h[k][s];
                        });
                        if (gated) {
                            spread_sum<lanes / 2, 1>(y, here.lane);
                            if (here.owner) y_rows[j * tile_channels + here.own] = y[0];
                        }
                        if (!fixed_C) {
                            const int first = spread_sum<16, lanes>(dC, here.lane);
                            leave_mixing(mine, j, mixing - 1, dC, first, here);
                        }
                    }
                }
#pragma unroll
                for (int j = segment - 1; j >= 0; --j) {
                    const int t = i * segment + j;
                    if (t < rows) {
                        float delta[quad], u[quad], B[states] = {}, C[states] = {}, dy[quad];
                        float ddrive[quad] = {}, pull[quad] = {}, dB[states] = {};
                        fetch(delta, step + t * pitch + here.channel);
                        fetch(u, value + t * pitch * wide + here.channel);
                        fetch(dy, grad + t * pitch + here.channel);
                        if (!fixed_B) fetch(B, B_row + t * pitch + here.state);
                        if (!fixed_C) fetch(C, C_row + t * pitch + here.state);
#pragma unroll
                        for (int k = 0; k < quad; ++k) {
                            const float drive = delta[k] * u[k];
#pragma unroll
                            for (int s = 0; s < states; ++s) {
                                const float decay = j >= again ? a[j][k][s] : scan::decay<Math>(delta[k], rate[k][s]);
                                const auto r = scan::reverse(carried[k][s], dy[k], fixed_C ? C_fixed[k][s] : C[s],
                                                             decay, before[j][k][s]);
                                (fixed_B ? dB_fixed[k][s] : dB[s]) += r.g * drive;
                                ddrive[k] += r.g * (fixed_B ? B_fixed[k][s] : B[s]);
                                pull[k] += r.exponent * rate[k][s];
                                dA[k][s] += r.exponent * delta[k];
                            }
                        }
                        spread_sum<lanes / 2, 1>(ddrive, here.lane);
                        spread_sum<lanes / 2, 1>(pull, here.lane);
                        if (!fixed_B) {
                            const int first = spread_sum<16, lanes>(dB, here.lane);
                            leave_mixing(mine, j, 0, dB, first, here);
                        }
                        __syncwarp();  // every lane has read this row
                        if (here.owner) {
                            const int own = t * pitch + here.own;
                            T& value_own = value[t * pitch * wide + here.own];
                            const float delta_own = step[own], u_own = widen(value_own), dy_own = grad[own];
                            const float slope = p.delta_softplus ? Math::softplus_slope(delta_own) : 1;
                            const float ddelta = (float(scan::ln2) * pull[0] + u_own * ddrive[0]) * slope;
                            ddelta_bias += ddelta;
                            dD += dy_own * u_own;
                            step[own] = ddelta;
                            value_own = narrow<T>(delta_own * ddrive[0] + dy_own * D);
                            if (gated) grad[own] = y_rows[j * tile_channels + here.own] + D * u_own;
                        }
                    }
                }
                if (mixing > 0) {
                    __syncthreads();  // the other half of `staging` is free: its sums were taken before this line
                    const int steps = rows - i * segment < segment ? rows - i * segment : segment;
                    const Size row = (Size(b) * p.tiles + w.tile) * p.length + start + i * segment;
                    for (int j = int(threadIdx.x); j < steps * mixing * padded; j += threads) {
                        float sum = 0;
                        for (int warp = 0; warp < warps; ++warp) sum += staging[(i % 2 * warps + warp) * staged + j];
                        p.mixing_sums[row * mixing * padded + j] = sum;
                    }
                }
            }

            __syncthreads();
            store_tile<pitch * wide>(p.du + at(p.du_b, p.du_d, p.du_l), p.du_d, p.du_l, w.channels, rows,
                                     [&](int i) { return value[i]; });
            store_tile<pitch>(p.ddelta + at(p.ddelta_b, p.ddelta_d, p.ddelta_l), p.ddelta_d, p.ddelta_l, w.channels,
                              rows, [&](int i) { return narrow<T>(step[i]); });
            if (gated) {
                load_tile<pitch>(p.dy + at(p.dy_b, p.dy_d, p.dy_l), p.dy_d, p.dy_l, w.channels, rows,
                                 [&](int i, T x) { grad[i] *= widen(x); });
                __syncthreads();
                load_tile<pitch>(p.z + at(p.z_b, p.z_d, p.z_l), p.z_d, p.z_l, w.channels, rows,
                                 [&](int i, T x) { grad[i] *= scan::gate_slope<Math>(widen(x)); });
                __syncthreads();
                store_tile<pitch>(p.dz + at(p.dz_b, p.dz_d, p.dz_l), p.dz_d, p.dz_l, w.channels, rows,
                                  [&](int i) { return narrow<T>(grad[i]); });
            }
        }
    }

    float* const sums = p.channel_sums + w.run * p.dim * p.columns;
    write_states(sums, p.columns, here, w, int(p.state), [&](int k, int s) { return dA[k][s]; });
    if (fixed_B)
        write_states(sums + p.state, p.columns, here, w, int(p.state), [&](int k, int s) { return dB_fixed[k][s]; });
    if (fixed_C) {
        write_states(sums + p.state * (1 + fixed_B), p.columns, here, w, int(p.state),
                     [&](int k, int s) { return dC_fixed[k][s]; });
    }
    if (here.owner && here.own < w.channels) {
        float* const rest = sums + (w.first + here.own) * p.columns + p.columns - 2;
        rest[0] = dD, rest[1] = ddelta_bias;
    }
}

// Adds the partial sums, a thread a gradient's number: first those a channel, then those of varying B and C.
extern "C" __global__ void __launch_bounds__(threads) scan_finish(const __grid_constant__ Backward p) {
    Size i = Size(blockIdx.x) * blockDim.x + threadIdx.x;
    const Size channel_count = p.dim * p.columns;
    if (i < channel_count) {
        float sum = 0;
        for (Size run = 0; run < p.runs; ++run) sum += p.channel_sums[run * channel_count + i];
        const Size d = i / p.columns, column = i % p.columns, n = column % p.state;
        if (column == p.columns - 2) {
            if (p.dD != nullptr) p.dD[d] = sum;
        } else if (column == p.columns - 1) {
            if (p.ddelta_bias != nullptr) p.ddelta_bias[d] = sum;
        } else if (column < p.state) {
            p.dA[d * p.state + n] = sum;
        } else if (fixed_B && column < 2 * p.state) {
            p.dB[d * p.dB_g + n * p.dB_n] = narrow<T>(sum);
        } else {
            p.dC[d * p.dC_g + n * p.dC_n] = narrow<T>(sum);
        }
        return;
    }
    i -= channel_count;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
        if (which == 0 ? fixed_B : fixed_C) continue;
        const Size groups = which == 0 ? p.groups_B : p.groups_C, count = p.batch * groups * p.length * p.state;
        if (i >= count) {
            i -= count;
            continue;
        }
        const Size n = i % p.state, t = i / p.state % p.length, g = i / p.state / p.length % groups;
        const Size b = i / p.state / p.length / groups, tiles = p.tiles / groups;
        const float* from = p.mixing_sums + ((b * p.tiles + g * tiles) * p.length + t) * mixing * padded +
                            (which == 0 ? 0 : mixing - 1) * padded + n;
        float sum = 0;
        for (Size tile = 0; tile < tiles; ++tile) sum += from[tile * p.length * mixing * padded];
        if (which == 0) {
            p.dB[b * p.dB_b + g * p.dB_g + n * p.dB_n + t * p.dB_l] = narrow<T>(sum);
        } else {
            p.dC[b * p.dC_b + g * p.dC_g + n * p.dC_n + t * p.dC_l] = narrow<T>(sum);
        }
        return;
    }
}

}  // namespace handcraft::cuda
