// The backward pass of the selective scan (csrc/selective_scan/scan.h) with one channel a lane.
//
// The decays and states of a few states of a tile are computed once more over all steps and kept in the first cache
// while these states are walked back, so that no exponential is computed a third time. Gradients of B and C are sums
// over channels: the tiles of a panel add to the same registers of sums, whose lanes are added once a panel.
#include "../selective_scan/params.h"
#include "scan_tasks.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// Partial sums: those of A, D, delta_bias and of constant B and C are (chunks, ...), as the gradient itself lies; those
// of other B and C (segments of all groups, batch, state, length).
#define SCAN_BACKWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                          \
    HANDCRAFT_SCAN_BACKWARD(POINTER, OPTIONAL, STRIDED, SIZE, REAL) SIZE(chunks) SIZE(segment)                \
    POINTER(Compute<T>, partial_A) POINTER(Compute<T>, partial_B) POINTER(Compute<T>, partial_C)              \
    POINTER(Compute<T>, partial_D) POINTER(Compute<T>, partial_bias)
HANDCRAFT_ARGUMENTS(ScanBackward, SCAN_BACKWARD_FIELDS)

// Tiles of a panel, if so many fit into this many bytes of the second cache.
constexpr int64_t panel_tiles = 4, panel_bytes = 384 << 10;

// What a block of states of one tile is walked with; (steps), (states) and (steps, block) count registers of channels.
template <typename T>
struct Walk {
    int64_t length;
    const T *step, *drive, *dy;   // (steps)
    const T *rates, *dlast;       // (states)
    const T *B, *C;               // as mixing_of takes them
    T *y, *ddrive, *pull;         // (steps), added to
    T *dA;                        // (states), added to
    T *fixed_dB, *fixed_dC;       // (states), added to where B or C is constant
    T *a, *h;                     // (steps, block) and (1 + steps, block), for the walk's own use
    T *dB, *dC;                   // (steps, block), added to where B or C changes over time
};

template <typename T, bool FIXED_B, bool FIXED_C, int STATES>
void backward_states(const Walk<T>& given, int64_t n) {
    constexpr int width = lanes<T>;
    const Walk<T> w = given;  // a copy of its own, which no store can change
    Vec<T> rate[STATES], h[STATES], carried[STATES], dA[STATES] = {}, dB[STATES] = {}, dC[STATES] = {};
    decltype(mixing_of<FIXED_B>(w.B, n, w.length)) b[STATES];
    decltype(mixing_of<FIXED_C>(w.C, n, w.length)) c[STATES];
#pragma GCC unroll 4
    for (int j = 0; j < STATES; ++j) {
        rate[j] = load<T>(w.rates + (n + j) * width);
        carried[j] = load<T>(w.dlast + (n + j) * width);
        b[j] = mixing_of<FIXED_B>(w.B, n + j, w.length);
        c[j] = mixing_of<FIXED_C>(w.C, n + j, w.length);
        h[j] = Vec<T>{};
        store<T>(w.h + j * width, h[j]);
    }
    for (int64_t t = 0; t < w.length; ++t) {
        const Vec<T> delta = load<T>(w.step + t * width), x = load<T>(w.drive + t * width);
        const Vec<T> dy = load<T>(w.dy + t * width);
        Vec<T> sum = load<T>(w.y + t * width);
#pragma GCC unroll 4
        for (int j = 0; j < STATES; ++j) {
            const int64_t at = (t * STATES + j) * width;
            const Vec<T> a = scan::decay<Math<T>>(delta, rate[j]);
            h[j] = scan::advance(a, h[j], x, b[j].at(t));
            store<T>(w.a + at, a);
            store<T>(w.h + at + STATES * width, h[j]);
            sum += c[j].at(t) * h[j];
            if constexpr (FIXED_C) {
                dC[j] += dy * h[j];
            } else {
                store<T>(w.dC + at, load<T>(w.dC + at) + dy * h[j]);
            }
        }
        store<T>(w.y + t * width, sum);
    }
    for (int64_t t = w.length - 1; t >= 0; --t) {
        const Vec<T> delta = load<T>(w.step + t * width), x = load<T>(w.drive + t * width);
        const Vec<T> dy = load<T>(w.dy + t * width);
        Vec<T> ddrive = load<T>(w.ddrive + t * width), pull = load<T>(w.pull + t * width);
#pragma GCC unroll 4
        for (int j = 0; j < STATES; ++j) {
            const int64_t at = (t * STATES + j) * width;
            const auto r = scan::reverse(carried[j], dy, c[j].at(t), load<T>(w.a + at), load<T>(w.h + at));
            ddrive += r.g * b[j].at(t);
            pull += r.exponent * rate[j];
            dA[j] += r.exponent * delta;
            if constexpr (FIXED_B) {
                dB[j] += r.g * x;
            } else {
                store<T>(w.dB + at, load<T>(w.dB + at) + r.g * x);
            }
        }
        store<T>(w.ddrive + t * width, ddrive);
        store<T>(w.pull + t * width, pull);
    }
#pragma GCC unroll 4
    for (int j = 0; j < STATES; ++j) {
        const int64_t at = (n + j) * width;
        store<T>(w.dA + at, load<T>(w.dA + at) + dA[j]);
        if constexpr (FIXED_B) store<T>(w.fixed_dB + at, load<T>(w.fixed_dB + at) + dB[j]);
        if constexpr (FIXED_C) store<T>(w.fixed_dC + at, load<T>(w.fixed_dC + at) + dC[j]);
    }
}

