// cmlpe_generate: windows gathered and standardised, both twins with their noise, the two halves put together in the
// units of the data, a few clips at a time in cache. What a clip becomes does not depend on the clips around it.
#include "cmlpe_tile.h"
#include "entry.h"
#include "philox.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// Parameters of one generator; those of the reversed one may all be null.
#define TWIN_FIELDS(OPTIONAL, prefix)                                                                             \
    OPTIONAL(const Compute<T>, prefix##in_weight) OPTIONAL(const Compute<T>, prefix##in_bias)                     \
    OPTIONAL(const Compute<T>, prefix##class_embedding) OPTIONAL(const Compute<T>, prefix##mod_weight)            \
    OPTIONAL(const Compute<T>, prefix##mod_bias) OPTIONAL(const Compute<T>, prefix##norm_weight)                  \
    OPTIONAL(const Compute<T>, prefix##norm_bias) OPTIONAL(const Compute<T>, prefix##fc_weight)                   \
    OPTIONAL(const Compute<T>, prefix##fc_bias) OPTIONAL(const Compute<T>, prefix##out_weight)                    \
    OPTIONAL(const Compute<T>, prefix##out_bias)

// blocks and embedding are sizes of each twin; out is (B,W,D), or (B,M,D) without the reversed twin, of 2, 4 or 8 bytes
// a number: out_type 0 float, 1 double, 2 bf16, 3 f16.
#define GENERATE_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                                   \
    TWIN_FIELDS(OPTIONAL, forward_) TWIN_FIELDS(OPTIONAL, reverse_) POINTER(const Compute<T>, dct)                \
    POINTER(const T, context) POINTER(const int64_t, row) POINTER(const int64_t, label)                           \
    POINTER(const int64_t, clip_id) OPTIONAL(const Compute<T>, mean) OPTIONAL(const Compute<T>, std)              \
    POINTER(uint8_t, out) SIZE(out_type) SIZE(batch) SIZE(dim) SIZE(frames) SIZE(forward_blocks)                  \
    SIZE(forward_embedding) SIZE(reverse_blocks) SIZE(reverse_embedding) SIZE(seed) REAL(noise)
HANDCRAFT_ARGUMENTS(Generate, GENERATE_FIELDS)

constexpr uint64_t stream_forward = 0, stream_reversed = 1;  // kernels/philox.py

// One generator: its packed weights and its class embedding.
template <typename T, int M>
struct Twin {
    CmlpeTile<T, M> cmlpe;
    const T* class_embedding;
    uint64_t stream;
};

#define TWIN_PARAMETERS(a, prefix)                                                                                 \
    CmlpeParameters<T> {                                                                                           \
        {a.dim, a.prefix##blocks, a.prefix##embedding, a.prefix##mod_weight, a.prefix##mod_bias,                   \
         a.prefix##norm_weight, a.prefix##norm_bias, a.prefix##fc_weight, a.prefix##fc_bias},                      \
            a.dct, a.prefix##in_weight, a.prefix##in_bias, a.prefix##out_weight, a.prefix##out_bias                \
    }

template <typename T, int M>
struct Buffers {
    static constexpr int clips = CmlpeTile<T, M>::clips;
    CmlpeForward<T, M> of_forward, of_reversed;
    T* window;     // (clips, W, D) standardised, the second half flipped in time for the reversed twin
    T* e;          // (clips, K, E)
    float* noise;  // (K, E)
    T* predicted;  // (M, D)

    Buffers(const CmlpeTile<T, M>& forward, const CmlpeTile<T, M>& reversed, Memory<T>& memory)
        : of_forward(forward, memory), of_reversed(reversed, memory) {
        const int64_t one = forward.stack.blocks * forward.stack.embedding;
        const int64_t other = reversed.stack.blocks * reversed.stack.embedding, embedded = one < other ? other : one;
        window = memory.take(clips * 2 * M * forward.dim);
        e = memory.take(clips * embedded);
        noise = reinterpret_cast<float*>(memory.take(embedded));
        predicted = memory.take(M * forward.dim);
    }
};

template <typename S>
void standardise(const Generate<S>& a, const S* from, Compute<S>* to) {
    using T = Compute<S>;
    const auto one = [&](int64_t d, Vec<T> v, int n) __attribute__((always_inline)) {
        if (a.mean) v -= n == lanes<T> ? load<T>(a.mean + d) : load_first<T>(a.mean + d, n);
        if (a.std) v /= n == lanes<T> ? load<T>(a.std + d) : load_first<T>(a.std + d, n);
        return v != v ? Vec<T>{} : v;  // a missing landmark
    };
    int64_t d = 0;
    for (; d + lanes<T> <= a.dim; d += lanes<T>) store<T>(to + d, one(d, load_as_compute<S>(from + d), lanes<T>));
    if (d < a.dim) {
        const int n = int(a.dim - d);
        store_first<T>(to + d, one(d, load_first<S>(from + d, n), n), n);
    }
}

// A predicted frame in the units of the data, rounded once; `frame` counts from the first of `out`.
template <typename O, typename S>
void restore_as(const Generate<S>& a, const Compute<S>* from, int64_t frame) {
    using T = Compute<S>;
    O* const to = reinterpret_cast<O*>(a.out) + frame * a.dim;
    for (int64_t d = 0; d < a.dim; d += lanes<T>) {
        const int n = int(a.dim - d < lanes<T> ? a.dim - d : lanes<T>);
        Vec<T> v = load_first<T>(from + d, n);
        if (a.std) v *= load_first<T>(a.std + d, n);
        if (a.mean) v += load_first<T>(a.mean + d, n);
        if constexpr (same<Compute<O>, T>) {
            if (n == lanes<T>) {
                store_from_compute<O>(to + d, v);
            } else {
                store_first<O>(to + d, v, n);
            }
        } else {
            for (int i = 0; i < n; ++i) to[d + i] = from_compute<O>(Compute<O>(v[i]));
        }
    }
}

template <typename S>
void restore(const Generate<S>& a, const Compute<S>* from, int64_t frame) {
    switch (a.out_type) {
        case 0: return restore_as<float, S>(a, from, frame);
        case 1: return restore_as<double, S>(a, from, frame);
        case 2: return restore_as<bf16, S>(a, from, frame);
        default: return restore_as<f16, S>(a, from, frame);
    }
}

// One twin on `count` clips whose windows are there; `half` of each window is its context.
template <int M, typename S>
void run_twin(const Generate<S>& a, const Twin<Compute<S>, M>& twin, int64_t first, int64_t count, int half,
              const Buffers<Compute<S>, M>& own) {
    using T = Compute<S>;
    constexpr int clips = CmlpeTile<T, M>::clips;
    const int64_t blocks = twin.cmlpe.stack.blocks, size = twin.cmlpe.stack.embedding, window = 2 * M * a.dim;
    const T* x[clips];
    for (int64_t clip = 0; clip < count; ++clip) {
        x[clip] = own.window + clip * window + half * M * a.dim;
        T* const e = own.e + clip * blocks * size;
        const T* const of_class = twin.class_embedding + a.label[first + clip] * size;
        if (a.noise != 0) {
            philox_normals(uint64_t(a.seed), a.clip_id[first + clip], twin.stream, blocks, size, own.noise);
            for (int64_t k = 0; k < blocks; ++k) {
                for (int64_t i = 0; i < size; ++i) e[k * size + i] = of_class[i] + T(a.noise) * T(own.noise[k * size + i]);
            }
        } else {
            for (int64_t k = 0; k < blocks; ++k) __builtin_memcpy(e + k * size, of_class, size_t(size) * sizeof(T));
        }
    }
    const T* const tile = twin.cmlpe.forward(x, own.e, count, half ? own.of_reversed : own.of_forward);
    const bool both = a.reverse_in_weight != nullptr;
    const int64_t length = both ? 2 * M : M;
    for (int64_t clip = 0; clip < count; ++clip) {
        twin.cmlpe.store_frames(tile, clip, own.predicted);
        const int64_t start = (first + clip) * length;
        for (int64_t t = 0; t < M; ++t) {
            const int64_t at = half == 1 ? M - 1 - t : both ? M + t : t;
            restore<S>(a, own.predicted + t * a.dim, start + at);
        }
    }
}

template <int M, typename S>
void generate(const Generate<S>& a) {
    using T = Compute<S>;
    using Cmlpe = CmlpeTile<T, M>;
    const bool narrow = same<S, bf16> && has_bf16_instructions(), both = a.reverse_in_weight != nullptr;
    const CmlpeParameters<T> ahead = TWIN_PARAMETERS(a, forward_);
    const CmlpeParameters<T> back = both ? TWIN_PARAMETERS(a, reverse_) : ahead;
    const int64_t numbers = numbers_of<Cmlpe, T>(ahead, narrow, false) + numbers_of<Cmlpe, T>(back, narrow, false);
    Memory<T> memory{static_cast<T*>(workspace(size_t(numbers) * sizeof(T)))};
    const Twin<T, M> forward{Cmlpe(ahead, narrow, false, memory), a.forward_class_embedding, stream_forward};
    const Twin<T, M> reversed{both ? Cmlpe(back, narrow, false, memory) : forward.cmlpe, a.reverse_class_embedding,
                              stream_reversed};
    parallel_each((a.batch + Cmlpe::clips - 1) / Cmlpe::clips, [&](int64_t group) {
        const auto own = in_scratch<Buffers<T, M>, T>(forward.cmlpe, reversed.cmlpe);
        const int64_t first = group * Cmlpe::clips, left = a.batch - first;
        const int64_t count = left < Cmlpe::clips ? left : Cmlpe::clips;
        for (int64_t clip = 0; clip < count; ++clip) {
            const S* const from = a.context + a.row[first + clip] * 2 * M * a.dim;
            T* const to = own.window + clip * 2 * M * a.dim;
            for (int64_t t = 0; t < M; ++t) standardise<S>(a, from + t * a.dim, to + t * a.dim);
            for (int64_t t = 0; both && t < M; ++t) {
                standardise<S>(a, from + (M + t) * a.dim, to + (2 * M - 1 - t) * a.dim);
            }
        }
        run_twin<M, S>(a, forward, first, count, 0, own);
        if (both) run_twin<M, S>(a, reversed, first, count, 1, own);
    });
}

template <typename S>
void cmlpe_generate(const Generate<S>& a) {
    switch (a.frames) {
        case 8: return generate<8>(a);
        case 16: return generate<16>(a);
        case 32: return generate<32>(a);
        case 64: return generate<64>(a);
    }
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("cmlpe_generate_f32", Generate, float, cmlpe_generate),
    HANDCRAFT_ENTRY("cmlpe_generate_f64", Generate, double, cmlpe_generate),
    HANDCRAFT_ENTRY("cmlpe_generate_bf16", Generate, bf16, cmlpe_generate),
    HANDCRAFT_ENTRY("cmlpe_generate_f16", Generate, f16, cmlpe_generate),
};

}  // namespace

extern const Entries cmlpe_generate_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
