// One row a sequence of a Mamba block's output, where only that row is wanted: the scan's state after step `at`.
//
// A state that is wanted at one step only needs no recurrence. With S_t the sum of the step sizes after t up to `at`,
//
//     h[n] = sum over t <= at of exp(A[n] S_t) delta_t u_t B_t[n],     y = (sum_n C[n] h[n] + D u_at) silu(z)
//
// so each exponential is used where it is made, forward and backward, nothing is kept for a walk back, and no step waits
// for the one before it. S_t >= 0 and A < 0: no exponential is above 1. A tile has one channel a lane.
//
//     delta = softplus(s dt_weight' + dt_bias),  s and B are the columns of `mixed` (batch, length, rank + state)
//     backward, with G[n] = C[n] dy silu(z) and E = exp(A[n] S_t):
//     d(delta_t u_t) = sum_n E G[n] B_t[n],   dS_t = delta_t u_t sum_n E G[n] B_t[n] A[n],
//     dA[n] = sum_t E G[n] B_t[n] delta_t u_t S_t,   dB_t[n] = sum over channels of E G[n] delta_t u_t,
//     d(delta_t) = u_t d(delta_t u_t) + sum over t' < t of dS_t'
#pragma once

#include "scan_tasks.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// u (batch, length, channels); mixed (batch, length, rank + state); at (batch); z, pre, y (batch, channels), `pre` being
// y before its gate; C (batch, state); h (batch, state, channels). Gradients are written, not added to.
template <typename T>
struct RowInputs {
    int64_t batch, length, channels, state, rank;
    const T *u, *mixed;
    const int64_t* at;
    const T *z, *C, *dt_weight, *dt_bias, *A, *D;
};
template <typename T>
struct RowForward : RowInputs<T> {
    T *h, *pre, *y;
};
template <typename T>
struct RowBackward : RowInputs<T> {
    const T *h, *pre, *dy;
    T *du, *dmixed, *dz, *dC;
    T *ddt_weight, *ddt_bias, *dA, *dD;
};

// Tiles whose sums over channels share registers of lanes.
constexpr int64_t row_panel = 4;

// What one tile of one sequence is computed with: (steps) registers each.
template <typename T>
struct Steps {
    T *u, *delta, *slope, *later, *drive;  // later: S_t; drive: delta_t u_t; slope: of the softplus
    T *ddrive, *pull;                      // d(drive_t), and sum_n E G[n] B_t[n] A[n] log2(e)

    Steps(T* memory, int64_t tile)
        : u(memory), delta(u + tile), slope(delta + tile), later(slope + tile), drive(later + tile),
          ddrive(drive + tile), pull(ddrive + tile) {}
    static constexpr int64_t count = 7;
};

// Fills u, delta, later and drive for the steps up to `at`, and slope where the gradient is wanted.
template <typename T, bool GRADIENT, typename P>
void load_steps(const P& p, int64_t b, int64_t channel, int count, const T* dt_weight, const Steps<T>& s) {
    constexpr int width = lanes<T>;
    const int64_t columns = p.rank + p.state, end = p.at[b] + 1;
    const Vec<T> bias = load_first<T>(p.dt_bias + channel, count);
    const T* row = p.mixed + b * p.length * columns;
    for (int64_t t = 0; t < end; ++t, row += columns) {
        Vec<T> raw{};
        for (int64_t r = 0; r < p.rank; ++r) raw += row[r] * load<T>(dt_weight + r * width);
        const Vec<T> u = load_first<T>(p.u + (b * p.length + t) * p.channels + channel, count);
        const Vec<T> delta = scan::step_size<Math<T>>(raw, bias, true);
        store<T>(s.u + t * width, u);
        store<T>(s.delta + t * width, delta);
        store<T>(s.drive + t * width, delta * u);
        if constexpr (GRADIENT) {
            store<T>(s.slope + t * width, scan::step_gradient<Math<T>>(broadcast<T>(1), raw, bias, true));
            store<T>(s.ddrive + t * width, Vec<T>{});
            store<T>(s.pull + t * width, Vec<T>{});
        }
    }
    Vec<T> later{};
    for (int64_t t = end - 1; t >= 0; --t) {
        store<T>(s.later + t * width, later);
        later += load<T>(s.delta + t * width);
    }
}