template <typename T>
using BackwardStates = void (*)(const Walk<T>&, int64_t n);

template <typename T, int STATES>
BackwardStates<T> pick_backward(bool fixed_B, bool fixed_C) {
    if (fixed_B) return fixed_C ? backward_states<T, true, true, STATES> : backward_states<T, true, false, STATES>;
    return fixed_C ? backward_states<T, false, true, STATES> : backward_states<T, false, false, STATES>;
}

// Where a task keeps what; sizes in numbers.
template <typename T>
struct Memory {
    static constexpr int width = lanes<T>;
    int64_t tile, states, mixing, sums, tiles, panel;
    bool fixed_B, fixed_C;
    T *rates, *dA, *fixed_dB, *fixed_dC, *dD, *dbias;                              // of all tiles
    T *step, *slope, *drive, *u, *dy, *dgate, *gate, *y, *ddrive, *pull, *dlast;  // of the tiles of a panel
    T *B, *C;                                                                      // of a sequence, or of a panel
    T *a, *h, *dB, *dC;                                                            // of a block of states
    T *all_dB, *all_dC;                                                            // (state, length), lanes added

    template <typename P>
    Memory(const P& p, int64_t channels)
        : tile(p.length * width),
          states(p.state * width),
          mixing(p.state * p.length),
          sums(ceiling(p.length * block_states, width) * width * width),
          tiles(ceiling(channels, width)),
          panel(smaller(tiles, larger(1, smaller(panel_tiles, panel_bytes / (10 * tile * int64_t(sizeof(T))))))),
          fixed_B(p.groups_B == 0),
          fixed_C(p.groups_C == 0) {
        struct Piece {
            T** pointer;
            int64_t count;
        } const pieces[] = {
            {&rates, tiles * states}, {&dA, tiles * states}, {&fixed_dB, fixed_B ? tiles * states : 0},
            {&fixed_dC, fixed_C ? tiles * states : 0}, {&dD, tiles * width}, {&dbias, tiles * width},
            {&step, panel * tile}, {&slope, panel * tile}, {&drive, panel * tile}, {&u, panel * tile},
            {&dy, panel * tile}, {&dgate, panel * tile}, {&gate, panel * tile}, {&y, panel * tile},
            {&ddrive, panel * tile}, {&pull, panel * tile}, {&dlast, panel * states},
            {&B, fixed_B ? panel * states : mixing}, {&C, fixed_C ? panel * states : mixing},
            {&a, sums}, {&h, sums + block_states * width}, {&dB, sums}, {&dC, sums},
            {&all_dB, mixing}, {&all_dC, mixing},
        };
        int64_t used = 0;
        for (const Piece& piece : pieces) used += ceiling(piece.count, width) * width;
        T* next = static_cast<T*>(scratch(used * sizeof(T)));
        for (const Piece& piece : pieces) {
            *piece.pointer = next;
            next += ceiling(piece.count, width) * width;
        }
    }
};

