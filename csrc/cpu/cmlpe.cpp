// cmlpe: the whole generator on x (B,M,D), a few clips at a time, which stay in the first two caches throughout.
#include "cmlpe_tile.h"
#include "entry.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// x: each clip contiguous, x_b apart.
#define INPUT_FIELDS(POINTER, STRIDED, SIZE)                                                                           \
    STRIDED(const T, x) SIZE(x_b) POINTER(const Compute<T>, e) POINTER(const Compute<T>, dct)                          \
    POINTER(const Compute<T>, in_weight) POINTER(const Compute<T>, in_bias) POINTER(const Compute<T>, mod_weight)      \
    POINTER(const Compute<T>, mod_bias) POINTER(const Compute<T>, norm_weight) POINTER(const Compute<T>, norm_bias)    \
    POINTER(const Compute<T>, fc_weight) POINTER(const Compute<T>, fc_bias) POINTER(const Compute<T>, out_weight)      \
    POINTER(const Compute<T>, out_bias) SIZE(batch) SIZE(dim) SIZE(frames) SIZE(blocks) SIZE(embedding)

#define FORWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) INPUT_FIELDS(POINTER, STRIDED, SIZE) POINTER(T, y)
HANDCRAFT_ARGUMENTS(Forward, FORWARD_FIELDS)

// Gradients, named with a d before. Without dx the last product is left out.
#define BACKWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                                        \
    INPUT_FIELDS(POINTER, STRIDED, SIZE) POINTER(const T, dy) OPTIONAL(T, dx) POINTER(Compute<T>, de)                  \
    POINTER(Compute<T>, din_weight) POINTER(Compute<T>, din_bias) POINTER(Compute<T>, dmod_weight)                     \
    POINTER(Compute<T>, dmod_bias) POINTER(Compute<T>, dnorm_weight) POINTER(Compute<T>, dnorm_bias)                   \
    POINTER(Compute<T>, dfc_weight) POINTER(Compute<T>, dfc_bias) POINTER(Compute<T>, dout_weight)                     \
    POINTER(Compute<T>, dout_bias)
HANDCRAFT_ARGUMENTS(Backward, BACKWARD_FIELDS)

template <typename T, typename Arguments>
CmlpeParameters<T> parameters(const Arguments& a) {
    return {{a.dim, a.blocks, a.embedding, a.mod_weight, a.mod_bias, a.norm_weight, a.norm_bias, a.fc_weight,
             a.fc_bias},
            a.dct,
            a.in_weight,
            a.in_bias,
            a.out_weight,
            a.out_bias};
}

// Frames (M,D) of a tile's clips in the type that is computed with: as they are, or converted.
template <typename S, int M>
struct Frames {
    using T = Compute<S>;
    static constexpr int clips = AdalnTile<T, M>::clips;
    const T* of[clips];
    T* converted;
    const int64_t size;

    Frames(int64_t dim, Memory<T>& memory) : size(M * dim) { converted = memory.take(same<S, T> ? 0 : clips * size); }

    // step: numbers from a clip to the next.
    void read(const S* x, int64_t step, int64_t count) {
        for (int64_t clip = 0; clip < count; ++clip) {
            if constexpr (same<S, T>) {
                of[clip] = x + clip * step;
            } else {
                convert<S>(x + clip * step, converted + clip * size, size);
                of[clip] = converted + clip * size;
            }
        }
    }
};

template <typename S, int M>
struct ForwardBuffers {
    using T = Compute<S>;
    Frames<S, M> x;
    CmlpeForward<T, M> tile;

    ForwardBuffers(const CmlpeTile<T, M>& cmlpe, Memory<T>& memory) : x(cmlpe.dim, memory), tile(cmlpe, memory) {}
};

template <int M, typename S>
void forward(const Forward<S>& a) {
    using T = Compute<S>;
    using Cmlpe = CmlpeTile<T, M>;
    const CmlpeParameters<T> given = parameters<T>(a);
    const bool narrow = same<S, bf16> && has_bf16_instructions();
    const size_t bytes = size_t(numbers_of<Cmlpe, T>(given, narrow, false)) * sizeof(T);
    Memory<T> memory{static_cast<T*>(workspace(bytes))};
    const Cmlpe cmlpe(given, narrow, false, memory);
    parallel_each((a.batch + Cmlpe::clips - 1) / Cmlpe::clips, [&](int64_t group) {
        auto own = in_scratch<ForwardBuffers<S, M>, T>(cmlpe);
        const int64_t first = group * Cmlpe::clips, left = a.batch - first;
        const int64_t count = left < Cmlpe::clips ? left : Cmlpe::clips;
        own.x.read(a.x + first * a.x_b, a.x_b, count);
        const T* y = cmlpe.forward(own.x.of, a.e + first * a.blocks * a.embedding, count, own.tile);
        for (int64_t clip = 0; clip < count; ++clip) cmlpe.store_frames(y, clip, a.y + (first + clip) * M * a.dim);
    });
}