// h (state, lane) of the states n .. n + STATES - 1. B: that of the first step and the first of these states.
template <typename T, int STATES>
void sum_states(const Steps<T>& s, int64_t end, const T* rates, const T* B, int64_t columns, int64_t n, T* h) {
    constexpr int width = lanes<T>;
    Vec<T> rate[STATES], sum[STATES] = {};
    for (int j = 0; j < STATES; ++j) rate[j] = load<T>(rates + (n + j) * width);
    for (int64_t t = 0; t < end; ++t, B += columns) {
        const Vec<T> later = load<T>(s.later + t * width), drive = load<T>(s.drive + t * width);
#pragma GCC unroll 4
        for (int j = 0; j < STATES; ++j) sum[j] += scan::decay<Math<T>>(later, rate[j]) * (B[j] * drive);
    }
    for (int j = 0; j < STATES; ++j) store<T>(h + (n + j) * width, sum[j]);
}

template <typename T>
void row_scan_forward(const RowForward<T>& p) {
    constexpr int width = lanes<T>;
    const int64_t columns = p.rank + p.state, tile = p.length * width, states = p.state * width;
    T* const rates = static_cast<T*>(scratch((states * 2 + p.rank * width + Steps<T>::count * tile) * sizeof(T)));
    T *const h = rates + states, *const dt_weight = h + states;
    const Steps<T> s(dt_weight + p.rank * width, tile);
    for (int64_t channel = 0; channel < p.channels; channel += width) {
        const int count = int(smaller(width, p.channels - channel));
        load_rates<T>(p.A, channel, count, p.state, rates);
        load_tile<T>(p.dt_weight + channel * p.rank, p.rank, 1, count, p.rank, dt_weight);
        const Vec<T> D = load_first<T>(p.D + channel, count);
        for (int64_t b = 0; b < p.batch; ++b) {
            const int64_t end = p.at[b] + 1;
            load_steps<T, false>(p, b, channel, count, dt_weight, s);
            const T* B = p.mixed + b * p.length * columns + p.rank;
            int64_t n = 0;
            for (; n + 4 <= p.state; n += 4) sum_states<T, 4>(s, end, rates, B + n, columns, n, h);
            for (; n < p.state; ++n) sum_states<T, 1>(s, end, rates, B + n, columns, n, h);
            Vec<T> y = D * load<T>(s.u + (end - 1) * width);
            for (n = 0; n < p.state; ++n) {
                y += p.C[b * p.state + n] * load<T>(h + n * width);
                store_first<T>(p.h + (b * p.state + n) * p.channels + channel, load<T>(h + n * width), count);
            }
            const Vec<T> z = load_first<T>(p.z + b * p.channels + channel, count);
            store_first<T>(p.pre + b * p.channels + channel, y, count);
            store_first<T>(p.y + b * p.channels + channel, y * scan::gate<Math<T>>(z), count);
        }
    }
}

// The states n .. n + STATES - 1 of one tile. B as in sum_states; dA (state, lane) and dB (steps, STATES) are added to.
template <typename T, int STATES>
void walk_states(const Steps<T>& s, int64_t end, const T* rates, const T* B, int64_t columns, int64_t n, const T* G,
                 T* dA, T* dB) {
    constexpr int width = lanes<T>;
    const Steps<T> own = s;  // a copy of its own, which no store can change
    Vec<T> rate[STATES], pulled[STATES], sum[STATES] = {};
    for (int j = 0; j < STATES; ++j) {
        rate[j] = load<T>(rates + (n + j) * width);
        pulled[j] = load<T>(G + (n + j) * width);
    }
    for (int64_t t = 0; t < end; ++t, B += columns, dB += STATES * width) {
        const Vec<T> later = load<T>(own.later + t * width), drive = load<T>(own.drive + t * width);
        const Vec<T> product = later * drive;
        Vec<T> ddrive = load<T>(own.ddrive + t * width), pull = load<T>(own.pull + t * width);
#pragma GCC unroll 4
        for (int j = 0; j < STATES; ++j) {
            const Vec<T> w = scan::decay<Math<T>>(later, rate[j]) * pulled[j], wb = w * B[j];
            ddrive += wb;
            pull += wb * rate[j];
            sum[j] += wb * product;
            store<T>(dB + j * width, load<T>(dB + j * width) + w * drive);
        }
        store<T>(own.ddrive + t * width, ddrive);
        store<T>(own.pull + t * width, pull);
    }
    for (int j = 0; j < STATES; ++j) store<T>(dA + (n + j) * width, load<T>(dA + (n + j) * width) + sum[j]);
}