// Everything of a tile that no state changes: tile i of the panel, whose first channel is given.
template <typename S, typename T>
void load_inputs(const ScanBackward<S>& p, const Memory<T>& m, int64_t b, int64_t i, int64_t channel, int count) {
    constexpr int width = lanes<T>;
    using V = Vec<T>;
    const int64_t at = i * m.tile;
    load_tile<S>(p.u + b * p.u_b + channel * p.u_d, p.u_d, p.u_l, count, p.length, m.u + at);
    load_tile<S>(p.delta + b * p.delta_b + channel * p.delta_d, p.delta_d, p.delta_l, count, p.length, m.step + at);
    load_tile<S>(p.dy + b * p.dy_b + channel * p.dy_d, p.dy_d, p.dy_l, count, p.length, m.dy + at);
    if (p.z != nullptr) load_tile<S>(p.z + b * p.z_b + channel * p.z_d, p.z_d, p.z_l, count, p.length, m.gate + at);
    if (p.dlast != nullptr) {
        load_tile<T>(p.dlast + (b * p.dim + channel) * p.state, p.state, 1, count, p.state, m.dlast + i * m.states);
    } else {
        clear(m.dlast + i * m.states, m.states);
    }
    const V bias = load_channels<T>(p.delta_bias, channel, count), D = load_channels<T>(p.D, channel, count);
    for (int64_t t = at; t < at + m.tile; t += width) {
        const V u = load<T>(m.u + t), raw = load<T>(m.step + t);
        const V delta = scan::step_size<Math<T>>(raw, bias, p.delta_softplus != 0);
        store<T>(m.slope + t, scan::step_gradient<Math<T>>(broadcast<T>(1), raw, bias, p.delta_softplus != 0));
        store<T>(m.step + t, delta);
        store<T>(m.drive + t, delta * u);
        store<T>(m.y + t, D * u);
        store<T>(m.ddrive + t, V{});
        store<T>(m.pull + t, V{});
        if (p.z != nullptr) {
            const V z = load<T>(m.gate + t), dout = load<T>(m.dy + t), gate = scan::gate<Math<T>>(z);
            store<T>(m.gate + t, gate);
            store<T>(m.dgate + t, dout * scan::gate_slope<Math<T>>(z));
            store<T>(m.dy + t, dout * gate);
        }
    }
}

// The gradients of a tile that is tile i of its panel and tile `k` of the task.
template <typename S, typename T>
void store_gradients(const ScanBackward<S>& p, const Memory<T>& m, int64_t b, int64_t i, int64_t k, int64_t channel,
                     int count) {
    constexpr int width = lanes<T>;
    using V = Vec<T>;
    const int64_t at = i * m.tile;
    const V D = load_channels<T>(p.D, channel, count);
    V dD = load<T>(m.dD + k * width), dbias = load<T>(m.dbias + k * width);
    for (int64_t t = at; t < at + m.tile; t += width) {
        const V u = load<T>(m.u + t), ddrive = load<T>(m.ddrive + t), dy = load<T>(m.dy + t), y = load<T>(m.y + t);
        const V ddelta = (load<T>(m.pull + t) * T(scan::ln2) + u * ddrive) * load<T>(m.slope + t);
        dD += dy * u;
        dbias += ddelta;
        store<T>(m.pull + t, ddelta);
        store<T>(m.ddrive + t, load<T>(m.step + t) * ddrive + dy * D);
        if (p.z != nullptr) {
            store<T>(m.dgate + t, load<T>(m.dgate + t) * y);
            store<T>(m.y + t, load<T>(m.gate + t) * y);
        }
    }
    store<T>(m.dD + k * width, dD);
    store<T>(m.dbias + k * width, dbias);
    store_tile<S>(p.du + b * p.du_b + channel * p.du_d, p.du_d, p.du_l, count, p.length, m.ddrive + at);
    S* const ddelta = p.ddelta + b * p.ddelta_b + channel * p.ddelta_d;
    store_tile<S>(ddelta, p.ddelta_d, p.ddelta_l, count, p.length, m.pull + at);
    if (p.z != nullptr) {
        store_tile<S>(p.dz + b * p.dz_b + channel * p.dz_d, p.dz_d, p.dz_l, count, p.length, m.dgate + at);
    }
    if (p.y != nullptr) store_tile<S>(p.y + b * p.y_b + channel * p.y_d, p.y_d, p.y_l, count, p.length, m.y + at);
}