// Sums over the clips of a chunk; D padded.
template <typename T, int M>
struct Gradients {
    T *in_weight, *in_bias, *out_weight, *out_bias;
    StackGradients<T, M> stack;

    Gradients(const StackParameters<T>& given, Memory<T>& memory) : stack(given, memory) {
        const int64_t rows = round_up(given.dim, row_multiple);
        in_weight = memory.take(rows * rows);
        in_bias = memory.take(rows);
        out_weight = memory.take(rows * rows);
        out_bias = memory.take(rows);
    }
};

// Rows of the tiles of several groups of clips side by side, so that a weight's gradient is one long product.
template <typename T, int M>
struct Gathered {
    using Tile = AdalnTile<T, M>;
    static constexpr int groups = 32 / Tile::columns;
    static constexpr int64_t step = groups * Tile::width + lanes<T>;  // an odd number of lines spreads over the cache
    const int64_t dim, rows;
    T* numbers;

    Gathered(int64_t dim, Memory<T>& memory) : dim(dim), rows(round_up(dim, row_multiple)) {
        numbers = memory.take(rows * step);
    }

    void clear_padding() const { clear(numbers + dim * step, (rows - dim) * step); }

    void put(const T* tile, int64_t group) const {
        for (int64_t d = 0; d < dim; ++d) {
            __builtin_memcpy(numbers + d * step + group * Tile::width, tile + d * Tile::width, Tile::width * sizeof(T));
        }
    }
};

template <typename S, int M>
struct BackwardBuffers {
    using T = Compute<S>;
    using Tile = AdalnTile<T, M>;
    const int64_t tile_step;
    Frames<S, M> x, dy;
    T *h, *coefficients, *dout, *dh, *active, *dmod, *mod, *sums, *found, *spare;
    Gathered<T, M> all_coefficients, all_h, all_dh, all_dout;

    BackwardBuffers(const CmlpeTile<T, M>& cmlpe, int64_t chunk_clips, Memory<T>& memory)
        : tile_step(cmlpe.tile_size),
          x(cmlpe.dim, memory),
          dy(cmlpe.dim, memory),
          all_coefficients(cmlpe.dim, memory),
          all_h(cmlpe.dim, memory),
          all_dh(cmlpe.dim, memory),
          all_dout(cmlpe.dim, memory) {
        h = memory.take((cmlpe.stack.blocks + 1) * tile_step);
        coefficients = memory.take(tile_step);
        dout = memory.take(tile_step);
        dh = memory.take(tile_step);
        active = memory.take(chunk_clips * cmlpe.stack.active_step);
        dmod = memory.take(chunk_clips * cmlpe.stack.mod_step);
        mod = memory.take(Tile::clips * cmlpe.stack.mod_step);
        sums = memory.take(Tile::width);
        found = memory.take(cmlpe.stack.blocks * Tile::statistics);
        spare = memory.take(Tile::spare(cmlpe.dim));
    }
};

// The gradients of clips start .. end - 1: those of the parameters into `grads`, which are 0 before.
template <int M, typename S>
void backward_chunk(const Backward<S>& a, const CmlpeTile<Compute<S>, M>& cmlpe, int64_t start, int64_t end,
                    BackwardBuffers<S, M>& own, const Gradients<Compute<S>, M>& grads) {
    using T = Compute<S>;
    using All = Gathered<T, M>;
    constexpr int clips = AdalnTile<T, M>::clips;
    own.all_coefficients.clear_padding();
    own.all_h.clear_padding();
    own.all_dh.clear_padding();
    own.all_dout.clear_padding();
    int64_t gathered = 0;
    for (int64_t first = start; first < end; first += clips) {
        const int64_t count = end - first < clips ? end - first : clips;
        T* const active = own.active + (first - start) * cmlpe.stack.active_step;
        T* const dmod = own.dmod + (first - start) * cmlpe.stack.mod_step;
        own.x.read(a.x + first * a.x_b, a.x_b, count);
        own.dy.read(a.dy + first * M * a.dim, M * a.dim, count);
        cmlpe.stack.modulate(a.e + first * a.blocks * a.embedding, count, active, own.mod);
        cmlpe.transform(own.x.of, count, own.coefficients);
        cmlpe.map_in(own.coefficients, own.h);
        cmlpe.stack.forward_keeping(own.mod, own.h, own.tile_step, own.sums, own.found);
        cmlpe.transform(own.dy.of, count, own.dout);
        cmlpe.map_out_turned(own.dout, own.dh);
        own.all_h.put(own.h + a.blocks * own.tile_step, gathered);
        own.all_dout.put(own.dout, gathered);
        cmlpe.stack.backward(own.mod, own.h, own.tile_step, own.found, own.dh, grads.stack, dmod, own.spare);
        own.all_coefficients.put(own.coefficients, gathered);
        own.all_dh.put(own.dh, gathered);
        if (a.dx) {
            T *const dcoefficients = own.h, *const dx = own.coefficients;  // neither is needed any more
            cmlpe.map_in_turned(own.dh, dcoefficients);
            cmlpe.transform_back_residual(dcoefficients, own.dout, dx);
            for (int64_t clip = 0; clip < count; ++clip) {
                cmlpe.store_frames(dx, clip, a.dx + (first + clip) * M * a.dim);
            }
        }
        if (++gathered < All::groups && first + clips < end) continue;
        const int64_t depth = gathered * AdalnTile<T, M>::width;
        add_outer_products<T>(own.all_dout.numbers, own.all_h.numbers, All::step, depth, cmlpe.rows, grads.out_weight);
        add_outer_products<T>(own.all_dh.numbers, own.all_coefficients.numbers, All::step, depth, cmlpe.rows,
                              grads.in_weight);
        add_row_sums<T>(own.all_dout.numbers, All::step, depth, cmlpe.rows, grads.out_bias);
        add_row_sums<T>(own.all_dh.numbers, All::step, depth, cmlpe.rows, grads.in_bias);
        gathered = 0;
    }
    const int64_t at = start * a.blocks * a.embedding;
    cmlpe.stack.backward_modulation(a.e + at, own.active, own.dmod, end - start, a.de + at, grads.stack);
}