// The ranks r .. r + RANKS - 1 of one tile, for the gradient of what the softplus takes: that of dt_weight (rank, lane)
// and of s (steps, RANKS) are added to. s: that of the first step and the first of these ranks.
template <typename T, int RANKS>
void walk_ranks(const T* draw, int64_t end, const T* dt_weight, const T* s, int64_t columns, int64_t r, T* ddt_weight,
                T* ds) {
    constexpr int width = lanes<T>;
    Vec<T> weight[RANKS], sum[RANKS] = {};
    for (int j = 0; j < RANKS; ++j) weight[j] = load<T>(dt_weight + (r + j) * width);
    for (int64_t t = 0; t < end; ++t, s += columns, ds += RANKS * width) {
        const Vec<T> grad = load<T>(draw + t * width);
#pragma GCC unroll 4
        for (int j = 0; j < RANKS; ++j) {
            sum[j] += s[j] * grad;
            store<T>(ds + j * width, load<T>(ds + j * width) + grad * weight[j]);
        }
    }
    for (int j = 0; j < RANKS; ++j) {
        store<T>(ddt_weight + (r + j) * width, load<T>(ddt_weight + (r + j) * width) + sum[j]);
    }
}

template <typename T>
void row_scan_backward(const RowBackward<T>& p) {
    constexpr int width = lanes<T>;
    const int64_t columns = p.rank + p.state, tile = p.length * width, states = p.state * width;
    const int64_t ranks = p.rank * width, tiles = ceiling(p.channels, width), own = Steps<T>::count * tile;
    const int64_t sums = ceiling(p.length * 4, width) * width * width;
    Places<T> places;
    const int64_t at_rates = places.take(tiles * states), at_dA = places.take(tiles * states),
                  at_weight = places.take(tiles * ranks), at_dweight = places.take(tiles * ranks),
                  at_dD = places.take(tiles * width), at_dbias = places.take(tiles * width),
                  at_steps = places.take(row_panel * own), at_G = places.take(row_panel * states),
                  at_sums = places.take(sums), at_dC = places.take(states),
                  at_all = places.take(p.length * columns);
    T* const memory = static_cast<T*>(scratch(places.used * sizeof(T)));
    T *const dC = memory + at_dC, *const lane = memory + at_sums, *const all = memory + at_all;
    const auto count_of = [&](int64_t k) { return int(smaller(width, p.channels - k * width)); };

    clear(memory + at_dA, tiles * states);
    clear(memory + at_dweight, tiles * ranks);
    clear(memory + at_dD, tiles * width);
    clear(memory + at_dbias, tiles * width);
    for (int64_t k = 0; k < tiles; ++k) {
        load_rates<T>(p.A, k * width, count_of(k), p.state, memory + at_rates + k * states);
        load_tile<T>(p.dt_weight + k * width * p.rank, p.rank, 1, count_of(k), p.rank, memory + at_weight + k * ranks);
    }
    for (int64_t b = 0; b < p.batch; ++b) {
        const int64_t end = p.at[b] + 1;
        const T* const mixed = p.mixed + b * p.length * columns;
        clear(all, p.length * columns);
        clear(dC, states);
        for (int64_t first = 0; first < tiles; first += row_panel) {
            const int64_t panel = smaller(row_panel, tiles - first);
            const auto steps_of = [&](int64_t i) { return Steps<T>(memory + at_steps + i * own, tile); };
            for (int64_t i = 0; i < panel; ++i) {
                const int64_t k = first + i, channel = k * width;
                const int count = count_of(k);
                load_steps<T, true>(p, b, channel, count, memory + at_weight + k * ranks, steps_of(i));
                const Vec<T> dy = load_first<T>(p.dy + b * p.channels + channel, count);
                const Vec<T> z = load_first<T>(p.z + b * p.channels + channel, count);
                const Vec<T> pre = load_first<T>(p.pre + b * p.channels + channel, count);
                const Vec<T> grad = dy * scan::gate<Math<T>>(z);
                store_first<T>(p.dz + b * p.channels + channel, dy * pre * scan::gate_slope<Math<T>>(z), count);
                for (int64_t n = 0; n < p.state; ++n) {
                    const Vec<T> h = load_first<T>(p.h + (b * p.state + n) * p.channels + channel, count);
                    store<T>(dC + n * width, load<T>(dC + n * width) + h * grad);
                    store<T>(memory + at_G + i * states + n * width, p.C[b * p.state + n] * grad);
                }
                // the skip around the scan, which only the wanted step has
                const Vec<T> u = load<T>(steps_of(i).u + (end - 1) * width);
                T* const dD = memory + at_dD + k * width;
                store<T>(dD, load<T>(dD) + grad * u);
                store_first<T>(p.du + (b * p.length + end - 1) * p.channels + channel,
                               grad * load_first<T>(p.D + channel, count), count);
            }
            for (int64_t n = 0; n < p.state;) {
                const int many = n + 4 <= p.state ? 4 : 1;
                clear(lane, end * many * width);
                for (int64_t i = 0; i < panel; ++i) {
                    const int64_t k = first + i;
                    const auto walk = many == 4 ? walk_states<T, 4> : walk_states<T, 1>;
                    walk(steps_of(i), end, memory + at_rates + k * states, mixed + p.rank + n, columns, n,
                         memory + at_G + i * states, memory + at_dA + k * states, lane);
                }
                add_lane_sums<T>(lane, end * many, all + (p.rank + n) * p.length);
                n += many;
            }
            for (int64_t i = 0; i < panel; ++i) {
                const int64_t k = first + i, channel = k * width;
                const int count = count_of(k);
                const Steps<T> s = steps_of(i);
                Vec<T> before{}, dbias = load<T>(memory + at_dbias + k * width);
                for (int64_t t = 0; t < end; ++t) {
                    const int64_t at = t * width;
                    const Vec<T> ddrive = load<T>(s.ddrive + at);
                    const Vec<T> grad = (before + ddrive * load<T>(s.u + at)) * load<T>(s.slope + at);
                    before += load<T>(s.drive + at) * load<T>(s.pull + at) * T(scan::ln2);
                    dbias += grad;
                    store<T>(s.pull + at, grad);  // from now on the gradient of what the softplus takes
                    T* const du = p.du + (b * p.length + t) * p.channels + channel;
                    Vec<T> total = ddrive * load<T>(s.delta + at);
                    if (t == end - 1) total += load_first<T>(du, count);
                    store_first<T>(du, total, count);
                }
                store<T>(memory + at_dbias + k * width, dbias);
                for (int64_t t = end; t < p.length; ++t) {
                    store_first<T>(p.du + (b * p.length + t) * p.channels + channel, Vec<T>{}, count);
                }
            }
            for (int64_t r = 0; r < p.rank;) {
                const int many = r + 4 <= p.rank ? 4 : 1;
                clear(lane, end * many * width);
                for (int64_t i = 0; i < panel; ++i) {
                    const int64_t k = first + i;
                    const auto walk = many == 4 ? walk_ranks<T, 4> : walk_ranks<T, 1>;
                    walk(steps_of(i).pull, end, memory + at_weight + k * ranks, mixed + r, columns, r,
                         memory + at_dweight + k * ranks, lane);
                }
                add_lane_sums<T>(lane, end * many, all + r * p.length);
                r += many;
            }
        }
        // `all` holds the columns in blocks of four (a step's four side by side), the last ones alone
        T* const dmixed = p.dmixed + b * p.length * columns;
        const auto write = [&](int64_t from, int64_t count) {
            for (int64_t n = 0; n < count;) {
                const int64_t many = n + 4 <= count ? 4 : 1;
                for (int64_t t = 0; t < p.length; ++t) {
                    for (int64_t j = 0; j < many; ++j) {
                        dmixed[t * columns + from + n + j] = t < end ? all[(from + n) * p.length + t * many + j] : T(0);
                    }
                }
                n += many;
            }
        };
        write(0, p.rank);
        write(p.rank, p.state);
        for (int64_t n = 0; n < p.state; ++n) p.dC[b * p.state + n] = sum<T>(load<T>(dC + n * width));
    }
    for (int64_t k = 0; k < tiles; ++k) {
        const int64_t row = k * width;
        const int count = count_of(k);
        store_tile<T>(p.dA + row * p.state, p.state, 1, count, p.state, memory + at_dA + k * states);
        store_tile<T>(p.ddt_weight + row * p.rank, p.rank, 1, count, p.rank, memory + at_dweight + k * ranks);
        store_first<T>(p.dD + row, load<T>(memory + at_dD + k * width), count);
        store_first<T>(p.ddt_bias + row, load<T>(memory + at_dbias + k * width), count);
    }
}

}  // namespace
}  // namespace handcraft::HANDCRAFT_ISA