template <typename S>
void backward_task(const ScanBackward<S>& p, const Grid& grid, const Task& task) {
    using T = Compute<S>;
    constexpr int width = lanes<T>;
    const Memory<T> m(p, task.last_channel - task.first_channel);
    const auto block = pick_backward<T, block_states>(m.fixed_B, m.fixed_C);
    const auto single = pick_backward<T, 1>(m.fixed_B, m.fixed_C);
    const auto channel_of = [&](int64_t k) { return task.first_channel + k * width; };
    const auto count_of = [&](int64_t k) { return int(smaller(width, task.last_channel - channel_of(k))); };

    for (int64_t k = 0; k < m.tiles; ++k) {
        load_rates<T>(p.A, channel_of(k), count_of(k), p.state, m.rates + k * m.states);
    }
    clear(m.dA, m.tiles * m.states);
    if (m.fixed_B) clear(m.fixed_dB, m.tiles * m.states);
    if (m.fixed_C) clear(m.fixed_dC, m.tiles * m.states);
    clear(m.dD, m.tiles * width);
    clear(m.dbias, m.tiles * width);
    const int64_t group = task.segment / grid.segments;
    for (int64_t b = task.first_batch; b < task.last_batch; ++b) {
        if (!m.fixed_B) {
            load_varying(p.B, p.B_b, p.B_g, p.B_n, p.B_l, b, p.groups_B > 1 ? group : 0, p.state, p.length, m.B);
        }
        if (!m.fixed_C) {
            load_varying(p.C, p.C_b, p.C_g, p.C_n, p.C_l, b, p.groups_C > 1 ? group : 0, p.state, p.length, m.C);
        }
        clear(m.all_dB, m.mixing);
        clear(m.all_dC, m.mixing);
        for (int64_t first = 0; first < m.tiles; first += m.panel) {
            const int64_t panel = smaller(m.panel, m.tiles - first);
            for (int64_t i = 0; i < panel; ++i) {
                const int64_t channel = channel_of(first + i);
                const int count = count_of(first + i);
                load_inputs<S, T>(p, m, b, i, channel, count);
                if (m.fixed_B) load_tile<S>(p.B + channel * p.B_g, p.B_g, p.B_n, count, p.state, m.B + i * m.states);
                if (m.fixed_C) load_tile<S>(p.C + channel * p.C_g, p.C_g, p.C_n, count, p.state, m.C + i * m.states);
            }
            for (int64_t n = 0; n < p.state;) {
                const int states = n + block_states <= p.state ? block_states : 1;
                const int64_t next = first + m.panel + n / states;  // of the next panel, one tile a block
                if (n / states < m.panel && next < m.tiles) {
                    const int64_t channel = channel_of(next);
                    prefetch_inputs(p, b, channel, count_of(next));
                    prefetch_tile(p.dy + b * p.dy_b + channel * p.dy_d, p.dy_d, p.dy_l, count_of(next), p.length);
                }
                clear(m.dB, p.length * states * width);
                clear(m.dC, p.length * states * width);
                for (int64_t i = 0; i < panel; ++i) {
                    const int64_t at = i * m.tile, k = first + i;
                    const Walk<T> walk{p.length, m.step + at, m.drive + at, m.dy + at, m.rates + k * m.states,
                                       m.dlast + i * m.states, m.fixed_B ? m.B + i * m.states : m.B,
                                       m.fixed_C ? m.C + i * m.states : m.C, m.y + at, m.ddrive + at, m.pull + at,
                                       m.dA + k * m.states, m.fixed_dB + k * m.states, m.fixed_dC + k * m.states,
                                       m.a, m.h, m.dB, m.dC};
                    (states == 1 ? single : block)(walk, n);
                }
                if (!m.fixed_B) add_lane_sums<T>(m.dB, p.length * states, m.all_dB + n * p.length);
                if (!m.fixed_C) add_lane_sums<T>(m.dC, p.length * states, m.all_dC + n * p.length);
                n += states;
            }
            for (int64_t i = 0; i < panel; ++i) {
                store_gradients<S, T>(p, m, b, i, first + i, channel_of(first + i), count_of(first + i));
            }
        }
        const int64_t row = (task.segment * p.batch + b) * m.mixing;
        if (!m.fixed_B) for (int64_t i = 0; i < m.mixing; ++i) p.partial_B[row + i] = m.all_dB[i];
        if (!m.fixed_C) for (int64_t i = 0; i < m.mixing; ++i) p.partial_C[row + i] = m.all_dC[i];
    }
    for (int64_t k = 0; k < m.tiles; ++k) {
        const int64_t row = task.chunk * p.dim + channel_of(k);
        const auto store_states = [&](T* out, const T* sums) {
            store_tile<T>(out + row * p.state, p.state, 1, count_of(k), p.state, sums + k * m.states);
        };
        store_states(p.partial_A, m.dA);
        if (m.fixed_B) store_states(p.partial_B, m.fixed_dB);
        if (m.fixed_C) store_states(p.partial_C, m.fixed_dC);
        store_first<T>(p.partial_D + row, load<T>(m.dD + k * width), count_of(k));
        store_first<T>(p.partial_bias + row, load<T>(m.dbias + k * width), count_of(k));
    }
}