template <int M, typename S>
void backward(const Backward<S>& a) {
    using T = Compute<S>;
    using Cmlpe = CmlpeTile<T, M>;
    using Sums = Gradients<T, M>;
    const CmlpeParameters<T> given = parameters<T>(a);
    const int64_t chunk_clips = clips_of_chunk(a.batch), chunks = a.batch ? (a.batch - 1) / chunk_clips + 1 : 1;
    const int64_t partial = numbers_of<Sums, T>(given.stack);
    const int64_t numbers = numbers_of<Cmlpe, T>(given, false, true) + chunks * partial;
    Memory<T> memory{static_cast<T*>(workspace(size_t(numbers) * sizeof(T)))};
    const Cmlpe cmlpe(given, false, true, memory);
    T* const partials = memory.take(chunks * partial);
    parallel_each(chunks, [&](int64_t chunk) {
        auto own = in_scratch<BackwardBuffers<S, M>, T>(cmlpe, chunk_clips);
        Memory<T> mine{partials + chunk * partial};
        clear(mine.base, partial);
        const Sums grads(given.stack, mine);
        const int64_t start = chunk * chunk_clips, end = start + chunk_clips;
        backward_chunk<M>(a, cmlpe, start, end < a.batch ? end : a.batch, own, grads);
    });
    Memory<T> first{partials};
    const Sums sums(given.stack, first);
    parallel_each(3, [&](int64_t part) {
        const auto add = [&](const T* from, int64_t columns, int64_t row_count, T* out) {
            add_chunks<T>(from, partial, chunks, row_count, columns, cmlpe.rows, out);
        };
        if (part == 0) add(sums.in_weight, a.dim, a.dim, a.din_weight);
        if (part == 1) add(sums.out_weight, a.dim, a.dim, a.dout_weight);
        if (part < 2) return;
        add(sums.in_bias, a.dim, 1, a.din_bias);
        add(sums.out_bias, a.dim, 1, a.dout_bias);
        sums.stack.add_up(partial, chunks, a.dmod_weight, a.dmod_bias, a.dnorm_weight, a.dnorm_bias, a.dfc_weight,
                          a.dfc_bias);
    });
}

template <typename S>
void cmlpe_forward(const Forward<S>& a) {
    switch (a.frames) {
        case 8: return forward<8>(a);
        case 16: return forward<16>(a);
        case 32: return forward<32>(a);
        case 64: return forward<64>(a);
    }
}

template <typename S>
void cmlpe_backward(const Backward<S>& a) {
    switch (a.frames) {
        case 8: return backward<8>(a);
        case 16: return backward<16>(a);
        case 32: return backward<32>(a);
        case 64: return backward<64>(a);
    }
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("cmlpe_forward_f32", Forward, float, cmlpe_forward),
    HANDCRAFT_ENTRY("cmlpe_forward_f64", Forward, double, cmlpe_forward),
    HANDCRAFT_ENTRY("cmlpe_forward_bf16", Forward, bf16, cmlpe_forward),
    HANDCRAFT_ENTRY("cmlpe_forward_f16", Forward, f16, cmlpe_forward),
    HANDCRAFT_ENTRY("cmlpe_backward_f32", Backward, float, cmlpe_backward),
    HANDCRAFT_ENTRY("cmlpe_backward_f64", Backward, double, cmlpe_backward),
    HANDCRAFT_ENTRY("cmlpe_backward_bf16", Backward, bf16, cmlpe_backward),
    HANDCRAFT_ENTRY("cmlpe_backward_f16", Backward, f16, cmlpe_backward),
};

}  // namespace

extern const Entries cmlpe_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
