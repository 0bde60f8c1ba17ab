// The forward pass of the selective scan (csrc/selective_scan/scan.h) with one channel a lane.
//
// A tile of channels of one sequence is brought into the layout (step, lane), then each state is walked over all steps,
// a few states at a time: the states stay in registers, everything else of the tile in the first cache.
#include "../selective_scan/params.h"
#include "scan_tasks.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// chunks: pieces of the batch. segment: channels of a task at most.
#define SCAN_FORWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) \
    HANDCRAFT_SCAN_FORWARD(POINTER, OPTIONAL, STRIDED, SIZE, REAL) SIZE(chunks) SIZE(segment)
HANDCRAFT_ARGUMENTS(ScanForward, SCAN_FORWARD_FIELDS)

template <typename T, bool FIXED_B, bool FIXED_C, int STATES>
void forward_states(int64_t n, int64_t length, const T* step, const T* drive, const T* rates, const T* B, const T* C,
                    T* y, T* last) {
    constexpr int width = lanes<T>;
    Vec<T> rate[STATES], h[STATES];
    decltype(mixing_of<FIXED_B>(B, n, length)) b[STATES];
    decltype(mixing_of<FIXED_C>(C, n, length)) c[STATES];
#pragma GCC unroll 4
    for (int j = 0; j < STATES; ++j) {
        rate[j] = load<T>(rates + (n + j) * width);
        h[j] = Vec<T>{};
        b[j] = mixing_of<FIXED_B>(B, n + j, length);
        c[j] = mixing_of<FIXED_C>(C, n + j, length);
    }
    for (int64_t t = 0; t < length; ++t) {
        const Vec<T> delta = load<T>(step + t * width), x = load<T>(drive + t * width);
        Vec<T> sum = load<T>(y + t * width);
#pragma GCC unroll 4
        for (int j = 0; j < STATES; ++j) {
            h[j] = scan::advance(scan::decay<Math<T>>(delta, rate[j]), h[j], x, b[j].at(t));
            sum += c[j].at(t) * h[j];
        }
        store<T>(y + t * width, sum);
    }
#pragma GCC unroll 4
    for (int j = 0; j < STATES; ++j) store<T>(last + (n + j) * width, h[j]);
}

template <typename T>
using ForwardStates = void (*)(int64_t n, int64_t length, const T* step, const T* drive, const T* rates, const T* B,
                               const T* C, T* y, T* last);

template <typename T, int STATES>
ForwardStates<T> pick_forward(bool fixed_B, bool fixed_C) {
    if (fixed_B) return fixed_C ? forward_states<T, true, true, STATES> : forward_states<T, true, false, STATES>;
    return fixed_C ? forward_states<T, false, true, STATES> : forward_states<T, false, false, STATES>;
}

template <typename S>
void forward_task(const ScanForward<S>& p, const Grid& grid, const Task& task) {
    using T = Compute<S>;
    using V = Vec<T>;
    constexpr int width = lanes<T>;
    const int64_t length = p.length, state = p.state, tile = length * width, states = state * width;
    const int64_t tiles = ceiling(task.last_channel - task.first_channel, width);
    const bool fixed_B = p.groups_B == 0, fixed_C = p.groups_C == 0;
    Places<T> places;
    const int64_t at_rates = places.take(tiles * states), at_B = places.take(fixed_B ? states : state * length),
                  at_C = places.take(fixed_C ? states : state * length), at_step = places.take(tile),
                  at_drive = places.take(tile), at_y = places.take(tile), at_z = places.take(tile),
                  at_last = places.take(states);
    T* const memory = static_cast<T*>(scratch(places.used * sizeof(T)));
    T *const B = memory + at_B, *const C = memory + at_C, *const step = memory + at_step;
    T *const drive = memory + at_drive, *const y = memory + at_y, *const z = memory + at_z;
    T* const last = memory + at_last;
    const auto block = pick_forward<T, block_states>(fixed_B, fixed_C);
    const auto single = pick_forward<T, 1>(fixed_B, fixed_C);

    for (int64_t i = 0; i < tiles; ++i) {
        const int64_t channel = task.first_channel + i * width;
        const int count = int(smaller(width, task.last_channel - channel));
        load_rates<T>(p.A, channel, count, state, memory + at_rates + i * states);
    }
    const int64_t group = task.segment / grid.segments;
    for (int64_t b = task.first_batch; b < task.last_batch; ++b) {
        if (!fixed_B) {
            const int64_t own = p.groups_B > 1 ? group : 0;
            load_varying(p.B, p.B_b, p.B_g, p.B_n, p.B_l, b, own, state, length, B);
        }
        if (!fixed_C) {
            const int64_t own = p.groups_C > 1 ? group : 0;
            load_varying(p.C, p.C_b, p.C_g, p.C_n, p.C_l, b, own, state, length, C);
        }
        for (int64_t i = 0; i < tiles; ++i) {
            const int64_t channel = task.first_channel + i * width;
            const int count = int(smaller(width, task.last_channel - channel));
            const T* rates = memory + at_rates + i * states;
            if (fixed_B) load_tile<S>(p.B + channel * p.B_g, p.B_g, p.B_n, count, state, B);
            if (fixed_C) load_tile<S>(p.C + channel * p.C_g, p.C_g, p.C_n, count, state, C);
            load_tile<S>(p.u + b * p.u_b + channel * p.u_d, p.u_d, p.u_l, count, length, drive);
            load_tile<S>(p.delta + b * p.delta_b + channel * p.delta_d, p.delta_d, p.delta_l, count, length, step);
            const V bias = load_channels<T>(p.delta_bias, channel, count), D = load_channels<T>(p.D, channel, count);
            for (int64_t t = 0; t < tile; t += width) {
                const V u = load<T>(drive + t);
                const V delta = scan::step_size<Math<T>>(load<T>(step + t), bias, p.delta_softplus != 0);
                store<T>(step + t, delta);
                store<T>(drive + t, delta * u);
                store<T>(y + t, D * u);
            }
            const int64_t next = channel + width;
            if (next < task.last_channel) prefetch_inputs(p, b, next, int(smaller(width, task.last_channel - next)));
            int64_t n = 0;
            for (; n + block_states <= state; n += block_states) block(n, length, step, drive, rates, B, C, y, last);
            for (; n < state; ++n) single(n, length, step, drive, rates, B, C, y, last);
            if (p.z != nullptr) {
                load_tile<S>(p.z + b * p.z_b + channel * p.z_d, p.z_d, p.z_l, count, length, z);
                for (int64_t t = 0; t < tile; t += width) {
                    store<T>(y + t, load<T>(y + t) * scan::gate<Math<T>>(load<T>(z + t)));
                }
            }
            store_tile<S>(p.y + b * p.y_b + channel * p.y_d, p.y_d, p.y_l, count, length, y);
            if (p.last != nullptr) store_tile<T>(p.last + (b * p.dim + channel) * state, state, 1, count, state, last);
        }
    }
}

template <typename S>
void selective_scan_forward(const ScanForward<S>& p) {
    run_tasks<ScanForward<S>>(p, forward_task<S>);
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("selective_scan_forward_f32", ScanForward, float, selective_scan_forward),
    HANDCRAFT_ENTRY("selective_scan_forward_f64", ScanForward, double, selective_scan_forward),
    HANDCRAFT_ENTRY("selective_scan_forward_bf16", ScanForward, bf16, selective_scan_forward),
    HANDCRAFT_ENTRY("selective_scan_forward_f16", ScanForward, f16, selective_scan_forward),
};

}  // namespace

extern const Entries selective_scan_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