// As add_chunks for a constant B or C, whose gradient is (channel, state) in any strides.
template <typename S, typename T>
void add_fixed(T* parts, int64_t chunks, int64_t dim, int64_t state, int64_t begin, int64_t end, S* out, int64_t sd,
               int64_t sn) {
    for (int64_t d = begin; d < end; ++d) {
        for (int64_t n = 0; n < state; ++n) {
            T total = 0;
            for (int64_t c = 0; c < chunks; ++c) total += parts[(c * dim + d) * state + n];
            out[d * sd + n * sn] = from_compute<S>(total);
        }
    }
}

// Of B or C that change over time, the gradient of sequence b: the sum over the segments of each group.
template <typename S, typename T>
void add_segments(const T* parts, const Grid& grid, int64_t batch, int64_t state, int64_t length, int64_t groups,
                  int64_t b, S* out, int64_t sb, int64_t sg, int64_t sn, int64_t sl) {
    const int64_t segments = grid.all_segments() / groups, size = state * length;
    for (int64_t g = 0; g < groups; ++g) {
        const T* from = parts + (g * segments * batch + b) * size;
        for (int64_t n = 0; n < state;) {
            const int64_t states = n + block_states <= state ? block_states : 1;
            for (int j = 0; j < states; ++j) {
                for (int64_t t = 0; t < length; ++t) {
                    T total = 0;
                    const T* part = from + n * length + t * states + j;
                    for (int64_t s = 0; s < segments; ++s, part += batch * size) total += *part;
                    out[b * sb + g * sg + (n + j) * sn + t * sl] = from_compute<S>(total);
                }
            }
            n += states;
        }
    }
}

template <typename S>
void selective_scan_backward(const ScanBackward<S>& p) {
    run_tasks<ScanBackward<S>>(p, backward_task<S>);
    const auto channels = [](int64_t begin, int64_t end, void* given) {
        const auto& p = *static_cast<const ScanBackward<S>*>(given);
        add_chunks(p.partial_A, p.chunks, p.dim, p.state, begin, end, p.dA);
        if (p.dD != nullptr) add_chunks(p.partial_D, p.chunks, p.dim, 1, begin, end, p.dD);
        if (p.ddelta_bias != nullptr) add_chunks(p.partial_bias, p.chunks, p.dim, 1, begin, end, p.ddelta_bias);
        if (p.groups_B == 0) add_fixed(p.partial_B, p.chunks, p.dim, p.state, begin, end, p.dB, p.dB_g, p.dB_n);
        if (p.groups_C == 0) add_fixed(p.partial_C, p.chunks, p.dim, p.state, begin, end, p.dC, p.dC_g, p.dC_n);
    };
    const auto sequences = [](int64_t begin, int64_t end, void* given) {
        const auto& p = *static_cast<const ScanBackward<S>*>(given);
        const Grid grid(p);
        for (int64_t b = begin; b < end; ++b) {
            if (p.groups_B > 0) {
                add_segments(p.partial_B, grid, p.batch, p.state, p.length, p.groups_B, b, p.dB, p.dB_b,
                             p.dB_g, p.dB_n, p.dB_l);
            }
            if (p.groups_C > 0) {
                add_segments(p.partial_C, grid, p.batch, p.state, p.length, p.groups_C, b, p.dC, p.dC_b,
                             p.dC_g, p.dC_n, p.dC_l);
            }
        }
    };
    auto* given = const_cast<ScanBackward<S>*>(&p);
    parallel_for(p.dim, 1 + thread_updates / larger(1, p.state * p.chunks), channels, given);
    parallel_for(p.batch, 1 + thread_updates / larger(1, p.state * p.length), sequences, given);
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("selective_scan_backward_f32", ScanBackward, float, selective_scan_backward),
    HANDCRAFT_ENTRY("selective_scan_backward_f64", ScanBackward, double, selective_scan_backward),
    HANDCRAFT_ENTRY("selective_scan_backward_bf16", ScanBackward, bf16, selective_scan_backward),
    HANDCRAFT_ENTRY("selective_scan_backward_f16", ScanBackward, f16, selective_scan_backward),
};

}  // namespace

extern const Entries selective_scan_backward_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
