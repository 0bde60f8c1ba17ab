// adaln_mlp and adaln_mlp_stack: K conditional MLP blocks on h (B,D,M). The modulation is given, or computed from an
// embedding. A few clips' h stay in the first cache through all blocks.
#include "adaln_stack.h"
#include "entry.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

#define PARAMETER_FIELDS(POINTER, OPTIONAL)                                                                     \
    OPTIONAL(const Compute<T>, e) OPTIONAL(const Compute<T>, mod) OPTIONAL(const Compute<T>, mod_weight)        \
    OPTIONAL(const Compute<T>, mod_bias) POINTER(const Compute<T>, norm_weight) POINTER(const Compute<T>, norm_bias) \
    POINTER(const Compute<T>, fc_weight) POINTER(const Compute<T>, fc_bias)
#define SIZE_FIELDS(SIZE) SIZE(batch) SIZE(dim) SIZE(frames) SIZE(blocks) SIZE(embedding)

// e (B,K,E) with mod_weight and mod_bias, or mod (B,K,3M) without.
#define FORWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) \
    POINTER(const T, h) PARAMETER_FIELDS(POINTER, OPTIONAL) POINTER(T, out) SIZE_FIELDS(SIZE)
HANDCRAFT_ARGUMENTS(Forward, FORWARD_FIELDS)

// Gradients, named with a d before: de, dmod_weight and dmod_bias where e is given, else dmod.
#define BACKWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                                      \
    POINTER(const T, dout) POINTER(const T, h) PARAMETER_FIELDS(POINTER, OPTIONAL) POINTER(T, dh)                    \
    OPTIONAL(Compute<T>, de) OPTIONAL(Compute<T>, dmod) OPTIONAL(Compute<T>, dmod_weight)                            \
    OPTIONAL(Compute<T>, dmod_bias) POINTER(Compute<T>, dnorm_weight) POINTER(Compute<T>, dnorm_bias)                \
    POINTER(Compute<T>, dfc_weight) POINTER(Compute<T>, dfc_bias) SIZE_FIELDS(SIZE)
HANDCRAFT_ARGUMENTS(Backward, BACKWARD_FIELDS)

// h (D,M) of one clip into its lanes of a tile, and back; the lanes beyond M, and those of a missing clip, are 0.
template <typename S, int M>
void load_clip(const S* h, int64_t dim, Compute<S>* tile) {
    using Tile = AdalnTile<Compute<S>, M>;
    constexpr int n = lanes<Compute<S>>;
    for (int64_t d = 0; d < dim; ++d) {
        for (int c = 0; c < Tile::vectors; ++c) {
            Vec<Compute<S>> value = {};
            if (h) value = M >= n ? load_as_compute<S>(h + d * M + c * n) : load_first<S>(h + d * M, M);
            store<Compute<S>>(tile + d * Tile::width + c * n, value);
        }
    }
}
template <typename S, int M>
void store_clip(const Compute<S>* tile, int64_t dim, S* h) {
    using Tile = AdalnTile<Compute<S>, M>;
    constexpr int n = lanes<Compute<S>>;
    for (int64_t d = 0; d < dim; ++d) {
        for (int c = 0; c < Tile::vectors; ++c) {
            const Vec<Compute<S>> value = load<Compute<S>>(tile + d * Tile::width + c * n);
            if constexpr (M >= n) {
                store_from_compute<S>(h + d * M + c * n, value);
            } else {
                store_first<S>(h + d * M, value, M);
            }
        }
    }
}

// What both passes do with a tile of clips first .. first + count - 1.
template <typename S, int M, typename Arguments>
struct Clips {
    using T = Compute<S>;
    using Tile = AdalnTile<T, M>;
    const Arguments& a;
    const AdalnStack<T, M>& stack;

    void load(const S* h, int64_t first, int64_t count, T* tile) const {
        for (int i = 0; i < Tile::clips; ++i) {
            load_clip<S, M>(i < count ? h + (first + i) * a.dim * M : nullptr, a.dim, tile + i * Tile::padded);
        }
    }
    void store(const T* tile, int64_t first, int64_t count, S* h) const {
        for (int i = 0; i < count; ++i) store_clip<S, M>(tile + i * Tile::padded, a.dim, h + (first + i) * a.dim * M);
    }
    void load_modulation(int64_t first, int64_t count, T* active, T* mod) const {
        if (a.e) return stack.modulate(a.e + first * a.blocks * a.embedding, count, active, mod);
        clear(mod, Tile::clips * stack.mod_step);
        for (int64_t row = 0; row < count * a.blocks * 3; ++row) {
            __builtin_memcpy(mod + row * Tile::padded, a.mod + (first * a.blocks * 3 + row) * M, M * sizeof(T));
        }
    }
};

template <typename T, int M>
struct ForwardBuffers {
    using Tile = AdalnTile<T, M>;
    T *h, *active, *mod, *sums, *found;

    ForwardBuffers(const AdalnStack<T, M>& stack, Memory<T>& memory) {
        h = memory.take(stack.dim * Tile::width);
        active = memory.take(Tile::clips * stack.active_step);
        mod = memory.take(Tile::clips * stack.mod_step);
        sums = memory.take(Tile::width);
        found = memory.take(Tile::statistics);
    }
};

