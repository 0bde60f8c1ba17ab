// What the kernels of the scan and of the Mamba block share: how the scan's work is cut, what its two passes load, and
// sums of partial results.
//
// Work is cut by shape alone, never by threads: a task is a chunk of the batch and a segment of the channels that lies
// within one group of B and of C. What tasks share is summed from their partial results, in order.
#pragma once

#include "../selective_scan/scan.h"
#include "entry.h"
#include "tile.h"
#include "vecmath.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// States that are walked together: as many as the registers hold, for independent chains and fewer passes over a tile.
constexpr int block_states = vector_registers == 32 ? 4 : 2;
// State updates below which another thread costs more than it brings.
constexpr int64_t thread_updates = 1 << 15;

template <typename T>
struct Math {
    static HANDCRAFT_INLINE Vec<T> exp2(Vec<T> x) { return HANDCRAFT_ISA::exp2<T>(x); }
    static HANDCRAFT_INLINE Vec<T> sigmoid(Vec<T> x) { return HANDCRAFT_ISA::sigmoid<T>(x); }
    static HANDCRAFT_INLINE Vec<T> softplus(Vec<T> x) { return HANDCRAFT_ISA::softplus<T>(x); }
};

HANDCRAFT_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
HANDCRAFT_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
HANDCRAFT_INLINE int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ------------------------------------------------------------------------------------------------- who computes what

struct Task {
    int64_t chunk, first_batch, last_batch;         // sequences first_batch .. last_batch - 1
    int64_t segment, first_channel, last_channel;
};

struct Grid {
    int64_t chunks, groups, group_channels, segments;  // segments of one group

    template <typename P>
    explicit Grid(const P& p)
        : chunks(p.chunks),
          groups(larger(1, larger(p.groups_B, p.groups_C))),
          group_channels(p.dim / groups),
          segments(ceiling(group_channels, p.segment)) {}

    int64_t all_segments() const { return groups * segments; }
    int64_t tasks() const { return chunks * all_segments(); }

    template <typename P>
    Task task(const P& p, int64_t index) const {
        const int64_t chunk = index / all_segments(), segment = index % all_segments();
        const int64_t group = segment / segments, within = segment % segments * p.segment;
        const int64_t first = group * group_channels + within;
        return {chunk,   p.batch * chunk / chunks,   p.batch * (chunk + 1) / chunks,
                segment, first, first + smaller(p.segment, group_channels - within)};
    }
};

// Calls run(p, grid, task) for all tasks.
template <typename P>
void run_tasks(const P& p, void (*run)(const P&, const Grid&, const Task&)) {
    struct Context {
        const P& p;
        const Grid grid;
        void (*run)(const P&, const Grid&, const Task&);
    } context{p, Grid(p), run};
    const int64_t updates = p.batch * p.dim * p.state * p.length / larger(1, context.grid.tasks());
    parallel_for(
        context.grid.tasks(), larger(1, thread_updates / larger(1, updates)),
        [](int64_t begin, int64_t end, void* given) {
            const Context& c = *static_cast<const Context*>(given);
            for (int64_t i = begin; i < end; ++i) c.run(c.p, c.grid, c.grid.task(c.p, i));
        },
        &context);
}

// Calls run(p, chunk) for all chunks of the batch.
template <typename P, void (*run)(const P&, int64_t chunk)>
void run_chunks(const P& p) {
    parallel_for(
        p.chunks, 1,
        [](int64_t begin, int64_t end, void* given) {
            for (int64_t chunk = begin; chunk < end; ++chunk) run(*static_cast<const P*>(given), chunk);
        },
        const_cast<P*>(&p));
}

// Hands out pieces of one buffer, each a whole number of registers; `used` numbers in all.
template <typename T>
struct Places {
    int64_t used = 0;
    int64_t take(int64_t count) {
        const int64_t at = used;
        used += ceiling(count, lanes<T>) * lanes<T>;
        return at;
    }
};

// --------------------------------------------------------------------------------- B and C, rates, steps of one tile

// B or C of one state at a step: a number for all lanes, or one that is constant in time.
template <typename T>
struct Varying {
    const T* values;
    HANDCRAFT_INLINE Vec<T> at(int64_t t) const { return broadcast<T>(values[t]); }
};
template <typename T>
struct Constant {
    Vec<T> value;
    HANDCRAFT_INLINE Vec<T> at(int64_t) const { return value; }
};

// State n of what load_mixing has laid out.
template <bool FIXED, typename T>
HANDCRAFT_INLINE auto mixing_of(const T* laid, int64_t n, int64_t length) {
    if constexpr (FIXED) {
        return Constant<T>{load<T>(laid + n * lanes<T>)};
    } else {
        return Varying<T>{laid + n * length};
    }
}

// B or C that change over time, of sequence b and the group of a channel: (state, length).
template <typename S>
void load_varying(const S* x, int64_t sb, int64_t sg, int64_t sn, int64_t sl, int64_t b, int64_t group, int64_t state,
                  int64_t length, Compute<S>* laid) {
    const S* from = x + b * sb + group * sg;
    for (int64_t n = 0; n < state; ++n) {
        for (int64_t t = 0; t < length; ++t) laid[n * length + t] = to_compute(from[n * sn + t * sl]);
    }
}

// rates (state, lane) of the channels of a tile: A log2(e).
template <typename T>
void load_rates(const T* A, int64_t channel, int count, int64_t state, T* rates) {
    load_tile<T>(A + channel * state, state, 1, count, state, rates);
    for (int64_t i = 0; i < state * lanes<T>; i += lanes<T>) {
        store<T>(rates + i, load<T>(rates + i) * T(scan::log2e));
    }
}

// Asks for the activations that another tile of the sequence will need soon.
template <typename P>
HANDCRAFT_INLINE void prefetch_inputs(const P& p, int64_t b, int64_t channel, int count) {
    prefetch_tile(p.u + b * p.u_b + channel * p.u_d, p.u_d, p.u_l, count, p.length);
    prefetch_tile(p.delta + b * p.delta_b + channel * p.delta_d, p.delta_d, p.delta_l, count, p.length);
    if (p.z != nullptr) prefetch_tile(p.z + b * p.z_b + channel * p.z_d, p.z_d, p.z_l, count, p.length);
}

// A number for each channel of a tile; 0 where there is none.
template <typename T>
Vec<T> load_channels(const T* x, int64_t channel, int count) {
    return x == nullptr ? Vec<T>{} : load_first<T>(x + channel, count);
}

// out[i] = the sum over chunks of parts[chunk][i], for the channels `begin` to `end` with `each` numbers a channel.
template <typename T>
void add_chunks(const T* parts, int64_t chunks, int64_t dim, int64_t each, int64_t begin, int64_t end, T* out) {
    for (int64_t i = begin * each; i < end * each; ++i) out[i] = parts[i];
    for (int64_t c = 1; c < chunks; ++c) {
        const T* part = parts + c * dim * each;
        for (int64_t i = begin * each; i < end * each; ++i) out[i] += part[i];
    }
}

}  // namespace
}  // namespace handcraft::HANDCRAFT_ISA