template <int M, typename S>
void forward(const Forward<S>& a) {
    using T = Compute<S>;
    using Stack = AdalnStack<T, M>;
    const StackParameters<T> given = {a.dim,         a.blocks,    a.embedding, a.mod_weight, a.mod_bias,
                                      a.norm_weight, a.norm_bias, a.fc_weight, a.fc_bias};
    Memory<T> memory{static_cast<T*>(workspace(size_t(numbers_of<Stack, T>(given)) * sizeof(T)))};
    const Stack stack(given, memory);
    const Clips<S, M, Forward<S>> clips{a, stack};
    parallel_each((a.batch + Stack::clips - 1) / Stack::clips, [&](int64_t group) {
        const auto own = in_scratch<ForwardBuffers<T, M>, T>(stack);
        const int64_t first = group * Stack::clips, left = a.batch - first;
        const int64_t count = left < Stack::clips ? left : Stack::clips;
        clips.load(a.h, first, count, own.h);
        clips.load_modulation(first, count, own.active, own.mod);
        stack.forward(own.mod, own.h, own.sums, own.found);
        clips.store(own.h, first, count, a.out);
    });
}

template <typename T, int M>
struct BackwardBuffers {
    using Tile = AdalnTile<T, M>;
    const int64_t tile_step;
    T *h, *dh, *active, *dmod, *mod, *sums, *found, *spare;

    BackwardBuffers(const AdalnStack<T, M>& stack, int64_t chunk_clips, Memory<T>& memory)
        : tile_step(stack.dim * Tile::width) {
        h = memory.take((stack.blocks + 1) * tile_step);
        dh = memory.take(tile_step);
        active = memory.take(chunk_clips * stack.active_step);
        dmod = memory.take(chunk_clips * stack.mod_step);
        mod = memory.take(Tile::clips * stack.mod_step);
        sums = memory.take(Tile::width);
        found = memory.take(stack.blocks * Tile::statistics);
        spare = memory.take(Tile::spare(stack.dim));
    }
};

template <int M, typename S>
void backward(const Backward<S>& a) {
    using T = Compute<S>;
    using Stack = AdalnStack<T, M>;
    using Gradients = StackGradients<T, M>;
    const StackParameters<T> given = {a.dim,         a.blocks,    a.embedding, a.mod_weight, a.mod_bias,
                                      a.norm_weight, a.norm_bias, a.fc_weight, a.fc_bias};
    const int64_t chunk_clips = clips_of_chunk(a.batch), chunks = a.batch ? (a.batch - 1) / chunk_clips + 1 : 1;
    const int64_t partial = numbers_of<Gradients, T>(given);
    Memory<T> memory{static_cast<T*>(workspace(size_t(numbers_of<Stack, T>(given) + chunks * partial) * sizeof(T)))};
    const Stack stack(given, memory);
    T* const partials = memory.take(chunks * partial);
    const Clips<S, M, Backward<S>> clips{a, stack};
    parallel_each(chunks, [&](int64_t chunk) {
        const auto own = in_scratch<BackwardBuffers<T, M>, T>(stack, chunk_clips);
        Memory<T> mine{partials + chunk * partial};
        clear(mine.base, partial);
        const Gradients grads(given, mine);
        const int64_t start = chunk * chunk_clips, end = start + chunk_clips < a.batch ? start + chunk_clips : a.batch;
        for (int64_t first = start; first < end; first += Stack::clips) {
            const int64_t count = end - first < Stack::clips ? end - first : Stack::clips;
            clips.load(a.h, first, count, own.h);
            clips.load(a.dout, first, count, own.dh);
            clips.load_modulation(first, count, own.active + (first - start) * stack.active_step, own.mod);
            stack.forward_keeping(own.mod, own.h, own.tile_step, own.sums, own.found);
            stack.backward(own.mod, own.h, own.tile_step, own.found, own.dh, grads,
                           own.dmod + (first - start) * stack.mod_step, own.spare);
            clips.store(own.dh, first, count, a.dh);
        }
        if (a.e) {
            const int64_t at = start * a.blocks * a.embedding;
            return stack.backward_modulation(a.e + at, own.active, own.dmod, end - start, a.de + at, grads);
        }
        for (int64_t row = 0; row < (end - start) * a.blocks * 3; ++row) {
            __builtin_memcpy(a.dmod + (start * a.blocks * 3 + row) * M, own.dmod + row * Stack::padded, M * sizeof(T));
        }
    });
    Memory<T> first{partials};
    Gradients(given, first).add_up(partial, chunks, a.dmod_weight, a.dmod_bias, a.dnorm_weight, a.dnorm_bias,
                                   a.dfc_weight, a.dfc_bias);
}

template <typename S>
void adaln_mlp_forward(const Forward<S>& a) {
    switch (a.frames) {
        case 8: return forward<8>(a);
        case 16: return forward<16>(a);
        case 32: return forward<32>(a);
        case 64: return forward<64>(a);
    }
}

template <typename S>
void adaln_mlp_backward(const Backward<S>& a) {
    switch (a.frames) {
        case 8: return backward<8>(a);
        case 16: return backward<16>(a);
        case 32: return backward<32>(a);
        case 64: return backward<64>(a);
    }
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("adaln_mlp_forward_f32", Forward, float, adaln_mlp_forward),
    HANDCRAFT_ENTRY("adaln_mlp_forward_f64", Forward, double, adaln_mlp_forward),
    HANDCRAFT_ENTRY("adaln_mlp_forward_bf16", Forward, bf16, adaln_mlp_forward),
    HANDCRAFT_ENTRY("adaln_mlp_forward_f16", Forward, f16, adaln_mlp_forward),
    HANDCRAFT_ENTRY("adaln_mlp_backward_f32", Backward, float, adaln_mlp_backward),
    HANDCRAFT_ENTRY("adaln_mlp_backward_f64", Backward, double, adaln_mlp_backward),
    HANDCRAFT_ENTRY("adaln_mlp_backward_bf16", Backward, bf16, adaln_mlp_backward),
    HANDCRAFT_ENTRY("adaln_mlp_backward_f16", Backward, f16, adaln_mlp_backward),
};

}  // namespace

extern const Entries adaln_mlp_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
